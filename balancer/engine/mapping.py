"""Many calls, so many at once, their results as they finish."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import attrs
import trio

from balancer.actors.lease import Lease
from balancer.core.call import Call
from balancer.core.decision import Decision
from balancer.engine.unwrapping import Unwrapped
from balancer.errors import BalancerError

T = TypeVar("T")


@attrs.frozen(eq=False)
class Result(Generic[T]):
    """How one call of `map` ended.

    Attributes:
        call: the call.
        value: what its attempt returned; `None` where it failed.
        error: why it failed; `None` where it was served.
        decision: its record; `None` if it failed before an account was looked for.
    """

    call: Call
    value: T | None
    error: Exception | None
    decision: Decision | None


@asynccontextmanager
async def map_calls(
    run: Callable[[Call, Callable[[Lease], Awaitable[T]]], Awaitable[T]],
    calls: Iterable[Call] | AsyncIterable[Call],
    attempt: Callable[[Lease], Awaitable[T]],
    limit: int,
) -> AsyncGenerator[AsyncIterator[Result[T]]]:
    """Run `calls`, at most `limit` at once, and give their results as they finish. A failed call is a result.

    `calls` is read only as room appears. Leaving the block cancels the rest. The tasks run in the caller's scope.
    """
    if limit < 1:
        raise ValueError("limit is at least 1")
    room = trio.Semaphore(limit)

    async def one(call: Call, results: trio.MemorySendChannel[Result[T]]) -> None:
        decision: Decision | None = None

        async def noting(lease: Lease) -> T:
            nonlocal decision
            decision = lease.decision
            return await attempt(lease)

        async with results:
            value, error = None, None
            try:
                value = await run(call, noting)
            except Exception as raised:
                error = raised
                if isinstance(raised, BalancerError):
                    decision = raised.decision
            await results.send(Result(call, value, error, decision))
            room.release()

    async def feed(results: trio.MemorySendChannel[Result[T]]) -> None:
        async with results:
            await room.acquire()
            if isinstance(calls, AsyncIterable):
                async for call in calls:
                    nursery.start_soon(one, call, results.clone())
                    await room.acquire()
            else:
                for call in calls:
                    nursery.start_soon(one, call, results.clone())
                    await room.acquire()

    raised: Exception | None = None
    with Unwrapped():
        async with trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[Result[T]](0)
            nursery.start_soon(feed, send)
            try:
                yield receive
            except Exception as error:  # raised again outside: a nursery rebuilds the groups that pass it
                raised = error
            nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
