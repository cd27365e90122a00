"""The mirror of the provider's count: down at once, and up where evidence had lowered it."""

from __future__ import annotations

import attrs
import pytest

from balancer.core.call import Demand
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.outcome import LimitSeen
from balancer.core.reservation import Reservation


def used(ledger: Ledger, dimension: str, now: float = 0.0) -> float:
    return next(view.used(now) for view in ledger.views(now) if view.dimension == dimension)


def observed(remaining: float, limit: float = 10, dimension: str = "requests") -> tuple[LimitSeen, ...]:
    return (LimitSeen(dimension, dimension, limit, remaining),)


def sent(ledger: Ledger, now: float) -> Reservation:
    return ledger.reserve(Demand(), now)


def test_remaining_lowers_the_rate_it_belongs_to_at_once_and_never_raises_it() -> None:
    """Somebody else took thirty; a later and greater number changes nothing."""
    ledger = Ledger(Limits(requests=["100/min", "5000/day"]))
    first = sent(ledger, 0.0)
    ledger.observe(observed(69, 100), 0.1, first)
    assert [view.room(0.1) for view in ledger.views(0.1)] == pytest.approx([69, 4999], abs=0.2)
    ledger.observe((*observed(99, 100), LimitSeen("requests", "requests", None, 3)), 0.1, first)
    assert ledger.views(0.1)[0].room(0.1) == pytest.approx(69, abs=0.2)
    assert len(ledger.views(0.1)) == 2


def test_differences_that_rounding_explains_change_nothing() -> None:
    """Remaining tokens in thousands are right within a thousand."""
    ledger = Ledger(Limits(input_tokens_per_minute=30_000))
    first = ledger.reserve(Demand(2_400), 0.0)
    seen = LimitSeen("input_tokens", "input-tokens", 30_000, 27_000, 4.8, rounding=1000.0)
    ledger.observe((seen,), 0.0, first)
    assert used(ledger, "input_tokens") == pytest.approx(2_400)
    ledger.observe((attrs.evolve(seen, remaining=20_000.0),), 0.0, first)
    assert used(ledger, "input_tokens") == pytest.approx(10_000)


def test_an_answer_is_compared_with_the_time_since_its_request() -> None:
    """Seven were in flight when the provider counted; what has refilled or left since then is no evidence against us."""
    for window in ("bucket", "sliding"):
        ledger = Ledger(Limits(requests={"amount": 7, "per": 2.0}, window=window))
        reservations = [sent(ledger, 0.0) for _ in range(7)]
        ledger.observe(observed(0, 7), 9.0, reservations[2])
        assert used(ledger, "requests", 9.0) == 0


def test_a_refused_request_is_not_in_the_count_that_refused_it() -> None:
    """Refunded, its own unit does not explain why nothing remains."""
    ledger = Ledger(Limits(requests={"amount": 7, "per": 2.0}, window="sliding"))
    refused = [sent(ledger, 0.0) for _ in range(4)][-1]
    ledger.refund(refused, 0.1)
    ledger.observe(observed(0, 7), 0.1, refused)
    assert ledger.earliest(Demand(), 0.1) > 0.1


def test_the_mirror_goes_up_again_where_evidence_had_lowered_it() -> None:
    """Only by an answer to a request that was sent later, and only what somebody else was charged with."""
    ledger = Ledger(Limits(requests="10/min", window="sliding"))
    early, first = sent(ledger, 0.0), sent(ledger, 0.0)
    ledger.observe(observed(2), 1.0, first)
    assert used(ledger, "requests", 1.0) == 8
    ledger.observe(observed(8), 1.1, early)
    assert used(ledger, "requests", 1.1) == 8
    ledger.settle(early, None, 1.2)
    ledger.settle(first, None, 1.2)
    later = sent(ledger, 2.0)
    ledger.observe(observed(5, limit=10), 3.0, later)
    assert used(ledger, "requests", 3.0) == 6  # five by the provider's count, which may be one too small
    ledger.observe(observed(10), 3.1, later)
    assert used(ledger, "requests", 3.1) == 3


def test_the_mirror_goes_up_no_farther_than_attempts_in_flight_allow() -> None:
    """Those that the provider may not have counted yet are taken as uncounted."""
    ledger = Ledger(Limits(requests="10/min", window="sliding"))
    first = sent(ledger, 0.0)
    ledger.observe(observed(0), 1.0, first)
    assert used(ledger, "requests", 1.0) == 10
    ledger.settle(first, None, 1.0)
    flying = [ledger.reserve(Demand(), 2.0) for _ in range(2)]  # a doctored start: nothing admits them
    answered = sent(ledger, 2.0)
    flying.append(sent(ledger, 2.1))
    ledger.observe(observed(9), 3.0, answered)
    # One counted by the provider, a rounding of one, and three that may be still to count.
    assert used(ledger, "requests", 3.0) == 5
    for reservation in flying:
        ledger.settle(reservation, None, 3.0)


def test_lies_free_nothing_of_our_own() -> None:
    """An answer that shows more than there can be leaves what we have charged."""
    ledger = Ledger(Limits(requests="10/min", window="sliding"))
    reservations = [sent(ledger, 0.0) for _ in range(10)]
    for reservation in reservations:
        ledger.observe(observed(10), 0.5, reservation)
    assert not ledger.admits(Demand(), 1.0)
