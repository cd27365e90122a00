"""What a simulated provider limits: which counter decides, what of a request it is told and when, and a judge that checks a record
of what was admitted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from heapq import merge
from typing import Literal

import attrs

from balancer.core.call import DIMENSIONS, Demand, Usage
from balancer.core.limits import Rate
from balancer.testing.mock.counters import SLACK, Bucket, Counter, Fixed, Multiples, Sliding, Taken


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
            demand at its admission, corrected to what it took at its answer; `"produced"`: what it took, at its answer and from
            then on; `"max_tokens"`: the input really taken and the bound of the output, at its admission. A request or an image
            is always counted at the admission.
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

    @property
    def counts_late(self) -> bool:
        """Whether a request is counted only when it has been answered."""
        return self.charged == "produced" and self.dimension not in ("requests", "images", "concurrency")

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

    def needed(self, demand: Demand, truth: Usage) -> float:
        """What must fit for a request to be admitted: of what is counted later, room for the first one of it."""
        return min(1.0, self.in_the_end(demand, truth)) if self.counts_late else self.at_admission(demand, truth)

    def in_the_end(self, demand: Demand, truth: Usage) -> float:
        """What a request is counted as once it has been answered."""
        if self.charged in ("adjusted", "produced") and self.dimension != "concurrency":
            return getattr(truth, self.dimension)
        return self.at_admission(demand, truth)


@attrs.define(eq=False)
class _AtOnce:
    """Concurrency: an answer ends what was counted, which is to correct it to nothing."""

    rate: Rate
    _used: float = attrs.field(init=False, default=0.0)

    @property
    def capacity(self) -> float:
        return self.rate.amount

    def wait_for(self, amount: float, now: float) -> float:
        del now
        return 0.0 if self._used + amount <= self.rate.amount else math.inf

    def take(self, amount: float, now: float) -> Taken:
        self._used += amount
        return Taken(now, amount)

    def correct(self, taken: Taken, amount: float, now: float) -> None:
        del now
        self._used += amount - taken.amount
        taken.amount = amount

    def used(self, now: float) -> float:
        del now
        return self._used

    def reset_after(self, now: float) -> float:
        del now
        return 0.0


def make_counter(limit: SimulatedLimit) -> Counter:
    """A counter that has counted nothing yet; of concurrency nobody knows when there will be room."""
    rate = Rate(limit.amount, limit.per)
    if limit.dimension == "concurrency":
        return _AtOnce(rate)
    match limit.window:
        case "bucket":
            return Bucket(rate, limit.capacity)
        case "sliding":
            return Sliding(rate)
        case "fixed":
            return Fixed(rate, Multiples(limit.per))


# -- the judge --------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Overrun:
    """A span at whose end more was admitted than its limit allows.

    Attributes:
        limit: the limit.
        from_at, until: trio times of the first that counts in the span, and of the admission that ends it.
        amount, allowed: what counts in it, that admission with what it needed, and what would have been allowed.
    """

    limit: SimulatedLimit
    from_at: float
    until: float
    amount: float
    allowed: float


def find_overruns(
    limit: SimulatedLimit, admitted: Sequence[tuple[float, float]], produced: Sequence[tuple[float, float]] = ()
) -> list[Overrun]:
    """Every admission by which a span became too full, with the worst span that ends there.

    A bucket allows L t / P + B in a span of t seconds, a sliding window L in every half-open period, a fixed window L in each of
    its own. Of a limit that counts late no answer is at fault: what is produced is not refused, so spans may hold more than that.
    At fault is an admission for whose need there was no room beside what had been produced before it.

    Args:
        limit: of a rate; concurrency has no spans.
        admitted: instants and amounts, in the order of time; where the limit counts late, what each needed.
        produced: instants and amounts of the answers that are counted late, in the order of time.
    """
    slack = SLACK * max(limit.amount, limit.capacity)
    return [span for span in _worst_spans(limit, admitted, produced) if span.amount > span.allowed + slack]


def _worst_spans(
    limit: SimulatedLimit, admitted: Sequence[tuple[float, float]], produced: Sequence[tuple[float, float]]
) -> Iterator[Overrun]:
    rate = limit.amount / limit.per
    first, spent, fullest = 0, 0.0, math.inf  # spent: before the span's first; fullest: of all spans that could begin
    total, first_at = 0.0, 0.0
    seen: list[tuple[float, float]] = []  # all that counts so far
    needs = ((at, amount, True) for at, amount in admitted)
    answers = ((at, amount, False) for at, amount in produced)
    for at, amount, judged in merge(needs, answers, key=lambda each: each[0]):  # at one instant needs come first
        seen.append((at, 0.0 if judged and limit.counts_late else amount))
        if limit.window == "bucket":
            if total - rate * at < fullest:
                first_at, spent, fullest = at, total, total - rate * at
        else:
            while _left(limit, seen[first][0], at):
                spent += seen[first][1]
                first += 1
            first_at = seen[first][0]
        if judged:
            allowed = limit.amount if limit.window != "bucket" else rate * (at - first_at) + limit.capacity
            yield Overrun(limit, first_at, at, total + amount - spent, allowed)
        total += seen[-1][1]


def _left(limit: SimulatedLimit, at: float, now: float) -> bool:
    """Whether what was admitted at `at` no longer counts at `now`."""
    if limit.window == "sliding":
        return at + limit.per <= now + SLACK
    periods = Multiples(limit.per)
    return periods.number(at) != periods.number(now)
