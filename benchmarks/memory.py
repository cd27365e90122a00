"""What 100,000 calls leave behind: nothing. Through mock transports, served whole or streamed, abandoned, failed, cancelled."""

from __future__ import annotations

import gc
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import httpx
import trio
import trio.testing

from balancer import BalancerConfig, open_balancer
from benchmarks.client import ACCOUNTS, BODY
from benchmarks.report import Row, Step, progress
from benchmarks.server import answer

CALLS = 100_000
SETTLED = 20_000
MOST_BYTES = 1024 * 1024
IN_FLIGHT = 16

PLAIN = answer()
EVENTS = [
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
STREAMED, ABANDONED, FAILED, CANCELLED = 3, 7, 47, 53
"""Every so many calls is one of that kind."""


class Events(httpx.AsyncByteStream):
    """A stream of events."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in EVENTS:
            await trio.lowlevel.checkpoint()
            yield event


async def respond(request: httpx.Request) -> httpx.Response:
    """The backend: as the request asks."""
    asked = json.loads(request.content)
    await trio.lowlevel.checkpoint()
    if asked["model"] == "failing":
        return httpx.Response(500)
    if asked.get("stream"):
        return httpx.Response(200, stream=Events(), headers={"content-type": "text/event-stream"})
    return httpx.Response(200, text=PLAIN, headers={"content-type": "application/json"})


async def call(client: httpx.AsyncClient, number: int) -> None:
    """One call, of the kind that its number says."""
    path = "/chat/completions"
    if number % CANCELLED == 0:
        with trio.move_on_after(0.0005):  # in the midst of it
            await client.post(path, json=BODY)
    elif number % FAILED == 0:
        await client.post(path, json=BODY | {"model": "failing"})
    elif number % STREAMED == 0 or number % ABANDONED == 0:
        async with client.stream("POST", path, json=BODY | {"stream": True}) as response:
            if number % ABANDONED:
                async for _ in response.aiter_lines():
                    pass
    else:
        await client.post(path, json=BODY)


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - the names are enough


async def measure(calls: int, settled: int, step: Step) -> list[Row]:
    """Traced memory after `settled` and after `calls` calls, and what is left at the end."""
    files, tasks = _open_files(), trio.lowlevel.current_statistics().tasks_living

    async def several(client: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            await call(client, number)
            if number % 1000 == 0:
                step()

    async def traced(client: httpx.AsyncClient, begin: int, end: int) -> int:
        numbers = iter(range(begin, end))
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(several, client, numbers)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    transport = httpx.MockTransport(respond)
    accounts = [{"name": f"account-{n}", "base_url": "http://127.0.0.1/v1", "transport": transport} for n in range(ACCOUNTS)]
    # Failures are to fail their calls, not to take the accounts out for half a minute.
    config = BalancerConfig(accounts, health={"consecutive_faults": 1_000_000})
    async with open_balancer(config) as balancer:
        async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client:
            first = await traced(client, 0, settled)
            last = await traced(client, settled, calls)
        await trio.testing.wait_all_tasks_blocked()
        leases = balancer.statistics().in_flight
    await trio.testing.wait_all_tasks_blocked()
    return [
        Row.at_most(
            f"growth of traced memory from call {settled:,} to {calls:,}, KiB", (last - first) / 1024, MOST_BYTES / 1024
        ),
        Row.at_most("leases left", leases, 0),
        Row.at_most("tasks left", trio.lowlevel.current_statistics().tasks_living - tasks, 0),
        Row.at_most("file descriptors left", _open_files() - files, 0),
    ]


def memory(*, quick: bool = False) -> list[Row]:
    """Runs the calls with memory traced."""
    calls, settled = (CALLS // 100, SETTLED // 100) if quick else (CALLS, SETTLED)
    tracemalloc.start()
    try:
        with progress("memory", calls // 1000) as step:
            return trio.run(measure, calls, settled, step)
    finally:
        tracemalloc.stop()
