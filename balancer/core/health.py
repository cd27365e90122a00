"""Health of one account, inferred from the ends of its attempts.

Laws: evidence is absolute and per account, never a comparison with peers (with k of n equally bad a 1.9 sigma rule fires only
when k/n < 21.7 %). Quota refusals, the caller's faults and local causes are no evidence at all.

    HEALTHY --(consecutive faults)--> EJECTED --(time is up: due)--> PROBING --served--> HEALTHY
                                         ^                              |
                                         +--------------fault-----------+
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

import attrs

from balancer.core.setting import setting

if TYPE_CHECKING:
    import random


class Health(enum.Enum):
    """The inferred state of an account."""

    HEALTHY = "healthy"
    EJECTED = "ejected"
    PROBING = "probing"


@attrs.frozen
class HealthSettings:
    """When an account is left alone, and for how long.

    Args:
        consecutive_faults: faults in a row that eject, >= 1; five are rare by chance below an error rate of one half.
        ejection_time: seconds of the first ejection, > 0; each further one is longer by the same.
        max_ejection_time: the longest ejection in seconds, > 0, before jitter.
        jitter_ratio: share of an ejection that is added at random, 0 to 1; accounts of one host do not come back together.
    """

    consecutive_faults: int = setting(5, kind=int, low=1, high=1_000_000)
    ejection_time: float = setting(30.0, kind=float, low=0.0, above=True, high=86400.0)
    max_ejection_time: float = setting(300.0, kind=float, low=0.0, above=True, high=86400.0)
    jitter_ratio: float = setting(0.2, kind=float, low=0.0, high=1.0)


@attrs.define(eq=False)
class HealthState:
    """The machine of the diagram above. It is told ends of attempts; it keeps no clock."""

    settings: HealthSettings
    state: Health = attrs.field(default=Health.HEALTHY, init=False)
    ejected_until: float = attrs.field(default=-math.inf, init=False)
    reason: str = attrs.field(default="", init=False)
    _faults: int = attrs.field(default=0, init=False)
    _multiplier: int = attrs.field(default=0, init=False)
    _healthy_since: float = attrs.field(default=-math.inf, init=False)

    def due(self, now: float) -> bool:
        """Whether the next attempt would be the probe."""
        return self.state is Health.EJECTED and now >= self.ejected_until

    def begin(self, now: float) -> bool:
        """An attempt starts; returns whether it is the probe."""
        if self.due(now):
            self.state = Health.PROBING
            return True
        return False

    def succeeded(self, now: float, *, probe: bool) -> None:
        """An attempt was served."""
        self._faults = 0
        if probe:
            self.state = Health.HEALTHY
            self.reason = ""
            self._healthy_since = now

    def failed(self, now: float, reason: str, rng: random.Random, *, probe: bool) -> None:
        """An attempt failed in a way that counts."""
        self._faults += 1
        if probe or (self.state is Health.HEALTHY and self._faults >= self.settings.consecutive_faults):
            self._eject(now, reason, rng)

    def withdrawn(self, *, probe: bool) -> None:
        """An attempt ended without evidence: a probe's place is free again at once."""
        if probe:
            self.state = Health.EJECTED

    def _eject(self, now: float, reason: str, rng: random.Random) -> None:
        settings = self.settings
        if self.state is Health.HEALTHY and math.isfinite(self._healthy_since):
            healthy_intervals = int((now - self._healthy_since) / settings.ejection_time)
            self._multiplier = max(0, self._multiplier - healthy_intervals)
        length = settings.ejection_time * self._multiplier
        if length < settings.max_ejection_time:  # growing beyond the cap, a day's outage would take hours to forget
            self._multiplier += 1
            length += settings.ejection_time
        length = min(length, settings.max_ejection_time)
        self.ejected_until = now + length * (1.0 + rng.uniform(0.0, settings.jitter_ratio))
        self.state = Health.EJECTED
        self.reason = reason
