"""The providers beside OpenAI that speak its dialects: their addresses, limit headers and ways of counting, as data.

Each says where a fact is from: documented by the provider, or only seen in its answers. What was merely seen is used to read
what a response says, not to assume how the provider counts, unless the safe side is the only one that loses.
"""

from __future__ import annotations

from balancer.core.limits import DAY, MONTH, Counting
from balancer.providers.limits import LimitReader, family
from balancer.providers.openai import OpenAICompatible, reset_after
from balancer.providers.values import any_wait

MINUTE = 60.0

CHAT = frozenset(("openai.chat",))
EMBEDDINGS = frozenset(("openai.embeddings",))
RESPONSES = frozenset(("openai.responses",))

AZURE = OpenAICompatible(
    "azure",
    None,
    LimitReader(
        (
            family("requests", "requests", "-requests", renewal=b"x-ratelimit-renewalperiod-requests"),
            family("tokens", "tokens", "-tokens", period=MINUTE, renewal=b"x-ratelimit-renewalperiod-tokens"),
        ),
        reset_after,
    ),
    shows_limits=True,
    counting={
        ("requests", None): Counting(failed_charged=True),
        ("tokens", None): Counting(window="sliding", charged="max_tokens"),
    },
    auth={"header": "api-key"},
)
"""A deployment of Azure OpenAI. Documented: limits per deployment, resets in plain seconds, tokens counted at admission as the
prompt's estimate and `max_tokens` and reset each minute (in windows: a bucket would admit twice the limit in one), requests
counted when they fail too and watched over slices of 1 or 10 s. Only seen: the header of the renewal period, and the `-1` of the
Responses API, which means "not reported"."""

GROQ = OpenAICompatible(
    "groq",
    "https://api.groq.com/openai/v1",
    LimitReader(
        (
            family("requests", "requests-day", "-requests", period=DAY),
            family("tokens", "tokens-minute", "-tokens", period=MINUTE),
        ),
        reset_after,
    ),
    shows_limits=True,
    counting={(dimension, None): Counting(cached_free=True) for dimension in ("tokens", "input_tokens")},
    dialects=CHAT | RESPONSES,
)
"""Documented: headers of requests are always those of a day, headers of tokens those of a minute; cached tokens are free. The
limits of requests per minute and tokens per day are in no header: refusals name them."""

MISTRAL = OpenAICompatible(
    "mistral",
    "https://api.mistral.ai/v1",
    LimitReader(
        (
            family("requests", "requests-minute", "-req-minute", period=MINUTE),
            family("tokens", "tokens-minute", "-tokens-minute", period=MINUTE),
            family("tokens", "tokens-month", "-tokens-month", period=MONTH),
        ),
        reset_after,
    ),
    shows_limits=True,
    dialects=CHAT | EMBEDDINGS,
    allowance=b"x-ratelimit-limit-req-minute",
)
"""Only seen: the three families of headers, and a limit of 0 for a model that the account has no quota for. How it counts is not
known, nor the day on which its month begins."""

OPENROUTER = OpenAICompatible(
    "openrouter",
    "https://openrouter.ai/api/v1",
    LimitReader((family("requests", "requests", ""),), any_wait),
    counting={("requests", DAY): Counting(window="calendar", zone="UTC")},
)
"""Documented: limits of the account, shown on its own refusals alone (in the body too, as seen). What a reset's number means is
not, so its size tells. That days are those of UTC is not documented either: seen in the resets."""

GEMINI = OpenAICompatible(
    "gemini",
    "https://generativelanguage.googleapis.com/v1beta/openai",
    counting={
        (dimension, DAY): Counting(window="calendar", zone="America/Los_Angeles")
        for dimension in ("requests", "tokens", "input_tokens", "output_tokens", "images")
    },
    dialects=CHAT | EMBEDDINGS,
)
"""The OpenAI-speaking side of the Gemini API. Documented: limits per project and model, days that begin at midnight Pacific
time; no headers show them, refusals name them."""

BEDROCK = OpenAICompatible(
    "bedrock",
    None,
    counting={("tokens", None): Counting(charged="max_tokens")},
    dialects=CHAT | RESPONSES,
)
"""The OpenAI-speaking endpoint of Amazon Bedrock in one region. No headers show its limits; that `max_tokens` is reserved up front
is only seen, and is the safe side."""

VLLM = OpenAICompatible("vllm", None)
"""A vLLM server of one's own: it has no limits, it queues."""

CEREBRAS = OpenAICompatible(
    "cerebras",
    "https://api.cerebras.ai/v1",
    LimitReader(
        (
            family("requests", "requests-day", "-requests-day", period=DAY),
            family("tokens", "tokens-minute", "-tokens-minute", period=MINUTE),
        ),
        reset_after,
    ),
    shows_limits=True,
    dialects=CHAT,
)
"""Only seen: headers whose names say their periods, resets in decimal seconds."""
