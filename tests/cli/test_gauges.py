"""Quota as gauges: what is in use of how much, and when it is refilled."""

from __future__ import annotations

import math

import attrs
import pytest

from balancer.cli.gauges import gauges_of, short
from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.health import HealthSettings
from balancer.core.outcome import LimitSeen
from balancer.core.settings import Account

LIMITS = {
    "requests": {"amount": 4, "per": 4.0, "window": "sliding"},
    "tokens": [{"amount": 1000, "per": "minute", "burst": 500}],
    "models": {"small": {"requests": "10/day"}},
    "concurrency": 3,
}


def test_a_gauge_tells_used_reserved_limit_and_refill() -> None:
    """One gauge per rate, those of a model too, and one for attempts at once; seconds count from now."""
    state = AccountState(Account("a", limits=LIMITS), HealthSettings())
    assert state.admit("small", Demand(input_tokens=100), 10.0) is not None
    requests, tokens, of_model, at_once = gauges_of(state.snapshot(11.0), 11.0)
    assert (requests.label, requests.level, requests.reserved) == ("requests/4 s", "1/4", 1)
    assert requests.refill_after == pytest.approx(3.0, abs=0.1)
    assert (tokens.label, tokens.limit, tokens.burst, tokens.reserved) == ("tokens/min", 1000, 500, 100)
    assert tokens.used == pytest.approx(100 - 1000 / 60, abs=1)
    assert tokens.refill_after == pytest.approx(5.0, abs=0.1)
    assert (of_model.label, of_model.models, of_model.learned) == ("requests/day small", ["small"], False)
    assert (at_once.label, at_once.level, at_once.refill_after) == ("concurrency", "1/3", None)


def test_nothing_in_use_waits_for_no_refill() -> None:
    """Neither an idle rate nor one whose bucket has filled up meanwhile has a refill to come."""
    state = AccountState(Account("a", limits=LIMITS), HealthSettings())
    assert [gauge.refill_after for gauge in gauges_of(state.snapshot(0.0), 0.0)] == [None] * 4
    state.admit(None, Demand(input_tokens=100), 0.0)
    assert gauges_of(state.snapshot(1.0), 30.0)[1].refill_after is None


def test_what_answers_taught_is_marked() -> None:
    """A limit that nobody configured is shown as learned."""
    state = AccountState(Account("a"), HealthSettings(), shows_limits=True)
    admission = state.admit("m", Demand(), 0.0)
    assert admission is not None
    state.observe(admission, (LimitSeen("requests", "requests", limit=60, remaining=59, reset_after=1.0, period=60.0),), 0.1)
    (gauge,) = gauges_of(state.snapshot(0.1), 0.1)
    assert (gauge.label, gauge.limit, gauge.learned) == ("requests/min", 60, True)


@pytest.mark.parametrize("used", [0.0, 0.4, 3.9, 4.0, 9.0])
def test_a_bar_is_always_as_wide(used: float) -> None:
    """Debt fills it, and so does what others have used."""
    state = AccountState(Account("a", limits={"requests": "4/s"}), HealthSettings())
    (gauge,) = gauges_of(state.snapshot(0.0), 0.0)
    bar = attrs.evolve(gauge, used=used).bar().plain
    assert len(bar) == 8
    assert bar.count("━") == min(8, round(used * 2))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (0.44, "0.4"),
        (9.96, "10.0"),
        (45.2, "45"),
        (9999, "9,999"),
        (30_000, "30k"),
        (1_250_000, "1.25M"),
        (999_600, "1M"),
        (3e14, "300T"),
        (1e15, "1P"),
    ],
)
def test_amounts_are_short(amount: float, text: str) -> None:
    """Whatever an amount, its text keeps the table narrow."""
    assert short(amount) == text
    assert len(short(amount)) <= 6


def test_no_amount_breaks_the_table() -> None:
    """From nothing to the largest limit there is, six characters do."""
    for exponent in range(-3, 16):
        for factor in (1.0, 1.2345, 9.9999):
            text = short(min(1e15, factor * math.pow(10, exponent)))
            assert len(text) <= 6
            assert "e" not in text
