"""Outcomes: about whom they are, and which of them are refusals or failures."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from balancer.core import outcome as outcomes
from balancer.core.call import Usage
from balancer.core.outcome import (
    AttemptFailed,
    Billing,
    CallerFault,
    Evidence,
    Failure,
    Faulted,
    LimitSeen,
    ModelMissing,
    Outcome,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Refusal,
    Scope,
    Served,
    TimedOut,
    Truncated,
    Unauthorized,
    Withdrawn,
)


def test_every_outcome_is_one_of_five_kinds():
    """Served, refused, failed, the caller's fault, withdrawn; none is two of them."""
    kinds = [(Served,), get_args(Refusal), get_args(Failure), (CallerFault,), (Withdrawn,)]
    together = [cls for kind in kinds for cls in kind]
    assert sorted(cls.__name__ for cls in together) == sorted(cls.__name__ for cls in get_args(Outcome))
    assert len(set(together)) == len(together)


def test_scopes():
    """Who is blamed: nobody for a caller's fault, one credential, one model, the account, the provider."""
    assert Evidence(CallerFault()).scope is Evidence(Withdrawn()).scope is Scope.REQUEST
    assert Evidence(Unauthorized()).scope is Scope.CREDENTIAL
    assert Evidence(ModelMissing()).scope is Scope.ACCOUNT_MODEL
    assert Evidence(Faulted()).scope is Scope.ACCOUNT
    assert Evidence(Overloaded()).scope is Scope.PROVIDER


def test_only_a_connect_timeout_was_surely_not_sent():
    """Any other phase may have been billed."""
    assert {phase: TimedOut(phase).sent for phase in ("connect", "write", "headers", "read", "")} == {
        "connect": False,
        "write": True,
        "headers": True,
        "read": True,
        "": True,
    }


@pytest.mark.parametrize("kind", [RateLimited, QuotaExhausted, Overloaded, Ramp, Billing])
def test_a_time_that_is_no_number_is_no_time(kind):
    """It would be neither over nor ahead, for ever."""
    assert kind(until=math.nan) == kind()
    assert kind(until=5.0).until == 5.0


def test_an_attempt_says_how_it_ended():
    """With the outcome, and what is known besides; the text shows the outcome."""
    seen = (LimitSeen("requests", "requests", 5),)
    failed = AttemptFailed(RateLimited("tokens", 7.0), usage=Usage(3), limits=seen, answer="a")
    assert (failed.outcome, failed.usage, failed.limits, failed.answer) == (RateLimited("tokens", 7.0), Usage(3), seen, "a")
    assert str(failed) == "RateLimited(dimension='tokens', until=7.0)"


@pytest.mark.parametrize("wrong", [Truncated, "server error", None, 429])
def test_a_class_is_no_outcome(wrong):
    """The commonest slip is told where it is made."""
    with pytest.raises(TypeError, match=r"an outcome is needed"):
        AttemptFailed(wrong)
    with pytest.raises(TypeError, match="Usage"):
        AttemptFailed(RateLimited(), usage={"input_tokens": 5})


def test_outcomes_are_values():
    """Equal by content, hashable, documented."""
    for cls in get_args(outcomes.Outcome):
        assert cls() == cls()
        assert hash(cls()) == hash(cls())
        assert cls.__doc__
