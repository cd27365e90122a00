"""Credits for extra attempts: the law in every span, against a list of everything that happened."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from balancer.core.budget import CREDIT_LIFE, SLOT, Budget, RetrySettings
from balancer.errors import ConfigError


class BudgetMachine(RuleBasedStateMachine):
    """A budget beside the log of its calls and spendings."""

    @initialize(
        ratio=st.sampled_from([0.0, 0.05, 0.2, 1.0, 3.0]),
        reserve=st.sampled_from([0.0, 0.1, 0.5, 3.0]),
        burst=st.sampled_from([0.0, 1.0, 4.5]),
    )
    def begin(self, ratio, reserve, burst):
        self.budget = Budget(ratio, reserve, burst)
        self.ratio, self.reserve = ratio, reserve
        self.now = 1e5
        self.calls: list[float] = []
        self.spent: list[float] = []

    @rule(gap=st.sampled_from([0.01, 0.1, SLOT, 0.9, 1.0, 3.3, 9.99, 10.0, 25.0]))
    def tick(self, gap):
        self.now += gap

    @rule(times=st.integers(1, 40))
    def call(self, times):
        for _ in range(times):
            self.budget.earn(self.now)
            self.calls.append(self.now)

    @rule(times=st.integers(1, 60))
    def spend(self, times):
        for _ in range(times):
            before = self.budget.burst
            if not self.budget.try_spend(self.now):
                self.check_refusal()
            elif self.budget.burst == before:
                self.spent.append(self.now)
                self.check()
            else:
                assert self.budget.burst == before - 1 >= 0
                self.check_refusal()

    def check(self):
        since = self.now - CREDIT_LIFE
        calls, spent = (sum(at > since for at in log) for log in (self.calls, self.spent))
        assert spent <= self.ratio * calls + self.reserve * CREDIT_LIFE + 1e-6
        # In all: what calls brought, and what is there without them, anew in every life.
        lives = 1 + (self.now - 1e5) // CREDIT_LIFE
        assert len(self.spent) <= self.ratio * len(self.calls) + self.reserve * CREDIT_LIFE * lives + 1e-6

    def check_refusal(self):
        """A credit that lives in every reading is never withheld."""
        calls = sum(at > self.now - CREDIT_LIFE + SLOT for at in self.calls)
        spent = sum(at > self.now - CREDIT_LIFE - SLOT for at in self.spent)
        assert self.ratio * calls + self.reserve * CREDIT_LIFE - spent < 1.0


TestBudget = BudgetMachine.TestCase
TestBudget.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_five_per_cent_is_one_in_twenty():
    """Twenty twentieths make one credit."""
    budget = Budget(0.05)
    granted = 0
    for number in range(1, 2001):
        budget.earn(number * 0.001)
        granted += budget.try_spend(number * 0.001)
        assert granted == number // 20


def test_the_reserve_serves_quiet_services():
    """Three per second without any call, and not six across the edge of a window."""
    budget = Budget(0.2, 3.0)
    assert sum(budget.try_spend(0.9) for _ in range(100)) == 30
    assert sum(budget.try_spend(10.0) for _ in range(100)) == 0
    assert sum(budget.try_spend(0.9 + CREDIT_LIFE + SLOT) for _ in range(100)) == 30


def test_what_was_spent_late_in_a_slot_counts_for_its_whole_time():
    """One at 0.0 and 29 at 0.2: at 10.1 only the first is over."""
    budget = Budget(0.0, 3.0)
    assert budget.try_spend(0.0)
    assert sum(budget.try_spend(0.2) for _ in range(100)) == 29
    assert sum(budget.try_spend(10.1) for _ in range(100)) <= 1


def test_credits_die():
    """A busy minute does not pay for a storm later."""
    budget = Budget(1.0)
    for _ in range(1000):
        budget.earn(0.0)
    assert not budget.try_spend(CREDIT_LIFE)


def test_the_burst_is_there_once():
    """What is spent of it does not come back."""
    budget = Budget(0.0, burst=2.0)
    assert [budget.try_spend(at) for at in (0.0, 1.0, 2.0, 100.0)] == [True, True, False, False]


def test_memory_does_not_grow_with_traffic():
    """What is kept is a number per slot."""
    budget = Budget(0.2, 3.0)
    for number in range(50_000):
        budget.earn(number * 0.001)
        budget.try_spend(number * 0.001)
    kept = len(budget._calls._slots) + len(budget._spent._slots)
    assert kept <= 2 * (CREDIT_LIFE / SLOT + 3)


def test_backoff_has_full_jitter_and_a_cap():
    """U(0, min(20, .05 x 2^i))."""
    retry = RetrySettings()
    rng = random.Random(3)
    for repeats, longest in [(0, 0.05), (1, 0.1), (5, 1.6), (9, 20.0), (10_000, 20.0)]:
        pauses = [retry.pause(repeats, rng) for _ in range(400)]
        assert 0.0 <= min(pauses) < 0.05 * longest
        assert 0.95 * longest < max(pauses) <= longest


@pytest.mark.parametrize("wrong", [{"max_extra_ratio": -0.1}, {"max_extra_ratio": 11}, {"backoff": 0}, {"max_backoff": "1"}])
def test_settings_out_of_range(wrong):
    """A wrong setting is refused by its name."""
    with pytest.raises(ConfigError) as caught:
        RetrySettings(**wrong)
    assert [fault.path for fault in caught.value.faults] == list(wrong)
