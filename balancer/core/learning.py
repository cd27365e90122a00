"""The period of a limit that nobody configured, from what responses show of it: limit, remaining and reset.

A reset means one of two things. *Continuous*: the time until the bucket is full, used x period / limit. *Window*: the time
until the oldest charge leaves, or until the window ends, never more than the period. They agree when everything is used; with
less in use the first reads a longer period from the same reset, so it is believed until samples contradict it.
"""

from __future__ import annotations

import math

import attrs

LONGEST = 86400.0 * 366
SHORTEST = 0.001
NICE = (86400.0, 3600.0, 60.0, 30.0, 10.0, 5.0, 1.0, 0.5, 0.1, 0.05, 0.01)
"""Periods are chosen by people: of the values a measurement allows, the multiple of the coarsest of these is meant."""

PRECISE = (-0.001, 0.001)
WHOLE_SECONDS = ((0.0, 1.0), (-1.0, 0.0), (-0.5, 0.5), (-2.0, 0.0))
"""What the true reset may add to one shown in whole seconds: cut off, rounded up, rounded to the nearest, and an instant that is
rounded up, read against a date that is cut off. A provider keeps to one of them, so each is followed through all samples on its own."""

INSTANTS = 10.0
"""Seconds of the longest reset before which the last of these says nothing: it would explain any window of a few seconds."""

NOISE = 0.02
"""Relative error of any reset: it is read and written at different moments."""

UNIT_NOISE = 0.1
"""Relative error of a unit's time: the difference of three resets."""

FAR = 1.5
"""Bounds of a period that are further apart than this ratio say little about what lies between."""


def nice(low: float, high: float) -> float:
    """The period that was meant, given that it lies between two bounds; far-apart bounds say little, then the longer is safe."""
    if high > FAR * low:
        return high
    for step in NICE:
        period = math.ceil(low / step - 1e-9) * step
        if period <= high:
            return period
    return high


@attrs.define(eq=False)
class Learning:
    """What is known of one limit's period."""

    limit: float = 0.0
    known_period: float = 0.0
    """As the headers' names say it; 0 where they do not."""
    burst: float = math.inf
    """Units that may go at once, where that is less than the limit."""
    samples: int = 0
    continuous: bool = True
    _spans: list[tuple[float, float]] = attrs.field(init=False, factory=lambda: [(0.0, math.inf)] * len(WHOLE_SECONDS))
    """Bounds of the period if it is continuous, one for each way to round a reset; none once all are refuted."""
    _most_used: float = attrs.field(init=False, default=0.0)
    _if_continuous: float = attrs.field(init=False, default=0.0)
    _if_continuous_at_most: float = attrs.field(init=False, default=math.inf)
    _longest_reset: float = attrs.field(init=False, default=0.0)
    _unit: float = attrs.field(init=False, default=0.0)
    """Seconds per unit, where a small burst has shown it."""
    _window_at_most: float = attrs.field(init=False, default=math.inf)

    def see(self, used: float, rounding: float, reset_after: float, oldest_for: float) -> None:
        """Take in one response, of the limit in `self.limit`.

        Args:
            used: limit less remaining, > 0; may be too large by up to `rounding`.
            reset_after: seconds to the reset, > 0.
            oldest_for: seconds since the oldest charge that the provider can hold was sent; `inf` if there may be older ones.
        """
        self.samples += 1
        self._longest_reset = max(self._longest_reset, reset_after)
        self._window_at_most = min(self._window_at_most, reset_after + oldest_for)
        if used >= self._most_used:  # the more is used, the less does rounding blur it
            self._most_used, self._if_continuous = used, reset_after * self.limit / used
            least_used = used - rounding
            self._if_continuous_at_most = reset_after * self.limit / least_used if least_used > 0 else math.inf
        if spans := self._spans:
            self._spans = spans = [self._narrowed(span, way, used, rounding, reset_after) for way, span in enumerate(spans)]
            ways = spans if self._longest_reset >= INSTANTS else spans[:-1]
            self.continuous = any(low <= high for low, high in ways)
            if not self.continuous and spans[-1][0] > spans[-1][1]:
                self._spans = []

    def _narrowed(
        self, span: tuple[float, float], way: int, used: float, rounding: float, reset_after: float
    ) -> tuple[float, float]:
        less, more = WHOLE_SECONDS[way] if reset_after.is_integer() else PRECISE
        noise = NOISE * reset_after
        shortest = (reset_after + less - noise) * self.limit / used
        least_used = used - rounding
        longest = (reset_after + more + noise) * self.limit / least_used if least_used > 0 else math.inf
        return max(span[0], shortest), min(span[1], longest)

    def refused(self, amount: float, wait: float, reset_after: float) -> bool:
        """A request was refused for which there seemed to be room; returns whether a small burst explains it.

        An empty bucket of burst b is full after b T and has room for an amount q after q T; at every moment the two waits differ by
        (b - q) T. The longest reset was that of an empty bucket, so it exceeds this difference by q T.

        Args:
            amount: q, what was refused.
            wait: seconds after which it would not be.
            reset_after: seconds until the bucket is full.
        """
        longest = max(self._longest_reset, reset_after)
        unit = (longest - (reset_after - wait)) / amount
        if not (unit > 0.0 and FAR * longest / unit < self.limit):
            return False
        self._unit, self.burst = unit, max(amount, round(longest / unit))
        return True

    def shown(self, remaining: float) -> None:
        """An answer shows so much left: more than a small burst could have refutes it."""
        if remaining > self.burst:
            self._unit, self.burst = 0.0, math.inf

    @property
    def refills(self) -> bool:
        """Whether it is surely continuous: a reset was shown that is longer than any window could be."""
        return bool(self._unit) or (self.continuous and self._longest_reset > FAR * self._window_at_most)

    @property
    def period(self) -> float:
        """Seconds; 0 while nothing is known."""
        if self.known_period:
            return self.known_period
        if self._unit:
            period = self.limit * self._unit
            return min(nice(period * (1 - UNIT_NOISE), period * (1 + UNIT_NOISE)), LONGEST)
        if not self._longest_reset:
            return 0.0
        if self.continuous:
            low, high = max(self._if_continuous, self._longest_reset), self._if_continuous_at_most
            if high > FAR * low:
                low = max(low, min(low for low, high in self._spans if low <= high))
                high = low * 1.05
            period = nice(low, high)
        else:
            low = self._longest_reset
            high = self._window_at_most
            period = nice(low, high * (1 + NOISE) if low <= high < math.inf else low * 1.05)
        return min(max(period, SHORTEST), LONGEST)
