"""The state of one account: ledger, cooldowns, health and load, and what the end of an attempt does to each.

Two laws. What an attempt takes is reserved before it is sent and ended exactly once. An outcome touches only its scope: a
refusal cools, a failure counts in health, the caller's own fault and a withdrawal touch nobody.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import attrs

from balancer.core.call import DIMENSIONS, Call, Demand
from balancer.core.cooldown import MAX_TRANSIENT, Cooldowns, Pause, spread
from balancer.core.estimating import Estimators
from balancer.core.health import Health, HealthSettings, HealthState
from balancer.core.ledger import Ledger
from balancer.core.limits import NO_PRESETS, Presets
from balancer.core.line import Line
from balancer.core.load import Load
from balancer.core.outcome import (
    Billing,
    CallerFault,
    Evidence,
    Faulted,
    LimitSeen,
    ModelMissing,
    Outcome,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Refusal,
    Served,
    TimedOut,
    Truncated,
    Unauthorized,
    Withdrawn,
)
from balancer.core.reservation import Reservation
from balancer.core.settings import Account
from balancer.core.snapshot import AccountSnapshot, pause_covers

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from balancer.core.secret import Secret

COLD_LIMIT = 2
"""Attempts at once on an account whose limits are unknown but will show in its answers, until the first answer. As many as cost one
refusal at most: a burst of one admits the first. Each one held back waits for a whole answer, so they are not fewer."""
QUOTA_RECHECK = 3600.0
"""Seconds after which a long quota whose reset was not stated is tried again."""
THROTTLE_BACKOFF = 1.0
"""Base of the pause after a refusal that states no time, in seconds."""
MAX_BACKOFF = 20.0
_ANSWERS = Served | CallerFault | Refusal  # made once: this is looked at after every attempt


@attrs.define(eq=False)
class Admission:
    """What one attempt holds of an account: its reservation, for which model, whether it is the probe, since when, with which
    credential, if the account has any; and the first estimate of what it takes, if it is one."""

    reservation: Reservation
    model: str | None
    probe: bool
    began_at: float
    credential: Secret | None
    first: Demand | None = None


@attrs.define(eq=False)
class AccountState:
    """One account as its supervisor keeps it. It is given `now` and `rng`; it keeps no clock.

    Args:
        account: the settings.
        health_settings: when to eject.
        dialects: what the provider speaks.
        shows_limits: whether the provider is known to have limits and to show them in its answers.
        presets: how the provider counts.
        shared: the lines of the limits that it shares with other accounts.
        anchor: some trio time and the epoch seconds at it, for days and months.

    Attributes:
        usable: its credentials that are not disabled; `None` stands for doing without one. Replaced whole.
    """

    account: Account
    health_settings: HealthSettings
    dialects: frozenset[str] = frozenset()
    shows_limits: bool = False
    presets: Presets = NO_PRESETS
    shared: Sequence[Line] = ()
    anchor: tuple[float, float] = (0.0, 0.0)
    ledger: Ledger = attrs.field(init=False)
    health: HealthState = attrs.field(init=False)
    cooldowns: Cooldowns = attrs.field(factory=Cooldowns, init=False)
    load: Load = attrs.field(factory=Load, init=False)
    in_flight: int = attrs.field(default=0, init=False)
    served: int = attrs.field(default=0, init=False)
    refused: int = attrs.field(default=0, init=False)
    failed: int = attrs.field(default=0, init=False)
    usable: tuple[Secret | None, ...] = attrs.field(init=False)
    _disabled: int = attrs.field(init=False)
    _turns: Iterator[Secret | None] = attrs.field(init=False)
    _estimators: Estimators = attrs.field(factory=Estimators, init=False)
    _answered: bool = attrs.field(default=False, init=False)
    _backoffs: int = attrs.field(default=0, init=False)  # in a row
    _backed_off_at: float = attrs.field(default=-math.inf, init=False)
    _backoff_until: float = attrs.field(default=-math.inf, init=False)
    _snapshot: AccountSnapshot | None = attrs.field(default=None, init=False)
    _shared_stamp: tuple[object, ...] = attrs.field(default=(), init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = Ledger(
            self.account.limits, self.presets, shared=self.shared, anchor=self.anchor, mirrored=self.shows_limits
        )
        self.health = HealthState(self.health_settings)
        self._use(self.account.keys or (None,))

    def _use(self, credentials: tuple[Secret | None, ...]) -> None:
        """From now on attempts take turns among these; with none left they are not asked for, the account is disabled."""
        self.usable = credentials
        self._disabled = max(0, len(self.account.keys) - len(credentials))
        if credentials:
            self._turns = itertools.cycle(credentials)

    def snapshot(self, now: float) -> AccountSnapshot:
        """The current view; the same object while nothing has changed."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.valid_until <= now or (self.shared and self._stamp() != self._shared_stamp):
            if self.shared:
                self._shared_stamp = self._stamp()
            snapshot = self._snapshot = self._view(now)
        return snapshot

    def _stamp(self) -> tuple[object, ...]:
        """Changes whenever another account changes what both share."""
        return tuple([line.stamp for line in self.shared])

    def demand(self, call: Call, model: str | None) -> Demand:
        """What the call is expected to take here: as its caller says, or as has been learned of such requests."""
        if not (call.estimated and self.ledger.counts_tokens):
            return call.demand
        return self.ledger.fitting(self._estimators.demand(model, call.demand), model)

    def admit_call(self, call: Call, model: str | None, now: float) -> Admission | None:
        """`admit` for a call, with what it is expected to take here."""
        if not (call.estimated and self.ledger.counts_tokens):
            return self.admit(model, call.demand, now)
        return self.admit(model, self.demand(call, model), now, call.demand)

    def admit(self, model: str | None, demand: Demand, now: float, first: Demand | None = None) -> Admission | None:
        """Reserve for one attempt, or `None` if the quota does not admit it now. That nothing else forbids it the caller has read
        from a snapshot that holds. `first`: the estimate that `demand` was made of, to learn from."""
        if not self.ledger.admits(demand, now, model):
            return None
        probe = self.health.state is not Health.HEALTHY and self.health.begin(now)
        reservation = self.ledger.reserve(demand, now, model)
        self.in_flight += 1
        self._snapshot = None
        return Admission(reservation, model, probe, now, next(self._turns), first)

    def earliest(self, model: str | None, demand: Demand, now: float, before: Mapping[Line, float] | None = None) -> float:
        """Trio time before which this account cannot take the call; `now` if only other attempts' ends are awaited. With `before`, as if
        these units were booked now, before it."""
        if self.account.model_name(model) is None and model is not None:
            return math.inf
        at = max(now, self.ledger.earliest(demand, now, model, before))
        if self.health.state is Health.EJECTED:
            at = max(at, self.health.ejected_until)
        for pause in self.cooldowns.pauses():
            if pause_covers(pause, model, demand):
                at = max(at, pause.until)
        return at

    def connecting(self, admission: Admission) -> None:
        """The request waits for a connection."""
        self.ledger.connecting(admission.reservation)
        self._snapshot = None

    def written(self, admission: Admission, now: float) -> None:
        """The first byte of the request is written only now: the provider's windows count from here."""
        self.ledger.restamp(admission.reservation, now)
        self._snapshot = None

    def observe(
        self,
        admission: Admission,
        limits: tuple[LimitSeen, ...],
        now: float,
        refused_for: float | None = None,
        until: float | None = None,
    ) -> bool:
        """An answer has begun and shows these limits, or shows that there are none; returns whether there may be more room than before:
        it is the first one, or shows more. `refused_for`, `until`: as in `Ledger.observe`."""
        first, more = not self._answered, False
        if limits:
            more = self.ledger.observe(limits, now, admission.reservation, refused_for, until)
        elif not (first or self.ledger.enforced()):
            return False
        self.ledger.counted_by(admission.reservation, now)
        self._answered = True
        self._snapshot = None
        return first or more

    def settle(self, admission: Admission, evidence: Evidence, now: float, rng: random.Random, *, latency: float) -> None:
        """The attempt has ended: end its reservation and let the outcome do what it does. Only the first end counts.

        Args:
            admission: what `admit` gave.
            evidence: how it ended.
            now: trio time.
            rng: for jitter.
            latency: seconds to the first byte of the answer.
        """
        if admission.reservation.ended:
            return
        self.in_flight -= 1
        self._snapshot = None
        outcome = evidence.outcome
        if isinstance(outcome, Served):
            self._serve(admission, evidence, now, latency)
            return
        match outcome:
            case TimedOut(phase="request" | "pool"):
                self.failed += 1
                self.health.withdrawn(probe=admission.probe)
            case Faulted() | TimedOut() | Truncated():
                self.failed += 1
                self.health.failed(now, describe(outcome), rng, probe=admission.probe)
            case CallerFault() | Withdrawn():
                self.health.withdrawn(probe=admission.probe)
            case _:
                self.refused += 1
                self.health.withdrawn(probe=admission.probe)
        # Not before, since a usage comes from outside: whatever it does to the ledger, the probe's place has been given back.
        self._end_reservation(admission.reservation, evidence, now)
        if evidence.limits or isinstance(outcome, _ANSWERS):
            until = outcome.until if isinstance(outcome, RateLimited | QuotaExhausted) else None
            refused_for = until - now if until is not None and isinstance(outcome, RateLimited) else None
            self.observe(admission, evidence.limits, now, refused_for, until)
        if isinstance(outcome, Refusal):
            self._cool(outcome, admission, evidence.limits, now, rng)

    def _serve(self, admission: Admission, evidence: Evidence, now: float, latency: float) -> None:
        """The end that nearly every attempt has."""
        reservation, usage = admission.reservation, evidence.usage
        self.served += 1
        self._backoffs = 0
        self.health.succeeded(now, probe=admission.probe)
        self.load.sample(latency, now)
        self.ledger.served(reservation, now)
        self.ledger.settle(reservation, usage, now)
        if admission.first is not None and usage is not None:
            self._estimators.learn(admission.model, admission.first, usage)
        if evidence.limits or not self._answered:
            self.observe(admission, evidence.limits, now)

    def restore(self, admissions: Collection[Admission], now: float) -> None:
        """After a failure of ours: these attempts are out and no other. A reservation that lost its end counts as estimated."""
        self.in_flight = len(admissions)
        held = {admission.reservation for admission in admissions}
        for reservation in self.ledger.outstanding():
            if reservation not in held:
                self.ledger.settle(reservation, None, now)
        if self.health.state is Health.PROBING and not any(admission.probe for admission in admissions):
            self.health.withdrawn(probe=True)
        self._snapshot = None

    def _end_reservation(self, reservation: Reservation, evidence: Evidence, now: float) -> None:
        match evidence.outcome:
            case Faulted(sent=False) | TimedOut(sent=False) | Withdrawn(sent=False):
                self.ledger.refund(reservation, now)
            case outcome if isinstance(outcome, Refusal):
                self.ledger.refuse(reservation, now)
            case _:
                self.ledger.settle(reservation, evidence.usage, now)

    def _cool(
        self, refusal: Refusal, admission: Admission, limits: tuple[LimitSeen, ...], now: float, rng: random.Random
    ) -> None:
        add, model = self.cooldowns.add, admission.model
        match refusal:
            case RateLimited(dimension=dimension, until=until):
                # Refused over what it was not even estimated to take: then estimates cannot tell which calls may pass.
                if dimension not in DIMENSIONS or not getattr(admission.reservation.demand, dimension):
                    dimension = None
                reservation = admission.reservation
                held_back = self.ledger.refused(reservation, dimension, until, now, limits)
                # Whatever the ledger makes of it: what was refused must not be asked again at the same instant.
                held_back = held_back and self.ledger.earliest(reservation.demand, now, model) > now
                if not held_back or (until is not None and until > now):
                    add(Pause(self._start(until, admission, now, rng), "rate limited", model, dimension))
            case QuotaExhausted(until=None):
                ends_at = self.ledger.day_ends_at(now)
                add(Pause(now + QUOTA_RECHECK if ends_at is None else ends_at, "quota exhausted", model))
            case QuotaExhausted(until=until):
                add(Pause(self._start(until, admission, now, rng), "quota exhausted", model))
            case Overloaded(until=until):
                add(Pause(self._start(_capped(until, now), admission, now, rng), "overloaded"))
            case Ramp(until=until):
                add(Pause(self._start(_capped(until, now), admission, now, rng), "ramp limited"))
            case Billing(until=None):
                add(Pause(math.inf, "billing"))
            case Billing(until=until):
                add(Pause(self._start(until, admission, now, rng), "billing"))
            case Unauthorized():
                if admission.credential in self.usable:  # else it is disabled already, or no longer configured
                    self._use(tuple(credential for credential in self.usable if credential != admission.credential))
                if not self.usable:
                    add(Pause(math.inf, "unauthorized"))
            case ModelMissing() if model is not None:
                add(Pause(math.inf, "model missing", model))
            case _:
                pass  # TooLarge, and a path that is missing: about this call alone

    def _start(self, until: float | None, admission: Admission, now: float, rng: random.Random) -> float:
        """When the next attempt may start after a refusal: as stated, else by backoff with full jitter.

        A stated time that has come already explains nothing: obeyed, it would be a loop at the network's speed. Refusals of
        attempts that began before the last backoff are the same news as the one that set it.
        """
        if until is not None and until > now:
            self._backoffs = 0
            return spread(now, until, rng)
        if admission.began_at > self._backed_off_at or self._backoff_until <= now:
            longest = min(MAX_BACKOFF, THROTTLE_BACKOFF * 2.0 ** min(self._backoffs, 30))
            self._backoffs += 1
            self._backed_off_at, self._backoff_until = now, now + rng.uniform(0.0, longest)
        return self._backoff_until

    def change(self, account: Account, health_settings: HealthSettings, now: float, shared: Sequence[Line] = ()) -> None:
        """New settings; what was learned and what is in flight is kept, pauses that waited for an operator are lifted."""
        self.cooldowns.reopen()
        if account.keys != self.account.keys or account.base_url != self.account.base_url:
            self.cooldowns.clear()
        self.account = account
        self._use(account.keys or (None,))
        self.health_settings = self.health.settings = health_settings
        self.shared = shared
        self.ledger.replace(account.limits, now, shared=shared)
        self._snapshot = None

    def _view(self, now: float) -> AccountSnapshot:
        account, health, pauses = self.account, self.health, ()
        state, reason, until, ejected_until = "healthy", health.reason, math.inf, -math.inf
        if health.state is not Health.HEALTHY:
            state, ejected_until = health.state.value, health.ejected_until
            if health.state is Health.EJECTED and ejected_until > now:
                until = ejected_until
        dimensions = self.ledger.views(now)
        valid_until = until
        for view in dimensions:
            valid_until = min(valid_until, view.valid_until)
        if self.cooldowns:
            self.cooldowns.expire(now)
            pauses = self.cooldowns.pauses()
        for pause in pauses:
            valid_until = min(valid_until, pause.until)
            if pause.model is None and pause.dimension is None and health.state is Health.HEALTHY:
                state, reason, until = "disabled" if pause.until == math.inf else "cooling", pause.reason, pause.until
        cold = self.shows_limits and not self._answered and not self.ledger.enforced()
        concurrency, models = account.limits.concurrency, account.models
        restricted = bool(cold or dimensions or pauses) or not (
            health.state is Health.HEALTHY and concurrency is None and models is None
        )
        return AccountSnapshot(  # by position, and in its order: twice as fast as by 23 names, and made for every call
            account.name,
            state,
            reason,
            until,
            self.in_flight,
            account.weight,
            dimensions,
            account.provider,
            account.tags,
            self.load.peak,
            self.load.mean,
            self.load.variance,
            self.served,
            self.refused,
            self.failed,
            valid_until,
            models,
            self.dialects,
            concurrency,
            COLD_LIMIT if cold else None,
            pauses,
            health.state is Health.PROBING,
            ejected_until,
            restricted,
            self._disabled,
        )


def _capped(until: float | None, now: float) -> float | None:
    return None if until is None else min(until, now + MAX_TRANSIENT)


def describe(outcome: Outcome) -> str:
    """An outcome in a few words, for a reason or a log."""
    match outcome:
        case Faulted(detail=detail) if detail:
            return detail
        case TimedOut(phase=phase) if phase:
            return f"timed out ({phase})"
        case Truncated(received=0):
            return "the answer ended without its end mark"
        case Truncated(received=received):
            return f"the answer broke off after {received} bytes"
        case _:
            return type(outcome).__name__
