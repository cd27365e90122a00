"""Bounds of the period of a bucket, by resets of which nothing else is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.span import WAYS, Seen, Span, bounds_of

LEVELS = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8)


@given(st.integers(2, 1000), st.floats(0.01, 1.0), st.floats(0.1, 1e4), LEVELS)
def test_the_period_lies_within_its_bounds(limit: int, share: float, period: float, levels: list[float]) -> None:
    """Whatever the burst, and whoever uses it, by every two answers of any bucket."""
    burst, span = max(1, round(share * limit)), Span()
    seen: list[Seen] = []
    for level in levels:
        left = level * burst
        seen.append(Seen(limit - math.floor(left), 1.0, *bounds_of((burst - left) * period / limit, WAYS[0])))
    for one in seen:
        span.take_in(limit, one)
        for other in seen:
            span.compare(limit, one, other)
    assert span.low <= period * (1 + 1e-6)
    assert period <= span.high * (1 + 1e-6)
    if burst == limit:
        assert period <= span.full_high * (1 + 1e-6)


@given(st.integers(1, 1000), st.floats(0.1, 1e4), st.floats(0.0, 100.0))
def test_what_was_counted_refills_before_the_bucket_is_full(limit: int, period: float, answered_after: float) -> None:
    """One request of ours, at the least: a lone one tells the period."""
    unit, span = period / limit, Span()
    span.take_in(limit, Seen(limit, 1.0, *bounds_of(max(0.0, unit - answered_after), WAYS[0])), (1.0, answered_after))
    assert period <= span.high * (1 + 1e-6)


def test_resets_that_ignore_what_is_used_refute_a_bucket() -> None:
    """Of 500, others use 301 when we come: then they are ours, and the same 36 seconds are left."""
    span, first = Span(), Seen(301, 1.0, *bounds_of(36.0001, WAYS[0]))
    span.take_in(500, first)
    for used in range(302, 340):
        seen = Seen(used, 1.0, *bounds_of(35.9001, WAYS[0]))
        span.take_in(500, seen)
        span.compare(500, seen, first)
    assert span.low > span.high


@pytest.mark.parametrize("way", WAYS)
def test_a_reset_in_whole_seconds_may_have_been_rounded(way: tuple[float, float]) -> None:
    """Any other is what it is."""
    soonest, latest = bounds_of(2.0, way)
    assert (soonest, latest) == (pytest.approx(2.0 + way[0], abs=0.05), pytest.approx(2.0 + way[1], abs=0.05))
    assert bounds_of(2.5, way) == (pytest.approx(2.5, abs=0.06), pytest.approx(2.5, abs=0.06))
