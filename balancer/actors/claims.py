"""What blocked tickets hold against those behind them: the first ticket of a lane that no account can take now claims the account
that could take it soonest. Others may still be placed there, but only where that does not move the claimed time.
"""

from __future__ import annotations

import attrs

from balancer.actors.messages import Ticket
from balancer.actors.supervisor import Supervisor
from balancer.core.call import Demand

MOST = 8
"""Claims on one account: those of the lanes that come first. Each further one would be asked at every placement there."""
SAME = 1e-6
"""Seconds by which two equal times may differ: sums of floats are that inexact."""


@attrs.define(eq=False)
class Claims:
    """Claims on accounts, as of the last look at the queue. False when there are none."""

    _held: dict[Supervisor, list[tuple[Ticket, float]]] = attrs.field(
        factory=dict[Supervisor, list[tuple[Ticket, float]]], init=False
    )
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
        if len(held) < MOST:
            held.append((ticket, at))
            self._holders.add(ticket)

    def on(self, supervisor: Supervisor) -> bool:
        """Whether the account is claimed."""
        return supervisor in self._held

    def held_by(self, ticket: Ticket) -> bool:
        """Whether the ticket has one."""
        return ticket in self._holders

    def allow(self, supervisor: Supervisor, demand: Demand, now: float) -> bool:
        """Whether the account may take such a demand now. The last free place of a limited concurrency is kept: nobody knows for how
        long an attempt would hold it."""
        for holder, at in self._held.get(supervisor, ()):
            if not holder.waiting:
                continue
            snapshot = supervisor.snapshot(now)
            if snapshot.concurrency is not None and snapshot.in_flight + 1 >= snapshot.concurrency:
                return False
            wanted = supervisor.demand(holder.call, holder.model)
            if supervisor.earliest(holder.model, wanted, now, after=demand) > at + SAME:
                return False
        return True
