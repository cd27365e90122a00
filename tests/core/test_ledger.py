"""One account's ledger: reservations that end once, the mirror of the provider's count, limits learned from answers."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balancer.core.call import Demand, Usage
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.outcome import LimitSeen
from balancer.core.quota import MARGIN
from balancer.core.reservation import Reservation
from balancer.core.sliding import GRANULES
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


TOKYO = {"amount": 3, "per": "day", "window": "calendar", "zone": "Asia/Tokyo"}


@pytest.mark.parametrize(
    ("requests", "over_at", "gone_at"),
    [({"amount": 3, "per": 2.0, "window": "sliding"}, 2.0 + MARGIN, 9.0 + MARGIN), (TOKYO, 5.0 + 1.0 + MARGIN, 5.0 + 86_400.0)],
)
def test_what_waits_for_a_connection_longer_than_a_window_counts_in_the_one_it_is_written_in(
    requests: dict[str, Any], over_at: float, gone_at: float
) -> None:
    """The provider cannot have counted it before; one that is never written leaves nothing behind."""
    ledger = Ledger(Limits(requests=requests), anchor=(0.0, 1_767_193_195.0))  # five seconds before midnight in Tokyo
    _, waiting, given_up = reserve(ledger, 0.0, times=3)
    ledger.connecting(waiting)
    ledger.connecting(given_up)
    assert room(ledger, "requests", 0.0) == 0
    assert room(ledger, "requests", over_at) == 1
    assert ledger.earliest(ONE, over_at) == over_at
    assert ledger.earliest(Demand(requests=2), over_at) > over_at
    ledger.refund(given_up, 7.0)
    assert room(ledger, "requests", 7.0) == 2
    ledger.restamp(waiting, 7.0)
    assert room(ledger, "requests", 8.9) == 2
    ledger.settle(waiting, None, 8.9)
    assert room(ledger, "requests", 8.9) == 2
    assert room(ledger, "requests", gone_at + 1.1) == 3


@pytest.mark.parametrize("window", ["bucket", "sliding"])
@pytest.mark.parametrize("charged", ["adjusted", "produced"])
def test_an_attempt_that_ends_while_it_waits_for_a_connection_is_charged_when_it_ends(window: str, charged: str) -> None:
    """If it is said to have been sent, it has been sent at the latest then; what it took is what is charged."""
    ledger = Ledger(Limits(tokens={"amount": 100, "per": 2.0, "window": window, "charged": charged}))
    waiting = ledger.reserve(Demand(40), 0.0)
    ledger.connecting(waiting)
    ledger.settle(waiting, Usage(30), 50.0)
    assert room(ledger, "tokens", 50.0) == pytest.approx(70)
    assert room(ledger, "tokens", 52.0 + MARGIN) == pytest.approx(100)


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


@pytest.mark.parametrize(("answered_after", "next_at"), [(0.0, 2.03), (0.03, 2.06), (0.2, 2.03)])
def test_a_prompt_answer_tells_when_its_request_was_counted(answered_after: float, next_at: float) -> None:
    """The window is left a period after the latest moment at which the provider can have counted; a slow answer tells nothing."""
    ledger = Ledger(Limits(requests={"amount": 1, "per": 2.0}, window="sliding"))
    reservation = ledger.reserve(Demand(), 0.0)
    ledger.counted_by(reservation, answered_after)
    ledger.settle(reservation, None, 1.0)
    assert ledger.earliest(Demand(), 1.0) == pytest.approx(next_at)
