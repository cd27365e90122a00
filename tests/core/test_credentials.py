"""Several credentials of one account: whose turn it is, and what a refused one disables."""

from __future__ import annotations

import math
import random

import pytest

from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.health import HealthSettings
from balancer.core.outcome import Billing, Evidence, RateLimited, Served, Unauthorized
from balancer.core.secret import Secret
from balancer.core.settings import Account

A, B, C = Secret("sk-a"), Secret("sk-b"), Secret("sk-c")


def state_with(*keys, **more):
    return AccountState(Account(name="a", key=keys or None, **more), HealthSettings())


def admit(state, now=0.0):
    admission = state.admit("m", Demand(), now)
    assert admission is not None
    return admission


def end(state, admission, outcome, now=0.0):
    state.settle(admission, Evidence(outcome), now, random.Random(1), latency=0.1)


def turns(state, count):
    """The credentials of so many attempts, served one after the other."""
    found = []
    for _ in range(count):
        found.append(admit(state))
        end(state, found[-1], Served())
    return [admission.credential for admission in found]


@pytest.mark.parametrize(("keys", "expected"), [((), [None] * 4), ((A,), [A] * 4), ((A, B, C), [A, B, C, A])])
def test_attempts_take_turns(keys, expected):
    """Among all credentials, in the order given."""
    assert turns(state_with(*keys), 4) == expected


def test_a_refused_credential_is_disabled_alone():
    """Attempts go on with the others; the account is not paused."""
    state = state_with(A, B, C)
    refused = [admit(state) for _ in range(3)][1]
    end(state, refused, Unauthorized())
    assert state.usable == (A, C)
    snapshot = state.snapshot(0.0)
    assert (snapshot.state, snapshot.disabled_credentials) == ("healthy", 1)
    assert not state.cooldowns.pauses()
    assert set(turns(state, 4)) == {A, C}


def test_the_last_one_disables_the_account():
    """Until an operator acts; what is still in flight with a disabled one changes nothing more."""
    state = state_with(A, B)
    flying = [admit(state) for _ in range(4)]
    end(state, flying[0], Unauthorized())
    usable = state.usable
    end(state, flying[2], Unauthorized())
    assert state.usable is usable
    assert state.snapshot(0.0).state == "healthy"
    end(state, flying[1], Unauthorized())
    snapshot = state.snapshot(0.0)
    assert (state.usable, snapshot.state, snapshot.reason, snapshot.until) == ((), "disabled", "unauthorized", math.inf)
    end(state, flying[3], Served())
    assert (state.snapshot(0.0).state, state.in_flight) == ("disabled", 0)


@pytest.mark.parametrize("keys", [(), (A,), (A, A)])
def test_an_account_without_another_credential_is_disabled_at_once(keys):
    """With one, with none, and with the same one twice."""
    state = state_with(*keys)
    end(state, admit(state), Unauthorized())
    assert state.snapshot(0.0).state == "disabled"


@pytest.mark.parametrize("outcome", [RateLimited(None, 50.0), Billing()])
def test_other_refusals_are_the_accounts(outcome):
    """Its credentials share one quota and one bill."""
    state = state_with(A, B)
    end(state, admit(state), outcome)
    assert state.usable == (A, B)
    assert state.cooldowns.pauses()


def test_they_share_the_ledger():
    """Two keys of one account have one account's limit."""
    state = state_with(A, B, limits={"requests_per_minute": 4, "window": "sliding"})
    assert turns(state, 4) == [A, B, A, B]
    assert state.admit("m", Demand(), 0.0) is None


@pytest.mark.parametrize(("keys", "left"), [((A, B), (A, B)), ((B, C), (B, C)), ((C,), (C,)), ((), (None,))])
def test_new_settings_lift_it(keys, left):
    """All of the new credentials are used again."""
    state = state_with(A, B)
    for refused in [admit(state), admit(state)]:
        end(state, refused, Unauthorized())
    state.change(Account(name="a", key=keys or None), HealthSettings(), 1.0)
    assert state.snapshot(1.0).state == "healthy"
    assert tuple(turns(state, len(left))) == left


def test_a_late_refusal_of_a_replaced_credential_touches_nobody():
    """The new one has not been refused."""
    state = state_with(A, B)
    first, second = admit(state), admit(state)
    state.change(Account(name="a", key=[B, C]), HealthSettings(), 1.0)
    end(state, first, Unauthorized(), 1.0)
    assert state.usable == (B, C)
    end(state, second, Unauthorized(), 1.0)
    assert state.usable == (C,)
