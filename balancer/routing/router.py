"""Where the next attempt of a call may go: a pool and a model, after an optional delay; or nowhere, then the call stops.

A router is a sync or async function `(RoutingContext) -> Route | None`. It is asked before the first attempt, and again when a
route has nothing more to offer; it sees every attempt so far.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from balancer.core.call import Call
from balancer.core.decision import AttemptRecord


@attrs.frozen
class Route:
    """Where attempts may go.

    Args:
        pool: the pool to place them in.
        model: the model name to ask accounts for; `None` for a call without a model.
        after: seconds to wait first, >= 0.
    """

    pool: str
    model: str | None
    after: float = 0.0


@attrs.define  # not frozen: one is made for every call, and that takes three times as long
class RoutingContext:
    """What a router decides from.

    Attributes:
        call: what was asked.
        attempts: the attempts so far.
        routes: the routes already followed, in order; none for the first question.
        now: trio time.
    """

    call: Call
    attempts: tuple[AttemptRecord, ...]
    routes: tuple[Route, ...]
    now: float


Router = Callable[[RoutingContext], "Route | Awaitable[Route | None] | None"]
