"""A lane: the tickets that ask for the same thing, in order, and a walk along its front.

The order is priority, then the tenant that was served least, then the earlier latest start, then arrival. A walk looks at the
first ticket and at no more than `LOOK_BEHIND` behind it, without taking any out; who demands as much as one that could not be
placed is passed by.
"""

from __future__ import annotations

import heapq
import math
from operator import ge, le

import attrs

from balancer.actors.messages import Ticket
from balancer.core.call import Call, Demand
from balancer.core.ordered import Ordered
from balancer.core.tenants import Tenant, amount_of

LOOK_BEHIND = 64
"""Tickets behind a blocked first one that are looked at, per lane and wake."""

LaneKey = tuple[str, str | None, str | None, frozenset[str]]
Amounts = tuple[int, ...]
Rank = tuple[int, float, float, float, int]
"""Less goes first: priority (negative), the tenant's counter, latest start, end of patience, number of arrival."""
Entry = tuple[float, float, int, Ticket]
Found = tuple[list[Amounts], set[Amounts]]
"""What a look at lanes that all accounts treat alike has found: `Lane.blocked` and `Lane.held`."""

OWN, UNBOUNDED, BOUNDED = range(3)
"""How what a call takes is known: its caller says it, or accounts learn it of such without or with a bound of their output."""


def amounts_of(call: Call) -> Amounts:
    """Everything of a call's demand that any quota counts, and how it is known: one that is at least another in each of these takes at
    least as much of any account, whatever that has learned. Where they are known in other ways neither is, hence that twice."""
    demand = call.demand
    known = OWN if not call.estimated else UNBOUNDED if demand.max_output_tokens is None else BOUNDED
    return demand.input_tokens, demand.output_tokens, demand.requests, demand.output_bound, demand.images, known, -known


def lane_of(ticket: Ticket) -> LaneKey:
    """What the ticket asks for."""
    return (ticket.pool, ticket.model, ticket.dialect, ticket.avoid)


@attrs.define(eq=False)
class Backlog:
    """The tickets of one tenant on one level, by latest start, end of patience, arrival.

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
    most: Amounts | None = None
    """No ticket that has waited here since it was empty demands more of anything."""
    least: Amounts | None = None
    """Nor less."""
    largest: float = 0.0
    """Nor counts for more in its tenant's share."""
    soonest: float = math.inf
    """Nor has an earlier deadline."""


@attrs.define(eq=False)
class Lane:
    """Tickets that ask for the same thing, and what the last look at them found.

    Attributes:
        key: what they ask for.
        count: how many wait.
        blocked: demands that no account could take when they were looked at: who demands as much need not be looked at.
        held: demands that had better wait than take an account that could take them: who demands the same does, too.
        over: whether not even the least demand can be taken.
        cut: whether tickets were left out that might have been placed.
        seen_at: how many placements had been made when it was last known that an account could take the least demand.
    """

    key: LaneKey
    count: int = attrs.field(default=0, init=False)
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
        return entry[3]

    @property
    def least(self) -> Demand | None:
        """No ticket demands less of anything than this; `None` where that of two is known in different ways."""
        assert self._least is not None, "a lane is made for a ticket"
        input_tokens, output_tokens, requests, bound, images, known, minus = self._least
        if known != -minus:
            return None
        return Demand(input_tokens, output_tokens, requests, images, None if known == UNBOUNDED else bound)

    def sure_blocked(self, call: Call) -> bool:
        """Whether the last look has shown that no account can take this call, or that it had better wait."""
        amounts = amounts_of(call)
        if amounts in self.held:
            return True
        for blocked in self.blocked:  # noqa: SIM110 - looked at for every ticket, and a generator costs as much again
            if all(map(ge, amounts, blocked)):
                return True
        return False

    def stays(self, ticket: Ticket) -> None:
        """This ticket was looked at and still waits."""
        amounts = amounts_of(ticket.call)
        if ticket.hold is None:
            self._block(amounts)
        else:
            self.held.add(amounts)

    def exhaust(self) -> None:
        """No account can take even the least demand."""
        assert self._least is not None, "a lane is made for a ticket"
        self._block(self._least)

    def _block(self, amounts: Amounts) -> None:
        """No account can take this, hence nothing larger."""
        if len(self.blocked) <= LOOK_BEHIND:
            self.blocked.append(amounts)
        if self._least is not None and all(map(le, amounts, self._least)):
            self.over = True

    def widen(self, amounts: Amounts) -> None:
        """A ticket with such a demand joins."""
        if amounts[-2] != OWN:  # what it takes depends on the model
            self.blocked, self.held = list(self.blocked), set(self.held)
        self._least = amounts if self._least is None else tuple(map(min, self._least, amounts))

    @property
    def own(self) -> bool:
        """Whether no ticket demands what accounts have learned of its model."""
        assert self._least is not None, "a lane is made for a ticket"
        return self._least[-1] == OWN

    def begin(self, found: Found) -> None:
        """It is looked at anew; what is found is written there."""
        (self.blocked, self.held), self.cut, self.over = found, False, False

    def check_least(self) -> None:
        """Another lane may have shown that not even the least demand can be taken."""
        least = self._least
        assert least is not None, "a lane is made for a ticket"
        self.over = any(all(map(le, blocked, least)) for blocked in self.blocked)


@attrs.define(eq=False)
class Walk:
    """One lane's tickets in the order in which they would be served: one that was looked at counts as if its tenant had been served
    with it, so that the next tenant's turn comes before that tenant's next ticket. Nothing is taken out of the queue."""

    lane: Lane
    found: Found
    _priorities: list[int] = attrs.field(init=False)
    _level: Level | None = attrs.field(default=None, init=False)
    _near: list[tuple[float, int, Backlog, Entry]] = attrs.field(factory=list[tuple[float, int, Backlog, Entry]], init=False)
    """Of every tenant whose turn has come on this level: its counter, and the next ticket to look at."""
    _met: set[Backlog] = attrs.field(factory=set[Backlog], init=False)
    _upcoming: tuple[float, int, Backlog] | None = attrs.field(default=None, init=False)
    _looked: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.lane.begin(self.found)
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
            if not lane.sure_blocked(head[1].call):
                return head
            if not self._looked:
                lane.check_least()
            self.take(stays=True)
        return None

    def take(self, *, stays: bool) -> None:
        """Go on behind that ticket; `stays`: it was looked at, or need not be, and still waits."""
        counter, number, backlog, entry = heapq.heappop(self._near)
        if (following := backlog.tickets.after(entry)) is not None:
            counter += amount_of(entry[3].call.demand) / backlog.tenant.weight
            heapq.heappush(self._near, (counter, number, backlog, following))
        self._looked += stays

    def _head(self) -> tuple[Rank, Ticket] | None:
        near = self._near
        while True:
            self._meet()
            if near:
                counter, number, backlog, entry = near[0]
                if not entry[3].waiting:
                    heapq.heappop(near)
                    if (following := backlog.tickets.after(entry)) is not None:
                        heapq.heappush(near, (counter, number, backlog, following))
                elif counter < backlog.tenant.counter:  # served on another lane meanwhile
                    heapq.heapreplace(near, (backlog.tenant.counter, number, backlog, entry))
                else:
                    return (-backlog.level.priority, counter, *entry[:3]), entry[3]
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
