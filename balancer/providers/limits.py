"""Limit headers into `LimitSeen`: one family of names per limit, read on the way of every answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from balancer.core.outcome import LimitSeen
from balancer.providers.values import Headers, ValueInvalid, amount

LONGEST_RESET = 32 * 86400.0
"""Seconds of the longest reset that is believed: the longest period that providers count is a month."""

ResetParser = Callable[[bytes, Headers], float]


@attrs.frozen
class Family:
    """The headers of one limit.

    Args:
        dimension: what the limit counts.
        name: tells it from others of that dimension.
        limit, remaining, reset: lower-case header names.
        rounding: what `remaining` may be off by.
    """

    dimension: str
    name: str
    limit: bytes
    remaining: bytes
    reset: bytes
    rounding: float = 1.0


def limits_in(headers: Headers, families: Sequence[Family], parse_reset: ResetParser) -> tuple[LimitSeen, ...]:
    """The limits that `headers` report. A family without limit and remaining is not reported, whatever its reset says."""
    first = headers.by_name()
    seen: list[LimitSeen] = []
    for family in families:
        limit = _amount(first.get(family.limit))
        remaining = _amount(first.get(family.remaining))
        if limit is None and remaining is None:
            continue
        reset_after = None
        if (reset := first.get(family.reset)) is not None:
            try:
                reset_after = parse_reset(reset, headers)
            except ValueInvalid:
                pass
            else:
                if reset_after > LONGEST_RESET:
                    reset_after = None
        seen.append(LimitSeen(family.dimension, family.name, limit or None, remaining, reset_after, family.rounding))
    return tuple(seen)


def _amount(value: bytes | None) -> float | None:
    if value is None:
        return None
    try:
        return amount(value)
    except ValueInvalid:
        return None
