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
"""Weight of a sample in the variance: by their age a few of an account that is seldom asked would tell nothing of it."""


@attrs.define(eq=False)
class Load:
    """Latency estimates of one account, in seconds to the first byte of an answer; `None` without a sample."""

    peak: float | None = attrs.field(default=None, init=False)
    mean: float | None = attrs.field(default=None, init=False)
    variance: float = attrs.field(default=0.0, init=False)
    """Mean square of how far samples lay from the mean before them, in seconds squared; 0 without any."""
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
            self.variance += FOLLOWED * (off * off - self.variance)
        self._sampled_at = now
