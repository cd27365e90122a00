"""How a provider counts a limit: plain counters that decide, and a judge that checks a record of what they admitted.

Nothing of the balancer's own ledger is used: whoever judges it must not share its mistakes. A bucket is a level that refills, a
sliding window is a log, a fixed window is a number that is cleared.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import attrs

from balancer.core.call import DIMENSIONS, Demand, Usage

SLACK = 1e-9
"""Share of a limit, and seconds, that are not counted: who waits exactly as told is not refused for the last bit of a float."""


@attrs.frozen
class SimulatedLimit:
    """One limit of one account, as its provider counts it.

    Args:
        dimension: `"requests"`, `"tokens"`, `"input_tokens"`, `"output_tokens"`, `"images"` or `"concurrency"`.
        amount: so much per period, > 0; of concurrency, so many at once.
        per: the period in seconds, > 0; of no meaning for concurrency.
        window: `"bucket"` (refills continuously), `"sliding"` (at most `amount` in any half-open period) or `"fixed"` (cleared at
            every multiple of the period).
        burst: for buckets, how much a full one holds; `None`: the amount.
        charged: what of the tokens is counted and when: `"start"`: what it really takes, at its admission; `"adjusted"`: the
            demand at its admission, corrected to what it took at its answer; `"produced"`: what it took, at its answer;
            `"max_tokens"`: the input really taken and the bound of the output, at its admission. A request or an image is
            always counted at the admission.
        refused_charged: whether a refused request counts as if it had been admitted.
        model: the account's own name of the one model that it counts; `None`: all together.
    """

    dimension: str
    amount: float
    per: float = 60.0
    window: Literal["bucket", "sliding", "fixed"] = "bucket"
    burst: float | None = None
    charged: Literal["start", "adjusted", "produced", "max_tokens"] = "start"
    refused_charged: bool = False
    model: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.dimension not in (*DIMENSIONS, "concurrency"):
            raise ValueError(f"no dimension of a limit: {self.dimension!r}")
        if not (0.0 < self.amount < math.inf and 0.0 < self.per < math.inf and (self.burst is None or self.burst > 0.0)):
            raise ValueError("amount, period and burst of a limit are finite and above 0")

    @property
    def capacity(self) -> float:
        """The most that can ever fit at once."""
        return self.burst if self.window == "bucket" and self.burst is not None else self.amount

    def counts(self, model: str | None) -> bool:
        """Whether requests for `model` count."""
        return self.model in (None, model)

    def at_admission(self, demand: Demand, truth: Usage) -> float:
        """What a request is counted as when it is admitted."""
        if self.dimension == "concurrency":
            return 1.0
        if self.dimension in ("requests", "images") or self.charged == "start":
            return getattr(truth, self.dimension)
        match self.charged:
            case "adjusted":
                return getattr(demand, self.dimension)
            case "max_tokens" if self.dimension == "output_tokens":
                return demand.output_bound
            case "max_tokens" if self.dimension == "tokens":
                return truth.input_tokens + demand.output_bound
            case "max_tokens":
                return truth.input_tokens
            case _:
                return 0.0

    def in_the_end(self, demand: Demand, truth: Usage) -> float:
        """What a request is counted as once it has been answered."""
        if self.charged in ("adjusted", "produced") and self.dimension != "concurrency":
            return getattr(truth, self.dimension)
        return self.at_admission(demand, truth)


@attrs.define(eq=False)
class Charge:
    """What one request was counted as by one counter."""

    at: float
    amount: float


class Counter(Protocol):
    """What one limit has counted so far."""

    def room(self, now: float) -> float:
        """What would be admitted now; negative after a correction that owes."""
        ...

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until `amount` would be admitted if nothing else came; 0 if now, `inf` if never or if nobody can know."""
        ...

    def charge(self, amount: float, now: float) -> Charge:
        """Count `amount`, whether there is room or not."""
        ...

    def correct(self, charge: Charge, amount: float, now: float) -> None:
        """Count `amount` in place of what was charged."""
        ...

    def reset_after(self, now: float) -> float:
        """What an honest header shows as the reset: seconds until a bucket is full, until the oldest charge leaves a sliding
        window, until a fixed window ends."""
        ...


@attrs.define(eq=False)
class _Bucket:
    limit: SimulatedLimit
    _level: float = attrs.field(init=False)
    _at: float = attrs.field(init=False, default=-math.inf)

    def __attrs_post_init__(self) -> None:
        self._level = self.limit.capacity

    def room(self, now: float) -> float:
        refilled = self._level + (now - self._at) * self.limit.amount / self.limit.per
        self._level, self._at = min(self.limit.capacity, refilled), now
        return self._level

    def wait_for(self, amount: float, now: float) -> float:
        missing = amount - self.room(now)
        if amount > self.limit.capacity * (1.0 + SLACK):
            return math.inf
        return max(0.0, missing * self.limit.per / self.limit.amount) if missing > SLACK * self.limit.amount else 0.0

    def charge(self, amount: float, now: float) -> Charge:
        self._level = self.room(now) - amount
        return Charge(now, amount)

    def correct(self, charge: Charge, amount: float, now: float) -> None:
        self._level = min(self.limit.capacity, self.room(now) + charge.amount - amount)
        charge.amount = amount

    def reset_after(self, now: float) -> float:
        return (self.limit.capacity - self.room(now)) * self.limit.per / self.limit.amount


@attrs.define(eq=False)
class _Sliding:
    limit: SimulatedLimit
    _log: deque[Charge] = attrs.field(init=False, factory=deque[Charge])
    _used: float = attrs.field(init=False, default=0.0)

    def room(self, now: float) -> float:
        log = self._log
        while log and log[0].at + self.limit.per <= now + SLACK:
            self._used -= log.popleft().amount
        return self.limit.amount - self._used

    def wait_for(self, amount: float, now: float) -> float:
        missing = amount - self.room(now)
        if missing <= SLACK * self.limit.amount:
            return 0.0
        for charge in self._log:
            missing -= charge.amount
            if missing <= SLACK * self.limit.amount:
                return charge.at + self.limit.per - now
        return math.inf

    def charge(self, amount: float, now: float) -> Charge:
        charge = Charge(now, amount)
        self._log.append(charge)
        self._used += amount
        return charge

    def correct(self, charge: Charge, amount: float, now: float) -> None:
        self.room(now)
        if charge.at + self.limit.per > now + SLACK:  # else it has left the window
            self._used += amount - charge.amount
            charge.amount = amount

    def reset_after(self, now: float) -> float:
        self.room(now)
        return self._log[0].at + self.limit.per - now if self._log else 0.0


@attrs.define(eq=False)
class _Fixed:
    limit: SimulatedLimit
    _window: float = attrs.field(init=False, default=-math.inf)
    _used: float = attrs.field(init=False, default=0.0)

    def room(self, now: float) -> float:
        window = window_of(now, self.limit.per)
        if window != self._window:
            self._window, self._used = window, 0.0
        return self.limit.amount - self._used

    def wait_for(self, amount: float, now: float) -> float:
        if amount - self.room(now) <= SLACK * self.limit.amount:
            return 0.0
        return self.reset_after(now) if amount <= self.limit.amount else math.inf

    def charge(self, amount: float, now: float) -> Charge:
        self.room(now)
        self._used += amount
        return Charge(now, amount)

    def correct(self, charge: Charge, amount: float, now: float) -> None:
        self.room(now)
        if window_of(charge.at, self.limit.per) == self._window:
            self._used += amount - charge.amount
            charge.amount = amount

    def reset_after(self, now: float) -> float:
        return (window_of(now, self.limit.per) + 1.0) * self.limit.per - now


@attrs.define(eq=False)
class _AtOnce:
    """Concurrency: an answer ends what was counted, which is to correct it to nothing."""

    limit: SimulatedLimit
    _used: float = attrs.field(init=False, default=0.0)

    def room(self, now: float) -> float:
        del now
        return self.limit.amount - self._used

    def wait_for(self, amount: float, now: float) -> float:
        return 0.0 if amount <= self.room(now) else math.inf

    def charge(self, amount: float, now: float) -> Charge:
        self._used += amount
        return Charge(now, amount)

    def correct(self, charge: Charge, amount: float, now: float) -> None:
        del now
        self._used += amount - charge.amount
        charge.amount = amount

    def reset_after(self, now: float) -> float:
        del now
        return 0.0


def window_of(at: float, per: float) -> float:
    """The number of the fixed window in which `at` lies."""
    return math.floor(at / per + SLACK)


def make_counter(limit: SimulatedLimit) -> Counter:
    """A counter that has counted nothing yet."""
    if limit.dimension == "concurrency":
        return _AtOnce(limit)
    return {"bucket": _Bucket, "sliding": _Sliding, "fixed": _Fixed}[limit.window](limit)


# -- the judge --------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Overrun:
    """A span in which more was admitted than its limit allows.

    Attributes:
        limit: the limit.
        from_at, until: trio times of the first and the last admission of the span.
        amount, allowed: what was admitted in it, and what would have been allowed.
    """

    limit: SimulatedLimit
    from_at: float
    until: float
    amount: float
    allowed: float


def find_overruns(limit: SimulatedLimit, admitted: Sequence[tuple[float, float]]) -> list[Overrun]:
    """Every admission by which a span became too full, with the worst span that ends there.

    A bucket allows L t / P + B in a span of t seconds, a sliding window L in every half-open period, a fixed window L in each of
    its own.

    Args:
        limit: of a rate; concurrency has no spans.
        admitted: instants and amounts, in the order of time.
    """
    slack = SLACK * max(limit.amount, limit.capacity)
    return [span for span in _worst_spans(limit, admitted) if span.amount > span.allowed + slack]


def _worst_spans(limit: SimulatedLimit, admitted: Sequence[tuple[float, float]]) -> Iterator[Overrun]:
    rate = limit.amount / limit.per
    first, spent, fullest = 0, 0.0, math.inf  # spent: before the span's first admission; fullest: of all spans that could begin
    total, first_at = 0.0, 0.0
    for at, amount in admitted:
        if limit.window == "bucket":
            if total - rate * at < fullest:
                first_at, spent, fullest = at, total, total - rate * at
        else:
            while _left(limit, admitted[first][0], at):
                spent += admitted[first][1]
                first += 1
            first_at = admitted[first][0]
        total += amount
        allowed = limit.amount if limit.window != "bucket" else rate * (at - first_at) + limit.capacity
        yield Overrun(limit, first_at, at, total - spent, allowed)


def _left(limit: SimulatedLimit, at: float, now: float) -> bool:
    """Whether what was admitted at `at` no longer counts at `now`."""
    if limit.window == "sliding":
        return at + limit.per <= now + SLACK
    return window_of(at, limit.per) != window_of(now, limit.per)
