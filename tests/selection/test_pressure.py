"""Pressure: what a call takes of an account where little is left."""

from __future__ import annotations

import pytest

from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.health import HealthSettings
from balancer.core.settings import Account
from balancer.selection import make_selector, price_of
from balancer.selection.pressure import least_pressure, pressed
from balancer.selection.selectors import least_in_flight

SMALL, LARGE = Demand(100), Demand(2000)


def account(*, used, weight=1.0, **limits):
    """A snapshot of an account of which a demand is in use, at 0."""
    state = AccountState(Account(name="a", weight=weight, limits=limits), HealthSettings())
    state.ledger.reserve(used, 0.0)
    return state.snapshot(0.0)


def test_the_price_is_the_time_that_the_account_needs_for_the_call():
    """.6 s and 12 s of 100 requests and 10k tokens a minute, 3 s of 20 requests."""
    a = account(used=Demand(8000, requests=84), requests_per_minute=100, tokens_per_minute=10_000)
    b = account(used=Demand(1000, requests=19), requests_per_minute=20, tokens_per_minute=50_000)
    assert least_pressure.price(a, SMALL, 0.0) == pytest.approx(0.6)
    assert least_pressure.price(a, LARGE, 0.0) == pytest.approx(12.0)
    assert least_pressure.price(b, SMALL, 0.0) == least_pressure.price(b, LARGE, 0.0) == pytest.approx(3.0)


def test_only_pressed_rates_count():
    """Where requests are used up and tokens are not, a large call takes no more than a small one."""
    a = account(used=Demand(100, requests=99), requests_per_minute=100, tokens_per_minute=10_000)
    assert least_pressure.price(a, LARGE, 0.0) == pytest.approx(0.6)
    assert least_pressure.price(a, Demand(2000, requests=0), 0.0) == 0.0


def test_a_bucket_is_pressed_above_half_of_what_the_call_leaves():
    """Of the 8,000 beside 2,000, and of the 9,900 beside 100."""
    for used, large, small in ((3900, False, False), (4100, True, False), (4900, True, False), (5000, True, True)):
        view = account(used=Demand(used), tokens_per_minute=10_000).dimensions[0]
        assert (pressed(view, 2000, 0.0), pressed(view, 100, 0.0)) == (large, small)


def test_a_window_is_pressed_ahead_of_an_even_pace():
    """A third of what the call leaves is little at its begin, half of a minute later it is what half a minute may take."""
    view = account(used=Demand(3000), window="sliding", tokens_per_minute=10_000).dimensions[0]
    assert [pressed(view, 1000, now) for now in (0.0, 10.0, 20.0, 30.0, 60.0)] == [True, True, False, False, False]
    full = account(used=Demand(9000), window="sliding", tokens_per_minute=10_000).dimensions[0]
    assert pressed(full, 100, 60.0)


def test_an_empty_window_is_not_pressed():
    """Nor a bucket that was filled up at once to the same share."""
    state = AccountState(Account(name="a", limits={"tokens_per_minute": 10_000, "window": "sliding"}), HealthSettings())
    assert not pressed(state.snapshot(0.0).dimensions[0], 2000, 0.0)
    assert not pressed(account(used=Demand(3000), tokens_per_minute=10_000).dimensions[0], 1000, 0.0)


def test_what_is_refilled_presses_no_more():
    """It is a matter of the moment, not of the snapshot."""
    a = account(used=Demand(10_000), tokens_per_minute=10_000)
    assert [least_pressure.price(a, SMALL, now) for now in (0.0, 31.0)] == [pytest.approx(0.6), 0.0]


def test_an_idle_account_costs_nothing():
    """A burst of one is free again before the next call can go at all."""
    idle = account(used=Demand(requests=1), requests_per_minute=60, burst=1)
    assert least_pressure.price(idle, SMALL, 2.0) == 0.0


def test_weights_divide():
    """Of an account of twice the weight twice as much may be taken."""
    light, heavy = (account(used=Demand(9900), weight=weight, tokens_per_minute=10_000) for weight in (1.0, 2.0))
    assert least_pressure.price(light, SMALL, 0.0) == 2 * least_pressure.price(heavy, SMALL, 0.0)


def test_selectors_without_prices():
    """They need none."""
    assert price_of(least_in_flight) is None
    assert price_of(make_selector("least_pressure")) is not None
