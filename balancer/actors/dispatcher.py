"""The actor that places attempts: it consults a selector over the live states of the accounts.

Every placement goes through its mailbox, in order. A ticket is granted at once, or waits until an account can take it, or is
refused when waiting cannot help. The first ticket of a lane that no account can take claims one, and those behind it may go where
that delays nothing. It never polls: it wakes for its mailbox, and, only while tickets wait, at the earliest time at which an
account could take a ticket that it has looked at.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import trio

from balancer import logs
from balancer.actors.claims import Claims
from balancer.actors.failures import Failures
from balancer.actors.forecast import most_requests, time_for
from balancer.actors.lanes import Lane
from balancer.actors.lease import Lease
from balancer.actors.mailbox import Mailbox
from balancer.actors.messages import DOORBELL, Doorbell, Ticket
from balancer.actors.placing import Hold, Outlook, Placer, SelectorFailed
from balancer.actors.ranking import latest_start
from balancer.actors.refusals import Tiers, full, gives_way, no_account, too_late
from balancer.actors.waiting import WaitingTickets
from balancer.core.budget import Budget
from balancer.core.outcome import Withdrawn
from balancer.core.tenants import Tenant, Tenants, TenantSettings
from balancer.errors import BalancerError, Closed
from balancer.selection import Selector


class OthersOut(Exception):
    """Refusal of a ticket that avoids accounts: no other account can be expected to take it."""


@attrs.define(eq=False)
class Dispatcher:
    """The placing actor.

    Args:
        placer: knows the accounts.
        max_waiting: tickets that may wait.
        retries, hedges: the budgets of extra attempts.
        tenants: for whom tickets wait.
    """

    placer: Placer
    max_waiting: int
    retries: Budget
    hedges: Budget
    tenants: Tenants = attrs.field(factory=Tenants)
    failures: Failures = attrs.field(factory=Failures, init=False)
    _mailbox: Mailbox[Ticket | Doorbell] = attrs.field(factory=Mailbox[Ticket | Doorbell], init=False)
    _taken: deque[Ticket] = attrs.field(factory=deque[Ticket], init=False)
    _waiting: WaitingTickets = attrs.field(init=False)
    _claims: Claims = attrs.field(factory=Claims, init=False)
    _look_at: float = attrs.field(default=math.inf, init=False)
    """When time alone may let a ticket be placed that could not be when it was looked at."""
    _placed: int = attrs.field(default=0, init=False)
    """Placements while others waited."""
    _holding: set[str] = attrs.field(factory=set[str], init=False)
    """Pools in which a ticket waits that an account could take: alone it may go."""
    _rung: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._waiting = WaitingTickets(self.tenants)

    @property
    def waiting(self) -> int:
        """Tickets that wait for an account."""
        return self._waiting.count

    @property
    def closed(self) -> bool:
        """Whether every ticket is refused from now on."""
        return self._closed

    # -- asked by calls and told by supervisors, synchronously ------------------------------------------------------------

    def place(self, ticket: Ticket) -> Awaitable[Lease]:
        """Place one attempt; to be awaited at once. Raises the refusal: `Saturated`, `DeadlineUnreachable`, `NoAccount`, `Closed`,
        `OthersOut`; for a `now_or_never` ticket `trio.WouldBlock`."""
        if self._closed:
            raise Closed("the balancer is closed", decision=ticket.decision)
        self._mailbox.post(ticket)
        return ticket.wait_granted(self._leave)

    def ring(self) -> None:
        """The doorbell: capacity may have come back. One at a time, and only while tickets wait."""
        if not self._rung and self._waiting.count:
            self._rung = True
            self._mailbox.post(DOORBELL)

    def close(self) -> None:
        """Refuse every ticket from now on, those that wait included."""
        self._closed = True
        self._take(self._mailbox.take())
        for ticket in [*self._waiting.all(), *self._taken]:
            self._refuse(ticket, Closed("the balancer is closing"))

    def reconfigure(
        self,
        pools: Mapping[str, Tiers],
        selector: Selector,
        max_waiting: int,
        tenants: Sequence[TenantSettings] = (),
        max_waiting_per_tenant: int | None = None,
    ) -> None:
        """Place by these from now on."""
        self.placer.use(pools, trio.current_time())
        self.placer.selector, self.max_waiting = selector, max_waiting
        self.tenants.configure(tenants, max_waiting_per_tenant)
        self.ring()

    # -- the actor's own task ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled; a ticket that fails is refused, three failures in a minute end the actor loudly."""
        while True:
            if self._waiting.count:
                # As of the last decision: what has become possible since then is seen at once, not left to a bell.
                with trio.move_on_at(min(self._look_at, self._waiting.next_end())):
                    self._take(await self._mailbox.drain())
            else:
                self._take(await self._mailbox.drain())
            now = trio.current_time()
            if self.placer.learns:
                for ticket in self._taken:
                    self._guarded(self.placer.learn, ticket, now)
            due, self._rung = self._rung or self._look_at <= now, False
            if self._waiting.count:
                if due:
                    self._round(now)
                for ticket in self._waiting.ended(now):
                    self._guarded(self._end_patience, ticket, now)
            while self._taken:
                ticket = self._taken.popleft()
                if ticket.open:
                    self._guarded(self._decide, ticket, now)

    def _take(self, messages: Sequence[Ticket | Doorbell]) -> None:
        """Keep what came where `close` finds it, should the actor fail in the middle."""
        self._taken.extend([message for message in messages if isinstance(message, Ticket)])

    def _round(self, now: float) -> None:
        """Look at those that wait, best first, together with those that have just come."""
        come = [ticket for ticket in self._taken if ticket.open and not ticket.now_or_never]
        for ticket in come:
            self._guarded(self._queue, ticket, now)
        self._claims.clear()
        self._holding.clear()
        self._look_at = math.inf
        looked_at: set[Ticket] = set()
        for lane, ticket in self._waiting.round(lambda pool: self.placer.names(pool, now)):
            self._guarded(self._look, ticket, now, lane)
            looked_at.add(ticket)
        for ticket in reversed(come):  # who came first stays, if not all can
            self._guarded(self._no_room if ticket in looked_at else self._admit, ticket, now)
        if come:
            self._taken = deque(ticket for ticket in self._taken if ticket.now_or_never)

    def _guarded(self, step: Callable[..., object], ticket: Ticket, *more: object) -> None:
        """Do something for one ticket; if that fails, the ticket fails and not the actor."""
        try:
            step(ticket, *more)
        except SelectorFailed as failure:
            refusal = BalancerError("the selector failed")
            refusal.__cause__ = failure.__cause__
            self._refuse(ticket, refusal)
        except Exception as error:
            self._failed(ticket, error)

    def _end_patience(self, ticket: Ticket, now: float) -> None:
        outlook = self.placer.outlook(ticket, now)
        self._refuse(ticket, too_late(ticket, self.placer.accounts(ticket), outlook.earliest, now, outlook.awaited))

    def _decide(self, ticket: Ticket, now: float) -> None:
        """A ticket has come, and nothing has changed for those that wait."""
        lane = self._waiting.lane(ticket) if self._waiting.count else None
        behind = lane is not None and (ticket.now_or_never or lane.cut or lane.sure_blocked(ticket.call))
        if (not behind and self._place_now(ticket, now)) or not ticket.open:
            return
        if ticket.now_or_never:
            self._refuse(ticket, trio.WouldBlock())
            return
        if not self._waiting.count:
            self._claims.clear()
            self._look_at = math.inf
        self._queue(ticket, now)
        outlook = self._admit(ticket, now)
        if outlook is None:
            return
        if not behind:
            self._waiting.stays(ticket)
        if not self._waiting.is_first(ticket):
            return
        if lane is None and not self._claims:
            self._claim(ticket, outlook)
        else:  # it ranks before others: what was decided by their claims, or for them, may be wrong
            self.ring()

    def _look(self, ticket: Ticket, now: float, lane: Lane) -> None:
        """A waiting ticket's turn has come."""
        ticket.hold = None
        if self._ends_too_late(ticket, now):
            earliest = self.placer.outlook(ticket, now).earliest
            self._refuse(ticket, gives_way(ticket, self.placer.accounts(ticket), earliest, now))
            return
        first = not lane.blocked
        if first and (self._place_now(ticket, now) or not ticket.open):
            return
        outlook = self.placer.outlook(ticket, now)
        if not first and outlook.awaited is not None and (self._place_now(ticket, now) or not ticket.open):
            return
        if self._hopeless(ticket, outlook, now):
            return
        self._look_at = min(self._look_at, outlook.look_at)
        if first or ticket.hold is not None:
            self._claim(ticket, outlook)
        if first or lane.seen_at != self._placed:
            lane.seen_at = self._placed
            if (least := lane.least) is not None and (room_at := self.placer.room_at(ticket, least, self._claims, now)) > now:
                lane.exhaust()
                self._look_at = min(self._look_at, room_at)

    def _ends_too_late(self, ticket: Ticket, now: float) -> bool:
        """Whether a ticket has most likely too little time left, and not because its caller gave it no more, while others wait: it would
        be placed at their cost. In the order of deadlines an overloaded queue else places every call just before its own."""
        left = ticket.deadline - now
        if left >= 0.5 * (ticket.deadline - ticket.came_at):
            return False
        return left < self.placer.needed_for(ticket, now) and self._crowded(ticket)

    def _crowded(self, ticket: Ticket) -> bool:
        """Whether another ticket of its pool waits that an account of this one's could serve."""
        return any(self.placer.compete(ticket, other) for other in self._waiting.others(ticket))

    def _queue(self, ticket: Ticket, now: float) -> None:
        """It begins to wait."""
        ticket.came_at, ticket.latest_start_at = now, latest_start(ticket, self.placer.accounts(ticket), self._claims, now)
        self._waiting.add(ticket)

    def _place_now(self, ticket: Ticket, now: float) -> bool:
        if self._waiting.count:
            lease = self.placer.try_place(ticket, self._claims, now, self._crowded(ticket))
        else:
            lease = self.placer.try_place(ticket, None, now)
        ticket.hold = None
        if lease is None:
            return False
        if isinstance(lease, Hold):
            ticket.hold = lease
            self._holding.add(ticket.pool)
            return False
        if not ticket.open:  # the selector is user code: it may have cancelled the very call
            lease.settle(Withdrawn(sent=False))
            return False
        if self._waiting.count:
            self._placed += 1
            lease.share = self._waiting.serve(ticket)
            self._left(ticket)
        ticket.grant(lease)
        return True

    def _admit(self, ticket: Ticket, now: float) -> Outlook | None:
        """A ticket has joined the queue: refuse it if waiting cannot help, or if too many wait."""
        if not ticket.waiting:
            return None
        outlook = self.placer.outlook(ticket, now)
        if self._hopeless(ticket, outlook, now) or self._no_room(ticket, now):
            return None
        self._look_at = min(self._look_at, outlook.look_at)
        return outlook

    def _no_room(self, ticket: Ticket, now: float) -> bool:
        """Refuses a ticket that has joined the queue if those before it make it too late, or if too many wait."""
        if not ticket.waiting:
            return True
        waiting, tenant = self._waiting, self._waiting.tenant(ticket)
        if (retry_at := self._certainly_at(ticket, now)) > ticket.give_up_at:
            self._refuse(ticket, too_late(ticket, self.placer.accounts(ticket), retry_at, now))
        elif waiting.count > self.max_waiting:
            self._refuse_full(ticket, waiting.count - 1, None, now)
        elif tenant.waiting > tenant.max_waiting:
            self._refuse_full(ticket, tenant.waiting - 1, tenant, now)
        return not ticket.waiting

    def _refuse_full(self, ticket: Ticket, waiting: int, tenant: Tenant | None, now: float) -> None:
        earliest = self.placer.outlook(ticket, now).earliest
        self._refuse(ticket, full(ticket, self.placer.accounts(ticket), waiting, tenant, earliest, now))

    def _certainly_at(self, ticket: Ticket, now: float) -> float:
        """Trio time before which no account can take it, whatever happens while latencies stay as they are, since others go before it;
        `-inf` if none do for certain."""
        if ticket.give_up_at == math.inf:
            return -math.inf
        late_for, held = self.placer.needed_for(ticket, now), self.placer.may_hold(ticket)
        before = self._waiting.certainly_before(ticket, late_for, held=held)
        if not before:
            return -math.inf
        accounts = [supervisor.snapshot(now) for supervisor in self.placer.accounts(ticket)]
        needed = before + ticket.call.demand.requests
        if most_requests(accounts, ticket.model, now, ticket.give_up_at) >= needed:
            return -math.inf
        return time_for(accounts, ticket.model, now, needed, ticket.give_up_at)

    def _hopeless(self, ticket: Ticket, outlook: Outlook, now: float) -> bool:
        """Refuses a ticket that waiting cannot help."""
        if ticket.avoid and not outlook.hopeful:
            self._refuse(ticket, OthersOut())
        elif outlook.earliest == math.inf:
            self._refuse(ticket, no_account(ticket, self.placer.pools, now))
        elif outlook.earliest > ticket.give_up_at or ticket.give_up_at <= now:
            retry_at = outlook.earliest
            if ticket.came_at == now:  # of those that have waited very many may be refused at once
                retry_at = max(retry_at, self._certainly_at(ticket, now))
            self._refuse(ticket, too_late(ticket, self.placer.accounts(ticket), retry_at, now, outlook.awaited))
        else:
            return False
        return True

    def _claim(self, ticket: Ticket, outlook: Outlook) -> None:
        """Keep those behind a blocked ticket from delaying it. When an awaited attempt ends nobody knows: then by time, too."""
        if (hold := ticket.hold) is not None:
            self._look_at = min(self._look_at, hold.at)
            if not self._claims.on(hold.supervisor):
                self._claims.add(ticket, hold.supervisor, hold.at)
            return
        awaited, model, now = outlook.awaited, ticket.model, outlook.earliest
        if awaited is not None and self._claims.allow(awaited, model, awaited.demand(ticket.call, model), now):
            self._claims.add(ticket, awaited, now)
        if outlook.refilled is not None:
            self._claims.add(ticket, outlook.refilled, outlook.refilled_at)

    def _leave(self, ticket: Ticket) -> None:
        """A ticket is answered or withdrawn; whom it held up may go."""
        if ticket.waiting:
            held_up = self._claims.held_by(ticket) or self._waiting.lane_cut(ticket)
            self._left(ticket)
            if held_up:
                self.ring()

    def _left(self, ticket: Ticket) -> None:
        """It waits no longer: one that is held back in its pool may be alone now."""
        if ticket.waiting:
            self._waiting.left(ticket)
            lane = self._waiting.lane(ticket)
            if ticket.pool in self._holding and (lane is None or lane.count == 1):
                self.ring()

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        self._leave(ticket)
        if isinstance(error, BalancerError):
            error.decision = ticket.decision
        if ticket.open:
            ticket.refuse(error)

    def _failed(self, ticket: Ticket, error: Exception) -> None:
        logs.error("balancer.dispatcher_failed", failure=error)
        refusal = BalancerError("the call could not be placed")
        refusal.__cause__ = error
        self._refuse(ticket, refusal)
        if self.failures.too_many(trio.current_time()):
            raise BalancerError("the dispatcher failed three times in a minute") from error
