"""What refusals tell of limits: the texts and violations that providers send, and hostile ones."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.limits import DAY, MONTH
from balancer.core.outcome import CallerFault, LimitSeen, ModelMissing, QuotaExhausted, RateLimited, TooLarge
from balancer.providers.provider import PROVIDERS, get_provider
from balancer.providers.refusals import dimension_in, joined, limit_in_text, limits_in_quotas
from balancer.providers.values import Headers

NOW = 100.0


def told(dimension, period, limit=None, remaining=None):
    seconds = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": DAY, "month": MONTH}[period]
    return LimitSeen(dimension, f"{dimension}-{period}", limit, remaining, period=seconds)


ON = "Rate limit reached for gpt-4o in organization org-x on "
TEXTS = [
    (
        ON + "tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2s.",
        told("tokens", "minute", 30000, 1000),
    ),
    (ON + "requests per min (RPM): Limit 3, Used 3, Requested 1.", told("requests", "minute", 3, 0)),
    (ON + "requests per day (RPD): Limit 200, Used 201, Requested 1.", told("requests", "day", 200, 0)),
    (ON + "requests per min. Limit: 60.000000 / min. Current: 70.000000 / min.", told("requests", "minute", 60, 0)),
    (ON + "requests per min. Limit: 3 / min. Please try again in 20s.", told("requests", "minute", 3, 0)),
    (ON + "images per min (IPM): Limit 5, Used 5, Requested 1.", told("images", "minute", 5, 0)),
    ("on tokens per day (TPD): Limit 200000, Used 197494, Requested 4035.", told("tokens", "day", 200000, 2506)),
    (
        "on input tokens per minute (ITPM): Limit 30,000, Used 29,000, Requested 2,000",
        told("input_tokens", "minute", 30000, 1000),
    ),
    ("on output tokens per min (OTPM): Limit 1000, Used 900", told("output_tokens", "minute", 1000, 100)),
    ("your tier (TPM): Limit 6000, Used 5999, Requested 10", told("tokens", "minute", 6000, 1)),
    ("on requests per second: Limit 1, Used 1", told("requests", "second", 1, 0)),
    ("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 34307.", told("tokens", "minute", 30000)),
    (
        "would exceed your organization's rate limit of 40,000 input tokens per minute (org: x)",
        told("input_tokens", "minute", 40000),
    ),
    ("would exceed the rate limit for your organization of 50 requests per minute.", told("requests", "minute", 50, 0)),
    ("on tokens per month: Limit 1000000, Used 1000000", told("tokens", "month", 1000000, 0)),
    (ON + "tokens per min (TPM): Limit 0, Used 0, Requested 1", None),
    ("on tokens per fortnight: Limit 5", None),
    ("on tokens per min (TPM): Limit -5, Used 3", None),
    ("on tokens per min (TPM): Limit nan", None),
    ("on tokens per min (TPM)", None),
    ("on audio seconds per hour (ASH): Limit 7200, Used 7200", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "limit"), TEXTS)
def test_texts(text, limit):
    """Dimension, period, limit and what was left of it."""
    assert limit_in_text(text) == limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("You have exceeded your requests per minute. Try again in 3s.", told("requests", "minute")),
        (ON + "tokens per day (TPD).", told("tokens", "day")),
        ("Number of request tokens has exceeded your per-minute rate limit", told("tokens", "minute")),
        ("Too many requests, please wait before trying again.", None),
        ("Limited to so many per minute", None),
    ],
)
def test_texts_without_a_number(text, limit):
    """They name the limit all the same, so that no other is held for it."""
    body = json.dumps({"error": {"message": text, "type": "rate_limit_error", "code": "rate_limit_exceeded"}}).encode()
    evidence = get_provider("openai").evidence(429, Headers(()), body, NOW)
    assert evidence.limits == (() if limit is None else (limit,))


@pytest.mark.parametrize("number", ["9" * 16, "9" * 400, "1,23", "1,234567", "1,234,56", "1.2.3", "0.1234567890"])
def test_a_strange_number_is_not_cut_to_a_smaller_one(number):
    """What is no number in full makes no limit, and no use of one."""
    assert limit_in_text(f"on tokens per min (TPM): Limit {number}, Used 1") is None
    assert limit_in_text(f"on tokens per min (TPM): Limit 500, Used {number}.") == told("tokens", "minute", 500)


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("Too many tokens, please wait before trying again.", "tokens"),
        ("Too many requests, please wait before trying again.", "requests"),
        ("Too many tokens per day, please wait before trying again.", "tokens"),
        ("Too Many Requests", None),
        ("exceeded call rate limit of your current pricing tier", "requests"),
        ("exceeded token rate limit of your current pricing tier", "tokens"),
        ("images per min (IPM)", "images"),
        ("(ITPM)", "input_tokens"),
        ("(OTPM)", "output_tokens"),
        ("(TPD)", "tokens"),
        ("(RPS)", "requests"),
        ("slow down", None),
    ],
)
def test_dimensions(text, dimension):
    """What a text is about, without its numbers."""
    assert dimension_in(text) == dimension


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("requests per min (RPM). Add 10 credits to unlock 1000 requests per day", RateLimited("requests")),
        ("free-models-per-day-high-balance", QuotaExhausted()),
        ("tokens per month", QuotaExhausted()),
        ("limit reached (TPD)", QuotaExhausted()),
    ],
)
def test_the_period_that_is_named_first_counts(text, outcome):
    """What follows is advice."""
    assert get_provider("openai").evidence(429, Headers([]), error(text), NOW).outcome == outcome


def violation(quota, metric="", value=None):
    return {"quotaId": quota, "quotaMetric": f"generativelanguage.googleapis.com/{metric}", "quotaValue": value}


def gemini(*violations, wait="34s", message="You exceeded your current quota, please check your plan and billing details."):
    details = [{"@type": "x/google.rpc.QuotaFailure", "violations": list(violations)}, {"retryDelay": wait}]
    error = {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}
    return json.dumps([{"error": error}]).encode()


RPM = violation("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "generate_content_free_tier_requests", "15")
RPD = violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "generate_content_free_tier_requests", "250")
ITPM = violation(
    "GenerateContentInputTokensPerModelPerMinute-FreeTier", "generate_content_free_tier_input_token_count", "250000"
)


@pytest.mark.parametrize(
    ("body", "outcome", "limits"),
    [
        (gemini(RPM), RateLimited("requests", NOW + 34), (told("requests", "minute", 15, 0),)),
        (gemini(ITPM), RateLimited("input_tokens", NOW + 34), (told("input_tokens", "minute", 250000),)),
        (gemini(ITPM, RPM), RateLimited(None, NOW + 34), (told("input_tokens", "minute", 250000), told("requests", "minute", 15, 0))),
        (gemini(RPD, wait="20s"), QuotaExhausted(), (told("requests", "day", 250, 0),)),
        (gemini(RPD, wait="20s", message="Please retry in 20.04s."), QuotaExhausted(), (told("requests", "day", 250, 0),)),
        (gemini(RPD, wait="7200s"), QuotaExhausted(NOW + 7200), (told("requests", "day", 250, 0),)),
        (gemini({**RPM, "quotaValue": None}), RateLimited("requests", NOW + 34), (told("requests", "minute", None, 0),)),
        (gemini({**RPM, "quotaValue": "-1"}), RateLimited("requests", NOW + 34), (told("requests", "minute", None, 0),)),
        (gemini({**RPM, "quotaValue": 15}), RateLimited("requests", NOW + 34), (told("requests", "minute", 15, 0),)),
        (gemini({**ITPM, "quotaValue": "9" * 400}), RateLimited(None, NOW + 34), ()),
        (gemini(RPM, message="Quota exceeded for metric: x, limit: 0, model: m"), ModelMissing(), ()),
    ],
)  # fmt: skip
def test_quota_violations(body, outcome, limits):
    """Gemini's violations name dimension, period and amount; a day's quota outlasts a short delay."""
    seen = get_provider("gemini").evidence(429, Headers([]), body, NOW)
    assert (seen.outcome, seen.limits) == (outcome, limits)


def error(message, code="rate_limit_exceeded"):
    return json.dumps({"error": {"message": message, "type": "rate_limit_error", "code": code}}).encode()


TPM = "on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000."


def test_a_text_gives_the_headers_limit_its_period():
    """One limit, not two: what the headers say of it stays, what only the text says is added."""
    raw = [
        (b"x-ratelimit-limit-tokens", b"30000"),
        (b"x-ratelimit-remaining-tokens", b"500"),
        (b"x-ratelimit-reset-tokens", b"58s"),
    ]
    seen = get_provider("openai").evidence(429, Headers(raw), error(TPM), NOW)
    assert seen.limits == (LimitSeen("tokens", "tokens", 30000, 500, 58, period=60.0),)


def test_a_text_names_a_limit_that_no_header_shows():
    """Groq's headers show tokens per minute; tokens per day are told by the refusal."""
    raw = [(b"x-ratelimit-limit-tokens", b"6000"), (b"x-ratelimit-remaining-tokens", b"5000")]
    seen = get_provider("groq").evidence(429, Headers(raw), error("on tokens per day (TPD): Limit 200000, Used 199999"), NOW)
    assert seen.limits == (LimitSeen("tokens", "tokens-minute", 6000, 5000, period=60.0), told("tokens", "day", 200000, 1))


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "http"])
def test_one_refusal_teaches_a_limit(name):
    """Of every provider, with headers or without."""
    seen = get_provider(name).evidence(429, Headers([]), error(TPM), NOW)
    assert isinstance(seen.outcome, RateLimited)
    assert seen.limits == (told("tokens", "minute", 30000, 1000),)
    assert get_provider(name).evidence_of_error(error(TPM), NOW).limits == seen.limits


def test_only_refusals_for_a_limit_tell_one():
    """A request that is too large does; a text beside any other outcome is the caller's, or nobody's."""
    openai = get_provider("openai")
    large = openai.evidence(429, Headers([]), error("Request too large " + TPM), NOW)
    assert (large.outcome, large.limits) == (TooLarge(), (told("tokens", "minute", 30000, 1000),))
    fault = openai.evidence(400, Headers([]), error(TPM, "context_length_exceeded"), NOW)
    assert (fault.outcome, fault.limits) == (CallerFault(), ())
    assert openai.evidence(429, Headers([]), error(TPM, "insufficient_quota"), NOW).limits == ()


def test_a_shown_limit_is_not_replaced():
    """A told limit of the same name and another amount is less fresh than the header's."""
    shown = (LimitSeen("tokens", "tokens-minute", 6000, 10, period=60.0), LimitSeen("requests", "r", 5))
    assert joined(shown, (told("tokens", "minute", 9000, 1),)) == shown
    assert joined(shown, (told("tokens", "hour", 6000, 1),)) == (*shown, told("tokens", "hour", 6000, 1))
    assert joined(shown, (told("requests", "minute", 5, 0),)) == (shown[0], LimitSeen("requests", "r", 5, 0, period=60.0))
    assert joined((), ()) == ()


WORDS = st.sampled_from(
    ["on ", "tokens", "requests", "input ", " per ", "min", "day", " (TPM)", "(RPD)", ": ", "Limit ", "Used ", "30,000", "-1", "nan", "9" * 30, ", ",
     "1.5", "of ", "0", "\u0663", " / min", "limit: 0"]
)  # fmt: skip
TEXT = st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=16).map("".join))
THING = st.one_of(TEXT, st.none(), st.integers(), st.floats(), st.lists(st.text(max_size=3), max_size=2), st.booleans())


@given(TEXT)
def test_any_text_tells_a_limit_or_nothing(text):
    """Whatever a backend writes, a limit is finite and not negative; nothing is raised."""
    seen = limit_in_text(text)
    numbers = () if seen is None else (seen.limit, seen.remaining, seen.period)
    assert all(number is None or (math.isfinite(number) and 0 <= number <= 1e15) for number in numbers)
    dimension_in(text)


@given(st.lists(st.fixed_dictionaries({}, optional={"quotaId": THING, "quotaMetric": THING, "quotaValue": THING}), max_size=4))
def test_any_violation_tells_a_limit_or_nothing(violations):
    """So are the fields of a violation."""
    for seen in limits_in_quotas([*violations, *({**RPM, **some} for some in violations)]):
        assert seen.limit is None or 0 < seen.limit <= 1e15
        assert seen.remaining in (None, 0.0)
