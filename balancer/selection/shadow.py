"""Shadow price: the account where a call takes what is worth least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from balancer.core.call import Demand
from balancer.core.snapshot import AccountSnapshot
from balancer.selection.pressure import under_least_pressure
from balancer.selection.prices import Priced, weighed

if TYPE_CHECKING:
    import random


@attrs.define(eq=False)
class ShadowPrice(Priced):
    """The account where a call takes what is worth least; it would rather wait than take what is worth more."""

    def __call__(
        self, candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random
    ) -> AccountSnapshot:
        """The account where it takes what is worth least; of several, or if all are worth nothing, the one of least pressure."""
        if len(candidates) == 1:
            return candidates[0]
        costs = [self._prices.cost(candidate, demand, now) for candidate in candidates]
        if not any(costs):
            return under_least_pressure(candidates, demand, now, rng)
        costs = [weighed(cost, candidate, demand) for cost, candidate in zip(costs, candidates, strict=True)]
        least = min(costs)
        cheapest = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost == least]
        return under_least_pressure(cheapest, demand, now, rng)
