"""What is asked for: nothing that an actor could trip over."""

from __future__ import annotations

import math

import pytest

from balancer.core.call import DIMENSIONS, MOST, Call, Demand, Usage

BAD_AMOUNTS = [-1, -0.5, math.nan, math.inf, -math.inf, MOST + 1, 10**400, "3", None, [1]]


def test_defaults():
    """A call is one request without tokens, without a model, and may be repeated but not doubled."""
    call = Call()
    assert call == Call(model=None, demand=None, tenant="", priority=0, tags=(), replayable=True, hedgeable=False)
    assert call.demand == Demand(input_tokens=0, output_tokens=0, requests=1)


def test_tokens_are_input_and_output():
    """And every dimension can be asked of both."""
    assert Demand(3, 4).tokens == Usage(3, 4, cached_tokens=2).tokens == 7
    for dimension in DIMENSIONS:
        assert getattr(Demand(3, 4, images=1), dimension) > 0
        assert getattr(Usage(3, 4, images=1), dimension) > 0
    assert Demand(3, 4).bound == 7
    assert (Demand(3, 4, max_output_tokens=9).output_bound, Demand(3, 4, max_output_tokens=9).bound) == (9, 12)


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=lambda amount: repr(amount)[:20])
@pytest.mark.parametrize("kind", [Demand, Usage])
def test_amounts_are_finite_and_not_negative(kind, amount):
    """What would poison a ledger is refused where it is made."""
    for name in ("input_tokens", "output_tokens", "requests"):
        with pytest.raises(ValueError, match="holds numbers from 0 to"):
            kind(**{name: amount})


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": 3}, {"model": ["m"]}, {"demand": 900}, {"demand": Usage()}, {"priority": "high"}, {"priority": None},
        {"tags": "abc"}, {"tags": ""}, {"tags": None},
    ],
)  # fmt: skip
def test_wrong_types_fail_the_caller_and_not_an_actor(wrong):
    """They are named where the call is made; one text is no sequence of tags."""
    (name,) = wrong
    with pytest.raises(TypeError, match=f"the {name} of a Call (is|are)"):
        Call(**wrong)
