"""Two attempts of one call at once: the primary in the caller's own task, the hedge in a child.

The first one that commits wins, in the step in which it commits; the other is aborted, or discarded if it commits all the same
before the abort reaches it. A race that is cancelled from outside gives back a winner that nobody took.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs
import trio

from balancer.actors.lease import Lease
from balancer.engine.ends import ABORTED, Aborted, End, Won
from balancer.engine.unwrapping import Unwrapped

T = TypeVar("T")


@attrs.define(eq=False)
class Race(Generic[T]):
    """One race.

    Args:
        delay: seconds after which the hedge starts, if the primary is silent.
        attempt: runs one attempt to its end.
        place_hedge: a lease for the hedge, or `None` if there is none to be had now.
        discard: ends a committed value that came second.
    """

    delay: float
    attempt: Callable[[Lease], Awaitable[End[T]]]
    place_hedge: Callable[[], Awaitable[Lease | None]]
    discard: Callable[[T], None]
    _leases: list[Lease] = attrs.field(factory=list[Lease], init=False)
    _ends: list[End[T]] = attrs.field(factory=list[End[T]], init=False)
    _winner: Won[T] | None = attrs.field(default=None, init=False)

    async def run(self, primary: Lease) -> list[End[T]]:
        """Run it; the ends in the order in which they came, those of aborted losers left out, a winner last."""
        try:
            with Unwrapped():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hedge)
                    await self._enter(primary)
                    if self._winner is not None or len(self._leases) == 1:
                        nursery.cancel_scope.cancel()
        except BaseException:
            if self._winner is not None:
                self.discard(self._winner.value)
            raise
        lost: list[End[T]] = [end for end in self._ends if not isinstance(end, Won | Aborted)]
        if self._winner is not None:
            return [*lost, self._winner]
        return lost if len(lost) == len(self._ends) else [*lost, ABORTED]

    async def _hedge(self) -> None:
        await trio.sleep(self.delay)
        if self._winner is None and (lease := await self.place_hedge()) is not None:
            await self._enter(lease)

    async def _enter(self, lease: Lease) -> None:
        self._leases.append(lease)
        end = await self.attempt(lease)
        if isinstance(end, Won):
            if self._winner is not None:
                self.discard(end.value)
                return
            self._winner = end
            for other in self._leases:
                if other is not lease and not other.settled:
                    other.abort()
        self._ends.append(end)
