"""One account's ledger: every rate that limits it, what is reserved and charged of each, and the mirror of the provider's count.

A demand goes when every rate admits it. It is reserved before it is sent and ends once: settled with what it really took
(more than reserved is debt, never forgiven), or refunded if the provider never counted it. What responses show of a limit
lowers its rate at once and never raises it; a limit that nobody configured becomes a learned rate beside the others.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import attrs

from balancer.core.call import DIMENSIONS, Demand, Usage
from balancer.core.learning import LONGEST, Learning
from balancer.core.outcome import LimitSeen
from balancer.core.quota import Bucket, Counter, SlidingWindow, in_use, room
from balancer.core.settings import Limits, Rate

REMEMBERED = 256
"""Ended reservations to seed a rate with that appears later, and entries of a learned rate to bring back."""

MOST_LEARNED = 16
"""Learned rates per account: names in headers are the provider's to choose, memory is ours."""

MOST_AMOUNT = 1e15

PROMPT = 0.1
PROMPT_RATIO = 0.02
"""An answer within so many seconds, and so much of a rate's period, tells nearly when its request was counted; to wait as much
longer for the next costs at most that share of the rate."""

AGED_SAMPLES = 16
"""Responses whose age of the oldest charge is looked up; later ones cannot tell a window's period better than the first."""


@attrs.frozen
class DimensionSnapshot:
    """One rate at one moment; amounts are computed from instants when they are asked for.

    Attributes:
        dimension: what it counts, one of `DIMENSIONS`.
        name: tells several rates of one dimension apart.
        period: seconds.
        limit: units per period.
        burst: units that may go at once; the largest demand that ever fits.
        learned: whether it was learned from headers, not configured.
        reserved: units under reservations that have not ended.
        held: units in use at most.
        full_at: trio time at which refill alone has freed everything; `inf` where charges leave one by one.
        valid_until: trio time from which a new snapshot shows more room than this one computes.
    """

    dimension: str
    name: str
    period: float
    limit: float
    burst: float
    learned: bool
    reserved: float
    held: float
    full_at: float
    valid_until: float

    def used(self, now: float) -> float:
        """Units in use: reserved, charged, in debt."""
        return in_use(self.held, self.full_at, self.limit / self.period, now)

    def room(self, now: float) -> float:
        """Units that fit at once; negative in debt."""
        return self.burst - self.used(now)


@attrs.define(eq=False)
class Line:
    """One rate of the ledger."""

    dimension: str
    name: str
    counter: Counter
    learned: bool = False
    reserved: float = 0.0

    def book(self, amount: float, now: float) -> Booking:
        """Charge what a reservation demands of this rate."""
        counter = self.counter
        mark = counter.charge(amount, now) if amount else None
        return Booking(self, amount, mark, counter.lows.pushed)

    def correct(self, booking: Booking, amount: float, now: float) -> None:
        """Charge `amount` in the place of what was booked."""
        if amount > booking.amount:
            self.counter.charge(amount - booking.amount, now)
        elif amount < booking.amount:
            self.counter.take_back(booking.mark, booking.amount - amount)

    def lower(self, remaining: float, rounding: float, reservation: Reservation, now: float) -> None:
        """Charge now what somebody else must have taken, if the provider's `remaining` can be explained in no other way.

        The provider counted at some moment since the request was reserved, so the least room of that time explains it.
        """
        least = room(self.counter, now)
        for booking in reservation.bookings:
            if booking.line is self:
                uncounted = booking.amount if reservation.refunded else 0.0
                least = min(least, self.counter.lows.after(booking.number - 1) + uncounted)
        if least - remaining > max(rounding, self.counter.grain):
            self.counter.charge(least - remaining, now)

    def view(self, now: float) -> DimensionSnapshot:
        """This rate at this moment."""
        counter = self.counter
        held, full_at, valid_until = counter.level(now)
        return DimensionSnapshot(
            self.dimension,
            self.name,
            counter.period,
            counter.limit,
            counter.burst,
            self.learned,
            self.reserved,
            held,
            full_at,
            valid_until,
        )


@attrs.define(eq=False)
class Booking:
    """What one reservation has taken of one rate: the amount, the counter's mark of it, its number among the charges."""

    line: Line
    amount: float
    mark: Any
    number: int


@attrs.define(eq=False)
class Reservation:
    """A demand booked in the ledger; it ends once, settled or refunded.

    Attributes:
        demand: what was reserved.
        at: trio time from which it counts.
        ended: whether it has been settled or refunded.
        refunded: whether the provider did not count it.
        usage: what it really took, once settled and if known.
        bookings: the ledger's own.
    """

    demand: Demand
    at: float
    bookings: list[Booking]
    ended: bool = False
    refunded: bool = False
    usage: Usage | None = None


@attrs.define(eq=False, init=False)
class Ledger:
    """The state of one account's quota."""

    _lines: tuple[Line, ...]
    _learning: dict[tuple[str, str], Learning]
    _open: dict[Reservation, None]
    _recent: deque[Reservation]

    def __init__(self, limits: Limits) -> None:
        self._lines = tuple(_line(limits, dimension, rate) for dimension, rate in limits.rates())
        self._learning = {}
        self._open = {}
        self._recent = deque(maxlen=REMEMBERED)

    def enforced(self) -> bool:
        """Whether any rate exists."""
        return bool(self._lines)

    def earliest(self, demand: Demand, now: float) -> float:
        """Trio time from which every rate admits the demand: `now` if at once, `inf` if it never fits."""
        fits_at = now
        for line in self._lines:
            if amount := getattr(demand, line.dimension):
                fits_at = max(fits_at, line.counter.earliest(amount, now))
        return fits_at

    def reserve(self, demand: Demand, now: float) -> Reservation:
        """Charge every rate; the caller has found `earliest()` at or before `now`."""
        bookings: list[Booking] = []
        for line in self._lines:
            booking = line.book(getattr(demand, line.dimension), now)
            line.reserved += booking.amount
            bookings.append(booking)
        reservation = Reservation(demand, now, bookings)
        self._open[reservation] = None
        return reservation

    def restamp(self, reservation: Reservation, now: float) -> None:
        """The request's first byte was written only now: rates count it from here."""
        if reservation.ended or reservation.at == now:
            return
        reservation.at = now
        for booking in reservation.bookings:
            if booking.amount:
                counter = booking.line.counter
                counter.take_back(booking.mark, booking.amount)
                booking.mark = counter.charge(booking.amount, now)
                booking.number = counter.lows.pushed

    def counted_by(self, reservation: Reservation, now: float) -> None:
        """The answer has begun, so the provider has counted the request between its first byte out and now. Where that is a
        moment, count it from now: a window that is left too early is refused whole. Where it is long, the margin has to do."""
        if reservation.ended:
            return
        for booking in reservation.bookings:
            counter = booking.line.counter
            if booking.amount and now - reservation.at <= min(PROMPT, PROMPT_RATIO * counter.period):
                counter.take_back(booking.mark, booking.amount)
                booking.mark = counter.charge(booking.amount, now)

    def settle(self, reservation: Reservation, usage: Usage | None, now: float) -> None:
        """End a reservation that was sent, with what it really took; `None`: as estimated. Further ends change nothing."""
        if reservation.ended:
            return
        reservation.ended, reservation.usage = True, usage
        self._open.pop(reservation, None)
        self._recent.append(reservation)
        for booking in reservation.bookings:
            line = booking.line
            line.reserved -= booking.amount
            if usage is not None and (amount := max(0, getattr(usage, line.dimension))) != booking.amount:
                line.correct(booking, amount, now)

    def refund(self, reservation: Reservation, now: float) -> None:
        """End a reservation that the provider never counted. Further ends change nothing."""
        if reservation.ended:
            return
        reservation.ended = reservation.refunded = True
        self._open.pop(reservation, None)
        for booking in reservation.bookings:
            booking.line.reserved -= booking.amount
            booking.line.correct(booking, 0.0, now)

    def outstanding(self) -> tuple[Reservation, ...]:
        """The reservations that have not ended."""
        return tuple(self._open)

    def observe(self, seen: tuple[LimitSeen, ...], now: float, reservation: Reservation) -> None:
        """Take in what the response to `reservation` showed: lowers rates, learns those that nobody configured.

        A refused reservation is refunded first: the provider's count does not hold it.
        """
        for limit_seen in seen:
            line = self._configured(limit_seen) or self._learned(limit_seen, now)
            remaining = limit_seen.remaining
            if line is not None and remaining is not None and 0 <= remaining <= line.counter.limit:
                line.lower(remaining, limit_seen.rounding, reservation, now)

    def replace(self, limits: Limits, now: float) -> None:
        """Other settings; what was charged is kept, and what was learned, unless it is configured now."""
        old = [line for line in self._lines if not line.learned]
        lines: list[Line] = []
        for dimension, rate in limits.rates():
            before = next((line for line in old if line.dimension == dimension and line.counter.period == rate.per), None)
            if before is not None:
                old.remove(before)
            lines.append(self._succeed(before, _line(limits, dimension, rate), now))
        known = {(line.dimension, line.counter.limit) for line in lines}
        learned = [line for line in self._lines if line.learned and (line.dimension, line.counter.limit) not in known]
        self._learning = {(line.dimension, line.name): self._learning[line.dimension, line.name] for line in learned}
        self._lines = (*lines, *learned)

    def views(self, now: float) -> tuple[DimensionSnapshot, ...]:
        """Every rate at this moment."""
        return tuple([line.view(now) for line in self._lines])

    def _succeed(self, before: Line | None, line: Line, now: float) -> Line:
        """The line that counts on for `before` under new settings: the same one where it can be resized."""
        if before is not None:
            match before.counter, line.counter:
                case Bucket() as counter, Bucket() as new if counter.period == new.period:
                    counter.resize(new.limit, new.burst, now)
                    return before
                case SlidingWindow() as counter, SlidingWindow() as new:
                    counter.resize(new.limit, new.period, now)
                    return before
                case _:
                    pass
        self._seed(line, now)
        if before is not None:
            used = before.counter.burst - room(before.counter, now)
            missing = used - (line.counter.burst - room(line.counter, now))
            if missing > 0.0:
                line.counter.charge(missing, now)
        return line

    def _seed(self, line: Line, now: float) -> None:
        """Charge a new rate with what was sent before it appeared."""
        for reservation in sorted((*self._recent, *self._open), key=lambda reservation: reservation.at):
            taken = reservation.usage or reservation.demand
            booking = line.book(max(0, getattr(taken, line.dimension)), reservation.at)
            reservation.bookings.append(booking)
            if not reservation.ended:
                line.reserved += booking.amount

    def _configured(self, seen: LimitSeen) -> Line | None:
        """The configured rate that `seen` is about. Of two with one amount the shorter: it forgets a mistake sooner."""
        same = [line for line in self._lines if line.dimension == seen.dimension and not line.learned]
        if seen.limit is None:
            return same[0] if len(same) == 1 else None
        same = [line for line in same if line.counter.limit == seen.limit]
        return min(same, key=lambda line: line.counter.period, default=None)

    def _learned(self, seen: LimitSeen, now: float) -> Line | None:
        """The learned rate that `seen` is about, with what it teaches taken in; `None` while the period is unknown."""
        key = seen.dimension, seen.name
        learning = self._learning.get(key)
        if learning is None:
            if seen.dimension not in DIMENSIONS or not _amount(seen.limit) or len(self._learning) >= MOST_LEARNED:
                return None
            learning = self._learning[key] = Learning()
        if seen.limit is not None and _amount(seen.limit):
            learning.limit = float(seen.limit)
        if seen.remaining is not None and seen.reset_after is not None:
            used = learning.limit - seen.remaining
            if 0 < used <= learning.limit and 0 < seen.reset_after <= LONGEST:
                oldest_for = self._oldest_for(seen.dimension, used, now) if learning.samples < AGED_SAMPLES else math.inf
                learning.see(used, seen.rounding, float(seen.reset_after), oldest_for)
        return self._taught(key, learning, now)

    def _taught(self, key: tuple[str, str], learning: Learning, now: float) -> Line | None:
        """The learned rate as `learning` has it now; made when its period becomes known."""
        limit, period = learning.limit, learning.period
        if not period:
            return None
        old = next((line for line in self._lines if line.learned and (line.dimension, line.name) == key), None)
        # A window admits nothing that a bucket would not: until it is sure to refill, it is counted as one.
        refills = learning.refills or (old is not None and isinstance(old.counter, Bucket))
        counter = Bucket(limit, period, limit) if refills else SlidingWindow(limit, period, memory=REMEMBERED)
        if old is not None and (old.counter.limit, old.counter.period, type(old.counter)) == (limit, period, type(counter)):
            return old
        line = self._succeed(old, Line(*key, counter, learned=True), now)
        self._lines = (*(kept for kept in self._lines if kept is not old), line) if line is not old else self._lines
        return line

    def _oldest_for(self, dimension: str, used: float, now: float) -> float:
        """Seconds since the oldest charge we know of; `inf` if ours do not explain `used`."""
        known = (*self._recent, *self._open)
        if not known or sum(getattr(reservation.usage or reservation.demand, dimension) for reservation in known) < used:
            return math.inf
        return now - min(reservation.at for reservation in known)


def _line(limits: Limits, dimension: str, rate: Rate) -> Line:
    if limits.window == "sliding":
        return Line(dimension, dimension, SlidingWindow(rate.amount, rate.per))
    burst = rate.amount if limits.burst is None else min(limits.burst, rate.amount)
    return Line(dimension, dimension, Bucket(rate.amount, rate.per, burst))


def _amount(limit: float | None) -> bool:
    return limit is not None and 0 < limit <= MOST_AMOUNT
