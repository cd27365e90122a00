"""Over what a refusal is that does not say so, by the calls before it."""

from __future__ import annotations

import random

from balancer.core.suspect import Suspect


def refusals(suspect, rng, large, *, begin=0, most=20):
    """Refuse every fiftieth attempt of 20 to 580 tokens, the last of which are `large` or small ones, `None`: as they come, until that
    changes the dimension; returns how many there were, `most` if it has not."""
    begun, sent = suspect.dimension, []
    for now in range(begin, begin + 50 * most):
        tokens = rng.uniform(20, 580)
        if now % 50 >= 40 and large is not None:
            tokens = rng.uniform(300, 580) if large else rng.uniform(20, 300)
        if now % 50 == 49:
            suspect.refused(tokens, now, sent[-256:], now)
        else:
            sent.append((now, tokens))
        if suspect.dimension != begun:
            return (now - begin) // 50 + 1
    return most


def test_many_tokens_before_refusals_are_a_limit_of_tokens() -> None:
    """And many small calls before them one of requests: a few refusals tell, of any seed."""
    for seed in range(20):
        suspect, rng = Suspect(), random.Random(seed)
        assert refusals(suspect, rng, large=True) < 12
        assert suspect.dimension == "tokens"
        assert refusals(suspect, rng, large=False, begin=1000) < 12
        assert suspect.dimension == "requests"


def test_calls_as_they_come_rarely_change_it() -> None:
    """In forty refusals not half of the time."""
    changed = 0
    for seed in range(20):
        suspect = Suspect()
        refusals(suspect, random.Random(seed), large=None, most=40)
        changed += suspect.dimension == "tokens"
    assert changed < 10


def test_calls_that_are_all_alike_tell_nothing() -> None:
    """Nor does a refusal of what was on its way at the last one."""
    suspect = Suspect()
    for number in range(100):
        sent = [(place, 7.0) for place in range(10 * number)]
        assert suspect.refused(7.0, 10.0 * number, sent, 10.0 * number) == "requests"
    suspect = Suspect()
    sent = [(place, 1.0 + 99.0 * (place >= 40)) for place in range(50)]
    for _ in range(100):
        assert suspect.refused(100.0, 49.5, sent, 50.0) == "requests"
