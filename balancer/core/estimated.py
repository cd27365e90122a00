"""One rate of what can only be estimated: what is kept free for attempts in flight, since they may take more than is booked for them.

What is shown beside our own count may be what attempts in flight take beyond their estimates: as much as that can be is kept free for
them and charged to nobody. Where a window counts less of them than we do, answers show that, or attempts for which there is room only
so are tried.
"""

from __future__ import annotations

import math
from copy import copy
from operator import attrgetter
from typing import Any, Self

import attrs

from balancer.core.call import Demand, Usage
from balancer.core.dimension import DimensionSnapshot, Models
from balancer.core.estimating import KNOWN, EstimateError, ShownExcess, Trust
from balancer.core.limits import Terms
from balancer.core.line import Line
from balancer.core.mirror import CLEARLY, HELD, Sent
from balancer.core.quota import COUNTED_WITHIN, PROMPT
from balancer.core.sliding import GRANULES, SlidingWindow

TOLD_WITHIN = 60.0
"""Seconds in which answers tell how wrong estimates are, if any tell it."""

MOST_DOUBTED = 16
"""Periods at most for which answers are not believed about attempts in flight after refusals that contradict them: one refusal in
so long is none."""

MOST_ASSUMED = 1.25
"""Share of their estimates that attempts in flight are thought to take beyond these, at most; more is somebody else's."""

ASSUMED_MORE = 0.03
"""Share of its estimate by which one more may be wrong beyond that."""


@attrs.define(eq=False)
class EstimatedLine(Line):
    """One rate of tokens; its arguments are those of `Line`.

    Attributes:
        error: how far what attempts took lies from what was estimated.
    """

    error: EstimateError = attrs.field(init=False, factory=EstimateError)
    _window: SlidingWindow | None = attrs.field(init=False)
    """Its counter, if estimates leave that before they are corrected."""
    _cached_free: bool = attrs.field(init=False, default=False)
    _produced: bool = attrs.field(init=False, default=False)
    _bounded: bool = attrs.field(init=False, default=False)
    """Whether the bound of the output is counted beside the input."""
    _plain: bool = attrs.field(init=False, default=True)
    """Whether an attempt took what its usage says, as it says it."""
    _pending: float = attrs.field(init=False, default=0)
    """Units that are counted only at the end of the attempts that will take them."""
    _squares: float = attrs.field(init=False, default=0)
    """Sum of the squares of what attempts in flight are booked with. Amounts are whole, so it is exact."""
    _shown: ShownExcess | None = attrs.field(init=False, default=None)
    """The excess of attempts in flight, where an answer has shown it."""
    _assumed: EstimateError | None = attrs.field(init=False, default=None)
    """The error of the estimates, as refusals tell it before answers do."""
    _trust: Trust = attrs.field(init=False, factory=Trust)
    """In attempts in flight; of windows alone: a bucket loses only some of its burst by being wary."""
    _try_at: float = attrs.field(init=False, default=-math.inf)
    """When the next charge may be that has room only by trust: one after the other where the worst is what is not believed, since that
    is not known any better until one is refused."""
    _tries: dict[int, float] = attrs.field(init=False, factory=dict[int, float])
    """The share of trust without which there would have been no room, of open attempts, by the number of their charge."""
    _booked_at: float = attrs.field(init=False, default=-math.inf)
    _unshown_until: float = attrs.field(init=False, default=-math.inf)
    """Until when answers are not believed to show it."""
    _unshown_for: float = attrs.field(init=False, default=0.0)
    _surprised_at: float = attrs.field(init=False, default=math.inf)
    """When a refusal first was a surprise while the error of the estimates was not known."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._window = self.counter if isinstance(self.counter, SlidingWindow) else None

    def _count_as(self, terms: Terms) -> None:
        """Count by these terms from now on; what is booked ends as it was booked."""
        super()._count_as(terms)
        by_bound = terms.charged == "max_tokens"
        names = {"tokens": ("bound", "input_tokens"), "output_tokens": ("output_bound", None)} if by_bound else {}
        demanded, taken = names.get(self.dimension, (self.dimension, self.dimension))
        self.demanded = attrgetter(demanded)
        self._taken = attrgetter(taken) if taken is not None and terms.charged != "start" else None
        self._bounded = demanded == "bound"
        # What is cached nobody knows yet where the bound is counted.
        self._cached_free = terms.cached_free and not by_bound and self.dimension != "output_tokens"
        self._plain = not (self._cached_free or self._bounded)
        self._produced = terms.charged == "produced"

    @property
    def stamp(self) -> object:
        """Another value after every change."""
        return self.counter.charges, self.counter.open, self._pending

    # -- asking -----------------------------------------------------------------------------------------------------------

    def earliest(self, amount: float, now: float, before: float = 0.0) -> float:
        """When `amount` fits: `now` if at once or once an attempt has ended, `inf` if it is more than ever fits. With `before`, as if
        so much were booked now, before it."""
        counter = self.counter
        if amount > counter.burst and not self.learned:  # what was learned may be wrong: then it goes when nothing is in use
            return math.inf
        kept_back = self._kept_back(amount, now)
        needed = min(amount + kept_back, counter.burst)
        at = counter.behind(before, needed, now) if before else counter.earliest(needed, now)
        return self._try_at if at < self._try_at and kept_back > 0.0 and self._is_try(amount + before, now) else at

    def admits(self, amount: float, now: float) -> bool:
        """Whether `amount` fits now, beside what attempts in flight may still turn out to take."""
        counter = self.counter
        if self.learned:
            amount = min(amount, counter.burst)
        kept_back = self._kept_back(amount, now)
        needed = amount + kept_back
        if needed > counter.burst >= amount and not self._squares:
            needed = counter.burst
        if counter.earliest(needed, now) > now:
            return False
        return not (now < self._try_at and kept_back > 0.0 and self._trust.share and self._is_try(amount, now))

    def _is_try(self, amount: float, now: float) -> bool:
        """Whether there is room for `amount` only by trust."""
        return self.counter.earliest(amount + self._kept_back(amount, now, 0.0), now) > now

    def _kept_back(self, amount: float, now: float, share: float | None = None) -> float:
        """Units to keep free beside `amount`, with a share of trust; `None`: with all that there is. Negative where attempts in flight
        surely take less than is booked for them."""
        error = self.error if self.error.samples >= KNOWN else self._assumed
        if error is None:
            return self._pending
        if self._produced:  # nothing is counted yet: there is no estimate that the provider could hold
            return max(0.0, self._pending + error.excess(self._reserved(), self._squares, amount))
        reserved, squares = self._counted(now)
        shown, excess = self._shown, 0.0
        if shown is not None:
            excess = shown.excess
            reserved, squares = max(0.0, reserved - shown.reserved), max(0.0, squares - shown.squares)  # since then
        trusted = self._trust.share if share is None else share
        return excess + error.kept_back(reserved, squares, amount, trusted, self.counter.limit)

    def _counted(self, now: float) -> tuple[float, float]:
        """Units under reservations that have not ended and still count, and the sum of their squares, nearly."""
        reserved, squares, window = self._reserved(), self._squares, self._window
        if window is None:
            return reserved, squares
        window.forget(now)
        shown = self._shown
        if shown is not None and shown.left(window.gone_ever):
            self._shown = None
        stays = max(0.0, reserved - window.gone)
        return stays, squares * stays / reserved if stays else 0.0

    def _reserved(self) -> float:
        """Units under reservations that have not ended."""
        return self.mirror.reserved(self.counter.open + self._pending)

    # -- booking ----------------------------------------------------------------------------------------------------------

    def book(self, amount: float, now: float, tried: float | None = None) -> Any:
        """Charge what a reservation demands, > 0, or hold it until the end; returns its mark. `tried`: the share of trust without which
        there would be no room for it; `None`: as it is now."""
        if self._produced:
            self._squares += amount * amount
            self._pending += amount
            return HELD
        if tried is None:
            tried = self._trust.share
            if tried and not self._is_try(min(amount, self.counter.burst) if self.learned else amount, now):
                tried = 0.0
        self._squares += amount * amount
        self._booked_at = now
        # The rest of `Line.book` is repeated here, and that of `Line._close` below: a call of it costs as much as what it does.
        counter = self.counter
        mark = counter.charge(amount, now)
        if self._window is not None:
            mark[0].open += amount
        if tried:
            self._tries[counter.charges] = tried
            self._try_at = now + COUNTED_WITHIN
        if self.mirror.tracked:
            self.mirror.track(self._reserved(), amount)
        counter.open += amount
        return mark

    def end(self, amount: float, mark: Any, demand: Demand, usage: Usage | None, now: float) -> None:
        """The attempt has ended: correct what was booked for its demand by what it took; `None`: as estimated."""
        error, taken = self.error, amount
        if self._taken is not None:
            if usage is not None:
                taken = self._taken(usage) if self._plain else self._taken_by(demand, usage, amount)
                if amount:
                    error.add(amount, taken)
            elif error.samples >= KNOWN and error.bias > 1.0:  # nobody will correct it
                taken = round(amount * error.bias)
        if mark is not None:
            self._close(amount, mark, taken)
            if mark is HELD:
                amount, mark = 0.0, None
        self._correct(amount, mark, taken, now)

    def _taken_by(self, demand: Demand, usage: Usage | None, amount: float) -> float:
        """Units that an attempt took which was booked with `amount` for its demand."""
        if usage is None or self._taken is None:
            return amount
        taken = self._taken(usage)
        if self._bounded:
            taken += demand.output_bound
        if self._cached_free:
            taken -= usage.cached_tokens
        return max(0, taken)

    def undo(self, amount: float, mark: Any) -> None:
        """The provider never counted it."""
        if mark is not None:
            self._close(amount, mark, 0.0)
            if mark is not HELD:
                self.counter.take_back(mark, amount)

    def connecting(self, amount: float, mark: Any) -> Any:
        """Its request waits for a connection; returns its mark from now on."""
        return mark if mark is None or mark is HELD else self._moved(amount, mark, self.counter.connecting(mark, amount))

    def connected(self, amount: float, mark: Any) -> None:
        """It waits no more: it is booked anew or undone next."""
        if mark is not HELD:
            super().connected(amount, mark)

    def rebook(self, amount: float, mark: Any, now: float) -> Any:
        """Its request is written only now; returns its mark from now on."""
        if mark is None or mark is HELD:
            return mark
        tried = self._tries.get(self.counter.number(mark), 0.0)
        self.undo(amount, mark)
        self.counter.moved(now)
        return self.book(amount, now, tried)

    def served(self, mark: Any, now: float) -> None:
        """The provider let an attempt through that has not ended yet."""
        if self._window is not None and self.error.samples >= KNOWN and not (mark is None or mark is HELD):
            self._trust.served(self._tries.get(self.counter.number(mark), 0.0), now)

    def answered(self, amount: float, mark: Any, at: float, now: float) -> Any:
        """Its answer has begun; returns its mark from now on."""
        if mark is None or mark is HELD:
            return mark
        return self._moved(amount, mark, self.counter.answered(mark, amount, at, now))

    def _moved(self, amount: float, mark: Any, moved: Any) -> Any:
        """Its charge has another mark from now on, which is returned."""
        window = self._window
        if window is not None and moved is not mark:
            mark[0].open -= amount
            moved[0].open += amount
            if not mark[0].counted:
                window.gone -= amount
        return moved

    def _close(self, amount: float, mark: Any, taken: float) -> None:
        """An attempt in flight is none any more: it took so much."""
        self._squares -= amount * amount
        if mark is HELD:
            self._pending -= amount
            return
        self.counter.open -= amount
        if self.mirror.tracked:
            self.mirror.untrack(mark)
        window = self._window
        if window is not None:
            entry = mark[0]
            entry.open -= amount
            if not entry.counted:
                window.gone -= amount
            if self._tries:
                self._tries.pop(mark[1], None)
        shown = self._shown
        if shown is not None and ((counts := self.counter.counts(mark)) or window is None):  # else `shown.left` has it
            excess = taken - amount if counts else 0.0
            if self.error.bias < 1.0 and self._trust.share < 1.0:  # the estimate was what counted
                excess += (1.0 - self.error.bias) * amount
            if shown.ended(self.counter.number(mark), amount, excess):
                self._shown = None

    # -- learning ---------------------------------------------------------------------------------------------------------

    def observe(self, remaining: float, rounding: float, sent: Sent, now: float, until: float) -> bool:
        """Take in what the answer to one attempt shows, as `Mirror.take_in`; returns whether there is more room than before."""
        mirror, error = self.mirror, self._known_error()
        left, least = mirror.left(sent, now)
        if sent.refused:
            self._assume(least - remaining, now)
        if error is not None:
            self._show(left - remaining + rounding, error, now)
        change = mirror.take_in(remaining, rounding, sent, now, until, max(0.0, self._kept_back(0.0, now)))
        if change < 0.0:
            self._shown = None
        return change > 0.0

    def refused(self, sent: Sent, until: float, now: float) -> None:
        """The provider refused an attempt over this rate: there is no room, or as much less than it seems as makes it fit at the
        stated time."""
        period = self.counter.period
        self._trust.refused(sent.at, period, now)
        self._assume(self.mirror.missing(sent, until, now), now)
        kept_back = self._kept_back(0.0, now)
        if self._shown is not None:
            self._unshown_for = min(MOST_DOUBTED * period, max(period, 2.0 * self._unshown_for))
            self._unshown_until = now + self._unshown_for
        self.mirror.refused(sent, until, now, kept_back)
        self._shown = self._shows(kept_back, now) if kept_back and self._known_error() is not None else None

    def surprised(self, sent_at: float, now: float) -> int:
        """As of any line; none counts while nothing is known of the estimates, which may be what is wrong."""
        if self.error.samples < KNOWN:
            self._surprised_at = min(self._surprised_at, now)
            if now < self._surprised_at + TOLD_WITHIN:
                return 0
        return super().surprised(sent_at, now)

    def _show(self, excess: float, error: EstimateError, now: float) -> None:
        """An answer shows that attempts in flight take at least so much beyond their estimates: just so much, if the provider must have
        counted all of them, and nothing has left its count that still is in ours. More than can be expected is somebody else's."""
        counter, mirror, shown = self.counter, self.mirror, self._shown
        mirror.forget(now)
        reserved, squares = self._counted(now)
        most = error.excess(reserved, squares)
        if excess < 2.0 * (error.bias - 1.0) * reserved - most:
            return  # as far below what is expected as `most` is above it: it is about something else
        excess = min(excess, max(0.0, most))
        late_for = counter.margin + counter.period / GRANULES + PROMPT
        if not mirror.foreign() and now >= self._booked_at + COUNTED_WITHIN and counter.level(now)[2] > now + late_for:
            expected = (error.bias - 1.0) * reserved
            if expected < -CLEARLY * counter.limit and self._window is not None:
                self._trust.shown(excess > 0.5 * expected, counter.period, now)
            if self._trust.share < 1.0:  # too little to be more than what is rounded
                excess = max(0.0, excess)
            self._shown = None if now < self._unshown_until else self._shows(excess, now)
        elif shown is not None:
            shown.excess += max(0.0, excess - self._kept_back(0.0, now))

    def _shows(self, excess: float, now: float) -> ShownExcess | None:
        """That attempts in flight take so much beyond what is reserved for them."""
        window, (reserved, squares) = self._window, self._counted(now)
        gone_ever = 0.0 if window is None else window.gone_ever
        return ShownExcess(self.counter.charges, excess, reserved, squares, gone_ever) if reserved else None

    def _known_error(self) -> EstimateError | None:
        """The error of the estimates, if it is known and the provider may count what attempts in flight take beyond them."""
        return None if self.error.samples < KNOWN or self._produced else self.error

    def _assume(self, excess: float, now: float) -> None:
        """There is so much less room than it seems. While no answer has told how wrong estimates are, that may be what attempts in
        flight take beyond theirs: then those to come are as wrong."""
        if self.error.samples >= KNOWN or self._produced:
            return
        reserved = self._counted(now)[0]
        if 0.0 < excess <= MOST_ASSUMED * reserved and (
            self._assumed is None or excess > (self._assumed.bias - 1.0) * reserved
        ):
            self._assumed = EstimateError()
            for _ in range(KNOWN):
                self._assumed.add(reserved, reserved * (1.0 + ASSUMED_MORE) + excess)

    # -- settings and showing -------------------------------------------------------------------------------------------------

    def part(self, models: Models | None, other_models: Models) -> Self:
        """A learned line for these models: like this one, with nothing charged; estimates for them are as wrong."""
        line = super().part(models, other_models)
        line.error = copy(self.error)
        return line

    def view(self, now: float) -> DimensionSnapshot:
        """This rate at this moment."""
        return self._view(now, self._kept_back(0.0, now), self.error.bias, self.error.spread)
