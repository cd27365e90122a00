"""Commanded pauses of one account: the backend told us when, or backoff says so.

Laws: pauses merge by maximum and never move earlier; a `Retry-After` is a floor, never undercut. The queue in front spaces
the starts, so the jitter above the floor is small: at most 2 % and 50 ms, and 20 % (at most 30 s) on waits of 30 s and more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import random

MAX_TRANSIENT = 300.0
"""Cap of a pause that is not about a quota, in seconds: nothing transient deserves more without a fresh look."""

MOST_PAUSES = 256
"""Pauses at once: names of models are the callers' to choose, memory is ours."""


@attrs.frozen
class Pause:
    """One pause. `model` and `dimension` narrow it; `None` means every one."""

    until: float
    reason: str
    model: str | None = None
    dimension: str | None = None


def spread(now: float, until: float, rng: random.Random) -> float:
    """The instant of the next start for a stated `until`: never before it, and not with everybody else."""
    wait = until - now
    if wait <= 0.0 or not math.isfinite(wait):
        return until
    jitter = min(0.2 * wait, 30.0) if wait >= 30.0 else min(0.02 * wait, 0.05)
    return until + rng.uniform(0.0, jitter)


@attrs.define(eq=False)
class Cooldowns:
    """The pauses of one account, by what they are about."""

    _pauses: dict[tuple[str | None, str | None], Pause] = attrs.field(
        factory=dict[tuple[str | None, str | None], Pause], init=False
    )

    def __bool__(self) -> bool:
        return bool(self._pauses)

    def add(self, pause: Pause) -> None:
        """Merge by maximum. Where there are too many, the oldest that is about one model is forgotten."""
        key = (pause.model, pause.dimension)
        old = self._pauses.get(key)
        if old is None or pause.until > old.until:
            self._pauses[key] = pause
        if len(self._pauses) > MOST_PAUSES:
            del self._pauses[next(key for key in self._pauses if key[0] is not None)]

    def expire(self, now: float) -> None:
        """Forget what is over."""
        for key in [key for key, pause in self._pauses.items() if pause.until <= now]:
            del self._pauses[key]

    def reopen(self) -> None:
        """Lift what would last for ever: it waited for an operator, who has now acted."""
        for key in [key for key, pause in self._pauses.items() if pause.until == math.inf]:
            del self._pauses[key]

    def pauses(self) -> tuple[Pause, ...]:
        """What is in force, or was until time alone ended it."""
        return tuple(self._pauses.values())

    def clear(self) -> None:
        """Lift every pause: they were about another backend or credential."""
        self._pauses.clear()
