"""Estimates that are learned from usage, and the room that their error asks to keep free."""

from __future__ import annotations

import heapq
import itertools
import math
import random

import pytest

from balancer.core.bucket import Bucket
from balancer.core.call import Demand, Usage
from balancer.core.estimating import (
    BOLD_Z,
    CHARACTERS_PER_TOKEN,
    FIRST_SHARE,
    FIRST_WARY,
    KNOWN,
    LEAST_Z,
    LONGEST_ANSWER,
    MOST_MODELS,
    MOST_OFF,
    SHARE_EACH,
    SHARE_LOST,
    SURE,
    EstimateError,
    Estimator,
    Estimators,
    Trust,
    Z,
)
from balancer.core.sliding import SlidingWindow


def first(characters: int, bound: int | None = None, images: int = 0) -> Demand:
    """As a look into the request guesses."""
    return Demand(-(-characters // CHARACTERS_PER_TOKEN), 1000 if bound is None else bound, 1, images, bound)


def test_nothing_observed_leaves_the_first_estimate() -> None:
    """Of input, output and its bound."""
    for given in (first(4000), first(4000, 50), first(4000, 9000, images=2)):
        assert Estimator().demand(given) == given
    assert Estimator().demand(Demand(0, 5)).input_tokens == 1


def test_the_ratio_of_tokens_to_characters_is_learned() -> None:
    """Text of one and a half characters a token."""
    estimator = Estimator()
    for _ in range(100):
        estimator.learn(first(3000), Usage(2000, 10))
    assert estimator.demand(first(6000)).input_tokens == pytest.approx(4000, rel=0.05)


def test_the_ratio_is_one_of_sums() -> None:
    """Short requests whose wrapping weighs much do not spoil the estimate of long ones."""
    estimator = Estimator()
    for _ in range(100):
        estimator.learn(first(20), Usage(15, 1))
        estimator.learn(first(40_000), Usage(10_000, 1))
    assert estimator.demand(first(40_000)).input_tokens == pytest.approx(10_000, rel=0.05)


def test_the_error_is_one_of_sums() -> None:
    """Of estimates that expect one output of all, large calls take more and small ones less; the bias is what their sum takes."""
    rng, error = random.Random(5), EstimateError()
    estimates, truths = 0.0, 0.0
    for _ in range(2000):
        size = rng.uniform(100.0, 1000.0)
        estimate, truth = 0.7 * size + 165.0, size
        error.add(estimate, truth)
        estimates, truths = estimates + estimate, truths + truth
    assert error.bias == pytest.approx(truths / estimates, abs=0.02)


def test_one_huge_estimate_does_not_overturn_what_is_known() -> None:
    """Nor are those after it too small to count."""
    error = EstimateError()
    for _ in range(100):
        error.add(100.0, 100.0)
    error.add(1e6, 3e6)
    assert error.bias < 1.2
    for _ in range(150):
        error.add(100.0, 100.0)
    assert error.bias < 1.05


def test_the_output_is_the_mean_of_what_was_observed_under_the_bound() -> None:
    """Recent answers count more; the bound stays known to who counts that."""
    estimator = Estimator()
    for output in (100, 300) * 50:
        estimator.learn(first(10), Usage(3, output))
    assert estimator.demand(first(10)).output_tokens == pytest.approx(200, rel=0.05)
    assert estimator.demand(first(10, 150)).output_tokens == 150
    assert estimator.demand(first(10, 900)).output_bound == 900
    assert estimator.demand(Demand(10)).output_tokens == 0
    for _ in range(200):
        estimator.learn(first(10), Usage(3, 40))
    assert estimator.demand(first(10)).output_tokens == pytest.approx(40, rel=0.2)


def test_a_report_beyond_belief_does_not_close_the_account() -> None:
    """One usage of 10^15 tokens leaves estimates that a limit can hold."""
    estimator = Estimator()
    estimator.learn(first(100), Usage(10**15, 10**15))
    demand = estimator.demand(first(1000))
    assert demand.input_tokens <= 1000
    assert demand.output_tokens <= LONGEST_ANSWER


def test_a_usage_that_tells_nothing_teaches_nothing() -> None:
    """No text, no answer."""
    estimator = Estimator()
    before = estimator.demand(first(400))
    estimator.learn(Demand(), Usage(90, 0))
    estimator.learn(first(400), Usage(0, 0))
    assert estimator.demand(first(400)) == before


def test_models_are_estimated_apart_and_their_number_is_bounded() -> None:
    """Names are the callers' to choose; the longest unused is forgotten."""
    estimators = Estimators()
    assert estimators.demand("a", first(10)) == first(10)
    estimators.learn("a", first(10), Usage(3, 77))
    estimators.learn(None, first(10), Usage(3, 5))
    for number in range(MOST_MODELS - 2):
        estimators.learn(str(number), first(10), Usage(3, 9))
    estimators.learn("a", first(10), Usage(3, 77))
    estimators.learn("one more", first(10), Usage(3, 9))
    assert estimators.demand("a", first(10)).output_tokens == 77
    assert estimators.demand(None, first(10)) == first(10)


def test_the_error_is_the_mean_and_the_deviation_of_truth_over_estimate() -> None:
    """As many samples as are few are an ordinary mean."""
    error = EstimateError()
    assert (error.samples, error.bias, error.spread) == (0, 1.0, 0.0)
    for ratio in (0.5, 1.0, 1.5, 2.0):
        error.add(200, 200 * ratio)
    assert error.samples == 4
    assert error.bias == pytest.approx(1.25)
    assert error.spread == pytest.approx(math.sqrt(0.3125))


def test_the_error_follows_and_no_single_truth_rules_it() -> None:
    """A few hundred later samples replace the first; a ratio beyond `MOST_OFF` counts as that."""
    error = EstimateError()
    for _ in range(300):
        error.add(10, 20)
    for _ in range(600):
        error.add(10, 5)
    assert error.bias == pytest.approx(0.5, abs=0.01)
    assert error.spread == pytest.approx(0.0, abs=0.05)
    error.add(1, 10**15)
    assert error.bias < 0.5 + MOST_OFF / 60


def test_the_excess_is_what_is_expected_beyond_the_estimates() -> None:
    """Right estimates keep nothing back, a bias its share; many small ones less than one large one."""
    exact, double, half, spread = EstimateError(), EstimateError(), EstimateError(), EstimateError()
    for number in range(100):
        exact.add(10, 10)
        double.add(10, 20)
        half.add(10, 5)
        spread.add(10, 5 if number % 2 else 15)
    assert exact.excess(1000, 10_000) == 0.0
    assert double.excess(1000, 10_000) == pytest.approx(1000)
    assert half.excess(1000, 10_000) == pytest.approx(-500)
    assert spread.excess(1000, 10 * 100**2) < spread.excess(1000, 1000**2)


def test_one_more_is_trusted_to_take_what_it_demands_and_no_less() -> None:
    """What must fit beside attempts in flight is never less than the demand."""
    half, double = EstimateError(), EstimateError()
    for _ in range(100):
        half.add(10, 5)
        double.add(10, 20)
    assert half.excess(1000, 10_000, 200) == half.excess(1000, 10_000)
    assert double.excess(1000, 10_000, 200) == pytest.approx(1200)


def test_few_ratios_are_not_trusted_to_be_the_mean() -> None:
    """Who took less than estimated may only have been the first to end."""
    few, many = EstimateError(), EstimateError()
    for number in range(100):
        many.add(100, (40, 80)[number % 2])
        if number < KNOWN:
            few.add(100, (40, 80)[number % 2])
    assert -200 < few.excess(1000, 100**2) < 0
    assert -400 < many.excess(1000, 100**2) < -200


def test_the_mean_becomes_as_exact_as_one_of_decaying_weights() -> None:
    """That is twice as exact as of as many as one of these weights is the inverse of."""
    error = EstimateError()
    for number in range(1000):
        error.add(100, (40, 80)[number % 2])
    assert error.samples == 127


def test_what_will_take_less_frees_room_as_far_as_it_is_trusted_to() -> None:
    """Half of it, but for what is kept free in any case until it has been seen to be true."""
    half = EstimateError()
    for _ in range(100):
        half.add(10, 5)
    kept_back = lambda share: half.kept_back(1000, 10_000, 200, share, 2000)  # noqa: E731
    assert kept_back(0.0) == 0.0
    assert kept_back(0.1) == pytest.approx(-0.1 * (500 - SURE * 2000))
    assert kept_back(1.0) == pytest.approx(-500)


def test_the_worst_is_kept_free_as_far_as_it_is_believed() -> None:
    """A part of it in any case."""
    error = EstimateError()
    for number in range(1000):
        error.add(10, 5 if number % 2 else 15)
    kept_back = lambda share, limit=500: error.kept_back(1000, 10_000, 0, share, limit)  # noqa: E731
    expected = (error.bias - 1.0) * 1000
    worst = kept_back(0.0) - expected
    assert kept_back(1.0) - expected == pytest.approx(worst * BOLD_Z / Z)
    assert kept_back(2.0) - expected == pytest.approx(worst * LEAST_Z / Z)
    assert kept_back(2.0, 2000) - expected == pytest.approx(SURE * 2000)
    assert kept_back(2.0, 100_000) - expected == pytest.approx(worst)


def test_trust_rises_by_what_is_served_with_it_and_slowly_once_that_was_refused() -> None:
    """Attempts of one time tell no more than one of them."""
    trust = Trust()
    trust.served(0.0, 0.0)
    assert trust.share == FIRST_SHARE
    trust.served(0.0, 0.0)
    assert trust.share == FIRST_SHARE
    for _ in range(5):
        trust.served(FIRST_SHARE, 1.0)
    assert FIRST_SHARE < trust.share < 1.0
    trust.served(trust.share, 2.0)
    assert trust.share == 1.0
    trust.served(1.0, 3.0)
    assert trust.share == 1.0 + SHARE_EACH
    trust.refused(3.0, 60.0, 4.0)
    trust.refused(3.5, 60.0, 4.0)
    assert trust.share == pytest.approx(1.0 + SHARE_EACH - SHARE_LOST)
    trust.served(0.5, 5.0)
    assert trust.share == pytest.approx(1.0 + 2 * SHARE_EACH - SHARE_LOST)


def test_a_first_try_that_is_refused_is_not_repeated_for_a_while() -> None:
    """Each time for longer."""
    trust, now = Trust(), 0.0
    for periods in (FIRST_WARY, 2 * FIRST_WARY):
        trust.served(0.0, now)
        trust.refused(now, 60.0, now)
        trust.served(0.0, now + 60.0 * periods - 1.0)
        assert trust.share == 0.0
        now += 60.0 * periods
    trust.served(0.0, now)
    assert trust.share == FIRST_SHARE


def test_what_answers_show_is_not_tried() -> None:
    """Whether a provider counts estimates, or what attempts take."""
    trust = Trust()
    trust.shown(as_estimated=True, period=60.0, now=0.0)
    trust.served(0.0, 60.0)
    assert trust.share == 0.0
    trust.shown(as_estimated=False, period=60.0, now=61.0)
    assert trust.share == 1.0


LIMIT, PERIOD = 100_000, 60.0


class Truth:
    """The provider: it counts the truth at the start, in a bucket or a sliding window of its own."""

    def __init__(self, window):
        self.counter = SlidingWindow(LIMIT, PERIOD) if window == "sliding" else Bucket(LIMIT, PERIOD, LIMIT)
        self.counter.margin = 0.0

    def admits(self, amount, now):
        if fits := self.counter.earliest(amount, now) <= now:
            self.counter.charge(amount, now)
        return fits


def simulate(window, ratio, rng, *, latency=5.0, until=1260.0):
    """A backlog of demands of 1 to 3 % of the limit; returns refused and used share after the first minute.

    The ledger charges the estimate, keeps the excess free, and corrects when the attempt ends.
    """
    truth, error, order = Truth(window), EstimateError(), itertools.count()
    ledger = SlidingWindow(LIMIT, PERIOD) if window == "sliding" else Bucket(LIMIT, PERIOD, LIMIT)
    now, reserved, squares, ends, waiting = 0.0, 0, 0, [], []
    attempts = refusals = admitted = 0
    while now < until:
        if not waiting:
            taken = rng.randint(LIMIT // 100, 3 * LIMIT // 100)
            waiting.append((round(taken / ratio(rng)), taken))
        estimate, taken = waiting[-1]
        kept_back = max(0.0, error.excess(reserved, squares, estimate)) if error.samples >= KNOWN else 0.0
        at = ledger.earliest(min(estimate + kept_back, LIMIT), now)
        if at <= now:
            waiting.pop()
            mark, fits = ledger.charge(estimate, now), truth.admits(taken, now + rng.uniform(0.0, 0.02))
            reserved, squares = reserved + estimate, squares + estimate**2
            if now > PERIOD:
                attempts, refusals, admitted = attempts + 1, refusals + (not fits), admitted + taken * fits
            heapq.heappush(ends, (now + (latency if fits else 0.2), next(order), estimate, taken, mark, fits))
            continue
        now = min(at, ends[0][0]) if ends else at
        while ends and ends[0][0] <= now:
            _, _, estimate, taken, mark, fits = heapq.heappop(ends)
            reserved, squares = reserved - estimate, squares - estimate**2
            if not fits:
                ledger.take_back(mark, estimate)
                waiting.append((estimate, taken))
                continue
            error.add(estimate, taken)
            if taken > estimate:
                ledger.exceed(mark, taken - estimate, now)
            else:
                ledger.take_back(mark, estimate - taken)
    return refusals / attempts, admitted / ((until - PERIOD) * LIMIT / PERIOD)


def log_uniform(rng):
    return 2.0 ** rng.uniform(-1.0, 1.0)


RATIOS = {"log-uniform": log_uniform, **{f"{ratio:g}": lambda rng, ratio=ratio: ratio for ratio in (0.5, 0.75, 1.0, 1.5, 2.0)}}


@pytest.mark.parametrize("ratio", RATIOS.values(), ids=RATIOS.keys())
@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_wrong_estimates_are_seldom_refused_and_cost_little_of_the_limit(window, ratio) -> None:
    """Truth over estimate within [1/2, 2]: under 1 % refused after the first minute, at least 90 % used."""
    runs = [simulate(window, ratio, random.Random(seed)) for seed in range(4)]
    assert sum(refused for refused, _ in runs) / len(runs) < 0.01
    assert sum(used for _, used in runs) / len(runs) >= 0.9
