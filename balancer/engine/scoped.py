"""A scope around an attempt that nothing else can end from outside: a user's function, or a transport given in code.

An attempt on the account's own connections needs none: to close its connection ends every wait of it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from balancer.actors.lease import Lease

T = TypeVar("T")


class EndedFromOutside(Exception):
    """The lease was settled from outside while the attempt ran; the lease says how."""


async def scoped(lease: Lease, perform: Callable[[Lease], Awaitable[T]], ends_after: float = math.inf) -> T:
    """Run `perform` until it returns, or until the lease is ended from outside, or its time is up.

    Args:
        lease: under which it runs.
        perform: the attempt.
        ends_after: seconds from the lease's start.

    Raises:
        EndedFromOutside: the lease has been settled.
    """
    scope = trio.CancelScope(deadline=lease.record.started_at + ends_after)
    lease.guard(scope.cancel)
    try:
        with scope:
            return await perform(lease)
    except Exception:  # what it makes of being cancelled says nothing: why it was, is known
        if not scope.cancel_called:
            raise
    lease.time_out()  # which changes nothing where something else has ended it
    raise EndedFromOutside
