"""A demand booked in a ledger: it ends once, settled or refunded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from balancer.core.call import Demand, Usage
from balancer.core.line import Line
from balancer.core.mirror import Sent

NOTHING: list[Any] = []
"""Of a reservation without lines; never added to."""


class Reservation:
    """What one attempt has booked of every rate that its model counts against.

    Attributes:
        demand: what was reserved.
        model: for which model.
        at: trio time from which it counts.
        connecting: whether its request waits for a connection.
        ended: whether it has been settled or refunded.
        refunded: whether the provider did not count it.
        served: whether it surely did.
        usage: what it really took, once settled and if known.
        lines, amounts, marks: the ledger's own: what was booked where.
    """

    __slots__ = ("amounts", "at", "connecting", "demand", "ended", "lines", "marks", "model", "refunded", "served", "usage")

    def __init__(
        self, demand: Demand, model: str | None, at: float, lines: Sequence[Line], amounts: list[float], marks: list[Any]
    ) -> None:
        self.demand = demand
        self.model = model
        self.at = at
        self.lines = lines
        self.amounts = amounts
        self.marks = marks
        self.connecting = False
        self.ended = False
        self.refunded = False
        self.served = False
        self.usage: Usage | None = None

    def booked(self) -> Iterator[tuple[Line, float, Any]]:
        """Line, amount and mark of each rate."""
        return zip(self.lines, self.amounts, self.marks)  # noqa: B905 - to pass `strict` takes as long as to book one of them

    def sent(self, line: Line) -> Sent:
        """What `line` knows of it."""
        for place, booked in enumerate(self.lines):
            if booked is line:
                return Sent(self.amounts[place], self.marks[place], self.at, self.refunded)
        return Sent(line.demanded(self.demand), None, self.at, self.refunded)

    def taken(self, dimension: str) -> float:
        """Units of a dimension: what it took, as far as that is known, else what it demands."""
        return getattr(self.usage or self.demand, dimension)
