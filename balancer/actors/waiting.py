"""The tickets that wait, in their lanes.

Tickets that ask for the same thing (pool, model, dialect, accounts to avoid) form a lane; among lanes the order is that of their
first tickets. A wake costs as much with 100,000 waiting as with 100: every index here finds its entry by bisection, and nothing
that has left stays behind.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Container, Iterator
from operator import ge

import attrs

from balancer.actors.lanes import Backlog, Found, Lane, LaneKey, Level, Rank, Walk, amounts_of, lane_of
from balancer.actors.messages import Ticket
from balancer.core.call import Usage
from balancer.core.ordered import Ordered
from balancer.core.outcome import Outcome, Refusal
from balancer.core.tenants import Tenant, Tenants, amount_of


@attrs.frozen(eq=False)
class Share:
    """What one attempt counts for its tenant; corrected when it ends."""

    waiting: WaitingTickets
    tenant: Tenant
    amount: float

    def settle(self, outcome: Outcome, usage: Usage | None) -> None:
        """The attempt took this; without a usage as much as was demanded, and nothing if no backend has served it."""
        if isinstance(outcome, Refusal) or not getattr(outcome, "sent", True):
            self.waiting.serve_more(self.tenant, -self.amount)
        elif usage is not None:
            self.waiting.serve_more(self.tenant, amount_of(usage) - self.amount)


@attrs.define(eq=False)
class WaitingTickets:
    """Tickets in their lanes.

    Attributes:
        tenants: for whom they wait.
        count: how many wait.
    """

    tenants: Tenants = attrs.field(factory=Tenants)
    count: int = attrs.field(default=0, init=False)
    _lanes: dict[LaneKey, Lane] = attrs.field(factory=dict[LaneKey, Lane], init=False)
    _pools: dict[str, dict[Lane, None]] = attrs.field(factory=dict[str, dict[Lane, None]], init=False)
    _backlogs: dict[Tenant, dict[Backlog, None]] = attrs.field(factory=dict[Tenant, dict[Backlog, None]], init=False)
    _ends: Ordered[tuple[float, int, Ticket]] = attrs.field(factory=Ordered[tuple[float, int, Ticket]], init=False)
    _arrivals: int = attrs.field(default=0, init=False)

    # -- coming and going -------------------------------------------------------------------------------------------------

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket."""
        self._arrivals += 1
        call, entry = ticket.call, (ticket.latest_start_at, ticket.give_up_at, self._arrivals, ticket)
        key = lane_of(ticket)
        lane = self._lanes.get(key)
        level = None if lane is None else lane.levels.get(call.priority)
        tenant = self.tenants.enter(call.tenant, self._least(level))
        if lane is None:
            lane = self._lanes[key] = Lane(key)
            self._pools.setdefault(ticket.pool, {})[lane] = None
        if level is None:
            level = lane.levels[call.priority] = Level(lane, call.priority)
        backlog = level.backlogs.get(tenant)
        if backlog is None:
            backlog = level.backlogs[tenant] = Backlog(level, tenant)
            backlog.place = (tenant.counter, self._arrivals, backlog)
            level.order.add(backlog.place)
            self._backlogs.setdefault(tenant, {})[backlog] = None
        backlog.tickets.add(entry)
        level.ends.add(entry[1:3])
        amounts = amounts_of(call)
        level.most = tuple(map(max, level.most or amounts, amounts))
        level.least = tuple(map(min, level.least or amounts, amounts))
        level.largest = max(level.largest, amount_of(call.demand))
        level.soonest = min(level.soonest, ticket.deadline)
        lane.widen(amounts)
        lane.count += 1
        if ticket.give_up_at < ticket.deadline:  # at its deadline the caller's own cancel withdraws it
            self._ends.add(entry[1:])
        ticket.waiting, ticket.spot = True, (backlog, entry)
        self.count += 1

    def left(self, ticket: Ticket) -> None:
        """A ticket was answered or withdrawn."""
        if not ticket.waiting:
            return
        backlog, entry = ticket.spot
        ticket.waiting, ticket.spot = False, None
        level, lane, tenant = backlog.level, backlog.level.lane, backlog.tenant
        backlog.tickets.remove(entry)
        level.ends.remove(entry[1:3])
        lane.count -= 1
        if ticket.give_up_at < ticket.deadline:
            self._ends.remove(entry[1:])
        if not backlog.tickets:
            level.order.remove(backlog.place)
            del level.backlogs[tenant], self._backlogs[tenant][backlog]
            if not self._backlogs[tenant]:
                del self._backlogs[tenant]
            if not level.backlogs:
                del lane.levels[level.priority]
                if not lane.levels:
                    del self._lanes[lane.key], self._pools[ticket.pool][lane]
                    if not self._pools[ticket.pool]:
                        del self._pools[ticket.pool]
        self.tenants.leave(tenant)
        self.count -= 1
        if not self.count:
            self.tenants.forget()

    def is_first(self, ticket: Ticket) -> bool:
        """Whether this waiting ticket is the first of its lane."""
        return self._backlog(ticket).level.lane.first() is ticket

    def tenant(self, ticket: Ticket) -> Tenant:
        """For whom this waiting ticket is."""
        return self._backlog(ticket).tenant

    def stays(self, ticket: Ticket) -> None:
        """This waiting ticket was looked at, and could not be placed."""
        self._backlog(ticket).level.lane.stays(ticket)

    def lane_cut(self, ticket: Ticket) -> bool:
        """Whether tickets behind this one were left out of the last look."""
        return self._backlog(ticket).level.lane.cut

    def _backlog(self, ticket: Ticket) -> Backlog:
        backlog, _ = ticket.spot
        assert isinstance(backlog, Backlog), "it waits"
        return backlog

    # -- sharing ----------------------------------------------------------------------------------------------------------

    def serve(self, ticket: Ticket) -> Share:
        """While others wait, the ticket's tenant is served with what it demands."""
        name, amount = ticket.call.tenant, amount_of(ticket.call.demand)
        tenant = self.tenants.passing(name, self._least)
        self.serve_more(tenant, amount)
        return Share(self, tenant, amount)

    def serve_more(self, tenant: Tenant, amount: float) -> None:
        """The tenant was served so many tokens more than was known, or less."""
        tenant.counter += amount / tenant.weight
        for backlog in self._backlogs.get(tenant, ()):
            order = backlog.level.order
            order.remove(backlog.place)
            backlog.place = (tenant.counter, backlog.place[1], backlog)
            order.add(backlog.place)

    def _least(self, level: Level | None = None) -> float:
        """The least counter of the tenants that wait on this level; if none does, of all that wait."""
        levels = [level] if level is not None else [level for lane in self._lanes.values() for level in lane.levels.values()]
        firsts = [level.order.first() for level in levels]
        return min((first[0] for first in firsts if first is not None), default=0.0)

    # -- looking ----------------------------------------------------------------------------------------------------------

    def lane(self, ticket: Ticket) -> Lane | None:
        """Where tickets wait that ask for the same thing as this one, if any do."""
        return self._lanes.get(lane_of(ticket))

    def others(self, ticket: Ticket) -> Iterator[Ticket]:
        """The first ticket of every lane of its pool in which others than this one wait; of its own before the others'."""
        own = self.lane(ticket)
        if own is not None and own.count > ticket.waiting:
            yield own.first()
        for lane in self._pools.get(ticket.pool, ()):
            if lane is not own:
                yield lane.first()

    def round(self, names: Callable[[str], Container[str | None]] | None = None) -> Iterator[tuple[Lane, Ticket]]:
        """The tickets that may be placed now, best first. One that still waits when the next is asked for could not be placed:
        then those of its lane that demand as much are left out, and of the lanes that differ in a model only which nothing names.

        Args:
            names: pool -> the models that its accounts do not treat like all others; without it none are alike.
        """
        heads: list[tuple[Rank, int, Walk]] = []
        found: dict[LaneKey | tuple[str, str | None, frozenset[str]], Found] = {}
        named = {pool: names(pool) for pool, lanes in self._pools.items() if names is not None and len(lanes) > 1}
        for number, lane in enumerate(list(self._lanes.values())):
            pool, model, dialect, avoid = lane.key
            alike = model is not None and lane.own and pool in named and model not in named[pool]
            walk = Walk(lane, found.setdefault((pool, dialect, avoid) if alike else lane.key, ([], set())))
            if (head := walk.peek()) is not None:
                heads.append((head[0], number, walk))
        heapq.heapify(heads)
        while heads:
            rank, number, walk = heads[0]
            head = walk.peek()
            if head is None:
                heapq.heappop(heads)
            elif head[0] != rank:
                heapq.heapreplace(heads, (head[0], number, walk))
            elif (walk.lane.blocked or walk.lane.held) and not self._may_pass(head[1], walk.lane):
                walk.lane.cut = True
                walk.take(stays=True)
            else:
                ticket = head[1]
                yield walk.lane, ticket
                if ticket.waiting:
                    walk.lane.stays(ticket)
                walk.take(stays=ticket.waiting)

    def _may_pass(self, ticket: Ticket, lane: Lane) -> bool:
        """Whether a ticket may be placed before the blocked first one of its lane: its tenant may lead by one largest demand. So over
        any span in which two tenants wait, what they are served differs by no more than two."""
        first, backlog = self._backlog(lane.first()), self._backlog(ticket)
        if first.tenant is backlog.tenant or first.level is not backlog.level:
            return True
        served = backlog.tenant.counter + amount_of(ticket.call.demand) / backlog.tenant.weight
        return served <= first.tenant.counter + backlog.level.largest / max(first.tenant.weight, backlog.tenant.weight)

    def certainly_before(self, ticket: Ticket, late_for: float, *, held: bool) -> int:
        """How many tickets of its lane go before this one whatever happens, unless their callers withdraw them.

        Those are tickets that rank before it and wait as long, provided that none of them demands more of anything: whatever
        account could take this one could take any of those first. The call of a tenant that ranks elsewhere among the tenants of
        its level may be served before or after those of others, so of its own level only its own tenant's count: those of the same
        latest start and end. Who starts earlier and demands no more mostly ends earlier, too.

        Args:
            ticket: one of the tickets, or one that has come.
            late_for: seconds before its deadline in which a ticket may be refused, if they are less than half of what it had. Who may
                be refused so before this one's end does not count, unless this one would be, too.
            held: whether a ticket may be held back though an account could take it: then one that demands something else may go
                before it.
        """
        lane, priority = self.lane(ticket), ticket.call.priority
        start, end = ticket.latest_start_at, ticket.give_up_at
        if lane is None:
            return 0
        alike = end == ticket.deadline and late_for <= 0.5 * (end - ticket.came_at)
        amounts, before = amounts_of(ticket.call), 0
        for level in lane.levels.values():
            if level.priority < priority or level.most is None:
                continue
            if level.most == level.least == amounts if held else all(map(ge, amounts, level.most)):
                stay = level.soonest >= end + late_for
                if level.priority > priority:
                    before += level.ends.count_from((end if stay else end + late_for,))
                elif (stay or alike) and (tenant := self.tenants.known(ticket.call.tenant)) and tenant in level.backlogs:
                    tickets = level.backlogs[tenant].tickets
                    arrival = ticket.spot[1][2] if ticket.waiting else math.inf
                    before += tickets.count_from((start, end)) - tickets.count_from((start, end, arrival))
        return before

    def next_end(self) -> float:
        """When the patience of the first ticket ends; `inf` if none has an end of its own."""
        first = self._ends.first()
        return math.inf if first is None else first[0]

    def ended(self, now: float) -> Iterator[Ticket]:
        """Tickets whose patience has ended. The taker answers each before it asks for the next."""
        while (first := self._ends.first()) is not None and first[0] <= now:
            yield first[2]

    def all(self) -> list[Ticket]:
        """Every ticket that waits."""
        levels = [level for lane in self._lanes.values() for level in lane.levels.values()]
        return [entry[3] for level in levels for backlog in level.backlogs.values() for entry in backlog.tickets]
