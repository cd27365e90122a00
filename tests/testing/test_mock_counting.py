"""What a mock backend counts of a request, when, and for whom."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.call import Demand
from balancer.core.limits import Counting, Limits
from balancer.testing.mock.counting import Admitted, Ledger, Refused

GAPS = st.integers(0, 48).map(lambda sixteenths: sixteenths / 16)
STEPS = st.lists(st.tuples(GAPS, st.integers(1, 6)), max_size=40)


@given(STEPS, st.sampled_from(["bucket", "sliding"]))
def test_no_window_holds_more_than_the_law_allows(steps: list[tuple[float, int]], window: str) -> None:
    """Admitted in any span t: at most L t / P + B for a bucket, L per P for a window."""
    ledger, now = Ledger(Limits(tokens={"amount": 12, "per": 2.0}, window=window)), 0.0
    admitted: list[tuple[float, int]] = []
    for gap, amount in steps:
        now += gap
        if isinstance(ledger.admit(Demand(input_tokens=amount), now), Admitted):
            admitted.append((now, amount))
    for first, (start, _) in enumerate(admitted):
        for last in range(first, len(admitted)):
            span = admitted[last][0] - start
            total = sum(amount for _, amount in admitted[first : last + 1])
            if window == "bucket":
                assert total <= 12 * span / 2.0 + 12 + 1e-6
            elif span < 2.0:
                assert total <= 12


def test_a_correction_upward_blocks_until_it_is_worked_off() -> None:
    """An answer longer than its estimate is debt."""
    ledger = Ledger(Limits(tokens={"amount": 10, "per": 10.0}))
    admitted = ledger.admit(Demand(output_tokens=5), 0.0)
    assert isinstance(admitted, Admitted)
    ledger.end(admitted, Demand(output_tokens=25), 0.0)
    refused = ledger.admit(Demand(output_tokens=1), 0.0)
    assert isinstance(refused, Refused)
    assert refused.retry_after == pytest.approx(16.0)
    assert ledger.shown(0.0)[0].remaining == 0.0


def test_the_longest_wait_is_named() -> None:
    """A refusal names the limit that stands in the way longest, and what it would take."""
    ledger = Ledger(Limits(requests=["1/s", "100/day"], tokens="60/min", window="bucket"))
    assert isinstance(ledger.admit(Demand(input_tokens=60), 0.0), Admitted)
    refused = ledger.admit(Demand(input_tokens=30), 0.0)
    assert refused == Refused("tokens", 60.0, 60.0, 60.0, 30, 30.0)


def test_more_than_a_bucket_never_fits() -> None:
    """A request larger than the whole limit is refused for ever."""
    for window in ("bucket", "sliding"):
        refused = Ledger(Limits(tokens="60/min", window=window)).admit(Demand(input_tokens=61), 0.0)
        assert isinstance(refused, Refused)
        assert refused.retry_after == math.inf


@pytest.mark.parametrize(("window", "wait"), [("bucket", 1.0), ("sliding", 10.0)])
def test_refused_requests_count_where_the_provider_counts_them(window: str, wait: float) -> None:
    """With `charge_refused` who keeps asking keeps being refused; a bucket never goes below empty."""
    ledger = Ledger(Limits(requests={"amount": 10, "per": 10.0}, window=window), charge_refused=True)
    for _ in range(10):
        assert isinstance(ledger.admit(Demand(), 0.0), Admitted)
    for _ in range(10):
        refused = ledger.admit(Demand(), 5.0 if window == "sliding" else 0.0)
    assert isinstance(refused, Refused)
    assert refused.retry_after == pytest.approx(wait)


def test_concurrency_is_held() -> None:
    """At most so many at once, and no wait is known for the next."""
    ledger = Ledger(Limits(concurrency=1))
    first = ledger.admit(Demand(), 0.0)
    assert isinstance(first, Admitted)
    assert ledger.admit(Demand(), 0.0) == Refused("concurrency", 1, 0.0, 1, 1, None)
    ledger.end(first, Demand(), 1.0)
    assert isinstance(ledger.admit(Demand(), 1.0), Admitted)


def test_the_scarcest_limit_of_a_dimension_is_shown() -> None:
    """Of several limits of one dimension the one with the least left is shown; a sliding reset is the oldest's leaving."""
    ledger = Ledger(Limits(requests=["5/s", "6/min"], window="sliding"))
    for second in range(3):
        ledger.admit(Demand(), float(second))
    (shown,) = ledger.shown(3.5)
    assert attrs.astuple(shown) == ("requests", 6.0, 3.0, 56.5)


def test_each_rate_is_counted_in_its_own_way() -> None:
    """One table may hold a bucket with a burst, a window and a day; each refuses by its own rule."""
    limits = Limits(
        requests=[
            {"amount": 60, "per": 60.0, "burst": 2},
            {"amount": 3, "per": 10.0, "window": "sliding"},
            {"amount": 5, "per": "day", "window": "calendar"},
        ]
    )
    ledger = Ledger(limits, epoch=1_790_000_000.0)
    admitted: list[float] = []
    waits: dict[float, float] = {}
    for second in range(24):
        for _ in range(3):
            answer = ledger.admit(Demand(), float(second))
            if isinstance(answer, Admitted):
                admitted.append(second)
            elif answer.retry_after is not None:
                waits[answer.per] = max(waits.get(answer.per, 0.0), answer.retry_after)
    assert admitted == [0, 0, 1, 10, 10]
    assert waits[60.0] == 1.0
    assert waits[10.0] == 9.0
    assert waits[86400.0] == 86_400 - 1_790_000_000 % 86_400 - 10.0


def test_a_models_limit_holds_beside_the_account_s() -> None:
    """What one model has used up another may still take, until all together have."""
    ledger = Ledger(Limits(requests="4/min", models={"small": {"requests": "3/min"}, "large": {"requests": "1/min"}}))
    models = ["large", "large", "small", "small", None, "small"]
    answers = [ledger.admit(Demand(), 0.0, model) for model in models]
    assert [isinstance(answer, Admitted) for answer in answers] == [True, False, True, True, True, False]
    assert (answers[1].limit, answers[5].limit) == (1.0, 4.0)
    assert [(shown.limit, shown.remaining) for shown in ledger.shown(0.0, "large")] == [(4.0, 0.0)]
    assert [(shown.limit, shown.remaining) for shown in ledger.shown(30.0, "large")] == [(1.0, 0.5)]


@pytest.mark.parametrize(
    ("charged", "at_first", "in_the_end"),
    [("start", 30, 30), ("adjusted", 100, 25), ("produced", 0, 25), ("max_tokens", 100, 100)],
)
def test_tokens_are_charged_as_the_provider_charges_them(charged: str, at_first: int, in_the_end: int) -> None:
    """What is counted of a request of 10 tokens that permits 90, would get 20 and got 15: at its arrival and at its end."""
    ledger = Ledger(Limits(tokens={"amount": 1000, "per": 100.0, "charged": charged, "window": "sliding"}))
    admitted = ledger.admit(Demand(10, 20, max_output_tokens=90), 0.0)
    assert isinstance(admitted, Admitted)
    assert 1000 - ledger.shown(0.0)[0].remaining == at_first
    for _ in range(2):
        ledger.correct(admitted, Demand(10, 15), 5.0)
    ledger.end(admitted, Demand(10, 15), 5.0)
    assert 1000 - ledger.shown(5.0)[0].remaining == in_the_end
    assert 1000 - ledger.shown(101.0)[0].remaining == (25 if charged == "produced" else 0)


def test_what_is_counted_as_produced_needs_some_room() -> None:
    """A request is admitted while anything is left, and refused once nothing is; one that produces nothing is not."""
    ledger = Ledger(Limits(output_tokens={"amount": 10, "per": 10.0, "charged": "produced"}))
    for _ in range(2):
        admitted = ledger.admit(Demand(output_tokens=8), 0.0)
        assert isinstance(admitted, Admitted)
        ledger.end(admitted, Demand(output_tokens=8), 0.0)
    refused = ledger.admit(Demand(output_tokens=8), 0.0)
    assert isinstance(refused, Refused)
    assert refused.retry_after == 7.0
    assert isinstance(ledger.admit(Demand(input_tokens=8), 6.0), Admitted)


def test_images_are_counted_and_stay_counted() -> None:
    """Images are charged at the arrival; no answer corrects them."""
    ledger = Ledger(Limits(images="4/min"))
    admitted = ledger.admit(Demand(images=3), 0.0)
    assert isinstance(admitted, Admitted)
    ledger.end(admitted, Demand(), 0.0)
    assert ledger.admit(Demand(images=2), 0.0) == Refused("images", 4.0, 60.0, 3.0, 2, 15.0)


def test_refused_ones_count_where_the_rate_says_so() -> None:
    """`failed_charged` is said of a rate, whatever it counts."""
    limits = Limits(requests="1/min", tokens={"amount": 100, "per": 60.0, "window": "sliding", "failed_charged": True})
    ledger = Ledger(limits)
    for _ in range(3):
        ledger.admit(Demand(input_tokens=30), 0.0)
    assert [(shown.dimension, shown.remaining) for shown in ledger.shown(0.0)] == [("requests", 0.0), ("tokens", 10.0)]


def test_what_the_limits_leave_open_the_provider_decides() -> None:
    """A preset counts where neither the rate nor its table says how."""
    presets = {("output_tokens", None): Counting(charged="produced"), ("requests", 60.0): Counting(window="sliding")}
    ledger = Ledger(Limits(requests=["1/min"], output_tokens=["10/min"]), presets=presets)
    assert isinstance(ledger.admit(Demand(output_tokens=9), 0.0), Admitted)
    shown = {shown.dimension: shown.remaining for shown in ledger.shown(30.0)}
    assert shown == {"requests": 0.0, "output_tokens": 10.0}
