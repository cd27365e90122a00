"""Ranges: what they admit, and what they say."""

from __future__ import annotations

import datetime
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.setting import Range, setting, shown
from balancer.errors import ConfigError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=8,
)


@attrs.frozen
class Example:
    ratio: float = setting(0.5, kind=float, low=0.0, above=True, high=1.0)
    count: int | None = setting(None, kind=int, low=1, optional=True)
    on: bool = setting(False, kind=bool)
    way: str = setting("a", kind=str, choices=("a", "b"))
    long: float = setting(1.0, kind=float, low=0.0)


@pytest.mark.parametrize(
    ("name", "good"),
    [("ratio", 1), ("ratio", 1e-300), ("count", None), ("count", 10**400), ("on", True), ("long", math.inf)],
    ids=range(6),
)
def test_admitted(name, good):
    """Bounds are inclusive unless said otherwise; whole numbers are numbers."""
    assert getattr(Example(**{name: good}), name) == good


@pytest.mark.parametrize(
    ("name", "bad", "text"),
    [
        ("ratio", 0, "ratio: 0; allowed: a number above 0 to 1"),
        ("ratio", 1.0001, "ratio: 1.0001; allowed"),
        ("ratio", True, "ratio: True; allowed"),
        ("ratio", "0.5", "ratio: '0.5'; allowed"),
        ("ratio", math.nan, "ratio: nan; allowed"),
        ("ratio", None, "ratio: None; allowed"),
        ("count", 1.0, "count: 1.0; allowed: a whole number from 1"),
        ("count", 0, "count: 0; allowed"),
        ("on", 1, "on: 1; allowed: true or false"),
        ("way", "c", 'way: \'c\'; allowed: one of "a", "b"'),
        ("way", ["sk-secret"], "way: a value of type list; allowed"),
        ("way", {"k": "sk-secret"}, "way: a value of type dict; allowed"),
        ("long", 10**400, "long: 1000000000"),
        ("long", 10**5000, "long: a value of type int; allowed: a number from 0"),
        ("long", -math.inf, "long: -inf; allowed"),
    ],
    ids=range(15),
)
def test_refused(name, bad, text):
    """The field, what was given, what is allowed; of a container only the kind."""
    with pytest.raises(ConfigError) as caught:
        Example(**{name: bad})
    (fault,) = caught.value.faults
    assert str(fault).startswith(text)
    assert "sk-secret" not in str(fault)


@given(ANYTHING)
def test_nothing_but_the_documented_error_leaves_a_setting(value):
    """Whatever is given."""
    for field in attrs.fields(Example):
        try:
            made = Example(**{field.name: value})
        except ConfigError as error:
            assert [fault.path for fault in error.faults] == [field.name]
        else:
            assert getattr(made, field.name) is value


@given(ANYTHING)
def test_shown_is_short(value):
    """At most sixty characters, and never a failure."""
    assert 0 < len(shown(value)) <= 60


def test_shown_of_what_cannot_be_shown():
    """An integer of thousands of digits, alone or inside, and a broken class are named by their kind."""

    class Broken:
        def __repr__(self):
            raise RuntimeError("no")

    assert shown(10**5000) == "a value of type int"
    assert shown([10**5000]) == "a value of type list"
    assert shown(Broken()) == "a value of type Broken"
    assert shown("3") == "'3'"
    assert shown(3) == "3"
    assert shown(datetime.date(2026, 1, 2)) == "datetime.date(2026, 1, 2)"


def test_ranges_in_words():
    """What an error text says."""
    assert Range(str).allowed == "a text"
    assert Range(float, high=3.0).allowed == "a number up to 3"
    assert Range(int, low=1, high=5).allowed == "a whole number from 1 to 5"
