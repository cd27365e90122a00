"""What one key may take of a mock backend: which limits hold for a request, what of it each of them counts, and when.

At its arrival a request is counted as what is known of it then; its answer may correct that. A correction upward may push a
count over its limit, and then nothing is admitted until it is worked off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from zoneinfo import ZoneInfo

import attrs

from balancer.core.call import Demand
from balancer.core.limits import MONTH, NO_PRESETS, Limits, Presets, Rate, Terms
from balancer.testing.mock.counters import Bucket, Counter, Dates, Fixed, Sliding, Taken

_WHOLE = ("requests", "images")
"""Counted at the arrival, whatever the answer brings."""


@attrs.define(eq=False)
class _Limit:
    """One limit: how it counts, and for which model; `None`: for all together."""

    terms: Terms
    model: str | None
    counter: Counter

    def at_arrival(self, demand: Demand) -> float:
        """What a request is counted as when it arrives."""
        dimension, charged = self.terms.dimension, self.terms.charged
        if dimension in _WHOLE or (dimension == "input_tokens" and charged != "produced"):
            return getattr(demand, dimension)
        match charged:
            case "produced":
                return 0.0
            case "start":
                return getattr(demand, dimension)
            case _:
                return demand.bound if dimension == "tokens" else demand.output_bound

    def needed(self, demand: Demand) -> float:
        """What must fit for a request to be admitted: what is counted later needs some room all the same."""
        return self.at_arrival(demand) or min(1.0, getattr(demand, self.terms.dimension))

    def correct(self, taken: Taken, actual: Demand, now: float) -> Taken:
        """Counts what a request has taken by now; returns what stands for it from now on."""
        if self.terms.dimension in _WHOLE or self.terms.charged in ("start", "max_tokens"):
            return taken
        amount = getattr(actual, self.terms.dimension)
        if self.terms.charged == "produced" and not taken.amount:
            return self.counter.take(amount, now)  # not at the arrival's time: then it was not there
        if amount != taken.amount:
            self.counter.correct(taken, amount, now)
        return taken


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


@attrs.frozen(eq=False)
class Admitted:
    """What an admitted request has taken from each limit that holds for it."""

    taken: dict[_Limit, Taken]


@attrs.define(eq=False)
class Ledger:
    """What one key has used of the backend's limits.

    Args:
        limits: what it may take, for each model too.
        charge_refused: whether every limit of requests counts a refused one too.
        presets: how the provider counts where the limits do not say.
        epoch: Unix seconds at time 0, for days and months of the calendar.
    """

    limits: Limits
    charge_refused: bool = False
    presets: Presets = NO_PRESETS
    epoch: float = 0.0
    in_flight: int = attrs.field(init=False, default=0)
    _limits: tuple[_Limit, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        by_model: Mapping[str | None, Limits] = {None: self.limits, **self.limits.models}
        self._limits = tuple(
            _Limit(terms, model, _counter(terms, self.epoch))
            for model, limits in by_model.items()
            for terms in limits.terms(self.presets)
        )

    def _for(self, model: str | None) -> Iterator[_Limit]:
        return (limit for limit in self._limits if limit.model in (None, model))

    def admit(self, demand: Demand, now: float, model: str | None = None) -> Admitted | Refused:
        """Counts the request at its arrival, or says why not. An admitted one must be ended with `end`.

        Args:
            demand: its input, the output that its answer will have and the most that it permits, and its images.
            now: seconds.
            model: the one that it names.
        """
        refused = self._refusal(demand, now, model)
        if refused is None:
            self.in_flight += 1
            return Admitted({limit: limit.counter.take(limit.at_arrival(demand), now) for limit in self._for(model)})
        charging = [limit for limit in self._for(model) if self._charges_refused(limit.terms)]
        for limit in charging:
            counter = limit.counter
            # A bucket cannot hold less than nothing; a window remembers all it saw.
            left = max(0.0, counter.capacity - counter.used(now)) if isinstance(counter, Bucket) else math.inf
            counter.take(min(limit.at_arrival(demand), left), now)
        return (self._refusal(demand, now, model) if charging else None) or refused

    def _charges_refused(self, terms: Terms) -> bool:
        return terms.failed_charged or (self.charge_refused and terms.dimension == "requests")

    def _refusal(self, demand: Demand, now: float, model: str | None) -> Refused | None:
        worst: Refused | None = None
        most = self.limits.concurrency
        if most is not None and self.in_flight >= most:
            worst = Refused("concurrency", most, 0.0, self.in_flight, 1, None)
        for limit in self._for(model):
            counter, amount = limit.counter, limit.needed(demand)
            wait = counter.wait_for(amount, now)
            if wait > 0.0 and (worst is None or worst.retry_after is None or wait > worst.retry_after):
                rate = counter.rate
                worst = Refused(limit.terms.dimension, rate.amount, rate.per, counter.used(now), amount, wait)
        return worst

    def end(self, admitted: Admitted, actual: Demand, now: float) -> None:
        """Ends an admitted request: what it was charged becomes what it took, where that is how it is counted."""
        self.in_flight -= 1
        self.correct(admitted, actual, now)

    def correct(self, admitted: Admitted, actual: Demand, now: float) -> None:
        """Puts what a request took in place of what it was charged."""
        for limit, taken in admitted.taken.items():
            admitted.taken[limit] = limit.correct(taken, actual, now)

    def shown(self, now: float, model: str | None = None) -> list[Shown]:
        """Each dimension that limits the model; where it has several limits, the one with the least left."""
        least: dict[str, Shown] = {}
        for limit in self._for(model):
            name, counter = limit.terms.dimension, limit.counter
            remaining = max(0.0, counter.capacity - counter.used(now))
            if name not in least or remaining < least[name].remaining:
                least[name] = Shown(name, counter.rate.amount, remaining, counter.reset_after(now))
        return list(least.values())


def _counter(terms: Terms, epoch: float) -> Counter:
    rate = Rate(terms.amount, terms.per)
    match terms.window:
        case "bucket":
            return Bucket(rate, terms.burst)
        case "sliding":
            return Sliding(rate)
        case "calendar":
            return Fixed(rate, Dates(rate.per == MONTH, ZoneInfo(terms.zone), epoch))
