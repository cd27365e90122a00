"""Any HTTP API: the status and the common headers tell what there is to tell, bodies are the application's."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from balancer.core.limits import PERIODS, Presets
from balancer.core.outcome import SERVED, CallerFault, Evidence, Faulted, LimitSeen, Outcome, TimedOut
from balancer.providers.auth import in_header
from balancer.providers.judging import Case, Said, judge
from balancer.providers.limits import LimitReader, family
from balancer.providers.values import Headers, any_wait

PREFIXES = ("x-ratelimit", "x-rate-limit")


BY_PERIOD = LimitReader(
    tuple(
        family("requests", f"requests-{period}", f"-{period}", prefix, period=seconds)
        for prefix in PREFIXES
        for period, seconds in PERIODS.items()
    ),
    any_wait,
)
PLAIN = LimitReader(tuple(family("requests", "requests", "", prefix) for prefix in PREFIXES), any_wait)
COUNTING: Presets = {}
"""Any API counts as it likes: nothing is preset."""

_ABOUT_THE_REQUEST = frozenset((409, 424, 498, 501))
"""Statuses that an LLM provider uses about itself, and any other API about what it was asked."""


def plain_outcome(status: int) -> Outcome | None:
    """What a status says by itself where no LLM was asked, whoever the provider; `None`: something, or nothing, about the account.

    A redirect is an answer like any other: to go there is the caller's affair. A 408 says that the request did not come in time
    and may be sent again (RFC 9110, 15.5.9), which tells nothing of how the backend is."""
    if 300 <= status <= 399:
        return SERVED
    if status in _ABOUT_THE_REQUEST:
        return CallerFault()
    return TimedOut("request") if status == 408 else None


@attrs.frozen(eq=False)
class PlainHTTP:
    """`Retry-After`, `RateLimit` and `X-RateLimit-*`, a bearer credential, no dialect."""

    name: str = "http"
    base_url: str | None = None
    dialects: frozenset[str] = frozenset()
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()
    shows_limits: bool = False
    counting: Presets = COUNTING

    def credential_header(self, secret_text: str, auth: str | Mapping[str, str]) -> tuple[bytes, bytes]:
        """The header that carries the credential."""
        return in_header(secret_text, auth or "bearer")

    def limits_seen(self, headers: Headers) -> tuple[LimitSeen, ...]:
        """The limits of requests that the response's headers show: by the names that say their periods, else as the standard
        has it, else the first of the plain names."""
        return BY_PERIOD.read(headers) or PLAIN.read(headers)[:1]

    def evidence(self, status: int, headers: Headers, body: bytes, now: float) -> Evidence:
        """What a response tells about its account."""
        limits = self.limits_seen(headers)
        if 200 <= status <= 299:
            return Evidence(SERVED, None, limits)
        if status == 404:  # here a path, not an account that lacks it
            return Evidence(CallerFault(), None, limits)
        outcome = plain_outcome(status) or judge(Case(status, headers, Said(), limits, now), {})
        return Evidence(outcome, None, limits)

    def evidence_of_error(self, body: bytes, now: float) -> Evidence:
        """What an error inside an answer tells about its account."""
        return Evidence(Faulted("an error inside the answer"))
