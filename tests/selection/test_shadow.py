"""The selector by shadow prices."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.health import HealthSettings
from balancer.core.settings import Account
from balancer.selection.shadow import ShadowPrice

SMALL, LARGE = Demand(100), Demand(2000)
UNEQUAL = {
    "a": {"requests_per_minute": 100, "tokens_per_minute": 10_000},
    "b": {"requests_per_minute": 20, "tokens_per_minute": 50_000},
}


def account(name, now, used=None):
    """A snapshot of one of the two, of which a demand is in use."""
    state = AccountState(Account(name=name, limits=UNEQUAL[name]), HealthSettings())
    if used is not None:
        state.ledger.reserve(used, now)
    return state.snapshot(now)


def taught(small, large, *, minutes=10, seed=1):
    """A selector that has seen so many calls a minute, and the time then."""
    selector, rng, now = ShadowPrice(), random.Random(seed), 0.0
    accounts = [account(name, 0.0) for name in UNEQUAL]
    while now < minutes * 60.0:
        now += rng.expovariate((small + large) / 60.0)
        selector.learn(accounts, rng.choices((SMALL, LARGE), (small, large))[0], now)
    return selector, now


@pytest.mark.parametrize("seed", range(5))
def test_large_calls_where_requests_are_scarce_and_small_ones_where_tokens_are(seed):
    """And a large one would rather wait than take the worth of many small ones."""
    selector, now = taught(100, 25, seed=seed)
    a, b = account("a", now, Demand(7900, requests=85)), account("b", now, Demand(40_000, requests=19))
    assert selector([a, b], LARGE, now, random.Random(0)) is b
    assert selector([a, b], SMALL, now, random.Random(0)) is a
    assert selector.price(a, LARGE, now) > 1.5 * selector.price(b, SMALL, now)


def test_at_low_load_the_choice_is_that_of_least_pressure():
    """The account that is expected to finish first."""
    selector, now = taught(10, 3, minutes=20)
    accounts = [account(name, now)._replace(mean=mean) for name, mean in (("a", 9.0), ("b", 1.0))]
    chosen = {selector(accounts, demand, now + 30.0, random.Random(0)).name for demand in (SMALL, LARGE)}
    assert chosen == {"b"}


@settings(max_examples=50, deadline=None)
@given(calls=st.lists(st.tuples(st.integers(0, 2**40), st.floats(0.0, 1e5)), max_size=20))
def test_one_of_the_candidates_is_chosen(calls):
    """Whatever came."""
    selector, now = ShadowPrice(), 0.0
    for tokens, gap in calls:
        now += gap
        accounts = [account(name, now) for name in UNEQUAL]
        selector.learn(accounts, Demand(tokens), now)
        assert selector(accounts, Demand(tokens), now, random.Random(0)) in accounts
