"""A rate that refills continuously, against a slow and obvious model that replays the log."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balancer.core.bucket import Bucket
from balancer.core.quota import MARGIN, room


def backlog(bucket: Bucket, now: float) -> float:
    """Seconds until the bucket is full by its own law."""
    return max(0.0, bucket.level(now)[1] - MARGIN - now)


def admit(bucket: Bucket, amount: float, now: float) -> float:
    """Charge at the earliest moment; returns it."""
    at = bucket.earliest(amount, now)
    assert bucket.earliest(amount, at) == at
    bucket.charge(amount, at)
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


TestBucketMachine = BucketMachine.TestCase
TestBucketMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


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
