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
SLOT = 0.25
"""Seconds that are counted as one instant."""


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
class _Slot:
    end: float
    forgotten_at: float
    amount: int = 1


@attrs.define(eq=False)
class Recent:
    """How much was counted lately, in slots of `SLOT` seconds that are forgotten whole, `life` after they began."""

    life: float
    total: int = attrs.field(default=0, init=False)
    _slots: deque[_Slot] = attrs.field(factory=deque["_Slot"], init=False)

    def add(self, now: float) -> None:
        """Count one more."""
        slots = self._slots
        if slots and now < slots[-1].end:
            slots[-1].amount += 1
        else:
            self.at(now)  # here too: calls that never spend must not pile up
            slots.append(_Slot(now + SLOT, now + self.life))
        self.total += 1

    def at(self, now: float) -> int:
        """What still counts."""
        slots = self._slots
        while slots and slots[0].forgotten_at <= now:
            self.total -= slots.popleft().amount
        return self.total


@attrs.define(eq=False)
class Budget:
    """Credits for extra attempts. In any ten seconds that end with a spending: spent <= ratio x calls + reserve; and `burst`, once.

    Whole numbers are counted, so that nothing drifts however long it runs. A credit dies a little before its ten seconds are
    over and what was spent counts a little longer: the law holds for every span, not for those that fit the slots.

    Args:
        ratio: credits that one call brings.
        reserve_per_second: credits that are there without any call, per second.
        burst: credits that are there once, at the start.
    """

    ratio: float
    reserve_per_second: float = 0.0
    burst: float = 0.0
    _calls: Recent = attrs.field(factory=lambda: Recent(CREDIT_LIFE), init=False)
    _spent: Recent = attrs.field(factory=lambda: Recent(CREDIT_LIFE + SLOT), init=False)

    def earn(self, now: float) -> None:
        """One call has come in."""
        self._calls.add(now)

    def try_spend(self, now: float) -> bool:
        """Take one credit if there is one."""
        credit = self.ratio * self._calls.at(now) + self.reserve_per_second * CREDIT_LIFE - self._spent.at(now)
        if credit >= 1.0 - 1e-9:  # twenty twentieths make one
            self._spent.add(now)
            return True
        if self.burst >= 1.0:
            self.burst -= 1.0
            return True
        return False
