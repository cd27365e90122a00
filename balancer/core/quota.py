"""How one rate is counted: a `Bucket` refills continuously, a `SlidingWindow` lets each charge go one period later.

Both answer the same questions (`Counter`), and neither is ever told to be fuller than it is: what was charged can be taken
back only as far as it still counts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from typing import Any, ClassVar, Protocol

import attrs

MARGIN = 0.03
"""Seconds to wait beyond the law at first. The provider counts somewhere between our first byte out and its first byte back, so
two calls a period apart by our clock can be closer by its own; 5 and 10 ms still missed on a busy loopback, and a miss costs a
whole window."""

LEAST_MARGIN = 0.024
"""Seconds that the margin narrows to while no call is refused at a boundary. Between first byte out and counting lie at most some
20 ms where nothing is wrong; of a rate of one call a second every 10 ms more are a hundredth."""

MOST_MARGIN = 0.25
"""Seconds to wait at most, however often a call was refused right at a boundary."""

PROMPT = 0.1
PROMPT_RATIO = 0.02
"""An answer within so many seconds, and so much of the time in which a rate fills up, tells nearly when its request was counted;
to wait as much longer for the next costs at most that share of the rate."""

GRANULES = 500
"""Charges within this fraction of a period are kept as one, stamped at the latest: memory is bounded, the law is not broken, and what
was sent together comes back together. Apart by the difference of their answers, it would let small demands into the gap before a
large one; finer ones lose a larger share of the limit to that than this fraction."""

KEPT = 1024
"""Steps that a `Minima` tells apart before it forgets every other one."""

SLACK = 1e-6
"""Seconds by which a full bucket may seem too small: sums of floats near a clock of 10^6 s are that inexact."""

WHOLE = 1e-6
"""Units by which a window may seem too full, for the same reason."""


@attrs.define(eq=False)
class Minima:
    """The least of the values pushed since any earlier push: a stack in which numbers and values both rise.

    Its top is kept apart. While values fall, as room does while calls are placed, a push is two assignments, and the counters make
    these themselves: it is part of every charge.
    """

    last: int = attrs.field(init=False, default=0)
    """The number of the last push; 0 without one."""
    top: float = attrs.field(init=False, default=math.inf)
    """Its value."""
    _numbers: list[int] = attrs.field(init=False, factory=list[int])
    _values: list[float] = attrs.field(init=False, factory=list[float])

    def push(self, number: int, value: float) -> None:
        """Add a value under a number greater than all before it, and than 0."""
        if value > self.top:
            self.step()
        self.last, self.top = number, value

    def step(self) -> None:
        """The next value will be greater than the last: keep that one."""
        numbers, values = self._numbers, self._values
        while values and values[-1] >= self.top:
            values.pop()
            numbers.pop()
        numbers.append(self.last)
        values.append(self.top)
        if len(values) >= KEPT:  # every other one goes, its successors answer with the lesser value: never too much
            self._numbers, self._values = numbers[1::2], values[0::2]

    def after(self, number: int) -> float:
        """The least value pushed after `number`; `inf` if none was."""
        if number >= self.last:
            return math.inf
        place = bisect_right(self._numbers, number)
        return min(self._values[place], self.top) if place < len(self._values) else self.top

    def lower(self, number: int, by: float) -> None:
        """Lower every value pushed after `number`."""
        if number >= self.last:
            return
        self.top -= by
        numbers, values = self._numbers, self._values
        place = bisect_right(numbers, number)
        if place == len(values):
            return
        values[place:] = [value - by for value in values[place:]]
        first = bisect_right(values, values[place], 0, place)
        while first and values[first - 1] >= values[place]:
            first -= 1
        del numbers[first:place], values[first:place]


class Counter(Protocol):
    """How one rate is counted. A mark is the counter's own handle of a charge."""

    limit: float
    period: float
    margin: float
    """Seconds by which the provider may have counted later than we did."""
    charges: int
    """Charges made so far: the number of the last one."""
    open: float
    """Units charged that may still be taken back: those of attempts that have not ended, and those that evidence called for."""
    mirrored: bool
    """Whether answers show this rate, so that it is kept how much room each charge left."""
    grain: ClassVar[float]
    """Units by which an honest provider's integers may differ from ours."""

    @property
    def burst(self) -> float:
        """The largest demand that ever fits."""
        ...

    def earliest(self, amount: float, now: float) -> float:
        """When `amount` fits: `now` if at once, `inf` if never."""
        ...

    def behind(self, before: float, amount: float, now: float) -> float:
        """When `amount`, which may ever fit, would fit if `before` were charged now."""
        ...

    def charge(self, amount: float, now: float) -> Any:
        """Take `amount`, whether it fits or not; returns its mark."""
        ...

    def take_back(self, mark: Any, amount: float) -> None:
        """Undo `amount` of a charge, as if it had not been made."""
        ...

    def exceed(self, mark: Any, amount: float, now: float) -> None:
        """What was charged has turned out to be `amount` more."""
        ...

    def connecting(self, mark: Any, amount: float) -> Any:
        """The request of a charge waits for a connection, so it does not leave before it is made anew; returns its mark from now on."""
        ...

    def connected(self, amount: float) -> None:
        """It waits no more: its charge is taken back or made anew next."""
        ...

    def moved(self, now: float) -> None:
        """A charge has been taken back, since its request is written only now."""
        ...

    def number(self, mark: Any) -> int:
        """The number of a charge."""
        ...

    def least_room(self, number: int) -> float:
        """The least room that the charge of a number, or a later one, left: an honest response to its request shows at least that.
        `inf` where it is not kept."""
        ...

    def counts(self, mark: Any) -> bool:
        """Whether a charge still counts, if only in part."""
        ...

    def answered(self, mark: Any, amount: float, at: float, now: float) -> Any:
        """The charge made at `at` has been counted by `now`, since its answer has begun; returns its mark from now on."""
        ...

    def level(self, now: float) -> tuple[float, float, float]:
        """`(held, full_at, valid_until)`: until `valid_until` the units in use are `min(held, (full_at - now) limit / period)`."""
        ...


def in_use(held: float, full_at: float, per_second: float, now: float) -> float:
    """Units in use, from what `Counter.level` returned."""
    return max(0.0, min(held, (full_at - now) * per_second))


def room(counter: Counter, now: float) -> float:
    """Units that fit at once; negative in debt."""
    held, full_at, _ = counter.level(now)
    return counter.burst - in_use(held, full_at, counter.limit / counter.period, now)


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


@attrs.define(eq=False)
class Entry:
    """Charges of one granule: they count until a period after `at`, the latest of them. `open`: units of estimates among them."""

    at: float
    amount: float
    counted: bool = True
    open: float = 0.0


Mark = tuple[Entry, int]


@attrs.define(eq=False)
class SlidingWindow:
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

    @property
    def burst(self) -> float:
        """The largest demand that ever fits."""
        return self.limit

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

    def connected(self, amount: float) -> None:
        """It waits no more."""
        self.unsent -= amount

    def moved(self, now: float) -> None:
        """Every charge is made and leaves on its own."""

    def number(self, mark: Mark) -> int:
        """The number of a charge."""
        return mark[1]

    def least_room(self, number: int) -> float:
        """The least room that the charge of a number, or a later one, left."""
        return self.limit + self._lows.after(number - 1)

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
