"""The record of a call explains itself from the snapshots it kept."""

from __future__ import annotations

import attrs

from balancer.core.account import AccountState
from balancer.core.call import Call, Demand
from balancer.core.decision import AVOIDED, CHOSEN, NOT_CHOSEN, AttemptRecord, Decision, Scan
from balancer.core.health import HealthSettings
from balancer.core.settings import Account
from balancer.core.snapshot import FULL, NO_MODEL


def view(name, dialects=("chat",), **changes):
    """A snapshot with some fields changed."""
    state = AccountState(Account(name=name, models=changes.pop("models", None)), HealthSettings(), frozenset(dialects))
    return state.snapshot(0.0)._replace(**changes)


TIERS = (
    (
        view("dumb", dialects=()),
        view("avoided"),
        view("other", models=["n"]),
        view("full", concurrency=1, in_flight=1),
        view("ejected", ejected_until=9.0, reason="server error"),
    ),
    (view("twin"), view("best")),
)
SCAN = Scan(TIERS, "m", Demand(), 0.0, avoid=frozenset({"avoided"}), dialect="chat", chosen="best")


def test_every_account_that_was_looked_at_has_a_reason():
    """In the order of the tiers."""
    record = AttemptRecord("best", "m", 0.0, SCAN)
    assert list(record.candidates.items()) == [
        ("dumb", "does not speak chat"),
        ("avoided", AVOIDED),
        ("other", NO_MODEL),
        ("full", FULL),
        ("ejected", "server error"),
        ("twin", NOT_CHOSEN),
        ("best", CHOSEN),
    ]


def test_plain_calls_ask_for_no_dialect():
    """Any account speaks plain HTTP."""
    reasons = attrs.evolve(SCAN, dialect=None, avoid=frozenset()).explain()
    assert (reasons["dumb"], reasons["avoided"]) == (NOT_CHOSEN, NOT_CHOSEN)


def test_a_decision_grows():
    """From nothing; records are told apart by identity and do not print what was scanned."""
    decision = Decision(Call(model="m"))
    assert (decision.attempts, decision.waited_for, decision.outcome) == ((), 0.0, None)
    record = AttemptRecord("best", "m", 0.0, SCAN)
    decision.attempts = (*decision.attempts, record)
    assert record != AttemptRecord("best", "m", 0.0, SCAN)
    assert "dumb" not in repr(decision)
