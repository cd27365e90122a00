"""What a caller of a transport gets when nobody served: the best real answer, or one made in the dialect of the call.

A transport raises no error of ours: official SDKs retry what they do not know, and show it raw. One retry owner: every final
error answer says `x-should-retry: false`.
"""

from __future__ import annotations

import math
from typing import cast

import trio

from balancer.core.account import describe
from balancer.core.decision import OTHER_DIALECT, AttemptRecord
from balancer.core.outcome import (
    AttemptFailed,
    Billing,
    Faulted,
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
from balancer.core.snapshot import NO_MODEL
from balancer.errors import AttemptsFailed, BalancerError, DeadlineUnreachable, NoAccount, Saturated
from balancer.providers.dialect import Dialect
from balancer.transports.exchange import Answer

NO_RETRY = (b"x-should-retry", b"false")

LEAST_WAIT = 1.0
"""Seconds after which a new try is invited, at least: where the end of an attempt is awaited, nobody knows when that will be."""

_BY_RETRYABILITY: tuple[type[Outcome], ...] = (
    RateLimited, Ramp, Overloaded, TimedOut, Faulted, QuotaExhausted, TooLarge, ModelMissing,
)  # fmt: skip
"""Answers that invite another try come first, what no wait mends last; what is about a credential or its bill is not shown."""


def final(error: BalancerError, dialect: Dialect) -> Answer:
    """The answer of a call that nobody served."""
    private = _private(error)
    shown = [
        failure
        for failure in _failures(error)
        if isinstance(failure.answer, Answer) and not (private and isinstance(failure.outcome, Unauthorized | Billing))
    ]
    if shown:
        best = min(shown, key=lambda failure: _rank(failure.outcome)).answer
        assert isinstance(best, Answer)
        return not_to_retry(best)
    return _made(error, dialect, private)


def not_to_retry(answer: Answer) -> Answer:
    """The same answer, marked as final for whoever would try again."""
    headers = [pair for pair in answer.headers if pair[0].lower() != NO_RETRY[0]]
    return Answer(answer.status, [*headers, NO_RETRY], answer.body)


def _failures(error: BalancerError) -> list[AttemptFailed]:
    group = error.__cause__
    errors = cast("ExceptionGroup[Exception]", group).exceptions if isinstance(group, ExceptionGroup) else ()
    return [failure for failure in errors if isinstance(failure, AttemptFailed)]


def _private(error: BalancerError) -> list[str]:
    """What befell accounts' credentials and bills, where others could have served: the operator's to know, not the caller's."""
    attempts = error.decision.attempts if error.decision is not None else ()
    befallen = [attempt for attempt in attempts if isinstance(attempt.outcome, Unauthorized | Billing)]
    if not any(_had_others(attempt) for attempt in befallen) and len({attempt.account for attempt in attempts}) < 2:
        return []
    return [f"{attempt.account}: {describe(attempt.outcome)}" for attempt in befallen if attempt.outcome is not None]


def _had_others(attempt: AttemptRecord) -> bool:
    return any(
        name != attempt.account and why != NO_MODEL and not why.startswith(OTHER_DIALECT)
        for name, why in attempt.candidates.items()
    )


def _rank(outcome: Outcome) -> int:
    for place, kind in enumerate(_BY_RETRYABILITY):
        if isinstance(outcome, kind):
            return place
    return len(_BY_RETRYABILITY)


def _made(error: BalancerError, dialect: Dialect, private: list[str]) -> Answer:
    headers = [(b"content-type", dialect.error_type)]
    match error:
        case DeadlineUnreachable():
            status, kind = 429, "rate_limited"
        case NoAccount(unknown_model=True):
            status, kind = 404, "unknown_model"
        case Saturated():
            status, kind = 503, "overloaded"
        case AttemptsFailed() if _all_timed_out(error):
            status, kind = 504, "timeout"
        case _:
            status, kind = 503, "unavailable"
    if isinstance(error, DeadlineUnreachable | Saturated) and math.isfinite(error.retry_at):
        wait = max(LEAST_WAIT, error.retry_at - trio.current_time())
        headers.append((b"retry-after", b"%d" % math.ceil(wait)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait * 1000.0)))
    message = str(error)
    message += "".join(f"; {befallen}" for befallen in private if befallen.lower() not in message.lower())
    content = dialect.error_body(status, kind, message)
    headers.append((b"content-length", b"%d" % len(content)))
    return not_to_retry(Answer(status, headers, content))


def _all_timed_out(error: AttemptsFailed) -> bool:
    return bool(error.attempts) and all(isinstance(attempt.outcome, TimedOut) for attempt in error.attempts)
