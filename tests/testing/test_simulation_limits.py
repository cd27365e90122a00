"""The counters of simulated providers and the judge of their records, held against the sentences that define them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.call import Demand, Usage
from balancer.testing.simulation.limits import SimulatedLimit, find_overruns, make_counter

# Sixteenths of a second and whole amounts are exact in floats, so that the slow models may compare without slack.
GAPS = st.integers(0, 40).map(lambda sixteenths: sixteenths / 16)
STEPS = st.lists(st.tuples(GAPS, st.integers(1, 6)), max_size=40)
BURSTS = st.sampled_from([None, 1, 3, 6, 8])


def admit(limit, steps):
    """What a counter admits of the steps, and all of it as `(at, amount, whether)`."""
    counter, now, seen = make_counter(limit), 0.0, []
    for gap, amount in steps:
        now += gap
        fits = counter.wait_for(amount, now) == 0.0
        if fits:
            counter.take(amount, now)
        seen.append((now, amount, fits))
    return seen


def over_at_the_end(limit, admitted):
    """By how much any span that the last admission ends is fuller than allowed: one sum for each beginning."""
    rate, end = limit.amount / limit.per, admitted[-1][0]
    total, worst = 0.0, -math.inf
    for begin, amount in reversed(admitted):
        if limit.window == "sliding" and end >= begin + limit.per:
            break
        if limit.window == "fixed" and end // limit.per != begin // limit.per:
            break
        total += amount
        worst = max(worst, total - (limit.capacity + rate * (end - begin) if limit.window == "bucket" else limit.amount))
    return worst


def most_over_allowed(limit, admitted):
    """By how much any span is fuller than allowed."""
    return max((over_at_the_end(limit, admitted[: place + 1]) for place in range(len(admitted))), default=-math.inf)


@pytest.mark.parametrize("window", ["bucket", "sliding", "fixed"])
@given(steps=STEPS, burst=BURSTS)
def test_what_fits_is_admitted_and_nothing_else(window, steps, burst):
    """A request is admitted exactly if no span that it ends is then over its limit."""
    limit = SimulatedLimit("tokens", 8, 2.0, window, burst)
    admitted = []
    for at, amount, fits in admit(limit, steps):
        assert fits == (most_over_allowed(limit, [*admitted, (at, amount)]) <= 0.0)
        if fits:
            admitted.append((at, amount))
    assert find_overruns(limit, admitted) == []


@pytest.mark.parametrize("window", ["bucket", "sliding", "fixed"])
@given(steps=STEPS, burst=BURSTS)
def test_the_judge_finds_every_overrun(window, steps, burst):
    """Of anything that was let in, the worst span is found, with what was in it."""
    limit = SimulatedLimit("tokens", 8, 2.0, window, burst)
    now, admitted = 0.0, []
    for gap, amount in steps:
        now += gap
        admitted.append((now, amount))
    worst, found = most_over_allowed(limit, admitted), find_overruns(limit, admitted)
    assert max((each.amount - each.allowed for each in found), default=-math.inf) == (worst if worst > 0 else -math.inf)
    for each in found:
        assert each.amount == sum(amount for at, amount in admitted if each.from_at <= at < each.until) + sum(
            amount for at, amount in admitted[: last_of(found, each, admitted)] if at == each.until
        )


def last_of(found, overrun, admitted):
    """How many admissions had come when `overrun` ended: those of one instant are told apart by their order in `found`."""
    same = [place for place, (at, _) in enumerate(admitted) if at == overrun.until]
    after = [each for each in found if each.until == overrun.until]
    return same[len(same) - len(after) + after.index(overrun)] + 1


@pytest.mark.parametrize("window", ["bucket", "sliding", "fixed"])
@given(steps=STEPS, burst=BURSTS, amount=st.integers(1, 12))
def test_the_wait_is_the_earliest(window, steps, burst, amount):
    """After it the request fits, a moment before it does not; what never fits waits for ever."""
    limit = SimulatedLimit("tokens", 8, 2.0, window, burst)
    counter, now = make_counter(limit), 0.0
    for gap, taken in steps:
        now += gap
        if counter.wait_for(taken, now) == 0.0:
            counter.take(taken, now)
    wait = counter.wait_for(amount, now)
    assert (wait == math.inf) == (amount > limit.capacity)
    if 0.0 < wait < math.inf:
        assert counter.wait_for(amount, now + wait * (1 - 1e-6)) > 0.0
        assert counter.wait_for(amount, now + wait) == 0.0


@pytest.mark.parametrize("window", ["bucket", "sliding", "fixed"])
def test_a_correction_counts_and_may_owe(window):
    """More than estimated is a debt that nothing passes; less gives back."""
    counter = make_counter(SimulatedLimit("tokens", 10, 10.0, window))
    taken = counter.take(4, 0.0)
    counter.correct(taken, 12, 0.0)
    assert counter.used(0.0) == 12
    assert counter.wait_for(1, 0.0) > 0.0
    counter.correct(taken, 1, 0.0)
    assert counter.used(0.0) == 1
    assert counter.used(10.0) == 0


@pytest.mark.parametrize("window", ["sliding", "fixed"])
def test_a_late_correction_of_a_window_that_is_over_counts_nothing(window):
    """The charge has left."""
    counter = make_counter(SimulatedLimit("tokens", 10, 10.0, window))
    taken = counter.take(4, 5.0)
    counter.correct(taken, 12, 15.0)
    assert counter.used(15.0) == 0


def test_resets_mean_what_providers_mean():
    """A bucket: full; a sliding window: its oldest charge has left; a fixed one: its end."""
    for window, expected in (("bucket", 2.0), ("sliding", 9.0), ("fixed", 6.0)):
        counter = make_counter(SimulatedLimit("tokens", 10, 10.0, window))
        counter.take(1, 3.0)
        counter.take(2, 4.0)
        assert counter.reset_after(4.0) == expected


def test_concurrency_counts_what_runs():
    """An end makes room; nobody knows when it comes."""
    counter = make_counter(SimulatedLimit("concurrency", 2))
    first = counter.take(1, 0.0)
    counter.take(1, 0.0)
    assert counter.wait_for(1, 100.0) == math.inf
    counter.correct(first, 0, 100.0)
    assert counter.wait_for(1, 100.0) == 0.0


@pytest.mark.parametrize("window", ["bucket", "sliding", "fixed"])
@given(steps=STEPS, answers=st.lists(GAPS, min_size=40, max_size=40), burst=BURSTS)
def test_the_judge_finds_who_was_let_in_while_too_much_had_been_produced(window, steps, answers, burst):
    """Answers alone are never at fault, however much they produce."""
    limit = SimulatedLimit("output_tokens", 8, 2.0, window, burst, charged="produced")
    now, needs, produced = 0.0, [], []
    for (gap, amount), after in zip(steps, answers, strict=False):
        now += gap
        needs.append((now, 1.0))
        produced.append((now + after, amount))
    produced.sort()
    over = [over_at_the_end(limit, [*(each for each in produced if each[0] < at), (at, need)]) for at, need in needs]
    found = find_overruns(limit, needs, produced)
    assert [each.until for each in found] == [at for (at, _), by in zip(needs, over, strict=True) if by > 0]
    assert [each.amount - each.allowed for each in found] == [by for by in over if by > 0]
    assert find_overruns(limit, [], produced) == []


def test_what_is_charged_when():
    """The truth, the demand, the bound of the output, or nothing before the answer."""
    demand, truth = Demand(100, 50, max_output_tokens=400), Usage(120, 30, images=2)
    expected = {
        "start": {"tokens": (150, 150), "input_tokens": (120, 120), "output_tokens": (30, 30)},
        "adjusted": {"tokens": (150, 150), "input_tokens": (100, 120), "output_tokens": (50, 30)},
        "produced": {"tokens": (0, 150), "input_tokens": (0, 120), "output_tokens": (0, 30)},
        "max_tokens": {"tokens": (520, 520), "input_tokens": (120, 120), "output_tokens": (400, 400)},
    }
    for charged, dimensions in expected.items():
        for dimension, amounts in {**dimensions, "requests": (1, 1), "images": (2, 2), "concurrency": (1, 1)}.items():
            limit = SimulatedLimit(dimension, 1000, charged=charged)
            assert (limit.at_admission(demand, truth), limit.in_the_end(demand, truth)) == amounts
            assert limit.needed(demand, truth) == (amounts[0] or 1)


@pytest.mark.parametrize(
    "wrong", [{"dimension": "tokenz"}, {"amount": 0.0}, {"per": math.inf}, {"burst": 0.0}, {"amount": math.nan}]
)
def test_a_limit_that_limits_nothing_is_an_error(wrong):
    """Said at once, not by a strange simulation."""
    with pytest.raises(ValueError):
        SimulatedLimit(**{"dimension": "tokens", "amount": 1.0, **wrong})
