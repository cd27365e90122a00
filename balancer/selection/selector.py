"""What a selector is: a pure choice of one account among those that can take a call now, and perhaps a price on each of them.

A selector is a function `(candidates, demand, now, rng) -> AccountSnapshot`. `candidates` is never empty; its order is that of
the configuration. The weight of an account scales every selector here; weights of 0 arrive only when no other account can take
the call, and then count as equal.

One that also has a `price` lets a call wait for an account that cannot take it yet: what is taken now of an account that others
need more may cost more calls than it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from balancer.core.call import Demand
from balancer.core.snapshot import AccountSnapshot

if TYPE_CHECKING:
    import random

Selector = Callable[[Sequence[AccountSnapshot], Demand, float, "random.Random"], AccountSnapshot]


class Pricing(Protocol):
    """A selector that knows what is scarce."""

    def price(self, account: AccountSnapshot, demand: Demand, now: float) -> float:
        """Seconds that a call had better wait for another account of its tier before it goes to this one, >= 0; 0 where nothing that
        it takes is scarce. It goes where the time until it can go there and the price are least together. Alone it waits for no account
        that cannot take it in time, but leaves a dear window to others until its last moment; while others wait it is not served
        where that takes more than the smallest call would, if another account takes it for less within a minute."""
        ...


class Learning(Protocol):
    """A selector that learns from the calls that come, whoever serves them."""

    def learn(self, accounts: Sequence[AccountSnapshot], demand: Demand, now: float) -> bool:
        """A call has come that these accounts of one tier could take, now or later; returns whether that tier is for it, else the
        next one is asked. `accounts` is never empty; of a tier without quotas nobody is told."""
        ...


def weight_of(account: AccountSnapshot) -> float:
    """The weight that loads, shares and prices are divided by."""
    return account.weight or 1.0


def least(candidates: Sequence[AccountSnapshot], costs: Sequence[float], rng: random.Random) -> AccountSnapshot:
    """The cheapest candidate, ties by `rng`."""
    best = min(costs)
    if costs.count(best) == 1:
        return candidates[costs.index(best)]
    return rng.choice([candidate for candidate, cost in zip(candidates, costs, strict=True) if cost == best])


def price_of(selector: Selector) -> Callable[[AccountSnapshot, Demand, float], float] | None:
    """Its `Pricing`, if it has that."""
    return getattr(selector, "price", None)


def learn_of(selector: Selector) -> Callable[[Sequence[AccountSnapshot], Demand, float], bool] | None:
    """Its `Learning`, if it has that."""
    return getattr(selector, "learn", None)
