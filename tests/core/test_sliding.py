"""A rate of which each charge goes one period later, against a list of all that was charged."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balancer.core.quota import MARGIN, room
from balancer.core.sliding import GRANULES, SlidingWindow


class WindowMachine(RuleBasedStateMachine):
    """A sliding window against a list of everything that was ever charged."""

    def __init__(self) -> None:
        super().__init__()
        self.window = SlidingWindow(8, 2.0)
        self.now = 1000.0
        self.log: list[list[float]] = []
        self.marks: list[tuple[object, int]] = []

    def used(self, at: float) -> float:
        return sum(amount for charged_at, amount in self.log if at < charged_at + (2.0 + MARGIN))

    @rule(after=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0 + MARGIN, 5.0]))
    def pass_time(self, after: float) -> None:
        self.now += after

    @rule(amount=st.integers(1, 9))
    def charge(self, amount: int) -> None:
        self.marks.append((self.window.charge(amount, self.now), len(self.log)))
        self.log.append([self.now, amount])

    @precondition(lambda self: self.marks)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        mark, place = self.marks.pop(data.draw(st.integers(0, len(self.marks) - 1)))
        self.window.take_back(mark, self.log[place][1])  # type: ignore[arg-type]
        self.log[place][1] = 0

    @precondition(lambda self: self.marks)
    @rule(data=st.data(), amount=st.integers(1, 9))
    def exceed(self, data: st.DataObject, amount: int) -> None:
        mark, place = data.draw(st.sampled_from(self.marks))
        self.window.exceed(mark, amount, self.now)  # type: ignore[arg-type]
        self.log[place][1] += amount

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        assert room(self.window, self.now) == 8 - self.used(self.now)

    @invariant()
    def names_the_earliest_moment(self) -> None:
        for amount in (1, 5, 8):
            moments = [self.now, *(at + (2.0 + MARGIN) for at, _ in self.log if at + (2.0 + MARGIN) > self.now)]
            model = min(at for at in moments if self.used(at) + amount <= 8)
            assert self.window.earliest(amount, self.now) == model


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_window_merges_charges_of_one_granule_and_forgets_none_early() -> None:
    """However much is charged in a period, it has so many entries at most, each stamped at its latest charge."""
    granule = 20.0
    window = SlidingWindow(1e9, GRANULES * granule)
    charged = {step * 0.25: window.charge(1, step * 0.25)[0] for step in range(4_000)}
    entries = {id(entry): entry for entry in charged.values()}
    assert len(entries) == 4_000 * 0.25 / granule
    assert all(0.0 <= entry.at - at < granule for at, entry in charged.items())
    assert room(window, window.period + MARGIN) == 1e9 - 4_000
    assert room(window, window.period + granule + MARGIN) == 1e9 - 4_000 + granule / 0.25


def test_a_longer_period_counts_again_what_has_left() -> None:
    """As much as the window remembers; a shorter one lets go at once."""
    window = SlidingWindow(5, 2.0, memory=8)
    mark = window.charge(2, 0.0)
    window.charge(1, 4.0)
    assert room(window, 4.0) == 4
    window.resize(5, 10.0, 4.0)
    assert room(window, 4.0) == 2
    window.take_back(mark, 2)
    assert room(window, 4.0) == 4
    window.resize(5, 1.0, 5.5)
    assert room(window, 5.5) == 5


def test_a_charge_of_a_window_may_leave_at_a_stated_time() -> None:
    """Before those that were made earlier, but never later than any charge."""
    window = SlidingWindow(10, 60.0, margin=0.0)
    window.charge(4, 0.0)
    window.charge_until(3, 20.0, 1.0)
    window.charge_until(3, 99.0, 1.0)
    assert [window.used_at(at) for at in (19.9, 20.0, 59.9, 60.0, 60.9, 61.0)] == [10, 7, 7, 3, 3, 0]
    assert [window.earliest(amount, 1.0) for amount in (1, 3, 4, 7, 8)] == [20.0, 20.0, 60.0, 60.0, 61.0]
    mark = window.charge_until(1, 30.0, 20.0)
    assert window.level(20.0) == (8, math.inf, 30.0)
    window.take_back(mark, 1)
    assert window.level(30.0)[0] == 7


def test_what_a_provider_holds_leaves_no_sooner_than_it_says() -> None:
    """That is what was charged last; what was charged before it, and what leaves later anyway, stays as it was, and nothing stays for
    longer than a window can be."""
    window = SlidingWindow(10, 60.0, margin=0.0)
    for amount, at in ((3, 0.0), (2, 10.0), (4, 20.0), (1, 50.0)):
        window.charge(amount, at)
    window.hold(6, 90.0, 75.0)
    assert [window.used_at(at) for at in (59.9, 60.0, 84.9, 85.0, 89.9, 90.0, 109.9, 110.0)] == [10, 7, 7, 5, 5, 1, 1, 0]


def test_a_window_that_opens_before_its_charges_leave_lets_go_of_the_oldest_as_it_refills() -> None:
    """Exactly as much as was said at once; none stays longer than it would have."""
    window = SlidingWindow(10, 60.0, margin=0.0)
    marks = [window.charge(3, 0.0), window.charge(3, 10.0), window.charge(4, 50.0)]
    window.fit(2, 55.0)
    assert [window.used_at(at) for at in (54.9, 55.0, 59.9, 60.0, 69.9, 70.0)] == [10, 8, 8, 7, 7, 4]
    assert [window.used_at(at) for at in (102.9, 103.0)] == [4, 0]
    window.take_back(marks[0], 1)
    assert window.level(56.0)[0] == 7
