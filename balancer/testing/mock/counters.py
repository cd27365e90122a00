"""How a provider counts a rate, pure, for mock and for simulated backends: a sliding window, a token bucket, a fixed window.

Nothing of the balancer's own quota is used: whoever judges it must not share its mistakes.
Sliding: at most L in any half-open window of P seconds; what was taken at t counts until just before t + P.
Bucket: a level of at most B that refills at L / P; as one float, the time at which it will be full again.
Fixed: at most L between two multiples of P, or while the date of a zone's clocks is the same.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from datetime import datetime
from typing import Protocol
from zoneinfo import ZoneInfo

import attrs

from balancer.core.limits import Rate

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
        return next((taken.at + self.rate.per - now for taken in self._log if taken.amount), 0.0)


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


class Periods(Protocol):
    """What divides time into fixed windows."""

    def number(self, at: float) -> int:
        """That of the window in which `at` lies."""
        ...

    def left(self, number: int, now: float) -> float:
        """Seconds until a window of a higher number begins."""
        ...


@attrs.frozen
class Multiples:
    """A window between every two multiples of `per` seconds."""

    per: float

    def number(self, at: float) -> int:
        """How many have begun since 0."""
        return math.floor(at / self.per + SLACK)

    def left(self, number: int, now: float) -> float:
        """Seconds until the next multiple."""
        return (number + 1) * self.per - now


@attrs.frozen
class Dates:
    """A window for every civil day of `zone`, or, `by_month`, every month. `epoch` are the Unix seconds at time 0."""

    by_month: bool
    zone: ZoneInfo
    epoch: float

    def _shown(self, seconds: float) -> int:
        """The day, or the first one of the month, that the zone's clocks show."""
        day = datetime.fromtimestamp(math.floor(seconds), self.zone).date()
        return (day.replace(day=1) if self.by_month else day).toordinal()

    def number(self, at: float) -> int:
        """That of the date."""
        return self._shown(at + self.epoch + SLACK)

    def left(self, number: int, now: float) -> float:
        """Seconds until a later date is shown."""
        first = math.floor(now + self.epoch)
        ahead = range(first, first + 33 * 86_400)
        return ahead[bisect_right(ahead, number, key=self._shown)] - (now + self.epoch)


@attrs.define(eq=False)
class Fixed:
    """At most `rate.amount` in each of the `periods`."""

    rate: Rate
    periods: Periods
    _number: int = attrs.field(init=False, default=0)
    _used: float = attrs.field(init=False, default=0.0)

    @property
    def capacity(self) -> float:
        """The most that can ever fit at once."""
        return self.rate.amount

    def _expire(self, now: float) -> None:
        # A date that is shown twice, since clocks were set back at midnight, has begun once.
        if (number := self.periods.number(now)) > self._number:
            self._number, self._used = number, 0.0

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until the next window, if `amount` does not fit into what is left of this one."""
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
        """Counts `amount` in place of what was taken; nothing, if that was in another window."""
        self._expire(now)
        if self.periods.number(taken.at) >= self._number:
            self._used += amount - taken.amount
            taken.amount = amount

    def used(self, now: float) -> float:
        """What was taken since the window began."""
        self._expire(now)
        return self._used

    def reset_after(self, now: float) -> float:
        """Seconds until the next window begins."""
        self._expire(now)
        return self.periods.left(self._number, now)
