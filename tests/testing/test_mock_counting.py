"""The limits of a mock backend, held against slow obvious models."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.call import Demand
from balancer.core.settings import Limits, Rate
from balancer.testing.mock.counting import Admitted, Bucket, Ledger, Refused, Sliding

# Sixteenths of a second and whole amounts are exact in floats, so that the models may compare without slack.
GAPS = st.integers(0, 48).map(lambda sixteenths: sixteenths / 16)
STEPS = st.lists(
    st.tuples(GAPS, st.integers(1, 6), st.one_of(st.none(), st.integers(0, 12))),
    max_size=40,
)


def slow_sliding(log: list[list[float]], limit: float, per: float, now: float) -> float:
    """What is left in the window that ends now."""
    return limit - sum(amount for at, amount in log if now - per < at <= now)


@given(STEPS)
def test_sliding_window_is_exact(steps: list[tuple[float, int, int | None]]) -> None:
    """A sliding window admits exactly what leaves every window at or below its limit."""
    window, log, now = Sliding(Rate(10, 2.0)), [], 0.0
    for gap, amount, actual in steps:
        now += gap
        left = slow_sliding(log, 10, 2.0, now)
        assert (window.wait_for(amount, now) == 0.0) == (amount <= left)
        assert 10 - window.used(now) == left
        if amount <= left:
            taken = window.take(amount, now)
            log.append([now, amount])
            if actual is not None:
                window.correct(taken, actual, now)
                log[-1][1] = actual
        else:
            wait = window.wait_for(amount, now)
            assert amount <= slow_sliding(log, 10, 2.0, now + wait)
            assert amount > slow_sliding(log, 10, 2.0, math.nextafter(now + wait, 0.0))


@given(STEPS)
def test_bucket_is_exact(steps: list[tuple[float, int, int | None]]) -> None:
    """A bucket admits exactly what its level carries; corrections move the level."""
    bucket, level, now = Bucket(Rate(16, 2.0), 10), 10.0, 0.0
    for gap, amount, actual in steps:
        now += gap
        level = min(10.0, level + gap * 8)
        assert bucket.used(now) == 10.0 - level
        assert (bucket.wait_for(amount, now) == 0.0) == (amount <= level)
        assert bucket.reset_after(now) == (10.0 - level) / 8
        if amount > level:
            assert bucket.wait_for(amount, now) == (amount - level) / 8
            continue
        taken = bucket.take(amount, now)
        level -= amount
        if actual is not None:
            bucket.correct(taken, actual, now)
            level = min(10.0, level + amount - actual)


@given(STEPS, st.sampled_from(["bucket", "sliding"]))
def test_no_window_holds_more_than_the_law_allows(steps: list[tuple[float, int, int | None]], window: str) -> None:
    """Admitted in any span t: at most L t / P + B for a bucket, L per P for a window."""
    ledger, now = Ledger(Limits(tokens={"amount": 12, "per": 2.0}, window=window)), 0.0
    admitted: list[tuple[float, int]] = []
    for gap, amount, _ in steps:
        now += gap
        if isinstance(ledger.admit(Demand(input_tokens=amount), now), Admitted):
            admitted.append((now, amount))
    for first, (start, _) in enumerate(admitted):
        for last in range(first, len(admitted)):
            span = admitted[last][0] - start
            total = sum(amount for _, amount in admitted[first : last + 1])
            if window == "bucket":
                assert total <= 12 * span / 2.0 + 12 + 1e-6
            elif span < 2.0:
                assert total <= 12


def test_a_correction_upward_blocks_until_it_is_worked_off() -> None:
    """An answer longer than its estimate is debt."""
    ledger = Ledger(Limits(tokens={"amount": 10, "per": 10.0}))
    admitted = ledger.admit(Demand(output_tokens=5), 0.0)
    assert isinstance(admitted, Admitted)
    ledger.end(admitted, Demand(output_tokens=25), 0.0)
    refused = ledger.admit(Demand(output_tokens=1), 0.0)
    assert isinstance(refused, Refused)
    assert refused.retry_after == pytest.approx(16.0)
    assert ledger.shown(0.0)[0].remaining == 0.0


def test_the_longest_wait_is_named() -> None:
    """A refusal names the limit that stands in the way longest, and what it would take."""
    ledger = Ledger(Limits(requests=["1/s", "100/day"], tokens="60/min", window="bucket"))
    assert isinstance(ledger.admit(Demand(input_tokens=60), 0.0), Admitted)
    refused = ledger.admit(Demand(input_tokens=30), 0.0)
    assert refused == Refused("tokens", 60.0, 60.0, 60.0, 30, 30.0)


def test_more_than_a_bucket_never_fits() -> None:
    """A request larger than the whole limit is refused for ever."""
    for window in ("bucket", "sliding"):
        refused = Ledger(Limits(tokens="60/min", window=window)).admit(Demand(input_tokens=61), 0.0)
        assert isinstance(refused, Refused)
        assert refused.retry_after == math.inf


@pytest.mark.parametrize(("window", "wait"), [("bucket", 1.0), ("sliding", 10.0)])
def test_refused_requests_count_where_the_provider_counts_them(window: str, wait: float) -> None:
    """With `charge_refused` who keeps asking keeps being refused; a bucket never goes below empty."""
    ledger = Ledger(Limits(requests={"amount": 10, "per": 10.0}, window=window), charge_refused=True)
    for _ in range(10):
        assert isinstance(ledger.admit(Demand(), 0.0), Admitted)
    for _ in range(10):
        refused = ledger.admit(Demand(), 5.0 if window == "sliding" else 0.0)
    assert isinstance(refused, Refused)
    assert refused.retry_after == pytest.approx(wait)


def test_concurrency_is_held() -> None:
    """At most so many at once, and no wait is known for the next."""
    ledger = Ledger(Limits(concurrency=1))
    first = ledger.admit(Demand(), 0.0)
    assert isinstance(first, Admitted)
    assert ledger.admit(Demand(), 0.0) == Refused("concurrency", 1, 0.0, 1, 1, None)
    ledger.end(first, Demand(), 1.0)
    assert isinstance(ledger.admit(Demand(), 1.0), Admitted)


def test_the_scarcest_limit_of_a_dimension_is_shown() -> None:
    """Of several limits of one dimension the one with the least left is shown; a sliding reset is the oldest's leaving."""
    ledger = Ledger(Limits(requests=["5/s", "6/min"], window="sliding"))
    for second in range(3):
        ledger.admit(Demand(), float(second))
    (shown,) = ledger.shown(3.5)
    assert attrs.astuple(shown) == ("requests", 6.0, 3.0, 56.5)
