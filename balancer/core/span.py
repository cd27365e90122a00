"""What a reset that is shown tells of the period of a bucket: bounds, whatever others take and whatever the bucket holds."""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs

PRECISE = (-0.001, 0.001)
WAYS = ((0.0, 1.0), (-1.0, 0.0), (-0.5, 0.5), (-2.0, 0.0))
"""What the true reset may add to one shown in whole seconds: cut off, rounded up, rounded to the nearest, and an instant that is
rounded up, read against a date that is cut off. A provider keeps to one of them, so each is followed through all samples on its own."""

WHOLE = (-2.0, 1.0)
"""The same, whichever it is."""

NOISE = 0.02
"""Relative error of any reset: it is read and written at different moments."""


class Seen(NamedTuple):
    """One response: units used, which may be too many by `rounding`, and bounds of the true reset."""

    used: float
    rounding: float
    soonest: float
    latest: float


def bounds_of(reset_after: float, way: tuple[float, float]) -> tuple[float, float]:
    """Bounds of the true reset, by one way to round it to whole seconds."""
    less, more = way if reset_after.is_integer() else PRECISE
    noise = NOISE * reset_after
    return reset_after + less - noise, reset_after + more + noise


@attrs.define(eq=False)
class Span:
    """Bounds of a period.

    Attributes:
        low: at least, since no bucket holds more than the limit.
        full_high: at most, if it holds all of the limit.
        high: at most, whatever it holds.
    """

    low: float = 0.0
    full_high: float = math.inf
    high: float = math.inf

    def take_in(self, limit: float, seen: Seen, counted: tuple[float, float] = (0.0, 0.0)) -> None:
        """Narrow it by one response, and by what that had surely counted: units, and seconds since these were sent."""
        if seen.used > 0.0:
            self.low = max(self.low, seen.soonest * limit / seen.used)
        if (least_used := seen.used - seen.rounding) > 0.0:
            self.full_high = min(self.full_high, seen.latest * limit / least_used)
        amount, sent_for = counted
        if amount:  # it is full no sooner than this has refilled
            self.high = min(self.high, (sent_for + seen.latest) * limit / amount)

    def compare(self, limit: float, one: Seen, other: Seen) -> None:
        """Narrow it by two responses: whatever a full bucket holds, their resets differ as what is used does."""
        less, more = sorted((one, other))
        apart, rounding = more.used - less.used, max(one.rounding, other.rounding)
        if apart + rounding > 0.0:
            self.low = max(self.low, (more.soonest - less.latest) * limit / (apart + rounding))
        if apart > rounding:
            self.high = min(self.high, (more.latest - less.soonest) * limit / (apart - rounding))
