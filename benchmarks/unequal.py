"""Accounts with unequal limits: how many of the calls that could have been served are, and of the largest among them."""

from __future__ import annotations

from collections.abc import Mapping

from balancer.core.call import Demand
from balancer.testing.simulation import Arrivals, CallClass, CallMix, SimulatedBackend, SimulatedLimit, poisson, simulate
from benchmarks.figures import figures
from benchmarks.optimum import most_calls
from benchmarks.scenario import LATENCY, MINUTE, Goal, Scenario, Window

SMALL, LARGE = Demand(100), Demand(2000)
UNEQUAL = {"a": {"requests": 100.0, "tokens": 10_000.0}, "b": {"requests": 20.0, "tokens": 50_000.0}}
"""Units per minute: small calls belong where tokens are scarce, large ones where requests are."""
FEW_LARGE = {SMALL: 100.0, LARGE: 25.0}
"""Calls per minute, of which 120 can be served there."""
DEADLINE = 10.0
"""Seconds that each call has."""


def unequal(
    selector: str,
    window: Window,
    limits: Mapping[str, Mapping[str, float]] = UNEQUAL,
    per_minute: Mapping[Demand, float] = FEW_LARGE,
    *,
    seconds: float = 720.0,
    from_minute: float = 0.0,
    total: float = 0.96,
    largest: float = 0.9,
) -> Scenario:
    """Calls of each demand at so many a minute, on accounts with these limits per minute, held to the optimum for those that came.

    Args:
        selector: its name.
        window: how each limit is counted.
        limits: of each account: dimension -> units per minute.
        per_minute: demand -> calls per minute, the largest demand last.
        seconds: how long.
        from_minute: calls that come earlier are left out; the buckets should be empty then.
        total: the least share of the optimum, of all calls.
        largest: the least share of what the optimum serves of the largest demand.
    """
    accounts = [
        {"name": name, "provider": "openai", "limits": {"window": window, **_per_minute(own)}} for name, own in limits.items()
    ]
    config = {"accounts": accounts, "balancer": {"selector": selector, "max_waiting": 100_000}}
    providers = {
        name: SimulatedBackend(
            [SimulatedLimit(dimension, amount, MINUTE, window) for dimension, amount in own.items()], latency=LATENCY
        )
        for name, own in limits.items()
    }
    classes = [CallClass(str(demand.tokens), demand, rate, deadline_after=DEADLINE) for demand, rate in per_minute.items()]
    arrivals = Arrivals(poisson(sum(per_minute.values())), CallMix(*classes))

    def run(seed: int) -> dict[str, float]:
        report = simulate(config, providers, arrivals, seed=seed, for_seconds=seconds)
        calls = [[call for call in report.ended(name=kind.name) if call.arrived_at >= from_minute * MINUTE] for kind in classes]
        came = [[call.arrived_at for call in each] for each in calls]
        could = most_calls(list(limits.values()), window, list(per_minute), came, DEADLINE, full=from_minute == 0.0)
        served = [sum(call.outcome == "served" for call in each) for each in calls]
        waits = report.waits()
        return {
            **figures(report, MINUTE),
            "expired": sum(call.outcome == "expired" for call in report.calls),
            "of_optimum": sum(served) / sum(could),
            "largest_of_optimum": served[-1] / could[-1],
            "mean_wait": sum(waits) / len(waits),
        }

    mix = ", ".join(f"{rate:g} of {demand.tokens}" for demand, rate in per_minute.items())
    goals = (
        Goal("refusals", 0),
        Goal("overruns", 0),
        Goal("of_optimum", total, least=True),
        Goal("largest_of_optimum", largest, least=True),
    )
    return Scenario(f"{len(limits)} unequal accounts, {selector}, {window}, {mix} a minute", run, goals)


def _per_minute(own: Mapping[str, float]) -> dict[str, float]:
    return {f"{dimension}_per_minute": amount for dimension, amount in own.items()}
