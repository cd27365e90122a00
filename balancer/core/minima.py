"""The least of what came after a moment, without keeping all of it."""

from __future__ import annotations

import math
from bisect import bisect_right

import attrs

KEPT = 1024
"""Steps that a `Minima` tells apart before it forgets every other one."""


@attrs.define(eq=False)
class Minima:
    """The least of the values pushed since any earlier push: a stack in which numbers and values both rise.

    Its top is kept apart. While values fall, as room does while calls are placed, a push is two assignments, and the counters make
    these themselves: it is part of every charge.
    """

    last: int = attrs.field(init=False, default=0)
    """The number of the last push; 0 without one."""
    top: float = attrs.field(init=False, default=math.inf)
    """Its value."""
    _numbers: list[int] = attrs.field(init=False, factory=list[int])
    _values: list[float] = attrs.field(init=False, factory=list[float])

    def push(self, number: int, value: float) -> None:
        """Add a value under a number greater than all before it, and than 0."""
        if value > self.top:
            self.step()
        self.last, self.top = number, value

    def step(self) -> None:
        """The next value will be greater than the last: keep that one."""
        numbers, values = self._numbers, self._values
        while values and values[-1] >= self.top:
            values.pop()
            numbers.pop()
        numbers.append(self.last)
        values.append(self.top)
        if len(values) >= KEPT:  # every other one goes, its successors answer with the lesser value: never too much
            self._numbers, self._values = numbers[1::2], values[0::2]

    def after(self, number: int) -> float:
        """The least value pushed after `number`; `inf` if none was."""
        if number >= self.last:
            return math.inf
        place = bisect_right(self._numbers, number)
        return min(self._values[place], self.top) if place < len(self._values) else self.top

    def lower(self, number: int, by: float) -> None:
        """Lower every value pushed after `number`."""
        if number >= self.last:
            return
        self.top -= by
        numbers, values = self._numbers, self._values
        place = bisect_right(numbers, number)
        if place == len(values):
            return
        values[place:] = [value - by for value in values[place:]]
        first = bisect_right(values, values[place], 0, place)
        while first and values[first - 1] >= values[place]:
            first -= 1
        del numbers[first:place], values[first:place]
