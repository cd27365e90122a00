"""The right to run one attempt on one account. Settled exactly once, synchronously, whatever happens.

Its guards follow each other without an `await` between: the ticket, then the attempt's `try`, then the response body.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from balancer.core.account import Admission
from balancer.core.call import Call, Usage
from balancer.core.decision import AttemptRecord, Decision
from balancer.core.outcome import Evidence, LimitSeen, Outcome, TimedOut, Withdrawn
from balancer.core.secret import Secret
from balancer.core.settings import Account

if TYPE_CHECKING:
    from balancer.actors.supervisor import Link, Supervisor
    from balancer.actors.waiting import Share

NO_CREDENTIAL = Secret("")


class Lease:
    """What an attempt may use and tell.

    Attributes:
        account: the account's settings.
        admission: what it holds of its account.
        model: the account's own name of the call's model.
        credential: what to authenticate with; its text is `credential.reveal()`.
        deadline: trio time by which the call must end; `inf` if it need not.
        decision: the growing record of the call.
        record: the record of this attempt.
        link: the account's own connections.
        share: what it counts for its tenant; `None` if nobody waited when it was granted.
    """

    __slots__ = (
        "_abort", "_first_byte_at", "_supervisor", "account", "admission", "deadline", "decision",
        "idle_from", "late_at", "link", "model", "record", "settled", "share", "unsent", "usage",
    )  # fmt: skip

    def __init__(
        self,
        supervisor: Supervisor,
        account: Account,
        link: Link,
        admission: Admission,
        decision: Decision,
        record: AttemptRecord,
        deadline: float,
    ) -> None:
        self._supervisor = supervisor
        self.admission = admission
        self._abort: Callable[[], None] | None = None
        self._first_byte_at = math.inf
        self.account = account
        self.link = link
        self.model = record.model
        self.deadline = deadline
        self.decision = decision
        self.record = record
        self.usage: Usage | None = None
        self.share: Share | None = None
        self.settled = False
        self.unsent = False
        self.idle_from = math.inf
        self.late_at = math.inf

    def __repr__(self) -> str:
        return f"Lease(account={self.account.name!r}, model={self.model!r}, settled={self.settled})"

    @property
    def credential(self) -> Secret:
        """What to authenticate with; empty where the account has none."""
        return self.admission.credential or NO_CREDENTIAL

    @property
    def call(self) -> Call:
        """What was asked."""
        return self.decision.call

    def report(self, *, usage: Usage) -> None:
        """Say what the attempt really took; it is charged instead of the estimate when the lease ends. Raises `TypeError`."""
        if not isinstance(usage, Usage):  # pyright: ignore[reportUnnecessaryIsInstance] - whose attempt it is would never know
            raise TypeError("a lease is told a Usage")
        self.usage = usage

    def connecting(self) -> None:
        """A connection has to be made first."""
        self.unsent = True
        if not self.settled:
            self._supervisor.connecting(self)

    def written(self) -> None:
        """The first byte of the request goes out only now, after a connection had to be made."""
        self.unsent = False
        if not self.settled:
            self._supervisor.written(self)

    def observe(self, limits: tuple[LimitSeen, ...]) -> None:
        """The answer has begun and shows these limits."""
        self._first_byte_at = now = trio.current_time()
        if not self.settled:
            self._supervisor.observe(self, limits, now)

    def settle(self, outcome: Outcome, *, usage: Usage | None = None, limits: tuple[LimitSeen, ...] = ()) -> None:
        """End it. Only the first end counts; never raises."""
        if self.settled:
            return
        self.settled = True
        now = trio.current_time()
        record = self.record
        record.outcome = outcome
        record.duration = now - record.started_at
        self._abort = None
        evidence = Evidence(outcome, usage or self.usage, limits)
        self._supervisor.settle(self, evidence, now, min(self._first_byte_at, now) - record.started_at)

    def withdraw(self) -> None:
        """End it as cancelled by us; what was sent stays charged as estimated."""
        self.settle(Withdrawn(sent=not self.unsent))

    def guard(self, abort: Callable[[], None], *, idle: bool = False) -> None:
        """Hand the attempt to its next guard: `abort` ends it synchronously when the balancer has to.

        Args:
            abort: cancels the attempt, or closes its open body.
            idle: whether an open body is now waited for, so that the idle limit applies (`touch`).
        """
        if self.settled:
            abort()
            return
        self._abort = abort
        if idle:
            self.late_at = math.inf
            self.touch()
            self._supervisor.watch_idle(self)

    def expect_by(self, late_at: float) -> None:
        """The answer is to be committed by this trio time; else the attempt has timed out."""
        self.late_at = late_at
        self._supervisor.wake_at(late_at)

    def time_out(self) -> None:
        """The answer was not committed in time: settle, then end the attempt."""
        abort, self._abort = self._abort, None
        self.settle(TimedOut("connect" if self.unsent else "headers"))
        if abort is not None:
            abort()

    @property
    def is_idle(self) -> bool:
        """Whether its open body has not been read for the idle limit."""
        return self._supervisor.is_idle(self, trio.current_time())

    def touch(self) -> None:
        """The open body has been read just now."""
        self.idle_from = trio.current_time()

    def abort(self) -> None:
        """End the attempt from outside: its guard is told, then the lease is settled as withdrawn."""
        abort, self._abort = self._abort, None
        if abort is not None:
            abort()
        self.withdraw()
