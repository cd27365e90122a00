"""What a scenario is, and what scenarios are made of: goals, accounts, their simulated providers, and traffic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs

from balancer.core.call import Demand
from balancer.testing.mock.latency import Uniform
from balancer.testing.simulation import (
    Arrivals,
    CallClass,
    CallMix,
    SimulatedBackend,
    SimulatedLimit,
    backlog,
    bursts,
    piecewise,
    poisson,
)
from balancer.testing.simulation.arrivals import Process

Window = Literal["bucket", "sliding"]
Shown = Literal["honest", "absent", "lying"]

MINUTE, DAY = 60.0, 86_400.0
REQUESTS, TOKENS = 60, 100_000
"""Limits per minute."""
JITTER = 0.02
LATENCY = Uniform(0.05, 2.0)
LONG = Uniform(5.0, 60.0)
"""Seconds of answers of many tokens."""


@attrs.frozen
class Goal:
    """A bound of one figure.

    Args:
        figure: its name.
        bound: the least or the most.
        least: which of them.
    """

    figure: str
    bound: float
    least: bool = False

    def reached(self, value: float) -> bool:
        """Whether `value` keeps to it; no number does not."""
        return value >= self.bound if self.least else value <= self.bound


@attrs.frozen
class Scenario:
    """One thing that must hold.

    Args:
        name: what reports call it.
        run: simulates it on a seed; returns its figures by name.
        goals: what they must reach.
    """

    name: str
    run: Callable[[int], Mapping[str, float]]
    goals: Sequence[Goal]

    def missed(self, seed: int) -> list[str]:
        """What one run misses, in words."""
        found = self.run(seed)
        return [
            f"{self.name}, seed {seed}: {goal.figure} is {found[goal.figure]:.4g}, "
            f"at {'least' if goal.least else 'most'} {goal.bound:g} is allowed"
            for goal in self.goals
            if not goal.reached(found[goal.figure])
        ]


NEVER_OVER = (Goal("overruns", 0), Goal("unexpected", 0))
NONE_REFUSED = (Goal("refusals", 0), *NEVER_OVER)
MOST_USED = (Goal("used", 0.97, least=True), Goal("waiting_ratio", 0.99, least=True))
MOSTLY_USED = (Goal("used", 0.9, least=True), Goal("waiting_ratio", 0.99, least=True))

MIXED_SIZES = CallClass("any", lambda rng: Demand(rng.randint(100, 2500), rng.randint(10, 500)))
MEAN, LARGEST = 1555, 3000
"""Tokens of a demand of `MIXED_SIZES`."""


def configured(names: str, limits: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Accounts of one letter each under the same limits, and a queue without bounds."""
    accounts = [
        {"name": name, "base_url": "http://127.0.0.1", "provider": more.get("provider", "openai"), "limits": limits}
        for name in names
    ]
    return {"accounts": accounts, "balancer": {"max_waiting": 1_000_000, "max_wait_for": False}}


def backends(
    names: str, limits: Sequence[SimulatedLimit], *, latency: Uniform = LATENCY, **more: Any
) -> dict[str, SimulatedBackend]:
    """The providers behind them."""
    return {name: SimulatedBackend(limits, latency=latency, jitter=JITTER, **more) for name in names}


def traffic(shape: str, per_minute: float) -> Process:
    """Arrivals of so many per minute in the mean: `"poisson"`; `"bursts"`, all of a minute at once; `"on and off"`, in a third of
    each minute."""
    match shape:
        case "bursts":
            return bursts(round(per_minute), MINUTE)
        case "on and off":
            return piecewise(*itertools.islice(itertools.cycle([(20.0, 3 * per_minute), (40.0, 0.0)]), 2880))
        case _:
            return poisson(per_minute)


def pressed(kind: CallClass | CallMix, per_minute: float, load: float) -> list[Arrivals]:
    """Calls that wait from the start: enough to empty full buckets, then `load` times the `per_minute` that the quota is worth."""
    return [Arrivals(backlog(round(1.3 * per_minute)), kind), Arrivals(poisson(load * per_minute), kind)]
