"""Anthropic's answers: one row per case of the provider notes."""

from __future__ import annotations

import json

import pytest

from balancer.core.outcome import (
    Billing,
    CallerFault,
    Faulted,
    LimitSeen,
    ModelMissing,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    TimedOut,
    Unauthorized,
)
from balancer.providers.provider import get_provider
from balancer.providers.values import Headers

NOW = 1000.0
ANTHROPIC = get_provider("anthropic")
DATE = (b"Date", b"Mon, 31 Aug 2026 12:00:00 GMT")
RETRY = (b"retry-after", b"17")


def error(kind, message="", code=None):
    details = {} if code is None else {"details": {"error_code": code}}
    return json.dumps({"type": "error", "error": {"type": kind, "message": message, **details}, "request_id": "req_1"}).encode()


LIMIT_TEXT = "This request would exceed your organization's rate limit of 40,000 {} per minute"
CASES = [
    (429, [RETRY], error("rate_limit_error", LIMIT_TEXT.format("input tokens")), RateLimited("input_tokens", NOW + 17)),
    (429, [RETRY], error("rate_limit_error", LIMIT_TEXT.format("output tokens")), RateLimited("output_tokens", NOW + 17)),
    (429, [RETRY], error("rate_limit_error", LIMIT_TEXT.format("requests")), RateLimited("requests", NOW + 17)),
    (429, [RETRY], error("rate_limit_error", "Number of request tokens has exceeded your per-minute rate limit"),
     RateLimited("tokens", NOW + 17)),
    (429, [], error("rate_limit_error"), RateLimited()),
    (429, [(b"retry-after", b"4000")], error("rate_limit_error"), QuotaExhausted(NOW + 4000)),
    (429, [RETRY], error("rate_limit_error", code="ramp_limit_exceeded"), Ramp(NOW + 17)),
    (429, [DATE], error("rate_limit_error", "You will regain access on 2026-09-02 at 00:00 UTC.", "enforced_spend_limit_reached"),
     Billing(NOW + 1.5 * 86400)),
    (429, [DATE], error("rate_limit_error", code="enforced_spend_limit_reached"), Billing(NOW + 43200)),
    (429, [], error("rate_limit_error", "You will regain access on 2026-09-02 at 00:00 UTC.", "enforced_spend_limit_reached"),
     Billing()),
    (429, [DATE], error("rate_limit_error", "regain access on 2026-99-99 at 00:00 UTC", "enforced_spend_limit_reached"), Billing()),
    (429, [RETRY], error("rate_limit_error", code="contract_spend_limit_reached"), Billing()),
    (400, [], error("invalid_request_error", "You have reached your specified API usage limits."), Billing()),
    (400, [], error("invalid_request_error", "You have reached your specified workspace API usage limits."), Billing()),
    (400, [], error("invalid_request_error", "messages.0: 'You have reached your specified API usage limits'"), CallerFault()),
    (402, [], error("billing_error", code="linked_organization_spend_limit_reached"), Billing()),
    (402, [], error("billing_error"), Billing()),
    (401, [], error("authentication_error"), Unauthorized()),
    (403, [], error("permission_error"), ModelMissing()),
    (400, [], error("invalid_request_error", code="organization_on_hold"), Billing()),
    (404, [], error("not_found_error", "model: claude-x"), ModelMissing()),
    (409, [], error("conflict_error"), Faulted("status 409")),
    (400, [], error("invalid_request_error", "prompt is too long: 213462 tokens > 200000 maximum"), CallerFault()),
    (413, [], error("request_too_large"), CallerFault()),
    (413, [], b"<html>413</html>", CallerFault()),
    (500, [], error("api_error"), Faulted("status 500")),
    (504, [], error("timeout_error"), TimedOut()),
    (529, [], error("overloaded_error"), Overloaded()),
    (529, [(b"retry-after", b"3")], error("overloaded_error"), Overloaded(NOW + 3)),
    (529, [], error("overloaded_error", code="compaction_unavailable"), Overloaded()),
    (500, [], error("invalid_request_error"), Faulted("status 500")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "raw", "body", "outcome"), CASES)
def test_cases(status, raw, body, outcome):
    """Each case of the notes ends in its class; a spend cap ends at its stated date, read against the response's own."""
    assert ANTHROPIC.evidence(status, Headers(raw), body, NOW).outcome == outcome


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (error("overloaded_error"), Overloaded()),
        (error("rate_limit_error"), RateLimited()),
        (error("api_error"), Faulted("an error inside the answer")),
        (error("timeout_error"), TimedOut()),
        (error("invalid_request_error"), CallerFault()),
        (error("billing_error"), Billing()),
        (b"x", Faulted("an error inside the answer")),
    ],
)
def test_errors_inside_an_answer(body, outcome):
    """An error event after a 200 is told by its type."""
    assert ANTHROPIC.evidence_of_error(body, NOW).outcome == outcome


def test_the_monthly_cap_ends_with_the_year_too():
    """In December the first of the next month is in the next year."""
    headers = Headers([(b"date", b"Thu, 31 Dec 2026 23:59:00 GMT")])
    body = error("rate_limit_error", code="enforced_spend_limit_reached")
    assert ANTHROPIC.evidence(429, headers, body, NOW).outcome == Billing(NOW + 60)


def family(name, limit, remaining, reset):
    return [
        (f"Anthropic-RateLimit-{name}-Limit".encode(), limit),
        (f"Anthropic-RateLimit-{name}-Remaining".encode(), remaining),
        (f"Anthropic-RateLimit-{name}-Reset".encode(), reset),
    ]


def test_limits_seen():
    """Four families with their rounding; resets are read against the response's date; an empty bucket of another tier is not ours."""
    raw = [
        *family("Requests", b"50", b"49", b"2026-08-31T12:00:01Z"),
        *family("Tokens", b"90000", b"1000", b"2026-08-31T12:01:00+00:00"),
        *family("Input-Tokens", b"40000", b"0", b"2026-08-31T11:00:00Z"),
        *family("Output-Tokens", b"8000", b"8000", b"soon"),
        (b"anthropic-priority-input-tokens-limit", b"1"),
        (b"anthropic-priority-input-tokens-remaining", b"0"),
        (b"anthropic-fast-output-tokens-limit", b"0"),
        (b"anthropic-fast-output-tokens-remaining", b"0"),
    ]
    assert ANTHROPIC.limits_seen(Headers([*raw, DATE])) == (
        LimitSeen("requests", "requests", 50, 49, 1, 1.0),
        LimitSeen("tokens", "tokens", 90000, 1000, 60, 1000.0),
        LimitSeen("input_tokens", "input_tokens", 40000, 0, 0, 1000.0),
        LimitSeen("output_tokens", "output_tokens", 8000, 8000, None, 1000.0),
    )
    assert [limit.reset_after for limit in ANTHROPIC.limits_seen(Headers(raw))] == [None] * 4


def test_what_is_sent():
    """The key in its own header, a version where the caller gave none."""
    assert ANTHROPIC.credential_header("k", "") == (b"x-api-key", b"k")
    assert ANTHROPIC.credential_header("k", "bearer") == (b"authorization", b"Bearer k")
    assert ANTHROPIC.extra_headers == ((b"anthropic-version", b"2023-06-01"),)
