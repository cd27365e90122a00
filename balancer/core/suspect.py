"""Which dimension a refusal is about that names none: what calls took before it tells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, pstdev

import attrs

NEUTRAL = 0.2
"""By how much calls before a refusal are larger in any case: a limit of tokens rather refuses a large one."""

CLEARLY = 0.4
"""Beyond that the least that speaks for the other dimension."""

MOST = 2.0
"""The most that one refusal says."""

ENOUGH = 3.5
"""What must have spoken for it."""


@attrs.define(eq=False)
class Suspect:
    """Where calls of many tokens come before refusals the limit is one of tokens, where many small ones do it is one of requests.

    Each refusal tells little, in standard deviations of the sizes: the most that any run of calls up to it deviates from the
    mean. What speaks against the present dimension is summed up (CUSUM), so that chance alone rarely changes it.
    """

    dimension: str = "requests"
    _against: float = attrs.field(init=False, default=0.0)
    _judged_at: float = attrs.field(init=False, default=-math.inf)

    def refused(self, amount: float, at: float, sent: Iterable[tuple[float, float]], now: float) -> str:
        """An attempt of so many tokens that was sent at `at` was refused; `sent`: when others were, and their tokens. Returns the
        dimension."""
        if at < self._judged_at:  # it was on its way: the same news
            return self.dimension
        others = sorted(sent)
        amounts = [tokens for _, tokens in others]
        run = [amount, *[tokens for sent_at, tokens in reversed(others) if self._judged_at <= sent_at <= at]]
        self._judged_at = now
        if len(run) == 1 or not (deviation := pstdev(amounts)):  # none since the last refusal, or all alike
            return self.dimension
        mean, total, most, least = fmean(amounts), 0.0, 0.0, 0.0
        for count, tokens in enumerate(run, 1):
            total += (tokens - mean) / deviation
            most, least = max(most, total / math.sqrt(count)), min(least, total / math.sqrt(count))
        larger = max(-MOST, min(MOST, most + least - NEUTRAL))
        self._against = max(0.0, self._against + (larger if self.dimension == "requests" else -larger) - CLEARLY)
        if self._against > ENOUGH:
            self.dimension, self._against = "tokens" if self.dimension == "requests" else "requests", 0.0
        return self.dimension
