"""What one account was sent: the attempts in flight, and those that ended lately.

A rate that appears later is charged with them, and what an answer shows of a limit is held against what of them the provider may
have counted by then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice

import attrs

from balancer.core.call import ESTIMATED
from balancer.core.line import Line
from balancer.core.quota import COUNTED_WITHIN
from balancer.core.reservation import Reservation

REMEMBERED = 256
"""Ended reservations to seed a rate with that appears later, and entries of a learned rate to bring back."""

LATELY = 16
"""The last ones that ended of which it is asked at each answer whether they tell more than it alone: where limits are so low that what
is used is rounded by much of them."""

WRONG = 2.0
"""By which factor an estimate may be too small, or too large."""


@attrs.define(eq=False)
class History:
    """Reservations that have not ended, and those that did.

    Attributes:
        open: those that have not.
        recent: the last ones that were settled.
    """

    open: dict[Reservation, None] = attrs.field(factory=dict[Reservation, None], init=False)
    recent: deque[Reservation] = attrs.field(factory=lambda: deque[Reservation](maxlen=REMEMBERED), init=False)

    def __iter__(self) -> Iterator[Reservation]:
        """Every one."""
        yield from self.recent
        yield from self.open

    def charge(self, line: Line) -> None:
        """Charge a new line with what was sent before it appeared."""
        for reservation in sorted(self, key=lambda reservation: reservation.at):
            if not line.covers(reservation.model):
                continue
            if reservation.ended:
                line.charge_past(reservation.demand, reservation.usage, reservation.at)
            else:
                book(line, reservation)

    def taken(self, models: set[str | None], dimension: str, since: float, *, flying: bool = False) -> float:
        """Units that these models took of what was sent at `since` or later, or, if `flying`, is in flight."""
        return sum(
            sent.taken(dimension) for sent in self if sent.model in models and (sent.at >= since or (flying and not sent.ended))
        )

    def ours(self, dimension: str) -> float:
        """Units that all of them took."""
        return sum(sent.taken(dimension) for sent in self)

    def counted(self, dimension: str, reservation: Reservation, reset_after: float, now: float) -> tuple[float, float]:
        """Units that the provider had surely counted when it wrote the answer to `reservation`, and seconds since the first of these was
        sent: of itself alone or with others well before it that have been served, whichever tells most of a reset in so many seconds."""
        model = reservation.model
        last: Reservation | None = reservation
        if reservation.refunded:  # what was sent well before it was counted, whenever the last one of these was
            before = [sent for sent in self if sent.model == model]
            last = max(before, key=lambda sent: sent.at, default=None)
        if last is None:
            return 0.0, 0.0
        counted = best = _at_least(last, dimension), now - last.at
        lately = [
            sent
            for sent in islice(reversed(self.recent), LATELY)
            if (sent.served or sent.usage is not None) and sent.model == model
        ]
        for sent in sorted(lately, key=lambda sent: sent.at, reverse=True):
            if sent is last or sent.at > reservation.at - COUNTED_WITHIN:
                continue
            counted = counted[0] + _at_least(sent, dimension), max(counted[1], now - sent.at)
            best = min(best, counted, key=lambda each: (each[1] + reset_after) / each[0] if each[0] else math.inf)
        return best

    def oldest_for(self, dimension: str, used: float, reservation: Reservation, now: float) -> float:
        """Seconds since the oldest charge was sent that the provider can hold which answered `reservation`; `inf` if ours do not explain
        `used`."""
        if self.ours(dimension) < used:
            return math.inf
        counted = [*self.recent] if reservation.ended else [*self.recent, reservation]
        for sent in sorted(counted, key=lambda sent: sent.at, reverse=True):
            used -= _at_least(sent, dimension)
            if used <= 0.0:  # what was counted last is held longest
                return now - sent.at
        return now - min((sent.at for sent in (*counted, *self.open)), default=-math.inf)


def book(line: Line, reservation: Reservation) -> None:
    """Charge a new line with an attempt in flight."""
    amount = line.demanded(reservation.demand)
    mark = line.book(amount, reservation.at) if amount else None
    if reservation.connecting:
        mark = line.connecting(amount, mark)
    reservation.lines = (*reservation.lines, line)
    reservation.amounts = [*reservation.amounts, amount]
    reservation.marks = [*reservation.marks, mark]


def is_known(sent: Reservation, dimension: str) -> bool:
    """Whether what it takes is no estimate."""
    return sent.usage is not None or dimension not in ESTIMATED


def _at_least(sent: Reservation, dimension: str) -> float:
    """Units that it has taken, or takes, even where that is estimated."""
    return sent.taken(dimension) / (1.0 if is_known(sent, dimension) else WRONG)
