"""Pauses that merge by maximum, and the jitter above a stated time."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from balancer.core.cooldown import MOST_PAUSES, Cooldowns, Pause, spread

WAITS = st.floats(min_value=0.0, max_value=1e7)
SEEDS = st.integers(0, 2**32)


@given(now=st.floats(0.0, 1e6), wait=WAITS, seed=SEEDS)
def test_a_stated_time_is_a_floor_with_little_jitter(now, wait, seed):
    """In [v, v + jitter]: 2 % and 50 ms for short waits, 20 % and 30 s for those of half a minute and more."""
    until = now + wait
    start = spread(now, until, random.Random(seed))
    jitter = min(0.2 * wait, 30.0) if until - now >= 30.0 else min(0.02 * wait, 0.05)
    assert until <= start <= until + jitter + 1e-6


def test_a_time_that_is_over_or_never_comes_gets_no_jitter():
    """There is nothing to spread."""
    rng = random.Random(1)
    assert spread(5.0, 4.0, rng) == 4.0
    assert spread(5.0, 5.0, rng) == 5.0
    assert spread(5.0, math.inf, rng) == math.inf


@given(st.lists(st.tuples(st.sampled_from([None, "m", "n"]), st.sampled_from([None, "tokens"]), WAITS), max_size=30))
def test_pauses_merge_by_maximum(given_):
    """What they are about tells them apart; of each the latest end holds, in whatever order they come."""
    cooldowns = Cooldowns()
    latest: dict[tuple, float] = {}
    for model, dimension, until in given_:
        cooldowns.add(Pause(until, "r", model, dimension))
        latest[model, dimension] = max(until, latest.get((model, dimension), -math.inf))
    assert {(pause.model, pause.dimension): pause.until for pause in cooldowns.pauses()} == latest
    assert bool(cooldowns) == bool(given_)


def test_pauses_end_by_time_by_operator_or_with_their_backend():
    """Time ends some, an operator those without an end, another credential all."""
    cooldowns = Cooldowns()
    for pause in (Pause(5.0, "a"), Pause(9.0, "b", "m"), Pause(math.inf, "c", "n"), Pause(math.inf, "d", None, "tokens")):
        cooldowns.add(pause)
    cooldowns.expire(5.0)
    assert {pause.reason for pause in cooldowns.pauses()} == {"b", "c", "d"}
    cooldowns.reopen()
    assert {pause.reason for pause in cooldowns.pauses()} == {"b"}
    cooldowns.clear()
    assert not cooldowns


def test_pauses_of_invented_models_are_bounded():
    """The oldest one about a model goes, those about the account stay."""
    cooldowns = Cooldowns()
    cooldowns.add(Pause(9.0, "overloaded"))
    for number in range(3 * MOST_PAUSES):
        cooldowns.add(Pause(math.inf, "model missing", f"m{number}"))
    pauses = cooldowns.pauses()
    assert len(pauses) == MOST_PAUSES
    assert pauses[0].reason == "overloaded"
    assert pauses[-1].model == f"m{3 * MOST_PAUSES - 1}"
