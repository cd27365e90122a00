"""One rate of a ledger: what of a demand it counts, and who shares it."""

from __future__ import annotations

import pytest

from balancer.core.call import Demand, Usage
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.quota import LEAST_MARGIN, MARGIN
from balancer.core.reservation import Reservation


def used(ledger: Ledger, dimension: str, now: float = 0.0) -> float:
    return next(view.used(now) for view in ledger.views(now) if view.dimension == dimension)


def sent(ledger: Ledger, now: float) -> Reservation:
    return ledger.reserve(Demand(), now)


def test_a_refusal_that_the_provider_counts_stays_charged() -> None:
    """One that it does not count is given back; one that was never sent always is."""
    counted = Ledger(Limits(requests={"amount": 5, "per": 60.0, "failed_charged": True}, window="sliding"))
    counted.refuse(counted.reserve(Demand(), 0.0), 0.0)
    counted.refund(counted.reserve(Demand(), 0.0), 0.0)
    assert used(counted, "requests") == 1
    free = Ledger(Limits(requests="5/min", window="sliding"))
    free.refuse(free.reserve(Demand(), 0.0), 0.0)
    assert used(free, "requests") == 0


def test_images_are_those_asked_for() -> None:
    """Answers do not report them; a caller may."""
    ledger = Ledger(Limits(images_per_minute=10, window="sliding"))
    ledger.settle(ledger.reserve(Demand(images=3), 0.0), Usage(10), 0.0)
    assert used(ledger, "images") == 3
    ledger.settle(ledger.reserve(Demand(images=3), 0.0), Usage(images=1), 0.0)
    assert used(ledger, "images") == 4


def test_a_shared_limit_is_charged_by_every_account_that_shares_it() -> None:
    """Each keeps its own beside it; an account's new settings may leave it."""
    organisation = Ledger(Limits(requests="3/min", window="sliding"))
    ledgers = [Ledger(Limits(requests="9/min"), shared=organisation.lines) for _ in range(2)]
    ends = [(ledger, ledger.reserve(Demand(), 0.0)) for ledger in (*ledgers, ledgers[0])]
    assert not any(ledger.admits(Demand(), 0.0) for ledger in ledgers)
    ledgers[1].replace(Limits(requests="9/min"), 0.0)
    assert ledgers[1].admits(Demand(), 0.0)
    for ledger, reservation in ends:
        ledger.refund(reservation, 1.0)
    assert used(organisation, "requests", 1.0) == 0


def test_margins_narrow_while_nothing_is_refused_and_widen_at_a_boundary() -> None:
    """A refusal right where the window let go doubles the wait; it never narrows to where that happened."""
    ledger = Ledger(Limits(requests="2/min", window="sliding"))
    margin = lambda: ledger.lines[0].counter.margin  # noqa: E731
    assert margin() == MARGIN
    reservation = sent(ledger, 0.0)
    for _ in range(100):
        ledger.served(reservation, 0.0)
    assert margin() == LEAST_MARGIN
    reservation = sent(ledger, 0.0)
    ledger.refuse(reservation, 0.1)
    assert ledger.refused(reservation, "requests", None, 0.1)
    assert margin() == 2 * LEAST_MARGIN
    for _ in range(100):
        ledger.served(reservation, 0.0)
    assert margin() == 1.5 * LEAST_MARGIN


def test_what_goes_before_a_demand_delays_it() -> None:
    """As much as it takes of what that waits for, in a bucket, a window and a day."""
    bucket = Ledger(Limits(tokens="600/min"))
    bucket.reserve(Demand(600), 0.0)
    alone = bucket.earliest(Demand(100), 0.0)
    assert bucket.earliest(Demand(100), 0.0, before=bucket.amounts(Demand(50))) == pytest.approx(alone + 5.0)
    assert bucket.earliest(Demand(100), 0.0, before=bucket.amounts(Demand(0))) == alone
    window = Ledger(Limits(tokens="600/min", window="sliding"))
    window.reserve(Demand(300), 0.0)
    window.reserve(Demand(200), 10.0)
    assert window.earliest(Demand(100), 20.0, before=window.amounts(Demand(50))) == 60.0 + MARGIN
    assert window.earliest(Demand(600), 20.0, before=window.amounts(Demand(50))) == 80.0 + MARGIN
    assert window.earliest(Demand(100), 20.0, before=window.amounts(Demand())) == 20.0
