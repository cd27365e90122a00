"""How one rate is counted: a `Bucket` refills continuously, a `SlidingWindow` lets each charge go one period later, a `CalendarWindow` all
of them at the start of the next.

All answer the same questions (`Counter`), and none is ever told to be fuller than it is: what was charged can be taken back only as
far as it still counts.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

MARGIN = 0.03
"""Seconds to wait beyond the law at first. The provider counts somewhere between our first byte out and its first byte back, so
two calls a period apart by our clock can be closer by its own; 5 and 10 ms still missed on a busy loopback, and a miss costs a
whole window."""

LEAST_MARGIN = 0.024
"""Seconds that the margin narrows to while no call is refused at a boundary. Between first byte out and counting lie at most some
20 ms where nothing is wrong; of a rate of one call a second every 10 ms more are a hundredth."""

MOST_MARGIN = 0.25
"""Seconds to wait at most, however often a call was refused right at a boundary."""

PROMPT = 0.1
PROMPT_RATIO = 0.02
"""An answer within so many seconds, and so much of the time in which a rate fills up, tells nearly when its request was counted;
to wait as much longer for the next costs at most that share of the rate."""

COUNTED_WITHIN = 0.5
"""Seconds from sending within which a provider may not have counted a request yet."""

WHOLE = 1e-6
"""Units by which a window may seem too full, since sums of floats are inexact."""


class Counter(Protocol):
    """How one rate is counted. A mark is the counter's own handle of a charge."""

    limit: float
    period: float
    margin: float
    """Seconds by which the provider may have counted later than we did."""
    charges: int
    """Charges made so far: the number of the last one."""
    open: float
    """Units charged that may still be taken back: those of attempts that have not ended, and those that evidence called for."""
    mirrored: bool
    """Whether answers show this rate, so that it is kept how much room each charge left."""
    grain: ClassVar[float]
    """Units by which an honest provider's integers may differ from ours."""

    @property
    def burst(self) -> float:
        """The largest demand that ever fits."""
        ...

    def earliest(self, amount: float, now: float) -> float:
        """When `amount` fits: `now` if at once, `inf` if never."""
        ...

    def behind(self, before: float, amount: float, now: float) -> float:
        """When `amount`, which may ever fit, would fit if `before` were charged now."""
        ...

    def charge(self, amount: float, now: float) -> Any:
        """Take `amount`, whether it fits or not; returns its mark."""
        ...

    def take_back(self, mark: Any, amount: float) -> None:
        """Undo `amount` of a charge, as if it had not been made."""
        ...

    def exceed(self, mark: Any, amount: float, now: float) -> None:
        """What was charged has turned out to be `amount` more."""
        ...

    def connecting(self, mark: Any, amount: float) -> Any:
        """The request of a charge waits for a connection, so it does not leave before it is made anew; returns its mark from now on."""
        ...

    def connected(self, amount: float) -> None:
        """It waits no more: its charge is taken back or made anew next."""
        ...

    def moved(self, now: float) -> None:
        """A charge has been taken back, since its request is written only now."""
        ...

    def number(self, mark: Any) -> int:
        """The number of a charge."""
        ...

    def least_room(self, number: int) -> float:
        """The least room that the charge of a number, or a later one, left: an honest response to its request shows at least that.
        `inf` where it is not kept."""
        ...

    def counts(self, mark: Any) -> bool:
        """Whether a charge still counts, if only in part."""
        ...

    def answered(self, mark: Any, amount: float, at: float, now: float) -> Any:
        """The charge made at `at` has been counted by `now`, since its answer has begun; returns its mark from now on."""
        ...

    def level(self, now: float) -> tuple[float, float, float]:
        """`(held, full_at, valid_until)`: until `valid_until` the units in use are `min(held, (full_at - now) limit / period)`."""
        ...


def in_use(held: float, full_at: float, per_second: float, now: float) -> float:
    """Units in use, from what `Counter.level` returned."""
    return max(0.0, min(held, (full_at - now) * per_second))


def room(counter: Counter, now: float) -> float:
    """Units that fit at once; negative in debt."""
    held, full_at, _ = counter.level(now)
    return counter.burst - in_use(held, full_at, counter.limit / counter.period, now)
