"""The errors of the public API."""

from __future__ import annotations

import inspect

import pytest
import trio

from balancer import errors
from balancer.core.call import Call
from balancer.core.decision import Decision
from balancer.errors import (
    AttemptsFailed,
    BalancerError,
    Closed,
    ConfigError,
    DeadlineUnreachable,
    Fault,
    NoAccount,
    Saturated,
    StreamTruncated,
)

DECISION = Decision(Call())
EVERY = [
    BalancerError("m", decision=DECISION),
    Saturated("m", retry_at=5.0, decision=DECISION),
    DeadlineUnreachable("m", retry_at=5.0, decision=DECISION),
    NoAccount("m", decision=DECISION),
    AttemptsFailed("m", attempts=(), errors=[ValueError("v")], decision=DECISION),
    StreamTruncated("m", received=7, decision=DECISION),
    Closed("m", decision=DECISION),
]


def test_every_error_is_listed_here():
    """None is a group: a group loses its type in a nursery."""
    kinds = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, BaseException)}
    assert kinds == {*map(type, EVERY), ConfigError}
    assert not any(issubclass(cls, BaseExceptionGroup) for cls in kinds)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
async def test_an_error_survives_a_nursery_and_a_cancelled_scope(error):
    """With its type, its attributes and its cause."""
    cause = error.__cause__
    caught = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.cancel()
            raise error
    except* BalancerError as group:
        (caught,) = group.exceptions
    assert caught is error
    assert (error.decision, str(error), error.__cause__) == (DECISION, "m", cause)


def test_attempts_failed_holds_them_all():
    """As tuples, and as the group that caused it."""
    first, second = ValueError("1"), OSError("2")
    error = AttemptsFailed("m", attempts=["a", "b"], errors=[first, second])
    assert (error.attempts, error.errors) == (("a", "b"), (first, second))
    assert isinstance(error.__cause__, ExceptionGroup)
    assert error.__cause__.exceptions == (first, second)
    assert AttemptsFailed("m", attempts=[], errors=[]).__cause__ is None


def test_what_each_adds():
    """When to come back, and how far a stream came."""
    assert Saturated("m", retry_at=5.0).retry_at == DeadlineUnreachable("m", retry_at=5.0).retry_at == 5.0
    assert StreamTruncated("m", received=7).received == 7
    assert BalancerError("m").decision is None


def test_faults_in_words():
    """Where, what was found, what may stand there."""
    assert str(Fault("a[2].b", "3", "a text")) == "a[2].b: 3; allowed: a text"
    assert str(Fault("", "3", "a text")) == "the configuration: 3; allowed: a text"
    assert str(Fault("a", "", "must be so")) == "a: must be so"


@pytest.mark.parametrize(
    ("path", "prefix", "seen"),
    [("b", "a", "a.b"), ("[0]", "a", "a[0]"), ("", "a", "a"), ("b", "", "b"), ("[0].c", "a.b", "a.b[0].c"), ("", "", "")],
)
def test_a_fault_seen_from_outside(path, prefix, seen):
    """Its path grows from the left."""
    assert Fault(path, "g", "w").below(prefix) == Fault(seen, "g", "w")


def test_a_config_error_lists_every_fault():
    """In the order of the configuration, one a line."""
    faults = [Fault("a", "1", "x"), Fault("b", "2", "y")]
    error = ConfigError(iter(faults))
    assert error.faults == tuple(faults)
    assert str(error) == "a: 1; allowed: x\nb: 2; allowed: y"
