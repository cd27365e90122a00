"""What a caller of a transport gets when nobody served: the best real answer, or one made in the dialect of the call.

A transport raises no error of ours: official SDKs retry what they do not know, and show it raw. One retry owner: every final
error answer says `x-should-retry: false`.
"""

from __future__ import annotations

import math
from typing import cast

import trio

from balancer.core.outcome import (
    AttemptFailed,
    Billing,
    ModelMissing,
    Outcome,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    TimedOut,
    TooLarge,
    Unauthorized,
)
from balancer.errors import AttemptsFailed, BalancerError, DeadlineUnreachable, Saturated
from balancer.providers.dialect import Dialect
from balancer.transports.exchange import Answer

NO_RETRY = (b"x-should-retry", b"false")

_BY_RETRYABILITY: tuple[type[Outcome], ...] = (RateLimited, Ramp, Overloaded, TimedOut, QuotaExhausted, TooLarge, ModelMissing)
"""Answers that invite another try come first; faults after them; what is about a credential or its bill is not shown."""


def final(error: BalancerError, dialect: Dialect) -> Answer:
    """The answer of a call that nobody served."""
    failures = _failures(error)
    private = [failure for failure in failures if isinstance(failure.outcome, Unauthorized | Billing)]
    shown = [failure for failure in failures if isinstance(failure.answer, Answer)]
    if private and _others_exist(error):
        shown = [failure for failure in shown if failure not in private]
    if shown:
        best = min(shown, key=lambda failure: _rank(failure.outcome)).answer
        assert isinstance(best, Answer)
        return not_to_retry(best)
    return _made(error, dialect, failures)


def not_to_retry(answer: Answer) -> Answer:
    """The same answer, marked as final for whoever would try again."""
    headers = [pair for pair in answer.headers if pair[0].lower() != NO_RETRY[0]]
    return Answer(answer.status, [*headers, NO_RETRY], answer.body)


def _failures(error: BalancerError) -> list[AttemptFailed]:
    group = error.__cause__
    errors = cast("ExceptionGroup[Exception]", group).exceptions if isinstance(group, ExceptionGroup) else ()
    return [failure for failure in errors if isinstance(failure, AttemptFailed)]


def _others_exist(error: BalancerError) -> bool:
    decision = error.decision
    return decision is not None and any(len(attempt.candidates) > 1 for attempt in decision.attempts)


def _rank(outcome: Outcome) -> int:
    for place, kind in enumerate(_BY_RETRYABILITY):
        if isinstance(outcome, kind):
            return place
    return len(_BY_RETRYABILITY)


def _made(error: BalancerError, dialect: Dialect, failures: list[AttemptFailed]) -> Answer:
    headers = [(b"content-type", dialect.error_type)]
    match error:
        case DeadlineUnreachable():
            status, kind = 429, "rate_limited"
        case Saturated():
            status, kind = 503, "overloaded"
        case AttemptsFailed() if _all_timed_out(error):
            status, kind = 504, "timeout"
        case _:
            status, kind = 503, "unavailable"
    if isinstance(error, DeadlineUnreachable | Saturated) and math.isfinite(error.retry_at):
        wait = max(0.0, error.retry_at - trio.current_time())
        headers.append((b"retry-after", b"%d" % math.ceil(wait)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait * 1000.0)))
    content = dialect.error_body(status, kind, str(error))
    headers.append((b"content-length", b"%d" % len(content)))
    return not_to_retry(Answer(status, headers, content))


def _all_timed_out(error: AttemptsFailed) -> bool:
    return bool(error.attempts) and all(isinstance(attempt.outcome, TimedOut) for attempt in error.attempts)
