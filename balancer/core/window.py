"""What is the same of every rate that is counted in windows, whenever what is charged leaves them."""

from __future__ import annotations

from typing import Any

from balancer.core.minima import Minima


class Window:
    """A `Counter` of at most `limit` units at any time; its marks hold the number of their charge last."""

    __slots__ = ()

    limit: float
    unsent: float
    _lows: Minima

    @property
    def burst(self) -> float:
        """The largest demand that ever fits."""
        return self.limit

    def connected(self, amount: float) -> None:
        """It waits no more."""
        self.unsent -= amount

    def moved(self, now: float) -> None:
        """Every charge is made and leaves on its own."""

    def number(self, mark: tuple[Any, int]) -> int:
        """The number of a charge."""
        return mark[1]

    def least_room(self, number: int) -> float:
        """The least room that the charge of a number, or a later one, left."""
        return self.limit + self._lows.after(number - 1)
