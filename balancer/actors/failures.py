"""When an actor that keeps failing brings the whole nursery down: three failures within a minute."""

from __future__ import annotations

from collections import deque

import attrs

INTENSITY = 3
PERIOD = 60.0


@attrs.define(eq=False)
class Failures:
    """The failures of one actor."""

    total: int = attrs.field(default=0, init=False)
    _at: deque[float] = attrs.field(factory=lambda: deque[float](maxlen=INTENSITY), init=False)

    def too_many(self, now: float) -> bool:
        """Count one failure; whether it was one too many."""
        self.total += 1
        self._at.append(now)
        return len(self._at) == INTENSITY and now - self._at[0] <= PERIOD
