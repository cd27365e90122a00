"""Quotas of a civil day or month: they reset at the first instant of the next one in the provider's time zone, once each.

Nothing here reads a clock. A window is given trio time and, once, the epoch that belonged to one moment of it.
"""

from __future__ import annotations

import math
import re
import sys
from bisect import bisect_left
from datetime import date, datetime, timedelta
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo

import attrs

from balancer.core.minima import Minima
from balancer.core.quota import MARGIN, PROMPT, WHOLE
from balancer.core.window import Window

Period = Literal["day", "month"]

LENGTHS: dict[Period, float] = {"day": 86_400.0, "month": 30 * 86_400.0}
"""Nominal seconds of a period, to show and to compare; what resets is the calendar's."""

APART = 1.0
"""Seconds by which the provider's clock may be ahead of ours or behind it: what is charged so near to a start, or nearer by the
margin, counts in the old window and in the new one. Machines that keep time do so within this; of a day's quota it costs next
to nothing."""

CLOCKS = 600.0
"""Seconds by which a start may lie elsewhere than in the calendar because of clocks alone: zones are a quarter of an hour apart."""

Mark = tuple[int, int]
"""The number of the last window that a charge counts in, and the charge's own number."""

EVERY = sys.maxsize
"""Instead of the last window's number: there is none yet."""

_NAME = re.compile(r"(?=.{1,64}\Z)[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*){0,2}", re.ASCII)
"""Names of the IANA database. Other files that lie beside them begin in lower case: `localtime` is this machine's zone, and
`right/` counts leap seconds, which no epoch does."""


def load_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name such as `"America/Los_Angeles"`.

    Raises:
        ValueError: no such zone is known.
    """
    try:
        if _NAME.fullmatch(name):
            return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not found, a directory, not a zone's data
        pass
    raise ValueError(f"unknown time zone {name[:64]!r}: expected an IANA name such as 'America/Los_Angeles'")


def next_start(epoch: float, period: Period, zone: ZoneInfo) -> float:
    """The epoch of the first instant of the next civil day or month after `epoch`, whole seconds.

    A day's first instant is the least one whose local date is that day or a later one, so a date that a zone shows twice
    begins once, one that begins after a gap begins at the end of the gap, and one that is skipped begins with its successor.

    Args:
        epoch: seconds since 1970-01-01 UTC, in the years 1970 to 9998.
    """
    # Whole seconds, since `fromtimestamp` rounds: just before midnight is not yet the next day.
    day = _following(datetime.fromtimestamp(math.floor(epoch), zone).date(), period)
    while (start := _first_instant(day, zone)) <= epoch:  # the date is shown again after the next one had begun
        day = _following(day, period)
    return float(start)


def _following(day: date, period: Period) -> date:
    if period == "day":
        return day + timedelta(days=1)
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


def _first_instant(day: date, zone: ZoneInfo) -> int:
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 (what the zone's clocks show)
    first = int(midnight.replace(tzinfo=zone).timestamp())
    second = int(midnight.replace(tzinfo=zone, fold=1).timestamp())
    if first <= second:  # shown once; or twice, and `fold=0` comes first
        return first
    # Never shown: the two offsets around the gap put midnight after it and before it, and the day begins where it ends.
    return second + bisect_left(
        range(second, first), midnight, key=lambda at: datetime.fromtimestamp(at, zone).replace(tzinfo=None)
    )


@attrs.define(eq=False)
class CalendarWindow(Window):
    """At most `limit` units between two starts of a civil day or month, at which everything used leaves at once.

    Law: with s = `APART` + `margin`, a charge leaves s after the first start that lies more than s after the charge. So between
    any two starts by a provider's clock that is within `APART` of ours at most `limit` units are admitted.

    Civil time is trio time plus the difference of the anchor. A wall clock that is set, by hand or by its network, moves
    nothing: read anew it could reset a day twice or never. A clock that was wrong at the anchor stays so, and time in which the
    machine sleeps and trio's clock stands still makes resets late: what the responses show, and refusals, then lower the count.

    Args:
        limit: units between two starts, above 0.
        period_name: `"day"` or `"month"`.
        zone: where the day or the month begins.
        anchor: trio time of any moment not after the first charge, and its epoch.

    Attributes:
        period: nominal seconds.
    """

    grain: ClassVar[float] = 0.0
    limit: float
    period_name: Period
    zone: ZoneInfo
    anchor: tuple[float, float]
    margin: float = MARGIN
    period: float = attrs.field(init=False)
    charges: int = attrs.field(init=False, default=0)
    open: float = attrs.field(init=False, default=0.0)
    unsent: float = attrs.field(init=False, default=0.0)
    """Units charged for requests that wait for a connection: the provider cannot have counted them."""
    mirrored: bool = attrs.field(init=False, default=False)
    _lows: Minima = attrs.field(init=False, factory=Minima)
    _start: float = attrs.field(init=False)
    """The next start, an epoch."""
    _start_at: float = attrs.field(init=False)
    """The same in trio time."""
    _window: int = attrs.field(init=False, default=0)
    _used: float = attrs.field(init=False, default=0.0)
    _carried: float = attrs.field(init=False, default=0.0)
    """The part of `_used` that counts in the next window too: all that waits for a connection is of it."""

    def __attrs_post_init__(self) -> None:
        self.period = LENGTHS[self.period_name]
        self._begin(next_start(self.anchor[1], self.period_name, self.zone))

    def earliest(self, amount: float, now: float) -> float:
        """When `amount` fits: `now` if at once, `inf` if it is more than the whole window."""
        if amount > self.limit:
            return math.inf
        self._pass(now)
        fits = self.limit - amount + WHOLE
        return now if self._used <= fits else self._later(self._carried, fits)

    def behind(self, before: float, amount: float, now: float) -> float:
        """When `amount`, which may ever fit, would fit if `before` were charged now."""
        self._pass(now)
        fits = self.limit - amount + WHOLE
        if self._used + before <= fits:
            return now
        carried = before if now + self._slack() >= self._start_at else 0.0
        return self._later(self._carried + carried, fits)

    def charge(self, amount: float, now: float) -> Mark:
        """Take `amount`, whether it fits or not; returns its mark."""
        self._pass(now)
        self._used += amount
        self.charges = number = self.charges + 1
        if self.mirrored:
            self._lows.push(number, -self._used)
        if now + self._slack() < self._start_at:
            return self._window, number
        self._carried += amount
        return self._window + 1, number

    def starts_at(self, at: float) -> None:
        """The provider says that its next window starts at trio time `at`: ours starts then, and the next where the calendar has it."""
        epoch = self._start + (at - self._start_at)
        if abs(epoch - self._start) > CLOCKS:
            self._start = epoch
        self._start_at = at - self._slack()

    def take_back(self, mark: Mark, amount: float) -> None:
        """Undo `amount` of a charge: worth nothing once it has left."""
        last = mark[0]
        if last >= self._window:
            self._used -= amount
        if last > self._window:
            self._carried -= amount

    def exceed(self, mark: Mark, amount: float, now: float) -> None:
        """What was charged has turned out to be `amount` more: of the window in which that is known, since nothing is lost by it."""
        self.charge(amount, now)

    def connecting(self, mark: Mark, amount: float) -> Mark:
        """The request of a charge waits for a connection: it counts in every window until it is written."""
        self.take_back(mark, amount)
        self._used += amount
        self._carried += amount
        self.unsent += amount
        return EVERY, mark[1]

    def counts(self, mark: Mark) -> bool:
        """Whether a charge has not left yet."""
        return mark[0] >= self._window

    def answered(self, mark: Mark, amount: float, at: float, now: float) -> Mark:
        """The charge made at `at` has been counted by `now`. Where that was a moment it counts from now; where it was long, the
        margin has to do."""
        if now - at > PROMPT:
            return mark
        self.take_back(mark, amount)
        return self.charge(amount, now)[0], mark[1]

    def level(self, now: float) -> tuple[float, float, float]:
        """`(held, full_at, valid_until)`: what is held stays until the next start."""
        self._pass(now)
        return self._used, math.inf, self._start_at + self._slack() if self._used else math.inf

    def resize(self, limit: float, now: float) -> None:
        """Another limit, the same units in use."""
        self.limit = limit

    def _pass(self, now: float) -> None:
        while now >= self._start_at + self._slack():
            self._window += 1
            self._used, self._carried = self._carried, self.unsent
            self._begin(next_start(self._start, self.period_name, self.zone))

    def _later(self, carried: float, fits: float) -> float:
        """When what does not fit now does: after the next start, or after the one behind it if too much is carried over."""
        start_at = self._start_at
        if carried > fits:
            start_at = self._trio_time(next_start(self._start, self.period_name, self.zone))
        return start_at + self._slack()

    def _begin(self, start: float) -> None:
        self._start, self._start_at = start, self._trio_time(start)

    def _trio_time(self, epoch: float) -> float:
        return self.anchor[0] + (epoch - self.anchor[1])

    def _slack(self) -> float:
        return APART + self.margin
