"""The rates that are configured: how each counts, and for which models."""

from __future__ import annotations

import pytest

from balancer.core.bucket import Bucket
from balancer.core.call import Demand
from balancer.core.estimated import EstimatedLine
from balancer.core.ledger import Ledger
from balancer.core.limits import Counting, Limits
from balancer.core.lines import make_line
from balancer.core.quota import MARGIN


def used(ledger: Ledger, dimension: str, now: float = 0.0) -> float:
    return next(view.used(now) for view in ledger.views(now) if view.dimension == dimension)


@pytest.mark.parametrize(
    ("dimension", "estimated"), [("requests", False), ("images", False), ("tokens", True), ("output_tokens", True)]
)
def test_what_is_known_exactly_keeps_no_account_of_estimates(dimension: str, estimated: bool) -> None:
    """Tokens are known only at the end."""
    line = make_line(dimension, "shown", Bucket(10.0, 60.0, 10.0), learned=True)
    assert isinstance(line, EstimatedLine) is estimated
    assert (line.dimension, line.name, line.learned) == (dimension, "shown", True)


def test_presets_count_where_nothing_is_configured() -> None:
    """The rate's own word goes first, then the table's, then the provider's for the period, then for the dimension."""
    presets = {
        ("tokens", None): Counting(charged="max_tokens"),
        ("tokens", 86400.0): Counting(window="calendar", zone="America/Los_Angeles"),
    }
    limits = Limits(tokens=["1000/min", {"amount": 9000, "per": "day", "zone": "Asia/Tokyo"}], cached_free=True)
    minute, day = limits.terms(presets)
    assert (minute.window, minute.charged, minute.cached_free) == ("bucket", "max_tokens", True)
    assert (day.window, day.charged, day.zone, day.cached_free) == ("calendar", "adjusted", "Asia/Tokyo", True)


def test_limits_of_one_model_hold_for_it_alone() -> None:
    """Beside those of the account."""
    limits = Limits(requests="10/min", models={"large": {"requests": "2/min", "window": "sliding"}}, window="sliding")
    ledger = Ledger(limits)
    for _ in range(2):
        assert ledger.admits(Demand(), 0.0, "large")
        ledger.reserve(Demand(), 0.0, "large")
    assert not ledger.admits(Demand(), 0.0, "large")
    assert ledger.earliest(Demand(), 0.0, "large") == 60.0 + MARGIN
    assert ledger.admits(Demand(), 0.0, "small")
    views = ledger.views(0.0)
    assert [(view.limit, view.covers("large"), view.covers("small")) for view in views] == [(10, True, True), (2, True, False)]


def test_a_day_of_the_calendar_begins_in_its_zone() -> None:
    """23:59:50 in Tokyo: what is used up comes back ten seconds later, and once."""
    epoch = 1_767_193_190.0  # 2025-12-31 14:59:50 UTC
    limits = Limits(requests={"amount": 2, "per": "day", "window": "calendar", "zone": "Asia/Tokyo"})
    ledger = Ledger(limits, anchor=(500.0, epoch))
    for _ in range(2):
        ledger.reserve(Demand(), 500.0)
    assert ledger.earliest(Demand(), 500.0) == pytest.approx(510.0, abs=1.5)
    assert ledger.admits(Demand(), 512.0)
    assert ledger.day_ends_at(500.0) == pytest.approx(510.0, abs=1.5)
    ledger = Ledger(limits, anchor=(500.0, epoch))
    ledger.reserve(Demand(), 500.0)
    ledger.reserve(Demand(), 500.0)
    ledger.replace(Limits(requests={"amount": 3, "per": "day", "window": "calendar", "zone": "Asia/Tokyo"}), 500.5)
    assert used(ledger, "requests", 500.5) == 2
