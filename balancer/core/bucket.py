"""A rate that refills continuously."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs

from balancer.core.minima import Minima
from balancer.core.quota import MARGIN, PROMPT_RATIO

SLACK = 1e-6
"""Seconds by which a full bucket may seem too small: sums of floats near a clock of 10^6 s are that inexact."""


@attrs.define(eq=False)
class Bucket:
    """A bucket of `burst` units that refills with `limit` per `period`: GCRA, whose one float is the instant of being full.

    Law: with T = period / limit, a demand q fits when max(now, TAT) + q T - burst T <= now; then TAT = max(now, TAT) + q T.
    In any span t at most t / T + burst units are admitted. The provider may have counted up to `margin` later than we did, so
    refill is counted on only that much later; what fits a full bucket since it last was full does not wait.
    """

    grain: ClassVar[float] = 1.0
    limit: float
    period: float
    burst: float
    margin: float = MARGIN
    charges: int = attrs.field(init=False, default=0)
    open: float = attrs.field(init=False, default=0.0)
    unsent: float = attrs.field(init=False, default=0.0)
    """Units charged for requests that wait for a connection: the provider cannot have counted them."""
    mirrored: bool = attrs.field(init=False, default=False)
    _lows: Minima = attrs.field(init=False, factory=Minima)
    """After each charge, the negative of the seconds until it would be full: to divide them is left to who asks."""
    _unit: float = attrs.field(init=False)
    _full_at: float = attrs.field(init=False, default=-math.inf)
    _busy_since: float = attrs.field(init=False, default=0.0)
    _late_for: float = attrs.field(init=False)
    """The margin of this busy period: what is known better of its first charge."""
    _brimmed_at: float = attrs.field(init=False, default=-math.inf)
    """When a charge was last made that may have found the provider's bucket full."""
    _brimmed_in: float = attrs.field(init=False, default=0.0)
    """Seconds in which it would have been so by our count."""
    _found: Minima = attrs.field(init=False, factory=Minima)
    """The backlog, in units, that each charge found: what an earlier charge is still worth is bounded by every later one."""

    def __attrs_post_init__(self) -> None:
        self._unit = self.period / self.limit
        self._late_for = self.margin

    def earliest(self, amount: float, now: float) -> float:
        """When `amount` fits: `now` if at once, `inf` if it is more than the whole bucket."""
        if amount > self.burst:
            return math.inf
        if self.unsent:
            return self.behind(0.0, amount, now)
        full_at, over = self._full_at, (amount - self.burst) * self._unit
        if full_at - self._busy_since + over <= SLACK:
            return now
        return max(now, full_at + self._late_for + over)

    def behind(self, before: float, amount: float, now: float) -> float:
        """When `amount`, which may ever fit, would fit if `before` were charged now."""
        backlog, busy_since, late_for = self._found_at(now)
        full_at, over = now + backlog + (self.unsent + before) * self._unit, (amount - self.burst) * self._unit
        return now if full_at - busy_since + over <= SLACK else max(now, full_at + late_for + over)

    def charge(self, amount: float, now: float) -> int:
        """Take `amount`, whether it fits or not; returns its mark."""
        backlog = self._full_at - now
        if backlog < self.margin:
            backlog = self._begin(now)
        unit = self._unit
        self._full_at = full_at = now + backlog + amount * unit
        self.charges = number = self.charges + 1
        if backlog < self.open * unit:  # else nothing that is still open can be worth less than it was
            self._found.push(number, backlog / unit)
        if self.mirrored:
            since = now - self._late_for
            if since < self._busy_since:  # noqa: PLR1730 - asked of every charge, and a call of `max` costs as much as the rest
                since = self._busy_since
            low, lows = since - full_at, self._lows
            if low > lows.top:
                lows.step()
            lows.last, lows.top = number, low
        return number

    def _begin(self, now: float) -> float:
        """A charge is made now that may find the provider's bucket full. Returns the backlog in seconds."""
        backlog, self._busy_since, self._late_for = self._found_at(now)
        self._brimmed_at, self._brimmed_in = now, backlog
        return backlog

    def _found_at(self, now: float) -> tuple[float, float, float]:
        """What a charge made now would find: the backlog in seconds, since when the bucket is busy, and by how much later that may have
        begun."""
        busy_since, late_for = self._busy_since, self._late_for
        backlog = self._full_at - now
        if backlog + late_for <= 0.0:
            busy_since, late_for = now, self.margin
        if backlog < 0.0:  # noqa: PLR1730 - both as in `charge`
            backlog = 0.0
        if late_for < self.margin - backlog:  # noqa: PLR1730
            late_for = self.margin - backlog
        return backlog, busy_since, late_for

    def take_back(self, mark: int, amount: float) -> None:
        """Undo `amount` of a charge: worth no more than the least backlog that any later charge found."""
        if self._found.last <= mark:
            self._full_at -= amount * self._unit
            return
        if mark < 0:  # it waits for a connection, and is charged apart
            return
        worth = min(amount, self._found.after(mark))
        if worth > 0.0:
            self._full_at -= worth * self._unit
            self._found.lower(mark, worth)

    def exceed(self, mark: int, amount: float, now: float) -> None:
        """What was charged has turned out to be `amount` more: taken now, since a bucket that is full by then has refilled."""
        self.charge(amount, now)

    def connecting(self, mark: int, amount: float) -> int:
        """The request of a charge waits for a connection: all of it is still to come, and nothing of it refills meanwhile."""
        self.take_back(mark, amount)
        self.unsent += amount
        return -mark

    def connected(self, amount: float) -> None:
        """It waits no more."""
        self.unsent -= amount

    def moved(self, now: float) -> None:
        """A charge has been taken back, since its request is written only now. Without any other of its busy period, that begins now."""
        if self._full_at <= self._busy_since + SLACK:
            self._busy_since = now

    def number(self, mark: int) -> int:
        """The number of a charge."""
        return abs(mark)

    def least_room(self, number: int) -> float:
        """The least room that the charge of a number, or a later one, left."""
        return self.burst + self._lows.after(number - 1) / self._unit

    def counts(self, mark: int) -> bool:
        """A bucket does not know what of it was refilled first."""
        return True

    def answered(self, mark: int, amount: float, at: float, now: float) -> int:
        """The charge made at `at` has been counted by `now`. It matters of the last one that may have found the bucket full: refill runs
        from when that was counted. A longer wait than the margin is taken over where it costs little of a bucket's refill; a shorter
        one while it is alone."""
        if at == self._brimmed_at:
            late_for = now - at - self._brimmed_in
            if late_for > self._late_for:
                if late_for <= PROMPT_RATIO * self.burst * self._unit:
                    self._late_for = late_for
            elif self._full_at <= at + amount * self._unit:
                self._late_for = late_for
        return mark

    def level(self, now: float) -> tuple[float, float, float]:
        """`(held, full_at, valid_until)`; refill needs no event, so it holds until the next charge."""
        full_at, busy_since, late_for = self._full_at, self._busy_since, self._late_for
        if self.unsent:
            backlog, busy_since, late_for = self._found_at(now)
            full_at = now + backlog + self.unsent * self._unit
        return (full_at - busy_since) / self._unit, full_at + late_for, math.inf

    def resize(self, limit: float, burst: float, now: float) -> None:
        """Another limit, the same units in use."""
        owed = max(0.0, self._full_at - now) / self._unit
        self.limit, self.burst, self._unit = limit, burst, self.period / limit
        self._full_at, self._busy_since = now + owed * self._unit, -math.inf
