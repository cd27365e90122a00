"""What holds of every way to count a rate."""

from __future__ import annotations

import copy
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balancer.core.bucket import Bucket
from balancer.core.calendar import CalendarWindow, load_zone
from balancer.core.quota import MARGIN, PROMPT, room
from balancer.core.sliding import GRANULES, SlidingWindow


def backlog(bucket: Bucket, now: float) -> float:
    """Seconds until the bucket is full by its own law."""
    return max(0.0, bucket.level(now)[1] - MARGIN - now)


def admit(counter: Bucket | SlidingWindow, amount: float, now: float) -> float:
    """Charge at the earliest moment; returns it."""
    at = counter.earliest(amount, now)
    assert counter.earliest(amount, at) == at
    counter.charge(amount, at)
    return at


COUNTERS = {
    "bucket": lambda: Bucket(8, 8.0, 8),
    "small bucket": lambda: Bucket(60, 60.0, 5),
    "sliding": lambda: SlidingWindow(8, 8.0),
    "calendar": lambda: CalendarWindow(8, "day", load_zone("UTC"), (0.0, 86_400.0 * 20_000 - 10.0)),
}


PAUSES = st.sampled_from([0.0, 8.0 / GRANULES / 2, MARGIN / 2, PROMPT / 2, 0.5, 1.0, 3.0, 8.0, 11.0])


HAPPENS = st.lists(st.tuples(PAUSES, st.integers(1, 9), st.sampled_from(["stays", "answered", "taken back"])), max_size=8)


@pytest.mark.parametrize("kind", COUNTERS)
@settings(max_examples=200, deadline=None)
@given(happens=HAPPENS, pause=PAUSES, before=st.integers(1, 12), amount=st.integers(1, 5))
@example(happens=[(0.0, 5, "stays")], pause=8.0 / GRANULES / 2, before=4, amount=4)
def test_what_is_behind_a_charge_fits_when_it_would_after_it(
    kind: str, happens: list[tuple[float, int, str]], pause: float, before: int, amount: int
) -> None:
    """Not a moment sooner, and no sooner than without it."""
    counter, now = COUNTERS[kind](), 0.0
    for gap, charged, then in happens:
        at = now = now + gap
        mark = counter.charge(charged, now)
        counter.open += charged
        if then == "answered":
            now += 0.01
            counter.answered(mark, charged, at, now)
        elif then == "taken back":
            counter.take_back(mark, charged)
        counter.open -= charged
    now += pause
    after = copy.deepcopy(counter)
    after.charge(before, now)
    behind = counter.behind(before, amount, now)
    assert behind >= counter.earliest(amount, now)
    assert behind == pytest.approx(after.earliest(amount, now), abs=1e-9)


def test_a_demand_above_the_burst_never_fits() -> None:
    """`inf` says so, for a bucket and for a window."""
    assert Bucket(60, 60.0, 5).earliest(5.5, 0.0) == math.inf
    assert SlidingWindow(5, 60.0).earliest(6, 0.0) == math.inf
    assert Bucket(60, 60.0, 5).earliest(5, 7.0) == 7.0
    assert SlidingWindow(5, 60.0).earliest(5, 7.0) == 7.0


def test_debt_is_worked_off_and_never_forgiven() -> None:
    """A charge beyond the burst delays the next one by all of it."""
    bucket = Bucket(10, 1.0, 10)
    bucket.charge(10, 0.0)
    bucket.charge(25, 0.0)
    assert room(bucket, 0.0) == pytest.approx(-25)
    assert bucket.earliest(1, 0.0) == pytest.approx(2.6 + MARGIN)
    window = SlidingWindow(10, 1.0)
    window.charge(35, 0.0)
    assert room(window, 0.5) == -25
    assert window.earliest(1, 0.5) == 1.0 + MARGIN


def test_more_than_was_charged_is_debt_of_a_bucket_and_of_a_day_from_when_it_is_known() -> None:
    """A bucket that was full by then had refilled; in a day the difference is nothing. Only a window knows what leaves when."""
    bucket = Bucket(60, 60.0, 5)
    bucket.exceed(bucket.charge(1, 0.0), 2, 10.0)
    assert backlog(bucket, 10.0) == 2.0
    assert bucket.counts(1)
    day = CalendarWindow(10, "day", load_zone("UTC"), (0.0, 0.0))
    mark = day.charge(1, 0.0)
    assert day.counts(mark)
    day.exceed(mark, 2, 86_500.0)
    assert not day.counts(mark)
    assert room(day, 86_500.0) == 8


@settings(max_examples=60, deadline=None)
@given(
    traffic=st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.2, 0.9]), st.integers(1, 5), st.booleans()), max_size=60),
    burst=st.sampled_from([5, 7, 10]),
)
def test_no_span_admits_more_than_the_law(traffic: list[tuple[float, int, bool]], burst: int) -> None:
    """Whatever is refunded in between: L t/P + B of a bucket, L per P of a window."""
    bucket, window = Bucket(10, 2.0, burst), SlidingWindow(10, 2.0)
    for counter in (bucket, window):
        now, kept = 0.0, list[tuple[float, int]]()
        for after, amount, refunded in traffic:
            now = counter.earliest(amount, now + after)
            mark = counter.charge(amount, now)
            if refunded:
                counter.take_back(mark, amount)  # type: ignore[arg-type]
            else:
                kept.append((now, amount))
        for first, (begun_at, _) in enumerate(kept):
            taken = 0
            for at, amount in kept[first:]:
                taken += amount
                if counter is bucket:
                    assert taken <= (at - begun_at) * 10 / 2.0 + burst + 1e-5
                elif at - begun_at <= 2.0:
                    assert taken <= 10


@pytest.mark.parametrize("burst", [1, 60])
@pytest.mark.parametrize("sliding", [False, True])
def test_a_provider_that_counts_a_little_later_never_refuses(burst: int, sliding: bool) -> None:
    """60 a minute, counted up to 20 ms late in any order: no refusal, and 97 % of the quota used while calls wait."""
    rng = random.Random(7)
    counter = SlidingWindow(burst, float(burst)) if sliding else Bucket(60, 60.0, burst)
    counted, now = list[float](), 0.0
    while now < 600.0:
        now = admit(counter, 1, now)
        counted.append(now + rng.uniform(0.0, 0.02))
    counted.sort()
    full_at, window = -math.inf, list[float]()
    for at in counted:
        window = [seen for seen in window if seen > at - burst] + [at]
        full_at = max(at, full_at) + 1.0
        assert len(window) <= burst if sliding else full_at - burst <= at + 1e-5
    assert len(counted) >= 0.97 * 600
