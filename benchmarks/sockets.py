"""Known limits once on real sockets: our mock backends, and llmock, which others wrote, at three times the quota.

Buckets begin full: what is used is counted from the moment at which they are empty, so that calls wait.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import attrs
import httpx
import trio

from balancer import BalancerConfig, open_balancer
from benchmarks.backends import RECORD, backends
from benchmarks.report import Row

PER_MINUTE = 1200
LOAD = 3.0
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 4}
LEAST_USED = 0.97
EMPTIED_BY = 8
"""Calls in flight while what full buckets hold is used up."""
STARTS_WITHIN = 20.0


@attrs.frozen
class Seen:
    """What one server saw: how many it admitted and how many it refused."""

    admitted: int
    refused: int


Look = Callable[[httpx.AsyncClient, str], Awaitable[Seen]]


@contextmanager
def llmocks(count: int, *, rpm: int) -> Generator[list[str]]:
    """Runs so many llmock processes; yields their addresses."""
    with ExitStack() as stack:
        urls = [stack.enter_context(_llmock(rpm)) for _ in range(count)]
        give_up_at = time.monotonic() + STARTS_WITHIN
        for url in urls:
            while True:
                try:
                    httpx.get(f"{url}/health", trust_env=False).raise_for_status()
                    break
                except httpx.TransportError:
                    if time.monotonic() > give_up_at:
                        raise
                    time.sleep(0.05)
        yield urls


@contextmanager
def _llmock(rpm: int) -> Generator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("LLMOCK_")}
    command = [sys.executable, "-m", "llmock.cli", "serve", "--port", str(port), "--rpm", str(rpm), "--log-level", "error"]
    with subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


async def press(urls: Sequence[str], look: Look, seconds: float, per_minute: int) -> tuple[list[Seen], float]:
    """Sends three times the quota of `urls`, without deadlines, for so long after what full buckets held is gone.

    Args:
        urls: base URLs of the accounts, each limited by a bucket of requests as large.
        look: asks a server what it has seen.
        seconds: to measure for.
        per_minute: requests that each allows.

    Returns:
        What each server saw in all, and the share that was used of what flowed into the buckets while calls waited.
    """
    limits = {"requests_per_minute": per_minute}
    accounts = [
        {"name": f"account-{place}", "base_url": url, "key": f"sk-{place}", "limits": limits} for place, url in enumerate(urls)
    ]
    config = BalancerConfig(accounts, max_waiting=100_000, max_wait_for=None)
    filled, per_second = len(urls) * per_minute, len(urls) * per_minute / 60.0
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30.0) as admin,
        open_balancer(config) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1", timeout=None) as client,
        trio.open_nursery() as nursery,
    ):
        emptied = trio.Event()

        async def arrive() -> None:
            left = iter(range(filled))

            async def empty() -> None:
                for _ in left:
                    await call()

            async with trio.open_nursery() as emptying:  # not all at once: nobody would know when the first of them is counted
                for _ in range(EMPTIED_BY):
                    emptying.start_soon(empty)
            while True:
                nursery.start_soon(call)
                await trio.sleep(1.0 / (LOAD * per_second))
                now = balancer.statistics()
                if now.waiting >= per_second and now.in_flight < per_second / 4.0:  # what full buckets held has been served
                    emptied.set()

        async def call() -> None:
            await client.post("/chat/completions", json=BODY)

        async def admitted() -> tuple[float, list[Seen]]:
            seen = [await look(admin, url) for url in urls]
            return trio.current_time(), seen

        nursery.start_soon(arrive)
        await emptied.wait()
        before = await admitted()
        await trio.sleep(seconds)
        after = await admitted()
        nursery.cancel_scope.cancel()
    begun, come = (sum(each.admitted for each in seen) for _, seen in (before, after))
    return after[1], (come - begun) / (per_second * (after[0] - before[0]))


async def look_at_mock(admin: httpx.AsyncClient, url: str) -> Seen:
    """What one of our mocks saw."""
    counts: Mapping[str, int] = (await admin.get(url.removesuffix("/v1") + RECORD)).json()["counts"]
    return Seen(counts["received"] - counts["refused"] - counts["rejected"], counts["refused"])


async def look_at_llmock(admin: httpx.AsyncClient, url: str) -> Seen:
    """What an llmock saw."""
    records = (await admin.get(url.removesuffix("/v1") + "/_llmock/requests")).json()["requests"]
    refused = sum(record["status"] == 429 for record in records)
    return Seen(len(records) - refused, refused)


def sockets(*, quick: bool = False) -> list[Row]:
    """Two accounts on each kind of server."""
    seconds, per_minute = (1.0, 120) if quick else (10.0, PER_MINUTE)
    settings = {"limits": {"requests_per_minute": per_minute}, "record_limit": 1000}
    rows: list[Row] = []
    with backends(2, settings) as urls:
        rows += _rows("our mock", *trio.run(press, urls, look_at_mock, seconds, per_minute))
    with llmocks(2, rpm=per_minute) as urls:
        rows += _rows("llmock", *trio.run(press, [f"{url}/v1" for url in urls], look_at_llmock, seconds, per_minute))
    return rows


def _rows(server: str, seen: Sequence[Seen], used: float) -> list[Row]:
    return [
        Row.at_most(f"real sockets, {server}: refusals", sum(one.refused for one in seen), 0, seen),
        Row.at_least(f"real sockets, {server}: used", used, LEAST_USED),
    ]
