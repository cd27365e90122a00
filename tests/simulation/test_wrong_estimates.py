"""Calls that take more or less than was estimated: few refusals after the first minute, and most of the quota is used."""

from __future__ import annotations

import pytest

from balancer.testing.mock.latency import Uniform
from benchmarks.scenario import LONG, MINUTE
from benchmarks.scenarios import wrong_estimates


@pytest.mark.parametrize("window", ["bucket", "sliding"])
@pytest.mark.parametrize(("headers", "seed"), [("honest", 1), ("absent", 5), ("absent", 9)])
def test_truth_is_anything_from_half_to_double(window, headers, seed):
    """Log-uniform for each call."""
    assert wrong_estimates(None, window, headers=headers, load=1.2, seconds=180).missed(seed) == []


@pytest.mark.parametrize(
    ("factor", "window"),
    [(0.5, "bucket"), (0.5, "sliding"), (0.7, "bucket"), (1.5, "sliding"), (2.0, "bucket"), (2.0, "sliding")],
)
def test_a_constant_bias(factor, window):
    """Every call takes the same share of its estimate."""
    assert wrong_estimates(factor, window, load=1.2, seconds=120 if window == "bucket" else 180).missed(1) == []


@pytest.mark.parametrize("factor", [None, 2.0])
def test_a_provider_that_counts_the_estimate_first(factor):
    """The provider corrects what it counted when it answers."""
    assert wrong_estimates(factor, charged="adjusted", load=1.2, seconds=120).missed(1) == []


@pytest.mark.parametrize(("factor", "window", "seed"), [(None, "sliding", 1), (2.0, "sliding", 2), (2.0, "bucket", 3)])
def test_answers_take_long(factor, window, seed):
    """Then half of what a window holds is in flight."""
    assert wrong_estimates(factor, window, latency=LONG, load=1.5, seconds=180).missed(seed) == []


@pytest.mark.parametrize(("headers", "latency"), [("honest", LONG), ("absent", LONG), ("absent", Uniform(19.9, 20.1))])
def test_what_takes_half_of_its_estimate_is_not_held_whole(headers, latency):
    """By a provider that counts it so from the start: answers show that, or attempts that are tried."""
    assert wrong_estimates(0.5, "sliding", headers=headers, latency=latency, load=1.5).missed(1) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_without_headers_the_worst_is_kept_free_only_while_calls_are_refused(seed):
    """However much of a window is in flight."""
    assert wrong_estimates(None, "sliding", headers="absent", latency=LONG, load=1.5).missed(seed) == []


@pytest.mark.parametrize("headers", ["honest", "absent"])
@pytest.mark.parametrize("low", [20.0, 40.0])
def test_what_a_provider_holds_whole_is_used_as_far_as_can_be(headers, low):
    """It counts the estimate e until the answer after d of the period P, then half of it: e (d + (P - d) / 2) of the window for e / 2 that
    is used, so P / (P + d) is the most that anybody can use. To try whether it does costs next to no refusal."""
    latency = Uniform(low - 0.1, low + 0.1)
    found = wrong_estimates(0.5, "sliding", charged="adjusted", headers=headers, latency=latency, load=1.5).run(1)
    assert found["refused_ratio"] < 0.01
    assert found["used"] >= 0.95 * MINUTE / (MINUTE + low)


@pytest.mark.parametrize(("window", "seed"), [("bucket", 1), ("bucket", 2), ("sliding", 1)])
@pytest.mark.parametrize("headers", ["honest", "absent"])
def test_refusals_tell_how_wrong_estimates_are_before_any_answer_does(window, seed, headers):
    """When none comes within the first minute."""
    assert wrong_estimates(2.0, window, headers=headers, latency=Uniform(80.0, 100.0), load=1.5).missed(seed) == []


def test_a_provider_that_counts_what_it_has_produced():
    """Half of the estimates, after a long time."""
    assert wrong_estimates(0.5, charged="produced", latency=LONG, load=1.2, seconds=180).missed(1) == []


@pytest.mark.parametrize(("factor", "window"), [(2.0, "sliding"), (0.5, "bucket")])
def test_a_provider_that_counts_the_bound_of_the_output(factor, window):
    """And the input, which was estimated."""
    assert wrong_estimates(factor, window, charged="max_tokens", load=1.5, seconds=180).missed(1) == []
