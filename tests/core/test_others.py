"""What somebody else took of a window leaves when the provider says, and no sooner than it can."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.calendar import LENGTHS
from balancer.core.call import Demand
from balancer.core.ledger import Ledger
from balancer.core.limits import Counting, Limits, Presets
from balancer.core.others import LATE, PARTS, leaving
from balancer.core.outcome import LimitSeen
from balancer.core.quota import MARGIN
from balancer.core.reservation import Reservation
from balancer.core.sliding import GRANULES, SlidingWindow

ONE = Demand()
MINUTE, DAY = 60.0, LENGTHS["day"]
CALENDAR: Presets = {("requests", DAY): Counting(window="calendar", zone="UTC")}


def told(limit: float, remaining: float, period: float = MINUTE, dimension: str = "requests") -> LimitSeen:
    """A limit as the text of a refusal tells it."""
    return LimitSeen(dimension, dimension + "-told", limit, remaining, period=period)


def sent(ledger: Ledger, times: int, now: float) -> None:
    """So many requests of ours, served at once."""
    for _ in range(times):
        ledger.settle(ledger.reserve(ONE, now), None, now)


def refuse(ledger: Ledger, seen: LimitSeen | None, until: float, now: float, demand: Demand = ONE) -> Reservation:
    """One request that is refused at `now`, as an account tells its ledger."""
    limits = () if seen is None else (seen,)
    reservation = ledger.reserve(demand, now)
    ledger.refuse(reservation, now)
    ledger.observe(limits, now, reservation, until=until)
    if seen is None or seen.period != DAY:
        ledger.refused(reservation, "requests" if seen is None else seen.dimension, until, now, limits)
    return reservation


@pytest.mark.parametrize("seen", [None, told(60, 0)])
def test_what_was_refused_fits_when_the_provider_says_so(seen: LimitSeen | None) -> None:
    """The rest of it as the limit refills from then on, and all of it a period after the refusal at the latest."""
    ledger = Ledger(Limits(requests_per_minute=60, window="sliding"))
    refuse(ledger, seen, 20.0, 0.0)
    at = ledger.earliest(ONE, 0.0)
    assert 20.0 <= at <= 20.0 + MARGIN
    ledger.reserve(ONE, at)
    assert ledger.earliest(ONE, at) == pytest.approx(at + 1.0, abs=60.0 / GRANULES)
    assert ledger.views(60.1)[0].room(60.1) == 59


def test_what_ours_explain_says_nothing_of_others() -> None:
    """Ours leave when it fits again; theirs may have been taken a moment ago."""
    ledger = Ledger(Limits(requests_per_minute=60, window="sliding"))
    sent(ledger, 50, 0.0)
    refuse(ledger, told(60, 0), 60.0, 30.0)
    assert ledger.views(60.1)[0].room(60.1) == 50
    assert ledger.views(89.9)[0].room(89.9) == 50
    assert ledger.views(91.0)[0].room(91.0) == 60


@pytest.mark.parametrize(("reset_after", "earliest"), [(30.0, 30.0), (90.0, 60.0 + MARGIN), (None, 60.0 + MARGIN)])
def test_there_is_some_at_the_reset_that_an_answer_shows(reset_after: float | None, earliest: float) -> None:
    """Not before, and not a period later; one that is longer than the period means another."""
    ledger = Ledger(Limits(requests_per_minute=60, window="sliding"))
    reservation = ledger.reserve(ONE, 0.0)
    ledger.observe((LimitSeen("requests", "requests", 60, 0, reset_after),), 0.0, reservation)
    assert ledger.earliest(ONE, 0.0) == earliest
    assert ledger.earliest(Demand(requests=60), 0.0) == 60.0 + MARGIN


def test_what_seemed_only_just_to_fit_does_not() -> None:
    """An answer's last unit may be rounded; that one was refused is not."""
    ledger = Ledger(Limits(requests_per_minute=60, window="sliding"))
    sent(ledger, 59, 0.0)
    refuse(ledger, LimitSeen("requests", "requests", 60, 0, 5.0), 35.0, 30.0)
    assert ledger.earliest(ONE, 30.0) == pytest.approx(35.0, abs=2 * MARGIN)


def test_a_window_that_only_ours_fill_and_that_opens_sooner_is_none() -> None:
    """A limit that refusals taught refills: what is ours comes back as the provider says."""
    ledger = Ledger(Limits())
    sent(ledger, 3, 0.0)
    refuse(ledger, told(3, 0), 21.0, 1.0)
    assert ledger.earliest(ONE, 1.0) == 21.0
    ledger.reserve(ONE, 21.0)
    assert 41.0 <= ledger.earliest(ONE, 21.0) <= 60.0 + MARGIN


def test_refusals_of_what_was_sent_at_once_let_go_of_as_much_as_one_of_them() -> None:
    """Those that are out when the first is refused were never counted."""
    ledger = Ledger(Limits())
    out = [ledger.reserve(ONE, 0.0) for _ in range(6)]
    for reservation in out[3:]:
        ledger.refuse(reservation, 1.0)
        ledger.observe((told(3, 0),), 1.0, reservation, until=21.0)
        ledger.refused(reservation, "requests", 21.0, 1.0, (told(3, 0),))
    for reservation in out[:3]:
        ledger.settle(reservation, None, 2.0)
    at = ledger.earliest(ONE, 2.0)
    assert at == pytest.approx(21.0, abs=0.1)
    ledger.reserve(ONE, at)
    assert ledger.earliest(ONE, at) > 40.0


def test_a_day_that_refills_opens_when_the_provider_says_so() -> None:
    """Not a day later, be it a quota of requests or one of tokens."""
    ledger = Ledger(Limits())
    refuse(ledger, told(200, 0, DAY), 432.0, 0.0)
    assert ledger.earliest(ONE, 0.0) == 432.0
    ledger = Ledger(Limits())
    large = Demand(4000, 35)
    refuse(ledger, told(200_000, 2506, DAY, "tokens"), 661.0, 0.0, large)
    assert ledger.earliest(large, 0.0) == 661.0


def test_a_short_wait_does_not_end_a_day_of_the_calendar() -> None:
    """It is about a limit that nobody knows; the day is nearly used up by ours."""
    ledger = Ledger(Limits(requests={"amount": 10, "per": DAY, "window": "calendar"}))
    sent(ledger, 9, 0.0)
    refuse(ledger, None, 5.0, 1.0)
    assert ledger.views(6.0)[0].room(6.0) <= 1


def test_a_day_of_the_calendar_ends_at_its_midnight() -> None:
    """Where the provider is known to count so, a limit that it told is counted so; where it states another time, until then."""
    noon = Ledger(Limits(), CALENDAR, anchor=(0.0, 43_200.0))
    sent(noon, 50, 0.0)
    refused = noon.reserve(ONE, 1.0)
    noon.refuse(refused, 1.0)
    noon.observe((told(250, 0, DAY),), 1.0, refused)
    assert 43_200.0 <= noon.earliest(ONE, 1.0) <= 43_202.0
    assert noon.views(43_202.0)[0].room(43_202.0) == 250
    refuse(noon, told(250, 0, DAY), 43_202.0 + 3600.0, 43_202.0)
    assert noon.earliest(ONE, 43_202.0) == 43_202.0 + 3600.0


def test_answers_without_end_are_kept_as_few_charges() -> None:
    """While somebody else takes a little all the time."""
    window = SlidingWindow(10_000, MINUTE)
    for step in range(1000):
        now = 0.01 * step
        window.charge(1, now)
        for part, at in leaving(window, 5, 0.0, now + 30.0, now):
            window.charge_until(part, at, now)
    assert window.used_at(20.0) == 6000
    assert len(window._log) < 2 * GRANULES


@given(
    st.integers(1, 200),
    st.integers(0, 100),
    st.integers(1, 100),
    st.floats(0.1, 59.0),
    st.integers(0, 100),
    st.floats(0.0, 59.0),
)
def test_parts_leave_as_a_bucket_refills(
    amount: int, ours: int, fits: int, until: float, refused: int, sent_for: float
) -> None:
    """All is booked, what was refused fits at the stated time if others were the reason, and never more than the limit refills."""
    window = SlidingWindow(200, MINUTE)
    window.charge(min(ours, 200 - min(amount, 200)), 100.0 - sent_for)
    used = window.used_at(100.0)
    left = used - window.used_at(100.0 + until + LATE)
    parts = leaving(window, amount, fits if refused else 0, 100.0 + until, 100.0)
    assert sum(part for part, _ in parts) == amount
    assert [at for _, at in parts] == sorted((at for _, at in parts), reverse=True)
    assert all(100.0 + until <= at <= 160.0 + MARGIN for _, at in parts)
    first = min(at for _, at in parts)
    due = min(amount, max(0, fits - left + min(0, amount + used - 200))) if refused else -(-amount // PARTS)
    if first < 160.0 + MARGIN:
        for _, at in parts:
            left = sum(part for part, other in parts if other <= at)
            assert at == 160.0 + MARGIN or left <= due + (at - 100.0 - until) * 200 / MINUTE + 1e-6
    for part, at in parts:
        window.charge_until(part, at, 100.0)
    assert window.earliest(1, 100.0) >= 100.0
    assert window.used_at(160.0 + MARGIN) == 0
