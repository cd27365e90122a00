"""Which of an account's rates a refusal is about, of those that count what was refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from balancer.core.line import Line
from balancer.core.outcome import LimitSeen
from balancer.core.quota import room
from balancer.core.reservation import Reservation

LONGEST_UNNAMED = 3600.0
"""Seconds of the longest period that is taken for the reason of a refusal which does not name it, while there seems to be room: to
be wrong in it costs as long, and what few requests run into is rather a shorter limit that nobody knows."""


def named(lines: Iterable[Line], seen: Sequence[LimitSeen], reservation: Reservation) -> list[Line]:
    """The rates of which the answer that refused `reservation` tells that it did not fit."""
    return [line for line in lines if any(_names(limit, line, line.demanded(reservation.demand)) for limit in seen)]


def _names(limit: LimitSeen, line: Line, amount: float) -> bool:
    return (
        limit.dimension == line.dimension
        and (limit.name == line.name or not line.learned)
        and limit.limit in (None, line.counter.limit)
        and limit.period in (None, line.counter.period)
        and (limit.limit is not None or limit.period is not None)
        and (limit.remaining is None or limit.remaining < amount)
    )


def at_boundary(lines: Iterable[Line], reservation: Reservation, now: float) -> list[Line]:
    """The rates that `reservation` may have been booked on a moment too early."""
    booked = [(line, sent) for line in lines if (sent := reservation.sent(line)).mark is not None]
    return [line for line, sent in booked if room(line.counter, now) < 2.0 * sent.amount]


def shortest(lines: Sequence[Line]) -> list[Line]:
    """Those of the shortest period: they forget a mistake the soonest."""
    period = min((line.counter.period for line in lines), default=0.0)
    return [line for line in lines if line.counter.period == period]
