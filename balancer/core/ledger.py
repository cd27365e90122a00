"""One account's ledger: every rate that limits it, what is reserved and charged of each, and the mirror of the provider's count.

A demand goes when every rate of its model admits it. It is reserved before it is sent and ends once: settled with what it really
took (more than reserved is debt, never forgiven), or refunded if the provider never counted it. What responses show of a limit
is mirrored; a limit that nobody configured becomes a learned rate beside the others, from headers or else from refusals.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import attrs

from balancer.core.calendar import APART, LENGTHS, CalendarWindow, Period, load_zone, next_start
from balancer.core.call import Demand, Usage
from balancer.core.dimension import DimensionSnapshot
from balancer.core.history import REMEMBERED, WRONG, History, is_known
from balancer.core.learned import MOST_MODELS, Learned, LearnedLimits
from balancer.core.learning import LONGEST, Learning
from balancer.core.limits import NO_PRESETS, Limits, Presets
from balancer.core.line import CLEARLY, ESTIMATED, Line, configured
from balancer.core.outcome import LimitSeen
from balancer.core.paces import Paces
from balancer.core.quota import MOST_MARGIN, Bucket, Counter, SlidingWindow, room
from balancer.core.refusing import LONGEST_UNNAMED, at_boundary, named, shortest
from balancer.core.reservation import NOTHING, Reservation

AGED_SAMPLES = 16
"""Responses whose age of the oldest charge is looked up; later ones cannot tell a window's period better than the first, but where they
show more than our count leaves: while others' charges were among ours, the oldest seemed older than it was."""

SURPRISES = 8
"""Refusals within one period of a rate after which it is not believed alone."""

SCARCE = 0.5
"""Share of a limit at most that a window which seemed to hold only ours has admitted before it refuses, so that it is none: others may
have taken some of it unseen."""

NAMES: Mapping[float, Period] = {length: name for name, length in LENGTHS.items()}
"""Of the civil periods, by their nominal length."""

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
    _by_model: dict[str | None, tuple[Line, ...]] | None
    """The lines of each model; `None` while all have the same."""
    _learned: LearnedLimits
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
        self._shared = tuple(shared)
        self._learned, self._history = LearnedLimits(), History()
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
            for line, amount, mark in zip(reservation.lines, reservation.amounts, reservation.marks, strict=True):
                line.connecting(amount, mark)

    def _connected(self, reservation: Reservation) -> None:
        """Or the attempt has ended while it waited."""
        reservation.connecting = False
        for line, amount, mark in zip(reservation.lines, reservation.amounts, reservation.marks, strict=True):
            line.connecting(-amount, mark)

    def restamp(self, reservation: Reservation, now: float) -> None:
        """The request's first byte was written only now: rates count it from here."""
        if reservation.ended:
            return
        if reservation.connecting:
            self._connected(reservation)
        if reservation.at == now:
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
        reservation.ended, reservation.usage = True, usage
        if reservation.connecting:
            self._connected(reservation)
        del self._open[reservation]
        self._recent.append(reservation)
        for line, amount, mark in zip(reservation.lines, reservation.amounts, reservation.marks, strict=True):
            line.end(amount, mark, reservation.demand, usage, now)

    def refund(self, reservation: Reservation, now: float) -> None:
        """End a reservation that never reached the provider. Further ends change nothing."""
        if self._ends_refunded(reservation):
            for line, amount, mark in zip(reservation.lines, reservation.amounts, reservation.marks, strict=True):
                line.undo(amount, mark)

    def refuse(self, reservation: Reservation, now: float) -> None:
        """End a reservation that the provider refused: what it counts all the same stays charged. Further ends change nothing."""
        if self._ends_refunded(reservation):
            for line, amount, mark in zip(reservation.lines, reservation.amounts, reservation.marks, strict=True):
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
        for limit_seen in seen:
            line, taught = self._configured(limit_seen, reservation.model), None
            if line is None:
                taught, drawn = self._taught(limit_seen, reservation, now, refused_for)
                line, more = None if taught is None else taught[1].line, more or drawn
            remaining = limit_seen.remaining
            if line is None or remaining is None or not 0 <= remaining <= line.counter.limit:
                continue
            if taught is not None and (len(taught[0]) > 1 or len(taught[1].models) > 1):
                before, line = line, self._regroup(*taught, line, limit_seen, remaining, reservation, now)
                more = more or line is not before
            sent = reservation.sent(line)
            in_vain = taught is not None and taught[1].learning.in_vain
            again_at = until if sent.refused and remaining < sent.amount and not in_vain else None
            if again_at is None and limit_seen.reset_after is not None:
                again_at = now + limit_seen.reset_after
            more = line.mirror(remaining, limit_seen.rounding, sent, now, again_at or now) or more
            if limit_seen.next_unit and again_at is not None and remaining < sent.amount:
                line.wait(sent.amount, again_at, now)
            if taught is not None and not taught[1].learning.continuous and limit_seen.reset_after is not None:
                line.hold(remaining, float(limit_seen.reset_after), now)
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
            again_at = now if until is None or self._learned.in_vain(line) else until
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
        """Other settings; what was charged is kept, and what was learned, unless it is configured now. `presets`: `None`: as before."""
        if presets is not None:
            self._presets = presets
        old = list(self._own)
        lines: list[Line] = []
        for line in lines_of(limits, self._presets, self._anchor):
            before = next((one for one in old if _same(one, line)), None)
            if before is not None:
                old.remove(before)
            lines.append(self._succeed(before, line, now))
        self._own, self._shared = tuple(lines), tuple(shared)
        self._learned.forget({(line.dimension, line.counter.limit) for line in lines})
        self._arrange()

    def _arrange(self) -> None:
        """The lines as they are now, and which of them each model has."""
        self._lines = (*self._own, *self._shared, *self._learned.lines(), *self._paces.lines)
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

    def _taught(
        self, seen: LimitSeen, reservation: Reservation, now: float, refused_for: float | None
    ) -> tuple[tuple[list[Learned], Learned] | None, bool]:
        """The learned rate that `seen` is about, among those of its name, with what it teaches taken in; without a line while the
        period is unknown. `None` if there is nothing to learn. And whether it is counted otherwise from now on."""
        found = self._learned.see(seen, reservation.model)
        if found is None:
            return None, False
        groups, learned, moved = found
        if moved:
            self._arrange()
        learning, remaining = learned.learning, seen.remaining
        if seen.period is not None:
            learning.known_period = seen.period
        if remaining is not None and 0 <= remaining <= learning.limit:
            self._learn_burst(learned, remaining, seen.dimension, reservation, refused_for, now)
            used, reset_after = learning.limit - remaining, seen.reset_after
            if (
                reset_after is None and learning.known_period and not reservation.refunded
            ):  # others' use may be all that is refused for
                learning.see(used, seen.rounding, None, math.inf, ours=self._ours(learning, seen.dimension))
            elif reset_after is not None and 0 <= reset_after <= LONGEST:
                oldest_for = (
                    self._history.oldest_for(seen.dimension, used, reservation, now)
                    if learning.samples < AGED_SAMPLES or _leaves_more(learned.line, remaining - seen.rounding, now)
                    else math.inf
                )
                counted = self._history.counted(seen.dimension, reservation, reset_after, now)
                learning.see(
                    used,
                    seen.rounding,
                    float(reset_after),
                    oldest_for,
                    ours=self._ours(learning, seen.dimension),
                    counted=counted,
                    next_unit=seen.next_unit,
                )
        return (groups, learned), self._draw_line(groups, learned, seen, now)

    def _ours(self, learning: Learning, dimension: str) -> float:
        """Units of ours that the first response about a limit may hold; of later ones it is not asked."""
        ours = math.inf if learning.samples else self._history.ours(dimension)
        return ours * WRONG if dimension in ESTIMATED else ours

    def _draw_line(self, groups: list[Learned], learned: Learned, seen: LimitSeen, now: float) -> bool:
        """Give a learned rate the line that is known now, once its period is; returns whether it is another one."""
        learning, old = learned.learning, learned.line
        limit, period = learning.limit, learning.period
        if not period:
            return False
        # A window admits nothing that a bucket would not: until it is sure to refill, it is counted as one.
        refills = learning.refills or (old is not None and isinstance(old.counter, Bucket) and learning.continuous)
        counter = self._calendar(seen.dimension, limit, period) or (
            Bucket(limit, period, learning.burst) if refills else SlidingWindow(limit, period, memory=REMEMBERED)
        )
        if old is not None and _form(old.counter) == _form(counter):
            return False
        models, others = self._learned.scope(groups, learned)
        line = Line(seen.dimension, seen.name, counter, learned=True, models=models, other_models=others)
        if old is not None and old.take_over(line, now):
            line = old
        else:
            used = 0.0
            if old is not None:  # without a reset it was taken for others' use what a bucket lacks
                used = old.counter.burst - room(old.counter, now) - (0.0 if learning.resets else old.foreign())
            self._recount(line, counter.burst - used, now)
        learned.recounted(line, now)
        self._arrange()
        return True

    def _calendar(self, dimension: str, limit: float, period: float) -> CalendarWindow | None:
        """The window of a civil day or month, where the provider is known to count so."""
        preset, name = self._presets.get((dimension, period)), NAMES.get(period)
        if preset is None or name is None or preset.window != "calendar" or preset.zone is None:
            return None
        return CalendarWindow(limit, name, load_zone(preset.zone), self._anchor)

    # -- limits that show the same amount -----------------------------------------------------------------------------------

    def _regroup(
        self,
        groups: list[Learned],
        learned: Learned,
        line: Line,
        seen: LimitSeen,
        remaining: float,
        reservation: Reservation,
        now: float,
    ) -> Line:
        """Tell models apart that an answer shows not to share a limit, or take together those that do; returns the model's line."""
        model = reservation.model
        if len(learned.models) > 1 and learned.sure:
            contradicts = line.contradicted(seen, remaining, reservation.sent(line), now)
            if learned.refuted(model, contradicts, now) and (own := self._learned.split(groups, learned, model)):
                flying = self._history.taken({model}, line.dimension, reservation.at, flying=True) - reservation.taken(
                    line.dimension
                )
                self._part(groups, learned, line, room(line.counter, now), now)
                return self._part(groups, own, line, remaining - flying, now)
        if len(groups) == 1 or not learned.due(now) or not (alike := self._learned.alike(groups, learned)):
            return line
        taken_by = [self._history.taken(other.models, line.dimension, learned.since) for other in alike]
        taken = max(taken_by)
        other = alike[taken_by.index(taken)]
        refused = reservation.refunded and remaining < line.demanded(reservation.demand)
        if not taken or other.line is None or not learned.confirmed(line, taken, refused, now):
            return line
        most = min(room(line.counter, now), room(other.line.counter, now))
        return self._part(groups, self._learned.join(groups, learned, other), line, most, now)

    def _part(self, groups: list[Learned], learned: Learned, old: Line, most: float, now: float) -> Line:
        """Give a rate a line of its own for the models that it holds for now, which counts as `old` does, with room for `most` units."""
        models, others = self._learned.scope(groups, learned)
        counter = attrs.evolve(old.counter)
        line = Line(old.dimension, old.name, counter, learned=True, models=models, other_models=others)
        line.error, line.least_margin = copy(old.error), old.least_margin
        self._recount(line, most, now)
        learned.recounted(line, now)
        self._arrange()
        return line

    def _recount(self, line: Line, most: float, now: float) -> None:
        """Charge a new line of a learned rate with what was sent before. That may not explain that there is no more room than for `most`
        units, since it is not remembered for ever: then somebody else is charged, until answers show more."""
        line.counter.mirrored = True
        self._history.charge(line)
        line.lower_to(most, now)

    def _learn_burst(
        self,
        learned: Learned,
        remaining: float,
        dimension: str,
        reservation: Reservation,
        refused_for: float | None,
        now: float,
    ) -> None:
        """Take in what an answer tells of how much fits at once."""
        learning, line = learned.learning, learned.line
        learning.show(remaining)
        amount = reservation.taken(dimension)
        refused = reservation.refunded and remaining < amount
        if (not reservation.refunded or (refused and refused_for)) and is_known(reservation, dimension):
            learning.show(amount)
        if not reservation.refunded:
            learning.passed()
        if not refused or line is None or room(line.counter, now) < amount:
            return
        held = remaining + line.ours(now)
        if learning.resets:
            if refused_for:
                learning.refused(amount, held)
        elif isinstance(line.counter, Bucket):
            learning.refused(amount, held)
            if reservation.at >= learned.refused_at:
                learned.refused_at = now
                learning.refused_in_vain()
        else:
            if line.foreign() < amount:
                learned.refused_at = now
            if reservation.at <= learned.refused_at and held <= SCARCE * learning.limit:
                learning.refused(amount, held)


def lines_of(limits: Limits, presets: Presets, anchor: tuple[float, float]) -> Iterable[Line]:
    """A line for every configured rate, those of single models among them."""
    for terms in limits.terms(presets):
        yield configured(terms, anchor)
    for model, own in limits.models.items():
        for terms in own.terms(presets):
            yield configured(terms, anchor, frozenset((model,)))


def _leaves_more(line: Line | None, remaining: float, now: float) -> bool:
    """Whether clearly more remains of a window than our count of it leaves: then it may be a shorter one."""
    counter = None if line is None else line.counter
    return isinstance(counter, SlidingWindow) and remaining - room(counter, now) > CLEARLY * counter.limit


def _form(counter: Counter) -> tuple[object, ...]:
    return type(counter), counter.limit, counter.period, counter.burst


def _same(old: Line, new: Line) -> bool:
    return (old.dimension, old.models, old.counter.period) == (new.dimension, new.models, new.counter.period)
