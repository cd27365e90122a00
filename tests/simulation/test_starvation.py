"""One tenant, one account, and more small calls than it can serve: large calls are served as well, of no more than their own room."""

from __future__ import annotations

import functools
import math

import pytest

from balancer import Demand
from balancer.testing.simulation import (
    Arrivals,
    CallClass,
    CallMix,
    SimulatedBackend,
    SimulatedLimit,
    constant,
    poisson,
    simulate,
)

LIMIT, SECONDS = 6000, 600.0
SMALL = Arrivals(poisson(90.0), CallMix(CallClass("small", Demand(100), deadline_after=10.0)))  # one and a half times the quota
OVERLAP = 130.0  # of large calls that come later, the end may come first


def simulated(window, seed, large=None, per_minute=0.5, deadline_after=math.inf):
    """The report of ten minutes with small calls, and large ones of so many tokens."""
    limits = {"window": window, "tokens_per_minute": LIMIT}
    account = {"name": "a", "provider": "openai", "base_url": "http://a.test", "limits": limits}
    arrivals = [SMALL]
    if large is not None:
        mix = CallMix(CallClass("large", Demand(large), deadline_after=deadline_after))
        arrivals.append(Arrivals(constant(per_minute), mix))
    config = {"accounts": [account], "balancer": {"max_waiting": 10_000, "max_wait_for": False}}
    backends = {"a": SimulatedBackend([SimulatedLimit("tokens", LIMIT, 60.0, window)])}
    report = simulate(config, backends, arrivals, seed=seed, for_seconds=SECONDS)
    assert (report.refusals(), report.overruns()) == ([], [])
    return report


def tokens(report):
    """What was served in all."""
    return sum(call.demand.tokens for call in report.served())


@functools.cache
def of_small_alone(window, seed):
    """What is served where no large call comes."""
    return tokens(simulated(window, seed))


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("deadline_after", [120.0, math.inf])
@pytest.mark.parametrize("large", [LIMIT // 2, LIMIT * 9 // 10])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_large_calls_are_not_starved(window, large, deadline_after, seed):
    """All are served, by their deadline or not long after the patience that calls have by default; of a bucket none before its room has
    to be gathered. Small calls lose what the large ones take, and no more: of a window that is their room before and once more after."""
    report = simulated(window, seed, large, deadline_after=deadline_after)
    came = [call for call in report.ended(name="large") if call.arrived_at < SECONDS - OVERLAP]
    assert len(came) >= 3
    assert {call.outcome for call in came} == {"served"}
    waits = [call.waited_for for call in came]
    assert max(waits) <= 120.0
    if window == "bucket":
        assert min(waits[1:]) >= min(60.0, 120.0 - 2.0 * 60.0 * large / LIMIT)
    once_more = large * len(report.served(name="large")) if window == "sliding" else 0
    assert tokens(report) >= of_small_alone(window, seed) - once_more - 100


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("large", "deadline_after"), [(200, 30.0), (600, 60.0)])
def test_nor_are_those_that_are_a_little_larger(large, deadline_after, seed):
    """One that demands twice as much as the others is served as well."""
    report = simulated("bucket", seed, large, per_minute=1.5, deadline_after=deadline_after)
    came = [call for call in report.ended(name="large") if call.arrived_at < SECONDS - OVERLAP]
    assert len(came) >= 10
    assert {call.outcome for call in came} == {"served"}
    assert tokens(report) >= of_small_alone("bucket", seed) - 100
