"""Shadow prices: they rise with what calls would take beyond what a rate admits, and fall by themselves."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.health import HealthSettings
from balancer.core.settings import Account
from balancer.selection.prices import FASTEST, LEAST_WORTH, MOST_RATES, REMEMBERED, STEP, WORTH, Prices, is_kept, weighed

SMALL, LARGE = Demand(100), Demand(2000)
UNEQUAL = {
    "a": {"requests_per_minute": 100, "tokens_per_minute": 10_000},
    "b": {"requests_per_minute": 20, "tokens_per_minute": 50_000},
}


def account(name, *, used=None, now=0.0, weight=1.0, **limits):
    """A snapshot of an account of which a demand is in use."""
    state = AccountState(Account(name=name, weight=weight, limits=limits), HealthSettings())
    if used is not None:
        state.ledger.reserve(used, now)
    return state.snapshot(now)


def unequal(now=0.0, **used):
    """The two accounts, each with so much in use."""
    return [account(name, used=used.get(name), now=now, **limits) for name, limits in UNEQUAL.items()]


def taught(arrivals, *, minutes=10, seed=1, prices=None, begin=0.0):
    """Prices after so many calls of each demand a minute, and the time then."""
    prices, accounts, rng, now = prices or Prices(), unequal(), random.Random(seed), begin
    demands, rates = list(arrivals), list(arrivals.values())
    while now < begin + minutes * 60.0:
        now += rng.expovariate(sum(rates) / 60.0)
        prices.learn(accounts, rng.choices(demands, rates)[0], now)
    return prices, now


def test_a_price_rises_by_what_is_taken_and_falls_with_time():
    """The first call of a rate of 10 a minute: a first step's tenth above what its share is worth, gone after a tenth of a minute."""
    prices, one = Prices(), [account("a", used=Demand(requests=10), requests_per_minute=10)]
    least = WORTH * LEAST_WORTH / 10
    assert prices.wait(one[0], Demand(), 0.0) == pytest.approx(least)
    assert prices.learn(one, Demand(), 0.0)
    assert prices.wait(one[0], Demand(), 0.0) == pytest.approx(least + WORTH * FASTEST * STEP / 10)
    assert prices.wait(one[0], Demand(), 3.0) == pytest.approx(least + WORTH * FASTEST * STEP / 20)
    assert prices.cost(one[0], Demand(), 6.01) == 0.0


def test_reading_a_price_changes_nothing():
    """However often, and at whatever time."""
    prices, one = Prices(), [account("a", used=Demand(requests=10), requests_per_minute=10)]
    prices.learn(one, Demand(), 0.0)
    before = prices.cost(one[0], Demand(), 2.0)
    for now in (5.0, 100.0, 1.0):
        prices.wait(one[0], Demand(), now)
    assert prices.cost(one[0], Demand(), 2.0) == before > 0.0


def test_a_call_that_takes_more_than_it_is_worth_is_for_the_next_tier():
    """On paper the account has all that it can take by then; prices rise no further."""
    prices, one = Prices(), [account("a", requests_per_minute=10)]
    taken = [prices.learn(one, Demand(), 0.0) for _ in range(50)]
    first = taken.index(False)
    assert taken == [True] * first + [False] * (50 - first)
    assert 1.0 <= prices.cost(one[0], Demand(), 0.0) < 1.0 + FASTEST * STEP / 10


@pytest.mark.parametrize("demand", [SMALL, LARGE])
def test_the_first_calls_go_where_they_take_the_least_share(demand):
    """Before any price is known: the rates that they are worth something of are those of one account."""
    prices, accounts = Prices(), unequal()
    for _ in range(2):
        prices.learn(accounts, demand, 0.0)
    a, b = (prices.cost(each, Demand(1), 0.0) > 0.0 for each in accounts)
    assert (a, b) == ((True, False) if demand is SMALL else (False, True))


def test_what_is_typical_is_not_what_came_first():
    """After one large call and 99 small ones it is little more than a small one."""
    prices = Prices()
    for number in range(100):
        prices.learn(unequal(), SMALL if number else LARGE, 60.0 * number)
    assert prices._typical["tokens"].units == pytest.approx(100 * 20**0.01)


def test_small_calls_make_large_ones_cost_no_more_where_they_do_not_go():
    """A price is one of units: what is typical of calls decides how large steps are, not what has been learned."""
    prices, (_, b), plenty = Prices(), unequal(), account("plenty", tokens_per_minute=10**12)
    prices.learn([b], LARGE, 0.0)
    before = prices.cost(b, LARGE, 0.0)
    for _ in range(100):
        prices.learn([plenty], SMALL, 0.0)
    assert prices._typical["tokens"].units < 150
    assert before > 0.0
    assert prices.cost(b, LARGE, 0.0) == pytest.approx(before)


@pytest.mark.parametrize("seed", range(5))
def test_each_call_costs_least_at_its_own_place(seed):
    """With what the shares are worth: a large call where tokens are plenty, a small one where requests are."""
    prices, now = taught({SMALL: 100, LARGE: 25}, seed=seed)
    a, b = unequal()
    small, large = ([weighed(prices.cost(one, demand, now), one, demand) for one in (a, b)] for demand in (SMALL, LARGE))
    assert small[0] < small[1]
    assert large[0] > large[1]
    assert prices.cost(b, LARGE, now) == pytest.approx(1.0, abs=0.5)


def test_prices_swing_less_than_steps_of_single_calls_would():
    """Calls that are routed anew share each step: the price of a rate that is exactly used lies within a tenth for minutes."""
    prices, one, seen = Prices(), [account("a", requests_per_minute=60)], []
    for number in range(1200):
        prices.learn(one, Demand(), 0.8 * number)
        seen.append(prices.cost(one[0], Demand(), 0.8 * number))
    assert max(seen[600:]) - min(seen[600:]) <= 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_first_calls_tell_most(seed):
    """Within three quarters of a minute of too many large calls their place costs half a call, and after a quiet hour again."""
    b = unequal()[1]
    prices, now = taught({SMALL: 100, LARGE: 40}, seed=seed, minutes=0.75)
    assert prices.cost(b, LARGE, now) > 0.5
    prices.learn([b], LARGE, now + 3600.0)
    prices, now = taught({SMALL: 100, LARGE: 40}, seed=seed, minutes=0.75, prices=prices, begin=now + 3661.0)
    assert prices.cost(b, LARGE, now) > 0.5


def test_one_call_moves_a_price_by_a_step_at_most():
    """Be it the first one, and all of a limit."""
    prices, one = Prices(), [account("a", tokens_per_minute=1000)]
    prices.learn(one, Demand(1000), 0.0)
    assert prices.cost(one[0], Demand(1000), 0.0) == pytest.approx(STEP)


def test_low_load_knows_no_prices():
    """What comes in is more than what is taken."""
    prices, now = taught({SMALL: 10, LARGE: 3}, minutes=20)
    assert all(prices.cost(each, LARGE, now + 30.0) == 0.0 for each in unequal())


def test_the_weight_divides():
    """An account of three times the weight costs a third."""
    light, heavy = (account("a", used=Demand(requests=10), weight=weight, requests_per_minute=10) for weight in (1.0, 3.0))
    prices = Prices()
    for _ in range(5):
        prices.learn([light], Demand(), 0.0)
    assert prices.wait(heavy, Demand(), 0.0) == pytest.approx(prices.wait(light, Demand(), 0.0) / 3)


def test_what_nobody_uses_costs_nothing():
    """However scarce it was on paper: who comes now need not wait for it."""
    prices, now = taught({SMALL: 150, LARGE: 40})
    free, full = (account("a", used=used, now=now, **UNEQUAL["a"]) for used in (None, Demand(9500, requests=95)))
    assert prices.wait(free, SMALL, now) == 0.0
    assert prices.wait(full, SMALL, now) > 0.0


def test_a_bucket_is_kept_from_half_of_what_the_call_leaves_or_where_it_costs_something_from_the_first_unit():
    """Of the 8,000 beside 2,000, and of the 9,900 beside 100."""
    for used, large, small in ((3900, False, False), (4100, True, False), (4900, True, False), (5000, True, True)):
        view = account("a", used=Demand(used), tokens_per_minute=10_000).dimensions[0]
        assert (is_kept(view, 2000, 0.0, 0.0), is_kept(view, 100, 0.0, 0.0)) == (large, small)
        assert is_kept(view, 100, 0.1, 0.0)
    assert not is_kept(account("a", tokens_per_minute=10_000).dimensions[0], 100, 0.1, 0.0)


def test_a_window_is_kept_ahead_of_an_even_pace():
    """A third of what the call leaves is little at its begin, half of a minute later it is what half a minute may take."""
    view = account("a", used=Demand(3000), window="sliding", tokens_per_minute=10_000).dimensions[0]
    assert [is_kept(view, 1000, 0.0, now) for now in (0.0, 10.0, 20.0, 30.0, 60.0)] == [True, True, False, False, False]
    assert [is_kept(view, 1000, 1.0, now) for now in (0.0, 10.0, 20.0, 30.0, 60.0)] == [True, True, True, False, False], (
        "dearer"
    )
    full = account("a", used=Demand(9000), window="sliding", tokens_per_minute=10_000).dimensions[0]
    assert is_kept(full, 100, 0.0, 60.0)
    assert not is_kept(account("a", window="sliding", tokens_per_minute=10_000).dimensions[0], 2000, 1.0, 0.0)


def test_only_rates_that_a_call_takes_of_count():
    """A call without tokens does not mind that they are used up."""
    a = account("a", used=Demand(9900), tokens_per_minute=10_000)
    assert Prices().wait(a, Demand(), 0.0) == 0.0


def test_memory_is_bounded():
    """By calls and by rates, whatever accounts and limits come and go."""
    prices = Prices()
    for number in range(MOST_RATES + 2):
        prices.learn([account(f"a{number}", requests_per_minute=10)], Demand(), float(number))
    assert len(prices._rates) <= MOST_RATES
    assert len(prices._past) <= REMEMBERED


CALL = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), st.floats(0.0, 1e5))


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(CALL, max_size=40), limit=st.floats(1e-3, 1e12))
def test_prices_are_finite_and_a_call_is_worth_it_or_costs_more_than_one(calls, limit):
    """Whatever comes, in whatever order."""
    prices, now = Prices(), 0.0
    accounts = [account("a", requests_per_minute=limit), account("b", input_tokens_per_minute=limit, tokens_per_day=limit)]
    for tokens, output, gap in calls:
        now += gap
        demand = Demand(tokens, output)
        before = [prices.cost(one, demand, now) for one in accounts]
        worth = prices.learn(accounts, demand, now)
        costs = [prices.cost(one, demand, now) for one in accounts]
        assert all(0.0 <= cost < math.inf for cost in costs)
        assert worth or min(costs) >= 1.0 - 1e-9
        assert worth or min(before) > 0.0
