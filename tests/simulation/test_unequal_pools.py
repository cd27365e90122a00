"""Accounts with unequal limits: nearly as many calls are served as could have been, and large ones get their share."""

from __future__ import annotations

import pytest

from balancer.core.call import Demand
from benchmarks.unequal import LARGE, SMALL, UNEQUAL, unequal

BOTH = pytest.mark.parametrize("selector", ["least_pressure", "shadow_price"])
EQUAL = {name: {"requests": 60.0, "tokens": 30_000.0} for name in "abc"}


@BOTH
def test_small_calls_where_tokens_are_scarce_and_large_ones_where_requests_are(selector):
    """100 small and 25 large calls a minute, of which 120 can be served: 96 % of the optimum, 90 % of the large ones in it.

    From the first moment on, as if what buckets hold then could be kept until it is needed most.
    """
    assert unequal(selector, "bucket", seconds=1200.0).missed(1) == []


@BOTH
def test_once_the_buckets_of_the_start_are_empty(selector):
    """The same from the third minute on, of what flows in since."""
    assert unequal(selector, "bucket", from_minute=2.0, largest=0.92).missed(3) == []


@BOTH
def test_windows_that_slide(selector):
    """Nothing is saved up there, and what one large call takes of few tokens is missing at the same moment of every minute after: who
    knew the rates, and sent large calls to the many tokens alone, would reach 97 to 99 %."""
    assert unequal(selector, "sliding", largest=0.85).missed(2) == []


@BOTH
def test_three_windows_and_three_sizes(selector):
    """Nothing in the rule is made for two accounts."""
    limits = {**UNEQUAL, "c": {"requests": 60.0, "tokens": 30_000.0}}
    calls = {SMALL: 150.0, Demand(1000): 40.0, LARGE: 25.0}
    assert unequal(selector, "sliding", limits, calls, seconds=480.0, total=0.95, largest=0.0).missed(2) == []


@BOTH
def test_large_calls_alone_in_windows(selector):
    """With no small ones to keep anything for, they use both accounts."""
    assert unequal(selector, "sliding", per_minute={LARGE: 40.0}, seconds=480.0, total=0.92).missed(1) == []


@BOTH
def test_three_times_the_load_in_windows(selector):
    """What is too much waits, and calls that cost others more than one are not served. Who knew the end would fill the windows six
    times in five minutes, at the first moment and again at the last."""
    calls = {SMALL: 300.0, LARGE: 75.0}
    assert unequal(selector, "sliding", per_minute=calls, seconds=300.0, total=0.85, largest=0.0).missed(1) == []


@BOTH
def test_windows_of_equal_accounts_under_little_load(selector):
    """To keep a pace makes nobody wait who has nothing better to wait for."""
    found = unequal(selector, "sliding", EQUAL, {SMALL: 80.0, LARGE: 10.0}, seconds=300.0).run(2)
    assert found["mean_wait"] == pytest.approx(0.0, abs=0.001)


@BOTH
def test_one_account_limits_requests_and_the_other_tokens(selector):
    """Large calls go where only requests count."""
    limits = {"a": {"requests": 40.0}, "b": {"tokens": 10_000.0}}
    assert unequal(selector, "bucket", limits, {SMALL: 100.0, LARGE: 45.0}, seconds=480.0, largest=0.92).missed(1) == []


@BOTH
@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_prices_know_what_an_account_could_serve_instead(selector, window):
    """Calls of 500 tokens take half as long of the account with ten times the requests, and five calls of those it could serve."""
    limits = {"a": {"requests": 200.0, "tokens": 20_000.0}, "b": {"requests": 20.0, "tokens": 200_000.0}}
    assert unequal(selector, window, limits, {SMALL: 200.0, Demand(500): 24.0}, seconds=480.0, largest=0.8).missed(1) == []


@BOTH
def test_four_buckets_and_three_sizes(selector):
    """What each account is short of is another thing at each."""
    limits = {
        "a": {"requests": 50.0, "tokens": 10_000.0},
        "b": {"requests": 50.0, "tokens": 40_000.0},
        "c": {"requests": 10.0, "tokens": 30_000.0},
        "d": {"requests": 200.0, "tokens": 20_000.0},
    }
    calls = {Demand(150): 220.0, Demand(1000): 40.0, Demand(2500): 20.0}
    assert unequal(selector, "bucket", limits, calls, total=0.95, largest=0.8).missed(1) == []


@BOTH
@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_half_the_load_waits_for_nothing(selector, window):
    """Every call is served, and none waits for a better account while one has room to spare."""
    found = unequal(selector, window, per_minute={SMALL: 45.0, LARGE: 10.0}, seconds=300.0).run(1)
    assert found["expired"] == found["unexpected"] == 0
    assert found["mean_wait"] <= 0.02


@BOTH
def test_equal_accounts_wait_for_nothing(selector):
    """No account is better than another: who can be placed is."""
    found = unequal(selector, "bucket", EQUAL, {SMALL: 120.0, LARGE: 30.0}, seconds=480.0).run(2)
    assert found["mean_wait"] == pytest.approx(0.0, abs=0.001)
