"""The selectors by name, and those of them that look at no quota."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import attrs

from balancer.core.call import Demand
from balancer.core.snapshot import AccountSnapshot
from balancer.errors import ConfigError, Fault
from balancer.selection.pressure import NO_DATA, LeastPressure
from balancer.selection.selector import Selector, least, weight_of
from balancer.selection.shadow import ShadowPrice

if TYPE_CHECKING:
    import random


def _draw(candidates: Sequence[AccountSnapshot], rng: random.Random) -> int:
    """An index drawn by weight."""
    left = rng.random() * sum(map(weight_of, candidates))
    for index, candidate in enumerate(candidates):
        left -= weight_of(candidate)
        if left < 0.0:
            return index
    return len(candidates) - 1


def least_in_flight(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """The account with the fewest attempts in flight, this one included, per weight."""
    return least(candidates, [(candidate.in_flight + 1) / weight_of(candidate) for candidate in candidates], rng)


def peak_ewma(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """The least peak-EWMA latency times pending attempts, per weight (Finagle: cost = e (pending + 1))."""
    known = [candidate.peak for candidate in candidates if candidate.peak is not None]
    average = sum(known) / len(known) if known else NO_DATA
    costs = [
        (average if candidate.peak is None else candidate.peak) * (candidate.in_flight + 1) / weight_of(candidate)
        for candidate in candidates
    ]
    return least(candidates, costs, rng)


def power_of_two(candidates: Sequence[AccountSnapshot], demand: Demand, now: float, rng: random.Random) -> AccountSnapshot:
    """Two distinct accounts drawn by weight; of them the one with fewer attempts in flight."""
    if len(candidates) == 1:
        return candidates[0]
    first = _draw(candidates, rng)
    others = [candidate for index, candidate in enumerate(candidates) if index != first]
    pair = (candidates[first], others[_draw(others, rng)])
    return least(pair, [candidate.in_flight for candidate in pair], rng)


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
            weight = weight_of(candidate)
            total += weight
            current = self._current[candidate.name] = self._current.get(candidate.name, 0.0) + weight
            if current > best_current:
                best, best_current = candidate, current
        assert best is not None, "a selector is never asked without candidates"
        self._current[best.name] -= total
        return best


SELECTORS: dict[str, Callable[[], Selector]] = {
    "least_pressure": LeastPressure,
    "shadow_price": ShadowPrice,
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
        return _plain(name, getattr(name, "__qualname__", type(name).__qualname__))
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
    return _plain(cast("Selector", found), repr(name))


def _plain(selector: Selector, name: str) -> Selector:
    """The selector, if calling it chooses an account: what an `async def` returns has not even begun to. Raises `ConfigError`."""
    for function in (selector, type(selector).__call__):
        if inspect.iscoroutinefunction(function):
            allowed = "a plain function (candidates, demand, now, rng): a selector cannot wait"
            raise ConfigError([Fault("selector", f"{name} is async", allowed)])
    return selector
