"""How long an account is expected to take, learned from its own attempts.

Peak EWMA (Finagle): a sample above the estimate replaces it, one below pulls it down by e = e w + x (1 - w) with
w = exp(-dt / tau). Reading never changes the estimate. Beside it a plain mean with the same weights, for expected completion, and
how far samples lie from it, for what is nearly always enough.
Only served attempts are samples: a failing account's latency is its time to fail and must not attract traffic; a cancelled
one is censored.
"""

from __future__ import annotations

import math

import attrs

TAU = 10.0
"""Seconds after which a sample's weight has fallen to 1/e."""

FOLLOWED = 0.1
"""Weight of a sample in the deviation: by their age a few of an account that is seldom asked would tell nothing of it."""


@attrs.define(eq=False)
class Load:
    """Latency estimates of one account, in seconds to the first byte of an answer; `None` without a sample."""

    peak: float | None = attrs.field(default=None, init=False)
    mean: float | None = attrs.field(default=None, init=False)
    _variance: float = attrs.field(default=0.0, init=False)
    _sampled_at: float = attrs.field(default=-math.inf, init=False)

    def sample(self, latency: float, now: float) -> None:
        """A served attempt took `latency` seconds to its first byte."""
        if self.peak is None or self.mean is None:
            self.peak = self.mean = latency
        else:
            w = math.exp(-max(0.0, now - self._sampled_at) / TAU)
            self.peak = latency if latency > self.peak else self.peak * w + latency * (1.0 - w)
            # A mean over near-simultaneous samples would ignore all but the first: each counts at least a tenth.
            w = min(w, 0.9)
            off = latency - self.mean
            self.mean += (1.0 - w) * off
            self._variance += FOLLOWED * (off * off - self._variance)
        self._sampled_at = now

    @property
    def deviation(self) -> float:
        """Root mean square of how far samples lay from the mean before them, in seconds; 0 without any."""
        return math.sqrt(self._variance)
