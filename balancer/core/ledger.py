"""One account's ledger: every rate that limits it, what is reserved and charged of each, and the mirror of the provider's count.

A demand goes when every rate of its model admits it. It is reserved before it is sent and ends once: settled with what it really
took (more than reserved is debt, never forgiven), or refunded if the provider never counted it. What responses show of a limit
is mirrored; a limit that nobody configured becomes a learned rate beside the others, from headers or else from refusals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import attrs

from balancer.core.calendar import APART, load_zone, next_start
from balancer.core.call import ESTIMATED, Demand, Usage
from balancer.core.dimension import DimensionSnapshot
from balancer.core.history import History
from balancer.core.learned import MOST_MODELS
from balancer.core.limits import NO_PRESETS, Limits, Presets
from balancer.core.line import Line
from balancer.core.lines import lines_of
from balancer.core.outcome import LimitSeen
from balancer.core.paces import Paces
from balancer.core.quota import MOST_MARGIN, room
from balancer.core.refusing import LONGEST_UNNAMED, at_boundary, named, shortest
from balancer.core.reservation import NOTHING, Reservation
from balancer.core.shown import ShownRates

SURPRISES = 8
"""Refusals within one period of a rate after which it is not believed alone."""

CALMED = 0.99
"""What a served answer leaves of a margin."""

WARNED = 0.75
"""Of a margin that a refusal has widened, what it never narrows below again."""


@attrs.define(eq=False, init=False)
class Ledger:
    """The state of one account's quota.

    Args:
        limits: what is configured.
        presets: how the provider counts.
        shared: the lines of the limits that it shares with other accounts.
        anchor: some trio time and the epoch seconds at it, for rates of the calendar.
        mirrored: whether answers are expected to show rates.
    """

    _lines: tuple[Line, ...]
    _own: tuple[Line, ...]
    _shared: tuple[Line, ...]
    _met: WeakSet[Line]
    """The lines that it shares, or has shared."""
    _by_model: dict[str | None, tuple[Line, ...]] | None
    """The lines of each model; `None` while all have the same."""
    _shown: ShownRates
    _history: History
    _paces: Paces
    _open: dict[Reservation, None]
    _recent: deque[Reservation]
    _presets: Presets
    _anchor: tuple[float, float]
    _mirrored: bool
    counts_tokens: bool
    """Whether any rate is of what can only be estimated."""
    _narrowing: bool
    """Whether a margin may still narrow."""

    def __init__(
        self,
        limits: Limits,
        presets: Presets = NO_PRESETS,
        *,
        shared: Sequence[Line] = (),
        anchor: tuple[float, float] = (0.0, 0.0),
        mirrored: bool = True,
    ) -> None:
        self._anchor, self._mirrored, self._narrowing = anchor, mirrored, True
        self._presets = presets
        self._own = tuple(lines_of(limits, self._presets, anchor))
        self._shared, self._met = tuple(shared), WeakSet(shared)
        self._history = History()
        self._shown = ShownRates(self._history, presets, anchor, self._arrange)
        self._paces = Paces(self._history, self._arrange)
        self._open, self._recent = self._history.open, self._history.recent
        self._arrange()

    # -- asking -----------------------------------------------------------------------------------------------------------

    @property
    def lines(self) -> tuple[Line, ...]:
        """Every rate."""
        return self._lines

    def enforced(self) -> bool:
        """Whether any rate exists."""
        return bool(self._lines)

    def admits(self, demand: Demand, now: float, model: str | None = None) -> bool:
        """Whether every rate of the model admits the demand now."""
        lines = self._lines if self._by_model is None else self._lines_for(model)
        for line in lines:  # noqa: SIM110 - asked for every attempt, and a generator costs as much again
            if (amount := line.demanded(demand)) and not line.admits(amount, now):
                return False
        return True

    def earliest(
        self, demand: Demand, now: float, model: str | None = None, before: Mapping[Line, float] | None = None
    ) -> float:
        """Trio time from which every rate of the model admits the demand: `now` if at once, or once attempts in flight have ended;
        `inf` if it never fits. With `before`, as if these units were booked now, before it."""
        fits_at = now
        for line in self._lines_for(model):
            if amount := line.demanded(demand):
                at = line.earliest(amount, now, 0.0 if before is None else before.get(line, 0.0))
                fits_at = max(fits_at, at)
        return fits_at

    def amounts(self, demand: Demand, model: str | None = None) -> dict[Line, float]:
        """Units that the demand takes of every rate of the model, shared ones among them."""
        return {line: line.demanded(demand) for line in self._lines_for(model)}

    def fitting(self, demand: Demand, model: str | None = None) -> Demand:
        """An estimate cut to what every rate of the model can ever admit, one unit at least: an estimate is no reason never to try."""
        for line in self._lines_for(model):
            amount = line.demanded(demand)
            if amount > line.counter.burst and line.dimension in ESTIMATED:
                share = line.counter.burst / amount
                tokens, output = int(demand.input_tokens * share), int(demand.output_tokens * share)
                demand = Demand(tokens, output, demand.requests, demand.images, int(demand.output_bound * share))
                if not line.demanded(demand):  # for nothing there is always room
                    one = ("output_tokens", "max_output_tokens") if line.dimension == "output_tokens" else ("input_tokens",)
                    demand = demand._replace(**dict.fromkeys(one, 1))
        return demand

    def day_ends_at(self, now: float) -> float | None:
        """Trio time at which the provider's day ends; `None` if nothing says in which zone it lives."""
        told = [line.terms.zone for line in self._own if line.terms is not None and line.terms.window == "calendar"]
        told += [counting.zone for counting in self._presets.values() if counting.window == "calendar" and counting.zone]
        if not told:
            return None
        began_at, epoch = self._anchor
        return now + next_start(epoch + (now - began_at), "day", load_zone(told[0])) - (epoch + (now - began_at)) + APART

    def outstanding(self) -> tuple[Reservation, ...]:
        """The reservations that have not ended."""
        return tuple(self._open)

    def views(self, now: float) -> tuple[DimensionSnapshot, ...]:
        """Every rate at this moment."""
        return tuple([line.view(now) for line in self._lines]) if self._lines else ()

    # -- booking ----------------------------------------------------------------------------------------------------------

    def reserve(self, demand: Demand, now: float, model: str | None = None) -> Reservation:
        """Charge every rate of the model; the caller has found that they admit it."""
        lines = self._lines if self._by_model is None else self._lines_for(model)
        amounts: list[float] = NOTHING
        marks: list[Any] = NOTHING
        if lines:  # lists of its own then: reservations are kept long, and most accounts have few lines
            amounts, marks = [], []
            for line in lines:
                amount = line.demanded(demand)
                amounts.append(amount)
                marks.append(line.book(amount, now) if amount else None)
        reservation = Reservation(demand, model, now, lines, amounts, marks)
        self._open[reservation] = None
        return reservation

    def connecting(self, reservation: Reservation) -> None:
        """The request waits for a connection, and is written only then."""
        if not (reservation.ended or reservation.connecting):
            reservation.connecting = True
            for place, (line, amount, mark) in enumerate(reservation.booked()):
                reservation.marks[place] = line.connecting(amount, mark)

    def _connected(self, reservation: Reservation) -> None:
        """Or it will never be written."""
        reservation.connecting = False
        for line, amount, mark in reservation.booked():
            line.connected(amount, mark)

    def restamp(self, reservation: Reservation, now: float) -> None:
        """The request's first byte was written only now: rates count it from here."""
        if reservation.ended:
            return
        if reservation.connecting:
            self._connected(reservation)
        elif reservation.at == now:
            return
        reservation.at = now
        marks = reservation.marks
        for place, (line, amount) in enumerate(zip(reservation.lines, reservation.amounts, strict=True)):
            marks[place] = line.rebook(amount, marks[place], now)

    def counted_by(self, reservation: Reservation, now: float) -> None:
        """The answer has begun, so the provider has counted the request between its first byte out and now."""
        if reservation.ended:
            return
        marks, at = reservation.marks, reservation.at
        for place, (line, amount) in enumerate(zip(reservation.lines, reservation.amounts, strict=True)):
            marks[place] = line.answered(amount, marks[place], at, now)

    def settle(self, reservation: Reservation, usage: Usage | None, now: float) -> None:
        """End a reservation that was sent, with what it really took; `None`: as estimated. Further ends change nothing."""
        if reservation.ended:
            return
        if reservation.connecting:
            self.restamp(reservation, now)
        reservation.ended, reservation.usage = True, usage
        del self._open[reservation]
        self._recent.append(reservation)
        for line, amount, mark in reservation.booked():
            line.end(amount, mark, reservation.demand, usage, now)

    def refund(self, reservation: Reservation, now: float) -> None:
        """End a reservation that never reached the provider. Further ends change nothing."""
        if self._ends_refunded(reservation):
            for line, amount, mark in reservation.booked():
                line.undo(amount, mark)

    def refuse(self, reservation: Reservation, now: float) -> None:
        """End a reservation that the provider refused: what it counts all the same stays charged. Further ends change nothing."""
        if reservation.connecting:
            self.restamp(reservation, now)
        if self._ends_refunded(reservation):
            for line, amount, mark in reservation.booked():
                if line.failed_charged or line in self._paces.lines:  # a pace is of what is sent
                    line.end(amount, mark, reservation.demand, None, now)
                else:
                    line.undo(amount, mark)

    def _ends_refunded(self, reservation: Reservation) -> bool:
        if reservation.ended:
            return False
        reservation.ended = reservation.refunded = True
        if reservation.connecting:
            self._connected(reservation)
        del self._open[reservation]
        return True

    # -- learning ---------------------------------------------------------------------------------------------------------

    def observe(
        self,
        seen: tuple[LimitSeen, ...],
        now: float,
        reservation: Reservation,
        refused_for: float | None = None,
        until: float | None = None,
    ) -> bool:
        """Take in what the response to `reservation` showed: mirrors its rates, learns those that nobody configured.

        A refused reservation is ended first: the provider's count does not hold it. `refused_for`: seconds, where it says so and a
        passing limit was the reason. `until`: trio time at which to try again, where it says so, whatever was the reason.
        Returns whether a rate has more room than before.
        """
        more = False
        for each in seen:
            line, held = self._configured(each, reservation.model), False
            if line is None:
                line, drawn, held = self._shown.see(each, reservation, now, refused_for)
                more = more or drawn
            remaining = each.remaining
            if line is None or remaining is None or not 0 <= remaining <= line.counter.limit:
                continue
            sent = reservation.sent(line)
            in_vain = sent.refused and self._shown.in_vain(line)
            again_at = until if sent.refused and remaining < sent.amount and not in_vain else None
            if again_at is None and each.reset_after is not None:
                again_at = now + each.reset_after
            more = line.observe(remaining, each.rounding, sent, now, again_at or now) or more
            if each.next_unit and again_at is not None and remaining < sent.amount:
                line.mirror.wait(sent.amount, again_at, now)
            if held and each.reset_after is not None:
                line.mirror.hold(remaining, float(each.reset_after), now)
        return more

    def served(self, reservation: Reservation, now: float) -> None:
        """The provider let `reservation` through: margins narrow, paces rise."""
        reservation.served = True
        if self._paces.lines:
            self._paces.passed(reservation, now)
        if self.counts_tokens and not reservation.ended:
            for line, mark in zip(reservation.lines, reservation.marks, strict=True):
                line.served(mark, now)
        if self._narrowing:
            self._narrowing = False
            for line in self._lines:
                counter = line.counter
                if counter.margin > line.least_margin:
                    counter.margin = max(line.least_margin, counter.margin * CALMED)
                    self._narrowing = True

    def refused(
        self,
        reservation: Reservation,
        dimension: str | None,
        until: float | None,
        now: float,
        seen: tuple[LimitSeen, ...] = (),
    ) -> bool:
        """The provider refused `reservation`, which has ended, over a rate.

        A known rate that has just been waited for is from now on kept farther away from its boundary; one that is named and seems to
        have room has none. Where no rate explains the refusal, or one is wrong time and again, a pace is learned.

        Args:
            reservation: what was refused.
            dimension: the rate's dimension; `None` if the refusal does not say.
            until: trio time at which to try again; `None` if the refusal does not say.
            now: trio time.
            seen: the limits that the refusal shows, the one it is about among them if it names it.

        Returns:
            Whether the ledger holds later attempts back.
        """
        lines = [
            line
            for line in self._lines_for(reservation.model)
            if line.demanded(reservation.demand) and dimension in (None, line.dimension) and line not in self._paces.lines
        ]
        told = named(lines, seen, reservation)
        missed = at_boundary(told or lines, reservation, now)
        for line in missed:
            self._widen(line)
        about = missed or told or [line for line in lines if line.counter.period <= LONGEST_UNNAMED]
        waits = until is not None and until > now
        if dimension is None and not (waits and about and len({line.dimension for line in lines}) == 1):
            if missed or (lines and waits):
                return False
            about = []
        if not about:
            return self._paces.refused(reservation, dimension, until, now)
        for line in shortest(about):
            again_at = now if until is None or self._shown.in_vain(line) else until
            line.refused(reservation.sent(line), again_at, now)
            if line.surprised(reservation.at, now) >= SURPRISES:
                self._paces.refused(reservation, line.dimension, until, now)
        return True

    def _widen(self, line: Line) -> None:
        """Keep farther away from its boundary."""
        if line.least_margin < MOST_MARGIN:
            line.counter.margin = min(MOST_MARGIN, 2 * line.counter.margin)
            line.least_margin = WARNED * line.counter.margin
            self._narrowing = True

    # -- settings ---------------------------------------------------------------------------------------------------------

    def replace(self, limits: Limits, now: float, *, shared: Sequence[Line] = (), presets: Presets | None = None) -> None:
        """Other settings; what was charged is kept, and what was learned, unless it is configured now. `presets`: `None`: as before.

        A shared rate that is blank does not know what was sent before: everyone who shares it charges that to it, once.
        """
        if presets is not None:
            self._presets = self._shown.presets = presets
        old = list(self._own)
        lines: list[Line] = []
        for line in lines_of(limits, self._presets, self._anchor):
            before = next((one for one in old if _same(one, line)), None)
            if before is not None:
                old.remove(before)
            lines.append(self._succeed(before, line, now))
        for line in shared:
            if line.blank and line not in self._met:
                self._history.charge(line)
        self._met.update(shared)
        self._own, self._shared = tuple(lines), tuple(shared)
        self._shown.forget({(line.dimension, line.counter.limit) for line in lines})
        self._arrange()

    def _arrange(self) -> None:
        """The lines as they are now, and which of them each model has."""
        self._lines = (*self._own, *self._shared, *self._shown.lines(), *self._paces.lines)
        split = any(line.models is not None or line.other_models for line in self._lines)
        self._by_model = {} if split else None
        self._narrowing = True
        self.counts_tokens = any(line.dimension in ESTIMATED for line in self._lines)
        if self._mirrored:
            for line in self._own:
                line.counter.mirrored = True

    def _lines_for(self, model: str | None) -> tuple[Line, ...]:
        by_model = self._by_model
        if by_model is None:
            return self._lines
        lines = by_model.get(model)
        if lines is None:
            if len(by_model) >= MOST_MODELS:
                by_model.clear()
            lines = by_model[model] = tuple([line for line in self._lines if line.covers(model)])
        return lines

    def _succeed(self, before: Line | None, line: Line, now: float) -> Line:
        """The line that counts on for `before` under new terms: the same one where it can be resized."""
        if before is not None and before.take_over(line, now):
            return before
        self._history.charge(line)
        line.blank = before is None
        if before is not None:
            used = min(before.counter.burst - room(before.counter, now), line.counter.burst)
            missing = used - (line.counter.burst - room(line.counter, now))
            if missing > 0.0:
                line.counter.charge(missing, now)
        return line

    # -- limits that answers show -------------------------------------------------------------------------------------------

    def _configured(self, seen: LimitSeen, model: str | None) -> Line | None:
        """The configured rate that `seen` is about. Of two with one amount the shorter: it forgets a mistake sooner."""
        same = [
            line
            for line in (*self._own, *self._shared)
            if line.dimension == seen.dimension and line.covers(model) and seen.period in (None, line.counter.period)
        ]
        if seen.limit is None:
            return same[0] if len(same) == 1 else None
        same = [line for line in same if line.counter.limit == seen.limit]
        return min(same, key=lambda line: line.counter.period, default=None)


def _same(old: Line, new: Line) -> bool:
    return (old.dimension, old.models, old.counter.period) == (new.dimension, new.models, new.counter.period)
