"""From a refused or failed answer to its outcome: the body is read first, then the status, then the waits.

Body first, because one status means many things: a 429 may be a rate limit, a ramp, a spent account or a request that no
wait will ever fit, and a wait in a header never makes a billing error worth a second try. What a provider calls its errors
is that provider's table; everything that all of them share is here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import attrs
import msgspec

from balancer.core.call import DIMENSIONS
from balancer.core.outcome import (
    Billing,
    CallerFault,
    Faulted,
    LimitSeen,
    ModelMissing,
    Outcome,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Served,
    TimedOut,
    TooLarge,
    Unauthorized,
)
from balancer.providers.refusals import (
    LONGEST_QUOTA,
    dimension_in,
    joined,
    limit_in_text,
    limits_in_quotas,
    named_in_text,
    period_in,
)
from balancer.providers.values import LONGEST_RESET, Headers, ValueInvalid, go_duration, retry_after, seconds

TRANSIENT_CAP = 300.0
"""Seconds of the longest pause for a passing refusal: a wrong header then costs five minutes of one account, not a day."""

SHORTEST_DAY = 3600.0
"""Seconds below which no wait is believed beside a quota that is named as one of a day: 20 s were seen, and refused again."""

ERROR_BODY_CAP = 1 << 20
"""Bytes of the largest error body that is read; real ones have a few hundred."""

Kind = type[Outcome]

BY_STATUS: Mapping[int, Kind] = {
    401: Unauthorized,
    402: Billing,
    403: ModelMissing,
    404: ModelMissing,
    408: TimedOut,
    409: Faulted,
    424: Faulted,
    429: RateLimited,
    498: Overloaded,
    503: Overloaded,
    504: TimedOut,
    529: Overloaded,
}
"""What a status means where the body says nothing; other 4xx are the caller's, anything else the backend's fault."""


@attrs.frozen
class Said:
    """What an error body says, from whatever shape it has.

    Args:
        codes: lower-case names of the error, most exact first.
        message: its text.
        wait: seconds to wait, if a field of the body says so.
        status: the status that the body claims, 400..599.
        limits: the limits that fields of the body name.
        headers: an upstream's headers, where a router repeats them.
    """

    codes: tuple[str, ...] = ()
    message: str = ""
    wait: float | None = None
    status: int | None = None
    limits: tuple[LimitSeen, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


@attrs.frozen
class Case:
    """One answer to be judged, at trio time `now`. `status` is `None` for an error that came inside an answer."""

    status: int | None
    headers: Headers
    said: Said
    limits: tuple[LimitSeen, ...]
    now: float


def kind_of_status(status: int) -> Kind:
    """The outcome's class as far as the status alone tells it."""
    if 200 <= status <= 299:
        return Served
    return BY_STATUS.get(status) or (CallerFault if 400 <= status <= 499 else Faulted)


def judge(case: Case, table: Mapping[str, Kind]) -> Outcome:
    """The outcome of `case`; `table` holds the provider's own names of errors."""
    if case.status is not None and not 400 <= case.status <= 599:
        return made(kind_of_status(case.status), case)
    kinds = [kind for code in case.said.codes if (kind := Billing if "spend_limit" in code else table.get(code))]
    if Billing in kinds:
        return Billing()
    if kinds:
        return made(kinds[0], case)
    status = case.status if case.status is not None else case.said.status
    if status is None:
        return made(CallerFault if any(code.startswith("invalid_") for code in case.said.codes) else Faulted, case)
    if status in (429, 503) and _HIGH_DEMAND.search(case.said.message):
        return made(Overloaded, case)
    kind = kind_of_status(status)
    if kind is CallerFault and case.headers.get(b"x-should-retry") == b"true":
        kind = Faulted
    return made(kind, case)


def limits_of(case: Case, outcome: Outcome) -> tuple[LimitSeen, ...]:
    """The limits that a case shows: those of its headers, and of a refusal for a limit what its body tells of it."""
    if not isinstance(outcome, RateLimited | QuotaExhausted | TooLarge):
        return case.limits
    stated = limit_in_text(case.said.message)
    if stated is None and all(limit.remaining != 0 for limit in case.limits):  # else the headers name it
        stated = named_in_text(case.said.message)
    return joined(case.limits, case.said.limits if stated is None else (*case.said.limits, stated))


def made(kind: Kind, case: Case) -> Outcome:
    """An outcome of `kind` with what the case tells about it."""
    if kind is RateLimited or kind is QuotaExhausted:
        return _limited(case, for_long=kind is QuotaExhausted)
    if kind is Overloaded or kind is Ramp:
        wait = _wait(case, None)
        until = None if wait is None else case.now + min(wait, TRANSIENT_CAP)
        return Overloaded(until) if kind is Overloaded else Ramp(until)
    if kind is Faulted:
        if case.status is None:
            return Faulted("an error inside the answer")
        return Faulted("redirect" if 300 <= case.status <= 399 else f"status {case.status}")
    return kind()


def _limited(case: Case, *, for_long: bool) -> Outcome:
    message = case.said.message
    if _TOO_LARGE.search(message):
        return TooLarge()
    if _NO_ALLOWANCE.search(message):
        return ModelMissing()
    dimension = _dimension(case)
    wait = _wait(case, dimension)
    if wait is not None and wait < SHORTEST_DAY and any("perday" in code for code in case.said.codes):
        wait = None
    if for_long or _is_long(case.said):
        return QuotaExhausted(None if wait is None else case.now + min(wait, LONGEST_RESET))
    if wait is None:
        return RateLimited(dimension)
    if TRANSIENT_CAP < wait <= LONGEST_RESET:  # no limit per minute asks for so much; longer still is not believed
        return QuotaExhausted(case.now + wait)
    return RateLimited(dimension, case.now + min(wait, TRANSIENT_CAP))


def _is_long(said: Said) -> bool:
    period = period_in(said.message)
    return (
        period in ("day", "month")
        or (period is None and _PERIOD_LONG.search(said.message) is not None)
        or any(_PERIOD_LONG.search(code) for code in said.codes)
    )


def _dimension(case: Case) -> str | None:
    if (dimension := dimension_in(case.said.message)) is not None:
        return dimension
    for code in case.said.codes:
        if code in DIMENSIONS:
            return code
    if told := {limit.dimension for limit in case.said.limits}:
        return told.pop() if len(told) == 1 else None
    empty = {limit.dimension for limit in case.limits if limit.remaining == 0}
    return empty.pop() if len(empty) == 1 else None


def _wait(case: Case, dimension: str | None) -> float | None:
    """Seconds until a new try, from the most trusted source that has any."""
    asked = retry_after(case.headers)
    if asked is not None:
        return asked
    if case.said.wait is not None:
        return case.said.wait
    resets = [
        limit.reset_after
        for limit in case.limits
        if limit.remaining == 0 and limit.reset_after is not None and dimension in (None, limit.dimension)
    ]
    return max(resets) if resets else wait_in_text(case.said.message)


def wait_in_text(message: str) -> float | None:
    """The wait of texts like "try again in 11m0.528s" or "retry after 37 seconds"."""
    match = _TRY_AGAIN.search(message)
    if match is None:
        return None
    try:
        return sum(go_duration(digits + _UNITS[unit.lower()]) for digits, unit in _TRY_AGAIN_PART.findall(match[1]))
    except ValueInvalid:
        return None


_HIGH_DEMAND = re.compile(r"temporarily unable to process your request|experiencing high demand", re.IGNORECASE)
_TOO_LARGE = re.compile(r"\brequest too large\b", re.IGNORECASE)
_NO_ALLOWANCE = re.compile(r"\blimit:? 0(?![0-9.,]*[0-9])", re.IGNORECASE)
_PERIOD_LONG = re.compile(r"\([a-z]{1,3}pd\)|per[ -]?(?:day|month)|quota_exceeded", re.IGNORECASE)
_UNIT = r"hours?|minutes?|seconds?|milliseconds?|h|ms|m|s"
_UNITS = {unit: unit for unit in ("h", "m", "s", "ms")} | {
    name + plural: unit
    for name, unit in (("hour", "h"), ("minute", "m"), ("second", "s"), ("millisecond", "ms"))
    for plural in ("", "s")
}
_NUMBER_UNIT = rf"[0-9]{{1,9}}(?:\.[0-9]{{1,9}})? ?(?:{_UNIT})(?![a-z])"
_TRY_AGAIN = re.compile(
    rf"(?:try again in|retry in|retry after|please wait)[: ]{{1,2}}((?:{_NUMBER_UNIT} ?){{1,4}})", re.IGNORECASE | re.ASCII
)
_TRY_AGAIN_PART = re.compile(rf"([0-9.]+) ?({_UNIT})(?![a-z])", re.IGNORECASE | re.ASCII)


def read_error(body: bytes) -> Said:
    """What `body` says, wherever it says it; nothing, if it is no JSON."""
    if len(body) > ERROR_BODY_CAP:
        return Said()
    try:
        document: object = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return Said()
    whole = _table(document) or _table(next(iter(_items(document)), None))
    if "error" not in whole and "response" in whole:
        whole = _table(whole["response"])
    given = whole.get("error")
    error = _table(cast("object", given)) or whole
    details = error.get("details")
    codes: list[object] = [
        _table(details).get("error_code"),
        error.get("code"),
        _table(error.get("metadata")).get("error_type"),
    ]
    codes += [error.get("type"), error.get("__type"), error.get("status")]
    violations: list[Mapping[str, Any]] = []
    wait = _seconds(_table(error.get("availability")).get("retry_after"))
    for detail in map(_table, _items(details)):
        codes.append(detail.get("reason"))
        wait = _seconds(detail.get("retryDelay")) if wait is None else wait
        violations += [_table(violation) for violation in _items(detail.get("violations"))]
    codes += [violation.get("quotaId") for violation in violations]
    texts = tuple(code.lower() for code in codes if isinstance(code, str) and len(code) <= LONGEST_QUOTA)
    message = given if isinstance(given, str) else error.get("message")
    return Said(
        texts,
        message[:4000] if isinstance(message, str) else "",
        wait,
        _status(error.get("code")),
        limits_in_quotas(violations),
        _headers(_table(error.get("metadata")).get("headers")),
    )


def _table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return cast("list[object]", value)[:16] if isinstance(value, list) else []


def _headers(value: object) -> tuple[tuple[bytes, bytes], ...]:
    pairs = list(_table(value).items())[:16]
    return tuple(
        [
            (name.encode(), given.encode())
            for name, given in pairs
            if isinstance(given, str) and name.isascii() and given.isascii() and len(name) + len(given) <= LONGEST_QUOTA
        ]
    )


def _seconds(value: object) -> float | None:
    try:
        if isinstance(value, str):
            return go_duration(value)
        return seconds(str(value)) if isinstance(value, int | float) else None
    except ValueInvalid:
        return None


def _status(code: object) -> int | None:
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code <= 599 else None
