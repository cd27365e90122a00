"""Two attempts of one call at once: the primary in the caller's own task, the hedge in a child.

The first one that commits wins, in the step in which it commits; the other is aborted, or discarded if it commits all the same
before the abort reaches it. What is the caller's own, an exception or a fault of the request, decides the race too. A race that is cancelled from outside gives back a winner that nobody took.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs
import trio

from balancer.actors.lease import Lease
from balancer.core.outcome import CallerFault, Withdrawn
from balancer.engine.ends import End, Lost, Raised, Won
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
    _decided: bool = attrs.field(default=False, init=False)

    async def run(self, primary: Lease) -> list[End[T]]:
        """Run it; the ends in the order in which they came, the one that decided last, those of aborted losers left out."""
        try:
            with Unwrapped():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hedge)
                    await self._enter(primary)
                    if self._decided or len(self._leases) == 1:
                        nursery.cancel_scope.cancel()
        except BaseException:
            if self._ends and isinstance(self._ends[-1], Won):
                self.discard(self._ends[-1].value)
            raise
        return self._ends

    async def _hedge(self) -> None:
        await trio.sleep(self.delay)
        if not self._decided and (lease := await self.place_hedge()) is not None:
            await self._enter(lease)

    async def _enter(self, lease: Lease) -> None:
        if self._decided:
            lease.settle(Withdrawn(sent=False))
            return
        self._leases.append(lease)
        end = await self.attempt(lease)
        if self._decided:
            if isinstance(end, Won):
                self.discard(end.value)
            return
        self._ends.append(end)
        if isinstance(end, Won | Raised) or (isinstance(end, Lost) and isinstance(end.outcome, CallerFault)):
            self._decided = True
            for other in self._leases:
                if other is not lease:
                    other.abort()
