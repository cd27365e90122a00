"""Limits that are configured as they are: no refusal upstream, no span over its limit, and nearly all is used while calls wait."""

from __future__ import annotations

import pytest

from benchmarks.scenarios import input_and_output, known, known_tokens, packed

BUCKET_OF_1, BUCKET_OF_60, SLIDING = ("bucket", 1), ("bucket", 60), ("sliding", None)
RULES = pytest.mark.parametrize(("window", "burst"), [BUCKET_OF_1, BUCKET_OF_60, SLIDING])


@RULES
@pytest.mark.parametrize("seed", [1, 2])
def test_three_times_the_quota(window, burst, seed):
    """However the provider counts its requests, none is refused, and 97 % are used."""
    assert known(window, burst, seconds=240).missed(seed) == []


@RULES
@pytest.mark.parametrize("shape", ["bursts", "on and off"])
def test_any_shape_of_traffic(window, burst, shape):
    """Calls may come a minute's at once, or in a third of the time."""
    assert known(window, burst, shape=shape, seconds=180).missed(1) == []


@RULES
@pytest.mark.parametrize("headers", ["absent", "lying"])
def test_whatever_headers_say(window, burst, headers):
    """The ledger needs no headers, and lies in them take nothing away."""
    assert known(window, burst, headers=headers, load=1.5, seconds=240).missed(2) == []


@RULES
def test_less_than_the_quota(window, burst):
    """Where buckets are now full and now empty nothing is refused either."""
    assert known(window, burst, load=0.9, seconds=180).missed(1) == []


@pytest.mark.parametrize(("window", "seed"), [("bucket", 1), ("sliding", 2)])
def test_tokens(window, seed):
    """Token limits under known demands of at most 3 % of them."""
    assert known_tokens(window, load=1.2, seconds=120).missed(seed) == []


@pytest.mark.parametrize("window", ["bucket", "sliding"])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("low", "high"), [(0.01, 0.35), (0.1, 0.6)])
def test_large_demands(window, low, high, seed):
    """Demands of up to 60 % of the limit are packed as well as an exact counter could in their order."""
    assert packed(window, low, high, seconds=660).missed(seed) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_input_and_output_at_once(seed):
    """Three limits at once: the scarcest of them is used."""
    assert input_and_output(load=1.2, seconds=120).missed(seed) == []
