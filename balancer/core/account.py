"""The state of one account: ledger, cooldowns, health and load, and what the end of an attempt does to each.

Two laws. What an attempt takes is reserved before it is sent and ended exactly once. An outcome touches only its scope: a
refusal cools, a failure counts in health, the caller's own fault and a withdrawal touch nobody.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from balancer.core.call import Demand
from balancer.core.cooldown import MAX_TRANSIENT, Cooldowns, Pause, spread
from balancer.core.health import Health, HealthSettings, HealthState
from balancer.core.ledger import Ledger, Reservation
from balancer.core.load import Load
from balancer.core.outcome import (
    Billing,
    Evidence,
    Faulted,
    LimitSeen,
    ModelMissing,
    Outcome,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Served,
    TimedOut,
    TooLarge,
    Truncated,
    Unauthorized,
    Withdrawn,
)
from balancer.core.settings import Account
from balancer.core.snapshot import AccountSnapshot, pause_covers

if TYPE_CHECKING:
    import random

COLD_LIMIT = 5
"""Attempts at once on an account whose limits are unknown but will show in its answers, until the first answer. Few, since
each beyond the unknown limit is refused; not fewer, since each one held back waits for a whole answer."""
QUOTA_RECHECK = 3600.0
"""Seconds after which a long quota whose reset was not stated is tried again."""
THROTTLE_BACKOFF = 1.0
"""Base of the pause after a refusal that states no time, in seconds."""
MAX_BACKOFF = 20.0


@attrs.frozen(eq=False)
class Admission:
    """What one attempt holds of an account: its reservation, and whether it is the probe."""

    reservation: Reservation
    model: str | None
    probe: bool
    began_at: float


@attrs.define(eq=False)
class AccountState:
    """One account as its supervisor keeps it. It is given `now` and `rng`; it keeps no clock.

    Args:
        account: the settings.
        health_settings: when to eject.
        dialects: what the provider speaks.
        shows_limits: whether the provider is known to have limits and to show them in its answers.
    """

    account: Account
    health_settings: HealthSettings
    dialects: frozenset[str] = frozenset()
    shows_limits: bool = False
    ledger: Ledger = attrs.field(init=False)
    health: HealthState = attrs.field(init=False)
    cooldowns: Cooldowns = attrs.field(factory=Cooldowns, init=False)
    load: Load = attrs.field(factory=Load, init=False)
    in_flight: int = attrs.field(default=0, init=False)
    served: int = attrs.field(default=0, init=False)
    refused: int = attrs.field(default=0, init=False)
    failed: int = attrs.field(default=0, init=False)
    _answered: bool = attrs.field(default=False, init=False)
    _unexplained: int = attrs.field(default=0, init=False)  # refusals in a row that stated no time
    _snapshot: AccountSnapshot | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = Ledger(self.account.limits)
        self.health = HealthState(self.health_settings)

    def snapshot(self, now: float) -> AccountSnapshot:
        """The current view; the same object while nothing has changed."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.valid_until <= now:
            snapshot = self._snapshot = self._view(now)
        return snapshot

    def admit(self, model: str | None, demand: Demand, now: float, *, cold: bool) -> Admission | None:
        """Reserve for one attempt, or `None` if the account cannot take it now."""
        if self.snapshot(now).passed_over(model, demand, now, cold=cold):
            return None
        if self.ledger.earliest(demand, now) > now:
            return None
        probe = self.health.begin(now)
        reservation = self.ledger.reserve(demand, now)
        self.in_flight += 1
        self._snapshot = None
        return Admission(reservation, model, probe, now)

    def earliest(self, model: str | None, demand: Demand, now: float) -> float:
        """Trio time before which this account cannot take the call; `now` if only other attempts' ends are awaited."""
        if self.account.model_name(model) is None and model is not None:
            return math.inf
        at = max(now, self.ledger.earliest(demand, now))
        if self.health.state is Health.EJECTED:
            at = max(at, self.health.ejected_until)
        for pause in self.cooldowns.pauses():
            if pause_covers(pause, model, demand):
                at = max(at, pause.until)
        return at

    def written(self, admission: Admission, now: float) -> None:
        """The first byte of the request is written only now: the provider's windows count from here."""
        self.ledger.restamp(admission.reservation, now)
        self._snapshot = None

    def observe(self, admission: Admission, limits: tuple[LimitSeen, ...], now: float) -> None:
        """An answer has begun and shows these limits, or shows that there are none."""
        if limits:
            self.ledger.observe(limits, now, admission.reservation)
        elif self._answered:
            return
        self._answered = True
        self._snapshot = None

    def settle(self, admission: Admission, evidence: Evidence, now: float, rng: random.Random, *, latency: float) -> None:
        """The attempt has ended: end its reservation and let the outcome do what it does. Call it once per admission.

        Args:
            admission: what `admit` gave.
            evidence: how it ended.
            now: trio time.
            rng: for jitter.
            latency: seconds to the first byte of the answer.
        """
        self.in_flight -= 1
        self._snapshot = None
        self._end_reservation(admission, evidence, now)
        if not isinstance(evidence.outcome, Withdrawn):
            self.observe(admission, evidence.limits, now)
        match evidence.outcome:
            case Served():
                self.served += 1
                self._unexplained = 0
                self.health.succeeded(now, probe=admission.probe)
                self.load.sample(latency, now)
            case Faulted() | TimedOut() | Truncated() as failure:
                self.failed += 1
                self.health.failed(now, describe(failure), rng, probe=admission.probe)
            case _ as other:
                self.health.withdrawn(probe=admission.probe)
                self._cool(other, admission.model, now, rng)

    def _end_reservation(self, admission: Admission, evidence: Evidence, now: float) -> None:
        reservation = admission.reservation
        match evidence.outcome:
            case Faulted(sent=False) | TimedOut(sent=False) | Withdrawn(sent=False):
                self.ledger.refund(reservation, now)
            case (
                RateLimited()
                | QuotaExhausted()
                | Overloaded()
                | Ramp()
                | Billing()
                | Unauthorized()
                | ModelMissing()
                | TooLarge()
            ):
                self.ledger.refund(reservation, now)
            case _:
                self.ledger.settle(reservation, evidence.usage, now)

    def _cool(self, outcome: object, model: str | None, now: float, rng: random.Random) -> None:
        add = self.cooldowns.add
        match outcome:
            case RateLimited(dimension=dimension, until=until):
                add(Pause(self._start(until, now, rng), "rate limited", model, dimension))
            case QuotaExhausted(until=until):
                add(Pause(now + QUOTA_RECHECK if until is None else spread(now, until, rng), "quota exhausted", model))
            case Overloaded(until=until):
                add(Pause(min(self._start(until, now, rng), now + MAX_TRANSIENT), "overloaded"))
            case Ramp(until=until):
                add(Pause(self._start(until, now, rng), "ramp limited"))
            case Billing(until=until):
                add(Pause(math.inf if until is None else until, "billing"))
            case Unauthorized():
                add(Pause(math.inf, "unauthorized"))
            case ModelMissing() if model is not None:
                add(Pause(math.inf, "model missing", model))
            case _:
                return  # CallerFault, TooLarge, Withdrawn: nothing about the account
        self.refused += 1

    def _start(self, until: float | None, now: float, rng: random.Random) -> float:
        """When the next attempt may start after a refusal: as stated, else by backoff with full jitter."""
        if until is not None:
            self._unexplained = 0
            return spread(now, max(until, now), rng)
        self._unexplained += 1
        return now + rng.uniform(0.0, min(MAX_BACKOFF, THROTTLE_BACKOFF * 2.0 ** min(self._unexplained - 1, 30)))

    def change(self, account: Account, health_settings: HealthSettings, now: float) -> None:
        """New settings; what was learned and what is in flight is kept, pauses that waited for an operator are lifted."""
        if account.key != self.account.key or account.base_url != self.account.base_url:
            self.cooldowns.clear()
        self.account = account
        self.health_settings = self.health.settings = health_settings
        self.ledger.replace(account.limits, now)
        self._snapshot = None

    def _view(self, now: float) -> AccountSnapshot:
        if self.cooldowns:
            self.cooldowns.expire(now)
        account, health = self.account, self.health
        pauses = self.cooldowns.pauses()
        ejected_until = -math.inf if health.state is Health.HEALTHY else health.ejected_until
        state, reason, until = health.state.value, health.reason, math.inf
        if health.state is Health.EJECTED and ejected_until > now:
            until = ejected_until
        valid_until = min(until, self.ledger.next_change(now))
        for pause in pauses:
            valid_until = min(valid_until, pause.until)
            if pause.model is None and pause.dimension is None and health.state is Health.HEALTHY:
                state, reason, until = "disabled" if pause.until == math.inf else "cooling", pause.reason, pause.until
        return AccountSnapshot(
            name=account.name,
            state=state,
            reason=reason,
            until=until,
            in_flight=self.in_flight,
            weight=account.weight,
            dimensions=self.ledger.views(now),
            provider=account.provider,
            tags=account.tags,
            peak=self.load.peak,
            mean=self.load.mean,
            served=self.served,
            refused=self.refused,
            failed=self.failed,
            valid_until=valid_until,
            models=account.models,
            dialects=self.dialects,
            concurrency=account.limits.concurrency,
            cold_limit=COLD_LIMIT if self.shows_limits and not self._answered and not self.ledger.enforced() else None,
            pauses=pauses,
            probing=health.state is Health.PROBING,
            ejected_until=ejected_until,
        )


def describe(outcome: Outcome) -> str:
    """An outcome in a few words, for a reason or a log."""
    match outcome:
        case Faulted(detail=detail) if detail:
            return detail
        case TimedOut(phase=phase) if phase:
            return f"timed out ({phase})"
        case _:
            return type(outcome).__name__
