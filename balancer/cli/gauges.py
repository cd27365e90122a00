"""The quota of an account at one moment, one gauge per rate, for tables, lines and JSON."""

from __future__ import annotations

import math

import attrs
from rich.text import Text

from balancer.cli.rates import rate_name
from balancer.core.snapshot import AccountSnapshot

_BAR = 8
_UNITS = ((999.5e12, 1e15, "P"), (999.5e9, 1e12, "T"), (999.5e6, 1e9, "G"), (999.5e3, 1e6, "M"), (1e4, 1e3, "k"))
"""From where on, in which unit, with which letter; three digits round up to the next unit."""


@attrs.frozen
class Gauge:
    """One rate of one account at one moment, or its attempts at once.

    Attributes:
        dimension: what is counted.
        name: tells several learned rates of one dimension apart.
        per: the period in seconds; `None` for concurrency.
        limit: units per period.
        burst: units that may go at once.
        used: units in use, those reserved and kept back among them.
        reserved: units of attempts that have not ended.
        kept_back: units kept free for what these may still turn out to take.
        learned: whether answers taught it.
        models: the models that it holds for; `None` for all that have none of their own.
        refill_after: seconds until a window has more room or a bucket is full; `None` if nothing is in use or none is known.
    """

    dimension: str
    name: str
    per: float | None
    limit: float
    burst: float
    used: float
    reserved: float
    kept_back: float
    learned: bool
    models: list[str] | None
    refill_after: float | None

    @property
    def label(self) -> str:
        """What is counted, in which period and for which models: `input tokens/min small`."""
        counted = self.dimension.replace("_", " ") if self.per is None else rate_name(self.dimension, self.per)
        return counted if self.models is None else f"{counted} {', '.join(self.models)}"

    @property
    def level(self) -> str:
        """What is in use of how much: `45/60`."""
        return f"{short(self.used)}/{short(self.burst)}"

    def bar(self) -> Text:
        """The share in use: heavy what is used, light what is free, which reads without colours too."""
        filled = min(_BAR, round(_BAR * self.used / self.burst))
        return Text("━" * filled, "cyan") + Text("─" * (_BAR - filled), "dim")


def gauges_of(snapshot: AccountSnapshot, now: float) -> list[Gauge]:
    """Every rate of an account at `now`, and its attempts at once where they are limited."""
    gauges = [
        Gauge(
            dimension=view.dimension,
            name=view.name,
            per=view.period,
            limit=view.limit,
            burst=view.burst,
            used=view.used(now),
            reserved=view.reserved,
            kept_back=view.kept_back,
            learned=view.learned,
            models=None if view.models is None else sorted(model or "no model" for model in view.models),
            refill_after=view.next_refill - now if now < view.next_refill < math.inf else None,
        )
        for view in snapshot.dimensions
    ]
    if (most := snapshot.concurrency) is not None:
        busy = snapshot.in_flight
        gauges.append(Gauge("concurrency", "concurrency", None, most, most, busy, busy, 0.0, False, None, None))
    return gauges


def short(amount: float) -> str:
    """An amount in at most six characters: `0.4`, `45`, `9,999`, `30k`, `1.25M`."""
    for least, unit, letter in _UNITS:
        if amount >= least:
            return f"{amount / unit:.3g}{letter}"
    return f"{amount:,.0f}" if amount >= 10 or amount == int(amount) else f"{amount:.1f}"
