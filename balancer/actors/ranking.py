"""By when a ticket's turn has to come, inside its tenant: its latest start.

By the earliest end of patience alone a large demand comes to be the first of a busy queue when no time is left to gather its room,
so small ones that keep coming starve it. Of equal demands that find the same rates short the earliest end goes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from balancer.actors.claims import Claims
from balancer.actors.messages import Ticket
from balancer.actors.supervisor import Supervisor
from balancer.core.call import Demand
from balancer.core.limits import DAY
from balancer.core.snapshot import AccountSnapshot

GATHERINGS = 2.0
"""How many times what it takes to gather its room a ticket's latest start lies before its end: once for that room, and once for what
has just gone before it. With less, one that demands twice as much as the others still comes too late every other time."""

PATIENCE = 60.0
"""Seconds after which the turn of a ticket comes that waits for ever: the end of patience that calls have by default. Behind all that
have an end it would starve while those keep coming. It never comes too late, so that it needs no time before for its room."""


def latest_start(ticket: Ticket, accounts: Iterable[Supervisor], claims: Claims, now: float) -> float:
    """Trio time by which the turn of a ticket that comes now has to come, for an account to take it before its patience ends.

    Args:
        ticket: what has come.
        accounts: those it may use.
        claims: those of tickets before it.
        now: trio time.
    """
    if ticket.give_up_at == math.inf:
        return now + PATIENCE
    shortest, model = math.inf, ticket.model
    for supervisor in accounts:
        snapshot, demand = supervisor.snapshot(now), supervisor.demand(ticket.call, model)
        if snapshot.ever_takes(model, demand):
            ahead = claims.ahead(supervisor, model, demand)
            shortest = min(shortest, _gathered_for(snapshot, ticket, demand, ahead, now))
    return ticket.give_up_at - (GATHERINGS * shortest if shortest < math.inf else 0.0)


def _gathered_for(account: AccountSnapshot, ticket: Ticket, demand: Demand, ahead: Sequence[Demand], now: float) -> float:
    """Seconds for which the room for a demand flows in where none is left, at most the period of a rate.

    Those rates count that have too little now for the demand beside what is `ahead` of it. If none has and the account takes it all
    the same not, all count but those of days and months: which are short when it takes calls again nobody knows.
    """
    model = ticket.model
    short: list[float] = []
    others: list[float] = []
    for view in account.dimensions:
        amount = getattr(demand, view.dimension)
        if amount and view.covers(model):
            # Of requests every call takes one: no small ones go before it for that.
            share = (amount - (view.dimension == "requests")) / view.limit
            gathered_for = min(1.0, share) * view.period
            if amount + sum([getattr(other, view.dimension) for other in ahead]) > view.room(now):
                short.append(gathered_for)
            elif view.period < DAY:
                others.append(gathered_for)
    if not short and account.passed_over(model, demand, now, ticket.shows_limits):
        short = others
    return max(short, default=0.0)
