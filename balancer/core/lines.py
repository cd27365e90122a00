"""The lines of a ledger: which kind counts what, and those of the rates that are configured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from balancer.core.bucket import Bucket
from balancer.core.calendar import CalendarWindow, load_zone
from balancer.core.call import ESTIMATED
from balancer.core.dimension import Models
from balancer.core.estimated import EstimatedLine
from balancer.core.limits import MONTH, Limits, Presets, Terms
from balancer.core.line import Line
from balancer.core.quota import Counter
from balancer.core.sliding import SlidingWindow


def make_line(dimension: str, name: str, counter: Counter, **more: Any) -> Line:
    """The line of a rate that headers show or that is configured, of the kind that its dimension needs; `more`: as of `Line`."""
    kind = EstimatedLine if dimension in ESTIMATED else Line
    return kind(dimension, name, counter, **more)


def lines_of(limits: Limits, presets: Presets, anchor: tuple[float, float]) -> Iterable[Line]:
    """A line for every configured rate, those of single models among them.

    Args:
        limits: what is configured.
        presets: how the provider counts.
        anchor: some trio time and the epoch seconds at it.
    """
    for terms in limits.terms(presets):
        yield make_line(terms.dimension, terms.dimension, _counter(terms, anchor), terms=terms)
    for model, own in limits.models.items():
        for terms in own.terms(presets):
            models: Models = frozenset((model,))
            yield make_line(terms.dimension, terms.dimension, _counter(terms, anchor), models=models, terms=terms)


def _counter(terms: Terms, anchor: tuple[float, float]) -> Counter:
    match terms.window:
        case "sliding":
            return SlidingWindow(terms.amount, terms.per)
        case "calendar":
            period = "month" if terms.per == MONTH else "day"
            return CalendarWindow(terms.amount, period, load_zone(terms.zone), anchor)
        case _:
            return Bucket(terms.amount, terms.per, terms.burst)
