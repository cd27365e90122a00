"""Least pressure as a selector: the choice is by share and latency, and what is scarce has a price."""

from __future__ import annotations

import random

from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.health import HealthSettings
from balancer.core.settings import Account
from balancer.selection import learn_of, make_selector, price_of
from balancer.selection.selectors import least_in_flight

LARGE = Demand(2000)


def account(name, *, used, now=0.0, **limits):
    """A snapshot of an account of which a demand is in use."""
    state = AccountState(Account(name=name, limits=limits), HealthSettings())
    state.ledger.reserve(used, now)
    return state.snapshot(now)


def test_it_waits_for_what_is_less_scarce():
    """A large call had better wait for the account with few requests than take the few tokens of the other."""
    selector = make_selector("least_pressure")
    a = account("a", used=Demand(9000), requests_per_minute=100, tokens_per_minute=10_000)
    b = account("b", used=Demand(1000, requests=20), requests_per_minute=20, tokens_per_minute=50_000)
    assert selector([a], LARGE, 0.0, random.Random(0)) is a
    assert price_of(selector)(a, LARGE, 0.0) > price_of(selector)(b, LARGE, 0.0) > 0.0
    before = price_of(selector)(a, LARGE, 0.0)
    assert learn_of(selector)([a], LARGE, 0.0)
    assert price_of(selector)(a, LARGE, 0.0) > before


def test_each_balancer_learns_its_own_prices():
    """A fresh selector knows none."""
    one, other = make_selector("least_pressure"), make_selector("least_pressure")
    a = account("a", used=Demand(requests=60), requests_per_minute=100)
    learn_of(one)([a], Demand(), 0.0)
    assert price_of(one)(a, Demand(), 0.0) > price_of(other)(a, Demand(), 0.0)


def test_selectors_without_prices():
    """They need none."""
    assert price_of(least_in_flight) is None
    assert learn_of(least_in_flight) is None
