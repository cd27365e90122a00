"""Shadow prices: what one unit of each rate of each account is worth, learned from the calls that come, whoever serves them.

Routing calls over quotas is a linear program: maximise the calls served, subject to what every rate admits. Its dual has one price
per account and dimension, and a call belongs where the price of what it takes is least: small calls go where tokens are scarce and
requests are not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from balancer.core.call import DIMENSIONS, Demand
from balancer.core.dimension import DimensionSnapshot
from balancer.core.snapshot import AccountSnapshot
from balancer.selection.selector import weight_of

STEP = 0.5
"""How much a whole period's units more, or less, than a rate admits move its price, in calls per typical demand. Smaller steps
follow slower, larger ones misplace calls at prices that swing."""

FASTEST = 7.0
"""By how much steps are larger at first: until a seventh of a rate's period is over, then less and less until all of it is. Like a mean,
prices follow the first calls as fast as these are most of what is known; small steps let the first minutes go by."""

LEAST_WORTH = 8.0
"""Calls that a whole period's units of a rate are worth beyond their price. Prices that are still learned, or as good as equal, do
not tell accounts apart: then a call goes where it takes the least share. A twentieth of a limit then weighs as much as .4 calls."""

WORTH = 60.0
"""Seconds that a call may wait to spare the worth of one call. Quotas are mostly per minute: what a call takes there is back then."""

FOLLOWED = 0.01
"""Weight of a new call in the typical demand, at least: of the first ones all weigh the same."""

REMEMBERED = 256
"""Calls that are remembered, to be routed on paper once more: a few minutes of them, or the last seconds of many."""

REPLAYED = 32
"""Accounts that are weighed for remembered calls when a new one comes: for 8 calls where 4 accounts could take each."""

FREE = 0.02
"""Calls that a call may cost everywhere without any being routed anew: where little is scarce, how prices swing moves nobody."""

MOST_RATES = 4096
"""Rates whose prices are remembered: of limits that are learned, names and periods change."""

KEPT_FROM = 0.5
"""Share of a bucket in use from which on what it still holds is kept for who needs it most, where that has cost nothing so far."""

HOT = 0.84
"""The same of a window: what it has left at its end is lost."""

DEAR = 0.7
"""How much of that it is where a call costs as much as it is worth: more of a window is kept for those that have no other place."""

AHEAD = 1.0 / 12.0
"""Of its period, how far the use of a window may be ahead of an even pace since its oldest charge before the rest is kept: 5 s of a
minute."""


@attrs.define(eq=False)
class Typical:
    """What calls demand of a dimension.

    Attributes:
        drawn: mean of the logarithms.
        units: typical demand.
    """

    drawn: float
    units: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.units = math.exp(self.drawn)

    def note(self, amount: float, weight: float) -> None:
        """A call demands so much."""
        self.drawn += weight * (math.log(amount) - self.drawn)
        self.units = math.exp(self.drawn)


@attrs.define(eq=False)
class Rate:
    """One rate of one account on paper.

    Attributes:
        typical: what calls demand of its dimension.
        period: in seconds.
        at: trio time of the price.
        price: of one unit, in calls, at `at`; of a typical demand it falls by a step in a period.
        since: when it began to be learned: a period without a price begins anew.
        scarce_at: when it last had a price.
    """

    typical: Typical
    period: float
    at: float
    price: float = attrs.field(init=False, default=0.0)
    since: float = attrs.field(init=False)
    scarce_at: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.since = self.scarce_at = self.at

    def step(self, now: float) -> float:
        """The step at `now`, of a typical demand's price."""
        return STEP / min(1.0, max(1.0 / FASTEST, (now - self.since) / self.period))

    def now(self, now: float) -> float:
        """The price at `now`."""
        if not self.price:
            return 0.0
        return max(0.0, self.price - self.step(now) / self.typical.units * (now - self.at) / self.period)

    def go_on(self, now: float) -> None:
        """The price is one of `now`."""
        self.price, self.at = self.now(now), now
        if self.price:
            self.scarce_at = now
        elif now - self.scarce_at > self.period:
            self.since = now


class Option(NamedTuple):
    """An account that could take a call: of each rate what the call takes, in units and as a share of the limit."""

    shares: float
    weight: float
    takes: Sequence[tuple[Rate, float, float]]

    def cost(self, now: float) -> float:
        """What the call takes of the account, in calls; its rates' prices are as of `now` then."""
        cost = 0.0
        for rate, amount, _ in self.takes:
            if rate.at != now:
                rate.go_on(now)
            cost += rate.price * amount
        return cost


_Key = tuple[str, str, float, frozenset["str | None"] | None]


@attrs.define(eq=False)
class Prices:
    """One price per account and dimension, by online dual descent.

    For every call that comes, an account's cost is sum_d p_d q_d, with p_d the price of one unit and q_d its demand; of the accounts
    where that is below 1, the worth of a call, the one with the least of cost + LEAST_WORTH sum_d q_d / limit_d takes it on paper.
    Prices follow what is taken on paper, not what is served: p_d <- max(0, p_d + s / q (taken / limit - elapsed / period)), with q the
    typical demand and s the step. Each step is shared with calls that came before, routed anew: several small ones swing less than a
    large one. At first steps are larger.

    Source: S. Agrawal, Z. Wang, Y. Ye, "A dynamic near-optimal algorithm for online linear programming"; X. Li, C. Sun, Y. Ye,
    "Simple and fast algorithm for binary integer and online linear programming"; sharing: L.-J. Lin, "Self-improving reactive agents
    based on reinforcement learning, planning and teaching" (experience replay); steps of 1 / t at first: H. Robbins, S. Monro, "A
    stochastic approximation method".
    """

    _rates: dict[_Key, Rate] = attrs.field(factory=dict[_Key, Rate], init=False)
    _past: deque[Sequence[Option]] = attrs.field(factory=lambda: deque[Sequence[Option]](maxlen=REMEMBERED), init=False)
    _next: int = attrs.field(default=0, init=False)
    """The place of the remembered call that is the next to be routed anew."""
    _typical: dict[str, Typical] = attrs.field(factory=dict[str, Typical], init=False)
    """By dimension."""
    _seen: int = attrs.field(default=0, init=False)
    """Calls that have come, until `FOLLOWED` of one is less than its share."""

    # -- asking -----------------------------------------------------------------------------------------------------------

    def cost(self, account: AccountSnapshot, demand: Demand, now: float) -> float:
        """What the call takes of the account, in calls."""
        cost = 0.0
        for view in account.dimensions:
            if (amount := getattr(demand, view.dimension)) and (rate := self._rates.get(_key(account, view))) is not None:
                cost += rate.now(now) * amount
        return cost

    def wait(self, account: AccountSnapshot, demand: Demand, now: float) -> float:
        """Seconds that the call had better wait for another account; 0 where this one has room to spare.

        What is left of an account is kept for those that take little of it. That is trunk reservation, which loses little against the
        best routing of calls that may go two ways. Source: P. B. Key, "Optimal control and trunk reservation in loss networks".
        """
        cost = self.cost(account, demand, now)
        for view in account.dimensions:
            amount = getattr(demand, view.dimension)
            if amount and is_kept(view, amount, cost, now):
                return WORTH * weighed(cost, account, demand)
        return 0.0

    # -- learning ---------------------------------------------------------------------------------------------------------

    def learn(self, accounts: Sequence[AccountSnapshot], demand: Demand, now: float) -> bool:
        """A call has come that these accounts could take, now or later; returns whether one of them is worth it."""
        self._note(demand)
        if len(self._rates) > MOST_RATES:
            self._rates.clear()
            self._past.clear()
        options = [self._option(account, demand, now) for account in accounts]
        past, again = self._past, 0
        if any(option.cost(now) > FREE for option in options):
            again = min(len(past), REPLAYED // len(options))
        part = 1.0 / (1 + again)
        worth = _take(options, part, now)
        for _ in range(again):
            self._next = (self._next + 1) % len(past)
            _take(past[self._next], part, now)
        past.append(options)
        return worth

    def _option(self, account: AccountSnapshot, demand: Demand, now: float) -> Option:
        takes: list[tuple[Rate, float, float]] = []
        shares = 0.0
        for view in account.dimensions:
            if amount := getattr(demand, view.dimension):
                key = _key(account, view)
                if (rate := self._rates.get(key)) is None:
                    rate = self._rates[key] = Rate(self._typical[view.dimension], view.period, now)
                shares += (share := amount / view.limit)
                takes.append((rate, amount, share))
        return Option(shares, weight_of(account), takes)

    def _note(self, demand: Demand) -> None:
        if self._seen * FOLLOWED < 1.0:
            self._seen += 1
        weight = max(FOLLOWED, 1.0 / self._seen)
        for dimension in DIMENSIONS:
            if amount := getattr(demand, dimension):
                if (typical := self._typical.get(dimension)) is None:
                    typical = self._typical[dimension] = Typical(math.log(amount))
                typical.note(amount, weight)


@attrs.define(eq=False)
class Priced:
    """What selectors share that learn prices: a call would rather wait than take what is worth more than its wait."""

    _prices: Prices = attrs.field(factory=Prices, init=False)

    def price(self, account: AccountSnapshot, demand: Demand, now: float) -> float:
        """Seconds that the call had better wait for another account; 0 where the account has room to spare."""
        return self._prices.wait(account, demand, now)

    def learn(self, accounts: Sequence[AccountSnapshot], demand: Demand, now: float) -> bool:
        """A call has come that these accounts could take, now or later; returns whether one of them is worth it."""
        return self._prices.learn(accounts, demand, now)


def _take(options: Sequence[Option], part: float, now: float) -> bool:
    """Route a call on paper: its account's prices rise by that part of a step and its share of each limit, by no more than a whole limit's
    `STEP`. Returns whether an account is worth it."""
    best, least = None, math.inf
    for option in options:
        cost = option.cost(now)
        if cost < 1.0 and (total := (cost + LEAST_WORTH * option.shares) / option.weight) < least:
            best, least = option, total
    if best is None:
        return False
    for rate, _, share in best.takes:
        rate.price += part * min(STEP, rate.step(now) * share) / rate.typical.units
    return True


def weighed(cost: float, account: AccountSnapshot, demand: Demand) -> float:
    """What tells accounts apart of which a call costs so much, in calls: with what the shares are worth that it takes."""
    shares = 0.0
    for view in account.dimensions:
        shares += getattr(demand, view.dimension) / view.limit
    return (cost + LEAST_WORTH * shares) / weight_of(account)


def is_kept(view: DimensionSnapshot, amount: float, cost: float, now: float) -> bool:
    """Whether what is left of a rate is kept for who needs it most, by what may be in use when `amount` is taken.

    Of a bucket from the first unit on, if it costs anything. Of a window by its pace, and the more the dearer it is: what is taken of it
    comes back only a period later, all at once, so that what is taken ahead of an even pace is missed at its end.

    Args:
        view: the rate.
        amount: what a call takes of it.
        cost: what the call takes of the account, in calls.
        now: trio time.
    """
    most = view.burst - amount
    if view.valid_until < math.inf:
        most *= HOT * min(1.0, AHEAD + 1.0 - (view.valid_until - now) / view.period) * (1.0 - (1.0 - DEAR) * min(1.0, cost))
    else:
        most *= 0.0 if cost else KEPT_FROM
    return view.used(now) > most


def _key(account: AccountSnapshot, view: DimensionSnapshot) -> _Key:
    return account.name, view.name, view.period, view.models
