"""Plain HTTP: statuses and the common headers."""

from __future__ import annotations

import pytest

from balancer.core.outcome import (
    Billing,
    CallerFault,
    Faulted,
    LimitSeen,
    ModelMissing,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    Served,
    TimedOut,
    Unauthorized,
)
from balancer.providers.provider import PROVIDERS, get_provider
from balancer.providers.values import Headers

NOW = 50.0
HTTP = get_provider("http")
DATE = (b"Date", b"Sun, 27 Sep 2026 12:30:00 GMT")
RETRY = (b"Retry-After", b"5")


@pytest.mark.parametrize(
    ("status", "raw", "outcome"),
    [
        (200, [], Served()),
        (204, [], Served()),
        (304, [], Served()),
        (301, [], Served()),
        (302, [RETRY], Served()),
        (400, [], CallerFault()),
        (401, [], Unauthorized()),
        (402, [], Billing()),
        (403, [], ModelMissing()),
        (404, [], CallerFault()),
        (409, [], CallerFault()),
        (408, [], TimedOut("request")),
        (424, [], CallerFault()),
        (498, [], CallerFault()),
        (501, [], CallerFault()),
        (505, [], Faulted("status 505")),
        (422, [], CallerFault()),
        (429, [], RateLimited()),
        (429, [RETRY], RateLimited(None, NOW + 5)),
        (429, [(b"x-ratelimit-remaining", b"0"), (b"x-ratelimit-reset", b"9")], RateLimited("requests", NOW + 9)),
        (429, [(b"Retry-After", b"3600")], QuotaExhausted(NOW + 3600)),
        (500, [], Faulted("status 500")),
        (503, [RETRY], Overloaded(NOW + 5)),
        (503, [], Overloaded()),
        (504, [], TimedOut()),
        (529, [], Overloaded()),
    ],
)
def test_statuses(status, raw, outcome):
    """The status and Retry-After decide; the body is the application's."""
    body = b'{"error":{"code":"insufficient_quota"}}'
    assert HTTP.evidence(status, Headers(raw), body, NOW).outcome == outcome


def test_status_sweep():
    """No status makes it raise, and only those of a successful answer or a redirect are served."""
    for status in (*range(100, 600), 0, 999):
        seen = HTTP.evidence(status, Headers([]), b"", NOW).outcome
        assert isinstance(seen, Served) == (200 <= status <= 399)


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        ([], ()),
        (
            [(b"X-RateLimit-Limit", b"60"), (b"X-RateLimit-Remaining", b"7"), (b"X-RateLimit-Reset", b"30")],
            (LimitSeen("requests", "requests", 60, 7, 30),),
        ),
        ([(b"RateLimit-Limit", b"60"), (b"X-RateLimit-Limit", b"50")], (LimitSeen("requests", "requests", 60),)),
        ([(b"X-RateLimit-Limit", b"60"), (b"X-Rate-Limit-Limit", b"50")], (LimitSeen("requests", "requests", 60),)),
        (
            [(b"RateLimit", b'"a";r=7;t=3'), (b"RateLimit-Policy", b'"a";q=9;w=60')],
            (LimitSeen("requests", "a", 9, 7, 3, period=60.0, next_unit=True),),
        ),
        (
            [
                (b"X-RateLimit-Limit-Minute", b"60"),
                (b"X-RateLimit-Remaining-Minute", b"59"),
                (b"X-RateLimit-Limit-Day", b"1000"),
                (b"RateLimit-Limit", b"60"),
                (b"X-RateLimit-Limit", b"60"),
            ],
            (
                LimitSeen("requests", "requests-minute", 60, 59, period=60.0),
                LimitSeen("requests", "requests-day", 1000, period=86400.0),
            ),
        ),
        ([(b"X-Rate-Limit-Remaining-Hour", b"3")], (LimitSeen("requests", "requests-hour", None, 3, period=3600.0),)),
        (
            [(b"X-RateLimit-Remaining", b"1"), (b"X-RateLimit-Reset", b"2026-09-27T12:30:30Z"), DATE],
            (LimitSeen("requests", "requests", None, 1, 30),),
        ),
        (
            [(b"X-Rate-Limit-Remaining", b"1"), (b"X-Rate-Limit-Reset", b"1790512230000"), DATE],
            (LimitSeen("requests", "requests", None, 1, 30),),
        ),
    ],
)
def test_limits_seen(raw, seen):
    """Limits of requests: by the names that say their periods, else as the standard has it, else one by a plain name."""
    assert HTTP.limits_seen(Headers(raw)) == seen


def test_the_providers_there_are():
    """Each under its own name, with its dialects and default address."""
    names = "openai anthropic http azure bedrock cerebras gemini groq mistral openrouter vllm".split()
    assert {name: provider.name for name, provider in PROVIDERS.items()} == {name: name for name in names}
    assert get_provider("openai").base_url == "https://api.openai.com/v1"
    assert get_provider("anthropic").base_url == "https://api.anthropic.com/v1"
    assert HTTP.base_url is None
    assert not HTTP.dialects
    with pytest.raises(KeyError):
        get_provider("nobody")
