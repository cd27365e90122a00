"""OpenAI and whatever speaks its dialects: limits in six headers, errors told apart by `code`, then `type`."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from balancer.core.outcome import (
    Billing,
    CallerFault,
    Evidence,
    Faulted,
    LimitSeen,
    ModelMissing,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Served,
    TimedOut,
    Unauthorized,
)
from balancer.providers.auth import in_header
from balancer.providers.judging import Case, Kind, judge, read_error
from balancer.providers.limits import Family, limits_in
from balancer.providers.values import Headers, any_wait, go_duration

ERRORS: Mapping[str, Kind] = {
    "slow_down": Ramp,
    "server_is_overloaded": Overloaded,
    "service_unavailable_error": Overloaded,
    "resource_unavailable": Overloaded,
    "capacity_exceeded": Overloaded,
    "capacity_exhausted": Overloaded,
    "provider_overloaded": Overloaded,
    "service_tier_capacity_exceeded": Overloaded,
    "3505": Overloaded,
    "unavailable": Overloaded,
    "insufficient_quota": Billing,
    "credit_balance_exhausted": Billing,
    "billing_hard_limit_reached": Billing,
    "organization_usage_limit_exceeded": Billing,
    "payment_required": Billing,
    "invalid_api_key": Unauthorized,
    "ip_not_authorized": Unauthorized,
    "api_key_invalid": Unauthorized,
    "authentication": Unauthorized,
    "model_not_found": ModelMissing,
    "deploymentnotfound": ModelMissing,
    "notfounderror": ModelMissing,
    "permission_denied": ModelMissing,
    "context_length_exceeded": CallerFault,
    "content_filter": CallerFault,
    "content_policy_violation": CallerFault,
    "quota_exceeded": QuotaExhausted,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_error": RateLimited,
    "rate_limited": RateLimited,
    "ratelimitreached": RateLimited,
    "requests": RateLimited,
    "tokens": RateLimited,
    "server_error": Faulted,
    "timeout": TimedOut,
}
"""Codes and types of OpenAI, and of those that speak its dialects (Azure, Groq, Mistral, OpenRouter, Gemini, vLLM)."""

FAMILIES = tuple(
    Family(
        dimension,
        name,
        f"x-ratelimit-limit-{name}".encode(),
        f"x-ratelimit-remaining-{name}".encode(),
        f"x-ratelimit-reset-{name}".encode(),
    )
    for dimension, name in (("requests", "requests"), ("tokens", "tokens"), ("tokens", "project-tokens"))
)
SERVED = Served()
NO_HEADERS = Headers(())


def reset_after(value: bytes, headers: Headers) -> float:
    """`6m0s`, or plain seconds as Azure sends them."""
    return go_duration(value) if value[-1:].isalpha() else any_wait(value, headers)


@attrs.frozen
class OpenAI:
    """Limits in `x-ratelimit-*`, a bearer credential, error objects with `code` and `type`."""

    name: str = "openai"
    base_url: str | None = "https://api.openai.com/v1"
    dialects: frozenset[str] = frozenset(("openai.chat", "openai.responses", "openai.embeddings"))
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()

    def credential_header(self, secret_text: str, auth: str | Mapping[str, str]) -> tuple[bytes, bytes]:
        """The header that carries the credential."""
        return in_header(secret_text, auth or "bearer")

    def limits_seen(self, headers: Headers) -> tuple[LimitSeen, ...]:
        """The limits that the response's headers show."""
        return limits_in(headers, FAMILIES, reset_after)

    def evidence(self, status: int, headers: Headers, body: bytes, now: float) -> Evidence:
        """What a response tells about its account."""
        limits = self.limits_seen(headers)
        if 200 <= status <= 299:
            return Evidence(SERVED, None, limits)
        return Evidence(judge(Case(status, headers, read_error(body), limits, now), ERRORS), None, limits)

    def evidence_of_error(self, body: bytes, now: float) -> Evidence:
        """What an error inside an answer tells about its account."""
        return Evidence(judge(Case(None, NO_HEADERS, read_error(body), (), now), ERRORS))
