"""What all providers share in judging an answer: no bytes make it raise, and no wait is past its cap."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.outcome import QuotaExhausted
from balancer.providers.judging import TRANSIENT_CAP, read_error, wait_in_text
from balancer.providers.provider import PROVIDERS
from balancer.providers.values import LONGEST_RESET, Headers

NAMES = st.sampled_from(
    [b"retry-after", b"retry-after-ms", b"date", b"x-should-retry", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens",
     b"anthropic-ratelimit-tokens-remaining", b"anthropic-ratelimit-tokens-reset", b"x-ratelimit-remaining", b"x-ratelimit-reset",
     b"ratelimit", b"ratelimit-policy", b"x-ratelimit-limit-req-minute"]
)  # fmt: skip
VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"0",
            b"7",
            b"6m0s",
            b"9" * 15,
            b"Sun, 27 Sep 2026 12:30:00 GMT",
            b"2026-09-27T12:30:59Z",
            b"true",
            b'"a";r=0;t=9',
            b'"a";q=9',
        ]
    ),
    st.integers(0, 10**16).map(lambda given: str(given).encode()),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(["tokens", "try again in 3s", "15",
         "on tokens per min (TPM): Limit 9, Used 7", "GenerateRequestsPerDayPerProject", "x/input_token_count"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["error", "response", "code", "type", "status", "message", "details", "metadata", "error_type",
                             "availability", "retry_after", "retryDelay", "violations", "quotaId", "quotaMetric", "quotaValue", "headers", "__type", "X-RateLimit-Limit", "reason", "error_code"]),
            inner, max_size=5),
    ),
    max_leaves=12,
)  # fmt: skip
BODIES = st.one_of(st.binary(max_size=60), JSON.map(lambda document: json.dumps(document).encode()))


@given(st.integers(-1, 700), st.lists(st.tuples(NAMES, VALUES), max_size=6), BODIES)
def test_any_answer_is_judged(status, raw, body):
    """Whatever a backend sends, the evidence is finite and within the caps."""
    for provider in PROVIDERS.values():
        seen = provider.evidence(status, Headers(raw), body, 100.0)
        until = getattr(seen.outcome, "until", None)
        cap = LONGEST_RESET if isinstance(seen.outcome, QuotaExhausted) or provider.name == "anthropic" else TRANSIENT_CAP
        assert until is None or 100.0 <= until <= 100.0 + cap
        for limit in seen.limits:
            numbers = (limit.limit, limit.remaining, limit.reset_after, limit.period)
            assert all(number is None or (math.isfinite(number) and number >= 0) for number in numbers)
        assert provider.evidence_of_error(body, 100.0).outcome is not None


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("Please try again in 11m0.528s. Visit", 660.528),
        ("Please try again in 2.5s.", 2.5),
        ("try again in 120ms", 0.12),
        ("Please retry after 37 seconds.", 37),
        ("Please wait 23 seconds", 23),
        ("Please retry in 34.5s.", 34.5),
        ("try again in 1 hour 2 minutes", 3720),
        ("try again in 5 parsecs", None),
        ("try again in " + "9" * 50 + "s", None),
        ("try again in nan seconds", None),
        ("try again later", None),
    ],
)
def test_waits_in_texts(text, wait):
    """The forms that providers write are read, and nothing else."""
    assert wait_in_text(text) == (wait if wait is None else pytest.approx(wait))


def test_an_error_body_beyond_the_cap_is_not_read():
    """A huge error body says nothing; the status still does."""
    assert read_error(b'{"error":{"code":"x"}, "pad":"' + b"x" * (1 << 20) + b'"}').codes == ()
