"""What follows the end of an attempt: the policy of one call as a function of how its attempts ended.

Refusals do not count: the call queues again, for the earliest account, the refused one included, and only the deadline bounds
that. Failures count toward `max_attempts`; another attempt after one spends the retry budget, unless nothing was sent.
"""

from __future__ import annotations

import enum

import attrs

from balancer.core.outcome import (
    CallerFault,
    Failure,
    Faulted,
    ModelMissing,
    Outcome,
    Refusal,
    Served,
    TimedOut,
    TooLarge,
    Withdrawn,
)


class Next(enum.Enum):
    """What a call does after an attempt."""

    DONE = "the outcome goes to the caller"
    REQUEUE = "another attempt, nothing spent"
    SPEND = "another attempt, if the retry budget allows"
    STOP = "no further attempt"


@attrs.define(eq=False)
class CallPlan:
    """The plan of one call, local to its task.

    Args:
        replayable: whether another attempt may follow one that may have reached a backend.
        max_attempts: attempts that may end in a failure.

    Attributes:
        failures: attempts that have ended in one.
        avoid: accounts to pass over while another one may take the call.
        excluded: accounts that can never take it: too small for it, or without its model.
    """

    replayable: bool
    max_attempts: int
    failures: int = attrs.field(default=0, init=False)
    avoid: frozenset[str] = attrs.field(default=frozenset(), init=False)
    excluded: frozenset[str] = attrs.field(default=frozenset(), init=False)

    def after(self, account: str, outcome: Outcome) -> Next:
        """Record how the attempt on `account` ended and say what follows."""
        match outcome:
            case Served() | CallerFault():
                return Next.DONE
            case TooLarge() | ModelMissing():
                self.avoid |= {account}
                self.excluded |= {account}
                return Next.REQUEUE
            case Withdrawn():
                return Next.STOP
            case _ if isinstance(outcome, Failure):
                return self._after_failure(account, outcome)
            case _:
                assert isinstance(outcome, Refusal)
                return Next.REQUEUE

    def readmit(self) -> None:
        """The call asks for another model: what excluded accounts was about the one before."""
        self.avoid -= self.excluded
        self.excluded = frozenset()

    def _after_failure(self, account: str, failure: Failure) -> Next:
        self.failures += 1
        self.avoid |= {account}
        unsent = isinstance(failure, Faulted | TimedOut) and not failure.sent
        if self.failures >= self.max_attempts or not (unsent or self.replayable):
            return Next.STOP
        return Next.REQUEUE if unsent else Next.SPEND
