"""How long an account is expected to take, learned from its own attempts.

Peak EWMA (Finagle): a sample above the estimate replaces it, one below pulls it down by e = e w + x (1 - w) with
w = exp(-dt / tau). Reading never changes the estimate. Beside it a plain mean with the same weights, for expected completion.
Only served attempts are samples: a failing account's latency is its time to fail and must not attract traffic; a cancelled
one is censored.
"""

from __future__ import annotations

import math

import attrs

TAU = 10.0
"""Seconds after which a sample's weight has fallen to 1/e."""


@attrs.define(eq=False)
class Load:
    """Latency estimates of one account, in seconds to the first byte of an answer; `None` without a sample."""

    peak: float | None = attrs.field(default=None, init=False)
    mean: float | None = attrs.field(default=None, init=False)
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
            self.mean = self.mean * w + latency * (1.0 - w)
        self._sampled_at = now
