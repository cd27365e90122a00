"""The two ways to count a rate, against slow and obvious models that replay the log."""

from __future__ import annotations

import copy
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balancer.core.calendar import CalendarWindow, load_zone
from balancer.core.quota import GRANULES, KEPT, MARGIN, PROMPT, Bucket, Minima, SlidingWindow, room


def backlog(bucket: Bucket, now: float) -> float:
    """Seconds until the bucket is full by its own law."""
    return max(0.0, bucket.level(now)[1] - MARGIN - now)


def admit(counter: Bucket | SlidingWindow, amount: float, now: float) -> float:
    """Charge at the earliest moment; returns it."""
    at = counter.earliest(amount, now)
    assert counter.earliest(amount, at) == at
    counter.charge(amount, at)
    return at


def book(bucket: Bucket, amount: float, now: float) -> int:
    """A charge that may be taken back."""
    mark = bucket.charge(amount, now)
    bucket.open += amount
    return mark


def write(bucket: Bucket, mark: int, amount: float, now: float) -> int:
    """The request of a charge has got its connection."""
    bucket.connected(amount)
    bucket.open -= amount
    bucket.take_back(mark, amount)
    bucket.moved(now)
    return book(bucket, amount, now)


def test_a_full_bucket_gives_its_burst_at_once_and_then_one_per_unit_time() -> None:
    """The burst does not wait for the margin, what follows does, once."""
    bucket = Bucket(60, 60.0, 5)
    starts = [admit(bucket, 1, 1e6) - 1e6 for _ in range(8)]
    assert starts == pytest.approx([0, 0, 0, 0, 0, 1 + MARGIN, 2 + MARGIN, 3 + MARGIN])


COUNTERS = {
    "bucket": lambda: Bucket(8, 8.0, 8),
    "small bucket": lambda: Bucket(60, 60.0, 5),
    "sliding": lambda: SlidingWindow(8, 8.0),
    "calendar": lambda: CalendarWindow(8, "day", load_zone("UTC"), (0.0, 86_400.0 * 20_000 - 10.0)),
}
PAUSES = st.sampled_from([0.0, 8.0 / GRANULES / 2, MARGIN / 2, PROMPT / 2, 0.5, 1.0, 3.0, 8.0, 11.0])
HAPPENS = st.lists(st.tuples(PAUSES, st.integers(1, 9), st.sampled_from(["stays", "answered", "taken back"])), max_size=8)


@pytest.mark.parametrize("kind", COUNTERS)
@settings(max_examples=200, deadline=None)
@given(happens=HAPPENS, pause=PAUSES, before=st.integers(1, 12), amount=st.integers(1, 5))
@example(happens=[(0.0, 5, "stays")], pause=8.0 / GRANULES / 2, before=4, amount=4)
def test_what_is_behind_a_charge_fits_when_it_would_after_it(
    kind: str, happens: list[tuple[float, int, str]], pause: float, before: int, amount: int
) -> None:
    """Not a moment sooner, and no sooner than without it."""
    counter, now = COUNTERS[kind](), 0.0
    for gap, charged, then in happens:
        at = now = now + gap
        mark = counter.charge(charged, now)
        counter.open += charged
        if then == "answered":
            now += 0.01
            counter.answered(mark, charged, at, now)
        elif then == "taken back":
            counter.take_back(mark, charged)
        counter.open -= charged
    now += pause
    after = copy.deepcopy(counter)
    after.charge(before, now)
    behind = counter.behind(before, amount, now)
    assert behind >= counter.earliest(amount, now)
    assert behind == pytest.approx(after.earliest(amount, now), abs=1e-9)


def test_a_demand_above_the_burst_never_fits() -> None:
    """`inf` says so, for a bucket and for a window."""
    assert Bucket(60, 60.0, 5).earliest(5.5, 0.0) == math.inf
    assert SlidingWindow(5, 60.0).earliest(6, 0.0) == math.inf
    assert Bucket(60, 60.0, 5).earliest(5, 7.0) == 7.0
    assert SlidingWindow(5, 60.0).earliest(5, 7.0) == 7.0


def test_debt_is_worked_off_and_never_forgiven() -> None:
    """A charge beyond the burst delays the next one by all of it."""
    bucket = Bucket(10, 1.0, 10)
    bucket.charge(10, 0.0)
    bucket.charge(25, 0.0)
    assert room(bucket, 0.0) == pytest.approx(-25)
    assert bucket.earliest(1, 0.0) == pytest.approx(2.6 + MARGIN)
    window = SlidingWindow(10, 1.0)
    window.charge(35, 0.0)
    assert room(window, 0.5) == -25
    assert window.earliest(1, 0.5) == 1.0 + MARGIN


def test_a_refund_is_worth_no_more_than_what_still_counts() -> None:
    """A bucket that has been full since gives nothing back."""
    bucket = Bucket(1, 1.0, 4)
    mark = book(bucket, 2, 0.0)
    bucket.charge(1, 10.0)
    bucket.take_back(mark, 2)
    assert backlog(bucket, 10.0) == 1.0
    mark = book(bucket, 2, 10.0)
    bucket.charge(1, 11.5)  # finds 1.5 of the two
    bucket.take_back(mark, 2)
    assert backlog(bucket, 11.5) == 1.0


def test_more_than_was_charged_is_debt_of_a_bucket_and_of_a_day_from_when_it_is_known() -> None:
    """A bucket that was full by then had refilled; in a day the difference is nothing. Only a window knows what leaves when."""
    bucket = Bucket(60, 60.0, 5)
    bucket.exceed(bucket.charge(1, 0.0), 2, 10.0)
    assert backlog(bucket, 10.0) == 2.0
    assert bucket.counts(1)
    day = CalendarWindow(10, "day", load_zone("UTC"), (0.0, 0.0))
    mark = day.charge(1, 0.0)
    assert day.counts(mark)
    day.exceed(mark, 2, 86_500.0)
    assert not day.counts(mark)
    assert room(day, 86_500.0) == 8


def test_a_resized_bucket_keeps_the_units_in_use() -> None:
    """Half of the old bucket in use is as many units of the new one."""
    bucket = Bucket(10, 10.0, 10)
    bucket.charge(6, 0.0)
    bucket.resize(20, 20, 1.0)
    assert room(bucket, 1.0 + MARGIN) == pytest.approx(15)


class BucketMachine(RuleBasedStateMachine):
    """A bucket against a replay of its log without what was taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.bucket = Bucket(8, 2.0, 6)
        self.now = 1000.0
        self.log: list[tuple[float, float]] = []
        self.marks: list[tuple[int, int]] = []

    def replayed(self) -> float:
        full_at = -math.inf
        for at, amount in self.log:
            full_at = max(at, full_at) + amount * 2.0 / 8
        return max(0.0, full_at - self.now)

    @rule(after=st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, 3.0]))
    def pass_time(self, after: float) -> None:
        self.now += after

    @rule(amount=st.sampled_from([0.5, 1.0, 2.0, 5.0, 9.0]))
    def charge(self, amount: float) -> None:
        self.marks.append((book(self.bucket, amount, self.now), len(self.log)))
        self.log.append((self.now, amount))

    @precondition(lambda self: self.marks)
    @rule(data=st.data(), share=st.sampled_from([0.25, 0.5, 1.0]))
    def take_back(self, data: st.DataObject, share: float) -> None:
        mark, place = self.marks.pop(data.draw(st.integers(0, len(self.marks) - 1)))
        at, amount = self.log[place]
        self.bucket.take_back(mark, amount * share)
        self.bucket.open -= amount
        self.log[place] = at, amount * (1 - share)

    @invariant()
    def owes_what_the_replay_owes(self) -> None:
        assert backlog(self.bucket, self.now) == pytest.approx(self.replayed(), abs=1e-9)

    @invariant()
    def waits_for_the_law_and_at_most_the_margin_more(self) -> None:
        law = max(self.now, self.now + self.replayed() + (2 - 6) * 0.25)
        assert law - 1e-6 <= self.bucket.earliest(2, self.now) <= law + MARGIN + 1e-6

    @invariant()
    def shows_the_room_that_it_admits(self) -> None:
        fits = room(self.bucket, self.now)
        assert fits >= 6 or self.bucket.earliest(max(0.0, fits) + 1e-3, self.now) > self.now
        if fits > 1e-3:
            assert self.bucket.earliest(fits - 1e-3, self.now) == self.now


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


TestBucketMachine = BucketMachine.TestCase
TestBucketMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=60, deadline=None)
@given(
    traffic=st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.2, 0.9]), st.integers(1, 5), st.booleans()), max_size=60),
    burst=st.sampled_from([5, 7, 10]),
)
def test_no_span_admits_more_than_the_law(traffic: list[tuple[float, int, bool]], burst: int) -> None:
    """Whatever is refunded in between: L t/P + B of a bucket, L per P of a window."""
    bucket, window = Bucket(10, 2.0, burst), SlidingWindow(10, 2.0)
    for counter in (bucket, window):
        now, kept = 0.0, list[tuple[float, int]]()
        for after, amount, refunded in traffic:
            now = counter.earliest(amount, now + after)
            mark = counter.charge(amount, now)
            if refunded:
                counter.take_back(mark, amount)  # type: ignore[arg-type]
            else:
                kept.append((now, amount))
        for first, (begun_at, _) in enumerate(kept):
            taken = 0
            for at, amount in kept[first:]:
                taken += amount
                if counter is bucket:
                    assert taken <= (at - begun_at) * 10 / 2.0 + burst + 1e-5
                elif at - begun_at <= 2.0:
                    assert taken <= 10


@pytest.mark.parametrize("burst", [1, 60])
@pytest.mark.parametrize("sliding", [False, True])
def test_a_provider_that_counts_a_little_later_never_refuses(burst: int, sliding: bool) -> None:
    """60 a minute, counted up to 20 ms late in any order: no refusal, and 97 % of the quota used while calls wait."""
    rng = random.Random(7)
    counter = SlidingWindow(burst, float(burst)) if sliding else Bucket(60, 60.0, burst)
    counted, now = list[float](), 0.0
    while now < 600.0:
        now = admit(counter, 1, now)
        counted.append(now + rng.uniform(0.0, 0.02))
    counted.sort()
    full_at, window = -math.inf, list[float]()
    for at in counted:
        window = [seen for seen in window if seen > at - burst] + [at]
        full_at = max(at, full_at) + 1.0
        assert len(window) <= burst if sliding else full_at - burst <= at + 1e-5
    assert len(counted) >= 0.97 * 600


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


@given(st.lists(st.one_of(st.floats(0, 100), st.tuples(st.integers(0, 30), st.floats(0, 50))), max_size=40))
def test_minima_answer_like_a_list(steps: list[float | tuple[int, float]]) -> None:
    """The least value after any number; lowered values keep the order of the stack."""
    minima, values = Minima(), list[float]()
    for step in steps:
        if isinstance(step, tuple):
            number, by = step
            by = min([by, *values[number:]])
            minima.lower(number, by)
            values[number:] = [value - by for value in values[number:]]
        else:
            values.append(step)
            minima.push(len(values), step)
    for number in range(len(values)):
        assert minima.after(number) == pytest.approx(min(values[number:]), abs=1e-9)
    assert minima.after(len(values)) == math.inf


def test_minima_stay_small_and_never_answer_too_much() -> None:
    """A value that was forgotten is answered by a lesser one."""
    minima = Minima()
    for value in range(10_000):
        minima.push(value + 1, float(value))
        assert len(minima._values) < KEPT  # pyright: ignore[reportPrivateUsage]
    assert all(minima.after(number) <= number for number in range(10_000))
    assert minima.after(9_999) == 9_999
    assert minima.after(10_000) == math.inf


def test_a_busy_period_begins_when_its_first_request_is_written_and_is_known_to_have_been_counted() -> None:
    """Until then the provider's bucket was full and did not refill; that is waited for once, where it costs little."""
    bucket = Bucket(60, 60.0, 60)
    waiting = [bucket.connecting(book(bucket, 1, 0.0), 1) for _ in range(60)]
    first, *_ = [write(bucket, mark, 1, 0.2) for mark in waiting]
    assert bucket.earliest(1, 0.5) == pytest.approx(1.2 + MARGIN)
    bucket.answered(first, 1, 0.2, 0.9)
    assert bucket.earliest(1, 1.0) == pytest.approx(1.2 + 0.7)
    late = Bucket(60, 60.0, 1)
    mark = book(late, 1, 0.0)
    late.answered(mark, 1, 0.0, 0.9)
    assert late.earliest(1, 0.9) == pytest.approx(1.0 + MARGIN)


def test_a_request_that_may_have_found_the_bucket_full_again_tells_when_it_was_counted() -> None:
    """What did not flow into it until then is waited for; of one that found it far from full nothing is concluded."""
    bucket = Bucket(60, 60.0, 60)
    book(bucket, 1, 0.0)
    late = [book(bucket, 1, 0.99) for _ in range(59)]
    assert bucket.earliest(1, 1.0) == pytest.approx(1.0 + MARGIN)
    bucket.answered(late[0], 1, 0.99, 1.6)
    assert bucket.earliest(1, 1.6) == pytest.approx(1.0 + 0.6)
    other = Bucket(60, 60.0, 60)
    book(other, 1, 0.0)
    marks = [book(other, 1, 0.5) for _ in range(59)]
    other.answered(marks[0], 1, 0.5, 1.1)
    assert other.earliest(1, 1.0) == pytest.approx(1.0 + MARGIN)


def test_what_waits_for_a_connection_does_not_refill() -> None:
    """Two units that nobody has written yet are still to come, however long ago they were charged."""
    bucket = Bucket(60, 60.0, 4)
    waiting = bucket.connecting(book(bucket, 2, 0.0), 2)
    assert bucket.earliest(2, 9.0) == 9.0 < bucket.earliest(3, 9.0)
    assert room(bucket, 9.0) == pytest.approx(2, abs=MARGIN)
    assert bucket.behind(2, 2, 9.0) == pytest.approx(11.0 + MARGIN)
    book(bucket, 2, 9.0)
    write(bucket, waiting, 2, 10.0)
    assert bucket.earliest(2, 10.0) == pytest.approx(11.0 + MARGIN)


def test_what_waits_for_a_connection_is_not_given_back_for_what_was_written_before() -> None:
    """And has refilled; another limit does not change how much waits."""
    bucket = Bucket(60, 60.0, 60)
    before = book(bucket, 10, 0.0)
    waiting = bucket.connecting(book(bucket, 20, 0.0), 20)
    assert room(bucket, 0.0) == pytest.approx(30)
    book(bucket, 5, 30.0)
    bucket.take_back(before, 10)
    assert room(bucket, 30.0) == pytest.approx(35)
    bucket.resize(60, 40, 30.0)
    assert room(bucket, 30.0) == pytest.approx(15, abs=2 * MARGIN)
    write(bucket, waiting, 20, 31.0)
    assert room(bucket, 31.0) == pytest.approx(16, abs=2 * MARGIN)


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
