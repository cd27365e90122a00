"""Structured fields: the examples of RFC 9651, what it refuses, and that nothing but `ValueInvalid` leaves."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.providers.structured import (
    LONGEST_FIELD,
    MOST_MEMBERS,
    MOST_PARAMETERS,
    Item,
    parse_dictionary,
    parse_list,
)
from balancer.providers.values import ValueInvalid


def items(*pairs):
    return tuple(Item(value, parameters) for value, parameters in pairs)


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        (b"", ()),
        (b"  ", ()),
        (b"1, 42", items((1, {}), (42, {}))),
        (b"1 ,\t42", items((1, {}), (42, {}))),
        (b"sugar, tea, rum", items(("sugar", {}), ("tea", {}), ("rum", {}))),
        (b'"default";r=50;t=30', items(("default", {"r": 50, "t": 30}))),
        (b'"default"; r=50;  t=30 ', items(("default", {"r": 50, "t": 30}))),
        (b"10;w=60, 50;w=3600", items((10, {"w": 60}), (50, {"w": 3600}))),
        (b"abc;a=1;b=2;c, ghi;jk=4", items(("abc", {"a": 1, "b": 2, "c": True}), ("ghi", {"jk": 4}))),
        (b"a;b=?0;c=?1", items(("a", {"b": False, "c": True}))),
        (b"a;b=1;b=2", items(("a", {"b": 2}))),
        (b"-42, 4.5, -0.125, 999999999999999", items((-42, {}), (4.5, {}), (-0.125, {}), (999999999999999, {}))),
        (rb'"a \"b\" \\", ""', items(('a "b" \\', {}), ("", {}))),
        (b":aGVsbG8=:, ::, :aGVsbG8:", items((b"hello", {}), (b"", {}), (b"hello", {}))),
        (b"*foo/bar:1", items(("*foo/bar:1", {}))),
        (b'a;d=@1659578233;e=%"f%c3%bc"', items(("a", {"d": None, "e": None}))),
    ],
)
def test_lists(field, meant):
    """Every type with its parameters; those that no field here uses are passed over."""
    assert parse_list(field) == meant


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        (b"", {}),
        (b"limit=10, remaining=5, reset=3", {"limit": Item(10, {}), "remaining": Item(5, {}), "reset": Item(3, {})}),
        (b"a=?0, b, c;foo=bar", {"a": Item(False, {}), "b": Item(True, {}), "c": Item(True, {"foo": "bar"})}),
        (b"a=1;x=2,a=3", {"a": Item(3, {})}),
    ],
)
def test_dictionaries(field, meant):
    """Of two members with one key the last counts; a key alone is true."""
    assert parse_dictionary(field) == meant


@pytest.mark.parametrize(
    "field",
    [
        b",", b"1,", b"1,,2", b",1", b"1 2", b"1;", b"1;A=2", b"1;=2", b"1;a=", b"a=1", b"(1 2)", b"(a), b", b'"a', b'"a\\b"', b'"\xc3\xbc"',
        b'"\x00"', b'"a\tb"', b"1.", b".5", b"+1", b"1.2345", b"1.2.3", b"1234567890123456", b"1234567890123.0", b"- 1", b"0x10", b"1e9",
        b":a:", b":=:", b":a b=:", b":\xff:", b":YQ", b"?2", b"?", b"@1.5", b'%"\xc3"', b'%"%C3"', b"\xd9\xa1", b"1\r\n", b"\t1", b"a b",
        b"{}", b"1;a=(1)", b"a;b=1=2", b"1\x00",
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_whole(field):
    """A list is read whole or not at all."""
    with pytest.raises(ValueInvalid):
        parse_list(field)


@pytest.mark.parametrize("field", [b"1", b'"a"', b"a=", b"a=1,", b"A=1", b"a=1 b=2", b"a=(1)", b"=1", b"a==1", b"a;B"])
def test_what_is_no_dictionary_is_refused_whole(field):
    """So is a dictionary."""
    with pytest.raises(ValueInvalid):
        parse_dictionary(field)


def test_members_parameters_and_bytes_are_capped():
    """What is longer than any field that is meant is refused before it is built."""
    assert len(parse_list(b",".join([b"1"] * MOST_MEMBERS))) == MOST_MEMBERS
    assert len(parse_list(b"1" + b";a" * MOST_PARAMETERS)) == 1
    for field in (b",".join([b"1"] * (MOST_MEMBERS + 1)), b"1" + b";a" * (MOST_PARAMETERS + 1), b"a" * (LONGEST_FIELD + 1)):
        with pytest.raises(ValueInvalid):
            parse_list(field)
    with pytest.raises(ValueInvalid):
        parse_dictionary(b",".join([b"a=1"] * (MOST_MEMBERS + 1)))


BITS = st.sampled_from(
    [b"1", b"-1", b"4.5", b'"a"', b'"', b"\\", b"tok", b":YQ==:", b":", b"?1", b"@1", b'%"a"', b";", b"=", b",", b" ", b"\t", b"a", b"w", b"("]
)  # fmt: skip
FIELDS = st.one_of(st.binary(max_size=80), st.lists(BITS, max_size=24).map(b"".join))


@given(FIELDS)
def test_only_the_typed_error_leaves_the_parser(field):
    """Any bytes are items or `ValueInvalid`."""
    for parse in (parse_list, parse_dictionary):
        with contextlib.suppress(ValueInvalid):
            parse(field)


KEYS = st.from_regex(r"[a-z*][a-z0-9_\-.*]{0,8}", fullmatch=True)
BARE = st.one_of(
    st.integers(-(10**15) + 1, 10**15 - 1),
    st.integers(-(10**14), 10**14).map(lambda thousandths: thousandths / 1000),
    st.from_regex(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]{0,10}", fullmatch=True).map(lambda token: ("token", token)),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    st.binary(max_size=12),
    st.booleans(),
)


def written(value):
    """RFC 9651, section 4.1.3.1, the other way round."""
    match value:
        case ("token", str(text)):
            return text
        case bool():
            return f"?{value:d}"
        case int():
            return str(value)
        case float():
            return f"{value:.3f}"
        case bytes():
            return f":{base64.b64encode(value).decode()}:"
        case _:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'


def plain(value):
    return value[1] if isinstance(value, tuple) else value


@given(st.lists(st.tuples(BARE, st.dictionaries(KEYS, BARE, max_size=4)), max_size=6))
def test_what_is_written_is_read_back(given_items):
    """Every list that the RFC lets one write is read as it was meant."""
    field = ", ".join(
        written(value) + "".join(f";{key}={written(parameter)}" for key, parameter in parameters.items())
        for value, parameters in given_items
    )
    meant = items(
        *((plain(value), {key: plain(parameter) for key, parameter in parameters.items()}) for value, parameters in given_items)
    )
    assert parse_list(field.encode()) == meant
