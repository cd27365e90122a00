"""Limits that nobody configured: learned from honest headers with at most one refusal each, else from refusals."""

from __future__ import annotations

import pytest

from benchmarks.scenario import LARGEST
from benchmarks.scenarios import unknown, unknown_models, unseen

BUCKET_OF_1, BUCKET_OF_60, SLIDING = ("bucket", 1), ("bucket", 60), ("sliding", None)


@pytest.mark.parametrize(
    ("window", "burst", "transported", "seed"),
    [(*BUCKET_OF_1, True, 2), (*BUCKET_OF_60, False, 1), (*BUCKET_OF_60, True, 2), (*SLIDING, False, 1), (*SLIDING, True, 2)],
)
def test_honest_headers(window, burst, seed, transported):
    """One refusal per account and dimension at most, whether successes' headers are seen by hand or by a transport."""
    assert unknown(window, burst, transported=transported, seconds=90).missed(seed) == []


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("burst", "headers", "seed"),
    [(1, "honest", 1), (2, "honest", 2), (3, "honest", 3), (5, "honest", 4), (10, "honest", 5), (20, "rounded", 6)],
)
def test_small_bursts(provider, burst, headers, seed):
    """What a full bucket lacks of its limit is not taken for others' use, which would age: no more goes at once than was shown."""
    assert unknown("bucket", burst, provider=provider, headers=headers, transported=True, seconds=120).missed(seed) == []


@pytest.mark.parametrize("burst", [1, 3, 10])
def test_a_small_burst_shown_to_calls_that_bring_their_own_exchange(burst):
    """Functions that say of their answers what these show are held back until the first of them, as a transport's calls are."""
    assert unknown("bucket", burst, seconds=120).missed(12) == []


@pytest.mark.parametrize("transported", [False, True])
def test_headers_with_instants(transported):
    """Limits of input and of output whose resets are instants in whole seconds."""
    assert unknown("bucket", provider="anthropic", transported=transported, seconds=90).missed(1) == []


@pytest.mark.parametrize(
    ("window", "headers", "seed"),
    [("bucket", "honest", 1), ("bucket", "rounded", 3), ("sliding", "honest", 1), ("sliding", "rounded", 1)],
)
@pytest.mark.parametrize("shared", [False, True])
def test_models_that_show_the_same_amounts(window, headers, seed, shared):
    """Each uses up its own limits, and both together the one that they share."""
    assert unknown_models(window, shared=shared, headers=headers, seconds=150).missed(seed) == []


@pytest.mark.parametrize("shared", [False, True])
def test_models_that_show_rounded_amounts_with_instants(shared):
    """The same where what remains is the nearest thousand and resets are in whole seconds."""
    assert unknown_models("bucket", shared=shared, headers="rounded", provider="anthropic", seconds=200).missed(1) == []


@pytest.mark.parametrize(
    ("window", "burst", "seed"), [(*BUCKET_OF_1, 1), (*BUCKET_OF_60, 2), (*SLIDING, 1), ("fixed", None, 2)]
)
def test_no_headers_at_all(window, burst, seed):
    """After five minutes fewer than 3 % of the attempts are refused, and 90 % of the quota is used."""
    assert unseen(window, burst, load=1.15, seconds=660).missed(seed) == []


@pytest.mark.parametrize(("window", "dimension"), [("fixed", "requests"), ("fixed", "tokens"), ("sliding", "requests")])
def test_no_headers_but_when_to_come_back(window, dimension):
    """The same where a refusal says it: after that time a whole window may pass at once."""
    assert unseen(window, dimension=dimension, retry_after=True, load=1.15, seconds=660).missed(1) == []


@pytest.mark.parametrize("retry_after", [False, True])
def test_no_refusal_says_over_what_it_is(retry_after):
    """A bucket of tokens that holds no more than the largest call: what was sent before refusals tells."""
    scenario = unseen("bucket", LARGEST, dimension="tokens", named=False, retry_after=retry_after, load=1.15, seconds=660)
    assert scenario.missed(1) == []


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_no_headers_of_tokens(window):
    """The same of a limit of tokens."""
    assert unseen(window, dimension="tokens", load=1.15, seconds=660).missed(1) == []
