"""Shadow prices: what one unit of each rate of each account is worth, learned from the calls that come, whoever serves them.

Routing calls over quotas is a linear program: maximise the calls served, subject to what every rate admits. Its dual has one price
per account and dimension, and a call belongs where the price of what it takes is least: small calls go where tokens are scarce and
requests are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from balancer.core.call import DIMENSIONS, Demand
from balancer.core.dimension import DimensionSnapshot
from balancer.core.snapshot import AccountSnapshot
from balancer.selection.pressure import least_pressure, pressed
from balancer.selection.selector import weight_of

if TYPE_CHECKING:
    import random

STEP = 0.25
"""How much a whole period's units more, or less, than a rate admits move its price, in calls per typical demand. Smaller steps
follow slower, larger ones misplace calls at prices that swing."""

LEAST_WORTH = 8.0
"""Calls that a whole period's units of a rate are worth beyond their price. Prices that are still learned, or as good as equal, do
not tell accounts apart: then a call goes where it takes the least share. A twentieth of a limit then weighs as much as .4 calls."""

WORTH = 60.0
"""Seconds that a call may wait to spare the worth of one call. Quotas are mostly per minute: what a call takes there is back then."""

FOLLOWED = 0.01
"""Weight of a new call in the typical demand, at least: of the first ones all weigh the same."""

MOST_RATES = 4096
"""Rates whose prices are remembered: of limits that are learned, names and periods change."""

_Rate = tuple[str, str, float, frozenset["str | None"] | None]


@attrs.define(eq=False)
class ShadowPrice:
    """The account where a call takes what is worth least; it would rather wait than take what is worth more.

    Online dual descent. For every call that comes, an account's cost is sum_d p_d q_d, with p_d the price of one unit and q_d its
    demand; of the accounts where that is below 1, the worth of a call, the one with the least of cost + LEAST_WORTH sum_d q_d /
    limit_d takes it on paper. Prices follow what is taken on paper, not what is served: p_d <- max(0, p_d + STEP / q (taken / limit - elapsed /
    period)), with q the typical demand.
    Source: S. Agrawal, Z. Wang, Y. Ye, "A dynamic near-optimal algorithm for online linear programming"; X. Li, C. Sun, Y. Ye,
    "Simple and fast algorithm for binary integer and online linear programming".
    """

    _prices: dict[_Rate, tuple[float, float]] = attrs.field(factory=dict[_Rate, tuple[float, float]], init=False)
    """Of each rate its price, and when it was that."""
    _typical: dict[str, float] = attrs.field(factory=dict[str, float], init=False)
    """Of each dimension the mean logarithm of what calls demand of it."""
    _steps: dict[str, float] = attrs.field(factory=dict[str, float], init=False)
    """Of each dimension `STEP` per typical demand."""
    _seen: int = attrs.field(default=0, init=False)
    """Calls that have come, until `FOLLOWED` of one is less than its share."""

    def __call__(
        self, candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random
    ) -> AccountSnapshot:
        """The account where it takes what is worth least; of several, or if all are worth nothing, the one of least pressure."""
        if len(candidates) == 1:
            return candidates[0]
        costs = [self._cost(candidate, demand, now) for candidate in candidates]
        if not any(costs):
            return least_pressure(candidates, demand, now, rng)
        costs = [_weighed(cost, candidate, demand) for cost, candidate in zip(costs, candidates, strict=True)]
        least = min(costs)
        cheapest = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost == least]
        return least_pressure(cheapest, demand, now, rng)

    def price(self, account: AccountSnapshot, demand: Demand, now: float) -> float:
        """Seconds that the call had better wait for another account; 0 where the account has room to spare."""
        for view in account.dimensions:
            amount = getattr(demand, view.dimension)
            if amount and pressed(view, amount, now):
                return WORTH * _weighed(self._cost(account, demand, now), account, demand)
        return 0.0

    def learn(self, accounts: Sequence[AccountSnapshot], demand: Demand, now: float) -> bool:
        """A call has come that these accounts could take, now or later; returns whether one of them is worth it."""
        self._note(demand)
        if len(self._prices) > MOST_RATES:
            self._prices.clear()
        best, least = None, math.inf
        for account in accounts:
            cost = self._cost(account, demand, now)
            if cost < 1.0 and (weighed := _weighed(cost, account, demand)) < least:
                best, least = account, weighed
        if best is None:
            return False
        for view in best.dimensions:
            if amount := getattr(demand, view.dimension):
                price = self._price(best, view, now) + self._steps[view.dimension] * amount / view.limit
                self._prices[_rate(best, view)] = price, now
        return True

    def _cost(self, account: AccountSnapshot, demand: Demand, now: float) -> float:
        """What the call takes of the account, in calls."""
        cost = 0.0
        for view in account.dimensions:
            if amount := getattr(demand, view.dimension):
                cost += amount * self._price(account, view, now)
        return cost

    def _price(self, account: AccountSnapshot, view: DimensionSnapshot, now: float) -> float:
        price, at = self._prices.get(_rate(account, view), (0.0, now))
        if price:
            price = max(0.0, price - self._steps[view.dimension] * (now - at) / view.period)
        return price

    def _note(self, demand: Demand) -> None:
        if self._seen * FOLLOWED < 1.0:
            self._seen += 1
        weight = max(FOLLOWED, 1.0 / self._seen)
        for dimension in DIMENSIONS:
            if amount := getattr(demand, dimension):
                drawn = math.log(amount)
                typical = self._typical.get(dimension, drawn)
                self._typical[dimension] = typical = typical + weight * (drawn - typical)
                self._steps[dimension] = STEP / math.exp(typical)


def _weighed(cost: float, account: AccountSnapshot, demand: Demand) -> float:
    """What tells accounts apart of which a call costs so much, in calls: with what the shares are worth that it takes."""
    shares = 0.0
    for view in account.dimensions:
        shares += getattr(demand, view.dimension) / view.limit
    return (cost + LEAST_WORTH * shares) / weight_of(account)


def _rate(account: AccountSnapshot, view: DimensionSnapshot) -> _Rate:
    return account.name, view.name, view.period, view.models
