"""Pressure: how much of an account's quota would be in use, and what a call takes of it where little is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import attrs

from balancer.core.call import Demand
from balancer.core.dimension import DimensionSnapshot
from balancer.core.snapshot import AccountSnapshot
from balancer.selection.selector import least, weight_of

if TYPE_CHECKING:
    import random

HOT_QUANTILE = 0.84
"""Candidates whose dominant share lies above this quantile are hot; with fewer than `FEW`, those above this share itself."""
FEW = 5
KEPT_FROM = 0.5
"""Share of a bucket in use from which on it is pressed: what it still holds is kept until somebody needs it."""
AHEAD = 1.0 / 12.0
"""Of its period, how far the use of a window may be ahead of an even pace since its oldest charge before it is pressed: 5 s of a
minute."""
NO_DATA = 0.03
"""Seconds assumed where no candidate has a sample yet."""


@attrs.frozen
class LeastPressure:
    """Among the accounts that are not hot, the one expected to finish first; if all are hot, the least used one.

    Hot is by dominant quota share after placement: "most spare tokens" would starve large calls. What is hot is kept for those
    that take little of it: a call waits for an account that can take it soon, if there it takes less of the account's time. That is
    trunk reservation, which loses little against the best routing of calls that may go two ways. Source: P. B. Key, "Optimal
    control and trunk reservation in loss networks". What a window has left is reserved from its first charge on, as far as its use
    is ahead of an even pace.
    """

    def __call__(
        self, candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random
    ) -> AccountSnapshot:
        """The choice; ties by `rng`."""
        if len(candidates) == 1:
            return candidates[0]
        costs: list[float] = []
        for candidate in candidates:  # one loop for all that is asked where nothing is limited: this is the hot path
            if candidate.dimensions or (latency := candidate.mean) is None:
                return _of_cold(candidates, demand, now, rng)
            costs.append(latency * (candidate.in_flight + 1) / (candidate.weight or 1.0))
        return least(candidates, costs, rng)

    def price(self, account: AccountSnapshot, demand: Demand, now: float) -> float:
        """The largest amount / limit x period, in seconds, of the rates that are pressed: the time that the account needs for the call."""
        seconds = 0.0
        for view in account.dimensions:
            amount = getattr(demand, view.dimension)
            if amount and pressed(view, amount, now):
                seconds = max(seconds, amount / view.limit * view.period)
        return seconds / weight_of(account)


least_pressure = LeastPressure()


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


def pressed(view: DimensionSnapshot, amount: float, now: float) -> bool:
    """Whether what is left of a rate should be kept, by what may be in use when `amount` is taken. Of a window that is counted by its
    pace: what is taken of it comes back only a period later, all at once, so that what is taken ahead of an even pace is missed at
    its end."""
    most = view.burst - amount
    if view.valid_until < math.inf:
        most *= HOT_QUANTILE * min(1.0, AHEAD + 1.0 - (view.valid_until - now) / view.period)
    else:
        most *= KEPT_FROM
    return view.used(now) > most


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
