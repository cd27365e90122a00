"""What a ticket is told that no account can take, or not in time: why, account by account, of a few of them.

Tickets are refused by the hundred thousand at once: what is said of each does not grow with the pool.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from balancer.actors.messages import Ticket
from balancer.actors.supervisor import Supervisor
from balancer.core.decision import AVOIDED, OTHER_DIALECT
from balancer.core.setting import shown
from balancer.core.snapshot import COLD, FULL, PROBING
from balancer.core.tenants import Tenant
from balancer.errors import DeadlineUnreachable, NoAccount, Saturated

Tiers = Sequence[Sequence[Supervisor]]

EXPLAINED = 4
"""Accounts of which a refusal says why."""

BEHIND = "others go before the call"
_RUNNING = (FULL, COLD, PROBING)
"""What an account says that waits for attempts to end, not for time."""


def too_late(
    ticket: Ticket, accounts: Iterable[Supervisor], earliest: float, now: float, awaited: Supervisor | None = None
) -> DeadlineUnreachable:
    """The ticket's time is up before any account can take it.

    Args:
        ticket: what is refused.
        accounts: those it may use.
        earliest: trio time at which one could take it; not after `now` if nobody knows the time.
        now: trio time.
        awaited: then an account that it waits for.
    """
    retry_at = max(earliest, now)
    if now < earliest < math.inf:
        when = f"the earliest could in {earliest - now:.3f} s"
    elif awaited is not None and _why(awaited, ticket, now) in _RUNNING:
        when = "it waits for a running call to end"
    else:
        when = BEHIND
    message = f"no account can take the call before its time is up; {when}{_reasons(ticket, accounts, now)}"
    return DeadlineUnreachable(message, retry_at=retry_at)


def gives_way(ticket: Ticket, accounts: Iterable[Supervisor], earliest: float, now: float) -> DeadlineUnreachable:
    """The ticket has too little time left to be worth what it would cost those that wait beside it."""
    message = f"the call gives way to others that wait: {ticket.deadline - now:.3f} s are too few for it to end in time"
    return DeadlineUnreachable(message + _reasons(ticket, accounts, now), retry_at=max(earliest, now))


def full(
    ticket: Ticket, accounts: Iterable[Supervisor], waiting: int, tenant: Tenant | None, earliest: float, now: float
) -> Saturated:
    """So many others wait already: in all, or of the tenant."""
    whose = "" if tenant is None else f" of the tenant {shown(tenant.name)}"
    message = f"{waiting} calls{whose} wait already{_reasons(ticket, accounts, now)}"
    return Saturated(message, retry_at=max(earliest, now))


def no_account(ticket: Ticket, pools: Mapping[str, Tiers], now: float) -> NoAccount:
    """No account can ever take it; says why none can."""
    if ticket.pool not in pools:
        return NoAccount(f"there is no pool {ticket.pool!r}")
    supervisors = [supervisor for tier in pools[ticket.pool] for supervisor in tier]
    offered = {name for supervisor in supervisors for name in supervisor.account.models or ()}
    unlimited = any(supervisor.account.models is None for supervisor in supervisors)
    if ticket.model is not None and ticket.model not in offered and not unlimited:
        near = difflib.get_close_matches(ticket.model, offered, n=3, cutoff=0.5)
        hint = f"; near names: {', '.join(near)}" if near else ""
        message = f"no account of pool {ticket.pool!r} offers the model {ticket.model!r}{hint}"
        return NoAccount(message, unknown_model=True)
    if ticket.dialect is not None and not any(ticket.dialect in supervisor.dialects for supervisor in supervisors):
        return NoAccount(f"no account of pool {ticket.pool!r} speaks {ticket.dialect}")
    why = _reasons(ticket, supervisors, now, ever=True)
    return NoAccount(f"no account of pool {ticket.pool!r} can ever take the call{why}")


def _reasons(ticket: Ticket, accounts: Iterable[Supervisor], now: float, *, ever: bool = False) -> str:
    """Of the first few accounts why each cannot take it now, or `ever`."""
    first = list(islice(accounts, EXPLAINED + 1))
    told = [f"{supervisor.name}: {_why(supervisor, ticket, now, ever=ever) or BEHIND}" for supervisor in first[:EXPLAINED]]
    more = ["and others"] if len(first) > EXPLAINED else []
    return f" ({'; '.join(told + more)})" if told else ""


def _why(supervisor: Supervisor, ticket: Ticket, now: float, *, ever: bool = False) -> str:
    """Why the account cannot take it, its state before the reason for that; empty if it can."""
    model, snapshot = ticket.model, supervisor.snapshot(now)
    if supervisor.name in ticket.avoid:
        return AVOIDED
    if ticket.dialect is not None and ticket.dialect not in snapshot.dialects:
        return f"{OTHER_DIALECT} {ticket.dialect}"
    if ever:  # what ends by itself explains nothing
        lasting = tuple([pause for pause in snapshot.pauses if pause.until == math.inf])
        snapshot = snapshot._replace(concurrency=None, cold_limit=None, probing=False, ejected_until=-math.inf, pauses=lasting)
    why = snapshot.passed_over(model, supervisor.demand(ticket.call, model), now, cold=ticket.shows_limits)
    return f"{snapshot.state}, {why}" if why and why == snapshot.reason else why
