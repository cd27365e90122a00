"""What the actors are told.

A `Ticket` is a placement asked for: it goes into the dispatcher's mailbox, and has one slot that is written once, with a lease
or a refusal, and a wake-up of the task that waits for it. A `Doorbell` says "capacity may have come back" and carries nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from balancer.core.call import Call
from balancer.core.decision import Decision
from balancer.core.health import HealthSettings
from balancer.core.line import Line
from balancer.core.settings import Account

if TYPE_CHECKING:
    from balancer.actors.lease import Lease
    from balancer.actors.placing import Hold


class Ticket:
    """A placement asked for.

    Args:
        call: for which call.
        decision: the call's record, for the lease.
        model: the application's model name for this attempt.
        pool: the pool to place it in.
        dialect: what the account must speak; `None` for any account.
        avoid: accounts that faulted this call.
        give_up_at: trio time after which it is of no use.
        deadline: trio time by which the call must end, for the queue's order.
        now_or_never: for a hedge: it never queues.
        shows_limits: whether answers show limits, so that an account with unknown ones is asked carefully.
    """

    __slots__ = (
        "_on_withdrawn", "_task", "avoid", "call", "came_at", "deadline", "decision", "dialect", "error", "give_up_at", "hold",
        "latest_start_at", "lease", "model", "now_or_never", "open", "pool", "shows_limits", "spot", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        decision: Decision,
        model: str | None,
        pool: str,
        dialect: str | None = None,
        avoid: frozenset[str] = frozenset(),
        give_up_at: float = float("inf"),
        deadline: float = float("inf"),
        now_or_never: bool = False,
        shows_limits: bool = False,
    ) -> None:
        self.call = call
        self.decision = decision
        self.model = model
        self.pool = pool
        self.dialect = dialect
        self.avoid = avoid
        self.give_up_at = give_up_at
        self.deadline = deadline
        self.now_or_never = now_or_never
        self.shows_limits = shows_limits
        self.lease: Lease | None = None
        self.error: Exception | None = None
        self.hold: Hold | None = None  # what it had better wait for, though another account could take it
        self.waiting = False
        self.came_at = 0.0  # when it began to wait
        self.latest_start_at = give_up_at  # by when its turn has to come, for the queue's order
        self.spot: Any = None  # where the queue keeps it
        self.open = True  # whether it still needs an answer: not granted, refused or withdrawn
        self._task: Any = None  # who waits, and has posted it

    async def wait_granted(self, on_withdrawn: Callable[[Ticket], None]) -> Lease:
        """Wait for the lease. Raises what the dispatcher refused it with.

        A cancel while waiting withdraws the ticket in the same step. Once granted the task is rescheduled, trio no longer
        cancels this wait, and the cancel comes at the next checkpoint, with the lease in hand.
        """
        self._on_withdrawn = on_withdrawn
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._withdraw)
        if self.error is not None:
            raise self.error
        assert self.lease is not None, "a rescheduled ticket was granted or refused"
        return self.lease

    def _withdraw(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self.open = False
        self._on_withdrawn(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def grant(self, lease: Lease) -> None:
        """Give it the lease and wake its task."""
        self.lease = lease
        self.open = False
        trio.lowlevel.reschedule(self._task)

    def refuse(self, error: Exception) -> None:
        """End it with an error and wake its task."""
        self.error = error
        self.open = False
        trio.lowlevel.reschedule(self._task)


@attrs.frozen
class Doorbell:
    """Capacity may have come back."""


@attrs.frozen(eq=False)
class Reconfigure:
    """New settings for a supervisor; `done` is set once they hold."""

    account: Account
    health: HealthSettings
    idle_timeout: float
    shared: Sequence[Line]
    done: trio.Event


DOORBELL = Doorbell()
