"""What a simulated provider writes about its limits: headers that tell the truth, round it, hide it or lie, and refusals.

It is text on its way to the real parsers, so that what they make of it is part of what is simulated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Literal

import attrs

from balancer.testing.mock.counting import Refused
from balancer.testing.mock.signals import go_duration, instant, refusal_body, wait_headers
from balancer.testing.simulation.limits import SimulatedLimit

Speaks = Literal["openai", "anthropic"]
Headers = list[tuple[bytes, bytes]]

MIDNIGHT = 1_789_948_800.0
"""Unix seconds at trio time 0: some midnight UTC, so that a fixed window of a day is a day."""

_SHOWN: dict[Speaks, tuple[str, ...]] = {
    "openai": ("requests", "tokens"),
    "anthropic": ("requests", "tokens", "input_tokens", "output_tokens"),
}
_ROUNDED_TO = 1000
_LIES: tuple[Callable[[float], str], ...] = (
    lambda limit: "-1",
    lambda limit: f"-{limit:.0f}",
    lambda limit: f"{3 * limit:.0f}",
    lambda limit: f"{limit:.0f}",
    lambda limit: "NaN",
    lambda limit: "9" * 400,
    lambda limit: "",
)


@attrs.frozen
class LimitState:
    """One limit at the moment of an answer.

    Args:
        limit: the limit.
        room: what would be admitted now.
        reset_after: seconds to its reset, as `Counter.reset_after` means it.
    """

    limit: SimulatedLimit
    room: float
    reset_after: float


def limit_headers(
    speaks: Speaks,
    style: Literal["honest", "absent", "rounded", "lying"],
    states: Iterable[LimitState],
    now: float,
    rng: random.Random,
) -> Headers:
    """The headers of an answer. Of several limits of one dimension the first is shown; `Date` comes with every answer.

    Args:
        speaks: whose names and formats.
        style: `"honest"`: what remains, rounded down to a whole number, and the reset to the millisecond (Anthropic: to the
            second); `"rounded"`: tokens to the nearest thousand, resets up to whole seconds; `"lying"`: what remains is negative,
            above the limit, rising or no number, and resets are anything up to a minute; `"absent"`: nothing.
        states: the limits.
        now: trio time.
        rng: for lies.
    """
    headers: Headers = [(b"date", _http_date(MIDNIGHT + now))]
    if style == "absent":
        return headers
    shown: set[str] = set()
    for state in states:
        dimension = state.limit.dimension
        if dimension not in _SHOWN[speaks] or dimension in shown:
            continue
        shown.add(dimension)
        remaining, reset_after = f"{max(0.0, state.room + 1e-9) // 1:.0f}", state.reset_after
        if style == "rounded":
            reset_after = math.ceil(reset_after)
            if dimension != "requests":
                remaining = f"{min(round(max(0.0, state.room) / _ROUNDED_TO) * _ROUNDED_TO, state.limit.amount):.0f}"
        elif style == "lying":
            remaining, reset_after = rng.choice(_LIES)(state.limit.amount), rng.uniform(0.0, 60.0)
        headers += _named(speaks, dimension, f"{state.limit.amount:.0f}", remaining, reset_after, now)
    return headers


def _named(speaks: Speaks, dimension: str, limit: str, remaining: str, reset_after: float, now: float) -> Headers:
    if speaks == "openai":
        names = [f"x-ratelimit-{part}-{dimension}" for part in ("limit", "remaining", "reset")]
        reset = go_duration(reset_after)
    else:
        names = [f"anthropic-ratelimit-{dimension.replace('_', '-')}-{part}" for part in ("limit", "remaining", "reset")]
        reset = instant(MIDNIGHT + now + reset_after)
    return [(name.encode(), value.encode()) for name, value in zip(names, (limit, remaining, reset), strict=True)]


def refusal(
    speaks: Speaks, limit: SimulatedLimit, room: float, asked: float, wait: float, *, tells_wait: bool, numbers: bool
) -> tuple[Headers, dict[str, object]]:
    """Further headers and the body of a 429 that names the dimension.

    Args:
        speaks: whose names and formats.
        limit: what refused.
        room: what it would have admitted.
        asked: what the request would have been counted as.
        wait: seconds until it would be admitted; `inf` if never, or for concurrency if nobody can know.
        tells_wait: whether the answer says when to come back.
        numbers: whether its text shows the limit and what is used.
    """
    at_once = limit.dimension == "concurrency"
    told = None if at_once or not (tells_wait or wait == math.inf) else wait
    refused = Refused(limit.dimension, limit.amount, 0.0 if at_once else limit.per, limit.amount - room, asked, told)
    body = refusal_body(speaks, refused, None)
    if not numbers and wait < math.inf:
        period = "" if at_once else f" per {limit.per:g} s"
        body["error"]["message"] = f"Rate limit reached on {limit.dimension.replace('_', ' ')}{period}."
    return wait_headers(speaks, refused), body


def _http_date(wall: float) -> bytes:
    return formatdate(wall, usegmt=True).encode()
