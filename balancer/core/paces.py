"""The rates of one account that refusals alone have taught: one for a model and the dimension that they are about, or seem to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import attrs

from balancer.core.call import DIMENSIONS
from balancer.core.cubic import CubicBucket
from balancer.core.history import History, book
from balancer.core.learned import MOST_LEARNED, MOST_MODELS
from balancer.core.line import Line
from balancer.core.reservation import Reservation
from balancer.core.suspect import Suspect

REFUSALS = "refusals"
"""The name of such a rate."""


@attrs.define(eq=False)
class Paces:
    """Those of one account.

    Args:
        history: what it was sent.
        changed: called when `lines` has changed.

    Attributes:
        lines: of each its line.
    """

    _history: History
    _changed: Callable[[], None]
    lines: tuple[Line, ...] = attrs.field(default=(), init=False)
    _suspects: dict[str | None, Suspect] = attrs.field(factory=dict[str | None, Suspect], init=False)

    def passed(self, reservation: Reservation, now: float) -> None:
        """The provider let `reservation` through."""
        for line in self.lines:
            if (mark := reservation.sent(line).mark) is not None:
                _counter(line).passed(mark, now)

    def refused(self, reservation: Reservation, dimension: str | None, until: float | None, now: float) -> bool:
        """Learn from a refusal that no known rate explains; returns whether later attempts are held back.

        Args:
            reservation: what was refused.
            dimension: what it is about; `None` if nothing says so.
            until: trio time at which to try again; `None` if the refusal does not say.
            now: trio time.
        """
        dimension = dimension or self._suspected(reservation, now)
        line = self._of(dimension, reservation.model)
        if line is None:
            if dimension not in DIMENSIONS or not any(ended.model == reservation.model for ended in self._history.recent):
                return False  # nothing has been admitted that a first estimate could be made from
            line = Line(dimension, REFUSALS, CubicBucket(), learned=True, models=frozenset((reservation.model,)))
            self.lines = (*self.lines, line)[-MOST_LEARNED:]
            self._changed()
            self._history.charge(line)
        amount = line.demanded(reservation.demand)
        if not amount:
            return False
        pace = _counter(line)
        mark = reservation.sent(line).mark  # of the refusal that began it there is none: it has ended
        pace.refused(pace.charge(amount, reservation.at) if mark is None else mark, now, until)
        return True

    def _of(self, dimension: str, model: str | None) -> Line | None:
        """The pace of a dimension for one model."""
        models = frozenset((model,))
        return next((line for line in self.lines if (line.dimension, line.models) == (dimension, models)), None)

    def _suspected(self, reservation: Reservation, now: float) -> str:
        """The dimension that a refusal is about which names none; the pace of the one that was suspected before goes on as its."""
        model = reservation.model
        suspect = self._suspects.get(model)
        if suspect is None:
            if len(self._suspects) >= MOST_MODELS:
                self._suspects.clear()
            suspect = self._suspects[model] = Suspect()
        before = suspect.dimension
        old = self._of(before, model)
        if old is not None and _counter(old).closed:  # the same news
            return before
        others = [each for each in self._history if each.model == model]
        sent = [(each.at, each.demand.tokens) for each in others]
        dimension = suspect.refused(reservation.demand.tokens, reservation.at, sent, now)
        if dimension != before and old is not None and self._of(dimension, model) is None:
            self._exchange(old, dimension, others)
        return dimension

    def _exchange(self, old: Line, dimension: str, sent: Sequence[Reservation]) -> None:
        """A pace goes on in units of another dimension, of which `sent` shows how many go to one of its own."""
        ours, theirs = sum(old.demanded(each.demand) for each in sent), sum(getattr(each.demand, dimension) for each in sent)
        if not ours or not theirs:
            return
        counter = copy(_counter(old))
        counter.change_units(theirs / ours)
        line = Line(dimension, REFUSALS, counter, learned=True, models=old.models)
        self.lines = tuple(line if each is old else each for each in self.lines)
        for reservation in self._history.open:
            if line.covers(reservation.model):
                book(line, reservation)
        self._changed()


def _counter(line: Line) -> CubicBucket:
    assert isinstance(line.counter, CubicBucket)
    return line.counter
