"""One client in a process of its own: requests per second with so many in flight. Its argument and its answer are JSON.

Whatever the client, the process imports the same, runs the same loops and sends the same requests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import attrs
import httpx
import httpx2
import trio

from balancer import BalancerConfig, open_balancer
from benchmarks.server import ROOT

ACCOUNTS = 4
BODY = {"model": "m", "messages": [{"role": "user", "content": "word " * 100}], "max_tokens": 100}
RAISED = 1000


@attrs.frozen
class Speed:
    """What one process reached.

    Attributes:
        per_second: requests per second.
        cpu: microseconds of the process per request, which tell more than the clock on a machine with other work.
    """

    per_second: float
    cpu: float


@attrs.frozen
class Run:
    """What one process does.

    Args:
        client: `"balanced"`, `"httpx"` or `"httpx2"` with raised limits, `"httpx-default"`.
        url: the server.
        in_flight: requests at once.
        apart: seconds between the starts of two callers; 0: all start together, as a burst does.
        warm_up, seconds: how long it runs before and while it is measured.
    """

    client: str
    url: str
    in_flight: int
    warm_up: float
    seconds: float
    apart: float = 0.0

    def measure(self) -> Speed:
        """How fast it is, in a fresh process."""
        command = [sys.executable, "-m", "benchmarks.client", json.dumps(attrs.asdict(self))]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"the client {self.client!r} failed:\n{ended.stderr}")
        return Speed(**json.loads(ended.stdout))


async def _client(stack: AsyncExitStack, run: Run) -> Any:
    timeout = 60.0
    match run.client:
        case "balanced":
            accounts = [{"name": f"account-{n}", "base_url": run.url, "key": "sk-none"} for n in range(ACCOUNTS)]
            balancer = await stack.enter_async_context(open_balancer(BalancerConfig(accounts)))
            client: Any = httpx.AsyncClient(transport=balancer.transport(), base_url=run.url, timeout=timeout)
        case "httpx":
            limits = httpx.Limits(max_connections=RAISED, max_keepalive_connections=RAISED)
            client = httpx.AsyncClient(base_url=run.url, limits=limits, timeout=timeout)
        case "httpx2":
            limits = httpx2.Limits(max_connections=RAISED, max_keepalive_connections=RAISED)
            client = httpx2.AsyncClient(base_url=run.url, limits=limits, timeout=timeout)
        case _:
            client = httpx.AsyncClient(base_url=run.url, timeout=timeout)
    return await stack.enter_async_context(client)


async def speed(run: Run) -> Speed:
    """How fast one client is in this process."""
    served = 0

    async def call(client: Any) -> None:
        nonlocal served
        while True:
            response = await client.post("/chat/completions", json=BODY, headers={"authorization": "Bearer sk-none"})
            assert response.status_code == httpx.codes.OK, response.text
            served += 1

    async with AsyncExitStack() as stack:
        client = await _client(stack, run)
        async with trio.open_nursery() as nursery:
            for _ in range(run.in_flight):
                nursery.start_soon(call, client)
                await trio.sleep(run.apart)
            await trio.sleep(run.warm_up)
            before, began_at, cpu_before = served, time.perf_counter(), time.process_time()
            await trio.sleep(run.seconds)
            count = max(1, served - before)
            reached = Speed(count / (time.perf_counter() - began_at), (time.process_time() - cpu_before) / count * 1e6)
            nursery.cancel_scope.cancel()
        return reached
    raise AssertionError("the block above returns")


if __name__ == "__main__":
    print(json.dumps(attrs.asdict(trio.run(speed, Run(**json.loads(sys.argv[1]))))))
