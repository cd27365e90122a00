"""Limits as text and as tables."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from balancer.cli.rates import limits_table, per_text
from balancer.core.limits import Limits

AMOUNTS = st.one_of(st.integers(1, 10**15), st.floats(1e-3, 1e15))
PERIODS = st.one_of(st.sampled_from(["second", "minute", "hour", "day", "month"]), st.floats(0.01, 1e6))
RATES = st.fixed_dictionaries(
    {"amount": AMOUNTS, "per": PERIODS},
    optional={
        "window": st.sampled_from(["bucket", "sliding"]),
        "charged": st.sampled_from(["start", "produced"]),
        "cached_free": st.booleans(),
        "zone": st.just("Asia/Tokyo"),
    },
)
TABLES = st.fixed_dictionaries(
    {},
    optional={
        "requests": st.lists(RATES, max_size=3),
        "tokens": RATES,
        "images_per_day": AMOUNTS,
        "concurrency": st.integers(1, 9),
        "window": st.sampled_from(["bucket", "sliding"]),
        "failed_charged": st.booleans(),
        "models": st.dictionaries(st.sampled_from(["a", "b.c"]), st.fixed_dictionaries({"output_tokens": RATES})),
        "shared": st.just(["organisation"]),
    },
)


@given(TABLES)
def test_a_table_can_be_read_back(table: dict[str, object]) -> None:
    """Whatever limits are, their table passes through JSON and makes the same limits."""
    limits = Limits.parse(table)
    assert Limits.parse(json.loads(json.dumps(limits_table(limits)))) == limits


def test_a_table_holds_only_what_is_said() -> None:
    """Nothing of nothing; a plain rate is its short form, one that says more a table."""
    assert limits_table(Limits()) == {}
    limits = Limits(requests_per_minute=500, tokens=[{"amount": 9, "per": "month", "zone": "UTC"}, "1.5/s"])
    assert limits_table(limits) == {
        "requests": "500/min",
        "tokens": [{"amount": 9, "per": "month", "zone": "UTC"}, "1.5/s"],
    }


def test_periods_have_short_names() -> None:
    """Those that have a name are told by it, others in seconds."""
    assert [per_text(seconds) for seconds in (1.0, 60.0, 3600.0, 86400.0, 2592000.0, 2.5)] == [
        "s",
        "min",
        "h",
        "day",
        "month",
        "2.5 s",
    ]
