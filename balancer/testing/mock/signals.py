"""How each provider shows its limits: rate-limit headers, the waits and bodies of refusals, the bodies of errors.

Pure: `now` belongs to the ledger, `wall` (Unix seconds) to the instants that Anthropic shows.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal

from balancer.core.limits import MONTH
from balancer.testing.mock.counting import Ledger, Refused

Family = Literal["openai", "anthropic"]
Headers = list[tuple[bytes, bytes]]

_OPENAI_SHOWN = ("requests", "tokens")
_LETTERS = {"requests": "R", "tokens": "T", "input_tokens": "IT", "output_tokens": "OT", "images": "I"}
_PERIODS = {1.0: ("sec", "S"), 60.0: ("min", "M"), 3600.0: ("hour", "H"), 86400.0: ("day", "D"), MONTH: ("month", "")}
_ROUNDED_TO = 1000


def go_duration(seconds: float) -> str:
    """Seconds as Go prints them, rounded up to the millisecond: `6m0s`, `1.5s`, `120ms`, `1h0m2s`."""
    ms = math.ceil(seconds * 1000 - 1e-6)
    if ms <= 0:
        return "0s"
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def instant(wall: float) -> str:
    """A Unix time as RFC 3339, rounded up to the second."""
    return datetime.fromtimestamp(math.ceil(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def limit_headers(family: Family, ledger: Ledger, now: float, wall: float, model: str | None = None) -> Headers:
    """The limits of one key and model as the provider shows them on every answer; those of images it does not show."""
    headers: Headers = []
    for shown in ledger.shown(now, model):
        if shown.dimension == "images":
            continue
        if family == "anthropic":
            remaining = shown.remaining
            if shown.dimension != "requests":
                remaining = round(remaining / _ROUNDED_TO) * _ROUNDED_TO
            name = b"anthropic-ratelimit-" + shown.dimension.replace("_", "-").encode()
            headers += [
                (name + b"-limit", b"%d" % shown.limit),
                (name + b"-remaining", b"%d" % min(remaining, shown.limit)),
                (name + b"-reset", instant(wall + shown.reset_after).encode()),
            ]
        elif shown.dimension in _OPENAI_SHOWN:
            name = shown.dimension.encode()
            headers += [
                (b"x-ratelimit-limit-" + name, b"%d" % shown.limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % shown.remaining),
                (b"x-ratelimit-reset-" + name, go_duration(shown.reset_after).encode()),
            ]
    return headers


def wait_headers(family: Family, refused: Refused) -> Headers:
    """When to come back, if that helps at all; never too early."""
    wait = refused.retry_after
    if wait is None or math.isinf(wait):
        return []
    seconds = (b"retry-after", b"%d" % max(1, math.ceil(wait)))
    if family == "anthropic":
        return [seconds]
    return [(b"retry-after-ms", b"%d" % max(1, math.ceil(wait * 1000))), seconds]


def _limit_name(refused: Refused) -> str:
    dimension = refused.dimension.replace("_", " ")
    if refused.per not in _PERIODS:
        return f"{dimension} per {refused.per:g}s" if refused.per else dimension
    period, letter = _PERIODS[refused.per]
    short = f" ({_LETTERS[refused.dimension]}P{letter})" if letter else ""
    return f"{dimension} per {period}{short}"


def refusal_body(family: Family, refused: Refused, model: str | None) -> dict[str, Any]:
    """The 429 body, which names the dimension."""
    limit = _limit_name(refused)
    never = refused.retry_after == math.inf
    if family == "anthropic":
        text = f"This request would exceed the rate limit for your organization of {refused.limit:g} {limit}."
        return error_body(family, 429, message=text)
    opening = "Request too large" if never else "Rate limit reached"
    used = "" if never else f", Used {refused.used:.0f}"
    text = f"{opening} for {model or 'this path'} in organization org-mock on {limit}: Limit {refused.limit:g}{used}"
    text += f", Requested {refused.requested:g}."
    if refused.retry_after is not None and not never:
        text += f" Please try again in {go_duration(refused.retry_after)}."
    kind = "requests" if refused.dimension in ("requests", "images", "concurrency") else "tokens"
    return {"error": {"message": text, "type": kind, "param": None, "code": "rate_limit_exceeded"}}


_BILLING = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "billing_hard_limit_reached",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)
_OPENAI_ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", "permission_denied", "You do not have access to this resource."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    413: ("invalid_request_error", "request_too_large", "The request is too large."),
    429: ("rate_limit_error", "rate_limit_exceeded", "Rate limit reached. Please slow down."),
    503: ("service_unavailable_error", "server_is_overloaded", "The server is overloaded. Please try again later."),
}
_ANTHROPIC_ERRORS: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "The request is not valid."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "There is a problem with your billing."),
    403: ("permission_error", "Your API key may not use this resource."),
    404: ("not_found_error", "The requested resource could not be found."),
    409: ("conflict_error", "The request conflicts with another."),
    413: ("request_too_large", "Request exceeds the maximum size."),
    429: ("rate_limit_error", "This request would exceed your rate limit."),
    504: ("timeout_error", "The request timed out."),
    529: ("overloaded_error", "Overloaded"),
}


def error_body(family: Family, status: int, *, code: str | None = None, message: str | None = None) -> dict[str, Any]:
    """The body that the provider sends with `status`."""
    if family == "anthropic":
        kind, text = _ANTHROPIC_ERRORS.get(status, ("api_error", "Internal server error"))
        error: dict[str, Any] = {"type": kind, "message": message or text}
        if code is not None:
            error["details"] = {"error_code": code}
        return {"type": "error", "error": error, "request_id": "req_mock"}
    kind, usual, text = _OPENAI_ERRORS.get(status, ("server_error", "server_error", "The server had an error."))
    if code in _BILLING:
        kind, text = "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."
    return {"error": {"message": message or text, "type": kind, "param": None, "code": code or usual}}
