"""The ledger with four dimensions that count in four ways, against a model that replays everything from the beginning."""

from __future__ import annotations

import math
from statistics import fmean

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balancer.core.call import Demand, Usage
from balancer.core.estimating import KNOWN
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.quota import MARGIN
from balancer.core.reservation import Reservation

LIMITS = Limits(
    requests={"amount": 8, "per": 4.0, "window": "sliding"},
    tokens={"amount": 3000, "per": 6.0},
    input_tokens={"amount": 2400, "per": 3.0, "window": "sliding", "charged": "start"},
    output_tokens={"amount": 1500, "per": 5.0, "charged": "produced"},
)
WINDOWS = {"requests": (8, 4.0), "input_tokens": (2400, 3.0)}
BUCKETS = {"tokens": (3000, 6.0), "output_tokens": (1500, 5.0)}


@attrs.define(eq=False)
class Attempt:
    """What the model knows of one attempt: what it demanded, since when it counts, how it ended."""

    reservation: Reservation
    demand: Demand
    at: float
    number: int
    connecting: bool = False
    end: str = ""
    usage: Usage | None = None
    ended_at: float = math.inf

    def charges(self, dimension: str) -> list[tuple[float, int, float]]:
        """What it charges: `(at, order among equals, amount)`; at `inf` while its request waits for a connection."""
        demanded = getattr(self.demand, dimension)
        if self.end in ("refund", "refuse"):
            return []
        taken = demanded if self.usage is None or dimension == "input_tokens" else getattr(self.usage, dimension)
        if dimension == "output_tokens":
            return [(self.ended_at, self.number, taken)] if self.end and taken else []
        first = [(math.inf if self.connecting else self.at, self.number, min(taken, demanded))] if demanded else []
        return first + ([(self.ended_at, self.number, taken - demanded)] if taken > demanded else [])


class LedgerModel(RuleBasedStateMachine):
    """Reserve, write late, answer, fail, refuse, cancel, in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(LIMITS)
        self.now = 100.0
        self.attempts: list[Attempt] = []
        self.moves = 0
        self.written_late_for = 0.0

    def flying(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.end]

    def expected_output(self) -> float:
        """Of those in flight: as demanded, or as much less as answers have been in the mean."""
        ratios = [
            attempt.usage.output_tokens / attempt.demand.output_tokens
            for attempt in self.attempts
            if attempt.usage is not None and attempt.demand.output_tokens
        ]
        less = min(1.0, fmean(ratios)) if len(ratios) >= KNOWN else 1.0
        return less * sum(attempt.demand.output_tokens for attempt in self.flying())

    def log(self, dimension: str) -> list[tuple[float, float]]:
        charges = sorted(charge for attempt in self.attempts for charge in attempt.charges(dimension))
        return [(at, amount) for at, _, amount in charges]

    def used(self, dimension: str, at: float) -> float:
        """By the law, without any margin."""
        if dimension in WINDOWS:
            return sum(amount for charged_at, amount in self.log(dimension) if at < charged_at + WINDOWS[dimension][1])
        limit, period = BUCKETS[dimension]
        full_at = -math.inf
        for charged_at, amount in self.log(dimension):
            full_at = max(full_at, min(charged_at, at)) + amount * period / limit
        return max(0.0, full_at - at) * limit / period

    @rule(after=st.sampled_from([0.0, 0.05, 0.5, 1.0, 3.0 + MARGIN, 9.0]))
    def pass_time(self, after: float) -> None:
        self.now += after

    @rule(tokens=st.tuples(st.sampled_from([0, 1, 90, 400, 1500]), st.sampled_from([0, 1, 60, 300, 900])))
    def reserve(self, tokens: tuple[int, int]) -> None:
        demand = Demand(*tokens)
        if not self.ledger.admits(demand, self.now):
            assert self.ledger.earliest(demand, self.now) > self.now or self.flying()
            return
        for dimension, (limit, _) in (WINDOWS | BUCKETS).items():
            held = self.expected_output() if dimension == "output_tokens" else 0.0
            assert self.used(dimension, self.now) + held + getattr(demand, dimension) <= limit + 1e-3 or not getattr(
                demand, dimension
            )
        self.moves += 1
        self.attempts.append(Attempt(self.ledger.reserve(demand, self.now), demand, self.now, self.moves))

    @precondition(lambda self: self.flying())
    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.flying()))
        self.ledger.connecting(attempt.reservation)
        attempt.connecting = True

    @precondition(lambda self: self.flying())
    @rule(data=st.data())
    def write_late(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.flying()))
        self.ledger.restamp(attempt.reservation, self.now)
        self.written(attempt)

    def written(self, attempt: Attempt) -> None:
        self.moves += 1
        self.written_late_for += self.now - attempt.at
        attempt.at, attempt.number, attempt.connecting = self.now, self.moves, False

    @precondition(lambda self: self.flying())
    @rule(data=st.data(), end=st.sampled_from(["settle", "usage", "refund", "refuse"]), times=st.sampled_from([0, 1, 2, 3]))
    def end(self, data: st.DataObject, end: str, times: int) -> None:
        attempt = data.draw(st.sampled_from(self.flying()))
        if attempt.connecting:  # then it has been written at the latest now
            self.written(attempt)
        self.moves += 1
        attempt.end, attempt.ended_at, attempt.number = end, self.now, attempt.number
        match end:
            case "settle":
                self.ledger.settle(attempt.reservation, None, self.now)
            case "usage":
                attempt.usage = Usage(attempt.demand.input_tokens * times // 2, attempt.demand.output_tokens * times // 2)
                self.ledger.settle(attempt.reservation, attempt.usage, self.now)
            case "refund":
                self.ledger.refund(attempt.reservation, self.now)
            case _:
                self.ledger.refuse(attempt.reservation, self.now)

    @invariant()
    def shows_what_the_model_holds(self) -> None:
        for view in self.ledger.views(self.now):
            shown = view.used(self.now) - view.kept_back
            if view.dimension in WINDOWS:  # an entry leaves a margin later than the law lets it
                assert self.used(view.dimension, self.now) <= shown <= self.used(view.dimension, self.now - MARGIN) + 1e-6
            else:  # one of several that began a busy period, written late, moves the beginning of it: that much refill is not counted
                unit_late = (MARGIN + self.written_late_for) * view.limit / view.period
                exact = self.used(view.dimension, self.now)
                assert exact - 1e-6 <= shown <= exact + unit_late + 1e-6
            assert view.reserved == sum(getattr(attempt.demand, view.dimension) for attempt in self.flying())

    @invariant()
    def what_has_not_ended_is_outstanding(self) -> None:
        assert set(self.ledger.outstanding()) == {attempt.reservation for attempt in self.flying()}


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_all_that_ends_gives_a_full_ledger_in_time() -> None:
    """After a longest period without attempts everything is free again."""
    ledger = Ledger(LIMITS)
    for number in range(6):
        ledger.settle(ledger.reserve(Demand(100, 50), 10.0 * number), Usage(900, 400), 10.0 * number + 1)
    assert all(view.used(100.0) - view.kept_back == pytest.approx(0) for view in ledger.views(100.0))
