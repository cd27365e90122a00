"""The actor that owns one account: its state has this one writer and is read through frozen snapshots.

What is decided at once is a method without `await` (nothing runs between two awaits but finalizers, and those only post). The
actor's task does what takes time: it sleeps until the earliest thing that time alone changes (an idle connection's expiry, an
abandoned body) and takes new settings from its mailbox.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from balancer import logs
from balancer.actors.failures import Failures
from balancer.actors.lease import Lease
from balancer.actors.mailbox import Mailbox
from balancer.actors.messages import Reconfigure, Ticket
from balancer.core.account import AccountState
from balancer.core.call import Call, Demand
from balancer.core.decision import AttemptRecord, Scan
from balancer.core.health import HealthSettings
from balancer.core.limits import NO_PRESETS, Presets
from balancer.core.line import Line
from balancer.core.outcome import Billing, Evidence, LimitSeen
from balancer.core.settings import Account
from balancer.core.snapshot import AccountSnapshot
from balancer.errors import BalancerError


class Link(Protocol):
    """What a supervisor owns but the core does not know: the account's connections."""

    def next_change(self, now: float) -> float:
        """Trio time at which `expire` has something to do; `inf` if never."""
        ...

    def expire(self, now: float) -> None:
        """Close what has been idle too long."""
        ...

    def abort(self) -> None:
        """Close everything, synchronously."""
        ...

    def reconfigure(self, account: Account) -> None:
        """Use these settings from now on."""
        ...


@attrs.define(eq=False)
class Supervisor:
    """One account's owner.

    Args:
        account: the settings.
        link: its connections.
        rng: for jitter.
        ring: the dispatcher's doorbell.
        health: when to eject.
        idle_timeout: seconds without a read after which an open body gives its lease back.
        dialects: what its provider speaks.
        shows_limits: whether the provider is known to show its limits.
        presets: how the provider counts.
        shared: the lines of the limits that the account shares with others.
        anchor: some trio time and the epoch seconds at it.
    """

    account: Account
    link: Link
    rng: random.Random
    ring: Callable[[], None]
    health: HealthSettings
    idle_timeout: float
    dialects: frozenset[str] = frozenset()
    shows_limits: bool = False
    presets: Presets = NO_PRESETS
    shared: Sequence[Line] = ()
    anchor: tuple[float, float] = (0.0, 0.0)
    failures: Failures = attrs.field(factory=Failures, init=False)
    _state: AccountState = attrs.field(init=False)
    _leases: dict[Lease, None] = attrs.field(factory=dict[Lease, None], init=False)
    _mailbox: Mailbox[Reconfigure] = attrs.field(factory=Mailbox[Reconfigure], init=False)
    _sleep: trio.CancelScope | None = attrs.field(default=None, init=False)
    _fatal: Exception | None = attrs.field(default=None, init=False)
    _failing: bool = attrs.field(default=False, init=False)
    _retired: bool = attrs.field(default=False, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._state = AccountState(
            self.account, self.health, self.dialects, self.shows_limits, self.presets, self.shared, self.anchor
        )

    @property
    def name(self) -> str:
        """The account's name."""
        return self.account.name

    @property
    def in_flight(self) -> int:
        """Leases that are out."""
        return len(self._leases)

    @property
    def ended(self) -> bool:
        """Whether it was retired and its task has ended; its link is closed for good."""
        return self._ended

    # -- asked by the dispatcher, synchronously -------------------------------------------------------------------------

    def snapshot(self, now: float) -> AccountSnapshot:
        """The account as it is now."""
        return self._state.snapshot(now)

    def demand(self, call: Call, model: str | None) -> Demand:
        """What the call is expected to take of this account."""
        return self._state.demand(call, model) if call.estimated else call.demand

    def earliest(self, model: str | None, demand: Demand, now: float, before: Mapping[Line, float] | None = None) -> float:
        """Trio time before which the account cannot take the call; `now` if an attempt's end is awaited. With `before`, as if these
        units were booked now, before it."""
        return self._state.earliest(model, demand, now, before)

    def amounts(self, model: str | None, demand: Demand) -> dict[Line, float]:
        """Units that the demand takes of every rate that counts the model, shared ones among them."""
        return self._state.ledger.amounts(demand, model)

    def try_lease(self, ticket: Ticket, now: float, scan: Scan) -> Lease | None:
        """A lease for the ticket, or `None`: the ledger decides, the snapshot only advised. Never raises."""
        try:
            admission = self._state.admit_call(ticket.call, ticket.model, now)
        except Exception as error:
            self._failed(error)
            return None
        if admission is None:
            return None
        record = AttemptRecord(self.account.name, self.account.model_name(ticket.model), now, scan, ticket.now_or_never)
        lease = Lease(self, self.account, self.link, admission, ticket.decision, record, ticket.deadline)
        self._leases[lease] = None
        return lease

    # -- told by leases, synchronously ----------------------------------------------------------------------------------

    def connecting(self, lease: Lease) -> None:
        """The attempt waits for a connection."""
        self._state.connecting(lease.admission)

    def written(self, lease: Lease) -> None:
        """The attempt's first byte goes out only now."""
        self._state.written(lease.admission, trio.current_time())

    def observe(self, lease: Lease, limits: tuple[LimitSeen, ...], now: float) -> None:
        """The attempt's answer has begun."""
        try:
            if self._state.observe(lease.admission, limits, now):
                self.ring()
        except Exception as error:
            self._failed(error)

    def settle(self, lease: Lease, evidence: Evidence, now: float, latency: float) -> None:
        """The attempt has ended. Never raises."""
        del self._leases[lease]
        state = self._state
        try:
            health, usable = state.health.state, state.usable
            state.settle(lease.admission, evidence, now, self.rng, latency=latency)
            if lease.share is not None:
                lease.share.settle(evidence.outcome, evidence.usage)
            if state.usable is not usable and len(state.account.keys) > 1:
                place = state.account.keys.index(lease.credential)
                logs.warning("balancer.credential_disabled", account=self.name, place=place, left=len(state.usable))
            disabled = isinstance(evidence.outcome, Billing) or (state.usable is not usable and not state.usable)
            if state.health.state is not health or disabled:
                self._log_transition(now)
        except Exception as error:
            self._failed(error)
        if logs.debugs():
            logs.debug("balancer.attempt_ended", account=self.name, outcome=type(evidence.outcome).__name__)
        if self._retired and not self._leases:
            self.wake_at(-math.inf)
        self.ring()

    def wake_at(self, at: float) -> None:
        """Look at the timers then, at the latest: they have changed under the sleeper. No task step, unless the time has come."""
        if self._sleep is not None and at < self._sleep.deadline:
            self._sleep.deadline = at

    def watch_idle(self, lease: Lease) -> None:
        """Look at the lease when its open body may have been idle for too long."""
        self.wake_at(lease.idle_from + self.idle_timeout)

    def is_idle(self, lease: Lease, now: float) -> bool:
        """Whether the lease's open body has not been read for the idle limit."""
        return lease.idle_from + self.idle_timeout <= now

    def link_changed(self) -> None:
        """The link has something to do earlier than it had."""
        self.wake_at(self.link.next_change(trio.current_time()))

    def abort(self) -> None:
        """End every attempt and close every connection. Who waits for new settings waits no longer."""
        for lease in list(self._leases):
            lease.abort()
        self.link.abort()
        for message in self._mailbox.take():
            message.done.set()

    # -- the actor's own task -------------------------------------------------------------------------------------------

    def reconfigure(
        self, account: Account, health: HealthSettings, idle_timeout: float, shared: Sequence[Line] = ()
    ) -> trio.Event:
        """Ask for new settings; the event is set once they hold."""
        message = Reconfigure(account, health, idle_timeout, shared, trio.Event())
        self._mailbox.post(message)
        return message.done

    def retire(self) -> None:
        """The account is no longer configured: end when its last lease has ended."""
        self._retired = True
        if not self._leases:
            self.wake_at(-math.inf)

    def revive(self, account: Account, health: HealthSettings, idle_timeout: float, shared: Sequence[Line] = ()) -> None:
        """The account is configured again: what was charged, learned and inferred counts on. By these settings at once, since the
        old ones may be long out of date. If its task has ended, it is to be given a link and run again."""
        self._retired = self._ended = False
        self.reconfigure(account, health, idle_timeout, shared)
        for message in self._mailbox.take():
            self._reconfigure(message)

    async def run(self) -> None:
        """Serve until cancelled or retired; a failure restarts it with its state kept, three in a minute end it loudly."""
        while True:
            try:
                await self._serve()
            except Exception as error:
                self._failed(error)
            if self._retired and not self._leases:
                self._ended = True
                self.abort()
                return
            if self._fatal is not None:
                raise BalancerError(f"the supervisor of account {self.name!r} failed three times in a minute") from self._fatal

    async def _serve(self) -> None:
        """Serve until something fails or all is over, from a state that agrees with the leases that are out."""
        self._failing = False
        self._state.restore([lease.admission for lease in self._leases], trio.current_time())
        self.ring()  # who was refused by a failure of ours may ask again
        while not (self._failing or (self._retired and not self._leases)):
            with trio.CancelScope(deadline=self._next_change()) as self._sleep:
                for message in await self._mailbox.drain():
                    self._reconfigure(message)
            await trio.lowlevel.checkpoint()  # what came while the loop was blocked is read before anyone is late
            self._expire(trio.current_time())

    def _reconfigure(self, message: Reconfigure) -> None:
        try:
            self.account, self.health, self.idle_timeout = message.account, message.health, message.idle_timeout
            self.shared = message.shared
            self._state.change(message.account, message.health, trio.current_time(), message.shared)
            self.link.reconfigure(message.account)
        except Exception as error:
            self._failed(error)
        message.done.set()
        self.ring()

    def _next_change(self) -> float:
        ends = [min(lease.late_at, lease.idle_from + self.idle_timeout) for lease in self._leases]
        return min(self.link.next_change(trio.current_time()), *ends, math.inf)

    def _expire(self, now: float) -> None:
        self.link.expire(now)
        for lease in [lease for lease in self._leases if lease.late_at <= now]:
            lease.time_out()
        for lease in [lease for lease in self._leases if self.is_idle(lease, now)]:
            lease.abort()

    def _failed(self, error: Exception) -> None:
        logs.error("balancer.supervisor_failed", failure=error, account=self.name)
        self._failing = True
        if self.failures.too_many(trio.current_time()):
            self._fatal = error
        self.wake_at(-math.inf)

    def _log_transition(self, now: float) -> None:
        snapshot = self._state.snapshot(now)
        match snapshot.state:
            case "disabled":
                logs.warning("balancer.account_disabled", account=self.name, reason=snapshot.reason)
            case "ejected":
                logs.info("balancer.account_ejected", account=self.name, reason=snapshot.reason, until=snapshot.until)
            case "cooling":
                logs.info("balancer.account_paused", account=self.name, reason=snapshot.reason, until=snapshot.until)
            case _:
                logs.info("balancer.account_recovered", account=self.name)
