"""One rate of a ledger: what of a demand it counts, for which models, and what is booked of it.

What is counted exactly is a plain `Line`: requests, images, and whatever a pace spaces. What can only be estimated is an
`EstimatedLine`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Self

import attrs

from balancer.core.bucket import Bucket
from balancer.core.calendar import CalendarWindow
from balancer.core.call import Demand, Usage
from balancer.core.cubic import CubicBucket
from balancer.core.dimension import DimensionSnapshot, Models, covers
from balancer.core.limits import Terms
from balancer.core.mirror import Mirror, Sent
from balancer.core.quota import LEAST_MARGIN, Counter
from balancer.core.sliding import SlidingWindow

MOST_SURPRISES = 64
"""Refusals within a period that are counted."""


@attrs.define(eq=False)
class Line:
    """One rate of a ledger.

    Args:
        dimension: what it counts.
        name: tells several rates of one dimension apart.
        counter: how it counts.
        learned: whether it was learned from answers.
        models, other_models: as in `DimensionSnapshot`.
        terms: what is configured; `None` for a learned rate.

    Attributes:
        mirror: of the provider's own count.
        failed_charged: whether the provider counts requests that it refuses.
        demanded: units that a demand takes.
        least_margin: seconds that its counter's margin may narrow to.
        blank: whether other settings have drawn it and it counts on for nothing.
    """

    dimension: str
    name: str
    counter: Counter
    learned: bool = False
    models: Models | None = None
    other_models: Models = frozenset()
    terms: Terms | None = None
    mirror: Mirror = attrs.field(init=False)
    failed_charged: bool = attrs.field(init=False, default=False)
    demanded: Callable[[Demand], float] = attrs.field(init=False)
    least_margin: float = attrs.field(init=False, default=LEAST_MARGIN)
    blank: bool = attrs.field(init=False, default=False)
    _taken: Callable[[Usage], float] | None = attrs.field(init=False)
    """Units of a usage; `None` if none corrects what is booked."""
    _surprises: deque[float] = attrs.field(init=False, factory=lambda: deque[float](maxlen=MOST_SURPRISES))

    def __attrs_post_init__(self) -> None:
        self.mirror = Mirror(self.counter, self.learned)
        self.demanded = attrgetter(self.dimension)
        # A pace learns in the units it is charged in, however wrong they are.
        self._taken = None if isinstance(self.counter, CubicBucket) else attrgetter(self.dimension)
        if self.terms is not None:
            self._count_as(self.terms)

    def _count_as(self, terms: Terms) -> None:
        """Count by these terms from now on; what is booked ends as it was booked."""
        self.terms, self.failed_charged = terms, terms.failed_charged

    def covers(self, model: str | None) -> bool:
        """Whether calls for `model` count against it."""
        return covers(self.models, self.other_models, model)

    @property
    def stamp(self) -> object:
        """Another value after every change."""
        return self.counter.charges, self.counter.open

    # -- asking -----------------------------------------------------------------------------------------------------------

    def earliest(self, amount: float, now: float, before: float = 0.0) -> float:
        """When `amount` fits: `now` if at once, `inf` if it is more than ever fits. With `before`, as if so much were booked now, before
        it."""
        counter = self.counter
        if amount > counter.burst:
            if not self.learned:
                return math.inf
            amount = counter.burst  # what was learned may be wrong: then it goes when nothing is in use
        return counter.behind(before, amount, now) if before else counter.earliest(amount, now)

    def admits(self, amount: float, now: float) -> bool:
        """Whether `amount` fits now."""
        counter = self.counter
        return counter.earliest(min(amount, counter.burst) if self.learned else amount, now) <= now

    # -- booking ----------------------------------------------------------------------------------------------------------

    def book(self, amount: float, now: float) -> Any:
        """Charge what a reservation demands, > 0; returns its mark."""
        counter, mirror = self.counter, self.mirror
        mark = counter.charge(amount, now)
        if mirror.tracked:
            mirror.track(self._reserved(), amount)
        counter.open += amount
        return mark

    def end(self, amount: float, mark: Any, demand: Demand, usage: Usage | None, now: float) -> None:
        """The attempt has ended: correct what was booked for its demand by what it took; `None`: as booked."""
        taken = self._taken_by(demand, usage, amount)
        if mark is not None:
            self._close(amount, mark, taken)
        self._correct(amount, mark, taken, now)

    def _close(self, amount: float, mark: Any, taken: float) -> None:
        """An attempt in flight is none any more: it took so much."""
        self.counter.open -= amount
        if self.mirror.tracked:
            self.mirror.untrack(mark)

    def _correct(self, amount: float, mark: Any, taken: float, now: float) -> None:
        """An attempt that is charged with `amount` took so much."""
        counter = self.counter
        if taken > amount:
            self.mirror.charged += taken - amount
            if mark is None:
                counter.charge(taken, now)
            else:
                counter.exceed(mark, taken - amount, now)
        elif taken < amount:
            counter.take_back(mark, amount - taken)

    def _taken_by(self, demand: Demand, usage: Usage | None, amount: float) -> float:
        """Units that an attempt took which was booked with `amount` for its demand."""
        if usage is None or self._taken is None:
            return amount
        taken = self._taken(usage)
        if not taken and self.dimension == "images":  # no answer reports them: those asked for were made
            return amount
        return taken

    def charge_past(self, demand: Demand, usage: Usage | None, at: float) -> None:
        """Charge what an attempt took that had ended before this line was."""
        if taken := self._taken_by(demand, usage, self.demanded(demand)):
            mark = self.counter.charge(taken, at)
            if isinstance(self.counter, CubicBucket):
                self.counter.passed(mark, at)

    def undo(self, amount: float, mark: Any) -> None:
        """The provider never counted it."""
        if mark is not None:
            self._close(amount, mark, 0.0)
            self.counter.take_back(mark, amount)

    def connecting(self, amount: float, mark: Any) -> Any:
        """Its request waits for a connection; returns its mark from now on."""
        return None if mark is None else self.counter.connecting(mark, amount)

    def connected(self, amount: float, mark: Any) -> None:
        """It waits no more: it is booked anew or undone next."""
        if mark is not None:
            self.counter.connected(amount)

    def rebook(self, amount: float, mark: Any, now: float) -> Any:
        """Its request is written only now; returns its mark from now on."""
        if mark is None:
            return None
        self.undo(amount, mark)
        self.counter.moved(now)
        return self.book(amount, now)

    def served(self, mark: Any, now: float) -> None:
        """The provider let an attempt through that has not ended yet."""

    def answered(self, amount: float, mark: Any, at: float, now: float) -> Any:
        """Its answer has begun; returns its mark from now on."""
        return None if mark is None else self.counter.answered(mark, amount, at, now)

    def _reserved(self) -> float:
        """Units under reservations that have not ended."""
        return self.mirror.reserved(self.counter.open)

    # -- learning ---------------------------------------------------------------------------------------------------------

    def observe(self, remaining: float, rounding: float, sent: Sent, now: float, until: float) -> bool:
        """Take in what the answer to one attempt shows, as `Mirror.take_in`; returns whether there is more room than before."""
        return self.mirror.take_in(remaining, rounding, sent, now, until) > 0.0

    def refused(self, sent: Sent, until: float, now: float) -> None:
        """The provider refused an attempt over this rate: there is no room, or as much less than it seems as makes it fit at the
        stated time."""
        self.mirror.refused(sent, until, now)

    def surprised(self, sent_at: float, now: float) -> int:
        """A refusal over this rate of an attempt sent at that time; returns how many there were within a period. Those of attempts
        that were out together are one."""
        surprises = self._surprises
        if not surprises or sent_at >= surprises[-1]:
            surprises.append(now)
        while surprises and surprises[0] <= now - self.counter.period:
            surprises.popleft()
        return len(surprises)

    # -- settings ---------------------------------------------------------------------------------------------------------

    def take_over(self, line: Line, now: float) -> bool:
        """Count on as `line` would, with what is booked kept; returns whether that is possible."""
        match self.counter, line.counter:
            case Bucket() as counter, Bucket() as new if counter.period == new.period:
                counter.resize(new.limit, new.burst, now)
            case SlidingWindow() as counter, SlidingWindow() as new:
                counter.resize(new.limit, new.period, now)
            case CalendarWindow() as counter, CalendarWindow() as new if counter.zone is new.zone:
                counter.resize(new.limit, now)
            case _:
                return False
        if line.terms is not None:
            self._count_as(line.terms)
        return True

    def part(self, models: Models | None, other_models: Models) -> Self:
        """A learned line for these models: like this one, with nothing charged."""
        counter = attrs.evolve(self.counter)  # pyright: ignore[reportArgumentType]
        line = type(self)(self.dimension, self.name, counter, learned=True, models=models, other_models=other_models)
        line.least_margin = self.least_margin
        return line

    # -- showing ----------------------------------------------------------------------------------------------------------

    def view(self, now: float) -> DimensionSnapshot:
        """This rate at this moment."""
        return self._view(now)

    def _view(self, now: float, kept_back: float = 0.0, bias: float = 1.0, spread: float = 0.0) -> DimensionSnapshot:
        counter = self.counter
        held, full_at, valid_until = counter.level(now)
        return DimensionSnapshot(
            self.dimension,
            self.name,
            counter.period,
            counter.limit,
            counter.burst,
            self.learned,
            self._reserved(),
            kept_back,
            held,
            full_at,
            valid_until,
            bias,
            spread,
            self.models,
            self.other_models,
        )
