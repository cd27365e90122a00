"""The rates that answers show and nobody configured: what each answer teaches of them, and the line of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import attrs

from balancer.core.bucket import Bucket
from balancer.core.calendar import LENGTHS, CalendarWindow, Period, load_zone
from balancer.core.call import ESTIMATED
from balancer.core.history import REMEMBERED, WRONG, History, is_known
from balancer.core.learned import Learned, LearnedLimits
from balancer.core.learning import LONGEST, Learning
from balancer.core.limits import Presets
from balancer.core.line import Line
from balancer.core.lines import make_line
from balancer.core.mirror import CLEARLY
from balancer.core.outcome import LimitSeen
from balancer.core.quota import Counter, room
from balancer.core.reservation import Reservation
from balancer.core.sliding import SlidingWindow

AGED_SAMPLES = 16
"""Responses whose age of the oldest charge is looked up; later ones cannot tell a window's period better than the first, but where they
show more than our count leaves: while others' charges were among ours, the oldest seemed older than it was."""

SCARCE = 0.5
"""Share of a limit at most that a window which seemed to hold only ours has admitted before it refuses, so that it is none: others may
have taken some of it unseen."""

NAMES: Mapping[float, Period] = {length: name for name, length in LENGTHS.items()}
"""Of the civil periods, by their nominal length."""


@attrs.define(eq=False)
class ShownRates:
    """Those of one account.

    Args:
        history: what it was sent.
        presets: how the provider counts.
        anchor: some trio time and the epoch seconds at it.
        changed: called when the lines have changed.
    """

    _history: History
    presets: Presets
    _anchor: tuple[float, float]
    _changed: Callable[[], None]
    _limits: LearnedLimits = attrs.field(factory=LearnedLimits, init=False)

    def lines(self) -> list[Line]:
        """The line of every one whose period is known."""
        return self._limits.lines()

    def forget(self, known: set[tuple[str, float]]) -> None:
        """Drop those of these dimensions and amounts."""
        self._limits.forget(known)

    def in_vain(self, line: Line) -> bool:
        """Whether `Learning.in_vain` of the limit that a line counts."""
        return self._limits.in_vain(line)

    def see(
        self, seen: LimitSeen, reservation: Reservation, now: float, refused_for: float | None
    ) -> tuple[Line | None, bool, bool]:
        """Take in what the answer to `reservation` teaches of a limit.

        Returns:
            Its line, `None` while its period is not known or there is nothing to learn; whether it is counted otherwise from now on;
            whether what answers show of it is held until its reset.
        """
        taught, drawn = self._taught(seen, reservation, now, refused_for)
        if taught is None or (line := taught[1].line) is None:
            return None, drawn, False
        groups, learned = taught
        remaining = seen.remaining
        if remaining is not None and 0 <= remaining <= line.counter.limit and (len(groups) > 1 or len(learned.models) > 1):
            before, line = line, self._regroup(groups, learned, line, seen, remaining, reservation, now)
            drawn = drawn or line is not before
        return line, drawn, not learned.learning.continuous

    def _taught(
        self, seen: LimitSeen, reservation: Reservation, now: float, refused_for: float | None
    ) -> tuple[tuple[list[Learned], Learned] | None, bool]:
        """The learned rate that `seen` is about, among those of its name, with what it teaches taken in; without a line while the
        period is unknown. `None` if there is nothing to learn. And whether it is counted otherwise from now on."""
        found = self._limits.see(seen, reservation.model)
        if found is None:
            return None, False
        groups, learned, moved = found
        if moved:
            self._changed()
        learning, remaining = learned.learning, seen.remaining
        if seen.period is not None:
            learning.known_period = seen.period
        if remaining is not None and 0 <= remaining <= learning.limit:
            self._learn_burst(learned, remaining, seen.dimension, reservation, refused_for, now)
            used, reset_after = learning.limit - remaining, seen.reset_after
            ours = self._ours(learning, seen.dimension)
            if reset_after is None:
                if learning.known_period and not reservation.refunded:  # others' use may be all that is refused for
                    learning.see(used, seen.rounding, None, math.inf, ours=ours)
            elif 0 <= reset_after <= LONGEST:
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
                    ours=ours,
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
        models, others = self._limits.scope(groups, learned)
        line = make_line(seen.dimension, seen.name, counter, learned=True, models=models, other_models=others)
        if old is not None and old.take_over(line, now):
            line = old
        else:
            used = 0.0
            if old is not None:  # without a reset it was taken for others' use what a bucket lacks
                used = old.counter.burst - room(old.counter, now) - (0.0 if learning.resets else old.mirror.foreign())
            self._recount(line, counter.burst - used, now)
        learned.recounted(line, now)
        self._changed()
        return True

    def _calendar(self, dimension: str, limit: float, period: float) -> CalendarWindow | None:
        """The window of a civil day or month, where the provider is known to count so."""
        preset, name = self.presets.get((dimension, period)), NAMES.get(period)
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
            contradicts = line.mirror.contradicted(seen, remaining, reservation.sent(line), now)
            if learned.refuted(model, contradicts, now) and (own := self._limits.split(groups, learned, model)):
                flying = self._history.taken({model}, line.dimension, reservation.at, flying=True) - reservation.taken(
                    line.dimension
                )
                self._part(groups, learned, line, room(line.counter, now), now)
                return self._part(groups, own, line, remaining - flying, now)
        if len(groups) == 1 or not learned.due(now) or not (alike := self._limits.alike(groups, learned)):
            return line
        taken_by = [self._history.taken(other.models, line.dimension, learned.since) for other in alike]
        taken = max(taken_by)
        other = alike[taken_by.index(taken)]
        refused = reservation.refunded and remaining < line.demanded(reservation.demand)
        if not taken or other.line is None or not learned.confirmed(line, taken, refused, now):
            return line
        most = min(room(line.counter, now), room(other.line.counter, now))
        return self._part(groups, self._limits.join(groups, learned, other), line, most, now)

    def _part(self, groups: list[Learned], learned: Learned, old: Line, most: float, now: float) -> Line:
        """Give a rate a line of its own for the models that it holds for now, which counts as `old` does, with room for `most` units."""
        line = old.part(*self._limits.scope(groups, learned))
        self._recount(line, most, now)
        learned.recounted(line, now)
        self._changed()
        return line

    def _recount(self, line: Line, most: float, now: float) -> None:
        """Charge a new line of a learned rate with what was sent before. That may not explain that there is no more room than for `most`
        units, since it is not remembered for ever: then somebody else is charged, until answers show more."""
        line.counter.mirrored = True
        self._history.charge(line)
        line.mirror.lower_to(most, now)

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
        held = remaining + line.mirror.ours(now)
        if learning.resets:
            if refused_for:
                learning.refused(amount, held)
        elif isinstance(line.counter, Bucket):
            learning.refused(amount, held)
            if reservation.at >= learned.refused_at:
                learned.refused_at = now
                learning.refused_in_vain()
        else:
            if line.mirror.foreign() < amount:
                learned.refused_at = now
            if reservation.at <= learned.refused_at and held <= SCARCE * learning.limit:
                learning.refused(amount, held)


def _leaves_more(line: Line | None, remaining: float, now: float) -> bool:
    """Whether clearly more remains of a window than our count of it leaves: then it may be a shorter one."""
    counter = None if line is None else line.counter
    return isinstance(counter, SlidingWindow) and remaining - room(counter, now) > CLEARLY * counter.limit


def _form(counter: Counter) -> tuple[object, ...]:
    return type(counter), counter.limit, counter.period, counter.burst
