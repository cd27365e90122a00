"""What a provider has let through, and when: of a limit that is not known, all that tells how high it is."""

from __future__ import annotations

import attrs

REMEMBERED = 512
"""Passed attempts that the record tells apart before it forgets every other one."""


@attrs.define(eq=False)
class Admitted:
    """What the provider has let through: sums before each attempt, finer the more recent."""

    total: float = 0.0
    _times: list[float] = attrs.field(init=False, factory=list[float])
    _sums: list[float] = attrs.field(init=False, factory=list[float])

    def add(self, at: float, amount: float) -> None:
        """An attempt that was sent at `at` has passed."""
        times = self._times
        times.append(max(at, times[-1]) if times else at)
        self._sums.append(self.total)
        self.total += amount
        if len(times) >= REMEMBERED:
            del times[1::2], self._sums[1::2]

    def in_units(self, factor: float) -> Admitted:
        """The same in units of which there are `factor` times as many."""
        other = Admitted(self.total * factor)
        other._times, other._sums = list(self._times), [before * factor for before in self._sums]
        return other

    def since(self, at: float) -> float:
        """Units let through of attempts sent from `at` on."""
        return self.total - next(
            (before for time, before in zip(self._times, self._sums, strict=True) if time >= at), self.total
        )

    def best_rate(self, since: float, until: float, least: float = 0.0) -> float:
        """The highest rate, units per second, from the sending of any attempt after `since` to `until`, over `least` seconds at least."""
        spans = zip(self._times, self._sums, strict=True)
        latest = until - least
        return max(((self.total - before) / (until - time) for time, before in spans if since <= time < latest), default=0.0)
