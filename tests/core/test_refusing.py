"""Which rate a refusal is about: the one that it names, else one at its boundary, else the shortest that may be meant."""

from __future__ import annotations

import pytest

from balancer.core.call import Demand
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.outcome import LimitSeen
from balancer.core.reservation import Reservation

ONE = Demand()
MINUTE_NAMED = LimitSeen("requests", "requests-minute", 60.0, 0.0, period=60.0)
DAY_NAMED = LimitSeen("requests", "requests-day", 10_000.0, 0.0, period=86_400.0)
MINUTE_ALONE = LimitSeen("requests", "requests-minute", period=60.0)


def refuse(
    ledger: Ledger, dimension: str | None, until: float | None, now: float, *seen: LimitSeen, demand: Demand = ONE
) -> Reservation:
    """One request that is refused at `now`."""
    reservation = ledger.reserve(demand, now)
    ledger.refuse(reservation, now)
    ledger.observe(seen, now, reservation)
    ledger.refused(reservation, dimension, until, now, seen)
    return reservation


def rooms(ledger: Ledger, now: float) -> list[float]:
    """Of each rate."""
    return [round(view.room(now)) for view in ledger.views(now) if view.name != "refusals"]


@pytest.mark.parametrize("window", ["bucket", "sliding"])
@pytest.mark.parametrize("seen", [(MINUTE_NAMED,), (MINUTE_ALONE,), ()])
def test_a_refusal_over_the_minute_leaves_the_day_alone(window: str, seen: tuple[LimitSeen, ...]) -> None:
    """Whether it names the minute or says no more than what it counts."""
    ledger = Ledger(Limits(requests=["60/min", "10000/day"], window=window))
    refuse(ledger, "requests", 1.0, 0.0, *seen)
    minute, day = rooms(ledger, 0.0)
    assert minute <= 1
    assert day == 10_000


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_refusal_over_the_day_leaves_the_minute_alone(window: str) -> None:
    """Where it names the day, although the minute would be the safer guess."""
    ledger = Ledger(Limits(requests=["60/min", "10000/day"], window=window))
    refuse(ledger, "requests", None, 0.0, DAY_NAMED)
    assert rooms(ledger, 0.0) == [60, 0]


def test_a_limit_that_is_shown_with_room_for_it_is_not_the_one() -> None:
    """Headers show every limit, the refused one among them."""
    ledger = Ledger(Limits(requests=["60/min", "10000/day"]))
    left = LimitSeen("requests", "requests-minute", 60.0, 50.0, period=60.0)
    refuse(ledger, "requests", None, 0.0, left, DAY_NAMED)
    assert rooms(ledger, 0.0) == [50, 0]


def test_a_rate_at_its_boundary_is_rather_meant_than_a_shorter_one() -> None:
    """Ours have just used up the hour."""
    ledger = Ledger(Limits(requests=["60/min", "100/h"], window="sliding"))
    for minute in range(2):
        for _ in range(50):
            ledger.settle(ledger.reserve(ONE, 61.0 * minute), None, 61.0 * minute)
    refuse(ledger, "requests", None, 200.0)
    assert rooms(ledger, 200.0) == [60, 0]


def test_a_day_with_room_is_not_used_up_by_a_refusal_that_does_not_name_it() -> None:
    """There must be a shorter limit that nobody knows: that is learned."""
    ledger = Ledger(Limits(requests_per_day=10_000, window="sliding"))
    ledger.settle(ledger.reserve(ONE, 0.0), None, 0.1)
    refuse(ledger, "requests", 3.0, 2.0)
    day, *_ = rooms(ledger, 2.0)
    assert day == 9_999
    assert [view.name for view in ledger.views(2.0)] == ["requests", "refusals"]


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_refusal_that_says_only_when_again_is_about_the_one_dimension_there_is(window: str) -> None:
    """What was refused fits at that time, and not all that seemed to be left."""
    ledger = Ledger(Limits(requests=["60/min", "10000/day"], window=window))
    refuse(ledger, None, 1.0, 0.0)
    minute, day = rooms(ledger, 1.0)
    assert 1 <= minute <= 2
    assert day == 10_000


def test_of_several_dimensions_none_is_taken_for_it() -> None:
    """Then only the pause holds."""
    ledger = Ledger(Limits(requests_per_minute=60, tokens_per_minute=1000))
    refuse(ledger, None, 5.0, 0.0, demand=Demand(10, 10))
    assert rooms(ledger, 0.0) == [60, 1000]
