"""Seeded traffic: processes have the rates they say, mixes the shares, and a seed is a stream."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from balancer.core.call import Demand, Usage
from balancer.testing.simulation import (
    Arrivals,
    CallClass,
    CallMix,
    backlog,
    bursts,
    constant,
    log_uniform,
    off_by,
    piecewise,
    poisson,
)
from balancer.testing.simulation.arrivals import draw_calls


def instants(process, seed=1, most=100_000):
    return list(itertools.islice(process(random.Random(seed)), most))


def test_poisson_has_its_rate_and_its_spread():
    """Gaps have the mean and the deviation of an exponential."""
    times = instants(poisson(120.0), most=20_000)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.5, rel=0.03)
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(0.5, rel=0.05)


def test_a_rate_may_change_and_end():
    """Three times the quota for a minute, nothing, then a little."""
    times = instants(piecewise((60.0, 6000.0), (30.0, 0.0), (60.0, 600.0)))
    counts = Counter("first" if at < 60 else "pause" if at < 90 else "last" for at in times)
    assert counts["first"] == pytest.approx(6000, rel=0.05)
    assert counts["last"] == pytest.approx(600, rel=0.15)
    assert counts["pause"] == 0
    assert times == sorted(times)
    assert times[-1] < 150.0


def test_the_regular_ones():
    """A clock, bursts, and all at once."""
    assert instants(constant(60.0), most=3) == [1.0, 2.0, 3.0]
    assert instants(bursts(2, 5.0), most=5) == [0.0, 0.0, 5.0, 5.0, 10.0]
    assert instants(backlog(3)) == [0.0, 0.0, 0.0]


def test_a_mix_has_its_shares():
    """By weight."""
    mix = CallMix(CallClass("small", weight=4.0), CallClass("large"))
    rng = random.Random(1)
    drawn = Counter(mix.draw(rng).name for _ in range(10_000))
    assert drawn["large"] == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize("classes", [(), (CallClass("none", weight=0.0),)])
def test_a_mix_of_nothing_is_an_error(classes):
    """A class that never comes is a mistake."""
    with pytest.raises(ValueError):
        CallMix(*classes)


def test_demands_and_truths_are_drawn():
    """Each call has its own; without a truth it takes what it demands."""
    sized = CallClass("sized", lambda rng: Demand(rng.randint(1, 9), 5, images=2))
    wrong = CallClass("wrong", Demand(1000, 100), truth=off_by(log_uniform(0.5, 2.0)))
    calls = list(draw_calls(Arrivals(backlog(2000), CallMix(sized, wrong)), random.Random(1)))
    for call in calls:
        if call.kind is sized:
            assert call.truth == Usage(call.demand.input_tokens, 5, images=2)
    factors = [call.truth.input_tokens / 1000 for call in calls if call.kind is wrong]
    assert min(factors) >= 0.5
    assert max(factors) <= 2.0
    assert sum(factor < 1.0 for factor in factors) / len(factors) == pytest.approx(0.5, abs=0.05)
    (biased,) = draw_calls(Arrivals(backlog(1), CallClass("b", Demand(10, 4), truth=off_by(1.5))), random.Random(1))
    assert biased.truth == Usage(15, 6)


def test_a_seed_is_a_stream():
    """The same calls at the same instants; another seed, others."""
    arrivals = Arrivals(poisson(60.0), CallClass("sized", lambda rng: Demand(rng.randint(1, 9))))
    first, again, other = (list(itertools.islice(draw_calls(arrivals, random.Random(seed)), 50)) for seed in (1, 1, 2))
    assert first == again != other
