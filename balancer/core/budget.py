"""A share of calls that may spend extra attempts.

Why a budget and not a maximum per call: with R retries per failure a pool stays down after the trigger is gone when its load
exceeds 1/(1 + R); with a budget of f extra attempts per call only when it exceeds 1/(1 + f). Credits die after ten seconds,
so that a quiet hour does not pay for a storm.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from balancer.core.setting import setting

if TYPE_CHECKING:
    import random

CREDIT_LIFE = 10.0
"""Seconds that a credit lives."""
_SLOT = 1.0


@attrs.frozen
class RetrySettings:
    """Extra attempts after a failure.

    Args:
        max_extra_ratio: retries per call at most, 0 to 10; 20 % keeps a pool stable up to 83 % of its load.
        reserve_per_second: retries that are allowed whatever the traffic, per second, >= 0; so that quiet services retry too.
        backoff: base of the pause before the same account is tried again, in seconds, > 0.
        max_backoff: the longest such pause, in seconds, > 0.
    """

    max_extra_ratio: float = setting(0.2, kind=float, low=0.0, high=10.0)
    reserve_per_second: float = setting(3.0, kind=float, low=0.0, high=1e6)
    backoff: float = setting(0.05, kind=float, low=0.0, above=True, high=3600.0)
    max_backoff: float = setting(20.0, kind=float, low=0.0, above=True, high=3600.0)

    def pause(self, repeats: int, rng: random.Random) -> float:
        """Full jitter: U(0, min(max_backoff, backoff 2^repeats)) seconds before the next try on the same account."""
        return rng.uniform(0.0, min(self.max_backoff, self.backoff * 2.0 ** min(repeats, 60)))


@attrs.define(eq=False)
class Budget:
    """Credits for extra attempts: spent(t) <= ratio x calls(t) + reserve, over any ten seconds.

    Args:
        ratio: credits that one call brings.
        reserve_per_second: credits that are there without any call, per second.
        burst: credits that are there once, at the start.
    """

    ratio: float
    reserve_per_second: float = 0.0
    burst: float = 0.0
    _slots: deque[list[float]] = attrs.field(factory=deque, init=False)  # [slot's start, earned, spent]
    _earned: float = attrs.field(default=0.0, init=False)
    _spent: float = attrs.field(default=0.0, init=False)

    def _slot(self, now: float) -> list[float]:
        while self._slots and self._slots[0][0] <= now - CREDIT_LIFE:
            _, earned, spent = self._slots.popleft()
            self._earned -= earned
            self._spent -= spent
        if not self._slots or self._slots[-1][0] + _SLOT <= now:
            self._slots.append([now, 0.0, 0.0])
        if len(self._slots) == 1:  # what floating point has lost is made good whenever the window is empty
            self._earned, self._spent = self._slots[0][1], self._slots[0][2]
        return self._slots[-1]

    def earn(self, now: float) -> None:
        """One call has come in."""
        self._slot(now)[1] += self.ratio
        self._earned += self.ratio

    def try_spend(self, now: float) -> bool:
        """Take one credit if there is one."""
        slot = self._slot(now)
        regular = self._earned + self.reserve_per_second * CREDIT_LIFE - self._spent
        if regular >= 1.0 - 1e-9:
            slot[2] += 1.0
            self._spent += 1.0
            return True
        if self.burst >= 1.0:
            self.burst -= 1.0
            return True
        return False
