"""The providers that speak OpenAI's dialects: captured headers, their own refusals, how each counts."""

from __future__ import annotations

import json

import pytest

from balancer.core.limits import DAY, MONTH, Counting, Limits
from balancer.core.outcome import LimitSeen, ModelMissing, Overloaded, QuotaExhausted, RateLimited, Served, Unauthorized
from balancer.providers.provider import PROVIDERS, get_provider
from balancer.providers.values import Headers

NOW = 1000.0
DATE = ("Date", "Sun, 27 Sep 2026 12:30:00 GMT")
AZURE = (
    ("x-ratelimit-limit-requests", "1000"),
    ("x-ratelimit-remaining-requests", "999"),
    ("x-ratelimit-renewalperiod-requests", "60"),
    ("x-ratelimit-reset-requests", "3"),
    ("x-ratelimit-limit-tokens", "1000000"),
    ("x-ratelimit-remaining-tokens", "999992"),
    ("x-ratelimit-renewalperiod-tokens", "60"),
    ("x-ratelimit-reset-tokens", "0"),
)
GROQ = (
    ("x-ratelimit-limit-requests", "14400"),
    ("x-ratelimit-limit-tokens", "18000"),
    ("x-ratelimit-remaining-requests", "14370"),
    ("x-ratelimit-remaining-tokens", "17997"),
    ("x-ratelimit-reset-requests", "2m59.56s"),
    ("x-ratelimit-reset-tokens", "7.66s"),
)
MISTRAL = (
    ("x-ratelimit-limit-req-minute", "50"),
    ("x-ratelimit-remaining-req-minute", "49"),
    ("x-ratelimit-limit-tokens-minute", "50000"),
    ("x-ratelimit-remaining-tokens-minute", "47300"),
    ("x-ratelimit-limit-tokens-month", "4000000"),
    ("x-ratelimit-remaining-tokens-month", "3997300"),
    ("x-ratelimit-tokens-query-cost", "1300"),
)
CEREBRAS = (
    ("x-ratelimit-limit-requests-day", "14400"),
    ("x-ratelimit-remaining-requests-day", "14399"),
    ("x-ratelimit-reset-requests-day", "33011.4"),
    ("x-ratelimit-limit-tokens-minute", "60000"),
    ("x-ratelimit-remaining-tokens-minute", "59950"),
    ("x-ratelimit-reset-tokens-minute", "26.5"),
)


def headers(*pairs):
    return Headers([(name.encode(), value.encode()) for name, value in pairs])


def openrouter(reset, *more):
    return (("X-RateLimit-Limit", "20"), ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", reset), *more)


REQUESTS, TOKENS = "requests", "tokens"
SEEN = [
    ("azure", AZURE, [LimitSeen(REQUESTS, REQUESTS, 1000, 999, 3, period=60), LimitSeen(TOKENS, TOKENS, 1000000, 999992, 0, period=60)]),
    ("azure", AZURE[4:6], [LimitSeen(TOKENS, TOKENS, 1000000, 999992, period=60)]),
    ("azure", (("x-ratelimit-remaining-requests", "19"), ("x-ratelimit-remaining-tokens", "19913")),
     [LimitSeen(REQUESTS, REQUESTS, None, 19), LimitSeen(TOKENS, TOKENS, None, 19913, period=60)]),
    ("azure", (("x-ratelimit-limit-tokens", "-1"), ("x-ratelimit-remaining-tokens", "-1"), ("x-ratelimit-reset-tokens", "0")), []),
    ("groq", GROQ, [LimitSeen(REQUESTS, "requests-day", 14400, 14370, 179.56, period=DAY),
                    LimitSeen(TOKENS, "tokens-minute", 18000, 17997, 7.66, period=60)]),
    ("mistral", MISTRAL, [LimitSeen(REQUESTS, "requests-minute", 50, 49, period=60),
                          LimitSeen(TOKENS, "tokens-minute", 50000, 47300, period=60),
                          LimitSeen(TOKENS, "tokens-month", 4000000, 3997300, period=MONTH)]),
    ("cerebras", CEREBRAS, [LimitSeen(REQUESTS, "requests-day", 14400, 14399, 33011.4, period=DAY),
                            LimitSeen(TOKENS, "tokens-minute", 60000, 59950, 26.5, period=60)]),
    ("openrouter", openrouter("30"), [LimitSeen(REQUESTS, REQUESTS, 20, 0, 30)]),
    ("openrouter", openrouter("1790512230", DATE), [LimitSeen(REQUESTS, REQUESTS, 20, 0, 30)]),
    ("openrouter", openrouter("1790512230000", DATE), [LimitSeen(REQUESTS, REQUESTS, 20, 0, 30)]),
    ("openrouter", openrouter("Sun, 27 Sep 2026 12:30:30 GMT", DATE), [LimitSeen(REQUESTS, REQUESTS, 20, 0, 30)]),
    ("openrouter", openrouter("1790512230000"), [LimitSeen(REQUESTS, REQUESTS, 20, 0)]),
    ("gemini", GROQ, []),
    ("bedrock", GROQ, []),
    ("vllm", GROQ, []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pairs", "seen"), SEEN)
def test_limits_seen(name, pairs, seen):
    """Each provider's own headers, with the period wherever its name or the notes say it."""
    provider = get_provider(name)
    assert list(provider.limits_seen(headers(*pairs))) == seen
    served = provider.evidence(200, headers(*pairs), b"", NOW)
    assert (served.outcome, list(served.limits)) == (Served(), seen)


def free_models(period, limit, reset):
    message = f"Rate limit exceeded: free-models-per-{period}. Add 10 credits to unlock 1000 free model requests per day"
    shown = {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    return json.dumps(
        {"error": {"message": message, "code": 429, "metadata": {"headers": shown, "provider_name": None}}}
    ).encode()


CASES = [
    ("mistral", (("x-ratelimit-limit-req-minute", "0"),), b'{"message":"Rate limit exceeded","code":"1300"}', ModelMissing()),
    ("mistral", (("x-ratelimit-limit-req-minute", "5"), ("x-ratelimit-remaining-req-minute", "0")), b'{"code":"1300"}',
     RateLimited("requests")),
    ("mistral", (("x-ratelimit-limit-req-minute", "0"),), b'{"type":"service_tier_capacity_exceeded","code":"3505"}', Overloaded()),
    ("groq", (("x-ratelimit-limit-requests", "0"),), b"", RateLimited()),
    ("bedrock", (), b'{"message":"Too many tokens, please wait before trying again.","__type":"ThrottlingException"}',
     RateLimited("tokens")),
    ("bedrock", (), b'{"message":"Too many requests, please wait before trying again."}', RateLimited("requests")),
    ("bedrock", (), b'{"message":"Too many tokens per day, please wait before trying again."}', QuotaExhausted()),
    ("bedrock", (), b'{"message":"x","__type":"ModelNotReadyException"}', Overloaded()),
    ("openrouter", (DATE,), free_models("min", "20", "1790512230000"), RateLimited("requests", NOW + 30)),
    ("openrouter", (DATE,), free_models("day", "50", "1790553600000"), QuotaExhausted(NOW + 41400)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pairs", "body", "outcome"), CASES)
def test_refusals(name, pairs, body, outcome):
    """What only one of them says, or says differently."""
    seen = get_provider(name).evidence(429, headers(*pairs), body, NOW).outcome
    assert seen == outcome


def test_limits_repeated_in_a_body():
    """OpenRouter repeats its headers in the body; the text tells the limit of a minute from that of a day, wherever it is shown."""
    minute = get_provider("openrouter").evidence(429, headers(DATE), free_models("min", "20", "1790512230000"), NOW)
    assert minute.limits == (LimitSeen("requests", "requests-minute", 20, 0, 30, period=60.0),)
    day = get_provider("openrouter").evidence(429, headers(DATE), free_models("day", "50", "1790553600000"), NOW)
    assert day.limits == (LimitSeen("requests", "requests-day", 50, 0, 41400, period=DAY),)
    shown = get_provider("openrouter").evidence(429, headers(*openrouter("9")), free_models("min", "7", "1"), NOW)
    assert shown.limits == (LimitSeen("requests", "requests-minute", 20, 0, 9, period=60.0),)


@pytest.mark.parametrize(
    "shown", ["x", [1], {"X-RateLimit-Limit": 5}, {"\u00e9": "5", "X-RateLimit-Limit": "\u0665"}, {"a" * 300: "5"}]
)
def test_hostile_headers_in_a_body(shown):
    """What is no header says nothing."""
    body = json.dumps({"error": {"code": 429, "metadata": {"headers": shown}}}).encode()
    assert get_provider("openrouter").evidence(429, headers(), body, NOW).limits == ()


ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "azure": None,
    "bedrock": None,
    "cerebras": "https://api.cerebras.ai/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "vllm": None,
}


@pytest.mark.parametrize(("name", "base_url"), ADDRESSES.items())
def test_addresses_and_credentials(name, base_url):
    """A default address where there is one; a bearer token, but at Azure."""
    provider = get_provider(name)
    assert provider.base_url == base_url
    assert "openai.chat" in provider.dialects
    usual = (b"api-key", b"k") if name == "azure" else (b"authorization", b"Bearer k")
    assert provider.credential_header("k", "") == usual
    assert provider.credential_header("k", "bearer") == (b"authorization", b"Bearer k")
    assert provider.credential_header("k", {"header": "X-Key"}) == (b"x-key", b"k")
    assert provider.evidence(401, headers(), b"", NOW).outcome == Unauthorized()


def test_which_providers_show_their_limits():
    """From the others no answer tells more than the last, so no call is held back for the first."""
    assert {name for name, provider in PROVIDERS.items() if provider.shows_limits} == {
        "openai", "anthropic", "azure", "groq", "mistral", "cerebras",
    }  # fmt: skip


PRESETS = [
    ("openai", "tokens", 60.0, Counting("bucket", None, "adjusted", cached_free=False, failed_charged=False, zone="UTC")),
    ("http", "requests", 60.0, Counting("bucket", None, "adjusted", cached_free=False, failed_charged=False, zone="UTC")),
    ("vllm", "requests", 60.0, Counting("bucket", None, "adjusted", cached_free=False, failed_charged=False, zone="UTC")),
    ("mistral", "tokens", MONTH, Counting("bucket", None, "adjusted", cached_free=False, failed_charged=False, zone="UTC")),
    ("azure", "tokens", 60.0, Counting("sliding", None, "max_tokens", cached_free=False, failed_charged=False, zone="UTC")),
    ("azure", "requests", 60.0, Counting("bucket", None, "adjusted", cached_free=False, failed_charged=True, zone="UTC")),
    ("anthropic", "input_tokens", 60.0, Counting("bucket", None, "adjusted", cached_free=True, failed_charged=False, zone="UTC")),
    ("anthropic", "output_tokens", 60.0, Counting("bucket", None, "produced", cached_free=False, failed_charged=False, zone="UTC")),
    ("gemini", "requests", 60.0, Counting("bucket", None, "adjusted", cached_free=False, failed_charged=False, zone="UTC")),
    ("gemini", "requests", DAY, Counting("calendar", None, "adjusted", cached_free=False, failed_charged=False, zone="America/Los_Angeles")),
    ("groq", "tokens", 60.0, Counting("bucket", None, "adjusted", cached_free=True, failed_charged=False, zone="UTC")),
    ("openrouter", "requests", DAY, Counting("calendar", None, "adjusted", cached_free=False, failed_charged=False, zone="UTC")),
    ("bedrock", "tokens", 60.0, Counting("bucket", None, "max_tokens", cached_free=False, failed_charged=False, zone="UTC")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dimension", "per", "counting"), PRESETS)
def test_presets(name, dimension, per, counting):
    """How each provider counts where the configuration says nothing, and the configuration goes before it."""
    limits = Limits(**{dimension: {"amount": 100, "per": per}})
    (terms,) = limits.terms(get_provider(name).counting)
    meant = (counting.window, 100, counting.charged, counting.cached_free, counting.failed_charged, counting.zone)
    assert (terms.window, terms.burst, terms.charged, terms.cached_free, terms.failed_charged, terms.zone) == meant
    own = Limits(**{dimension: {"amount": 100, "per": per, "window": "sliding", "charged": "start", "cached_free": False}})
    (terms,) = own.terms(get_provider(name).counting)
    assert (terms.window, terms.charged, terms.cached_free) == ("sliding", "start", False)
