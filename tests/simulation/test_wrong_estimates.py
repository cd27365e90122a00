"""Calls that take more or less than was estimated: few refusals after the first minute, and most of the quota is used."""

from __future__ import annotations

import pytest

from benchmarks.scenario import LONG
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


def test_a_provider_that_counts_what_it_has_produced():
    """Half of the estimates, after a long time."""
    assert wrong_estimates(0.5, charged="produced", latency=LONG, load=1.2, seconds=180).missed(1) == []


@pytest.mark.parametrize(("factor", "window"), [(2.0, "sliding"), (0.5, "bucket")])
def test_a_provider_that_counts_the_bound_of_the_output(factor, window):
    """And the input, which was estimated."""
    assert wrong_estimates(factor, window, charged="max_tokens", load=1.5, seconds=180).missed(1) == []
