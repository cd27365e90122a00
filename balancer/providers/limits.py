"""Limit headers into `LimitSeen`: one family of names per limit, read on the way of every answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import attrs

from balancer.core.outcome import LimitSeen
from balancer.providers.standard import LONGEST_WINDOW, STANDARD_NAMES, standard_limits
from balancer.providers.values import Headers, ValueInvalid, amount, believed, number

ResetParser = Callable[[bytes, Headers], float]


@attrs.frozen
class Family:
    """The headers of one limit.

    Args:
        dimension: what the limit counts.
        name: tells it from others of that dimension.
        limit, remaining, reset: lower-case header names.
        rounding: what `remaining` may be off by.
        period: seconds in which the limit is renewed, if the names or the provider's documentation say so.
        renewal: the lower-case name of a header that says that period, if there is one.
    """

    dimension: str
    name: str
    limit: bytes
    remaining: bytes
    reset: bytes
    rounding: float = 1.0
    period: float | None = None
    renewal: bytes | None = None


def family(
    dimension: str,
    name: str,
    ending: str,
    prefix: str = "x-ratelimit",
    *,
    period: float | None = None,
    renewal: bytes | None = None,
) -> Family:
    """The family of the headers `{prefix}-limit{ending}`, `{prefix}-remaining{ending}` and `{prefix}-reset{ending}`."""
    limit, remaining, reset = (f"{prefix}-{part}{ending}".encode() for part in ("limit", "remaining", "reset"))
    return Family(dimension, name, limit, remaining, reset, period=period, renewal=renewal)


def _names_of(reader: LimitReader) -> frozenset[bytes]:
    return STANDARD_NAMES.union(*((family.limit, family.remaining) for family in reader.families))


@attrs.frozen(eq=False)
class LimitReader:
    """Reads the limit headers of one provider.

    Args:
        families: of its own headers.
        parse_reset: what one of their resets means, in seconds from the response. Raises `ValueInvalid`.
    """

    families: tuple[Family, ...]
    parse_reset: ResetParser
    _names: frozenset[bytes] = attrs.field(init=False, default=attrs.Factory(_names_of, takes_self=True))
    """Every name that says anything: most answers of most servers have none of them, and that is told at once."""

    def read(self, headers: Headers) -> tuple[LimitSeen, ...]:
        """The limits that `headers` report; where the provider's own say nothing of requests, what the standard fields say.

        A family without limit and remaining is not reported, whatever its reset says. A bad value is as good as none.
        """
        first = headers.by_name()
        if self._names.isdisjoint(first):
            return ()
        get = first.get
        seen: list[LimitSeen] = []
        for family in self.families:
            limit = _amount(get(family.limit))
            remaining = _amount(get(family.remaining))
            if limit is None and remaining is None:
                continue
            reset_after = None
            if (reset := get(family.reset)) is not None:
                with contextlib.suppress(ValueInvalid):
                    reset_after = believed(self.parse_reset(reset, headers))
            period = family.period if family.renewal is None else _renewal(get(family.renewal), family.period)
            rounding = family.rounding
            seen.append(LimitSeen(family.dimension, family.name, limit or None, remaining, reset_after, rounding, period))
        if not first.keys().isdisjoint(STANDARD_NAMES) and all(limit.dimension != "requests" for limit in seen):
            seen += standard_limits(headers)
        return tuple(seen)


def _amount(value: bytes | None) -> float | None:
    if value is None:
        return None
    if len(value) <= 15 and value.isdigit():  # the usual case, on the way of every answer
        return float(value)
    try:
        return amount(value)
    except ValueInvalid:
        return None


def _renewal(value: bytes | None, otherwise: float | None) -> float | None:
    try:
        period = 0.0 if value is None else number(value)
    except ValueInvalid:
        return otherwise
    return period if 0.0 < period <= LONGEST_WINDOW else otherwise
