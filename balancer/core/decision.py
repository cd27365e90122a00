"""The record of a call: where its attempts went, how they ended, and why other accounts were passed over.

It keeps the frozen snapshots that were scanned and explains them only when asked, not on the hot path.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from balancer.core.call import Call, Demand
from balancer.core.outcome import Outcome
from balancer.core.snapshot import AccountSnapshot

CHOSEN = "chosen"
NOT_CHOSEN = "not chosen"
OTHER_DIALECT = "does not speak"
AVOIDED = "avoided by this call"
"""It has failed this call, cannot take it at all, or runs the attempt beside which a hedge was placed."""


@attrs.define(eq=False)  # not frozen: one is made for every attempt, and that takes three times as long
class Scan:
    """What one placement looked at.

    Attributes:
        tiers: the snapshots per tier, in order of preference; tiers after the one that took the call were not looked at.
        model, demand, now: what was asked of them (`AccountSnapshot.passed_over`).
        avoid: accounts that this call avoids.
        dialect: what the account had to speak; `None` for any.
        chosen: the account that took it.
    """

    tiers: tuple[tuple[AccountSnapshot, ...], ...]
    model: str | None
    demand: Demand
    now: float
    avoid: frozenset[str]
    dialect: str | None
    chosen: str

    def explain(self) -> Mapping[str, str]:
        """Account name -> why it was passed over; the chosen one says so."""
        reasons: dict[str, str] = {}
        for snapshot in (snapshot for tier in self.tiers for snapshot in tier):
            name = snapshot.name
            if name == self.chosen:
                reasons[name] = CHOSEN
            elif self.dialect is not None and self.dialect not in snapshot.dialects:
                reasons[name] = f"{OTHER_DIALECT} {self.dialect}"
            elif name in self.avoid:
                reasons[name] = AVOIDED
            else:
                reasons[name] = snapshot.passed_over(self.model, self.demand, self.now) or NOT_CHOSEN
        return reasons


@attrs.define(eq=False)
class AttemptRecord:
    """One attempt of a call.

    Attributes:
        account: the account's name.
        model: the account's own model name.
        started_at: trio time of the lease.
        outcome: how it ended; `None` while it runs.
        duration: seconds from the lease to the end; `None` while it runs.
        hedge: whether it ran beside another.
    """

    account: str
    model: str | None
    started_at: float
    scan: Scan = attrs.field(repr=False)
    hedge: bool = False
    outcome: Outcome | None = None
    duration: float | None = None

    @property
    def candidates(self) -> Mapping[str, str]:
        """Account name -> why it was passed over."""
        return self.scan.explain()


@attrs.define(eq=False)
class Decision:
    """The record of one call, growing while the call runs; written by the call's own task.

    Attributes:
        call: what was asked.
        attempts: the attempts so far, in the order of their start.
        waited_for: seconds spent waiting for an account, in all.
        outcome: how the call ended: that of its last deciding attempt; `None` while it runs or if none began.
    """

    call: Call
    attempts: tuple[AttemptRecord, ...] = ()
    waited_for: float = 0.0
    outcome: Outcome | None = None
