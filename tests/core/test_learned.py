"""Limits that answers show: for which models each holds, and those that show the same amount."""

from __future__ import annotations

import math

import pytest

from balancer.core.call import Demand
from balancer.core.learned import MOST_LEARNED, TIMES
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits, Rate
from balancer.core.outcome import LimitSeen
from balancer.testing.mock.counters import Bucket, Counter, Sliding


def test_a_model_that_joins_a_learned_limit_counts_against_it_at_once() -> None:
    """Each model has the limit that it showed last, also one that was asked for before it showed any."""
    ledger = Ledger(Limits())

    def shows(model: str, limit: float) -> None:
        reservation = ledger.reserve(Demand(), 0.0, model)
        ledger.observe((LimitSeen("requests", "requests", limit, limit - 1, 60.0, period=60.0),), 0.0, reservation)
        ledger.settle(reservation, None, 0.0)

    def limits(model: str) -> list[float]:
        return [line.counter.limit for line in ledger.reserve(Demand(), 0.0, model).lines]

    shows("a", 10)
    shows("b", 10)
    shows("b", 50)
    assert (limits("a"), limits("b"), limits("c")) == ([10], [50], [10])
    shows("c", 50)
    assert (limits("a"), limits("b"), limits("c")) == ([10], [50], [50])
    shows("b", 10)
    assert (limits("a"), limits("b"), limits("c")) == ([10], [10], [50])


class Shown:
    """An account of which answers show what one counter per model, or one for all, leaves of sixty a minute."""

    def __init__(self, window: str, *, shared: bool = False, whole_seconds: bool = False) -> None:
        self.window, self.shared, self.whole_seconds = window, shared, whole_seconds
        self.counters: dict[str, Counter] = {}
        self.ledger, self.now, self.refusals = Ledger(Limits()), 0.0, 0

    def counter(self, model: str) -> Counter:
        name = "" if self.shared else model
        if name not in self.counters:
            rate = Rate(60, 60.0)
            self.counters[name] = Bucket(rate, 60) if self.window == "bucket" else Sliding(rate)
        return self.counters[name]

    def ask(self, model: str, *, answered_after: float = 0.5) -> bool:
        """One request, if the ledger admits it; returns whether it does."""
        if not self.ledger.admits(Demand(), self.now, model):
            return False
        reservation, counter = self.ledger.reserve(Demand(), self.now, model), self.counter(model)
        refused = counter.wait_for(1.0, self.now) > 0.0
        if refused:
            self.refusals += 1
            self.ledger.refuse(reservation, self.now)
        else:
            counter.take(1.0, self.now)
        self.now += answered_after
        left, reset_after = (60 - counter.used(self.now)) // 1, counter.reset_after(self.now)
        if self.whole_seconds:
            reset_after = math.ceil(reset_after)
        self.ledger.observe((LimitSeen("requests", "requests", 60.0, left, reset_after),), self.now, reservation)
        self.ledger.settle(reservation, None, self.now)
        return True

    def ask_all(self, models: str, seconds: float) -> None:
        """All that the ledger admits of every model, for so long."""
        until = self.now + seconds
        while self.now < until:
            if sum(self.ask(model, answered_after=0.1) for model in models) == 0:
                self.now += 0.1
            models = models[1:] + models[:1]

    def groups(self) -> int:
        return len(self.ledger.lines)

    def room(self, model: str) -> float:
        return min(view.room(self.now) for view in self.ledger.views(self.now) if view.covers(model))


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_model_that_shows_more_than_a_shared_limit_could_leave_has_its_own(window: str) -> None:
    """Then each is counted by what was sent for it alone."""
    shown = Shown(window)
    shown.ask_all("ab", 12.0)
    assert shown.groups() == 2
    for model in "ab":
        left = 60 - shown.counter(model).used(shown.now)
        assert left - 2.0 <= shown.room(model) <= left
    shown.ask_all("ab", 120.0)
    assert shown.refusals == 0
    assert all(shown.counter(model).used(shown.now) > 55.0 for model in "ab")


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_a_reset_may_be_an_integer(window: str) -> None:
    """Some providers write so, and it is read so."""
    shown = Shown(window, whole_seconds=True)
    shown.ask_all("ab", 12.0)
    assert shown.groups() == 2


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_models_that_share_a_limit_are_not_told_apart(window: str) -> None:
    """However long both wait for it."""
    shown = Shown(window, shared=True)
    shown.ask_all("ab", 300.0)
    assert (shown.groups(), shown.refusals) == (1, 0)


def test_a_few_answers_tell_no_models_apart() -> None:
    """It takes several that are apart, and more than those that agree."""
    shown = Shown("sliding")
    for _ in range(4 + TIMES):
        for model in "ab":
            shown.ask(model, answered_after=0.1)
    assert shown.groups() == 1


def test_what_is_in_flight_tells_no_models_apart() -> None:
    """An answer that was written before others were counted shows more, and proves nothing."""
    shown = Shown("sliding", shared=True)
    for _ in range(8):
        shown.ask("a")
        shown.ask("b")
    ledger = shown.ledger
    for _ in range(10):
        first = ledger.reserve(Demand(), shown.now, "a")
        flying = [ledger.reserve(Demand(), shown.now, "b") for _ in range(20)]
        shown.now += 1.0
        ledger.observe((LimitSeen("requests", "requests", 60.0, 43.0, 40.0),), shown.now, first)
        for reservation in (first, *flying):
            ledger.refund(reservation, shown.now)
    assert shown.groups() == 1


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_models_that_turn_out_to_share_are_taken_together_again(window: str) -> None:
    """Once answers for each lack what the other takes; to tell them apart again takes far more."""
    shown = Shown(window)
    shown.ask_all("ab", 12.0)
    assert shown.groups() == 2
    shown.ask_all("", 70.0)
    shown.shared = True
    shown.ask_all("ab", 90.0)
    assert shown.groups() == 1
    shown.ask_all("ab", 180.0)
    assert shown.groups() == 1
    assert shown.refusals <= 5


def test_of_many_models_no_more_are_told_apart_than_are_remembered() -> None:
    """The rest share a limit, which is safe."""
    shown = Shown("bucket")
    shown.ask_all("a", 10.0)
    shown.ask_all("abcdefghijklmnopqrstuvwxyz", 200.0)
    assert shown.groups() == MOST_LEARNED
    assert shown.refusals == 0
