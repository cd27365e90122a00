"""Anthropic: limits as instants in `anthropic-ratelimit-*`, errors told apart by `error.type` and `details.error_code`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import attrs

from balancer.core.limits import Counting, Presets
from balancer.core.outcome import (
    SERVED,
    Billing,
    CallerFault,
    Evidence,
    Faulted,
    LimitSeen,
    ModelMissing,
    Outcome,
    Overloaded,
    Ramp,
    RateLimited,
    TimedOut,
    Unauthorized,
)
from balancer.providers.auth import in_header
from balancer.providers.judging import Case, Kind, judge, limits_of, read_error
from balancer.providers.limits import Family, LimitReader
from balancer.providers.values import LONGEST_RESET, NO_HEADERS, Headers, ValueInvalid, rfc3339, wait_until

ERRORS: Mapping[str, Kind] = {
    "ramp_limit_exceeded": Ramp,
    "organization_on_hold": Billing,
    "billing_error": Billing,
    "authentication_error": Unauthorized,
    "permission_error": ModelMissing,
    "not_found_error": ModelMissing,
    "conflict_error": Faulted,
    "request_too_large": CallerFault,
    "rate_limit_error": RateLimited,
    "api_error": Faulted,
    "timeout_error": TimedOut,
    "overloaded_error": Overloaded,
}
"""`invalid_request_error` is not among them: its status says the same, and under a 5xx the status is right."""

FAMILIES = tuple(
    Family(
        name.replace("-", "_"),
        name.replace("-", "_"),
        f"anthropic-ratelimit-{name}-limit".encode(),
        f"anthropic-ratelimit-{name}-remaining".encode(),
        f"anthropic-ratelimit-{name}-reset".encode(),
        1.0 if name == "requests" else 1000.0,
    )
    for name in ("requests", "tokens", "input-tokens", "output-tokens")
)
"""The limits of ordinary calls. `anthropic-priority-*` and `anthropic-fast-*` are not among them on purpose: each is a bucket of
its own that only calls of that service tier or speed draw from, and nothing in a call says which that will be. Read as limits
of input and output tokens, an empty one (or one of 0, not enabled) would hold back calls that do not need it."""

COUNTING: Presets = {
    ("input_tokens", None): Counting(charged="adjusted", cached_free=True),
    ("output_tokens", None): Counting(charged="produced"),
}
"""Input is estimated at the start, then adjusted, and cache reads do not count for most models; output counts as it is produced.
Buckets that refill continuously, which is the default. Documented: platform.claude.com, "Rate limits"."""


_OWN_SPEND_LIMIT = re.compile(r"You have reached your specified (?:workspace )?API usage limits", re.IGNORECASE)
_REGAIN = re.compile(r"regain access on ([0-9]{4}-[0-9]{2}-[0-9]{2}) at ([0-9]{2}:[0-9]{2}) UTC", re.ASCII)


def reset_after(value: bytes, headers: Headers) -> float:
    """Resets are instants, read against the response's date."""
    return wait_until(rfc3339(value), headers)


LIMITS = LimitReader(FAMILIES, reset_after)


@attrs.frozen(eq=False)
class Anthropic:
    """Limits in `anthropic-ratelimit-*`, the credential in `x-api-key`, typed error objects."""

    name: str = "anthropic"
    base_url: str | None = "https://api.anthropic.com/v1"
    dialects: frozenset[str] = frozenset(("anthropic.messages",))
    extra_headers: tuple[tuple[bytes, bytes], ...] = ((b"anthropic-version", b"2023-06-01"),)
    shows_limits: bool = True
    counting: Presets = COUNTING

    def credential_header(self, secret_text: str, auth: str | Mapping[str, str]) -> tuple[bytes, bytes]:
        """The header that carries the credential."""
        return in_header(secret_text, auth or {"header": "x-api-key"})

    def limits_seen(self, headers: Headers) -> tuple[LimitSeen, ...]:
        """The limits that the response's headers show."""
        return LIMITS.read(headers)

    def evidence(self, status: int, headers: Headers, body: bytes, now: float) -> Evidence:
        """What a response tells about its account."""
        limits = self.limits_seen(headers)
        if 200 <= status <= 299:
            return Evidence(SERVED, None, limits)
        return _evidence(Case(status, headers, read_error(body), limits, now))

    def evidence_of_error(self, body: bytes, now: float) -> Evidence:
        """What an error inside an answer tells about its account."""
        return _evidence(Case(None, NO_HEADERS, read_error(body), (), now))


def _evidence(case: Case) -> Evidence:
    outcome = _judge(case)
    return Evidence(outcome, None, limits_of(case, outcome))


def _judge(case: Case) -> Outcome:
    outcome = Billing() if _OWN_SPEND_LIMIT.match(case.said.message) else judge(case, ERRORS)
    return Billing(_access_at(case)) if isinstance(outcome, Billing) else outcome


def _access_at(case: Case) -> float | None:
    """Trio time at which a spend cap ends: the date of the text, or for the monthly cap the next first of a month."""
    try:
        if match := _REGAIN.search(case.said.message):
            instant = rfc3339(f"{match[1]}T{match[2]}:00Z")
        elif "enforced_spend_limit_reached" in case.said.codes and (made_at := case.headers.made_at()) is not None:
            day = datetime.fromtimestamp(made_at, UTC)
            instant = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC).timestamp()
        else:
            return None
        return case.now + min(wait_until(instant, case.headers), LONGEST_RESET)
    except (ValueInvalid, ValueError, OverflowError):
        return None
