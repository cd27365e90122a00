"""A rate of which each charge goes one period later."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import ClassVar

import attrs

from balancer.core.minima import Minima
from balancer.core.quota import MARGIN, PROMPT, PROMPT_RATIO, WHOLE
from balancer.core.window import Window

GRANULES = 500
"""Charges within this fraction of a period are kept as one, stamped at the latest: memory is bounded, the law is not broken, and what
was sent together comes back together. Apart by the difference of their answers, it would let small demands into the gap before a
large one; finer ones lose a larger share of the limit to that than this fraction."""


@attrs.define(eq=False)
class Entry:
    """Charges of one granule: they count until a period after `at`, the latest of them. `open`: units of estimates among them."""

    at: float
    amount: float
    counted: bool = True
    open: float = 0.0


Mark = tuple[Entry, int]


@attrs.define(eq=False)
class SlidingWindow(Window):
    """At most `limit` units in any `period`, exactly: each charge leaves the window a period and `margin` after it was made.

    Args:
        memory: entries to remember after they have left, so that a longer period can bring them back.

    Attributes:
        gone: units of estimates that have left before they were corrected.
        gone_ever: the same, with those that have been corrected since.
    """

    grain: ClassVar[float] = 0.0
    limit: float
    period: float
    memory: int = 0
    margin: float = MARGIN
    charges: int = attrs.field(init=False, default=0)
    open: float = attrs.field(init=False, default=0.0)
    unsent: float = attrs.field(init=False, default=0.0)
    """Units charged for requests that wait for a connection: the provider cannot have counted them."""
    mirrored: bool = attrs.field(init=False, default=False)
    _lows: Minima = attrs.field(init=False, factory=Minima)
    """The negative of what was used after each charge."""
    _used: float = attrs.field(init=False, default=0.0)
    _begun_at: float = attrs.field(init=False, default=0.0)
    """When the last entry was begun."""
    _log: deque[Entry] = attrs.field(init=False, factory=deque[Entry])
    _past: deque[Entry] = attrs.field(init=False)
    gone: float = attrs.field(init=False, default=0.0)
    gone_ever: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._past = deque(maxlen=self.memory)

    def earliest(self, amount: float, now: float) -> float:
        """When `amount` fits: `now` if at once, `inf` if it is more than the whole window."""
        if amount > self.limit:
            return math.inf
        self.forget(now)
        over = self._used + amount - self.limit - WHOLE
        if over <= 0.0:
            return now
        stay_for = self.period + self.margin
        for entry in self._log:
            over -= entry.amount
            if over <= 0.0:
                return entry.at + stay_for
        return now + stay_for if self.unsent else self._log[-1].at + stay_for

    def behind(self, before: float, amount: float, now: float) -> float:
        """When `amount`, which may ever fit, would fit if `before` were charged now."""
        stay_for = self.period + self.margin
        if before + amount > self.limit:
            return now + stay_for
        at, log = self.earliest(before + amount, now), self._log
        # What joins the last entry makes it leave later.
        joins = at > now and log and at == log[-1].at + stay_for and now - self._begun_at < self.period / GRANULES
        return now + stay_for if joins else at

    def charge(self, amount: float, now: float) -> Mark:
        """Take `amount`, whether it fits or not; returns its mark."""
        log = self._log
        if log and log[0].at + (self.period + self.margin) <= now:
            self.forget(now)
        self._used += amount
        self.charges = number = self.charges + 1
        if self.mirrored:
            low, lows = -self._used, self._lows
            if low > lows.top:
                lows.step()
            lows.last, lows.top = number, low
        if log and now - self._begun_at < self.period / GRANULES:
            entry = log[-1]
            if now > entry.at:  # noqa: PLR1730 - as in `Bucket.charge`
                entry.at = now
            entry.amount += amount
        else:
            self._begun_at = now
            entry = Entry(now, amount)
            log.append(entry)
        return entry, number

    def charge_until(self, amount: float, leaves_at: float, now: float) -> Mark:
        """Take `amount` now, which leaves at a time that is known; returns its mark."""
        stay_for = self.period + self.margin
        if leaves_at >= now + stay_for:
            return self.charge(amount, now)
        self.forget(now)
        self._used += amount
        self.charges = number = self.charges + 1
        if self.mirrored:
            self._lows.push(number, -self._used)
        log, at = self._log, leaves_at - stay_for
        place = bisect_left(log, at, key=lambda entry: entry.at)
        if place == len(log):
            self._begun_at = -math.inf  # the last is another one
        if place == len(log) or log[place].at != at:
            log.insert(place, Entry(at, 0.0))
        log[place].amount += amount
        return log[place], number

    def used_at(self, at: float) -> float:
        """Units of those in use now that are so still at `at`."""
        stay_for = self.period + self.margin
        return self.unsent + sum(entry.amount for entry in self._log if entry.at + stay_for > at)

    def hold(self, amount: float, until: float, longest: float) -> None:
        """The provider says that nothing leaves before `until` of the `amount` that it holds, which is what was charged last; no window
        of its is longer than `longest`."""
        at, later = until - (self.period + self.margin), longest - self.period
        for entry in reversed(self._log):
            if amount <= 0.0:
                break
            amount -= entry.amount
            entry.at = max(entry.at, min(at, entry.at + later))

    def fit(self, amount: float, until: float) -> None:
        """The provider says that `amount` fits at `until`, before enough of what is charged would have left. So it counts otherwise:
        the oldest leaves then, and what is left no later than the limit refills from then on."""
        stay_for, before, log = self.period + self.margin, 0.0, self._log
        due = amount + min(
            0.0, self._used - self.limit
        )  # what is in flight beyond the limit was not counted when that was said
        self._log = deque[Entry]()
        for entry in log:
            if before < due < before + entry.amount:
                self._log.append(Entry(min(entry.at, until - stay_for), due - before))
                entry.amount -= due - before
                before = due
            before += entry.amount
            entry.at = min(entry.at, until + max(0.0, before - due) * self.period / self.limit - stay_for)
            self._log.append(entry)

    def take_back(self, mark: Mark, amount: float) -> None:
        """Undo `amount` of a charge."""
        entry = mark[0]
        entry.amount -= amount
        if entry.counted:
            self._used -= amount

    def exceed(self, mark: Mark, amount: float, now: float) -> None:
        """What was charged has turned out to be `amount` more: it leaves with the rest of it, and there never was room for it."""
        self.take_back(mark, -amount)
        if self.mirrored:
            self._lows.lower(mark[1] - 1, amount)

    def connecting(self, mark: Mark, amount: float) -> Mark:
        """The request of a charge waits for a connection: it is of no granule, and stays."""
        self.take_back(mark, amount)
        self._used += amount
        self.unsent += amount
        return Entry(math.inf, amount), mark[1]

    def counts(self, mark: Mark) -> bool:
        """Whether a charge has not left yet."""
        return mark[0].counted

    def answered(self, mark: Mark, amount: float, at: float, now: float) -> Mark:
        """The charge made at `at` has been counted by `now`. Where that was a moment it counts from now, since a window that is left
        too early is refused whole; where it was long, the margin has to do."""
        if now - at > min(PROMPT, PROMPT_RATIO * self.period):
            return mark
        self.take_back(mark, amount)
        return self.charge(amount, now)[0], mark[1]

    def level(self, now: float) -> tuple[float, float, float]:
        """`(held, full_at, valid_until)`: what is held stays until the oldest entry leaves."""
        self.forget(now)
        return self._used, math.inf, self._log[0].at + (self.period + self.margin) if self._log else math.inf

    def resize(self, limit: float, period: float, now: float) -> None:
        """Another limit or period; a longer one counts again what it would still have held."""
        self.limit = limit
        if period != self.period:
            self.period = period
            for entry in self._past:
                entry.counted = True
                self._used += entry.amount
                self.gone -= entry.open
            self._log.extendleft(reversed(self._past))
            self._past.clear()
        self.forget(now)

    def forget(self, now: float) -> None:
        """What was charged a period ago leaves."""
        log, stay_for = self._log, self.period + self.margin
        while log and log[0].at + stay_for <= now:
            entry = log.popleft()
            entry.counted = False
            self._used -= entry.amount
            if entry.open:
                self.gone += entry.open
                self.gone_ever += entry.open
            self._past.append(entry)
        if not log:
            self._used = self.unsent
