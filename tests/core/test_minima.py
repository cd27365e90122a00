"""The least of what came after a moment, against a list of all of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.minima import KEPT, Minima


@given(st.lists(st.one_of(st.floats(0, 100), st.tuples(st.integers(0, 30), st.floats(0, 50))), max_size=40))
def test_minima_answer_like_a_list(steps: list[float | tuple[int, float]]) -> None:
    """The least value after any number; lowered values keep the order of the stack."""
    minima, values = Minima(), list[float]()
    for step in steps:
        if isinstance(step, tuple):
            number, by = step
            by = min([by, *values[number:]])
            minima.lower(number, by)
            values[number:] = [value - by for value in values[number:]]
        else:
            values.append(step)
            minima.push(len(values), step)
    for number in range(len(values)):
        assert minima.after(number) == pytest.approx(min(values[number:]), abs=1e-9)
    assert minima.after(len(values)) == math.inf


def test_minima_stay_small_and_never_answer_too_much() -> None:
    """A value that was forgotten is answered by a lesser one."""
    minima = Minima()
    for value in range(10_000):
        minima.push(value + 1, float(value))
        assert len(minima._values) < KEPT  # pyright: ignore[reportPrivateUsage]
    assert all(minima.after(number) <= number for number in range(10_000))
    assert minima.after(9_999) == 9_999
    assert minima.after(10_000) == math.inf
