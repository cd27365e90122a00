"""A limit that nobody configured and no header shows, learned from refusals: a pace that follows CUBIC.

Whatever the provider counts (a bucket of any burst, a sliding or a fixed window, of any period), a steady pace below its limit
is never refused, so one number is to be found. Before the first refusal nothing is held back. A refusal cuts the rate to `BETA`
of it, for every attempt sent since the last cut was refused again; what was sent before that is the same news. The first
attempt that passes ends the cut: the rate resumes below the limit as it is now estimated, climbs to it along the cubic, stays
about it for long, and feels beyond.

Three things are added to CUBIC (RFC 9438), which knows the time of a round trip and shares its link with others. How long a
climb takes is learned: refusals are to be `REFUSED_RATIO` of the attempts. After a refusal in line with the last climb the rate
resumes at `RESUME`, since nobody is to be made room for. And what had been admitted corrects the estimate: a window is full
because of all that went through it, not of the rate that happens to meet its end. For how long it was full is learned from
attempts in vain, or from what a refusal says of when to come back.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs

from balancer.core.admitted import Admitted

BETA = 0.7
"""What a refusal leaves of the rate, and where the climb begins while the estimate is not yet borne out (RFC 9438)."""

RESUME = 0.9
"""Share of an estimate that was borne out at which the climb begins: on the average of a climb 97.5 % of it are used."""

REFUSED_RATIO = 1 / 50
"""Refused attempts that a climb may end with, as a share of those it sent; beyond it the next takes twice as long, below a third
of it half as long."""

FIRST_SPAN = 10.0
"""Seconds before the first refusal from which the first rate is taken at the least. Of fewer a burst would pass for a pace."""

FIRST_CLIMB = 8
"""Attempts of the first climb: few, since the first estimate is rough."""

DOUBLING = 4
"""Attempts that pass while the rate doubles, as long as there is no estimate but a refusal met by chance."""

PROVEN = 1.1
"""How far an estimate may exceed what was admitted in the time of one climb."""

SAME_WAIT = 0.01
"""Share by which waits that are said of two closures may differ and still be one that is said of any."""

ROUNDED_UP = 1.0
"""Seconds by which a refusal may state too late a time, since mostly it is a whole number of them; in the mean half of it."""

UNPROVEN = 3.0
"""By how much shorter the climbs are to an estimate that was made in other units."""

LONGEST_GAP = 600.0
"""Seconds after which a closed limit is tried again at the latest, unless it is known to be slower than that."""

PACED = 0.25
"""Share of its gap by which an attempt may be late and still count as held back by the pace: only those prove a need for more."""


@attrs.define(eq=False)
class Sent:
    """One charge: when, how much, whether the pace was what held it back, whether it was refused."""

    at: float
    amount: float
    paced: bool
    refused: bool = False


@attrs.define(eq=False)
class CubicBucket:
    """A counter of a limit that is being learned; a mark is a `Sent`.

    Tell it how each attempt ended as soon as that is known: `passed` or `refused`. It learns in the units it is charged in, so
    estimates that are wrong by a factor do no harm, and corrections of them may be left out.

    Attributes:
        limit: units per minute of the pace now; `inf` before the first refusal.
        period: 60 seconds, in which the limit is shown; the provider's own is not known.
    """

    grain: ClassVar[float] = math.inf
    margin: float = attrs.field(init=False, default=0.0)
    """None: a pace knows no boundary."""
    charges: int = attrs.field(init=False, default=0)
    open: float = attrs.field(init=False, default=0.0)
    mirrored: bool = attrs.field(init=False, default=False)
    limit: float = attrs.field(init=False, default=math.inf)
    period: float = attrs.field(init=False, default=60.0)
    _unit: float = attrs.field(init=False, default=0.0)
    """Seconds per unit."""
    _full_at: float = attrs.field(init=False, default=-math.inf)
    _largest: float = attrs.field(init=False, default=0.0)
    """The largest demand that has passed: the provider's burst is no smaller, so the pace's need not be."""
    _last: Sent | None = attrs.field(init=False, default=None)
    _admitted: Admitted = attrs.field(init=False, factory=Admitted)
    _cut_at: float = attrs.field(init=False, default=-math.inf)
    _cuts: int = attrs.field(init=False, default=0)
    """Cuts since an attempt last passed."""
    _closed_at: float = attrs.field(init=False, default=0.0)
    """When the first of them was made."""
    _closed_until: float = attrs.field(init=False, default=-math.inf)
    """Until when it is, as far as refusals have said."""
    _opened_at: float = attrs.field(init=False, default=-math.inf)
    """When an attempt passed that ended the cuts before."""
    _met_at: float = attrs.field(init=False, default=math.inf)
    """The rate that met it."""
    _wait: float = attrs.field(init=False, default=0.0)
    """Seconds after which to try again, as the refusal that closed it last said."""
    _constant: bool = attrs.field(init=False, default=False)
    """Whether the one before said the same: then it is no news of this limit."""
    _estimate: float = attrs.field(init=False, default=math.inf)
    """Units per second at which the curve is flat: CUBIC's W_max."""
    _start: float = attrs.field(init=False, default=BETA)
    """Share of the estimate at which the curve begins."""
    _climb_for: float = attrs.field(init=False, default=0.0)
    """Seconds of sending from there to the estimate: CUBIC's K; 0 before the first climb."""
    _climbed_for: float = attrs.field(init=False, default=0.0)
    _searching: bool = attrs.field(init=False, default=False)
    _raises: int = attrs.field(init=False, default=0)
    _passed: float = attrs.field(init=False, default=0.0)
    _refused: float = attrs.field(init=False, default=0.0)

    @property
    def burst(self) -> float:
        """`inf`: no demand is known to be too large."""
        return math.inf

    @property
    def closed(self) -> bool:
        """Whether nothing has passed since the last refusal."""
        return self._cuts > 0

    def change_units(self, factor: float) -> None:
        """Go on in units of which there are `factor` times as many, with nothing charged."""
        self._admitted = self._admitted.in_units(factor)
        self.limit *= factor
        self._unit /= factor
        self._met_at *= factor
        self._estimate *= factor
        self._climb_for /= UNPROVEN
        self._passed *= factor
        self._refused *= factor
        self.open = self._largest = 0.0
        self._full_at, self._last = -math.inf, None

    def earliest(self, amount: float, now: float) -> float:
        """When the pace admits `amount`: `now` if at once. What is larger than all before goes when nothing is owed."""
        return max(now, self._full_at + min(0.0, amount - self._largest) * self._unit)

    def behind(self, before: float, amount: float, now: float) -> float:
        """When the pace would admit `amount` if `before` were charged now."""
        full_at = max(self._full_at, now) + before * self._unit
        return max(now, full_at + min(0.0, amount - self._largest) * self._unit)

    def connecting(self, mark: Sent, amount: float) -> Sent:
        """The pace has spaced it already."""
        return mark

    def connected(self, amount: float) -> None:
        """Nor does it matter when it waits no more."""

    def moved(self, now: float) -> None:
        """The pace goes on."""

    def number(self, mark: Sent) -> int:
        """No header shows this limit, so charges need no numbers."""
        return 0

    def least_room(self, number: int) -> float:
        """Nor is it kept how much room they left."""
        return math.inf

    def counts(self, mark: Sent) -> bool:
        """The pace has no memory of what it does not space any more."""
        return True

    def answered(self, mark: Sent, amount: float, at: float, now: float) -> Sent:
        """The pace is of what is sent, whenever that is counted."""
        return mark

    def charge(self, amount: float, now: float) -> Sent:
        """An attempt is sent; returns its mark."""
        self.charges += 1
        unit, full_at = self._unit, self._full_at
        due_at = full_at + min(0.0, amount - self._largest) * unit
        self._full_at = max(full_at, now) + amount * unit
        self._last = sent = Sent(now, amount, now - due_at <= PACED * amount * unit)
        return sent

    def take_back(self, mark: Sent, amount: float) -> None:
        """Undo `amount` of a charge. A refused one still spaces the next, and one that others have followed has been used up."""
        if mark is self._last and not mark.refused:
            self._full_at -= amount * self._unit

    def exceed(self, mark: Sent, amount: float, now: float) -> None:
        """The pace is of what is sent, whatever that takes."""

    def level(self, now: float) -> tuple[float, float, float]:
        """`(held, full_at, valid_until)`; it holds until the next charge, `passed` or `refused`."""
        owed = self._full_at - now
        return (owed / self._unit, self._full_at, math.inf) if self._unit and owed > 0.0 else (0.0, -math.inf, math.inf)

    def passed(self, mark: Sent, now: float) -> None:
        """The provider let an attempt through."""
        amount = mark.amount
        self._admitted.add(mark.at, amount)
        self._passed += amount
        self._largest = max(self._largest, amount)
        if mark.at < self._cut_at or not self._unit:
            return
        if self._cuts:
            self._reopen(mark, now)
        elif mark.paced:
            self._raises += 1
            if self._searching:  # a pace far above what is sent proves nothing
                most = 2.0 * max(self._met_at, self._admitted.since(now - FIRST_SPAN) / FIRST_SPAN)
                self._set_rate(max(1.0 / self._unit, min(2 ** (1 / DOUBLING) / self._unit, most)), now)
                return
            self._climbed_for += amount * self._unit
            x = self._climbed_for / self._climb_for - 1.0
            self._set_rate(self._estimate * (1.0 + (1.0 - (self._start if x < 0.0 else BETA)) * x**3), now)

    def refused(self, mark: Sent, now: float, until: float | None = None) -> None:
        """The provider refused an attempt over this limit; `until`: when to try again, if it says so."""
        mark.refused = True
        self._refused += mark.amount
        if until is not None and until > now and not self._cuts:
            self._constant, self._wait = abs(until - now - self._wait) <= SAME_WAIT * self._wait, until - now
        if until is not None and not self._constant:
            self._closed_until = max(self._closed_until, until - ROUNDED_UP)
        if mark.at < self._cut_at:
            return
        if not self._unit:
            least = max(self._admitted.since(now - FIRST_SPAN), mark.amount) / FIRST_SPAN
            self._set_rate(max(least, self._admitted.best_rate(-math.inf, now, FIRST_SPAN)), now)
            self._full_at = now
        rate = 1.0 / self._unit
        if until is not None and until > now:
            lost_for = until - now if self._constant else min(0.5 * ROUNDED_UP, until - now)
            self._refused += lost_for * rate  # could have been sent meanwhile
        if not self._cuts:
            self._closed_at, self._met_at = now, rate
        self._cuts += 1
        self._cut_at = now
        slowest = min(mark.amount / LONGEST_GAP, 0.5 * self._estimate)
        self._set_rate(max(BETA * rate, min(rate, slowest)), now)
        self._full_at = max(self._full_at, now + mark.amount * self._unit)

    def _set_rate(self, rate: float, now: float) -> None:
        """Another rate, the same units owed."""
        owed = max(0.0, self._full_at - now)
        if self._unit:
            owed /= self._unit * rate
        self._full_at = now + owed
        self._unit = 1.0 / rate
        self.limit = rate * self.period

    def _reopen(self, mark: Sent, now: float) -> None:
        """The first attempt since the cut has passed: estimate the limit anew and begin a climb."""
        met_at, start = self._met_at, BETA
        least = 0.0 if self._stated(mark) else 1.0 / self._unit
        if not self._climb_for or (self._searching and self._raises < 2):
            estimate = self._first_estimate(mark, least)
            self._climb_for = FIRST_CLIMB * mark.amount / estimate
        else:
            early = not self._searching and self._climbed_for < 0.5 * self._climb_for
            beyond = self._searching or met_at > PROVEN * self._estimate
            if self._searching:
                self._climb_for = FIRST_CLIMB * mark.amount / met_at
                self._searching = False
            estimate = self._next_estimate(mark, least, early=early)
            if not early:
                self._adapt(estimate, shorter=not beyond)
                start = BETA if beyond else RESUME
        if self._shut(mark):  # a window that was closed for so long is no shorter than that
            self._climb_for = max(self._climb_for, now - self._closed_at)
        rate = max(least, start * estimate)
        self._estimate, self._start = estimate, min(start, rate / estimate)
        missing = max(0.0, 1.0 - rate / estimate) / (1.0 - self._start)
        self._climbed_for = self._climb_for * (1.0 - missing ** (1 / 3))
        self._cuts = self._raises = 0
        self._opened_at = mark.at
        self._set_rate(rate, now)

    def _first_estimate(self, mark: Sent, least: float) -> float:
        """What had been admitted until a closed limit opened, if it was found or said to be closed for a while. Else the refusal was
        met by chance at a rate that says little: search by doubling."""
        best = self._best_rate(-math.inf, mark)
        closed_for, found_for = mark.at - self._closed_at, max(self._cut_at, self._closed_until) - self._closed_at
        self._searching = not self._shut(mark) or best >= self._met_at or closed_for > 4.0 * found_for
        return self._met_at if self._searching else max(best, least)

    def _next_estimate(self, mark: Sent, least: float, *, early: bool) -> float:
        """The rate that met the limit, or what had been admitted, by how the limit was met."""
        met_at = self._met_at
        if early:  # the last refusal's aftermath, or a limit that has fallen: half of each
            return 0.5 * (min(met_at, self._estimate) + self._estimate)
        if self._shut(mark):  # it was closed for a while: a window, full of what had been admitted
            return min(max(self._best_rate(self._opened_at, mark), least), met_at)
        admitted = self._admitted.since(self._closed_at - self._climb_for) / self._climb_for
        return min(met_at, max(BETA * met_at, PROVEN * admitted))

    def _best_rate(self, since: float, mark: Sent) -> float:
        """What was admitted until the limit opened again: at the stated time, else between the last cut and the attempt that passed."""
        return self._admitted.best_rate(since, max(0.5 * (self._cut_at + mark.at), min(self._closed_until, mark.at)))

    def _shut(self, mark: Sent) -> bool:
        """Whether it is known to have been closed for a while."""
        return self._cuts > 1 or self._stated(mark)

    def _stated(self, mark: Sent) -> bool:
        """Whether refusals have said so."""
        return self._closed_until - self._closed_at > 2.0 * mark.amount / self._met_at

    def _adapt(self, estimate: float, *, shorter: bool) -> None:
        """Climb for longer if too many attempts were refused, but for no longer than makes as many few enough twice over; for less if
        a shorter climb may be enough."""
        ratio = self._refused / (self._refused + self._passed)
        if ratio > REFUSED_RATIO:
            enough = 2.0 * self._refused / (REFUSED_RATIO * estimate)
            self._climb_for = max(self._climb_for, min(2.0 * self._climb_for, enough))
        elif shorter and ratio < REFUSED_RATIO / 3.0:
            self._climb_for /= 2.0
        self._refused = self._passed = 0.0
