"""What follows an attempt, outcome by outcome."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.outcome import (
    Billing,
    CallerFault,
    Faulted,
    ModelMissing,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Served,
    TimedOut,
    TooLarge,
    Truncated,
    Unauthorized,
    Withdrawn,
)
from balancer.core.plan import CallPlan, Next

REFUSALS = [RateLimited(), QuotaExhausted(), Overloaded(), Ramp(), Billing(), Unauthorized()]
EXCLUDING = [TooLarge(), ModelMissing()]
SENT = [Faulted(), TimedOut(), TimedOut("read"), Truncated(5)]
UNSENT = [Faulted(sent=False), TimedOut("connect")]


@pytest.mark.parametrize("outcome", [Served(), CallerFault()], ids=repr)
def test_answers_end_the_call(outcome):
    """The caller's own fault is an answer; it avoids nobody."""
    plan = CallPlan(replayable=True, max_attempts=3)
    assert plan.after("a", outcome) is Next.DONE
    assert (plan.failures, plan.avoid, plan.excluded) == (0, frozenset(), frozenset())


def test_a_withdrawn_attempt_is_followed_by_nothing():
    """Whoever cancelled it decides."""
    assert CallPlan(replayable=True, max_attempts=3).after("a", Withdrawn()) is Next.STOP


@pytest.mark.parametrize("outcome", REFUSALS, ids=repr)
def test_refusals_queue_again_and_do_not_count(outcome):
    """However many, and the refused account may be the next one; even of a call that may not be repeated."""
    plan = CallPlan(replayable=False, max_attempts=1)
    assert {plan.after("a", outcome) for _ in range(100)} == {Next.REQUEUE}
    assert (plan.failures, plan.avoid) == (0, frozenset())


@pytest.mark.parametrize("outcome", EXCLUDING, ids=repr)
def test_who_cannot_take_the_call_is_excluded_for_it(outcome):
    """Too small for it, or without its model: others are asked, at no cost, this one never again."""
    plan = CallPlan(replayable=False, max_attempts=1)
    assert plan.after("a", outcome) is Next.REQUEUE
    assert (plan.failures, plan.avoid, plan.excluded) == (0, {"a"}, {"a"})


@pytest.mark.parametrize("outcome", SENT, ids=repr)
def test_failures_spend_and_count(outcome):
    """Two more attempts after the first, on other accounts, if the budget allows."""
    plan = CallPlan(replayable=True, max_attempts=3)
    assert [plan.after(name, outcome) for name in "abc"] == [Next.SPEND, Next.SPEND, Next.STOP]
    assert plan.avoid == {"a", "b", "c"}
    assert plan.excluded == frozenset()


@pytest.mark.parametrize("outcome", SENT, ids=repr)
def test_what_may_have_been_sent_is_not_repeated_unasked(outcome):
    """A call that may not be repeated ends there."""
    assert CallPlan(replayable=False, max_attempts=3).after("a", outcome) is Next.STOP


@pytest.mark.parametrize("outcome", UNSENT, ids=repr)
def test_what_was_not_sent_goes_on_for_nothing(outcome):
    """Up to the number of attempts, replayable or not."""
    plan = CallPlan(replayable=False, max_attempts=3)
    assert [plan.after(name, outcome) for name in "abc"] == [Next.REQUEUE, Next.REQUEUE, Next.STOP]


@given(
    st.booleans(),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([*REFUSALS, *EXCLUDING, *SENT, *UNSENT])), max_size=30),
)
def test_attempts_that_fail_are_bounded(replayable, max_attempts, ends):
    """Whatever the mixture: no more failures than allowed, and each is avoided."""
    plan = CallPlan(replayable=replayable, max_attempts=max_attempts)
    failures = 0
    for account, outcome in ends:
        following = plan.after(account, outcome)
        failures += outcome in (*SENT, *UNSENT)
        assert plan.failures == failures <= max_attempts
        assert plan.excluded <= plan.avoid
        if following is Next.STOP:
            break
