"""OpenAI's answers and those of servers that speak its dialects: one row per case of the provider notes."""

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
    Served,
    TimedOut,
    TooLarge,
    Unauthorized,
)
from balancer.providers.provider import get_provider
from balancer.providers.values import Headers

NOW = 1000.0
OPENAI = get_provider("openai")
DATE = (b"Date", b"Sun, 27 Sep 2026 12:30:00 GMT")


def error(code=None, kind=None, message="", **more):
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code, **more}}).encode()


TPM = "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. "
CASES = [
    (429, error("rate_limit_exceeded", "tokens", TPM + "Please try again in 2.5s."), RateLimited("tokens", NOW + 2.5)),
    (429, error("rate_limit_exceeded", "requests", "Please try again in 120ms."), RateLimited("requests", NOW + 0.12)),
    (429, error("rate_limit_exceeded", "rate_limit_error"), RateLimited()),
    (429, error("rate_limit_exceeded", "requests", "on requests per day (RPD): Limit 200. Please try again in 7m12s."),
     QuotaExhausted(NOW + 432)),
    (429, error("rate_limit_exceeded", "tokens", "on tokens per day (TPD): Limit 200000. Please try again in 11m0.528s."),
     QuotaExhausted(NOW + 660.528)),
    (429, error("rate_limit_exceeded", "tokens", "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 34307."),
     TooLarge()),
    (413, error("rate_limit_exceeded", "tokens", "Request too large for model: Limit 6000, Requested 8000"), TooLarge()),
    (429, error("slow_down", "rate_limit_error"), Ramp()),
    (503, error("slow_down", "rate_limit_error"), Ramp()),
    (503, error("server_is_overloaded", "service_unavailable_error"), Overloaded()),
    (429, error("credit_balance_exhausted", "insufficient_quota"), Billing()),
    (429, error("insufficient_quota", "insufficient_quota", "Please try again in 20s"), Billing()),
    (429, error("billing_hard_limit_reached", "insufficient_quota"), Billing()),
    (429, error("organization_spend_limit_exceeded", "insufficient_quota"), Billing()),
    (429, error("project_spend_limit_exceeded"), Billing()),
    (429, error("organization_usage_limit_exceeded"), Billing()),
    (429, error(None, "insufficient_quota"), Billing()),
    (401, error("invalid_api_key", "invalid_request_error"), Unauthorized()),
    (401, error("ip_not_authorized", "invalid_request_error"), Unauthorized()),
    (401, b"", Unauthorized()),
    (403, error("unsupported_country_region_territory", "request_forbidden"), ModelMissing()),
    (404, error("model_not_found", "invalid_request_error"), ModelMissing()),
    (400, error("model_not_found", "invalid_request_error"), ModelMissing()),
    (400, error("context_length_exceeded", "invalid_request_error"), CallerFault()),
    (400, error(None, "invalid_request_error", param="service_tier"), CallerFault()),
    (400, error("content_policy_violation"), CallerFault()),
    (400, error("image_policy_violation"), CallerFault()),
    (500, error("server_error", "server_error"), Faulted("status 500")),
    (429, error("resource_unavailable"), Overloaded()),
    # Azure
    (429, error("429", None, "Requests to the Op have exceeded token rate limit. Please retry after 37 seconds."),
     RateLimited("tokens", NOW + 37)),
    (429, error("RateLimitReached", None, "exceeded call rate limit. Please wait 23 seconds."), RateLimited("requests", NOW + 23)),
    (429, error(None, None, "We are temporarily unable to process your request"), Overloaded()),
    (429, error("429", None, "The system is currently experiencing high demand"), Overloaded()),
    (404, error("DeploymentNotFound"), ModelMissing()),
    (400, error("content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}), CallerFault()),
    (403, error(None, None, "temporarily blocked"), ModelMissing()),
    # Mistral, Groq, vLLM, Gemini and OpenRouter
    (429, b'{"object":"error","message":"x","type":"rate_limited","param":null,"code":"1300"}', RateLimited()),
    (429, b'{"object":"error","message":"x","type":"service_tier_capacity_exceeded","code":"3505"}', Overloaded()),
    (422, b'{"detail":[{"loc":["body"]}]}', CallerFault()),
    (498, error("capacity_exceeded"), Overloaded()),
    (404, b'{"error":{"message":"no","type":"NotFoundError","param":null,"code":404}}', ModelMissing()),
    (400, b'{"object":"error","message":"too long","type":"BadRequestError","code":400}', CallerFault()),
    (400, b'[{"error":{"code":400,"status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]', Unauthorized()),
    (429, (b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"34s"},{"violations":'
          b'[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]}]}}'), RateLimited("requests", NOW + 34)),
    (429, (b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"20s"},{"violations":'
          b'[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}'), QuotaExhausted()),
    (429, error("quota_exceeded"), QuotaExhausted()),
    (429, b'{"error":{"code":429,"message":"Quota exceeded, limit: 0, model: m"}}', ModelMissing()),
    (429, error(None, None, "too fast", availability={"retry_after": 4}), RateLimited(None, NOW + 4)),
    (503, error("capacity_exhausted"), Overloaded()),
    (402, error(402, None, metadata={"error_type": "payment_required"}), Billing()),
    # Shapes that say nothing: the status speaks
    (409, b"", Faulted("status 409")),
    (424, b"", Faulted("status 424")),
    (413, b"<html>", CallerFault()),
    (429, b"[" * 100_000, RateLimited()),
    (429, b"\xff\xfe", RateLimited()),
    (429, b'{"error":[1,2]}', RateLimited()),
    (429, b'{"error":{"code":{"a":1},"type":[],"message":7}}', RateLimited()),
    (500, b'{"error":"' + b"x" * 2_000_000, Faulted("status 500")),
    (302, error("insufficient_quota"), Faulted("redirect")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "outcome"), CASES)
def test_cases(status, body, outcome):
    """Each case of the notes ends in its class, with the wait and dimension that its text names."""
    seen = OPENAI.evidence(status, Headers([]), body, NOW)
    assert type(seen.outcome) is type(outcome)
    until = getattr(outcome, "until", None)
    if until is not None:
        assert seen.outcome.until == pytest.approx(until)
    else:
        assert seen.outcome == outcome
    assert getattr(seen.outcome, "dimension", None) == getattr(outcome, "dimension", None)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (error("rate_limit_exceeded", "tokens", TPM), RateLimited("tokens")),
        (b'{"type":"error","code":"server_error","message":"x","param":null,"sequence_number":3}', Faulted),
        (b'{"type":"response.failed","response":{"error":{"code":"server_is_overloaded","message":"x"}}}', Overloaded()),
        (b'{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"x"}}}', RateLimited()),
        (b'{"type":"response.failed","response":{"error":{"code":"invalid_prompt","message":"x"}}}', CallerFault()),
        (error("insufficient_quota"), Billing()),
        (error(None, "invalid_request_error"), CallerFault()),
        (error(503), Overloaded()),
        (error("429"), RateLimited()),
        (b"", Faulted),
        (b"nonsense", Faulted),
    ],
)
def test_errors_inside_an_answer(body, outcome):
    """An error event is told by its code and type, or by the status it claims; else it is a fault."""
    seen = OPENAI.evidence_of_error(body, NOW).outcome
    assert isinstance(seen, Faulted) if outcome is Faulted else seen == outcome


WAITS = [
    ([(b"retry-after-ms", b"1500"), (b"Retry-After", b"9")], "", RateLimited(None, NOW + 1.5)),
    ([(b"Retry-After", b"9")], "Please try again in 2s", RateLimited(None, NOW + 9)),
    ([(b"x-ratelimit-remaining-requests", b"0"), (b"x-ratelimit-reset-requests", b"12s")], "try again in 2s",
     RateLimited("requests", NOW + 12)),
    ([(b"x-ratelimit-remaining-tokens", b"0"), (b"x-ratelimit-reset-tokens", b"10")], "", RateLimited("tokens", NOW + 10)),
    ([(b"x-ratelimit-remaining-tokens", b"5"), (b"x-ratelimit-reset-tokens", b"10")], "", RateLimited()),
    ([(b"Retry-After", b"300")], "", RateLimited(None, NOW + 300)),
    ([(b"Retry-After", b"7200")], "", QuotaExhausted(NOW + 7200)),
    ([(b"Retry-After", b"999999999")], "", RateLimited(None, NOW + 300)),
    ([(b"Retry-After", b"999999999")], "per day", QuotaExhausted(NOW + 32 * 86400)),
    ([(b"Retry-After", b"Fri, 31 Dec 9999 23:59:59 GMT"), DATE], "", RateLimited(None, NOW + 300)),
    ([(b"Retry-After", b"0")], "", RateLimited(None, NOW)),
    ([(b"Retry-After", b"-1")], "", RateLimited()),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "text", "outcome"), WAITS)
def test_the_most_trusted_wait_counts_and_is_capped(raw, text, outcome):
    """Milliseconds, then Retry-After, then the exhausted limit's reset, then the text; passing waits up to five minutes."""
    assert OPENAI.evidence(429, Headers(raw), error("rate_limit_exceeded", None, text), NOW).outcome == outcome


def test_a_wait_does_not_make_billing_retryable():
    """A positive Retry-After beside a billing error changes nothing."""
    headers = Headers([(b"Retry-After", b"5"), (b"x-should-retry", b"true")])
    assert OPENAI.evidence(429, headers, error("insufficient_quota"), NOW).outcome == Billing()


def test_overload_waits_are_capped():
    """An overloaded provider's Retry-After is a passing wait."""
    assert OPENAI.evidence(503, Headers([(b"Retry-After", b"7")]), b"", NOW).outcome == Overloaded(NOW + 7)
    assert OPENAI.evidence(503, Headers([(b"Retry-After", b"86400")]), b"", NOW).outcome == Overloaded(NOW + 300)


def test_should_retry_turns_an_unknown_refusal_into_a_fault():
    """`x-should-retry: true` overrides a 4xx that nothing else explains."""
    assert OPENAI.evidence(425, Headers([(b"x-should-retry", b"true")]), b"", NOW).outcome == Faulted("status 425")
    assert OPENAI.evidence(425, Headers([]), b"", NOW).outcome == CallerFault()


HEADERS = [
    (b"x-ratelimit-limit-requests", b"500"),
    (b"x-ratelimit-remaining-requests", b"499"),
    (b"x-ratelimit-reset-requests", b"120ms"),
    (b"X-RateLimit-Limit-Tokens", b"30,000"),
    (b"X-RateLimit-Remaining-Tokens", b"29000"),
    (b"X-RateLimit-Reset-Tokens", b"6m0s"),
]
REQUESTS = LimitSeen("requests", "requests", 500, 499, 0.12)
TOKENS = LimitSeen("tokens", "tokens", 30000, 29000, 360)


def limit(name, limit_value=None, remaining=None, reset=None):
    values = (("limit", limit_value), ("remaining", remaining), ("reset", reset))
    return [(f"x-ratelimit-{part}-{name}".encode(), value) for part, value in values if value is not None]


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        ([], ()),
        (HEADERS, (REQUESTS, TOKENS)),
        (limit("project-tokens", b"9000", b"8000", b"1s"), (LimitSeen("tokens", "project-tokens", 9000, 8000, 1),)),
        (limit("tokens_usage_based", b"9000", b"8000", b"1s"), (LimitSeen("tokens", "tokens-usage-based", 9000, 8000, 1),)),
        (limit("tokens", b"100", b"50", b"300"), (LimitSeen("tokens", "tokens", 100, 50, 300),)),
        (limit("tokens", None, b"50"), (LimitSeen("tokens", "tokens", None, 50),)),
        (limit("tokens", b"-1", b"-1", b"0"), ()),
        (limit("tokens", b"0", b"0", b"0"), (LimitSeen("tokens", "tokens", None, 0, 0),)),
        (limit("tokens", b"nan", b"1_0", b"inf"), ()),
        (limit("tokens", b"100", b"50", b"9999999999h"), (LimitSeen("tokens", "tokens", 100, 50, None),)),
        ([*limit("requests", b"100", b"50", b"1790512230"), DATE], (LimitSeen("requests", "requests", 100, 50, 30),)),
        (limit("requests", b"100", b"50", b"1790512230"), (LimitSeen("requests", "requests", 100, 50, None),)),
    ],
)
def test_limits_seen(raw, seen):
    """Go durations and plain seconds, group commas; what is not reported is absent."""
    assert OPENAI.limits_seen(Headers(raw)) == seen


def test_success_and_refusal_carry_the_limits():
    """Every answer's evidence holds the limits its headers show; a remaining of 0 on a 200 is no refusal."""
    served = OPENAI.evidence(200, Headers(HEADERS), b"", NOW)
    assert served.outcome == Served()
    assert served.usage is None
    assert served.limits == (REQUESTS, TOKENS)
    last = Headers([(b"x-ratelimit-remaining-requests", b"0")])
    assert OPENAI.evidence(200, last, b"", NOW).outcome == Served()


def expected_class(status):
    """The class of a bare status, written out a second time."""
    known = {401: Unauthorized, 402: Billing, 403: ModelMissing, 404: ModelMissing, 408: TimedOut, 409: Faulted, 424: Faulted}
    known |= {429: RateLimited, 498: Overloaded, 503: Overloaded, 504: TimedOut, 529: Overloaded}
    if status in known:
        return known[status]
    return Served if status // 100 == 2 else CallerFault if status // 100 == 4 else Faulted


def test_status_sweep():
    """Every status there is, and some there are not, has its class and never an exception."""
    for status in (*range(100, 600), -1, 0, 99, 600, 999, 10**9):
        for name in ("openai", "anthropic"):
            seen = get_provider(name).evidence(status, Headers([]), b"", NOW).outcome
            assert type(seen) is expected_class(status), status


def test_credential_header():
    """A bearer token by default, or the header that the account names."""
    assert OPENAI.credential_header("k", "") == (b"authorization", b"Bearer k")
    assert OPENAI.credential_header("k", "bearer") == (b"authorization", b"Bearer k")
    assert OPENAI.credential_header("k", {"header": "api-key"}) == (b"api-key", b"k")
