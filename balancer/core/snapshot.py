"""Frozen view of one account at one moment: what the dispatcher filters, selectors choose from and `statistics()` shows.

A snapshot holds instants, never amounts that go stale: what time changes is computed from them for a given `now`. It holds
until `valid_until`; who reads it later asks its supervisor for a new one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from balancer.core.call import Demand
from balancer.core.cooldown import Pause
from balancer.core.dimension import DimensionSnapshot

NO_MODEL = "does not offer the model"
PROBING = "its probe is out"
FULL = "its concurrency is used"
COLD = "its limits are not known yet"

_ADVICE_SLACK = 1e-6
"""Share of a limit by which a snapshot errs toward yes. The ledger decides; a snapshot that said no where the ledger's earliest
time has come would let a ticket wait for a bell that never rings."""


class AccountSnapshot(NamedTuple):
    """One account as it was when this was made.

    Attributes:
        name: the account's name.
        state: `"healthy"`, `"ejected"`, `"probing"`, `"cooling"` (a pause covers all calls) or `"disabled"`.
        reason: why, in a few words; empty when healthy.
        until: trio time at which the state ends by itself; `inf` if it does not.
        in_flight: attempts that hold a lease.
        weight: the configured weight.
        dimensions: its quota, one view per rate.
        provider, tags: as configured.
        peak, mean: latency estimates in seconds to the first byte; `None` without a sample.
        variance: of latencies, in seconds squared.
        served, refused, failed: attempts by how they ended, since the start.
        valid_until: trio time from which time alone has changed it.
        restricted: whether there is anything that could hold back a call (`passed_over`).
        disabled_credentials: how many of its credentials were refused as such, and are used no more.
    """

    name: str
    state: str
    reason: str
    until: float
    in_flight: int
    weight: float
    dimensions: tuple[DimensionSnapshot, ...]
    provider: str
    tags: tuple[str, ...]
    peak: float | None
    mean: float | None
    variance: float
    served: int
    refused: int
    failed: int
    valid_until: float
    models: Mapping[str, str] | None
    dialects: frozenset[str]
    concurrency: int | None
    cold_limit: int | None
    pauses: tuple[Pause, ...]
    probing: bool
    ejected_until: float  # -inf when healthy
    restricted: bool
    disabled_credentials: int

    # One is made for every call: a tuple costs half of what an object costs. It stands for itself all the same.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<AccountSnapshot {self.name!r}: {self.state}, {self.in_flight} in flight>"

    def room(self, dimension: str, now: float) -> float:
        """How much of `dimension` could be reserved at `now` for any model; `inf` where nothing limits it."""
        return min((view.room(now) for view in self.dimensions if view.dimension == dimension), default=math.inf)

    def probe_due(self, now: float) -> bool:
        """Whether the next attempt on this account would be its probe."""
        return not self.probing and -math.inf < self.ejected_until <= now

    def passed_over(self, model: str | None, demand: Demand, now: float, cold: bool) -> str:
        """Why this account cannot take a call now; empty if it can.

        Args:
            model: the application's model name.
            demand: what would be reserved.
            now: trio time.
            cold: whether answers of this call show limits, so that an account with unknown ones is asked carefully.
        """
        if self.models is not None and model is not None and model not in self.models:
            return NO_MODEL
        if self.probing:
            return PROBING
        if self.ejected_until > now:
            return self.reason or "ejected"
        if self.concurrency is not None and self.in_flight >= self.concurrency:
            return FULL
        if cold and self.cold_limit is not None and self.in_flight >= self.cold_limit:
            return COLD
        for pause in self.pauses:
            if pause.until > now and pause_covers(pause, model, demand):
                return pause.reason
        for view in self.dimensions:
            amount = getattr(demand, view.dimension)
            if amount and view.covers(model) and amount > view.room(now) + _ADVICE_SLACK * view.limit:
                return f"no room in {view.dimension}"
        return ""

    def ever_takes(self, model: str | None, demand: Demand) -> bool:
        """Whether the account could take such a call, now or later: nothing forbids it for good."""
        for pause in self.pauses:
            if pause.until == math.inf and pause_covers(pause, model, demand):
                return False
        for view in self.dimensions:
            if getattr(demand, view.dimension) > view.burst and not view.learned and view.covers(model):
                return False
        return True

    def of_model(self, model: str | None) -> AccountSnapshot:
        """With those rates alone that calls for `model` count against."""
        dimensions = self.dimensions
        for view in dimensions:
            if not view.covers(model):
                return self._replace(dimensions=tuple([view for view in dimensions if view.covers(model)]))
        return self

    def share_after(self, demand: Demand, now: float) -> float:
        """Dominant quota share after placement: the largest share of any rate that would then be in use, 0 to 1."""
        share = 0.0
        for view in self.dimensions:
            share = max(share, (view.used(now) + getattr(demand, view.dimension)) / view.limit)
        return share


def pause_covers(pause: Pause, model: str | None, demand: Demand) -> bool:
    """Whether `pause` holds back a call for `model` that takes `demand`."""
    if pause.model is not None and pause.model != model:
        return False
    return pause.dimension is None or getattr(demand, pause.dimension) > 0
