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
from balancer.selection.prices import LEAST_WORTH, STEP, WORTH, ShadowPrice

SMALL, LARGE = Demand(100), Demand(2000)
UNEQUAL = {
    "a": {"requests_per_minute": 100, "tokens_per_minute": 10_000},
    "b": {"requests_per_minute": 20, "tokens_per_minute": 50_000},
}


def account(name, *, used=None, now=0.0, **limits):
    """A snapshot of an account of which a demand is in use."""
    state = AccountState(Account(name=name, limits=limits), HealthSettings())
    if used is not None:
        state.ledger.reserve(used, now)
    return state.snapshot(now)


def unequal(**used):
    """The two accounts, each with so much in use."""
    return [account(name, used=used.get(name), **limits) for name, limits in UNEQUAL.items()]


def taught(arrivals, *, accounts=(), minutes=10, seed=1):
    """A selector that has seen so many calls of each demand a minute, and the time at which it has."""
    selector, rng, now = ShadowPrice(), random.Random(seed), 0.0
    demands, rates = list(arrivals), list(arrivals.values())
    while now < minutes * 60.0:
        now += rng.expovariate(sum(rates) / 60.0)
        selector.learn(accounts or unequal(), rng.choices(demands, rates)[0], now)
    return selector, now


def test_a_price_rises_by_what_is_taken_and_falls_with_time():
    """One call of a rate of 10 a minute: STEP / 10 above what its share is worth, gone after a tenth of a minute."""
    selector, one = ShadowPrice(), [account("a", used=Demand(requests=10), requests_per_minute=10)]
    least = WORTH * LEAST_WORTH / 10
    assert selector.price(one[0], Demand(), 0.0) == pytest.approx(least)
    assert selector.learn(one, Demand(), 0.0)
    assert selector.price(one[0], Demand(), 0.0) == pytest.approx(least + WORTH * STEP / 10)
    now = 3.0
    assert selector.price(one[0], Demand(), now) == pytest.approx(least + WORTH * STEP / 20)
    one = [account("a", used=Demand(requests=10), now=6.0, requests_per_minute=10)]
    assert selector.price(one[0], Demand(), 6.0) == pytest.approx(least)


def test_a_call_that_takes_more_than_it_is_worth_is_for_the_next_tier():
    """Prices rise no further then."""
    selector, one = ShadowPrice(), [account("a", requests_per_minute=10)]
    taken = [selector.learn(one, Demand(), 0.0) for _ in range(50)]
    assert taken == [True] * 40 + [False] * 10


@pytest.mark.parametrize("demand", [SMALL, LARGE])
def test_the_first_calls_go_where_they_take_the_least_share(demand):
    """Before any price is known: the rates that they are worth something of are those of one account."""
    selector = ShadowPrice()
    accounts = unequal(a=Demand(9500, requests=95), b=Demand(49_000, requests=19))
    for _ in range(3):
        selector.learn(accounts, demand, 0.0)
    a, b = (selector._cost(each, Demand(1), 0.0) > 0.0 for each in accounts)
    assert (a, b) == ((True, False) if demand is SMALL else (False, True))


def test_what_is_typical_is_not_what_came_first():
    """After one large call and 99 small ones it is little more than a small one."""
    selector = ShadowPrice()
    for number in range(100):
        selector.learn(unequal(), SMALL if number else LARGE, 60.0 * number)
    assert math.exp(selector._typical["tokens"]) == pytest.approx(100 * 20**0.01)


def test_what_is_not_pressed_costs_nothing():
    """However scarce it was on paper: who comes now need not wait for what nobody uses."""
    selector, now = taught({SMALL: 150, LARGE: 40})
    free, full = (account("a", used=used, now=now, **UNEQUAL["a"]) for used in (None, Demand(9500, requests=95)))
    assert selector.price(free, SMALL, now) == 0.0
    assert selector.price(full, SMALL, now) > 0.0


@pytest.mark.parametrize("seed", range(5))
def test_large_calls_where_requests_are_scarce_and_small_ones_where_tokens_are(seed):
    """The prices of the linear program: at a a large call takes the worth of many small ones."""
    selector, now = taught({SMALL: 100, LARGE: 25}, seed=seed)
    accounts = [
        account(name, used=Demand(tokens, requests=requests), now=now, **UNEQUAL[name])
        for name, tokens, requests in (("a", 7900, 85), ("b", 40_000, 19))
    ]
    rng = random.Random(0)
    assert selector(accounts, LARGE, now, rng).name == "b"
    assert selector(accounts, SMALL, now, rng).name == "a"
    assert selector.price(accounts[0], LARGE, now) > 1.5 * selector.price(accounts[1], SMALL, now)


def test_low_load_knows_no_prices():
    """The choice is that of least pressure then: the account that is expected to finish first."""
    selector, now = taught({SMALL: 10, LARGE: 3}, minutes=20)
    accounts = [each._replace(mean=mean) for each, mean in zip(unequal(), (9.0, 1.0), strict=True)]
    chosen = {selector(accounts, demand, now + 30.0, random.Random(0)).name for demand in (SMALL, LARGE)}
    assert chosen == {"b"}


def test_the_weight_divides():
    """An account of three times the weight costs a third."""
    selector = ShadowPrice()
    one = [account("a", used=Demand(requests=10), requests_per_minute=10)]
    for _ in range(5):
        selector.learn(one, Demand(), 0.0)
    heavy = one[0]._replace(weight=3.0)
    assert selector.price(heavy, Demand(), 0.0) == pytest.approx(selector.price(one[0], Demand(), 0.0) / 3)


CALL = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), st.floats(0.0, 1e5))


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(CALL, max_size=40), limit=st.floats(1e-3, 1e12))
def test_prices_are_finite_and_no_call_takes_more_than_two(calls, limit):
    """Whatever comes, in whatever order: a price is at least 0, and is raised by a call that is worth it alone."""
    selector, now = ShadowPrice(), 0.0
    accounts = [account("a", requests_per_minute=limit), account("b", input_tokens_per_minute=limit, tokens_per_day=limit)]
    for tokens, output, gap in calls:
        now += gap
        demand = Demand(tokens, output)
        worth = selector.learn(accounts, demand, now)
        costs = [selector._cost(one, demand, now) for one in accounts]
        assert all(0.0 <= cost < float("inf") for cost in costs)
        assert worth or min(costs) >= 1.0
        assert selector(accounts, demand, now, random.Random(0)) in accounts
