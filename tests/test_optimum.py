"""The optimum that benchmarks compare with: never less than what can be done, and not much more."""

from __future__ import annotations

import random

import pytest

from balancer.core.call import Demand
from benchmarks.optimum import most_calls
from benchmarks.unequal import LARGE, SMALL, UNEQUAL

ONE = [Demand(1)]
WINDOWS = pytest.mark.parametrize("window", ["bucket", "sliding"])


@WINDOWS
def test_the_optimum_of_the_example(window):
    """A with 100 requests and 10k tokens, B with 20 and 50k: of 100 small and 25 large calls a minute 100 and 20, in the long run."""
    minutes = 30
    came = [[n * 60.0 / 100.0 for n in range(100 * minutes)], [n * 60.0 / 25.0 for n in range(25 * minutes)]]
    small, large = most_calls(list(UNEQUAL.values()), window, (SMALL, LARGE), came, 10.0)
    assert small == pytest.approx(100 * minutes)
    assert large == pytest.approx(20 * minutes, rel=0.05)


def test_of_several_optima_the_one_with_most_of_the_last_class():
    assert most_calls([{"requests": 3.0}], "sliding", (SMALL, LARGE), [[1.0, 2.0], [3.0, 4.0]], 10.0) == pytest.approx((1, 2))


@pytest.mark.parametrize(
    ("came", "served"),
    [([], 0), ([0.0, 1.0, 2.0, 3.0], 2), ([0.0, 1.0, 2.0, 56.0], 3), ([0.0, 1.0, 2.0, 44.0], 2)],
    ids=["nothing", "no more than the limit", "late enough to wait for what leaves the window", "too early for that"],
)
def test_two_a_minute_in_a_window(came, served):
    assert most_calls([{"requests": 2.0}], "sliding", ONE, [came], 10.0) == pytest.approx((served,))


@pytest.mark.parametrize(("full", "before"), [(True, 60), (False, 0)])
def test_a_bucket_holds_its_burst_and_what_flows_in_until_the_last_deadline(full, before):
    served = most_calls([{"requests": 60.0}], "bucket", ONE, [[0.0] * 200], 10.0, full=full)[0]
    assert before + 10 <= served <= before + 15


@WINDOWS
@pytest.mark.parametrize("seed", range(5))
def test_nobody_does_better(window, seed):
    """Calls placed at random accounts and times, as often as the limits allow it."""
    rng = random.Random(seed)
    limits = [{"requests": rng.uniform(3, 15), "tokens": rng.uniform(2e3, 2e4)} for _ in range(2)]
    demands = [Demand(rng.randint(10, 2000)) for _ in range(3)]
    came = [[rng.uniform(0.0, 150.0) for _ in range(40)] for _ in demands]
    best = sum(most_calls(limits, window, demands, came, 10.0))
    for _ in range(10):
        admitted: list[list[tuple[float, Demand]]] = [[] for _ in limits]
        for at, demand in rng.sample([(at, demands[kind]) for kind, times in enumerate(came) for at in times], 120):
            for _ in range(3):
                account, when = rng.randrange(len(limits)), at + rng.uniform(0.0, 10.0)
                further = sorted([*admitted[account], (when, demand)], key=lambda each: each[0])
                if all(_within(further, name, limit, window) for name, limit in limits[account].items()):
                    admitted[account] = further
                    break
        assert sum(map(len, admitted)) <= best + 1e-6


def _within(admitted, name, limit, window):
    """Whether no span admits more than the limit, and in buckets what flows in."""
    for first, (begin, _) in enumerate(admitted):
        taken = 0.0
        for at, demand in admitted[first:]:
            if window == "sliding" and at >= begin + 60.0:
                break
            taken += getattr(demand, name)
            if taken > limit * (1.0 + (at - begin) / 60.0 if window == "bucket" else 1.0):
                return False
    return True
