"""The actor that places attempts: it consults a selector over the live states of the accounts.

Every placement goes through its mailbox, in order. A ticket is granted at once, or waits until an account can take it, or is
refused when waiting cannot help. It never polls: it wakes for its mailbox, and, only while tickets wait, at the earliest time at
which an account could take the first ticket of a lane.
"""

from __future__ import annotations

import difflib
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from balancer import logs
from balancer.actors.failures import Failures
from balancer.actors.lease import Lease
from balancer.actors.mailbox import Mailbox
from balancer.actors.messages import DOORBELL, Doorbell, Ticket
from balancer.actors.supervisor import Supervisor
from balancer.actors.waiting import WaitingTickets
from balancer.core.budget import Budget
from balancer.core.decision import Scan
from balancer.core.outcome import Withdrawn
from balancer.core.snapshot import AccountSnapshot
from balancer.errors import BalancerError, Closed, DeadlineUnreachable, NoAccount, Saturated
from balancer.selection import Selector

Tiers = Sequence[Sequence[Supervisor]]


class OthersOut(Exception):
    """Refusal of a ticket that avoids accounts: no other account can be expected to take it."""


class SelectorFailed(Exception):
    """The user's selector raised or chose a stranger; its cause says what."""


@attrs.define(eq=False)
class Dispatcher:
    """The placing actor.

    Args:
        pools: pool name -> its accounts, tier by tier. Replaced whole by `reconfigure`.
        selector: the choice among the accounts that can take a call.
        rng: for the selector.
        max_waiting: tickets that may wait.
        retries, hedges: the budgets of extra attempts.
    """

    selector: Selector
    rng: random.Random
    max_waiting: int
    retries: Budget
    hedges: Budget
    pools: Mapping[str, Tiers] = attrs.field(factory=dict[str, Tiers])
    failures: Failures = attrs.field(factory=Failures, init=False)
    _mailbox: Mailbox[Ticket | Doorbell] = attrs.field(factory=Mailbox[Ticket | Doorbell], init=False)
    _taken: deque[Ticket] = attrs.field(factory=deque[Ticket], init=False)
    _waiting: WaitingTickets = attrs.field(factory=WaitingTickets, init=False)
    _rung: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    @property
    def waiting(self) -> int:
        """Tickets that wait for an account."""
        return self._waiting.count

    @property
    def closed(self) -> bool:
        """Whether every ticket is refused from now on."""
        return self._closed

    # -- asked by calls and told by supervisors, synchronously ------------------------------------------------------------

    async def place(self, ticket: Ticket) -> Lease:
        """Place one attempt. Raises the refusal: `Saturated`, `DeadlineUnreachable`, `NoAccount`, `Closed`, `OthersOut`;
        for a `now_or_never` ticket `trio.WouldBlock`."""
        if self._closed:
            raise Closed("the balancer is closed", decision=ticket.decision)
        self._mailbox.post(ticket)
        return await ticket.wait_granted(self._waiting.left)

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

    def reconfigure(self, pools: Mapping[str, Tiers], selector: Selector, max_waiting: int) -> None:
        """Place by these from now on."""
        self.pools, self.selector, self.max_waiting = pools, selector, max_waiting
        self.ring()

    # -- the actor's own task ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled; a ticket that fails is refused, three failures in a minute end the actor loudly."""
        now = trio.current_time()
        while True:
            if self._waiting.count:
                # Looked at as of the decision: what has become possible since then is seen at once, not left to a bell.
                with trio.move_on_at(self._next_look(now)):
                    self._take(await self._mailbox.drain())
            else:
                self._take(await self._mailbox.drain())
            now = trio.current_time()
            self._rung = False
            if self._waiting.count:
                for ticket in self._waiting.heads():
                    self._guarded(self._decide, ticket, now)
                for ticket in self._waiting.ended(now):
                    self._guarded(self._end_patience, ticket, now)
            while self._taken:
                ticket = self._taken.popleft()
                if ticket.open:
                    self._guarded(self._decide, ticket, now)

    def _take(self, messages: Sequence[Ticket | Doorbell]) -> None:
        """Keep what came where `close` finds it, should the actor fail in the middle."""
        self._taken.extend(message for message in messages if isinstance(message, Ticket))

    def _next_look(self, now: float) -> float:
        """When time alone may let a waiting ticket be placed, or ends its patience. What was possible by `now` has been
        decided; a head that is not blocked by time waits for the doorbell."""
        at = self._waiting.next_end()

        def look(ticket: Ticket, now: float) -> None:
            nonlocal at
            earliest, _ = self._outlook(ticket, now)
            if earliest > now:
                at = min(at, earliest)

        for ticket in self._waiting.heads():
            self._guarded(look, ticket, now)
        return at

    def _guarded(self, step: Callable[[Ticket, float], None], ticket: Ticket, now: float) -> None:
        """Do something for one ticket; if that fails, the ticket fails and not the actor."""
        try:
            step(ticket, now)
        except SelectorFailed as failure:
            refusal = BalancerError("the selector failed")
            refusal.__cause__ = failure.__cause__
            self._refuse(ticket, refusal)
        except Exception as error:
            self._failed(ticket, error, now)

    def _end_patience(self, ticket: Ticket, now: float) -> None:
        self._refuse(ticket, self._too_late(self._outlook(ticket, now)[0], now))

    def _decide(self, ticket: Ticket, now: float) -> None:
        if self._closed:  # it was handed to this task before the closing, in the same pass
            self._refuse(ticket, Closed("the balancer is closing"))
            return
        behind = not ticket.waiting and self._waiting.blocks(ticket)
        lease = None if behind else self._try_place(ticket, now)
        if not ticket.open:  # the selector is user code: it may have cancelled the very call
            if lease is not None:
                lease.settle(Withdrawn(sent=False))
        elif lease is not None:
            self._waiting.left(ticket)
            ticket.grant(lease)
        elif ticket.now_or_never:
            self._refuse(ticket, trio.WouldBlock())
        else:
            earliest, hopeful = self._outlook(ticket, now)
            if ticket.avoid and not hopeful:
                self._refuse(ticket, OthersOut())
            elif earliest == math.inf:
                self._refuse(ticket, self._no_account(ticket))
            elif earliest > ticket.give_up_at or ticket.give_up_at <= now:
                self._refuse(ticket, self._too_late(earliest, now))
            elif not ticket.waiting:
                self._queue(ticket, now, earliest)

    def _queue(self, ticket: Ticket, now: float, earliest: float) -> None:
        if self._waiting.count >= self.max_waiting:
            self._refuse(ticket, Saturated(f"{self._waiting.count} calls wait already", retry_at=max(now, earliest)))
        else:
            self._waiting.add(ticket)

    def _too_late(self, earliest: float, now: float) -> DeadlineUnreachable:
        retry_at = max(earliest, now)
        message = f"no account can take the call before its time is up; the earliest could in {retry_at - now:.3f} s"
        return DeadlineUnreachable(message, retry_at=retry_at)

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        self._waiting.left(ticket)
        if isinstance(error, BalancerError):
            error.decision = ticket.decision
        if ticket.open:
            ticket.refuse(error)

    def _failed(self, ticket: Ticket, error: Exception, now: float) -> None:
        logs.error("balancer.dispatcher_failed", failure=error)
        refusal = BalancerError("the call could not be placed")
        refusal.__cause__ = error
        self._refuse(ticket, refusal)
        if self.failures.too_many(now):
            raise BalancerError("the dispatcher failed three times in a minute") from error

    # -- placing ----------------------------------------------------------------------------------------------------------

    def _try_place(self, ticket: Ticket, now: float) -> Lease | None:
        """Ask the accounts tier by tier; a tier is used when none before it can take the call now."""
        demand, model, avoid, dialect = ticket.call.demand, ticket.model, ticket.avoid, ticket.dialect
        cold = dialect is not None
        scanned: list[tuple[AccountSnapshot, ...]] = []
        for tier in self._tiers(ticket):
            able: dict[AccountSnapshot, Supervisor] = {}
            snapshots: list[AccountSnapshot] = []
            for supervisor in tier:
                snapshot = supervisor.snapshot(now)
                snapshots.append(snapshot)
                if (
                    not snapshot.passed_over(model, demand, now, cold)
                    and snapshot.name not in avoid
                    and (dialect is None or dialect in snapshot.dialects)
                ):
                    able[snapshot] = supervisor
            scanned.append(tuple(snapshots))
            while able:
                chosen = self._choose(list(able), ticket, now)
                scan = Scan(tuple(scanned), model, demand, now, cold, avoid, dialect, chosen.name)
                lease = able.pop(chosen).try_lease(ticket, now, scan)
                if lease is not None:
                    ticket.decision.attempts = (*ticket.decision.attempts, lease.record)
                    return lease
        return None

    def _choose(self, candidates: list[AccountSnapshot], ticket: Ticket, now: float) -> AccountSnapshot:
        choices = [snapshot for snapshot in candidates if snapshot.ejected_until == -math.inf and snapshot.weight > 0.0]
        if len(choices) < len(candidates):
            healthy = [snapshot for snapshot in candidates if not snapshot.probe_due(now)]
            # A probe is an ordinary call with failover behind it; if none ever went first, a slow account would never return.
            covered = ticket.call.replayable and not ticket.now_or_never
            if len(healthy) < len(candidates) and (covered or not healthy):
                return next(snapshot for snapshot in candidates if snapshot.probe_due(now))
            choices = choices or healthy
        try:
            chosen = self.selector(choices, ticket.call.demand, now, self.rng)
            if id(chosen) not in map(id, choices):
                raise ValueError("the selector chose an account that was not among its candidates")
        except Exception as error:
            raise SelectorFailed from error
        return chosen

    def _outlook(self, ticket: Ticket, now: float) -> tuple[float, bool]:
        """The earliest time at which an account could take the ticket (`inf`: never), and whether one that it does not
        avoid is in a state to be hoped for: not ejected and not disabled."""
        earliest, hopeful = math.inf, False
        for tier in self._tiers(ticket):
            for supervisor in tier:
                if supervisor.name in ticket.avoid or (
                    ticket.dialect is not None and ticket.dialect not in supervisor.dialects
                ):
                    continue
                at = supervisor.earliest(ticket.model, ticket.call.demand, now)
                earliest = min(earliest, at)
                hopeful = hopeful or (at < math.inf and supervisor.snapshot(now).ejected_until <= now)
        return earliest, hopeful

    def _tiers(self, ticket: Ticket) -> Tiers:
        """The ticket's pool: a router may name one that there is not, or that a new configuration no longer has."""
        return self.pools.get(ticket.pool, ())

    def _no_account(self, ticket: Ticket) -> NoAccount:
        if ticket.pool not in self.pools:
            return NoAccount(f"there is no pool {ticket.pool!r}")
        supervisors = [supervisor for tier in self._tiers(ticket) for supervisor in tier]
        offered = {name for supervisor in supervisors for name in supervisor.account.models or ()}
        unlimited = any(supervisor.account.models is None for supervisor in supervisors)
        if ticket.model is not None and ticket.model not in offered and not unlimited:
            near = difflib.get_close_matches(ticket.model, offered, n=3, cutoff=0.5)
            hint = f"; near names: {', '.join(near)}" if near else ""
            message = f"no account of pool {ticket.pool!r} offers the model {ticket.model!r}{hint}"
            return NoAccount(message, unknown_model=True)
        if ticket.dialect is not None and not any(ticket.dialect in supervisor.dialects for supervisor in supervisors):
            return NoAccount(f"no account of pool {ticket.pool!r} speaks {ticket.dialect}")
        now = trio.current_time()
        why = "; ".join(f"{supervisor.name}: {self._why(supervisor, ticket, now)}" for supervisor in supervisors)
        return NoAccount(f"no account of pool {ticket.pool!r} can ever take the call ({why})")

    def _why(self, supervisor: Supervisor, ticket: Ticket, now: float) -> str:
        if supervisor.name in ticket.avoid:
            return "faulted this call"
        return supervisor.snapshot(now).passed_over(ticket.model, ticket.call.demand, now, cold=False) or "available"
