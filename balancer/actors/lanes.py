"""A lane: the tickets that ask for the same thing, in order, and a walk along its front.

The order is priority, then the tenant that was served least, then the earlier end of patience, then arrival. A walk looks at the
first ticket and at no more than `LOOK_BEHIND` behind it, without taking any out; who demands as much as one that could not be
placed is passed by.
"""

from __future__ import annotations

import heapq
from operator import attrgetter, ge, le

import attrs

from balancer.actors.messages import Ticket
from balancer.core.call import Demand
from balancer.core.ordered import Ordered
from balancer.core.tenants import Tenant, amount_of

LOOK_BEHIND = 64
"""Tickets behind a blocked first one that are looked at, per lane and wake."""

LaneKey = tuple[str, str | None, str | None, frozenset[str]]
Amounts = tuple[int, ...]
Rank = tuple[int, float, float, int]
"""Less goes first: priority (negative), the tenant's counter, end of patience, number of arrival."""
Entry = tuple[float, int, Ticket]

amounts_of = attrgetter("input_tokens", "output_tokens", "requests", "output_bound", "images")
"""Everything of a demand that any quota counts: one that is at least another in each of these needs at least as much."""


def lane_of(ticket: Ticket) -> LaneKey:
    """What the ticket asks for."""
    return (ticket.pool, ticket.model, ticket.dialect, ticket.avoid)


@attrs.define(eq=False)
class Backlog:
    """The tickets of one tenant on one level, by end of patience, then arrival.

    `place` is its entry in the level's order; its number tells apart tenants that were served equally.
    """

    level: Level
    tenant: Tenant
    place: tuple[float, int, Backlog] = attrs.field(init=False)
    tickets: Ordered[Entry] = attrs.field(factory=Ordered[Entry], init=False)


@attrs.define(eq=False)
class Level:
    """The tickets of one priority in one lane."""

    lane: Lane
    priority: int
    order: Ordered[tuple[float, int, Backlog]] = attrs.field(factory=Ordered[tuple[float, int, Backlog]], init=False)
    backlogs: dict[Tenant, Backlog] = attrs.field(factory=dict[Tenant, Backlog], init=False)
    ends: Ordered[tuple[float, int]] = attrs.field(factory=Ordered[tuple[float, int]], init=False)
    most: Amounts = (0, 0, 0, 0, 0)
    """No ticket that has waited here since it was empty demands more of anything."""
    largest: float = 0.0
    """Nor counts for more in its tenant's share."""


@attrs.define(eq=False)
class Lane:
    """Tickets that ask for the same thing, and what the last look at them found.

    Attributes:
        key: what they ask for.
        blocked: demands that no account could take when they were looked at: who demands as much need not be looked at.
        held: demands that had better wait than take an account that could take them: who demands the same does, too.
        over: whether not even the least demand can be taken.
        cut: whether tickets were left out that might have been placed.
        seen_at: how many placements had been made when it was last known that an account could take the least demand.
    """

    key: LaneKey
    levels: dict[int, Level] = attrs.field(factory=dict[int, Level], init=False)
    blocked: list[Amounts] = attrs.field(factory=list[Amounts], init=False)
    held: set[Amounts] = attrs.field(factory=set[Amounts], init=False)
    over: bool = attrs.field(default=False, init=False)
    cut: bool = attrs.field(default=False, init=False)
    seen_at: int = attrs.field(default=-1, init=False)
    _least: Amounts | None = attrs.field(default=None, init=False)

    def first(self) -> Ticket:
        """The ticket that is to be served next."""
        place = self.levels[max(self.levels)].order.first()
        assert place is not None, "a level is there while it has tickets"
        entry = place[2].tickets.first()
        assert entry is not None, "a backlog too"
        return entry[2]

    @property
    def least(self) -> Demand:
        """No ticket demands less of anything than this."""
        assert self._least is not None, "a lane is made for a ticket"
        input_tokens, output_tokens, requests, _, _ = self._least
        return Demand(input_tokens, output_tokens, requests)

    def sure_blocked(self, demand: Demand) -> bool:
        """Whether the last look has shown that no account can take this demand, or that it had better wait."""
        amounts = amounts_of(demand)
        if amounts in self.held:
            return True
        for blocked in self.blocked:  # noqa: SIM110 - looked at for every ticket, and a generator costs as much again
            if all(map(ge, amounts, blocked)):
                return True
        return False

    def stays(self, ticket: Ticket) -> None:
        """This ticket was looked at and still waits."""
        if ticket.hold is None:
            self.block(ticket.call.demand)
        else:
            self.held.add(amounts_of(ticket.call.demand))

    def block(self, demand: Demand) -> None:
        """No account can take this demand, hence no larger one."""
        amounts = amounts_of(demand)
        if len(self.blocked) <= LOOK_BEHIND:
            self.blocked.append(amounts)
        if self._least is not None and all(map(le, amounts, self._least)):
            self.over = True

    def widen(self, amounts: Amounts) -> None:
        """A ticket with such a demand joins."""
        self._least = amounts if self._least is None else tuple(map(min, self._least, amounts))

    def begin(self) -> None:
        """It is looked at anew."""
        self.blocked, self.held, self.cut, self.over = [], set(), False, False


@attrs.define(eq=False)
class Walk:
    """One lane's tickets in the order in which they would be served: one that was looked at counts as if its tenant had been served
    with it, so that the next tenant's turn comes before that tenant's next ticket. Nothing is taken out of the queue."""

    lane: Lane
    _priorities: list[int] = attrs.field(init=False)
    _level: Level | None = attrs.field(default=None, init=False)
    _near: list[tuple[float, int, Backlog, Entry]] = attrs.field(factory=list[tuple[float, int, Backlog, Entry]], init=False)
    """Of every tenant whose turn has come on this level: its counter, and the next ticket to look at."""
    _met: set[Backlog] = attrs.field(factory=set[Backlog], init=False)
    _upcoming: tuple[float, int, Backlog] | None = attrs.field(default=None, init=False)
    _looked: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.lane.begin()
        self._priorities = sorted(self.lane.levels)

    def peek(self) -> tuple[Rank, Ticket] | None:
        """The ticket to be looked at next, as of now; `None` if no other is to be."""
        lane = self.lane
        while not lane.over:
            head = self._head()
            if head is None:
                return None
            if self._looked > LOOK_BEHIND:
                lane.cut = True
                return None
            if not lane.sure_blocked(head[1].call.demand):
                return head
            self.take(stays=True)
        return None

    def take(self, *, stays: bool) -> None:
        """Go on behind that ticket; `stays`: it was looked at, or need not be, and still waits."""
        counter, number, backlog, entry = heapq.heappop(self._near)
        if (following := backlog.tickets.after(entry)) is not None:
            counter += amount_of(entry[2].call.demand) / backlog.tenant.weight
            heapq.heappush(self._near, (counter, number, backlog, following))
        self._looked += stays

    def _head(self) -> tuple[Rank, Ticket] | None:
        near = self._near
        while True:
            self._meet()
            if near:
                counter, number, backlog, entry = near[0]
                if not entry[2].waiting:
                    heapq.heappop(near)
                    if (following := backlog.tickets.after(entry)) is not None:
                        heapq.heappush(near, (counter, number, backlog, following))
                elif counter < backlog.tenant.counter:  # served on another lane meanwhile
                    heapq.heapreplace(near, (backlog.tenant.counter, number, backlog, entry))
                else:
                    return (-backlog.level.priority, counter, entry[0], entry[1]), entry[2]
            elif self._priorities:
                self._level = self.lane.levels.get(self._priorities.pop())
                self._upcoming = None if self._level is None else self._level.order.first()
            else:
                return None

    def _meet(self) -> None:
        """Take up the tenants whose turn has come."""
        near, met, level = self._near, self._met, self._level
        upcoming = self._upcoming
        while level is not None and upcoming is not None and (upcoming[2] in met or not near or upcoming[:2] <= near[0][:2]):
            counter, number, backlog = upcoming
            if backlog not in met:  # else it was served meanwhile, and has moved on in the order
                met.add(backlog)
                if (first := backlog.tickets.first()) is not None:
                    heapq.heappush(near, (counter, number, backlog, first))
            upcoming = level.order.after(upcoming)
        self._upcoming = upcoming
