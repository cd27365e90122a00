"""The period and the burst of a limit that nobody configured, from what responses show of it: limit, remaining and reset.

A reset means one of two things. *Continuous*: the time until the bucket is full, used x period / limit. *Window*: the time
until the oldest charge leaves, or until the window ends, never more than the period. They agree when everything is used; with
less in use the first reads a longer period from the same reset, so it is believed until samples contradict it.

A bucket may hold less than its limit, and nothing says so: what it lacks when it is full looks as if others had taken it. So a
limit of which ours do not explain what is used is a bucket of a burst that only grows with what answers show, and its period is
the longest that they allow, until they allow less: to be wrong in these costs time and no refusal.
"""

from __future__ import annotations

import math

import attrs

from balancer.core.span import NOISE, WAYS, WHOLE, Seen, Span, bounds_of

LONGEST = 86400.0 * 366
SHORTEST = 0.001
NICE = (86400.0, 3600.0, 60.0, 30.0, 10.0, 5.0, 1.0, 0.5, 0.1, 0.05, 0.01)
"""Periods are chosen by people: of the values a measurement allows, the multiple of the coarsest of these is meant."""

UNITS = (1.0, 60.0, 3600.0, 86400.0)
"""Seconds of the units that people count periods in."""

INSTANTS = 10.0
"""Seconds of the longest reset before which the last of these says nothing: it would explain any window of a few seconds."""

ROUNDED = 0.04
"""Share of a reset in whole seconds by which a window may be shorter: it is rounded up, against a date that is cut off even more."""

MISSED = 0.01
"""By how much the longest possible window may be too short for a usual one: answers to several models tell it, which may not share it.
One that is left too early is refused, all at once; one that is longer by so much loses no more of the limit."""

LATE = 0.1
"""By how much the longest possible period of a small burst may be too long: requests are counted later than they are sent."""

USUAL = (60.0, 3600.0, 86400.0)
"""Periods that nearly every provider counts by: while bounds are far apart, the first of these between them is meant. Bounds are the
farther apart the longer answers take, so the last would nearly always be wrong; the first costs one refusal where it is."""

NEARLY = 0.01
"""Share of a limit, or one unit, that a full bucket may lack and still hold all of it: the request that was answered."""

IN_VAIN = 3
"""Refusals in a row, without a reset, after which a bucket that should have had room each time is none. One alone may be a moment too
early, and to be wrong costs a whole period."""

FAR = 1.5
"""Bounds of a period that are further apart than this ratio say little about what lies between."""


def nice(low: float, high: float) -> float:
    """The period that was meant, given that it lies between two bounds; far-apart bounds say little, then the longer is safe."""
    if high > FAR * low:
        return high
    for step in NICE:
        period = math.ceil(low / step - 1e-9) * step
        if period <= high:
            return period
    return high


def usual(period: float) -> bool:
    """Whether it is made of whole seconds, minutes, hours or days, and goes evenly into the next of these."""
    below = [unit for unit in UNITS if unit <= period]
    above = next((unit for unit in UNITS if unit >= period), math.inf)
    ratios = [period / unit for unit in below[-1:]] + [above / period for _ in range(above < math.inf)]
    return all(math.isclose(ratio, round(ratio), rel_tol=1e-9) for ratio in ratios)


@attrs.define(eq=False)
class Learning:
    """What is known of one limit's period and burst."""

    limit: float = 0.0
    known_period: float = 0.0
    """As the headers' names say it; 0 where they do not."""
    samples: int = 0
    _shown: float = attrs.field(init=False, default=0.0)
    """The most units that are known to fit at once."""
    _short: bool = attrs.field(init=False, default=False)
    """Whether the first response showed more in use than ours."""
    _surprised: bool = attrs.field(init=False, default=False)
    """Whether a request was refused for which there seemed to be room."""
    _spans: list[Span] = attrs.field(init=False, factory=lambda: [Span() for _ in WAYS])
    """One for each way to round a reset; none once all are refuted."""
    _full: bool = attrs.field(init=False, default=True)
    """Whether it may be a bucket of all of the limit."""
    _small: bool = attrs.field(init=False, default=True)
    """Whether it may be a bucket of any burst."""
    _least_used: tuple[float, float] = attrs.field(init=False, default=(math.inf, 0.0))
    """What was used in the response that showed most left, and the negative of its reset."""
    _most_used: float = attrs.field(init=False, default=0.0)
    _if_full: float = attrs.field(init=False, default=0.0)
    """The period by that response, if a full bucket holds all of the limit; and bounds of it."""
    _if_full_within: tuple[float, float] = attrs.field(init=False, default=(0.0, math.inf))
    _alone: float = attrs.field(init=False, default=math.inf)
    """The period if what a response had surely counted was all that its reset was about: no bucket has a longer one."""
    _longest_reset: float = attrs.field(init=False, default=0.0)
    _window_at_most: float = attrs.field(init=False, default=math.inf)
    _resets: bool = attrs.field(init=False, default=False)
    """Whether any response showed one."""
    _in_vain: int = attrs.field(init=False, default=0)
    """Requests that were refused since one was served, though a bucket had room, each sent after the one before was refused."""

    def see(
        self,
        used: float,
        rounding: float,
        reset_after: float | None,
        oldest_for: float,
        *,
        ours: float = math.inf,
        counted: tuple[float, float] = (0.0, 0.0),
        next_unit: bool = False,
    ) -> None:
        """Take in one response, of the limit in `self.limit`.

        Args:
            used: limit less remaining; may be too large by up to `rounding`.
            reset_after: seconds to the reset; `None` if none is shown.
            oldest_for: seconds since the oldest charge that the provider can hold was sent; `inf` if there may be older ones.
            ours: units of ours that it may hold.
            counted: units that it has surely counted, and seconds since these were sent.
            next_unit: whether the reset is when there is any more. A bucket of a known period is not that slow: then it is a window.
        """
        self.samples += 1
        if self.samples == 1:
            self._short = used - ours >= rounding and used > ours and not self._whole
        if reset_after is None:
            return
        self._resets = True
        if reset_after > 0.0 and used > 0.0:
            self._longest_reset = max(self._longest_reset, reset_after)
            self._window_at_most = min(self._window_at_most, reset_after + oldest_for)
            if used >= self._most_used:  # the more is used, the less does rounding blur it
                self._most_used, self._if_full = used, reset_after * self.limit / used
                span = Span()
                span.take_in(self.limit, Seen(used, rounding, *bounds_of(reset_after, WHOLE)))
                self._if_full_within = span.low, span.full_high
        if counted[0]:
            self._alone = min(self._alone, (counted[1] + reset_after) * self.limit / counted[0])
        if self._spans:
            self._narrow(used, rounding, reset_after, counted)
        self._least_used = min(self._least_used, (used, -reset_after))
        if next_unit and self.known_period and bounds_of(reset_after, WHOLE)[0] > self.known_period / self.limit:
            self._spans, self._full, self._small = [], False, False

    def _narrow(self, used: float, rounding: float, reset_after: float, counted: tuple[float, float]) -> None:
        spans, other = self._spans, self._least_used
        for span, way in zip(spans, WAYS, strict=True):
            seen = Seen(used, rounding, *bounds_of(reset_after, way))
            span.take_in(self.limit, seen, counted)
            if other[0] < math.inf:
                span.compare(self.limit, seen, Seen(other[0], rounding, *bounds_of(-other[1], way)))
        ways = spans if self._longest_reset >= INSTANTS else spans[:-1]
        self._full = any(span.low <= span.full_high for span in ways)
        self._small = any(span.low <= span.high for span in spans)
        if not (self._full or self._small) and spans[-1].low > spans[-1].full_high:
            self._spans = []

    def show(self, amount: float) -> None:
        """So much fits at once: an answer shows it, or it has been served."""
        self._shown = min(max(self._shown, amount), self.limit)
        if self._whole:
            self._short = False

    def refused(self, amount: float, held: float) -> None:
        """A request was refused for which there seemed to be room: a full bucket holds less than was thought, or refills later.

        Args:
            amount: what was refused.
            held: units that ours have in use, and what remains.
        """
        self._short = self._surprised = True
        self._shown = min(self._shown, max(amount, held))
        if not (self._resets or self._small):  # nothing else would ever tell
            self._small, self._in_vain = True, 0

    def refused_in_vain(self) -> None:
        """As `refused`, of a request that was sent after the last of these."""
        self._in_vain += 1
        if self.in_vain:
            self._short = self._small = self._full = False

    def passed(self) -> None:
        """A request was served."""
        self._in_vain = 0

    @property
    def in_vain(self) -> bool:
        """Whether requests have been refused again and again, whatever was said of when to try."""
        return self._in_vain >= IN_VAIN

    @property
    def resets(self) -> bool:
        """Whether responses show any."""
        return self._resets

    @property
    def _whole(self) -> bool:
        return self._shown >= self.limit - max(1.0, NEARLY * self.limit)

    @property
    def burst(self) -> float:
        """Units that may go at once."""
        return min(self.limit, max(1.0, self._shown)) if self._short else self.limit

    @property
    def continuous(self) -> bool:
        """Whether it may be."""
        return self._small if self._short else self._full

    @property
    def refills(self) -> bool:
        """Whether it is surely continuous: a reset was shown that is longer than any window could be; or it is counted so, since a
        small burst explains what is used."""
        return self._small if self._short else self._full and self._longest_reset > FAR * self._window_at_most

    @property
    def period(self) -> float:
        """Seconds; 0 while nothing is known."""
        if self.known_period:
            return self.known_period
        period = self._of_bucket() if self.continuous else self._of_window()
        return min(max(period, SHORTEST), LONGEST) if period or self._longest_reset else 0.0

    def _of_window(self) -> float:
        """Of a fixed window that began before ours the bounds are of what was left of it, so that one which is met by chance is too short."""
        low, high = self._longest_reset, self._window_at_most
        high = high * (1 + NOISE) if low <= high < math.inf else low * 1.05
        least = low + max(WHOLE[0], -ROUNDED * low) if low.is_integer() else low
        periods = nice(least, high), nice(least, high * (1 + MISSED))
        return next((period for period in periods if usual(period)), high)

    def _of_bucket(self) -> float:
        low, high = self._bounds()
        least, most = self._if_full_within
        if self._short:
            if high <= FAR * low:
                return nice(low, high)
        elif most <= FAR * least:
            low = max(self._if_full, self._longest_reset)
            return nice(low, max(low, most))
        meant = next((period for period in USUAL if low <= period <= high < math.inf), None)
        if meant and not self._surprised:
            return meant
        if not self._short:
            high = min(high, self._alone)
            if self._window_at_most < math.inf:  # it may as well be a window
                high = max(high, self._window_at_most)
        if high < math.inf and (self._short or self._most_used < self.limit):
            return nice(max(low, high * (1 - LATE)), high)
        low = max(low, self._if_full, self._longest_reset)
        return nice(low, 1.05 * low)

    def _bounds(self) -> tuple[float, float]:
        """Of the period of a bucket."""
        bounds = [(span.low, span.high if self._short else min(span.full_high, span.high)) for span in self._spans]
        bounds = [(low, high) for low, high in bounds if low <= high]
        return min((low for low, _ in bounds), default=0.0), max((high for _, high in bounds), default=math.inf)
