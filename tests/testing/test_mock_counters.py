"""The counters of a mock backend, held against slow obvious models."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.limits import DAY, MONTH, Rate
from balancer.testing.mock.counters import Bucket, Dates, Fixed, Sliding

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


def epoch_of(year: int, month: int, day: int, hour: float, zone: str) -> float:
    """The instant at which the clocks of `zone` show this."""
    whole = datetime(year, month, day, int(hour), int(hour % 1 * 60), tzinfo=ZoneInfo(zone))
    return whole.astimezone(UTC).timestamp()


@pytest.mark.parametrize(
    ("zone", "start", "per", "hours"),
    [
        ("UTC", (2026, 2, 28, 22.5), DAY, 1.5),
        ("Asia/Kathmandu", (2026, 5, 3, 0.0), DAY, 24.0),
        ("America/Los_Angeles", (2026, 3, 8, 0.0), DAY, 23.0),
        ("America/Los_Angeles", (2026, 11, 1, 0.0), DAY, 25.0),
        ("America/Santiago", (2026, 9, 5, 12.0), DAY, 12.0),  # the next day begins at 1 o'clock
        ("UTC", (2028, 2, 1, 0.0), MONTH, 29 * 24.0),
        ("America/Los_Angeles", (2026, 11, 30, 23.0), MONTH, 1.0),
        ("Europe/Berlin", (2026, 3, 1, 0.0), MONTH, 31 * 24.0 - 1.0),
    ],
)
def test_a_civil_day_or_month_ends_when_its_date_does(zone: str, start: tuple, per: float, hours: float) -> None:
    """What is used comes back all at once at the first instant of the next one, wherever clocks are set forth or back."""
    calendar = Fixed(Rate(10, per), Dates(per == MONTH, ZoneInfo(zone), epoch_of(*start, zone) - 100.0))
    end = 100.0 + hours * 3600
    taken = calendar.take(9, 100.0)
    assert calendar.wait_for(1, 100.0) == 0.0
    assert calendar.wait_for(2, 100.0) == calendar.reset_after(100.0) == end - 100.0
    assert calendar.wait_for(11, 100.0) == math.inf
    calendar.correct(taken, 12, end - 1)
    assert (calendar.used(end - 1), calendar.wait_for(1, end - 1)) == (12, 1.0)
    assert (calendar.used(end), calendar.wait_for(10, end)) == (0, 0.0)
    calendar.take(1, end)
    calendar.correct(taken, 99, end)
    assert calendar.used(end) == 1


def test_a_date_that_is_shown_twice_begins_once() -> None:
    """Where clocks are set back over midnight, the day that has begun goes on."""
    zone = "America/St_Johns"  # on 2010-11-07, at 00:01, they were set to 23:01
    calendar = Fixed(Rate(10, DAY), Dates(False, ZoneInfo(zone), epoch_of(2010, 11, 7, 0.0, zone)))
    calendar.take(4, 30.0)
    for minutes in (2, 62, 600):
        assert calendar.used(minutes * 60.0) == 4
    assert calendar.used(25 * 3600.0) == 0
