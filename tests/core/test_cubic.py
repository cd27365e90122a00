"""A limit learned from refusals alone, against providers that count it in every way there is; a simulation without a loop."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque

import attrs
import pytest

from balancer.core.admitted import REMEMBERED, Admitted
from balancer.core.cubic import BETA, FIRST_SPAN, LONGEST_GAP, CubicBucket


@attrs.define(eq=False)
class TrueBucket:
    limit: float
    period: float
    burst: float
    level: float = math.inf
    at: float = 0.0

    def admits(self, amount, now, charged):
        self.level = min(self.burst, self.level + (now - self.at) * self.limit / self.period)
        self.at = now
        if fits := self.level >= amount - 1e-9:
            self.level -= amount
        elif charged:
            self.level = max(0.0, self.level - amount)
        return fits

    def wait(self, amount, now):
        return (amount - self.level) * self.period / self.limit


@attrs.define(eq=False)
class TrueSliding:
    limit: float
    period: float
    log: deque = attrs.field(factory=deque)
    used: float = 0.0

    def admits(self, amount, now, charged):
        while self.log and self.log[0][0] + self.period <= now + 1e-9:
            self.used -= self.log.popleft()[1]
        fits = self.used + amount <= self.limit + 1e-9
        if fits or charged:
            self.log.append((now, amount))
            self.used += amount
        return fits

    def wait(self, amount, now):
        left = itertools.accumulate(counted for _, counted in self.log)
        freed = (at for (at, _), gone in zip(self.log, left, strict=True) if self.used - gone + amount <= self.limit)
        return next(freed) + self.period - now


@attrs.define(eq=False)
class TrueFixed:
    limit: float
    period: float
    phase: float
    window: int = -1
    used: float = 0.0

    def admits(self, amount, now, charged):
        if (window := math.floor((now - self.phase) / self.period)) != self.window:
            self.window, self.used = window, 0.0
        fits = self.used + amount <= self.limit + 1e-9
        if fits or charged:
            self.used += amount
        return fits

    def wait(self, amount, now):
        return self.phase + (self.window + 1) * self.period - now


def provider(kind, limit, period, rng, largest=1):
    match kind:
        case "burst 1":
            return TrueBucket(limit, period, largest)
        case "burst 10":
            return TrueBucket(limit, period, min(limit, 10 * largest))
        case "full bucket":
            return TrueBucket(limit, period, limit)
        case "sliding":
            return TrueSliding(limit, period)
        case _:
            return TrueFixed(limit, period, rng.uniform(0.0, period))


@attrs.define
class Span:
    """What happened between two marks of time."""

    attempts: int = 0
    refusals: int = 0
    admitted: float = 0.0
    held_back: int = 0

    def __add__(self, other):
        return Span(*(mine + theirs for mine, theirs in zip(attrs.astuple(self), attrs.astuple(other), strict=True)))

    @property
    def refused(self):
        return self.refusals / max(1, self.attempts)


def simulate(counter, truth, rng, marks, *, demand, amounts=(1,), charged=False, backlog=0, changes=(), stated=False):
    """Poisson arrivals of `demand` units a second queue before one account; returns a `Span` per mark.

    The provider counts up to 5 ms after the sending and answers .1 to 2 s later; what it refused goes first again, where that is
    `stated` after the pause that it has asked for, in whole seconds.
    """
    order, events, spans = itertools.count(), [], [Span()]
    waiting = deque(rng.choice(amounts) for _ in range(backlog))
    mean, woken_at, paused_until = sum(amounts) / len(amounts), math.inf, 0.0

    def at(time, kind, *what):
        heapq.heappush(events, (time, next(order), kind, what))

    at(0.0, "arrival")
    for mark in marks:
        at(mark, "mark")
    for time, change in changes:
        at(time, "change", change)
    while len(spans) <= len(marks):
        now, _, kind, what = heapq.heappop(events)
        match kind:
            case "arrival":
                if len(waiting) < 1000:
                    waiting.append(rng.choice(amounts))
                    spans[-1].held_back += counter.earliest(waiting[0], now) > now
                at(now + rng.expovariate(demand / mean), "arrival")
            case "mark":
                spans.append(Span())
            case "change":
                what[0](truth)
            case "count":
                fits = truth.admits(what[0].amount, now, charged)
                spans[-1].attempts += 1
                spans[-1].refusals += not fits
                spans[-1].admitted += what[0].amount * fits
                wait = math.ceil(truth.wait(what[0].amount, now)) if stated and not fits else None
                at(now + rng.uniform(0.1, 2.0), "answer", what[0], fits, wait)
            case "answer" if what[1]:
                counter.passed(what[0], now)
            case "answer":
                until = None if what[2] is None else now + what[2]
                paused_until = max(paused_until, until or 0.0)
                counter.refused(what[0], now, until)
                waiting.appendleft(what[0].amount)
            case _ if now < woken_at:
                continue
            case _:
                woken_at = math.inf
        while waiting:
            if (earliest := max(paused_until, counter.earliest(waiting[0], now))) > now:
                if earliest < woken_at:
                    woken_at = earliest
                    at(earliest, "wake")
                break
            at(now + rng.uniform(0.0, 0.005), "count", counter.charge(waiting.popleft(), now))
    return spans[:-1]


KINDS = ("burst 1", "burst 10", "full bucket", "sliding", "fixed")
LIMITS = ((10, 60.0), (60, 60.0), (600, 60.0), (5, 2.0), (1000, 3600.0))


def learned(kind, limit, period, charged, amounts=(1,), seeds=3, **more):
    """What several seeds together did, once there was time to learn: five minutes or 100 calls, five hours of an hourly limit."""
    begin = max(300.0, 100 * period / limit) if period <= 60.0 else 5 * 3600.0
    after = 1200.0 if limit / period > 5 * max(amounts) / 60 and period <= 60.0 else 3600.0 if period <= 60.0 else 4 * 3600.0
    total = Span()
    for seed in range(seeds):
        rng = random.Random(seed)
        truth = provider(kind, limit, period, rng, max(amounts))
        marks, demand = (begin, begin + after), 3 * limit / period
        spans = simulate(CubicBucket(), truth, rng, marks, demand=demand, amounts=amounts, charged=charged, **more)
        total += spans[1]
    return total, total.admitted / (seeds * after * limit / period)


@pytest.mark.parametrize("charged", [False, True], ids=["free", "charged"])
@pytest.mark.parametrize(("limit", "period"), LIMITS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_limit_is_learned_however_it_is_counted(kind, limit, period, charged) -> None:
    """Once learned, less than 3 % are refused and at least 90 % of the limit is used."""
    total, use = learned(kind, limit, period, charged, seeds=1 if limit / period > 1 else 3)
    assert total.refused < 0.03
    assert use >= 0.9


@pytest.mark.parametrize("charged", [False, True], ids=["free", "charged"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_limit_is_learned_from_demands_that_differ_twentyfold(kind, charged) -> None:
    """The largest is 3.3 % of the limit."""
    total, use = learned(kind, 3000, 60.0, charged, amounts=tuple(range(5, 101)))
    assert total.refused < 0.03
    assert use >= 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_backlog_that_comes_at_once_is_learned_from_as_well(kind) -> None:
    """Hundreds in flight are refused together, and are one piece of news."""
    total, use = learned(kind, 60, 60.0, charged=False, backlog=300)
    assert total.refused < 0.03
    assert use >= 0.9


@pytest.mark.parametrize("limit", [60, 120, 600])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stated_pause_is_no_news_of_the_pace(kind, limit) -> None:
    """Behind it a whole window passes at once, and time is lost by each: neither drives the pace up, nor are few refusals held down."""
    total, use = learned(kind, limit, 60.0, charged=False, seeds=1 if limit > 120 else 3, stated=True)
    assert total.refused < 0.03
    assert use >= 0.9


@pytest.mark.parametrize("kind", ["full bucket", "sliding", "fixed"])
def test_a_pause_that_is_always_said_to_be_as_long_does_not_halve_the_pace(kind, monkeypatch) -> None:
    """A minute, whatever would do: each refusal costs as much as sixty calls, so that they become few."""
    for truth in (TrueBucket, TrueSliding, TrueFixed):
        monkeypatch.setattr(truth, "wait", lambda self, amount, now: 60.0)
    total, use = learned(kind, 60, 60.0, charged=False, stated=True)
    assert total.refused < 0.01
    assert use >= 0.75


def halved(truth):
    truth.limit /= 2


def doubled(truth):
    truth.limit *= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_that_changes_is_followed(kind) -> None:
    """Half of the limit, and the whole again: each is used, without many refusals, half an hour later."""
    rng = random.Random(0)
    changes, marks = [(1800.0, halved), (5400.0, doubled)], [3600.0, 5400.0, 7200.0, 9000.0]
    truth = provider(kind, 60, 60.0, rng)
    _, low, _, high = simulate(CubicBucket(), truth, rng, marks, demand=3.0, changes=changes)
    assert low.refused < 0.03
    assert 0.9 * 900 <= low.admitted <= 1.1 * 900
    assert high.refused < 0.03
    assert high.admitted >= 0.9 * 1800


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_low_demand_is_never_held_back(kind) -> None:
    """At .3 of the limit nothing is refused, so nothing is learned and nothing waits."""
    rng, counter = random.Random(0), CubicBucket()
    (span,) = simulate(counter, provider(kind, 60, 60.0, rng), rng, [3600.0], demand=0.3)
    assert (span.refusals, span.held_back, counter.limit) == (0, 0, math.inf)


def test_before_the_first_refusal_there_is_room_for_everything() -> None:
    """No limit, no wait, nothing in use."""
    counter = CubicBucket()
    for _ in range(100):
        assert counter.earliest(1e9, 5.0) == 5.0
        counter.passed(counter.charge(1e9, 5.0), 5.0)
    assert (counter.limit, counter.burst) == (math.inf, math.inf)
    assert counter.level(5.0) == (0.0, -math.inf, math.inf)


def refuse_one(passes=20, now=FIRST_SPAN):
    """A counter that was refused once, after as many passes in the ten seconds before."""
    counter = CubicBucket()
    for number in range(passes):
        counter.passed(counter.charge(1, number * FIRST_SPAN / passes), number * FIRST_SPAN / passes)
    counter.refused(counter.charge(1, now), now)
    return counter


def test_a_refusal_cuts_the_pace_at_once_and_does_not_pause() -> None:
    """Two a second had been admitted; the next goes after the gap of .7 of that."""
    counter = refuse_one()
    assert counter.limit == pytest.approx(2 * BETA * 60)
    assert counter.earliest(1, FIRST_SPAN) == pytest.approx(FIRST_SPAN + 1 / (2 * BETA))
    assert counter.level(FIRST_SPAN)[0] == pytest.approx(1)


def test_refusals_of_what_was_sent_before_the_cut_are_one_event() -> None:
    """They were on their way."""
    counter = CubicBucket()
    sent = [counter.charge(1, 0.0) for _ in range(50)]
    for mark in sent:
        counter.passed(mark, 1.0)
    sent = [counter.charge(1, 1.5) for _ in range(50)]
    counter.refused(sent[0], 2.0)
    limit = counter.limit
    for mark in sent[1:]:
        counter.refused(mark, 2.5)
    assert counter.limit == limit


def test_refusals_in_a_row_slow_down_until_one_attempt_per_ten_minutes() -> None:
    """A limit that stays closed for a day costs few attempts, and is not forgotten."""
    counter, now, attempts = refuse_one(), FIRST_SPAN, 0
    while now < 86400.0:
        now = counter.earliest(1, now)
        counter.refused(counter.charge(1, now), now)
        attempts += 1
    assert attempts < 86400.0 / LONGEST_GAP + 40
    assert counter.earliest(1, now) - now == pytest.approx(LONGEST_GAP)


def test_the_window_that_opens_tells_the_limit() -> None:
    """Sixty passed, then none for forty seconds: about one a second, resumed at .7 of it."""
    counter, now = CubicBucket(), 0.0
    for number in range(60):
        counter.passed(counter.charge(1, number / 3), number / 3)
    now = 20.0
    while now < 60.0:
        counter.refused(counter.charge(1, now), now)
        now = counter.earliest(1, now)
    counter.passed(counter.charge(1, now), now)
    assert BETA * 60 * 60 / now <= counter.limit <= 60


def test_a_stated_time_tells_the_limit_at_once() -> None:
    """A hundred and twenty passed, then one refusal says that it is closed for forty seconds: two a second, resumed at .7 of it."""
    counter = CubicBucket()
    for number in range(120):
        counter.passed(counter.charge(1, number / 6), number / 6)
    counter.refused(counter.charge(1, 20.0), 20.0, 60.0)
    counter.passed(counter.charge(1, 60.0), 60.0)
    assert counter.limit == pytest.approx(BETA * 120, rel=0.05)


def test_the_first_pace_is_of_all_that_had_passed() -> None:
    """Sixty passed at once and another sixty a minute later, then nothing for a while: one a second, not one in ten seconds."""
    counter = CubicBucket()
    for now in (0.0, 60.0):
        for _ in range(60):
            counter.passed(counter.charge(1, now), now)
    counter.refused(counter.charge(1, 90.0), 90.0)
    assert counter.limit == pytest.approx(BETA * 60 * 60 / 30)


def test_a_search_goes_no_faster_than_twice_what_passes() -> None:
    """Where a window passes at once, passing proves little."""
    counter, now = refuse_one(), FIRST_SPAN
    passed = [number / 2 for number in range(20)]
    for _ in range(400):
        now = counter.earliest(1, now)
        counter.passed(counter.charge(1, now), now)
        passed.append(now)
        assert counter.limit <= 2 * 60 * max(2, sum(at >= now - FIRST_SPAN for at in passed) / FIRST_SPAN) * 1.001


def test_a_change_of_units_changes_nothing_else() -> None:
    """The same pace in tokens, of which there are three hundred to a request; the next burst is as large as its first demand."""
    counter = refuse_one()
    gap, limit = counter.earliest(1, FIRST_SPAN) - FIRST_SPAN, counter.limit
    counter.change_units(300.0)
    now = FIRST_SPAN + gap
    assert counter.limit == pytest.approx(300 * limit)
    assert counter.earliest(300, now) == now
    counter.passed(counter.charge(300, now), now)
    assert counter.earliest(300, now) == pytest.approx(now + 300 * 60 / counter.limit)
    assert counter.earliest(150, now) == pytest.approx(now + 150 * 60 / counter.limit)


def test_what_was_taken_back_leaves_its_place_to_the_next_only() -> None:
    """A call that was never sent; but one that was refused spaces the next, and an older one has been followed."""
    counter = refuse_one()
    gap, now = 60 / counter.limit, FIRST_SPAN + 60 / counter.limit
    mark = counter.charge(1, now)
    counter.take_back(mark, 1)
    assert counter.earliest(1, now) == pytest.approx(now)
    counter.charge(1, now)
    counter.take_back(mark, 1)
    assert counter.earliest(1, now) == pytest.approx(now + gap)
    counter = refuse_one()
    mark = counter.charge(1, now)
    counter.refused(mark, now)
    earliest = counter.earliest(1, now)
    counter.take_back(mark, 1)
    assert counter.earliest(1, now) == earliest > now


def test_only_attempts_that_the_pace_held_back_raise_it() -> None:
    """An account that is hardly used learns nothing from being served."""
    counter, now = refuse_one(), FIRST_SPAN
    for _ in range(50):
        now += 60.0
        counter.passed(counter.charge(1, now), now)
    limit = counter.limit
    for _ in range(50):
        now += 60.0
        counter.passed(counter.charge(1, now), now)
    assert counter.limit == limit
    for _ in range(50):
        now = counter.earliest(1, now)
        counter.passed(counter.charge(1, now), now)
    assert counter.limit > limit


def test_the_record_is_bounded_and_keeps_its_sums() -> None:
    """Every other entry goes when it is full; the total stays."""
    admitted = Admitted()
    for number in range(10_000):
        admitted.add(float(number), 2.0)
    assert len(admitted._times) <= REMEMBERED
    assert admitted.total == 20_000
    assert admitted.since(-1.0) == 20_000
    assert admitted.since(9_990.0) == pytest.approx(20)
    assert admitted.best_rate(0.0, 10_000.0) == pytest.approx(2, rel=0.01)
