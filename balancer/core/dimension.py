"""One rate at one moment, as snapshots hold it: instants, from which amounts are computed when they are asked for."""

from __future__ import annotations

import math
from typing import NamedTuple

from balancer.core.quota import in_use

Models = frozenset[str | None]


def covers(models: Models | None, other_models: Models, model: str | None) -> bool:
    """Whether a rate of these models counts calls for `model`; `None`: of all but `other_models`."""
    return model not in other_models if models is None else model in models


class DimensionSnapshot(NamedTuple):
    """One rate at one moment; amounts are computed from instants when they are asked for.

    Attributes:
        dimension: what it counts, one of `DIMENSIONS`.
        name: tells several rates of one dimension apart.
        period: seconds.
        limit: units per period.
        burst: units that may go at once; the largest demand that ever fits.
        learned: whether it was learned from answers, not configured.
        reserved: units under reservations that have not ended.
        kept_back: units that are kept free for what these may still turn out to take.
        held: units in use at most, but for those kept back.
        full_at: trio time at which refill alone has freed everything; `inf` where charges leave one by one.
        valid_until: trio time from which a new snapshot shows more room than this one computes; the next refill of a window.
        bias: mean of what was really taken over what was estimated; 1 without data.
        spread: relative standard deviation of the same.
        models: the models it holds for; `None` for every one that is not in `other_models`.
        other_models: models that have a rate of their own in its place.
    """

    dimension: str
    name: str
    period: float
    limit: float
    burst: float
    learned: bool
    reserved: float
    kept_back: float
    held: float
    full_at: float
    valid_until: float
    bias: float
    spread: float
    models: Models | None
    other_models: Models

    def used(self, now: float) -> float:
        """Units in use: reserved, charged, in debt, kept back."""
        return in_use(self.held, self.full_at, self.limit / self.period, now) + self.kept_back

    def room(self, now: float) -> float:
        """Units that fit at once; negative in debt."""
        return self.burst - self.used(now)

    def covers(self, model: str | None) -> bool:
        """Whether calls for `model` count against it."""
        return covers(self.models, self.other_models, model)

    @property
    def next_refill(self) -> float:
        """Trio time at which more is free (windows) or everything is (buckets); `inf` if nothing is in use."""
        return min(self.full_at, self.valid_until) if self.held > 0.0 else math.inf
