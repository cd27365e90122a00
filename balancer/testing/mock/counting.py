"""The truth of a mock backend's limits: an exact sliding window and a token bucket, pure.

Sliding: at most L in any half-open window of P seconds; what was taken at t counts until just before t + P.
Bucket: a level of at most B that refills at L / P; as one float, the time at which it will be full again.
A request is charged at its arrival with an estimate, which `correct` later replaces; a correction upward may push the count
over the limit, and then nothing is admitted until it is worked off.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import attrs

from balancer.core.call import Demand
from balancer.core.settings import Limits, Rate

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


@attrs.frozen
class Shown:
    """One limit as an honest header shows it."""

    dimension: str
    limit: float
    remaining: float
    reset_after: float


@attrs.frozen
class Refused:
    """Why a request is not admitted.

    Attributes:
        dimension: what is used up: one of the dimensions of a quota, or `"concurrency"`.
        limit, per: the limit that stands in the way longest; `per` is 0 for concurrency.
        used, requested: what counted at the arrival, and what the request would have added.
        retry_after: seconds until it would be admitted if nobody else came; `inf`: never; `None`: nobody can know.
    """

    dimension: str
    limit: float
    per: float
    used: float
    requested: float
    retry_after: float | None


@attrs.frozen
class Admitted:
    """What an admitted request has taken from each limit, in the order of the ledger's counters."""

    taken: tuple[Taken, ...]


@attrs.define(eq=False)
class Ledger:
    """What one key has used of the backend's limits."""

    limits: Limits
    charge_refused: bool = False
    in_flight: int = attrs.field(init=False, default=0)
    _counters: tuple[tuple[str, Counter], ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        sliding = self.limits.window == "sliding"
        self._counters = tuple(
            (dimension, Sliding(rate) if sliding else Bucket(rate, min(rate.amount, self.limits.burst or math.inf)))
            for dimension, rate in self.limits.rates()
        )

    def admit(self, demand: Demand, now: float) -> Admitted | Refused:
        """Counts the request at its arrival, or says why not. An admitted one must be ended with `end`."""
        refused = self._refusal(demand, now)
        if refused is None:
            self.in_flight += 1
            return Admitted(tuple(counter.take(getattr(demand, name), now) for name, counter in self._counters))
        if not self.charge_refused:
            return refused
        for name, counter in self._counters:
            if name == "requests":
                # A bucket cannot hold less than nothing; a window remembers all it saw.
                left = max(0.0, counter.capacity - counter.used(now)) if isinstance(counter, Bucket) else math.inf
                counter.take(min(demand.requests, left), now)
        return self._refusal(demand, now) or refused

    def _refusal(self, demand: Demand, now: float) -> Refused | None:
        worst: Refused | None = None
        most = self.limits.concurrency
        if most is not None and self.in_flight >= most:
            worst = Refused("concurrency", most, 0.0, self.in_flight, 1, None)
        for name, counter in self._counters:
            amount = getattr(demand, name)
            wait = counter.wait_for(amount, now)
            if wait > 0.0 and (worst is None or worst.retry_after is None or wait > worst.retry_after):
                worst = Refused(name, counter.rate.amount, counter.rate.per, counter.used(now), amount, wait)
        return worst

    def end(self, admitted: Admitted, actual: Demand, now: float) -> None:
        """Ends an admitted request: what it was charged becomes what it took."""
        self.in_flight -= 1
        self.correct(admitted, actual, now)

    def correct(self, admitted: Admitted, actual: Demand, now: float) -> None:
        """Puts what a request took in place of what it was charged."""
        for (name, counter), taken in zip(self._counters, admitted.taken, strict=True):
            if (amount := getattr(actual, name)) != taken.amount:
                counter.correct(taken, amount, now)

    def shown(self, now: float) -> list[Shown]:
        """Each limited dimension; where it has several limits, the one with the least left."""
        least: dict[str, Shown] = {}
        for name, counter in self._counters:
            remaining = max(0.0, counter.capacity - counter.used(now))
            if name not in least or remaining < least[name].remaining:
                least[name] = Shown(name, counter.rate.amount, remaining, counter.reset_after(now))
        return list(least.values())
