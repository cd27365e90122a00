"""The one typed parser for header values: strict ASCII in, finite and non-negative numbers out, `ValueInvalid` otherwise.

Python's own conversions accept what no header may mean (`nan`, `inf`, `1_000`, Arabic digits, integers of 5,000 digits), so
every value goes through a pattern with bounded digits first. Waits come out in seconds. Instants are never compared with
the local clock: an absolute time is read against the response's own `Date`, and without one it is absent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import final

LONGEST = 64
"""Bytes of the longest value that is read; the longest meant one, an HTTP-date of the oldest form, has 33."""

EPOCH_SECONDS = 1e9
"""From here on a number is no wait (31 years) but seconds since 1970, and from a thousand times that, milliseconds."""

LONGEST_RESET = 32 * 86400.0
"""Seconds of the longest reset that is believed: the longest period that providers count is a month."""

Value = bytes | str


class ValueInvalid(Exception):
    """A value that does not mean what its header says. It is treated like an absent one."""


@final
class Headers:
    """A response's headers, read by lower-case name; the first of several wins."""

    __slots__ = ("_first", "_made_at", "raw")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self.raw = raw
        self._first: dict[bytes, bytes] | None = None
        self._made_at: float | None = None

    def get(self, name: bytes) -> bytes | None:
        """The first value of `name`, which is given in lower case."""
        return self.by_name().get(name)

    def by_name(self) -> dict[bytes, bytes]:
        """First values by lower-case name; made once, when first asked for."""
        first = self._first
        if first is None:
            first = self._first = {name.lower(): value for name, value in reversed(self.raw)}
        return first

    def made_at(self) -> float | None:
        """When the response says it was made, as seconds since 1970; `None` if it does not say."""
        if self._made_at is None and (value := self.get(b"date")) is not None:
            try:
                self._made_at = http_date(value)
            except ValueInvalid:
                return None
        return self._made_at


NO_HEADERS = Headers(())

_NUMBER = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,20})?")
_GROUPED = re.compile(rb"[0-9]{1,3}(?:,[0-9]{3}){1,4}")
_DURATION = re.compile(rb"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:h|ms|us|ns|m|s) ?){1,6}")
_USUAL_DURATION = re.compile(rb"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?([0-9]{1,9}(?:\.[0-9]{1,12})?)(m?)s")
_DURATION_PART = re.compile(rb"([0-9.]+)([a-z]+)")
_UNITS = {b"h": 3600.0, b"m": 60.0, b"s": 1.0, b"ms": 1e-3, b"us": 1e-6, b"ns": 1e-9}
_RFC3339 = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_MONTHS = {
    name: place + 1
    for place, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
    )
}
_TIME = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_HTTP_DATES = (
    re.compile(rb"[A-Z][a-z]{2}, (?P<day>[0-9]{2}) (?P<month>[A-Z][a-z]{2}) (?P<year>[0-9]{4}) " + _TIME + rb" GMT"),
    re.compile(rb"[A-Z][a-z]{5,8}, (?P<day>[0-9]{2})-(?P<month>[A-Z][a-z]{2})-(?P<year>[0-9]{2}) " + _TIME + rb" GMT"),
    re.compile(rb"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[0-9 ][0-9]) " + _TIME + rb" (?P<year>[0-9]{4})"),
)


def number(value: Value) -> float:
    """An integer or a decimal, without sign or exponent."""
    text = _ascii(value)
    if not _NUMBER.fullmatch(text):
        raise ValueInvalid("not a non-negative number")
    return float(text)


def amount(value: Value) -> float:
    """A number of something counted, also with group commas (`30,000`)."""
    text = _ascii(value)
    if _GROUPED.fullmatch(text):
        return float(text.replace(b",", b""))
    return number(text)


def seconds(value: Value) -> float:
    """A wait in integer or decimal seconds, short of what must be an epoch."""
    wait = number(value)
    if wait >= EPOCH_SECONDS:
        raise ValueInvalid("an instant, not a wait")
    return wait


def milliseconds(value: Value) -> float:
    """A wait in milliseconds, given in seconds."""
    return seconds(value) / 1000.0


def go_duration(value: Value) -> float:
    """`6m0s`, `120ms`, `1h23m45.6s`, also with one space between the parts; also protobuf's `34s`."""
    text = _ascii(value)
    if usual := _USUAL_DURATION.fullmatch(text):  # on the way of every answer of some providers: in one step
        hours, minutes, rest, milli = usual.groups()
        wait = float(rest) * (1e-3 if milli else 1.0)
        if minutes is not None:
            wait += 60.0 * int(minutes)
        if hours is not None:
            wait += 3600.0 * int(hours)
    elif _DURATION.fullmatch(text):
        wait = sum(float(digits) * _UNITS[unit] for digits, unit in _DURATION_PART.findall(text))
    else:
        raise ValueInvalid("not a duration")
    if wait >= EPOCH_SECONDS:
        raise ValueInvalid("longer than any wait")
    return wait


def believed(wait: float | None) -> float | None:
    """A reset that may be; `None` of one that is longer than any period."""
    return None if wait is None or wait > LONGEST_RESET else wait


def rfc3339(value: Value) -> float:
    """An RFC 3339 instant, as seconds since 1970."""
    return _rfc3339(_ascii(value))


def http_date(value: Value) -> float:
    """An HTTP-date in any of its three forms, as seconds since 1970."""
    return _http_date(_ascii(value))


@lru_cache(maxsize=64)  # the answers of one second share their dates and most of their resets
def _rfc3339(text: bytes) -> float:
    if not _RFC3339.fullmatch(text):
        raise ValueInvalid("not an RFC 3339 instant")
    try:
        return datetime.fromisoformat(text.decode("ascii").upper()).timestamp()
    except (ValueError, OverflowError):
        raise ValueInvalid("no such instant") from None


@lru_cache(maxsize=64)
def _http_date(text: bytes) -> float:
    for form in _HTTP_DATES:
        if match := form.fullmatch(text):
            break
    else:
        raise ValueInvalid("not an HTTP-date")
    month = _MONTHS.get(match["month"])
    if month is None:
        raise ValueInvalid("no such month")
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 2000 if year < 70 else 1900
    time = int(match["hour"]), int(match["minute"]), int(match["second"])
    try:
        return datetime(year, month, int(match["day"]), *time, tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueInvalid("no such date") from None


def wait_until(instant: float, headers: Headers) -> float:
    """Seconds from the response to `instant`, which is past at 0. Raises `ValueInvalid` if the response bears no date."""
    made_at = headers.made_at()
    if made_at is None:
        raise ValueInvalid("an instant without a date to read it against")
    return max(0.0, instant - made_at)


def any_wait(value: Value, headers: Headers) -> float:
    """Seconds from the response: a number of seconds, an epoch in seconds or milliseconds, or a date of either form."""
    text = _ascii(value)
    if not text[:1].isdigit():
        return wait_until(http_date(text), headers)
    if text[4:5] == b"-":
        return wait_until(rfc3339(text), headers)
    given = number(text)
    if given < EPOCH_SECONDS:
        return given
    return wait_until(given if given < EPOCH_SECONDS * 1000 else given / 1000, headers)


def retry_after(headers: Headers) -> float | None:
    """The wait asked for by `retry-after-ms`, else by `Retry-After`; the longest, if one is sent more than once."""
    first = headers.by_name()
    if b"retry-after" not in first and b"retry-after-ms" not in first:
        return None
    exact: list[float] = []
    coarse: list[float] = []
    for name, value in headers.raw:
        lower = name.lower()
        try:
            if lower == b"retry-after-ms":
                exact.append(milliseconds(value))
            elif lower == b"retry-after":
                coarse.append(any_wait(value, headers))
        except ValueInvalid:
            continue
    return max(exact or coarse, default=None)


def _ascii(value: Value) -> bytes:
    if len(value) > LONGEST:
        raise ValueInvalid("too long")
    if isinstance(value, str):
        try:
            value = value.encode("ascii")
        except UnicodeEncodeError:
            raise ValueInvalid("not ASCII") from None
    return value.strip(b" \t")
