"""Limits that answers show and nobody configured: what they teach of its period and burst, and what is charged then."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque

import pytest

from balancer.core.call import Demand, Usage
from balancer.core.learned import MOST_LEARNED
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.outcome import LimitSeen
from balancer.core.quota import MARGIN
from balancer.core.reservation import Reservation

ONE = Demand()


def room(ledger: Ledger, dimension: str, now: float) -> float:
    """The least room that the views compute."""
    return min(view.room(now) for view in ledger.views(now) if view.dimension == dimension)


def reserve(ledger: Ledger, now: float, *, times: int = 1, demand: Demand = ONE) -> list[Reservation]:
    """Reservations that the ledger admits at once."""
    made: list[Reservation] = []
    for _ in range(times):
        assert ledger.earliest(demand, now) == now
        made.append(ledger.reserve(demand, now))
    return made


def requests(limit: float | None, remaining: float | None, reset_after: float | None = None, **more: float) -> LimitSeen:
    """A limit of requests as a response shows it."""
    return LimitSeen("requests", "requests", limit, remaining, reset_after, **more)


def test_learned_rates_are_bounded() -> None:
    """The names are the provider's to choose."""
    ledger = Ledger(Limits())
    (first,) = reserve(ledger, 0.0)
    ledger.observe(tuple(LimitSeen("requests", str(name), 50, 49, 1.0) for name in range(100)), 0.0, first)
    assert len(ledger.views(0.0)) == MOST_LEARNED


class Bucketed:
    """A provider that counts a bucket and shows honest headers: remaining cut to units, reset until full."""

    def __init__(self, limit: float, period: float) -> None:
        self.limit, self.unit, self.full_at = limit, period / limit, -math.inf

    def count(self, at: float) -> LimitSeen:
        self.full_at = max(at, self.full_at) + self.unit
        assert self.full_at - at <= self.limit * self.unit + 1e-6
        used = (self.full_at - at) / self.unit
        return requests(self.limit, math.floor(self.limit - used + 1e-9), self.full_at - at)


class Windowed:
    """A provider that counts an exact window and shows honest headers: reset until the oldest leaves."""

    def __init__(self, limit: float, period: float) -> None:
        self.limit, self.period, self.log = limit, period, list[float]()

    def count(self, at: float) -> LimitSeen:
        self.log = [seen for seen in self.log if seen > at - self.period] + [at]
        assert len(self.log) <= self.limit
        return requests(self.limit, self.limit - len(self.log), self.log[0] + self.period - at)


class Cleared:
    """A provider whose windows are fixed and begin at whole seconds, which shows honest headers: reset until the next begins."""

    def __init__(self, limit: float) -> None:
        self.limit, self.second, self.used = limit, 0, 0

    def used_at(self, at: float) -> int:
        if math.floor(at) != self.second:
            self.second, self.used = math.floor(at), 0
        return self.used

    def count(self, at: float) -> None:
        assert self.used_at(at) < self.limit
        self.used += 1

    def shown(self, at: float) -> LimitSeen:
        return requests(self.limit, self.limit - self.used_at(at), round(1.0 - at % 1.0, 3))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("phase", [0.03, 0.1, 0.4, 0.7])
def test_nothing_goes_before_the_reset_of_a_fixed_window_that_is_used_up(phase: float, seed: int) -> None:
    """The first call comes in the middle of it, and what is left passes for the period: too short a one, but each answer says when the
    window ends. None is refused, and nearly all is used."""
    rng = random.Random(seed)
    ledger, provider = Ledger(Limits()), Cleared(10)
    now = start = 100.0 + phase
    sent, coming = 0, list[tuple[float, int, bool, Reservation]]()
    while now < start + 20.0:
        goes_at = math.inf if not ledger.enforced() and sent == 4 else ledger.earliest(ONE, now)
        if not coming or goes_at < coming[0][0]:
            now, sent = goes_at, sent + 1
            heapq.heappush(coming, (now + rng.uniform(0.0, 0.02), sent, False, ledger.reserve(ONE, now)))
            continue
        now, number, counted, reservation = heapq.heappop(coming)
        if counted:
            ledger.observe((provider.shown(now),), now, reservation)
            ledger.settle(reservation, Usage(), now)
        else:
            provider.count(now)
            heapq.heappush(coming, (now + rng.uniform(0.05, 0.3), number, True, reservation))
    assert sent >= 0.97 * 200


class Resetless:
    """A provider that shows what remains of sixty a minute and no reset, and counts a bucket that refills with one a second, or a fixed
    window of which others have used most at first."""

    def __init__(self, burst: int | None, used: int = 0, phase: float = 0.0) -> None:
        self.burst, self.left, self.at, self.phase, self.window = burst, float(burst or 60 - used), 0.0, phase, 0

    def take(self, at: float) -> bool:
        window = math.floor((at + self.phase) / 60.0)
        if self.burst is not None:
            self.left = min(self.burst, self.left + at - self.at)
        elif window != self.window:
            self.left = 60.0
        self.at, self.window = at, window
        served = self.left >= 1.0 - 1e-9
        self.left -= served
        return served

    def shown(self) -> LimitSeen:
        return requests(60, math.floor(self.left + 1e-9), period=60.0)


class Found:
    """A provider of sixty per period, of which others have used most when we come; it shows the time to its reset when it counts."""

    def __init__(self, period: float, used: int, *, fixed: float | None = None) -> None:
        self.period, self.log, self.fixed, self.at = period, [0.0] * used, fixed, 0.0

    def take(self, at: float) -> bool:
        since = at - self.period if self.fixed is None else at - (at + self.fixed) % self.period
        self.log, self.at = [counted for counted in self.log if counted > since], at
        served = len(self.log) < 60
        self.log += [at] * served
        return served

    def shown(self) -> LimitSeen:
        began_at = self.log[0] if self.fixed is None else self.at - (self.at + self.fixed) % self.period
        return requests(60, 60 - len(self.log), began_at + self.period - self.at)


def driven(
    provider: Resetless | Found, seed: int, *, seconds: float, wait: float | None, longest: float = 0.3
) -> tuple[list[float], int]:
    """Calls wait all the time, no more than four before the first answer: when each was refused, and how many were served."""
    rng, ledger = random.Random(seed), Ledger(Limits())
    now, refused, served = 0.0, list[float](), 0
    coming, numbers = list[tuple[float, int, Reservation, LimitSeen | None, bool]](), itertools.count()
    paused_until = 0.0
    while now < seconds:
        goes_at = max(paused_until, ledger.earliest(ONE, now))
        if not ledger.enforced() and len(coming) >= 4:
            goes_at = math.inf
        if not coming or goes_at < coming[0][0]:
            now = goes_at
            heapq.heappush(coming, (now + rng.uniform(0.0, 0.02), next(numbers), ledger.reserve(ONE, now), None, False))
            continue
        now, _, reservation, shown, passed = heapq.heappop(coming)
        if shown is None:
            passed = provider.take(now)
            answered_at = now + (rng.uniform(0.05, longest) if passed else 0.01)
            heapq.heappush(coming, (answered_at, next(numbers), reservation, provider.shown(), passed))
        elif passed:
            served += 1
            ledger.observe((shown,), now, reservation)
            ledger.served(reservation, now)
            ledger.settle(reservation, Usage(), now)
        else:
            refused.append(now)
            until = None if wait is None else now + wait
            ledger.refuse(reservation, now)
            ledger.observe((shown,), now, reservation, wait, until)
            ledger.refused(reservation, "requests", until, now, (shown,))
            paused_until = max(paused_until, until or 0.0, now + rng.uniform(0.0, 1.0))
    return refused, served


@pytest.mark.parametrize("longest", [0.3, 5.0])
@pytest.mark.parametrize("wait", [None, 1.0])
@pytest.mark.parametrize("burst", [1, 2, 5, 20])
def test_a_small_burst_is_learned_where_no_reset_is_shown(burst: int, wait: float | None, longest: float) -> None:
    """As where sixty a minute are counted as one a second."""
    for seed in range(3):
        refused, served = driven(Resetless(burst), seed, seconds=300.0, wait=wait, longest=longest)
        assert len(refused) <= 8
        assert served >= 0.9 * 300


@pytest.mark.parametrize(("used", "wait"), [(20, None), (55, None), (60, None), (20, 1.0), (55, 1.0)])
def test_a_window_that_others_used_is_no_small_burst_where_no_reset_is_shown(used: int, wait: float | None) -> None:
    """A few refusals tell, one after the other; what they say of when to try again is not true then."""
    for seed in range(4):
        refused, served = driven(Resetless(None, used, phase=15.0 * seed), seed, seconds=300.0, wait=wait)
        assert len(refused) <= 8
        assert not [at for at in refused if at > 120.0]
        assert served >= 0.9 * 240


@pytest.mark.parametrize("period", [30.0, 60.0, 75.0])
@pytest.mark.parametrize("phase", [None, 0.2, 0.7])
def test_a_window_that_others_had_used_is_not_taken_for_a_longer_one(period: float, phase: float | None) -> None:
    """While theirs are among ours, the oldest that it holds seems older than it is; what is left later tells. None of it stays unused."""
    for seed in range(4):
        provider = Found(period, 55, fixed=None if phase is None else phase * period)
        refused, served = driven(provider, seed, seconds=8.0 * period, wait=None, longest=5.0)
        assert len(refused) <= 4
        assert served >= 0.9 * 60 * 7


def test_three_a_minute_in_whole_seconds_are_no_three_per_one_and_a_half() -> None:
    """Three are in use as surely as they have been sent, so a reset in a minute is no bucket's, although what remains may be rounded by
    a third of the limit."""
    ledger = Ledger(Limits())
    first, second = reserve(ledger, 0.0), reserve(ledger, 0.3)
    for (reservation,), answered_at, remaining, reset_after in ((second, 0.4, 1, 60), (first, 1.6, 1, 59)):
        ledger.observe((requests(3, remaining, reset_after),), answered_at, reservation)
        ledger.settle(reservation, Usage(), answered_at)
    (third,) = reserve(ledger, 1.7)
    ledger.observe((requests(3, 0, 59),), 1.8, third)
    (view,) = ledger.views(2.0)
    assert view.period == 60.0


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("window", ["bucket", "sliding"])
@pytest.mark.parametrize("load", [0.5, 5.0])
def test_honest_answers_take_no_capacity(window: str, load: float, configured: bool) -> None:
    """Ten thousand answers of a provider that counts up to 20 ms later and answers late: the mirror stays right, nothing is
    refused, and what is offered is served, or 95 % of the quota used."""
    rng = random.Random(11)
    limits = Limits(requests={"amount": 50, "per": 5.0}, window=window) if configured else Limits()
    provider = Bucketed(50, 5.0) if window == "bucket" else Windowed(50, 5.0)
    ledger = Ledger(limits)
    now, arrival, sent, answers = 100.0, 100.0, 0, deque[tuple[float, LimitSeen, Reservation]]()
    while sent < 10_000:
        cold = not ledger.enforced() and sent == 4
        start = math.inf if cold else max(arrival, ledger.earliest(ONE, now))
        if answers and answers[0][0] <= start:
            now, seen, reservation = answers.popleft()
            ledger.observe((seen,), now, reservation)
            ledger.settle(reservation, None, now)
            continue
        now, counted_at = start, max(start + rng.uniform(0.001, 0.02), answers[-1][0] - 1.0 if answers else 0.0)
        answers.append((counted_at + 1.0, provider.count(counted_at), ledger.reserve(ONE, now)))
        arrival += rng.expovariate(10.0 * load)
        sent += 1
    assert sent / (now - 100.0) >= 0.95 * 10.0 * min(load, 1.0)
    assert len(ledger.views(now)) == 1
    assert ledger.views(now)[0].period == 5.0


@pytest.mark.parametrize("counted_first", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_five_per_two_seconds_are_learned_from_four_answers(order: tuple[int, ...], counted_first: bool) -> None:
    """Answers in any order: one more now, the others when the first leaves, and not before."""
    ledger, provider, start = Ledger(Limits()), Windowed(5, 2.0), 77.0
    reservations = reserve(ledger, start, times=4)
    shown = [provider.count(start + 0.001 + place * 0.0002) for place in range(4)]
    if counted_first:  # headers made only when all four are in
        shown = [requests(5, 1, provider.log[0] + 2.0 - (start + 0.005)) for _ in range(4)]
    for place in order:
        ledger.observe((shown[place],), start + 0.01, reservations[place])
        ledger.settle(reservations[place], None, start + 0.01)
        assert room(ledger, "requests", start + 0.01) == 1
    fifth = reserve(ledger, start + 0.02)[0]
    shown_fifth = provider.count(start + 0.021)
    if not counted_first:
        (view,) = ledger.views(start + 0.02)
        assert (view.learned, view.limit, view.period, view.burst) == (True, 5, 2.0, 5)
        assert ledger.earliest(ONE, start + 0.02) == pytest.approx(start + 2.0 + MARGIN, abs=0.001)
    ledger.observe((shown_fifth,), start + 0.03, fifth)
    assert ledger.earliest(ONE, start + 0.03) == pytest.approx(start + 2.0 + MARGIN, abs=0.001)
    assert ledger.earliest(Demand(requests=5), start + 0.03) == pytest.approx(start + 2.02 + MARGIN, abs=0.001)


@pytest.mark.parametrize(("limit", "period", "unit"), [(500, 60.0, 0.12), (10_000, 86400.0, 8.64)])
def test_a_bucket_is_learned_from_its_first_answer(limit: int, period: float, unit: float) -> None:
    """Its reset is until full; what was sent before the answer is in the learned rate."""
    ledger, provider = Ledger(Limits()), Bucketed(limit, period)
    reservations = reserve(ledger, 10.0, times=3)
    seen = provider.count(10.001)
    assert seen.reset_after == pytest.approx(unit)
    ledger.observe((seen,), 10.5, reservations[0])
    (view,) = ledger.views(10.5)
    assert (view.learned, view.limit, view.period, view.reserved) == (True, limit, period, 3)
    assert view.room(10.5) == limit - 3
    ledger.refund(reservations[1], 11.0)
    ledger.settle(reservations[2], Usage(requests=2), 11.0)
    ledger.settle(reservations[0], None, 11.0)
    (view,) = ledger.views(11.0)
    assert (view.room(11.0), view.reserved) == (limit - 3, 0)


def test_a_learned_rate_starts_with_all_that_the_first_answer_counts() -> None:
    """Ours that have ended and others' that we never sent."""
    ledger = Ledger(Limits())
    first, second, third = reserve(ledger, 0.0, times=3, demand=Demand(100))
    ledger.settle(first, Usage(input_tokens=150), 0.5)
    ledger.refund(second, 0.5)
    ledger.observe((LimitSeen("tokens", "tokens", 1000, 400, 36.0),), 1.0, third)
    (view,) = ledger.views(1.0)
    assert (view.period, view.burst, view.reserved) == (60.0, 400, 100)  # not even ours explain it: others', or a small burst
    assert 0 < view.room(1.0) <= 400


def test_a_learned_bucket_refills_continuously() -> None:
    """120 a minute, shown by resets until full: after the whole bucket the next call waits for one unit, not for a minute."""
    ledger, unit, now = Ledger(Limits()), 0.5, 0.0
    for number in range(1, 121):
        reservation = ledger.reserve(Demand(), now)
        now += 0.002
        shown = max(0.0, number * unit - now)
        used = math.ceil(shown / unit)
        ledger.observe((LimitSeen("requests", "requests", 120, 120 - used, shown),), now, reservation)
        ledger.settle(reservation, None, now)
    (view,) = ledger.views(now)
    assert (view.learned, view.limit, view.period) == (True, 120, 60.0)
    waits_for = ledger.earliest(Demand(), now) - now
    assert 0.0 < waits_for < 2 * unit
    assert ledger.earliest(Demand(requests=120), now) > now + 59.0
