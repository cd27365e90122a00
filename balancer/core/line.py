"""One rate of a ledger: what of a demand it counts, when, and the mirror of the provider's own count.

The mirror goes down at once and up only where evidence had lowered it: what an answer shows is compared with the room there was
at some moment since its request was sent, and only what no such moment explains is charged to somebody else. A later answer
that shows more gives that back, as far as attempts that the provider may not have counted by then leave room for it. One that
shows more still tells that not all that is charged here counts against the limit that it shows. What is shown beside our own count may
also be what attempts in flight take beyond their estimates: as much as that can be is kept free for them and charged to nobody. Where
a window counts less of them than we do, answers show that, or attempts for which there is room only so are tried.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import attrs

from balancer.core.calendar import CalendarWindow, load_zone
from balancer.core.call import Demand, Usage
from balancer.core.cubic import CubicBucket
from balancer.core.dimension import DimensionSnapshot, Models, covers
from balancer.core.estimating import KNOWN, EstimateError, ShownExcess, Trust
from balancer.core.limits import MONTH, Terms
from balancer.core.others import LATE, leaving
from balancer.core.outcome import LimitSeen
from balancer.core.quota import GRANULES, LEAST_MARGIN, PROMPT, Bucket, Counter, SlidingWindow, in_use, room

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

TOLD_WITHIN = 60.0
"""Seconds in which answers tell how wrong estimates are, if any tell it."""

MOST_DOUBTED = 16
"""Periods at most for which answers are not believed about attempts in flight after refusals that contradict them: one refusal in
so long is none."""

MOST_ASSUMED = 1.25
"""Share of their estimates that attempts in flight are thought to take beyond these, at most; more is somebody else's."""

ASSUMED_MORE = 0.03
"""Share of its estimate by which one more may be wrong beyond that."""

COUNTED_WITHIN = 0.5
"""Seconds from sending within which a provider may not have counted a request yet."""

ESTIMATED = ("tokens", "input_tokens", "output_tokens")


class _Held:
    """The mark of what is counted only at the end."""


HELD = _Held()


class Sent(NamedTuple):
    """What one line knows of an attempt: what is booked for it, its mark, when it was sent, whether it was refused."""

    amount: float
    mark: Any
    at: float
    refused: bool


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
        failed_charged: whether the provider counts requests that it refuses.
        demanded: units that a demand takes.
        error: of the estimates, where there are any.
        least_margin: seconds that its counter's margin may narrow to.
        lowered: units charged to somebody else so far.
    """

    dimension: str
    name: str
    counter: Counter
    learned: bool = False
    models: Models | None = None
    other_models: Models = frozenset()
    terms: Terms | None = None
    failed_charged: bool = attrs.field(init=False, default=False)
    demanded: Callable[[Demand], float] = attrs.field(init=False)
    error: EstimateError | None = attrs.field(init=False)
    least_margin: float = attrs.field(init=False, default=LEAST_MARGIN)
    lowered: float = attrs.field(init=False, default=0.0)
    _taken: Callable[[Usage], float] | None = attrs.field(init=False)
    _window: SlidingWindow | None = attrs.field(init=False)
    """Its counter, if estimates leave that before they are corrected."""
    _cached_free: bool = attrs.field(init=False, default=False)
    _produced: bool = attrs.field(init=False, default=False)
    _bounded: bool = attrs.field(init=False, default=False)
    """Whether the bound of the output is counted beside the input."""
    _plain: bool = attrs.field(init=False)
    """Whether an attempt took what its usage says, as it says it."""
    _pending: float = attrs.field(init=False, default=0)
    """Units that are counted only at the end of the attempts that will take them."""
    _squares: float = attrs.field(init=False, default=0)
    """Sum of the squares of what attempts in flight are booked with, where that is estimated. Amounts are whole, so it is exact."""
    _shown: ShownExcess | None = attrs.field(init=False, default=None)
    """The excess of attempts in flight, where an answer has shown it."""
    _assumed: EstimateError | None = attrs.field(init=False, default=None)
    """The error of the estimates, as refusals tell it before answers do."""
    _trust: Trust = attrs.field(init=False, factory=Trust)
    """In attempts in flight; of windows alone: a bucket loses only some of its burst by being wary."""
    _tried: float = attrs.field(init=False, default=0.0)
    """The share of trust without which there would have been no room for the next charge."""
    _try_at: float = attrs.field(init=False, default=-math.inf)
    """When the next charge may be that has room only by trust: one after the other where the worst is what is not believed, since that
    is not known any better until one is refused."""
    _tries: dict[int, float] = attrs.field(init=False, factory=dict[int, float])
    """The same share, of open attempts, by the number of their charge."""
    _booked_at: float = attrs.field(init=False, default=-math.inf)
    _unshown_until: float = attrs.field(init=False, default=-math.inf)
    """Until when answers are not believed to show it."""
    _unshown_for: float = attrs.field(init=False, default=0.0)
    _evidence: list[tuple[Any, float, float]] = attrs.field(init=False, factory=list[tuple[Any, float, float]])
    """Charges to somebody else: mark, units, when."""
    _surprises: deque[float] = attrs.field(init=False, factory=lambda: deque[float](maxlen=MOST_EVIDENCE))
    _surprised_at: float = attrs.field(init=False, default=math.inf)
    """When it first was while the error of the estimates was not known."""
    _evidence_at: float = attrs.field(init=False, default=-math.inf)
    _doubted: bool = attrs.field(init=False, default=False)
    """Whether answers show more than ours seem to leave."""
    _agreed_at: float = attrs.field(init=False, default=-math.inf)
    """When an answer last showed no more than ours leave."""
    _tracked: bool = attrs.field(init=False, default=False)
    """Whether there is evidence or doubt, so that `_charged` and `_before` are kept."""
    _charged: float = attrs.field(init=False, default=0.0)
    """Units charged for attempts while they are tracked."""
    _before: dict[int, tuple[float, float]] = attrs.field(init=False, factory=dict[int, tuple[float, float]])
    """For charges of open attempts that are tracked, by number: `_charged` and the units reserved, before them."""

    def __attrs_post_init__(self) -> None:
        self.demanded = attrgetter(self.dimension)
        self._taken = attrgetter(self.dimension)
        self._plain = self.dimension != "images"
        self.error = EstimateError() if self.dimension in ESTIMATED else None
        if isinstance(self.counter, CubicBucket):  # it learns in the units it is charged in, however wrong they are
            self._taken = self.error = None
        estimated = self.error is not None
        self._window = self.counter if estimated and isinstance(self.counter, SlidingWindow) else None
        if self.terms is not None:
            self._count_as(self.terms)

    def _count_as(self, terms: Terms) -> None:
        """Count by these terms from now on; what is booked ends as it was booked."""
        self.terms, self.failed_charged = terms, terms.failed_charged
        if self.dimension not in ESTIMATED:
            return
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

    def covers(self, model: str | None) -> bool:
        """Whether calls for `model` count against it."""
        return covers(self.models, self.other_models, model)

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
        return self._try_at if at < self._try_at and kept_back > 0.0 and self._tries_with(amount + before, now) else at

    def admits(self, amount: float, now: float) -> bool:
        """Whether `amount` fits now, beside what attempts in flight may still turn out to take."""
        counter = self.counter
        if self.learned:
            amount = min(amount, counter.burst)
        if self.error is None:
            return counter.earliest(amount, now) <= now
        kept_back = self._kept_back(amount, now)
        needed = amount + kept_back
        if needed > counter.burst >= amount and not self._squares:
            needed = counter.burst
        if counter.earliest(needed, now) > now:
            return False
        self._tried = self._trust.share if self._trust.share and self._tries_with(amount, now) else 0.0
        return not (self._tried and kept_back > 0.0 and now < self._try_at)

    def _tries_with(self, amount: float, now: float) -> bool:
        """Whether there is room for `amount` only by trust."""
        return self.counter.earliest(amount + self._kept_back(amount, now, 0.0), now) > now

    def _kept_back(self, amount: float, now: float, share: float | None = None) -> float:
        """Units to keep free beside `amount`, with a share of trust; `None`: with all that there is. Negative where attempts in flight
        surely take less than is booked for them."""
        error = self.error
        if error is not None and error.samples < KNOWN:
            error = self._assumed
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
        reserved = self.counter.open + self._pending
        return max(0.0, reserved - self.foreign()) if self._evidence else reserved

    # -- booking ----------------------------------------------------------------------------------------------------------

    def book(self, amount: float, now: float) -> Any:
        """Charge what a reservation demands, or hold it until the end; returns its mark."""
        if self.error is not None:
            self._squares += amount * amount
            if self._produced:
                self._pending += amount
                return HELD
            self._booked_at = now
        counter = self.counter
        mark = counter.charge(amount, now)
        if self._window is not None:
            mark[0].open += amount
            if self._tried:
                self._tries[counter.charges] = self._tried
                self._tried, self._try_at = 0.0, now + COUNTED_WITHIN
        if self._tracked:
            self._before[counter.charges] = self._charged, self._reserved()
            self._charged += amount
        counter.open += amount
        return mark

    def end(self, amount: float, mark: Any, demand: Demand, usage: Usage | None, now: float) -> None:
        """The attempt has ended: correct what was booked for its demand by what it took; `None`: as estimated."""
        counter, error, taken = self.counter, self.error, amount
        if self._taken is not None:
            if usage is not None:
                taken = self._taken(usage) if self._plain else self._taken_by(demand, usage, amount)
                if error is not None and amount:
                    error.add(amount, taken)
            elif error is not None and error.samples >= KNOWN and error.bias > 1.0:  # nobody will correct it
                taken = round(amount * error.bias)
        if mark is not None:
            self._close(amount, mark, taken)
        if mark is None or mark is HELD:
            if taken:
                counter.charge(taken, now)
                self._charged += taken
        elif taken > amount:
            counter.exceed(mark, taken - amount, now)
            self._charged += taken - amount
        elif taken < amount:
            counter.take_back(mark, amount - taken)

    def _taken_by(self, demand: Demand, usage: Usage | None, amount: float) -> float:
        """Units that an attempt took which was booked with `amount` for its demand."""
        if usage is None or self._taken is None:
            return amount
        taken = self._taken(usage)
        if self._bounded:
            taken += demand.output_bound
        if self._cached_free:
            taken -= usage.cached_tokens
        if not taken and self.dimension == "images":  # no answer reports them: those asked for were made
            return amount
        return max(0, taken)

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
            if mark is not HELD:
                self.counter.take_back(mark, amount)

    def connecting(self, amount: float, mark: Any) -> None:
        """Its request waits for a connection; of a negative `amount`: not any more."""
        if mark is not None and mark is not HELD:
            self.counter.unsent += amount

    def rebook(self, amount: float, mark: Any, now: float) -> Any:
        """Its request is written only now; returns its mark from now on."""
        if mark is None or mark is HELD:
            return mark
        if self._tries:
            self._tried = self._tries.get(self.counter.number(mark), 0.0)
        self.undo(amount, mark)
        self.counter.moved(now)
        return self.book(amount, now)

    def served(self, mark: Any, now: float) -> None:
        """The provider let an attempt through that has not ended yet."""
        window, error = self._window, self.error
        if window is not None and error is not None and error.samples >= KNOWN and not (mark is None or mark is HELD):
            self._trust.served(self._tries.get(self.counter.number(mark), 0.0), now)

    def answered(self, amount: float, mark: Any, at: float, now: float) -> Any:
        """Its answer has begun; returns its mark from now on."""
        if mark is None or mark is HELD:
            return mark
        answered = self.counter.answered(mark, amount, at, now)
        if self._window is not None:
            mark[0].open -= amount
            answered[0].open += amount
        return answered

    def _close(self, amount: float, mark: Any, taken: float) -> None:
        """An attempt in flight is none any more: it took so much."""
        if self.error is not None:
            self._squares -= amount * amount
        if mark is HELD:
            self._pending -= amount
            return
        self.counter.open -= amount
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
            if self.error is not None and self.error.bias < 1.0 and self._trust.share < 1.0:  # the estimate was what counted
                excess += (1.0 - self.error.bias) * amount
            if shown.ended(self.counter.number(mark), amount, excess):
                self._shown = None
        if self._before:
            self._before.pop(self.counter.number(mark), None)

    # -- mirroring --------------------------------------------------------------------------------------------------------

    def mirror(self, remaining: float, rounding: float, sent: Sent, now: float, until: float = -math.inf) -> bool:
        """Take in what the answer to one attempt shows: units left by the provider's count, which may be too small by `rounding`, and
        when there will be more: if it was refused for want of them, at `until` it fits. Returns whether there is more room than
        before."""
        counter, mark = self.counter, sent.mark
        counter.mirrored = True
        left = room(counter, now)
        least, number = left, 0
        if mark is not None and mark is not HELD:
            number = counter.number(mark)
            least = min(left, counter.least_room(number) + (sent.amount if sent.refused else 0.0))
        error = self._known_error()
        if sent.refused:
            self._assume(least - remaining, now)
        if error is not None:
            self._show(left - remaining + rounding, error, now)
        kept_back = max(0.0, self._kept_back(0.0, now))  # it is not used by anybody else, and is kept free already
        by = least - remaining - kept_back
        fits = sent.amount if sent.refused and remaining < sent.amount else 0.0
        more = 0.0
        if by > max(rounding, counter.grain):
            self._lower(by, now, fits, until)
        elif self._evidence and sent.at >= self._evidence_at and number in self._before:
            more = remaining - rounding - self._uncounted(number, sent) - left
            self._give_back(more)
        if fits and until > now:
            if isinstance(counter, CalendarWindow):
                counter.starts_at(until)
            self._fit(fits, until, now)
        return more > 0.0

    def hold(self, remaining: float, reset_after: float, now: float) -> None:
        """The provider counts a window, and shows what remains of it and a reset: nothing that it holds leaves before. Where its windows
        are fixed, that is later than a period says which was learned from what was left of the first.

        A reset may have been written when the request was counted, and read a whole answer later: nothing is held for longer than the
        next period that is usual, and where that has been learned already, our own count is better.
        """
        counter = self.counter
        longest = next((period for period in OF_WINDOWS if period >= counter.period), 0.0)
        until = now + reset_after - (WHOLE_SECONDS if reset_after.is_integer() else 0.0)
        if isinstance(counter, SlidingWindow) and longest > counter.period and counter.level(now)[2] < until:
            counter.hold(counter.limit - remaining, until, longest)

    def wait(self, amount: float, until: float, now: float) -> None:
        """Nothing more comes back before `until`, so that `amount` does not fit sooner: a bucket does not refill as it seemed. No longer
        than a period, in which all of any limit comes back."""
        counter = self.counter
        if isinstance(counter, Bucket):
            full_at = max(now + counter.margin, counter.level(now)[1])
            refilled = (min(until, now + counter.period) - full_at) * counter.limit / counter.period
            if (by := refilled + counter.burst - amount) > 0.0:
                self._lower(by, now)

    def _show(self, excess: float, error: EstimateError, now: float) -> None:
        """An answer shows that attempts in flight take at least so much beyond their estimates: just so much, if the provider must have
        counted all of them, and nothing has left its count that still is in ours. More than can be expected is somebody else's."""
        counter, evidence, shown = self.counter, self._evidence, self._shown
        while evidence and evidence[0][2] <= now - counter.period:
            self._forget_evidence()
        reserved, squares = self._counted(now)
        most = error.excess(reserved, squares)
        if excess < 2.0 * (error.bias - 1.0) * reserved - most:
            return  # as far below what is expected as `most` is above it: it is about something else
        excess = min(excess, max(0.0, most))
        late_for = counter.margin + counter.period / GRANULES + PROMPT
        if not evidence and now >= self._booked_at + COUNTED_WITHIN and counter.level(now)[2] > now + late_for:
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
        return None if self.error is None or self.error.samples < KNOWN or self._produced else self.error

    def _uncounted(self, number: int, sent: Sent) -> float:
        """Units of ours beside an attempt that is tracked which the provider may not have counted when it wrote the answer to it."""
        charged, open_before = self._before[number]
        return self._charged - charged - sent.amount + open_before

    def contradicted(self, seen: LimitSeen, remaining: float, sent: Sent, now: float) -> bool | None:
        """Whether an answer shows clearly more than could be left if all that is charged here counted against the limit that it shows;
        `None` if what is in flight may be the reason. Attempts are tracked from the first answer that seems to."""
        counter, mark = self.counter, sent.mark
        held, full_at, held_until = counter.level(now)
        per_second = counter.limit / counter.period
        more = remaining - seen.rounding - counter.burst + in_use(held, full_at, per_second, now) - self.foreign()
        if more <= max(0.0, AGREED * counter.limit - seen.rounding):
            self._agreed_at = now
        # A bucket with a period that is a little too long falls behind for as long as it is busy.
        drifts_for = max(0.0, now - max(self._agreed_at, full_at - held / per_second)) if full_at < math.inf else 0.0
        more -= max(counter.grain, CLEARLY * counter.limit) + (counter.margin + DRIFT * drifts_for) * per_second
        if more <= 0.0:
            self._doubted, self._tracked = False, bool(self._evidence)
            return False
        reset_after = seen.reset_after or 0.0
        late_for = AT_ONCE * counter.period + (min(1.0, ROUNDED * counter.period) if reset_after.is_integer() else 0.0)
        if held_until < now + reset_after - late_for:
            return None  # a window of the provider's own, which began after charges that we still count
        if not self._doubted:
            self._track()
            self._doubted = True
        number = 0 if mark is None or mark is HELD else counter.number(mark)
        return more > self._uncounted(number, sent) if number in self._before else None

    def _track(self) -> None:
        """Keep track of attempts from now on."""
        if not self._tracked:
            self._tracked = True
            self._before.clear()

    def refused(self, sent: Sent, until: float, now: float) -> None:
        """The provider refused an attempt over this rate: there is no room, or as much less than it seems as makes it fit at the
        stated time."""
        counter = self.counter
        by = room(counter, now)
        if until > now:
            held, full_at, _ = counter.level(now)
            by = counter.burst - in_use(held, full_at, counter.limit / counter.period, until) - sent.amount
        self._trust.refused(sent.at, counter.period, now)
        self._assume(by, now)
        kept_back = self._kept_back(0.0, now)
        if self._shown is not None:
            longest = MOST_DOUBTED * counter.period
            self._unshown_for = min(longest, max(counter.period, 2.0 * self._unshown_for))
            self._unshown_until = now + self._unshown_for
        if until > now and not isinstance(counter, Bucket) and (self.error is None or by > kept_back):
            by += sent.amount  # which fits no sooner, be it ever so little too much; of estimates nobody knows that
        if by > kept_back:
            self._lower(by - kept_back, now, sent.amount, until)
        if self._known_error() is not None:
            self._shown = self._shows(kept_back, now) if kept_back else None
        if until > now:
            self._fit(sent.amount, until, now)

    def _assume(self, excess: float, now: float) -> None:
        """There is so much less room than it seems. While no answer has told how wrong estimates are, that may be what attempts in
        flight take beyond theirs: then those to come are as wrong."""
        error = self.error
        if error is None or error.samples >= KNOWN or self._produced:
            return
        reserved = self._counted(now)[0]
        if 0.0 < excess <= MOST_ASSUMED * reserved and (
            self._assumed is None or excess > (self._assumed.bias - 1.0) * reserved
        ):
            self._assumed = EstimateError()
            for _ in range(KNOWN):
                self._assumed.add(reserved, reserved * (1.0 + ASSUMED_MORE) + excess)

    def _fit(self, amount: float, until: float, now: float) -> None:
        """The provider says that `amount` fits at `until`. What was learned may be counted otherwise than it seemed."""
        counter = self.counter
        if self.learned and isinstance(counter, SlidingWindow):
            held = counter.used_at(until + LATE)
            if held + amount > counter.limit and counter.used_at(now) - held < amount:
                counter.fit(amount, until)

    def surprised(self, sent_at: float, now: float) -> int:
        """A refusal over this rate of an attempt sent at that time; returns how many there were within a period. Those of attempts
        that were out together are one."""
        surprises, error = self._surprises, self.error
        if error is not None and error.samples < KNOWN:  # the estimates may be what is wrong
            self._surprised_at = min(self._surprised_at, now)
            if now < self._surprised_at + TOLD_WITHIN:
                return 0
        if not surprises or sent_at >= surprises[-1]:
            surprises.append(now)
        while surprises and surprises[0] <= now - self.counter.period:
            surprises.popleft()
        return len(surprises)

    def lower_to(self, most: float, now: float) -> None:
        """Leave room for `most` units at most."""
        if (by := room(self.counter, now) - most) > 0.0:
            self._lower(by, now)

    def _lower(self, by: float, now: float, fits: float = 0.0, until: float = -math.inf) -> None:
        """Charge somebody else; what leaves of it at a stated time does so."""
        self._track()
        self._shown = None
        self._evidence_at = now
        self.lowered += by
        counter = self.counter
        if isinstance(counter, SlidingWindow):
            parts = leaving(counter, by, fits, until, now)
            self._evidence += [(counter.charge_until(part, leaves_at, now), part, now) for part, leaves_at in parts]
        else:
            self._evidence.append((counter.charge(by, now), by, now))
        counter.open += by
        while len(self._evidence) > MOST_EVIDENCE:
            self._forget_evidence()

    def _forget_evidence(self) -> None:
        """The oldest: from now on only time frees it."""
        _, by, _ = self._evidence.pop(0)
        self.counter.open = max(0.0, self.counter.open - by)

    def ours(self, now: float) -> float:
        """Units in use that this balancer took."""
        return self.counter.burst - room(self.counter, now) - self.foreign()

    def foreign(self) -> float:
        """Units charged to somebody else that can still be given back."""
        return sum(by for _, by, _ in self._evidence)

    def _give_back(self, most: float) -> None:
        """Take back charges to somebody else, the newest first, by `most` units in all."""
        while self._evidence and most > 0.0:
            mark, by, at = self._evidence.pop()
            back = min(by, most)
            most -= back
            self.counter.take_back(mark, back)
            self.counter.open = max(0.0, self.counter.open - back)
            if back < by:
                self._evidence.append((mark, by - back, at))
        self._tracked = self._doubted or bool(self._evidence)

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

    # -- showing ----------------------------------------------------------------------------------------------------------

    def view(self, now: float) -> DimensionSnapshot:
        """This rate at this moment."""
        counter, error = self.counter, self.error
        held, full_at, valid_until = counter.level(now)
        return DimensionSnapshot(
            self.dimension,
            self.name,
            counter.period,
            counter.limit,
            counter.burst,
            self.learned,
            self._reserved(),
            0.0 if error is None else self._kept_back(0.0, now),
            held,
            full_at,
            valid_until,
            1.0 if error is None else error.bias,
            0.0 if error is None else error.spread,
            self.models,
            self.other_models,
        )


def configured(terms: Terms, anchor: tuple[float, float], models: Models | None = None) -> Line:
    """The line of a configured rate.

    Args:
        terms: the rate.
        anchor: some trio time and the epoch seconds at it.
        models: the models it holds for; `None` for all.
    """
    return Line(terms.dimension, terms.dimension, _counter(terms, anchor), models=models, terms=terms)


def _counter(terms: Terms, anchor: tuple[float, float]) -> Counter:
    match terms.window:
        case "sliding":
            return SlidingWindow(terms.amount, terms.per)
        case "calendar":
            period = "month" if terms.per == MONTH else "day"
            return CalendarWindow(terms.amount, period, load_zone(terms.zone), anchor)
        case _:
            return Bucket(terms.amount, terms.per, terms.burst)
