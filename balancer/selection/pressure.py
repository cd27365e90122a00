"""Least pressure: how much of an account's quota would be in use, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import attrs

from balancer.core.call import Demand
from balancer.core.snapshot import AccountSnapshot
from balancer.selection.prices import Priced
from balancer.selection.selector import least, weight_of

if TYPE_CHECKING:
    import random

HOT_QUANTILE = 0.84
"""Candidates whose dominant share lies above this quantile are hot; with fewer than `FEW`, those above this share itself."""
FEW = 5
NO_DATA = 0.03
"""Seconds assumed where no candidate has a sample yet."""


@attrs.define(eq=False)
class LeastPressure(Priced):
    """Among the accounts that are not hot, the one expected to finish first; if all are hot, the least used one.

    Hot is by dominant quota share after placement: "most spare tokens" would starve large calls. What is scarce is kept for those
    that take little of it: a call waits for an account that can take it soon, if there it costs others less (`Prices`).
    """

    @staticmethod
    def __call__(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
        """The choice; ties by `rng`."""
        if len(candidates) == 1:
            return candidates[0]
        costs: list[float] = []
        for candidate in candidates:  # one loop for all that is asked where nothing is limited: this is the hot path
            if candidate.dimensions or (latency := candidate.mean) is None:
                return _of_cold(candidates, demand, now, rng)
            costs.append(latency * (candidate.in_flight + 1) / (candidate.weight or 1.0))
        return least(candidates, costs, rng)


under_least_pressure = LeastPressure.__call__
"""The choice alone."""


def _of_cold(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """The choice where quotas are limited, or latencies not known."""
    shares = [candidate.share_after(demand, now) for candidate in candidates]
    line = HOT_QUANTILE if len(shares) < FEW else _quantile(shares, HOT_QUANTILE)
    cold = [candidate for candidate, share in zip(candidates, shares, strict=True) if share <= line]
    if not cold:
        return least(candidates, [share / weight_of(c) for c, share in zip(candidates, shares, strict=True)], rng)
    costs = [
        latency * (candidate.in_flight + 1) / weight_of(candidate)
        for candidate, latency in zip(cold, _expected(cold), strict=True)
    ]
    return least(cold, costs, rng)


def _expected(candidates: Sequence[AccountSnapshot]) -> list[float]:
    """Mean latency of each candidate in seconds; one without data is tried as the average of those that have some."""
    means = [candidate.mean for candidate in candidates]
    if None not in means:
        return cast("list[float]", means)
    known = [mean for mean in means if mean is not None]
    average = sum(known) / len(known) if known else NO_DATA
    return [average if mean is None else mean for mean in means]


def _quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, linear between order statistics."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
