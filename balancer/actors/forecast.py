"""How many requests a pool can admit until some time, at most: what lets a ticket be refused at once that cannot be in time.

Only configured rates of requests count. An attempt may take fewer tokens than it was estimated to, and a limit that was learned
may rise: a ticket that is refused for either could have been in time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from balancer.core.dimension import DimensionSnapshot
from balancer.core.limits import DAY
from balancer.core.snapshot import AccountSnapshot

SHORTEST = 0.9
"""Of the nominal period of a calendar's window, the part that every one has: a day of 23 hours, a month of 28 days."""
GRACE = 0.1
"""Seconds by which a refill may come earlier than a ledger says now: its margin for the provider's clock is learned."""
STEPS = 24
"""Bisections to find a time: a ten-millionth of the span."""


def most_requests(accounts: Sequence[AccountSnapshot], model: str | None, now: float, until: float) -> float:
    """Requests that these accounts can admit from `now` to `until`, at most; `inf` where one has no configured rate of them."""
    most, until = 0.0, until + GRACE
    for account in accounts:
        most += max(
            0.0, min((_most(view, now, until) for view in account.dimensions if _counts(view, model)), default=math.inf)
        )
    return most


def time_for(accounts: Sequence[AccountSnapshot], model: str | None, now: float, requests: float, late: float) -> float:
    """Trio time before which these accounts cannot have admitted so many requests from `now` on, where not even at `late`."""
    span = max(late - now, 1e-3)
    while most_requests(accounts, model, now, now + span) < requests:
        late, span = now + span, 2.0 * span
    early, late = late, now + span
    for _ in range(STEPS):
        middle = (early + late) / 2.0
        early, late = (early, middle) if most_requests(accounts, model, now, middle) >= requests else (middle, late)
    return early


def _counts(view: DimensionSnapshot, model: str | None) -> bool:
    return view.dimension == "requests" and not view.learned and view.covers(model)


def _most(view: DimensionSnapshot, now: float, until: float) -> float:
    """Units of one rate: a bucket refills evenly; of a window nothing comes back before `valid_until`, then all may at once."""
    room = view.room(now)
    if view.full_at < math.inf:
        return room + (until - now) * view.limit / view.period
    calendar = view.period >= DAY
    refills_at = view.valid_until if view.valid_until < math.inf else now if calendar else now + view.period
    if until < refills_at:
        return room
    return room + view.limit * (math.floor((until - refills_at) / (view.period * (SHORTEST if calendar else 1.0))) + 1)
