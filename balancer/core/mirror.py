"""The mirror of the provider's own count of one rate: what somebody else is charged with, so that no more seems left than is shown.

It goes down at once and up only where evidence had lowered it: what an answer shows is compared with the room there was at some
moment since its request was sent, and only what no such moment explains is charged to somebody else. A later answer that shows more
gives that back, as far as attempts that the provider may not have counted by then leave room for it. One that shows more still tells
that not all that is charged here counts against the limit that it shows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import attrs

from balancer.core.bucket import Bucket
from balancer.core.calendar import CalendarWindow
from balancer.core.others import LATE, leaving
from balancer.core.outcome import LimitSeen
from balancer.core.quota import Counter, in_use, room
from balancer.core.sliding import SlidingWindow

MOST_EVIDENCE = 64
"""Charges to somebody else's account that can be given back; older ones only time frees."""

CLEARLY = 0.1
"""Share of a limit by which an answer must show more than ours leave before it tells anything."""

AGREED = 0.01
"""The same by which an answer may show more and still agree."""

DRIFT = 0.05
"""By how much a learned period may be too long, as a share of it, without anything being concluded from that."""

AT_ONCE = 0.01
"""Share of a period by which the provider's window may seem to begin later than ours does."""

ROUNDED = 0.05
"""The same of a reset in whole seconds, one second at most."""

WHOLE_SECONDS = 2.0
"""Seconds by which a reset in whole seconds may come sooner than it says: an instant that is rounded up, read against a date that is
cut off."""

OF_WINDOWS = (1.0, 5.0, 10.0, 30.0, 60.0, 3600.0, 86400.0)
"""Seconds of the periods that windows usually have."""


class _Held:
    """The mark of what is counted only at the end."""


HELD = _Held()


class Sent(NamedTuple):
    """What one line knows of an attempt: what is booked for it, its mark, when it was sent, whether it was refused."""

    amount: float
    mark: Any
    at: float
    refused: bool


class Evidence(NamedTuple):
    """One charge to somebody else: its mark, the units of it that have not been given back, when it was made."""

    mark: Any
    amount: float
    at: float


@attrs.define(eq=False)
class Mirror:
    """What answers have shown of one rate beside our own count of it.

    Args:
        counter: our own, which holds what somebody else is charged with as well.
        learned: whether the rate was learned from answers.

    Attributes:
        lowered: units charged to somebody else so far.
        tracked: whether there is evidence or doubt, so that it has to be told of every charge.
        charged: units charged for attempts so far, while tracked.
    """

    _counter: Counter
    _learned: bool
    lowered: float = attrs.field(init=False, default=0.0)
    tracked: bool = attrs.field(init=False, default=False)
    charged: float = attrs.field(init=False, default=0.0)
    _evidence: list[Evidence] = attrs.field(init=False, factory=list[Evidence])
    _lowered_at: float = attrs.field(init=False, default=-math.inf)
    _doubted: bool = attrs.field(init=False, default=False)
    """Whether answers show more than ours seem to leave."""
    _agreed_at: float = attrs.field(init=False, default=-math.inf)
    """When an answer last showed no more than ours leave."""
    _before: dict[int, tuple[float, float]] = attrs.field(init=False, factory=dict[int, tuple[float, float]])
    """For charges of open attempts that are tracked, by number: `charged` and the units reserved, before them."""

    # -- asking -----------------------------------------------------------------------------------------------------------

    def foreign(self) -> float:
        """Units charged to somebody else that can still be given back."""
        return sum(each.amount for each in self._evidence)

    def ours(self, now: float) -> float:
        """Units in use that this balancer took."""
        return self._counter.burst - room(self._counter, now) - self.foreign()

    def reserved(self, open_units: float) -> float:
        """Units under reservations, of those that are open."""
        return max(0.0, open_units - self.foreign()) if self._evidence else open_units

    def left(self, sent: Sent, now: float) -> tuple[float, float]:
        """Units that fit now, and the least that did at any moment since the attempt was sent."""
        counter, left = self._counter, room(self._counter, now)
        number = self._number(sent)
        if not number:
            return left, left
        return left, min(left, counter.least_room(number) + (sent.amount if sent.refused else 0.0))

    def missing(self, sent: Sent, until: float, now: float) -> float:
        """Units by which there is less room than it seems, if an attempt that was refused fits at `until`; one that is over: if there
        is none."""
        counter = self._counter
        if until <= now:
            return room(counter, now)
        held, full_at, _ = counter.level(now)
        return counter.burst - in_use(held, full_at, counter.limit / counter.period, until) - sent.amount

    # -- what answers show --------------------------------------------------------------------------------------------------

    def track(self, reserved: float, amount: float) -> None:
        """The counter's last charge is one for an attempt, before which so much was reserved."""
        self._before[self._counter.charges] = self.charged, reserved
        self.charged += amount

    def untrack(self, mark: Any) -> None:
        """The attempt of a charge has ended."""
        self._before.pop(self._counter.number(mark), None)

    def take_in(self, remaining: float, rounding: float, sent: Sent, now: float, until: float, kept_back: float = 0.0) -> float:
        """Take in what the answer to one attempt shows.

        Args:
            remaining: units left by the provider's count.
            rounding: by how much that may be too small.
            sent: the attempt.
            now: trio time.
            until: trio time at which there will be more: if the attempt was refused for want of units, it fits then.
            kept_back: units that are kept free already, and not used by anybody else.

        Returns:
            By how many units there is more room than before, at most; below 0: by how many there is less.
        """
        counter = self._counter
        counter.mirrored = True
        left, least = self.left(sent, now)
        by = least - remaining - kept_back
        fits = sent.amount if sent.refused and remaining < sent.amount else 0.0
        change = 0.0
        if by > max(rounding, counter.grain):
            self.lower(by, now, fits, until)
            change = -by
        elif self._evidence and sent.at >= self._lowered_at and (number := self._number(sent)) in self._before:
            change = max(0.0, remaining - rounding - self._uncounted(number, sent) - left)
            self._give_back(change)
        if fits and until > now:
            if isinstance(counter, CalendarWindow):
                counter.starts_at(until)
            self.fit(fits, until, now)
        return change

    def hold(self, remaining: float, reset_after: float, now: float) -> None:
        """The provider counts a window, and shows what remains of it and a reset: nothing that it holds leaves before. Where its windows
        are fixed, that is later than a period says which was learned from what was left of the first.

        A reset may have been written when the request was counted, and read a whole answer later: nothing is held for longer than the
        next period that is usual, and where that has been learned already, our own count is better.
        """
        counter = self._counter
        longest = next((period for period in OF_WINDOWS if period >= counter.period), 0.0)
        until = now + reset_after - (WHOLE_SECONDS if reset_after.is_integer() else 0.0)
        if isinstance(counter, SlidingWindow) and longest > counter.period and counter.level(now)[2] < until:
            counter.hold(counter.limit - remaining, until, longest)

    def wait(self, amount: float, until: float, now: float) -> None:
        """Nothing more comes back before `until`, so that `amount` does not fit sooner: a bucket does not refill as it seemed. No longer
        than a period, in which all of any limit comes back."""
        counter = self._counter
        if isinstance(counter, Bucket):
            full_at = max(now + counter.margin, counter.level(now)[1])
            refilled = (min(until, now + counter.period) - full_at) * counter.limit / counter.period
            if (by := refilled + counter.burst - amount) > 0.0:
                self.lower(by, now)

    def refused(self, sent: Sent, until: float, now: float, kept_back: float | None = None) -> None:
        """The provider refused an attempt over this rate: there is no room, or as much less than it seems as makes it fit at `until`.
        `kept_back`: units of what is estimated that are kept free already; `None` if nothing is."""
        by, free = self.missing(sent, until, now), kept_back or 0.0
        if until > now and not isinstance(self._counter, Bucket) and (kept_back is None or by > kept_back):
            by += sent.amount  # which fits no sooner, be it ever so little too much; of estimates nobody knows that
        if by > free:
            self.lower(by - free, now, sent.amount, until)
        if until > now:
            self.fit(sent.amount, until, now)

    def fit(self, amount: float, until: float, now: float) -> None:
        """The provider says that `amount` fits at `until`. What was learned may be counted otherwise than it seemed."""
        counter = self._counter
        if self._learned and isinstance(counter, SlidingWindow):
            held = counter.used_at(until + LATE)
            if held + amount > counter.limit and counter.used_at(now) - held < amount:
                counter.fit(amount, until)

    def contradicted(self, seen: LimitSeen, remaining: float, sent: Sent, now: float) -> bool | None:
        """Whether an answer shows clearly more than could be left if all that is charged here counted against the limit that it shows;
        `None` if what is in flight may be the reason. Attempts are tracked from the first answer that seems to."""
        counter = self._counter
        held, full_at, held_until = counter.level(now)
        per_second = counter.limit / counter.period
        more = remaining - seen.rounding - counter.burst + in_use(held, full_at, per_second, now) - self.foreign()
        if more <= max(0.0, AGREED * counter.limit - seen.rounding):
            self._agreed_at = now
        # A bucket with a period that is a little too long falls behind for as long as it is busy.
        drifts_for = max(0.0, now - max(self._agreed_at, full_at - held / per_second)) if full_at < math.inf else 0.0
        more -= max(counter.grain, CLEARLY * counter.limit) + (counter.margin + DRIFT * drifts_for) * per_second
        if more <= 0.0:
            self._doubted, self.tracked = False, bool(self._evidence)
            return False
        reset_after = float(seen.reset_after or 0.0)
        late_for = AT_ONCE * counter.period + (min(1.0, ROUNDED * counter.period) if reset_after.is_integer() else 0.0)
        if held_until < now + reset_after - late_for:
            return None  # a window of the provider's own, which began after charges that we still count
        if not self._doubted:
            self._track()
            self._doubted = True
        number = self._number(sent)
        return more > self._uncounted(number, sent) if number in self._before else None

    # -- charging somebody else -----------------------------------------------------------------------------------------------

    def lower_to(self, most: float, now: float) -> None:
        """Leave room for `most` units at most."""
        if (by := room(self._counter, now) - most) > 0.0:
            self.lower(by, now)

    def lower(self, by: float, now: float, fits: float = 0.0, until: float = -math.inf) -> None:
        """Charge somebody else; what leaves of it at a stated time does so."""
        self._track()
        self._lowered_at = now
        self.lowered += by
        counter = self._counter
        if isinstance(counter, SlidingWindow):
            parts = leaving(counter, by, fits, until, now)
            self._evidence += [Evidence(counter.charge_until(part, leaves_at, now), part, now) for part, leaves_at in parts]
        else:
            self._evidence.append(Evidence(counter.charge(by, now), by, now))
        counter.open += by
        while len(self._evidence) > MOST_EVIDENCE:
            self._forget_oldest()

    def forget(self, now: float) -> None:
        """What was charged to somebody else a period ago can no more be given back."""
        evidence, period = self._evidence, self._counter.period
        while evidence and evidence[0].at <= now - period:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """From now on only time frees it."""
        oldest = self._evidence.pop(0)
        self._counter.open = max(0.0, self._counter.open - oldest.amount)

    def _give_back(self, most: float) -> None:
        """Take back charges to somebody else, the newest first, by `most` units in all."""
        counter = self._counter
        while self._evidence and most > 0.0:
            mark, amount, at = self._evidence.pop()
            back = min(amount, most)
            most -= back
            counter.take_back(mark, back)
            counter.open = max(0.0, counter.open - back)
            if back < amount:
                self._evidence.append(Evidence(mark, amount - back, at))
        self.tracked = self._doubted or bool(self._evidence)

    # -- what it may not have counted -----------------------------------------------------------------------------------------

    def _track(self) -> None:
        """Keep track of attempts from now on."""
        if not self.tracked:
            self.tracked = True
            self._before.clear()

    def _number(self, sent: Sent) -> int:
        """The number of an attempt's charge; 0 without one."""
        return 0 if sent.mark is None or sent.mark is HELD else self._counter.number(sent.mark)

    def _uncounted(self, number: int, sent: Sent) -> float:
        """Units of ours beside an attempt that is tracked which the provider may not have counted when it wrote the answer to it."""
        charged, open_before = self._before[number]
        return self.charged - charged - sent.amount + open_before
