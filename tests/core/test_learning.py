"""Periods learned from limit, remaining and reset, by both readings of a reset."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.learning import LONGEST, SHORTEST, Learning, nice, usual


def learned(limit: float, samples: list[tuple[float, float]], *, oldest_for: float = math.inf) -> Learning:
    """What a list of (used, reset) teaches."""
    learning = Learning(limit)
    for used, reset_after in samples:
        learning.see(used, 1.0, reset_after, oldest_for)
    return learning


def test_nothing_is_assumed_before_the_first_sample() -> None:
    """No period is not sixty seconds."""
    assert Learning(500).period == 0.0


@pytest.mark.parametrize(
    ("limit", "samples", "period"),
    [
        (500, [(1, 0.12)], 60),
        (500, [(1, 0.12), (2, 0.23), (100, 11.95)], 60),
        (10_000, [(1, 8.64)], 86400),
        (10_000, [(3, 25.92), (2, 17.28)], 86400),
        (30_000, [(14_000, 28.0), (29_000, 58.0), (600, 1.2)], 60),
        (3, [(3, 1.0)], 1),
    ],
)
def test_a_reset_in_proportion_to_what_is_used_is_continuous(
    limit: float, samples: list[tuple[float, float]], period: float
) -> None:
    """Period = reset x limit / used."""
    learning = learned(limit, samples)
    assert learning.continuous
    assert learning.period == period


@pytest.mark.parametrize("resets", [(2.0, 2.0, 2.0, 2.0), (2.0, 1.9993, 1.9991, 1.998), (1.9999, 1.9999, 1.9999, 1.9999)])
def test_a_reset_that_ignores_what_is_used_is_a_window(resets: tuple[float, ...]) -> None:
    """One to four of five used, all with the same two seconds to go, seen in any order."""
    for order in itertools.permutations(zip((1, 2, 3, 4), resets, strict=True)):
        learning = learned(5, list(order), oldest_for=0.02)
        assert not learning.continuous
        assert learning.period == 2.0


@pytest.mark.parametrize(
    ("samples", "low", "high"),
    [
        ([(2, 0.886, 0.094), (6, 0.86, 0.12)], 0.98, 1.0),  # not .9
        ([(2, 36.0, 0.7), (4, 35.0, 1.4)], 36.4, 37.5),  # not 36
        ([(2, 1.91, 0.1), (4, 1.9, 0.1)], 2.0, 2.0),
        ([(2, 59.2, 0.9), (4, 58.1, 1.9)], 60.0, 60.0),
        ([(2, 61.0, 0.7), (4, 61.0, 1.1)], 60.0, 60.0),  # an instant, rounded up, against a date that is cut off
    ],
)
def test_a_window_of_a_usual_period_is_told_from_what_is_left_of_one(
    samples: list[tuple[float, float, float]], low: float, high: float
) -> None:
    """A number that lies between the bounds by chance is not taken for what is left: it would end too soon."""
    learning = Learning(10)
    for used, reset_after, oldest_for in samples:
        learning.see(used, 1.0, reset_after, oldest_for)
    learning.see(9, 1.0, samples[-1][1], samples[-1][2])
    assert not learning.continuous
    assert low <= learning.period <= high


@pytest.mark.parametrize("period", [0.05, 0.1, 0.5, 1, 2, 10, 15, 20, 60, 120, 900, 3600, 7200, 86400, 2 * 86400])
def test_usual_periods(period: float) -> None:
    """As people choose them; by nine tenths of them nobody counts."""
    assert usual(period)
    assert not usual(0.9 * period)


def test_while_both_readings_hold_the_longer_is_taken() -> None:
    """One sample cannot tell them apart; everything used, they agree."""
    assert learned(5, [(1, 2.0)]).period == 10.0
    assert learned(5, [(4, 1.999)]).period == 3.0
    assert learned(5, [(5, 1.999)]).period == 2.0


def test_a_window_reads_slow_answers_by_the_age_of_its_oldest_charge() -> None:
    """A reset written half a second after the charge that it is about."""
    learning = learned(5, [(4, 1.5), (5, 1.499)], oldest_for=0.53)
    learning.see(1, 1.0, 1.52, 0.5)
    assert not learning.continuous
    assert learning.period == 2.0


def test_a_fixed_window_is_learned_when_its_beginning_is_seen() -> None:
    """First seen with ten seconds to go; the next one shows the whole minute."""
    learning = learned(500, [(1, 10.2), (40, 9.1), (90, 8.0)], oldest_for=0.1)
    assert not learning.continuous
    learning.see(1, 1.0, 59.8, 0.1)
    assert learning.period == 60.0


@pytest.mark.parametrize("rounded", [math.floor, math.ceil, round])
def test_resets_rounded_to_seconds_do_not_make_a_bucket_a_window(rounded: object) -> None:
    """However a provider rounds, a thousand samples leave it continuous, and the period right within a tenth."""
    rng = random.Random(3)
    learning = Learning(500)
    for _ in range(1000):
        used = rng.uniform(0.1, 499.0)
        if reset_after := float(rounded(used * 0.12)):  # type: ignore[operator]
            learning.see(math.ceil(used), 1.0, reset_after, math.inf)
    assert learning.continuous
    assert 57 <= learning.period <= 66


def test_instants_in_whole_seconds_read_against_a_date_do_not_make_a_bucket_a_window() -> None:
    """The instant is rounded up and the date is cut off, so resets are up to two seconds too long."""
    rng = random.Random(5)
    learning = Learning(100_000)
    for _ in range(300):
        now, used = rng.uniform(0.0, 1e4), rng.uniform(500.0, 50_000.0)
        reset_after = float(math.ceil(now + used * 60.0 / 100_000) - math.floor(now))
        learning.see(math.ceil(used), 1.0, reset_after, math.inf)
    assert learning.continuous
    assert 57 <= learning.period <= 66


def test_whole_seconds_do_not_make_a_first_answer_look_slower() -> None:
    """Two seconds to go, one of five used: ten seconds if it is a bucket, and not half as much again."""
    learning = Learning(5)
    learning.show(4.0)
    learning.see(1, 1.0, 2.0, 0.001, ours=2.0, counted=(1.0, 0.001))
    assert learning.period == 10.0


@pytest.mark.parametrize("answered_after", [0.0, 0.4, 0.95])
def test_a_burst_of_one_is_learned_from_its_first_answer(answered_after: float) -> None:
    """Sixty a minute, all but none of them used, though only one was sent: not a limit that others had used up."""
    learning = Learning(60)
    learning.show(0.0)
    learning.show(1.0)
    learning.see(60, 1.0, 1.0001 - answered_after, math.inf, ours=1.0, counted=(1.0, answered_after))
    assert (learning.burst, learning.period) == (1, 60.0)
    assert learning.refills


@pytest.mark.parametrize("answered_after", [0.5, 5.0, 20.0])
def test_a_small_burst_that_is_full_again_is_learned(answered_after: float) -> None:
    """Nothing is left to wait for, and yet the limit is not."""
    learning = Learning(600)
    learning.show(10.0)
    learning.see(590, 1.0, 0.0, math.inf, ours=2.0, counted=(1.0, answered_after))
    assert (learning.burst, learning.period, learning.refills) == (10, 60.0, True)


def test_a_burst_grows_with_what_is_shown() -> None:
    """Others used it when we came; once a full bucket has been seen there is nothing small about it."""
    learning = Learning(500)
    learning.show(199.0)
    learning.see(301, 1.0, 36.12, math.inf, ours=1.0, counted=(1.0, 0.02))
    assert (learning.burst, learning.period) == (199, 60.0)  # a minute, an hour or a quarter of a day: the first is usual
    learning.refused(1.0, 199.0)
    assert learning.period > 60.0 * 60
    learning.show(99.0)
    learning.see(401, 1.0, 48.12, math.inf, counted=(1.0, 0.02))
    assert (learning.burst, learning.period) == (199, 60.0)  # a hundred more used take twelve seconds more
    learning.show(495.0)
    assert learning.burst == 500


def test_a_window_that_others_used_is_no_bucket() -> None:
    """Ours are used beside theirs, and the window's end comes no later for it."""
    learning = Learning(500)
    learning.show(199.0)
    for number in range(40):
        learning.see(301 + number, 1.0, 36.12 - number * 0.01, math.inf, ours=number + 1.0, counted=(1.0, 0.02))
    assert not learning.continuous
    assert not learning.refills


@pytest.mark.parametrize(("reset_after", "continuous"), [(1.0, True), (3.0, True), (4.0, False), (40.0, False)])
def test_where_any_more_is_long_in_coming_there_is_no_bucket(reset_after: float, continuous: bool) -> None:
    """One of sixty a minute has some more within a second, which may be rounded and late by a few."""
    learning = Learning(60, known_period=60.0)
    learning.show(5.0)
    learning.see(55, 1.0, reset_after, math.inf, ours=1.0, counted=(1.0, 0.2), next_unit=True)
    assert (learning.continuous, learning.refills, learning.period) == (continuous, continuous, 60.0)


def test_a_refusal_despite_room_shrinks_the_burst_and_ends_guessing() -> None:
    """A usual period was meant where two minutes are the truth: from then on the longest that can be."""
    learning = Learning(60)
    learning.show(1.0)
    learning.see(60, 1.0, 0.3001, math.inf, ours=1.0, counted=(1.0, 1.7))
    assert (learning.burst, learning.period) == (1, 60.0)
    learning.refused(1.0, 0.0)
    assert learning.period == 120.0
    learning = Learning(60)
    learning.show(60.0)
    learning.refused(1.0, 10.0)
    assert learning.burst == 10


def test_a_small_burst_without_resets_is_given_up_when_nothing_passes() -> None:
    """Three in a row; until a window refuses after little of it."""
    learning = Learning(60, known_period=60.0)
    learning.show(5.0)
    learning.see(55, 1.0, None, math.inf, ours=1.0)
    assert (learning.burst, learning.refills) == (5, True)
    for _ in range(2):
        learning.refused_in_vain()
    learning.passed()
    for _ in range(2):
        learning.refused_in_vain()
    assert learning.refills
    learning.refused_in_vain()
    assert learning.in_vain
    assert (learning.burst, learning.refills, learning.period) == (60, False, 60.0)
    learning.refused(1.0, 2.0)
    assert not learning.in_vain
    assert (learning.burst, learning.refills) == (2, True)


@given(st.floats(0.01, 1e5), st.floats(1.0, 1.5))
def test_a_nice_period_lies_within_its_bounds(low: float, ratio: float) -> None:
    """Never below what was seen."""
    assert low * (1 - 1e-8) <= nice(low, low * ratio) <= low * ratio * (1 + 1e-8)


@given(
    st.lists(
        st.tuples(
            st.floats(1e-12, 1e15),
            st.floats(0, 1e15),
            st.floats(1e-300, LONGEST),
            st.floats(0, math.inf),
        ),
        max_size=12,
    )
)
def test_any_samples_leave_a_finite_period(samples: list[tuple[float, float, float, float]]) -> None:
    """Nonsense teaches nonsense, within bounds, and raises nothing."""
    learning = Learning(1e15)
    for sample in samples:
        learning.see(*sample)
    assert learning.period == 0.0 if not samples else SHORTEST <= learning.period <= LONGEST
