"""The settings of a mock backend: what a table may hold, and how its faults are named."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.limits import Limits
from balancer.errors import ConfigError
from balancer.testing.mock import (
    Chance,
    Constant,
    Delay,
    Drop,
    Exponential,
    Lognormal,
    Malformed,
    Mixture,
    MockSettings,
    Script,
    Status,
    Truncate,
    Uniform,
)
from balancer.testing.mock.faults import Faults
from balancer.testing.mock.latency import parse_latency

FULL = {
    "speaks": "anthropic",
    "latency": {
        "kind": "mixture",
        "usual": {"kind": "lognormal", "median": 0.2},
        "slow": {"kind": "uniform", "low": 1, "high": 2},
        "slow_ratio": 0.1,
    },
    "token_interval": 0.01,
    "output_tokens": 32,
    "limits": {"requests_per_minute": 60, "tokens": {"amount": 5, "per": 2.0}, "window": "sliding"},
    "charge_refused": True,
    "headers": "none",
    "retry_after": False,
    "faults": [
        {"probability": 0.1, "kind": "status", "status": 500},
        {"script": ["ok", "drop", {"kind": "truncate", "events": 3, "clean": True}]},
    ],
    "keys": ["key-a"],
    "seed": 7,
}


def paths(table: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        MockSettings.parse(table)
    return [fault.path for fault in caught.value.faults]


def test_a_full_table_is_read() -> None:
    """Every key of the table reaches its setting."""
    settings = MockSettings.parse(FULL)
    assert settings.latency == Mixture(Lognormal(0.2), Uniform(1, 2), 0.1)
    assert settings.limits == Limits(requests_per_minute=60, tokens={"amount": 5, "per": 2.0}, window="sliding")
    assert settings.faults == (Chance(Status(500), 0.1), Script((None, Drop(), Truncate(3, clean=True))))
    assert (settings.speaks, settings.headers, settings.retry_after, settings.seed) == ("anthropic", "none", False, 7)
    assert MockSettings.parse(settings) is settings


def test_every_fault_is_named_with_its_path() -> None:
    """One error lists everything that is wrong, where it is."""
    table = {
        "latency": {"kind": "uniform", "low": -1},
        "token_interval": "fast",
        "output_tokens": 1.5,
        "limits": {"requests_per_minute": 0, "burts": 3},
        "faults": [{"probability": 2, "kind": "status", "status": 99}, {"script": ["ok", "explode"]}, {"kind": "drop"}],
        "keys": ["good", "bad\n"],
        "sped": 1,
    }
    assert sorted(paths(table)) == [
        "faults[0].probability",
        "faults[0].status",
        "faults[1].script[1].kind",
        "faults[2].probability",
        "keys[1]",
        "latency.high",
        "latency.low",
        "limits.burts",
        "limits.requests_per_minute",
        "output_tokens",
        "sped",
        "token_interval",
    ]


@pytest.mark.parametrize(
    ("table", "path"),
    [
        (None, ""),
        ([], ""),
        ({1: 2}, "[1]"),
        ({"latency": True}, "latency"),
        ({"latency": float("nan")}, "latency"),
        ({"latency": {"kind": "gamma"}}, "latency.kind"),
        ({"latency": {"kind": "exponential", "mean": 0}}, "latency.mean"),
        ({"latency": [1]}, "latency"),
        ({"faults": {"kind": "drop"}}, "faults"),
        ({"faults": [{"probability": 1, "kind": "malformed", "shape": "odd"}]}, "faults[0].shape"),
        ({"faults": [{"probability": 1, "kind": "status", "headers": {"a b": "c"}}]}, "faults[0].headers['a b']"),
        ({"faults": [{"script": "drop"}]}, "faults[0].script"),
        ({"seed": True}, "seed"),
        ({"limits": {"shared": ["organisation"]}}, "limits.shared"),
        ({"limits": {"requests": {"amount": 5, "per": "day", "window": "calendar", "zone": "Mars"}}}, "limits.requests.zone"),
    ],
)
def test_a_wrong_value_is_named(table: object, path: str) -> None:
    """A single wrong value gives a single fault."""
    assert paths(table) == [path]


def test_keys_are_never_shown() -> None:
    """Neither settings nor the error about a bad key contain it."""
    assert "key-a" not in repr(MockSettings.parse(FULL))
    with pytest.raises(ConfigError) as caught:
        MockSettings.parse({"keys": ["se\ncret"]})
    assert "cret" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(list(FULL)), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(FULL)), JSON, max_size=4))
def test_nothing_but_config_error_leaves_the_parser(table: dict[str, object]) -> None:
    """Whatever a table holds, it is read or refused."""
    try:
        MockSettings.parse(table)
    except ConfigError as error:
        assert error.faults


@pytest.mark.parametrize(
    ("given_latency", "median", "least"),
    [
        (0.25, 0.25, 0.25),
        ({"kind": "constant", "value": 0.25}, 0.25, 0.25),
        ({"kind": "uniform", "low": 1.0, "high": 3.0}, 2.0, 1.0),
        ({"kind": "exponential", "mean": 1.0}, 0.693, 0.0),
        ({"kind": "lognormal", "median": 2.0, "sigma": 0.3}, 2.0, 0.0),
        ({"kind": "mixture", "usual": 1.0, "slow": 9.0, "slow_ratio": 0.2}, 1.0, 1.0),
    ],
)
def test_latencies_follow_their_distribution(given_latency: object, median: float, least: float) -> None:
    """Drawn latencies have the median that was asked for, and the same seed draws the same."""
    latency = parse_latency(given_latency)
    rng = random.Random(1)
    drawn = [latency.draw(rng) for _ in range(4000)]
    assert statistics.median(drawn) == pytest.approx(median, rel=0.08)
    assert min(drawn) >= least
    again = random.Random(1)
    assert [latency.draw(again) for _ in range(10)] == drawn[:10]


def test_the_classes_take_what_a_table_takes() -> None:
    """In code a mock is described by the same forms."""
    settings = MockSettings(latency=0.5, limits={"requests_per_minute": 5}, faults=[{"script": ["drop"]}], keys=["k"])
    assert settings.latency == Constant(0.5)
    assert settings.faults == (Script((Drop(),)),)
    assert Exponential(1.0) == parse_latency(Exponential(1.0))


def test_a_script_runs_once_and_a_chance_keeps_its_share() -> None:
    """The first source with an action counts; a finished script is silent."""
    script = Script((Drop(), None, Delay(1.0)))
    faults = Faults((script, Chance(Malformed("html"), 0.25)), random.Random(3))
    assert faults.draw() == Drop()
    drawn = [faults.draw() for _ in range(2000)]
    assert drawn[1] == Delay(1.0)
    assert drawn.count(Malformed("html")) == pytest.approx(500, rel=0.15)
    assert drawn.count(Drop()) == 0
