"""Rates that refusals alone teach."""

from __future__ import annotations

from balancer.core.call import Demand
from balancer.core.history import History
from balancer.core.paces import REFUSALS, Paces
from balancer.core.reservation import Reservation


def reserved(at, model="m", tokens=100):
    return Reservation(Demand(tokens), model, at, (), [], [])


def paces(passed=20):
    """Paces of an account that has let some attempts through, and how often they have changed."""
    history, changes = History(), []
    for number in range(passed):
        ended = reserved(float(number))
        ended.ended = True
        history.recent.append(ended)
    return Paces(history, lambda: changes.append(None)), changes


def test_a_refusal_teaches_a_pace_for_its_model_alone() -> None:
    """Of requests, if it names nothing; a second one slows the same down."""
    learned, changes = paces()
    assert learned.refused(reserved(20.0), None, None, 20.0)
    (line,) = learned.lines
    assert (line.dimension, line.name, line.models, len(changes)) == ("requests", REFUSALS, frozenset(("m",)), 1)
    first = line.counter.limit
    assert learned.refused(reserved(30.0), "requests", None, 30.0)
    assert learned.lines == (line,)
    assert line.counter.limit < first
    assert not learned.refused(reserved(31.0, model="n"), None, None, 31.0), "nothing of that model has passed"


def test_without_anything_admitted_there_is_no_first_estimate() -> None:
    """Nor of what no call takes, or no quota counts."""
    learned, _ = paces(passed=0)
    assert not learned.refused(reserved(0.0), None, None, 0.0)
    learned, _ = paces()
    assert not learned.refused(reserved(20.0), "images", None, 20.0)
    assert not learned.refused(reserved(20.0), "moons", None, 20.0)


def test_what_passes_raises_the_pace() -> None:
    """After the cut it climbs."""
    learned, _ = paces()
    learned.refused(reserved(20.0), "requests", None, 20.0)
    (line,) = learned.lines
    cut, now = line.counter.limit, 20.0
    for _ in range(40):
        now = max(now, line.counter.earliest(1, now))
        attempt = reserved(now)
        attempt.lines, attempt.amounts, attempt.marks = (line,), [1], [line.book(1, now)]
        learned.passed(attempt, now)
    assert line.counter.limit > cut
