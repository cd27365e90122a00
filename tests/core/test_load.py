"""Peak EWMA: up at once, down slowly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.load import Load


def test_the_figures_of_the_law():
    """Start .030, then (0, .2), (2, .05), (4, .05)."""
    load = Load()
    load.sample(0.030, 0.0)
    peaks = []
    for now, latency in [(0.0, 0.2), (2.0, 0.05), (4.0, 0.05)]:
        load.sample(latency, now)
        peaks.append(load.peak)
    assert peaks == pytest.approx([0.2, 0.17281, 0.15055], abs=1e-5)


def test_without_a_sample_there_is_no_estimate():
    """And the first one is it."""
    load = Load()
    assert (load.peak, load.mean) == (None, None)
    load.sample(0.4, 7.0)
    assert (load.peak, load.mean) == (0.4, 0.4)


def test_samples_at_one_moment_all_count_in_the_mean():
    """A tenth each; the peak keeps the highest of them."""
    load = Load()
    for _ in range(100):
        load.sample(1.0, 5.0)
    for _ in range(100):
        load.sample(0.1, 5.0)
    assert load.peak == 1.0
    assert load.mean == pytest.approx(0.1, abs=0.001)


def test_how_far_samples_lie_from_their_mean():
    """Nothing of equal ones; of two values by turns half of what they are apart, however seldom they come."""
    equal, turns = Load(), Load()
    for number in range(200):
        equal.sample(1.0, 60.0 * number)
        turns.sample(float(number % 2), 0.01 * number)
    assert equal.variance == 0.0
    assert turns.variance**0.5 == pytest.approx(0.5, abs=0.06)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(-1.0, 50.0)), min_size=1, max_size=30))
def test_estimates_lie_among_the_samples(samples):
    """Whatever the clock does, and the peak is never below the last sample."""
    load = Load()
    now = 0.0
    for latency, gap in samples:
        now += gap
        load.sample(latency, now)
        assert load.peak >= latency * (1 - 1e-9)
    latencies = [latency for latency, _ in samples]
    for estimate in (load.peak, load.mean):
        assert math.isfinite(estimate)
        assert min(latencies) * (1 - 1e-9) <= estimate <= max(latencies) * (1 + 1e-9)
