"""The parser of header values: what it reads, and that nothing but its own error leaves it."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from balancer.providers import values
from balancer.providers.values import Headers, ValueInvalid

DATE = (b"Date", b"Sun, 27 Sep 2026 12:30:00 GMT")
DATE_EPOCH = 1790512200.0

PARSERS = (
    values.number,
    values.amount,
    values.seconds,
    values.milliseconds,
    values.go_duration,
    values.rfc3339,
    values.http_date,
)


@pytest.mark.parametrize(
    ("parse", "given", "meant"),
    [
        (values.number, "0.3", 0.3),
        (values.amount, "30,000", 30000.0),
        (values.amount, b"1,234,567", 1234567.0),
        (values.amount, "29999", 29999.0),
        (values.seconds, "26.5", 26.5),
        (values.milliseconds, "2000", 2.0),
        (values.go_duration, "6m0s", 360.0),
        (values.go_duration, "1s", 1.0),
        (values.go_duration, "120ms", 0.12),
        (values.go_duration, "2m59.56s", 179.56),
        (values.go_duration, "7.66s", 7.66),
        (values.go_duration, "1h23m45.6s", 5025.6),
        (values.go_duration, "1h 23m 45.6s", 5025.6),
        (values.go_duration, "8.64s", 8.64),
        (values.go_duration, "3600s", 3600.0),
        (values.go_duration, "0s", 0.0),
        (values.rfc3339, "2025-08-21T12:40:59Z", 1755780059.0),
        (values.rfc3339, "2025-08-21T12:40:59+00:00", 1755780059.0),
        (values.rfc3339, "2025-08-21t14:40:59.5+02:00", 1755780059.5),
        (values.http_date, "Sun, 27 Sep 2026 12:30:00 GMT", DATE_EPOCH),
        (values.http_date, "Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        (values.http_date, "Sun Nov  6 08:49:37 1994", 784111777.0),
    ],
)
def test_meant_values_are_read(parse, given, meant):
    """Each format that providers use is read as they mean it."""
    assert parse(given) == pytest.approx(meant)


HOSTILE = [
    "", " ", "-1", "+1", "nan", "inf", "Infinity", "1e9", "1_000", "0x10", ".5", "5.", "1.2.3", "\u0661\u0662", "9" * 16, "9" * 5000,
    "1,00", "1,0000", "one", "1\r\n2", "1\x00", "s", "5", "1x", "-5s", "1s1", "nans", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z",
    "2026-01-01T00:00:00", "2026-01-01", "20260101T000000Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59",
    "Sun, 31 Feb 2026 12:30:00 GMT", "Sun, 27 Foo 2026 12:30:00 GMT", "Sun, 27 Sep 2026 25:30:00 GMT", "Sun, 27 Sep 2026 12:30:00 CET",
]  # fmt: skip


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("given", HOSTILE)
def test_hostile_values_are_numbers_or_invalid(parse, given):
    """A value that is not plainly one is invalid, never another exception."""
    for value in (given, given.encode()):
        with contextlib.suppress(ValueInvalid):
            assert math.isfinite(parse(value))


@pytest.mark.parametrize("given", ["nan", "inf", "-1", "1_000", "\u0661\u0662", "9" * 5000, "1e9"])
@pytest.mark.parametrize("parse", PARSERS)
def test_what_python_would_convert_is_refused(parse, given):
    """The lenience of `int` and `float` is not that of a header."""
    with pytest.raises(ValueInvalid):
        parse(given)


@pytest.mark.parametrize("parse", PARSERS)
@given(
    st.one_of(st.binary(max_size=80), st.text(max_size=80), st.from_regex(r"[0-9]{1,20}(\.[0-9]*)?(ms|s|m|h)?", fullmatch=True))
)
@example("1" * 64)
def test_only_the_typed_error_leaves_the_parser(parse, value):
    """Any bytes and any text end in a finite number or in `ValueInvalid`."""
    with contextlib.suppress(ValueInvalid):
        assert math.isfinite(parse(value))


@given(st.lists(st.tuples(st.sampled_from([b"Retry-After", b"retry-after-ms", b"Date"]), st.binary(max_size=40)), max_size=5))
def test_retry_after_never_raises(raw):
    """Whatever the headers hold, the wait is absent or finite and not negative."""
    wait = values.retry_after(Headers(raw))
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@pytest.mark.parametrize(
    ("raw", "wait"),
    [
        ([], None),
        ([(b"Retry-After", b"2")], 2.0),
        ([(b"retry-after", b"0.3")], 0.3),
        ([(b"Retry-After", b"0")], 0.0),
        ([(b"Retry-After", b"7"), (b"Retry-After-Ms", b"1500")], 1.5),
        ([(b"Retry-After", b"7"), (b"retry-after-ms", b"nan")], 7.0),
        ([(b"Retry-After", b"2"), (b"Retry-After", b"9")], 9.0),
        ([(b"Retry-After", b"-1")], None),
        ([(b"Retry-After", b"nan")], None),
        ([(b"Retry-After", b"9" * 5000)], None),
        ([(b"Retry-After", b"Sun, 27 Sep 2026 12:30:20 GMT"), DATE], 20.0),
        ([(b"Retry-After", b"Sun, 27 Sep 2026 12:00:00 GMT"), DATE], 0.0),
        ([(b"Retry-After", b"Sun, 27 Sep 2026 12:30:20 GMT")], None),
        ([(b"Retry-After", b"1790512230"), DATE], 30.0),
        ([(b"Retry-After", b"1790512230000"), DATE], 30.0),
        ([(b"Retry-After", b"1790512230")], None),
    ],
)
def test_retry_after(raw, wait):
    """Milliseconds before seconds, the longest of several, and instants only against the response's own date."""
    assert values.retry_after(Headers(raw)) == wait


def test_headers_are_read_without_case_and_the_first_wins():
    """A name is found in any case, and a second value does not hide the first."""
    headers = Headers([(b"X-A", b"1"), (b"x-a", b"2")])
    assert headers.get(b"x-a") == b"1"
    assert headers.get(b"x-b") is None
