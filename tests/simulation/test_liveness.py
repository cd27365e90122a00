"""Whatever the limits, headers, estimates and outages: once calls stop coming, every one that waits is served."""

from __future__ import annotations

import random

import pytest

from balancer import Demand
from balancer.testing.mock.latency import Uniform
from balancer.testing.simulation import (
    Arrivals,
    CallClass,
    CallMix,
    Outage,
    SimulatedBackend,
    SimulatedLimit,
    log_uniform,
    off_by,
    piecewise,
    simulate,
)

WORLDS = range(60)


def an_account(name, rng):
    """An account with some limits, known or not, and the backend behind it."""
    window, limits, counted = rng.choice(["bucket", "sliding"]), {}, []
    if rng.random() < 0.8:
        amount, burst = rng.choice([10, 30, 60, 200]), rng.choice([None, 1, 5]) if window == "bucket" else None
        limits["requests"] = {"amount": amount, "per": 60.0, "window": window} | ({} if burst is None else {"burst": burst})
        counted.append(SimulatedLimit("requests", amount, 60.0, window, burst=burst))
    if rng.random() < 0.7:
        amount = rng.choice([20_000, 100_000])
        limits["tokens"] = {"amount": amount, "per": 60.0, "window": window}
        counted.append(SimulatedLimit("tokens", amount, 60.0, window))
    if rng.random() < 0.3:
        limits = {}
    if rng.random() < 0.3:
        limits["concurrency"] = rng.choice([1, 3])
    backend = SimulatedBackend(
        counted,
        latency=Uniform(0.05, rng.choice([1.0, 5.0])),
        headers=rng.choice(["honest", "absent", "lying", "rounded"]),
        retry_after=rng.random() < 0.5,
        outages=[Outage(20.0, 40.0, 500, 0.5)] if rng.random() < 0.3 else [],
    )
    return {"name": name, "base_url": "http://x.test", "provider": "openai", "limits": limits}, backend


@pytest.mark.parametrize("seed", WORLDS)
def test_nothing_waits_for_ever(seed):
    """A minute of calls, an hour to serve them."""
    rng = random.Random(seed)
    accounts, backends = [], {}
    for name in "abc"[: rng.randint(1, 3)]:
        account, backends[name] = an_account(name, rng)
        accounts.append(account)
    wrong = off_by(log_uniform(0.5, 2.0)) if rng.random() < 0.5 else None
    mix = CallMix(
        CallClass("small", lambda rng: Demand(rng.randint(1, 500), rng.randint(1, 100)), weight=3.0, tenant="x", truth=wrong),
        CallClass("large", lambda rng: Demand(rng.randint(500, 9000), rng.randint(1, 1000)), tenant="y", priority=seed % 2),
    )
    selector = rng.choice(["least_pressure", "shadow_price", "round_robin"])
    config = {"accounts": accounts, "balancer": {"max_wait_for": False, "selector": selector, "max_attempts": 20}}
    arrivals = Arrivals(piecewise((60.0, rng.choice([20.0, 60.0]))), mix)
    report = simulate(config, backends, arrivals, seed=seed, for_seconds=3660.0)
    assert report.calls
    assert report.ended("unfinished") == []
    assert (report.statistics.waiting, report.statistics.in_flight) == (0, 0)
