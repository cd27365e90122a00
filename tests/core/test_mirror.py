"""The mirror of the provider's count: down at once, and up where evidence had lowered it."""

from __future__ import annotations

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
