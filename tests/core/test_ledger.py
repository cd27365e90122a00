"""One account's ledger: reservations that end once, the mirror of the provider's count, limits learned from answers."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balancer.core.call import Demand, Usage
from balancer.core.learned import MOST_LEARNED
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.outcome import LimitSeen
from balancer.core.quota import GRANULES, MARGIN
from balancer.core.reservation import Reservation
from balancer.testing.simulation import SimulatedLimit
from balancer.testing.simulation.limits import find_overruns

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


def test_without_rates_everything_goes_at_once() -> None:
    """Nothing is enforced, nothing is shown, nothing changes by time."""
    ledger = Ledger(Limits(concurrency=3))
    (reservation,) = reserve(ledger, 5.0, demand=Demand(10**12, 10**12))
    ledger.settle(reservation, Usage(), 6.0)
    assert not ledger.enforced()
    assert ledger.views(6.0) == ()


def test_every_rate_must_admit() -> None:
    """Two rates of requests and one of tokens."""
    ledger = Ledger(Limits(requests=["2/s", "100/min"], tokens_per_minute=1000, window="sliding"))
    reserve(ledger, 0.0, demand=Demand(300, 100))
    assert ledger.earliest(Demand(600, 1), 0.0) == 60.0 + MARGIN
    reserve(ledger, 0.0)
    assert ledger.earliest(ONE, 0.0) == 1.0 + MARGIN
    assert ledger.earliest(Demand(1001), 0.0) == math.inf


def test_a_demand_of_nothing_does_not_touch_a_dimension() -> None:
    """Nor does it wait for one that is in debt."""
    ledger = Ledger(Limits(requests_per_minute=10, tokens_per_minute=100))
    (first,) = reserve(ledger, 0.0, demand=Demand(90))
    ledger.settle(first, Usage(input_tokens=900), 1.0)
    assert ledger.earliest(Demand(1), 1.0) > 60.0
    reserve(ledger, 1.0)
    ledger.refund(reserve(ledger, 1.0)[0], 1.0)


def test_usage_corrects_what_was_reserved_both_ways() -> None:
    """Less is given back, more is debt, unknown leaves the estimate; tokens are input and output together. All of it leaves a window a
    period after the request was sent."""
    ledger = Ledger(Limits(tokens_per_minute=600, output_tokens_per_minute=600, window="sliding"))
    less, more, unknown = reserve(ledger, 0.0, times=3, demand=Demand(50, 50))
    ledger.settle(less, Usage(10, 20), 1.0)
    assert room(ledger, "tokens", 1.0) == 600 - 30 - 200
    ledger.settle(more, Usage(100, 800), 1.0)
    ledger.settle(unknown, None, 1.0)
    assert room(ledger, "tokens", 1.0) == 600 - 30 - 900 - 100
    assert room(ledger, "output_tokens", 1.0) == 600 - 20 - 800 - 50
    assert room(ledger, "tokens", 60.0) == 600 - 30 - 900 - 100
    assert room(ledger, "tokens", 60.0 + MARGIN) == 600


def test_a_request_written_late_counts_from_then() -> None:
    """A window forgets it a period after it was written."""
    ledger = Ledger(Limits(requests={"amount": 2, "per": 2.0}, window="sliding"))
    first, second = reserve(ledger, 0.0, times=2)
    ledger.restamp(first, 0.5)
    assert ledger.earliest(ONE, 0.6) == 2.0 + MARGIN
    ledger.refund(second, 0.6)
    reserve(ledger, 0.6)
    assert ledger.earliest(ONE, 0.6) == 2.5 + MARGIN
    ledger.settle(first, None, 1.0)
    ledger.restamp(first, 1.0)
    assert ledger.earliest(ONE, 1.0) == 2.5 + MARGIN


@settings(max_examples=200, deadline=None)
@given(
    burst=st.integers(1, 12),
    before=st.integers(1, 12),
    connects=st.lists(st.sampled_from([0.0, 0.04, 0.09, 0.2, 0.5]), min_size=1, max_size=4),
    later=st.sampled_from([0.0, 0.04]),
    starts_at=st.floats(0.0, 1.2),
    seed=st.integers(0, 1000),
)
def test_requests_that_wait_for_connections_are_never_too_many(
    burst: int, before: int, connects: list[float], later: float, starts_at: float, seed: int
) -> None:
    """While none of them is written the provider's bucket is full, and what does not flow into it is not counted on: by the provider's
    own count, which takes each between its first byte and some 20 ms later, there is room for every one."""
    ledger, rng = Ledger(Limits(requests={"amount": 60, "burst": 12, "per": 6.0})), random.Random(seed)
    due: list[tuple[float, Reservation]] = []
    counted: list[float] = []

    def write(reservation: Reservation, now: float, connected: bool) -> None:
        if connected:
            ledger.restamp(reservation, now)
        counted.append(now + rng.uniform(0.0, 0.02))

    for _ in range(min(before, burst)):
        write(ledger.reserve(ONE, 0.0), 0.0, connected=False)
    now, waiting = starts_at, burst + 20
    while waiting or due:
        while waiting and ledger.admits(ONE, now):
            waiting -= 1
            reservation = ledger.reserve(ONE, now)
            connected_at = now + (connects[waiting % len(connects)] if waiting >= 20 else later)
            if connected_at > now:
                ledger.connecting(reservation)
                due.append((connected_at, reservation))
            else:
                write(reservation, now, connected=False)
        due.sort(key=lambda item: item[0])
        fits_at = max(now + 1e-3, ledger.earliest(ONE, now)) if waiting else math.inf
        now = min(fits_at, due[0][0] if due else math.inf)
        while due and due[0][0] <= now:
            write(due.pop(0)[1], now, connected=True)
    assert not find_overruns(SimulatedLimit("requests", 60, 6.0, burst=12), [(at, 1.0) for at in sorted(counted)])


@pytest.mark.parametrize("way", ["restamp", "refund", "settle"])
def test_a_limit_that_is_learned_while_requests_wait_for_connections(way: str) -> None:
    """They wait in its line, too, and nothing of it stays when they do no more."""
    ledger = Ledger(Limits())
    answered, waiting = reserve(ledger, 0.0, times=2)
    ledger.connecting(waiting)
    ledger.observe((LimitSeen("requests", "requests", 60, 58, 2.0, period=60.0),), 0.1, answered)
    (line,) = ledger.lines
    assert line.counter.unsent == 1
    if way == "restamp":
        ledger.restamp(waiting, 0.2)
    elif way == "refund":
        ledger.refund(waiting, 0.2)
    else:
        ledger.settle(waiting, None, 0.2)
    assert line.counter.unsent == 0


def test_views_hold_until_the_next_change() -> None:
    """A bucket's view computes its refill; a window's holds until the oldest charge leaves."""
    ledger = Ledger(Limits(requests_per_minute=60, burst=10))
    reserve(ledger, 0.0, times=10)
    (view,) = ledger.views(0.0)
    assert (view.limit, view.burst, view.period, view.reserved, view.learned) == (60, 10, 60.0, 10, False)
    assert view.room(0.0) == pytest.approx(0)
    assert view.room(3.0 + MARGIN) == pytest.approx(3)
    assert view.used(99.0) == 0
    assert view.valid_until == math.inf
    ledger = Ledger(Limits(requests_per_minute=60, window="sliding"))
    reserve(ledger, 0.0, times=10)
    (view,) = ledger.views(20.0)
    assert (view.room(20.0), view.used(20.0)) == (50, 10)
    assert view.valid_until == 60.0 + MARGIN
    assert ledger.views(view.valid_until)[0].room(view.valid_until) == 60


class LedgerMachine(RuleBasedStateMachine):
    """Any order of reserving, restamping, ending and time against sums over the log."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Limits(requests=["6/s"], tokens={"amount": 900, "per": 3.0}, window="sliding"))
        self.bucket = Ledger(Limits(tokens={"amount": 900, "per": 3.0}))
        self.now = 50.0
        self.open: list[tuple[Reservation, Reservation]] = []
        self.ended: list[tuple[Reservation, Reservation]] = []
        self.charged: list[tuple[float, int]] = []
        self.amounts = {"reserved": 0, "settled": 0, "refunded": 0}

    @rule(after=st.sampled_from([0.0, 0.2, 1.0, 1.0 + MARGIN, 3.0 + MARGIN]))
    def pass_time(self, after: float) -> None:
        self.now += after

    @rule(size=st.integers(0, 400))
    def reserve(self, size: int) -> None:
        demand = Demand(size, 1)
        if self.ledger.earliest(demand, self.now) > self.now or self.bucket.earliest(demand, self.now) > self.now:
            return
        self.open.append((self.ledger.reserve(demand, self.now), self.bucket.reserve(demand, self.now)))
        self.amounts["reserved"] += demand.tokens

    @precondition(lambda self: self.open)
    @rule(data=st.data(), way=st.sampled_from(["settle", "usage", "refund", "restamp"]), size=st.integers(0, 800))
    def end(self, data: st.DataObject, way: str, size: int) -> None:
        pair = data.draw(st.sampled_from(self.open))
        tokens = pair[0].demand.tokens
        for ledger, reservation in zip((self.ledger, self.bucket), pair, strict=True):
            match way:
                case "settle":
                    ledger.settle(reservation, None, self.now)
                case "usage":
                    ledger.settle(reservation, Usage(size, 0), self.now)
                case "refund":
                    ledger.refund(reservation, self.now)
                case _:
                    ledger.restamp(reservation, self.now)
        if way == "restamp":
            return
        self.open.remove(pair)
        self.ended.append(pair)
        self.amounts["refunded" if way == "refund" else "settled"] += tokens
        if way != "refund":
            self.charged.append((pair[0].at, size if way == "usage" else tokens))

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), refund=st.booleans())
    def end_again(self, data: st.DataObject, refund: bool) -> None:
        before = self.ledger.views(self.now), self.bucket.views(self.now)
        for ledger, reservation in zip((self.ledger, self.bucket), data.draw(st.sampled_from(self.ended)), strict=True):
            if refund:
                ledger.refund(reservation, self.now)
            else:
                ledger.settle(reservation, Usage(9, 9), self.now)
        assert before == (self.ledger.views(self.now), self.bucket.views(self.now))

    @invariant()
    def what_was_reserved_is_settled_refunded_or_outstanding(self) -> None:
        outstanding = self.amounts["reserved"] - self.amounts["settled"] - self.amounts["refunded"]
        views = {view.dimension: view for view in self.ledger.views(self.now)}
        assert views["tokens"].reserved == self.bucket.views(self.now)[0].reserved == outstanding
        assert views["requests"].reserved == len(self.open)

    @invariant()
    def the_window_holds_what_the_log_holds(self) -> None:
        log = [*self.charged, *((first.at, first.demand.tokens) for first, _ in self.open)]
        used = sum(amount for at, amount in log if self.now < at + (3.0 + MARGIN))
        view = next(view for view in self.ledger.views(self.now) if view.dimension == "tokens")
        assert view.used(self.now) - view.kept_back == used


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_remaining_lowers_the_rate_it_belongs_to_at_once_and_never_raises_it() -> None:
    """Somebody else took thirty; a later and greater number changes nothing."""
    ledger = Ledger(Limits(requests=["100/min", "5000/day"]))
    (first,) = reserve(ledger, 0.0)
    ledger.observe((requests(100, 69),), 0.1, first)
    assert [view.room(0.1) for view in ledger.views(0.1)] == pytest.approx([69, 4999], abs=0.2)
    ledger.observe((requests(100, 99), requests(None, 3)), 0.1, first)
    assert room(ledger, "requests", 0.1) == pytest.approx(69, abs=0.2)
    assert len(ledger.views(0.1)) == 2


def test_a_limit_without_its_amount_belongs_to_the_only_rate_of_its_dimension() -> None:
    """Some responses show what remains and nothing else."""
    ledger = Ledger(Limits(requests_per_minute=100, tokens_per_minute=100))
    (first,) = reserve(ledger, 0.0)
    ledger.observe((requests(None, 50),), 0.0, first)
    assert room(ledger, "requests", 0.0) == pytest.approx(50)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"requests_per_minute": 60},
        {"requests_per_minute": 60, "burst": 1},
        {"requests_per_minute": 60, "window": "sliding"},
    ],
)
def test_nothing_goes_before_there_is_any_more(limits: dict[str, Any], refused: bool) -> None:
    """All is used up, by others; some answers say when there is some more of it, not when there is all."""
    ledger = Ledger(Limits(**limits))
    (first,) = reserve(ledger, 0.0)
    shown = requests(60, 0, 40.0, period=60.0, next_unit=True)
    if refused:
        ledger.refuse(first, 0.2)
        ledger.observe((shown,), 0.2, first, 40.0, 40.2)
        ledger.refused(first, "requests", 40.2, 0.2, (shown,))
    else:
        ledger.observe((shown,), 0.2, first)
        ledger.settle(first, Usage(), 0.2)
    assert 40.2 - 1e-6 <= ledger.earliest(ONE, 0.2) <= 40.2 + 60.0 / GRANULES
    (second,) = reserve(ledger, 41.0)
    ledger.observe((requests(60, 59, 60.0, period=60.0, next_unit=True),), 41.2, second)
    if "burst" not in limits:  # what had been charged to others is given back
        assert room(ledger, "requests", 41.2) >= 50


def test_what_is_said_of_when_there_is_any_more_is_believed_for_a_period_at_most() -> None:
    """In which all of any limit comes back."""
    ledger = Ledger(Limits(requests_per_minute=60))
    (first,) = reserve(ledger, 0.0)
    for number in range(3):
        ledger.observe((requests(60, 0, 86400.0, period=60.0, next_unit=True),), 0.2 + number, first)
    assert ledger.earliest(ONE, 3.0) == pytest.approx(62.2, abs=0.1)


def test_differences_that_rounding_explains_change_nothing() -> None:
    """Remaining tokens in thousands are right within a thousand."""
    ledger = Ledger(Limits(input_tokens_per_minute=30_000))
    (first,) = reserve(ledger, 0.0, demand=Demand(2_400))
    seen = LimitSeen("input_tokens", "input-tokens", 30_000, 27_000, 4.8, rounding=1000.0)
    ledger.observe((seen,), 0.0, first)
    assert room(ledger, "input_tokens", 0.0) == pytest.approx(27_600)
    ledger.observe((attrs.evolve(seen, remaining=20_000.0),), 0.0, first)
    assert room(ledger, "input_tokens", 0.0) == pytest.approx(20_000)


def test_an_answer_is_compared_with_the_time_since_its_request() -> None:
    """Seven were in flight when the provider counted; what has refilled or left since then is no evidence against us."""
    for window in ("bucket", "sliding"):
        ledger = Ledger(Limits(requests={"amount": 7, "per": 2.0}, window=window))
        reservations = reserve(ledger, 0.0, times=7)
        ledger.observe((requests(7, 0),), 9.0, reservations[2])
        assert room(ledger, "requests", 9.0) == 7


def test_a_refused_request_is_not_in_the_count_that_refused_it() -> None:
    """Refunded, its own unit does not explain why nothing remains."""
    ledger = Ledger(Limits(requests={"amount": 7, "per": 2.0}, window="sliding"))
    refused = reserve(ledger, 0.0, times=4)[-1]
    ledger.refund(refused, 0.1)
    ledger.observe((requests(7, 0),), 0.1, refused)
    assert ledger.earliest(ONE, 0.1) > 0.1


@pytest.mark.parametrize(
    "lie",
    [
        requests(100, 101),
        requests(100, -1),
        requests(100, math.nan),
        requests(math.nan, 5, 1),
        requests(-5, 0, 1),
        requests(0, 0, 1),
        requests(0.5, 0, 1),
        requests(1e300, 0, 1),
        requests(50, 0, math.inf),
        requests(50, 0, -1),
        requests(50, 0, 1e12),
        requests(50, 60, 1),
        requests(50, 1),
        requests(None, None, None),
        LimitSeen("demand", "", 5, 1, 1),
        LimitSeen("__class__", "", 5, 1, 1),
    ],
)
def test_lies_change_nothing(lie: LimitSeen) -> None:
    """Values that cannot be are as good as absent."""
    ledger = Ledger(Limits(requests_per_minute=100))
    (first,) = reserve(ledger, 0.0)
    before = ledger.views(0.0)
    ledger.observe((lie,), 0.0, first)
    assert ledger.views(0.0) == before


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_answer_breaks_the_ledger(data: st.DataObject) -> None:
    """Whatever a response shows: views stay finite, learned rates stay few, nothing is raised."""
    value = st.one_of(st.none(), st.floats(), st.integers(-2, 2000))
    seen = st.builds(
        LimitSeen, st.sampled_from(["requests", "tokens", "x"]), st.text(max_size=1), value, value, value, st.just(1.0)
    )
    ledger, now = Ledger(Limits(requests_per_minute=50)), 0.0
    for limits in data.draw(st.lists(st.lists(seen, max_size=3), max_size=8)):
        now += 0.5
        reservation = ledger.reserve(Demand(3, 4), now)
        ledger.observe(tuple(limits), now, reservation)
        ledger.settle(reservation, None, now)
    for view in ledger.views(now):
        assert math.isfinite(view.room(now))
        assert math.isfinite(view.period)
    assert ledger.earliest(ONE, now) >= now


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


def test_a_limit_that_the_provider_has_lowered_is_learned_beside_the_configured_one() -> None:
    """Both must admit; when the header's limit changes, the learned one follows."""
    ledger = Ledger(Limits(requests_per_minute=100))
    (first,) = reserve(ledger, 0.0)
    ledger.observe((requests(40, 20, 30.0),), 0.0, first)
    assert [(view.limit, view.learned) for view in ledger.views(0.0)] == [(100, False), (40, True)]
    assert ledger.earliest(Demand(requests=21), 0.0) > 0.0
    ledger.observe((requests(60, 40, 20.0),), 0.0, first)
    assert [view.limit for view in ledger.views(0.0)] == [100, 60]


def test_other_settings_keep_what_was_charged_and_learned() -> None:
    """Limits cut, counted otherwise, added; open reservations still end in all of them."""
    ledger = Ledger(Limits(requests_per_minute=100))
    first, second = reserve(ledger, 0.0, times=2, demand=Demand(30))
    reserve(ledger, 0.0, times=50)
    ledger.observe((LimitSeen("input_tokens", "input-tokens", 1000, 970, 1.8),), 0.0, first)
    ledger.replace(Limits(requests_per_minute=60, tokens_per_minute=500), 0.0)
    views = {view.dimension: view for view in ledger.views(0.0)}
    assert views["requests"].room(0.0) == pytest.approx(60 - 52, abs=0.05)
    assert views["tokens"].room(0.0) == pytest.approx(500 - 60)
    assert views["input_tokens"].learned
    ledger.replace(Limits(requests_per_minute=60, tokens_per_minute=500, window="sliding"), 0.0)
    assert room(ledger, "requests", 0.0) == pytest.approx(60 - 52, abs=0.05)
    ledger.refund(second, 0.0)
    ledger.settle(first, Usage(input_tokens=20), 0.0)
    assert room(ledger, "requests", 0.0) == pytest.approx(60 - 51, abs=0.05)
    assert room(ledger, "tokens", 0.0) == pytest.approx(500 - 20)
    ledger.replace(Limits(input_tokens_per_minute=1000), 0.0)
    assert [(view.dimension, view.learned) for view in ledger.views(0.0)] == [("input_tokens", False)]
    ledger.replace(Limits(), 0.0)
    assert not ledger.enforced()


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


@pytest.mark.parametrize(("answered_after", "next_at"), [(0.0, 2.03), (0.03, 2.06), (0.2, 2.03)])
def test_a_prompt_answer_tells_when_its_request_was_counted(answered_after: float, next_at: float) -> None:
    """The window is left a period after the latest moment at which the provider can have counted; a slow answer tells nothing."""
    ledger = Ledger(Limits(requests={"amount": 1, "per": 2.0}, window="sliding"))
    reservation = ledger.reserve(Demand(), 0.0)
    ledger.counted_by(reservation, answered_after)
    ledger.settle(reservation, None, 1.0)
    assert ledger.earliest(Demand(), 1.0) == pytest.approx(next_at)
