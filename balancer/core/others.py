"""What somebody else took of a window, as far as answers tell it: when it comes back.

An answer says when there will be more: a refusal when what it refused fits, others when some or all of what is used comes back.
Which it is, and in which order others took what they have, is not said. So as much leaves at that time as makes it true, and
the rest as a limit refills: a bucket gives it back no sooner, and of a window nothing else is known. Where ours, that leave by
then, explain it, it says nothing of what is somebody else's.
"""

from __future__ import annotations

import math

from balancer.core.quota import MOST_MARGIN
from balancer.core.sliding import GRANULES, SlidingWindow

PARTS = 8
"""Parts of what refills, beside the first and smaller ones: each leaves when all of it has come back, so more of them lose less.
But for what was refused, they leave at instants that all of them have in common: answers without end make no more than these."""

LATE = MOST_MARGIN
"""Seconds by which ours may leave later than was said and still explain it."""


def leaving(window: SlidingWindow, amount: float, fits: float, until: float, now: float) -> list[tuple[float, float]]:
    """Parts of `amount`, which somebody else took, and when each leaves; the last one leaves first.

    Args:
        window: of whose limit it was taken.
        amount: how much.
        fits: what fits at `until`, as a refusal says; 0: some of what is used comes back then.
        until: trio time of the reset or the end of the wait; one that is over says nothing.
        now: trio time.
    """
    gone_at = now + (window.period + window.margin)
    if not now < until < gone_at - LATE:
        return [(amount, gone_at)]
    used = window.used_at(now)
    left = used - window.used_at(until + LATE)
    if fits:
        due = fits - left + min(0.0, amount + used - window.limit)
    else:
        due = 0.0 if left else math.ceil(amount / PARTS)
    if due <= 0.0:
        return [(amount, gone_at)]
    due = min(due, amount)
    granule = window.period / GRANULES
    parts, rest = [(due, until if fits else math.ceil(until / granule) * granule)], amount - due
    first, refilled = max(1.0, fits), 0.0
    largest = max(first, math.ceil(rest / PARTS))
    while rest > 0.0:
        part = min(max(first, refilled), largest, rest)
        refilled += part
        at = math.ceil((until + refilled * window.period / window.limit) / granule) * granule
        if at >= gone_at:
            part, at = rest, gone_at
        parts.append((part, at))
        rest -= part
    return parts[::-1]
