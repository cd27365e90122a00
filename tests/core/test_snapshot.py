"""The frozen view: why an account is passed over, and how much of it is in use."""

from __future__ import annotations

import copy
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.cooldown import Pause
from balancer.core.health import HealthSettings
from balancer.core.outcome import Evidence, Served
from balancer.core.settings import Account
from balancer.core.snapshot import COLD, FULL, NO_MODEL, PROBING, pause_covers

ONE = Demand()


def view(now=0.0, **account):
    """The snapshot of a fresh account."""
    return AccountState(Account(name="a", **account), HealthSettings()).snapshot(now)


def why(snapshot, model=None, demand=ONE, now=0.0, *, cold=False):
    return snapshot.passed_over(model, demand, now, cold=cold)


def test_an_idle_account_takes_any_call():
    """Without limits there is room for everything, and no share of anything in use."""
    snapshot = view()
    assert why(snapshot, "m", Demand(10**9, 10**9)) == ""
    assert snapshot.room("requests", 0.0) == math.inf
    assert snapshot.share_after(Demand(5), 0.0) == 0.0
    assert (snapshot.state, snapshot.reason, snapshot.until, snapshot.valid_until) == ("healthy", "", math.inf, math.inf)


def test_what_an_account_could_ever_take():
    """What fits its whole quota, unless something forbids it for good; a limit that was learned may be wrong."""
    snapshot = view(limits={"tokens_per_minute": 100})
    assert snapshot.ever_takes("m", Demand(100))
    assert not snapshot.ever_takes("m", Demand(101))
    assert snapshot._replace(dimensions=tuple(one._replace(learned=True) for one in snapshot.dimensions)).ever_takes(
        "m", Demand(101)
    )
    for until, takes in ((5.0, True), (math.inf, False)):
        paused = snapshot._replace(pauses=(Pause(until, "model missing", "m"),))
        assert paused.ever_takes("m", Demand(1)) == takes
        assert paused.ever_takes("n", Demand(1))


def test_reasons():
    """Each by its own words; the first that holds is given."""
    snapshot = view(models=["m"], limits={"requests_per_minute": 2, "tokens_per_minute": 100, "concurrency": 2})
    assert why(snapshot, "other") == NO_MODEL
    assert why(snapshot, "m") == why(snapshot) == ""
    assert why(snapshot._replace(probing=True), "m") == PROBING
    assert why(snapshot._replace(ejected_until=5.0, reason="server error"), "m") == "server error"
    assert why(snapshot._replace(ejected_until=5.0), "m") == "ejected"
    assert why(snapshot._replace(ejected_until=5.0, reason="x"), "m", now=5.0) == ""
    assert why(snapshot._replace(in_flight=2), "m") == FULL
    assert why(snapshot, "m", Demand(101)) == "no room in tokens"
    assert why(snapshot, "m", Demand(requests=3)) == "no room in requests"
    cold = snapshot._replace(cold_limit=1, in_flight=1)
    assert (why(cold, "m", cold=True), why(cold, "m", cold=False)) == (COLD, "")


def test_a_pause_holds_until_its_end():
    """And not one moment longer."""
    snapshot = view()._replace(pauses=(Pause(5.0, "rate limited", "m", "tokens"),))
    assert why(snapshot, "m", Demand(1), now=4.999) == "rate limited"
    assert why(snapshot, "m", Demand(1), now=5.0) == ""
    assert why(snapshot, "n", Demand(1)) == ""
    assert why(snapshot, None, Demand(1)) == ""
    assert why(snapshot, "m", ONE) == ""


def test_what_a_pause_covers():
    """Every call, one model's, those that take some of a dimension."""
    assert pause_covers(Pause(1.0, "r"), None, ONE)
    assert pause_covers(Pause(1.0, "r"), "m", ONE)
    assert pause_covers(Pause(1.0, "r", "m"), "m", ONE)
    assert not pause_covers(Pause(1.0, "r", "m"), None, ONE)
    assert pause_covers(Pause(1.0, "r", None, "requests"), None, ONE)
    assert not pause_covers(Pause(1.0, "r", None, "output_tokens"), None, Demand(5))


def test_the_dominant_share():
    """The largest share of any rate that would then be in use, small bursts or not."""
    state = AccountState(Account(name="a", limits={"requests_per_minute": 100, "tokens_per_minute": 10_000}), HealthSettings())
    for _ in range(10):
        assert state.admit(None, Demand(100), 0.0)
    snapshot = state.snapshot(0.0)
    assert snapshot.share_after(Demand(100), 0.0) == pytest.approx(0.11)
    assert snapshot.share_after(Demand(5000), 0.0) == pytest.approx(0.6)
    assert snapshot.room("tokens", 0.0) == pytest.approx(9000)
    idle = view(limits={"requests_per_minute": 60, "burst": 1})
    assert idle.share_after(ONE, 0.0) == pytest.approx(1 / 60)


def test_a_snapshot_holds_instants():
    """What time alone frees is computed from it."""
    state = AccountState(Account(name="a", limits={"requests_per_minute": 60}), HealthSettings())
    for _ in range(60):
        state.admit(None, ONE, 0.0)
    snapshot = state.snapshot(0.0)
    assert why(snapshot) == "no room in requests"
    assert why(snapshot, now=1.1) == ""
    assert snapshot.room("requests", 30.1) == pytest.approx(30, abs=0.2)


@settings(max_examples=60, deadline=None)
@given(
    window=st.sampled_from(["bucket", "sliding"]),
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 60)), max_size=25),
    seed=st.integers(0, 99),
)
def test_a_snapshot_never_says_no_where_the_ledger_says_yes(window, steps, seed):
    """Else a ticket would wait for a bell that never rings; a yes is only advice."""
    limits = {"requests": "5/s", "tokens": {"amount": 100, "per": 2.0}, "window": window}
    state = AccountState(Account(name="a", limits=limits), HealthSettings())
    rng, now = random.Random(seed), 1e5
    for gap, tokens in steps:
        now += gap
        demand = Demand(tokens)
        earliest = state.earliest(None, demand, now)
        if earliest < math.inf:
            future = copy.deepcopy(state).snapshot(earliest)  # time does not go back for the state itself
            assert why(future, demand=demand, now=earliest) == ""
        advised = not why(state.snapshot(now), demand=demand, now=now)
        admission = state.admit(None, demand, now) if advised else None
        assert (admission is not None) == (earliest <= now)
        if admission is not None and rng.random() < 0.7:
            state.settle(admission, Evidence(Served()), now + rng.random(), rng, latency=0.1)
