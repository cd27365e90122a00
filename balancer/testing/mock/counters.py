"""The counters of a mock backend, pure: an exact sliding window, a token bucket, a civil day or month.

Sliding: at most L in any half-open window of P seconds; what was taken at t counts until just before t + P.
Bucket: a level of at most B that refills at L / P; as one float, the time at which it will be full again.
Calendar: at most L while the date of the zone's clocks is the same.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from datetime import date, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

import attrs

from balancer.core.limits import MONTH, Rate

# A client that waits exactly as long as it was told must not be refused for the last bit of a float.
SLACK = 1e-9


@attrs.define(eq=False)
class Taken:
    """What one request has taken from one limit."""

    at: float
    amount: float


class Counter(Protocol):
    """One limit of one key."""

    rate: Rate

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until `amount` fits; 0 if it does now, `inf` if it never will."""
        ...

    def take(self, amount: float, now: float) -> Taken:
        """Counts `amount`, whether it fits or not."""
        ...

    def correct(self, taken: Taken, amount: float, now: float) -> None:
        """Counts `amount` in place of what was taken."""
        ...

    def used(self, now: float) -> float:
        """What counts now; may exceed the limit after a correction."""
        ...

    def reset_after(self, now: float) -> float:
        """Seconds until the limit shows itself renewed, as its provider means it."""
        ...

    @property
    def capacity(self) -> float:
        """The most that can ever fit at once."""
        ...


@attrs.define(eq=False)
class Sliding:
    """At most `rate.amount` in any `rate.per` seconds."""

    rate: Rate
    _log: deque[Taken] = attrs.field(init=False, factory=deque[Taken])
    _used: float = attrs.field(init=False, default=0.0)

    @property
    def capacity(self) -> float:
        """The most that can ever fit at once."""
        return self.rate.amount

    def _expire(self, now: float) -> None:
        log = self._log
        while log and log[0].at + self.rate.per <= now + SLACK:
            self._used -= log.popleft().amount

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until enough of what was taken has left the window."""
        self._expire(now)
        excess = self._used + amount - self.rate.amount
        if excess <= SLACK:
            return 0.0
        for taken in self._log:
            excess -= taken.amount
            if excess <= SLACK:
                return taken.at + self.rate.per - now
        return math.inf

    def take(self, amount: float, now: float) -> Taken:
        """Counts `amount`, whether it fits or not."""
        self._expire(now)
        taken = Taken(now, amount)
        self._log.append(taken)
        self._used += amount
        return taken

    def correct(self, taken: Taken, amount: float, now: float) -> None:
        """Counts `amount` at the instant of the arrival; nothing, if that has left the window."""
        self._expire(now)
        if taken.at + self.rate.per > now + SLACK:
            self._used += amount - taken.amount
            taken.amount = amount

    def used(self, now: float) -> float:
        """What was taken in the window that ends now."""
        self._expire(now)
        return self._used

    def reset_after(self, now: float) -> float:
        """Seconds until the oldest leaves the window; 0 if it is empty."""
        self._expire(now)
        return self._log[0].at + self.rate.per - now if self._log else 0.0


@attrs.define(eq=False)
class Bucket:
    """A bucket of `capacity` that refills `rate.amount` per `rate.per` seconds."""

    rate: Rate
    capacity: float
    _full_at: float = attrs.field(init=False, default=-math.inf)

    @property
    def _each(self) -> float:
        return self.rate.per / self.rate.amount

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until the level has risen to `amount`."""
        if amount > self.capacity + SLACK:
            return math.inf
        wait = max(self._full_at, now) + (amount - self.capacity) * self._each - now
        return wait if wait > SLACK else 0.0

    def take(self, amount: float, now: float) -> Taken:
        """Counts `amount`, whether it fits or not."""
        self._full_at = max(self._full_at, now) + amount * self._each
        return Taken(now, amount)

    def correct(self, taken: Taken, amount: float, now: float) -> None:
        """Takes or gives back the difference now."""
        self._full_at = max(self._full_at, now) + (amount - taken.amount) * self._each
        taken.amount = amount

    def used(self, now: float) -> float:
        """What is missing from a full bucket."""
        return max(0.0, self._full_at - now) / self._each

    def reset_after(self, now: float) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self._full_at - now)


@attrs.define(eq=False)
class Calendar:
    """At most `rate.amount` in any civil day or month of `zone`. `epoch` are the Unix seconds at time 0."""

    rate: Rate
    zone: ZoneInfo
    epoch: float
    _date: date = attrs.field(init=False, default=date.min)
    _used: float = attrs.field(init=False, default=0.0)

    @property
    def capacity(self) -> float:
        """The most that can ever fit at once."""
        return self.rate.amount

    def _date_at(self, seconds: float) -> date:
        """The day, or the first one of the month, that the zone's clocks show."""
        day = datetime.fromtimestamp(math.floor(seconds), self.zone).date()
        return day.replace(day=1) if self.rate.per == MONTH else day

    def _expire(self, now: float) -> None:
        # A date that is shown twice, since clocks were set back at midnight, has begun once.
        if (today := self._date_at(now + self.epoch + SLACK)) > self._date:
            self._date, self._used = today, 0.0

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until the next day or month, if `amount` does not fit into what is left of this one."""
        self._expire(now)
        if self._used + amount - self.rate.amount <= SLACK:
            return 0.0
        return self.reset_after(now) if amount <= self.rate.amount + SLACK else math.inf

    def take(self, amount: float, now: float) -> Taken:
        """Counts `amount`, whether it fits or not."""
        self._expire(now)
        self._used += amount
        return Taken(now, amount)

    def correct(self, taken: Taken, amount: float, now: float) -> None:
        """Counts `amount` in place of what was taken; nothing, if that was on another day or in another month."""
        self._expire(now)
        if self._date_at(taken.at + self.epoch + SLACK) >= self._date:
            self._used += amount - taken.amount
            taken.amount = amount

    def used(self, now: float) -> float:
        """What was taken since the day or the month began."""
        self._expire(now)
        return self._used

    def reset_after(self, now: float) -> float:
        """Seconds until the next day or month begins."""
        self._expire(now)
        first = math.floor(now + self.epoch)
        ahead = range(first, first + 33 * 86_400)
        return ahead[bisect_right(ahead, self._date, key=self._date_at)] - (now + self.epoch)
