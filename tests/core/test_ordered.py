"""The list of entries in order, against a sorted list."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.core import ordered
from balancer.core.ordered import Ordered


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short chunks, so that few entries split them."""
    monkeypatch.setattr(ordered, "CHUNK", 4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=80))
def test_it_is_a_sorted_list(steps):
    """Whatever is added and removed, it holds the same in the same order and finds the same."""
    one, model = Ordered[tuple[int, int]](), []
    for number, (adds, key) in enumerate(steps):
        if adds or not model:
            one.add((key, number))
            insort(model, (key, number))
        else:
            gone = model.pop(key % len(model))
            one.remove(gone)
        assert list(one) == model
        assert (len(one), bool(one), one.first()) == (len(model), bool(model), model[0] if model else None)
        for probe in [(key,), (key, number), *model]:
            place = bisect_right(model, probe)
            assert one.after(probe) == (model[place] if place < len(model) else None)
            assert one.count_from(probe) == len(model) - bisect_left(model, probe)


def test_nothing_stays_behind():
    """What has been removed takes no place."""
    one = Ordered[tuple[int]]()
    for number in range(100):
        one.add((number,))
    for number in range(100):
        one.remove((number,))
    assert (one._chunks, one._lasts, one.first()) == ([], [], None)
