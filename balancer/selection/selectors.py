"""The selectors: pure choices of one account among those that can take a call now.

A selector is a function `(candidates, demand, now, rng) -> AccountSnapshot`. `candidates` is never empty; its order is that of
the configuration. The weight of an account scales every selector here; weights of 0 arrive only when no other account can take
the call, and then count as equal.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import attrs

from balancer.core.call import Demand
from balancer.core.snapshot import AccountSnapshot
from balancer.errors import ConfigError, Fault

if TYPE_CHECKING:
    import random

Selector = Callable[[Sequence[AccountSnapshot], Demand, float, "random.Random"], AccountSnapshot]

HOT_QUANTILE = 0.84
"""Candidates whose dominant share lies above this quantile are hot; with fewer than `FEW`, those above this share itself."""
FEW = 5
NO_DATA = 0.03
"""Seconds assumed where no candidate has a sample yet."""


def _weight(snapshot: AccountSnapshot) -> float:
    return snapshot.weight or 1.0


def _least(candidates: Sequence[AccountSnapshot], costs: Sequence[float], rng: random.Random) -> AccountSnapshot:
    """The cheapest candidate, ties by `rng`."""
    best = min(costs)
    if costs.count(best) == 1:
        return candidates[costs.index(best)]
    return rng.choice([candidate for candidate, cost in zip(candidates, costs, strict=True) if cost == best])


def _draw(candidates: Sequence[AccountSnapshot], rng: random.Random) -> int:
    """An index drawn by weight."""
    left = rng.random() * sum(map(_weight, candidates))
    for index, candidate in enumerate(candidates):
        left -= _weight(candidate)
        if left < 0.0:
            return index
    return len(candidates) - 1


def _expected(candidates: Sequence[AccountSnapshot]) -> list[float]:
    """Mean latency of each candidate in seconds; one without data is tried as the average of those that have some."""
    means = [candidate.mean for candidate in candidates]
    if None not in means:
        return cast("list[float]", means)
    known = [mean for mean in means if mean is not None]
    average = sum(known) / len(known) if known else NO_DATA
    return [average if mean is None else mean for mean in means]


def least_pressure(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """Among the accounts that are not hot, the one expected to finish first; if all are hot, the least used one.

    Hot is by dominant quota share after placement: "most spare tokens" would starve large calls, while dominant share reaches
    95-100 % of the linear-programming optimum in pools of unequal limits.
    """
    if len(candidates) == 1:
        return candidates[0]
    cold = candidates
    if [candidate for candidate in candidates if candidate.dimensions]:
        shares = [candidate.share_after(demand, now) for candidate in candidates]
        line = HOT_QUANTILE if len(shares) < FEW else _quantile(shares, HOT_QUANTILE)
        cold = [candidate for candidate, share in zip(candidates, shares, strict=True) if share <= line]
        if not cold:
            return _least(candidates, [share / _weight(c) for c, share in zip(candidates, shares, strict=True)], rng)
    costs = [
        latency * (candidate.in_flight + 1) / (candidate.weight or 1.0)
        for candidate, latency in zip(cold, _expected(cold), strict=True)
    ]
    return _least(cold, costs, rng)


def _quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, linear between order statistics."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def least_in_flight(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """The account with the fewest attempts in flight, this one included, per weight."""
    return _least(candidates, [(candidate.in_flight + 1) / _weight(candidate) for candidate in candidates], rng)


def peak_ewma(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """The least peak-EWMA latency times pending attempts, per weight (Finagle: cost = e (pending + 1))."""
    known = [candidate.peak for candidate in candidates if candidate.peak is not None]
    average = sum(known) / len(known) if known else NO_DATA
    costs = [
        (average if candidate.peak is None else candidate.peak) * (candidate.in_flight + 1) / _weight(candidate)
        for candidate in candidates
    ]
    return _least(candidates, costs, rng)


def power_of_two(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """Two distinct accounts drawn by weight; of them the one with fewer attempts in flight."""
    if len(candidates) == 1:
        return candidates[0]
    first = _draw(candidates, rng)
    others = [candidate for index, candidate in enumerate(candidates) if index != first]
    pair = (candidates[first], others[_draw(others, rng)])
    return _least(pair, [candidate.in_flight for candidate in pair], rng)


def random_choice(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """An account drawn by weight."""
    return candidates[_draw(candidates, rng)]


@attrs.define(eq=False)
class SmoothRoundRobin:
    """Smooth weighted round robin: shares by weight, spread evenly. {5, 1, 1} gives a a b a c a a.

    current_i += w_i; take the largest; its current -= sum of w. Source: nginx, `ngx_http_upstream_round_robin`.
    """

    _current: dict[str, float] = attrs.field(factory=dict[str, float], init=False)

    def __call__(
        self, candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random
    ) -> AccountSnapshot:
        """The next one in turn; its order decides ties, not `rng`."""
        total = 0.0
        best: AccountSnapshot | None = None
        best_current = -math.inf
        for candidate in candidates:
            weight = _weight(candidate)
            total += weight
            current = self._current[candidate.name] = self._current.get(candidate.name, 0.0) + weight
            if current > best_current:
                best, best_current = candidate, current
        assert best is not None, "a selector is never asked without candidates"
        self._current[best.name] -= total
        return best


SELECTORS: dict[str, Callable[[], Selector]] = {
    "least_pressure": lambda: least_pressure,
    "least_in_flight": lambda: least_in_flight,
    "peak_ewma": lambda: peak_ewma,
    "power_of_two": lambda: power_of_two,
    "weighted": SmoothRoundRobin,
    "round_robin": SmoothRoundRobin,
    "random": lambda: random_choice,
}
"""Name -> a fresh selector. `weighted` is the share by weight in its even form, which is what `round_robin` is."""


def make_selector(name: str | Selector) -> Selector:
    """The selector of this name, or the function that `module:function` names. Raises `ConfigError`."""
    if callable(name):
        return name
    if name in SELECTORS:
        return SELECTORS[name]()
    known = ", ".join(f'"{known}"' for known in SELECTORS)
    allowed = f'one of {known}, or "module:function"'
    module, separator, function = name.partition(":")
    if not separator:
        raise ConfigError([Fault("selector", repr(name), allowed)])
    try:
        found: object = getattr(importlib.import_module(module), function)
    except Exception as error:  # an import runs a module, which may raise anything
        raise ConfigError([Fault("selector", f"{name!r} cannot be imported: {error}", allowed)]) from error
    if not callable(found):
        raise ConfigError([Fault("selector", f"{name!r} is no function", allowed)])
    return cast("Selector", found)
