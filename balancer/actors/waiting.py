"""The tickets that wait, in the order in which they are served.

Tickets that ask for the same thing (pool, model, dialect, accounts to avoid) form a lane: while the first of a lane cannot be
placed, none behind it can be placed either, so a wake costs one look per lane and not per ticket. Inside a lane and among the
heads of the lanes the order is priority, then deadline, then arrival.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import attrs

from balancer.actors.messages import Ticket

Lane = tuple[str, str | None, str | None, frozenset[str]]
_Entry = tuple[float, float, int, Ticket]

_SLACK = 64
"""Answered tickets that may lie in the heaps before they are swept; beyond it as many as wait."""


def lane_of(ticket: Ticket) -> Lane:
    """What the ticket asks for."""
    return (ticket.pool, ticket.model, ticket.dialect, ticket.avoid)


@attrs.define(eq=False)
class WaitingTickets:
    """Tickets in their lanes. Withdrawn and answered ones are skipped when their turn comes, or swept."""

    _lanes: dict[Lane, list[_Entry]] = attrs.field(factory=dict[Lane, list[_Entry]], init=False)
    _ends: list[tuple[float, int, Ticket]] = attrs.field(factory=list[tuple[float, int, Ticket]], init=False)
    _arrivals: int = attrs.field(default=0, init=False)
    _stale: int = attrs.field(default=0, init=False)
    count: int = attrs.field(default=0, init=False)

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket."""
        self._arrivals += 1
        entry = (-ticket.call.priority, ticket.give_up_at, self._arrivals, ticket)
        heapq.heappush(self._lanes.setdefault(lane_of(ticket), []), entry)
        if ticket.give_up_at < ticket.deadline:  # at its deadline the caller's own cancel withdraws it
            heapq.heappush(self._ends, (ticket.give_up_at, self._arrivals, ticket))
        ticket.waiting = True
        self.count += 1

    def left(self, ticket: Ticket) -> None:
        """A ticket was answered or withdrawn."""
        if ticket.waiting:
            ticket.waiting = False
            self.count -= 1
            self._stale += 1
            if self._stale > self.count + _SLACK:
                self._sweep()

    def blocks(self, ticket: Ticket) -> bool:
        """Whether a ticket of the same lane waits already, so that this one has to queue behind it."""
        return self.count > 0 and self._head(lane_of(ticket)) is not None

    def heads(self) -> Iterator[Ticket]:
        """The first ticket of every lane, best first; after one has been answered, the next one of its lane.

        A lane whose head still waits when the next is asked for is left out of the rest of the round.
        """
        heads: list[tuple[_Entry, Lane]] = []
        for lane in list(self._lanes):
            if (entry := self._head(lane)) is not None:
                heads.append((entry, lane))
        heapq.heapify(heads)
        while heads:
            entry, lane = heapq.heappop(heads)
            yield entry[3]
            if not entry[3].waiting and (following := self._head(lane)) is not None:
                heapq.heappush(heads, (following, lane))

    def next_end(self) -> float:
        """When the patience of the first ticket ends; `inf` if none has an end of its own."""
        while self._ends and not self._ends[0][2].waiting:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf

    def ended(self, now: float) -> Iterator[Ticket]:
        """Tickets whose patience has ended. The taker answers each before it asks for the next."""
        while self.next_end() <= now:
            yield heapq.heappop(self._ends)[2]

    def all(self) -> list[Ticket]:
        """Every ticket that waits."""
        return [entry[3] for lane in self._lanes.values() for entry in lane if entry[3].waiting]

    def _head(self, lane: Lane) -> _Entry | None:
        entries = self._lanes.get(lane)
        if entries is None:
            return None
        while entries and not entries[0][3].waiting:
            heapq.heappop(entries)
        if not entries:
            del self._lanes[lane]
            return None
        return entries[0]

    def _sweep(self) -> None:
        self._stale = 0
        for lane in list(self._lanes):
            entries = [entry for entry in self._lanes[lane] if entry[3].waiting]
            heapq.heapify(entries)
            self._lanes[lane] = entries
            if not entries:
                del self._lanes[lane]
        self._ends = [end for end in self._ends if end[2].waiting]
        heapq.heapify(self._ends)
