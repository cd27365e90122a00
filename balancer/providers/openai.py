"""OpenAI, and what all providers share that speak its dialects: errors told apart by `code`, then `type`; limits in headers."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from balancer.core.limits import NO_PRESETS, Presets
from balancer.core.outcome import (
    SERVED,
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
    TimedOut,
    Unauthorized,
)
from balancer.providers.auth import in_header
from balancer.providers.judging import Case, Kind, judge, limits_of, read_error
from balancer.providers.limits import LimitReader, family
from balancer.providers.refusals import of_period
from balancer.providers.values import NO_HEADERS, Headers, any_wait, go_duration

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
    "modelnotreadyexception": Overloaded,
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
    "throttlingexception": RateLimited,
    "requests": RateLimited,
    "tokens": RateLimited,
    "server_error": Faulted,
    "timeout": TimedOut,
}
"""Codes and types of OpenAI, and of those that speak its dialects (Azure, Groq, Mistral, OpenRouter, Gemini, Bedrock, vLLM)."""

DIALECTS = frozenset(("openai.chat", "openai.responses", "openai.embeddings"))


def reset_after(value: bytes, headers: Headers) -> float:
    """`6m0s`, or plain seconds as Azure sends them."""
    return go_duration(value) if value[-1:].isalpha() else any_wait(value, headers)


NO_FAMILIES = LimitReader((), reset_after)
"""Of a provider without limit headers of its own."""


@attrs.frozen(eq=False)
class OpenAICompatible:
    """A provider that speaks OpenAI's dialects; how it differs from the others is data.

    Args:
        name: as a configuration uses it.
        base_url: where it is; `None` if only the account can say.
        limits: its limit headers.
        shows_limits: whether it is known to have limits and to show them in every answer.
        counting: how it counts.
        dialects: those of OpenAI's that it speaks.
        auth: where its credential goes, unless the account says otherwise.
        allowance: a header whose 0 on a refusal means that the account has no quota for the model, and no wait will help.
    """

    name: str
    base_url: str | None
    limits: LimitReader = NO_FAMILIES
    shows_limits: bool = False
    counting: Presets = NO_PRESETS
    dialects: frozenset[str] = DIALECTS
    auth: str | Mapping[str, str] = "bearer"
    allowance: bytes | None = None
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()

    def credential_header(self, secret_text: str, auth: str | Mapping[str, str]) -> tuple[bytes, bytes]:
        """The header that carries the credential."""
        return in_header(secret_text, auth or self.auth)

    def limits_seen(self, headers: Headers) -> tuple[LimitSeen, ...]:
        """The limits that the response's headers show."""
        return self.limits.read(headers)

    def evidence(self, status: int, headers: Headers, body: bytes, now: float) -> Evidence:
        """What a response tells about its account."""
        limits = self.limits_seen(headers)
        if 200 <= status <= 299:
            return Evidence(SERVED, None, limits)
        said = read_error(body)
        if said.headers and not limits:
            limits = self.limits_seen(Headers((*headers.raw, *said.headers)))
        if self.limits.families and not self.shows_limits:
            limits = of_period(limits, said.message)
        return self._judged(Case(status, headers, said, limits, now))

    def evidence_of_error(self, body: bytes, now: float) -> Evidence:
        """What an error inside an answer tells about its account."""
        return self._judged(Case(None, NO_HEADERS, read_error(body), (), now))

    def _judged(self, case: Case) -> Evidence:
        outcome = judge(case, ERRORS)
        if self.allowance is not None and isinstance(outcome, RateLimited) and case.headers.get(self.allowance) == b"0":
            outcome = ModelMissing()
        return Evidence(outcome, None, limits_of(case, outcome))


OPENAI = OpenAICompatible(
    "openai",
    "https://api.openai.com/v1",
    LimitReader(
        (
            family("requests", "requests", "-requests"),
            family("tokens", "tokens", "-tokens"),
            family("tokens", "project-tokens", "-project-tokens"),
            family("tokens", "tokens-usage-based", "-tokens_usage_based"),
        ),
        reset_after,
    ),
    shows_limits=True,
)
"""Six headers on every answer, of a minute or a day as the tier has it: the period is learned. Some show tokens of the project, or
those that are counted by usage, beside these. Nothing of how it counts is documented, so nothing is preset: reservations, adjusted
by the usage."""
