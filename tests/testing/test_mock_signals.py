"""Rate-limit headers and error bodies of mock backends, as their providers write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.call import Demand
from balancer.core.limits import MONTH, Limits
from balancer.testing.mock.counting import Ledger, Refused
from balancer.testing.mock.signals import error_body, go_duration, instant, limit_headers, refusal_body, wait_headers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.12, "120ms"),
        (0.0001, "1ms"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (179.56, "2m59.56s"),
        (360.0, "6m0s"),
        (5025.6, "1h23m45.6s"),
    ],
)
def test_go_durations(seconds: float, text: str) -> None:
    """Durations are written as Go writes them."""
    assert go_duration(seconds) == text


@given(st.floats(0.0, 1e6))
def test_go_durations_never_say_too_little(seconds: float) -> None:
    """Who waits as long as the text says has waited long enough, to a microsecond."""
    total, number = 0.0, ""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    text = go_duration(seconds).replace("ms", "l")
    for character in text:
        if character in "hmsl":
            total += float(number) * units.get(character, 0.001)
            number = ""
        else:
            number += character
    assert seconds - 1e-6 <= total <= seconds + 0.0011


def used_ledger(window: str) -> Ledger:
    ledger = Ledger(Limits(requests_per_minute=60, tokens_per_minute=30000, input_tokens_per_minute=20000, window=window))
    ledger.admit(Demand(input_tokens=1400, output_tokens=100), 100.0)
    return ledger


def test_openai_headers() -> None:
    """OpenAI: the six headers; a bucket's reset is the time until it is full."""
    assert dict(limit_headers("openai", used_ledger("bucket"), 100.25, 0.0)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"750ms",
        b"x-ratelimit-limit-tokens": b"30000",
        b"x-ratelimit-remaining-tokens": b"28625",
        b"x-ratelimit-reset-tokens": b"2.75s",
    }


def test_a_sliding_reset_is_when_the_oldest_leaves() -> None:
    """A window's reset is the end of its oldest entry."""
    headers = dict(limit_headers("openai", used_ledger("sliding"), 110.0, 0.0))
    assert headers[b"x-ratelimit-reset-requests"] == b"50s"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"28500"


def test_anthropic_headers() -> None:
    """Anthropic: instants, and tokens rounded to the nearest thousand."""
    headers = dict(limit_headers("anthropic", used_ledger("bucket"), 100.0, 1_790_000_000.5))
    assert headers[b"anthropic-ratelimit-requests-remaining"] == b"59"
    assert headers[b"anthropic-ratelimit-requests-reset"] == instant(1_790_000_001.5).encode() == b"2026-09-21T14:13:22Z"
    assert headers[b"anthropic-ratelimit-input-tokens-limit"] == b"20000"
    assert headers[b"anthropic-ratelimit-input-tokens-remaining"] == b"19000"
    assert headers[b"anthropic-ratelimit-tokens-remaining"] == b"28000"


def test_a_model_sees_its_own_limits_and_nobody_those_of_images() -> None:
    """Headers show what limits the model that was asked; there are none for images."""
    ledger = Ledger(Limits(requests_per_minute=60, images_per_minute=5, models={"small": {"requests_per_minute": 7}}))
    for family, name in (("openai", b"x-ratelimit-limit-requests"), ("anthropic", b"anthropic-ratelimit-requests-limit")):
        assert dict(limit_headers(family, ledger, 0.0, 0.0, "small"))[name] == b"7"
        assert dict(limit_headers(family, ledger, 0.0, 0.0, "large"))[name] == b"60"
        assert len(limit_headers(family, ledger, 0.0, 0.0)) == 3


def test_waits_are_rounded_up_and_left_out_where_they_would_lie() -> None:
    """`retry-after-ms` to the millisecond, `retry-after` to the second; none where waiting does not help."""
    refused = Refused("tokens", 30000, 60.0, 29000, 2000, 2.0004)
    assert wait_headers("openai", refused) == [(b"retry-after-ms", b"2001"), (b"retry-after", b"3")]
    assert wait_headers("anthropic", refused) == [(b"retry-after", b"3")]
    for never in (math.inf, None):
        assert wait_headers("openai", Refused("tokens", 1, 60.0, 0, 2, never)) == []


def test_refusals_name_their_dimension() -> None:
    """The body's text says which limit, how much of it is used and when to come again."""
    error = refusal_body("openai", Refused("tokens", 30000, 60.0, 29000, 2000, 2.5), "gpt-4o")["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    words = "on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2.5s."
    assert error["message"].endswith(words)
    too_large = refusal_body("openai", Refused("tokens", 30000, 60.0, 0, 34307, math.inf), "gpt-4o")["error"]["message"]
    assert too_large.startswith("Request too large for gpt-4o")
    assert "Used" not in too_large
    anthropic = refusal_body("anthropic", Refused("input_tokens", 50, 60.0, 50, 1, 1.0), "claude")
    assert anthropic["error"]["type"] == "rate_limit_error"
    assert "input tokens per min" in anthropic["error"]["message"]
    images = refusal_body("openai", Refused("images", 5, 60.0, 5, 1, 12.0), "paint")["error"]
    assert "images per min (IPM): Limit 5" in images["message"]
    assert (
        "requests per month: Limit 5,"
        in refusal_body("openai", Refused("requests", 5, MONTH, 5, 1, 9.0), "m")["error"]["message"]
    )
    assert "per 2s" in refusal_body("openai", Refused("requests", 5, 2.0, 5, 1, 1.0), None)["error"]["message"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "shown"),
    [
        (401, None, "invalid_request_error", "invalid_api_key"),
        (404, None, "invalid_request_error", "model_not_found"),
        (429, "slow_down", "rate_limit_error", "slow_down"),
        (429, "credit_balance_exhausted", "insufficient_quota", "credit_balance_exhausted"),
        (500, None, "server_error", "server_error"),
        (503, None, "service_unavailable_error", "server_is_overloaded"),
    ],
)
def test_openai_errors(status: int, code: str | None, kind: str, shown: str) -> None:
    """OpenAI's errors carry the type and code that tell them apart."""
    error = error_body("openai", status, code=code)["error"]
    assert (error["type"], error["code"]) == (kind, shown)


@pytest.mark.parametrize(("status", "kind"), [(401, "authentication_error"), (529, "overloaded_error"), (500, "api_error")])
def test_anthropic_errors(status: int, kind: str) -> None:
    """Anthropic's errors carry their type, and a code in their details."""
    body = error_body("anthropic", status, code="ramp_limit_exceeded", message="slower")
    assert body["error"] == {"type": kind, "message": "slower", "details": {"error_code": "ramp_limit_exceeded"}}
