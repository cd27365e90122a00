"""What blocked tickets hold against those behind them: the first ticket of a lane that no account can take now claims the account
that could take it soonest. Others may still be placed there, or where a limit is shared with it, but only where that does not move
the claimed time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from balancer.actors.messages import Ticket
from balancer.actors.supervisor import Supervisor
from balancer.core.call import Demand
from balancer.core.line import Line

MOST = 8
"""Claims on one account or shared limit: those of the lanes that come first. Each further one would be asked at every placement
there."""
SAME = 1e-6
"""Seconds by which two equal times may differ: sums of floats are that inexact."""


@attrs.frozen(eq=False)
class Claim:
    """The ticket waits for the account, which could take it at trio time `at`."""

    ticket: Ticket
    supervisor: Supervisor
    at: float


@attrs.define(eq=False)
class Claims:
    """Claims on accounts, as of the last look at the queue. False when there are none."""

    _held: dict[Supervisor | Line, list[Claim]] = attrs.field(factory=dict[Supervisor | Line, list[Claim]], init=False)
    """By account, and by every limit which that shares and the ticket counts against."""
    _holders: set[Ticket] = attrs.field(factory=set[Ticket], init=False)

    def __bool__(self) -> bool:
        return bool(self._holders)

    def clear(self) -> None:
        """Drop them all."""
        self._held.clear()
        self._holders.clear()

    def add(self, ticket: Ticket, supervisor: Supervisor, at: float) -> None:
        """The ticket waits for this account, which could take it at trio time `at`."""
        held = self._held.setdefault(supervisor, [])
        if len(held) >= MOST:
            return
        claim = Claim(ticket, supervisor, at)
        held.append(claim)
        self._holders.add(ticket)
        if supervisor.shared:
            amounts = supervisor.amounts(ticket.model, supervisor.demand(ticket.call, ticket.model))
            for line in supervisor.shared:
                if amounts.get(line) and len(on_line := self._held.setdefault(line, [])) < MOST:
                    on_line.append(claim)

    def on(self, supervisor: Supervisor) -> bool:
        """Whether the account is claimed."""
        return supervisor in self._held

    def held_by(self, ticket: Ticket) -> bool:
        """Whether the ticket has one."""
        return ticket in self._holders

    def allow(self, supervisor: Supervisor, model: str | None, demand: Demand, now: float) -> bool:
        """Whether the account may take such a call now. The last free place of a limited concurrency is kept: nobody knows for how
        long an attempt would hold it."""
        if not supervisor.shared and supervisor not in self._held:
            return True
        before = supervisor.amounts(model, demand)
        for claim in self._against(supervisor, before):
            holder, claimed = claim.ticket, claim.supervisor
            if not holder.waiting:
                continue
            if claimed is supervisor:
                snapshot = supervisor.snapshot(now)
                if snapshot.concurrency is not None and snapshot.in_flight + 1 >= snapshot.concurrency:
                    return False
            wanted = claimed.demand(holder.call, holder.model)
            if claimed.earliest(holder.model, wanted, now, before) > claim.at + SAME:
                return False
        return True

    def ahead(self, supervisor: Supervisor, model: str | None, demand: Demand) -> list[Demand]:
        """What those take that have claims which such a call there may delay."""
        if not supervisor.shared and supervisor not in self._held:
            return []
        claims = [claim for claim in self._against(supervisor, supervisor.amounts(model, demand)) if claim.ticket.waiting]
        return [claim.supervisor.demand(claim.ticket.call, claim.ticket.model) for claim in claims]

    def _against(self, supervisor: Supervisor, amounts: Mapping[Line, float]) -> Iterator[Claim]:
        """Claims that an attempt there may delay which takes these units of its rates."""
        yield from self._held.get(supervisor, ())
        for line in supervisor.shared:
            if amounts.get(line):
                for claim in self._held.get(line, ()):
                    if claim.supervisor is not supervisor:
                        yield claim
