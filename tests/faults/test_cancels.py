"""Calls cancelled at random over real sockets: leases, connections, files and tasks are as they were before."""

from __future__ import annotations

import gc
import os
import random

import httpx
import pytest
import trio

from balancer import open_balancer
from balancer.testing.mock import MockSettings, Uniform, open_mocks

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def open_files():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("hedged", [False, True])
async def test_random_cancels(hedged, balancing_once):
    """Cancelled anywhere between connect and the last byte, raced or not, a call leaves nothing behind."""
    rng = random.Random(7)
    before, tasks = open_files(), set(balancing_once.tasks())
    settings = MockSettings(latency=Uniform(0.0, 0.01), token_interval=0.001, output_tokens=4)
    cancelled = 0
    async with open_mocks({"a": settings, "b": settings}) as backends:
        accounts = [{"name": name, "base_url": backend.address.base_url} for name, backend in backends.items()]
        hedge = {"enabled": hedged, "delay": 0.003, "max_extra_ratio": 1.0}
        async with open_balancer({"accounts": accounts, "hedge": hedge, "balancer": {"seed": 1}}) as balancer:
            transport = balancer.transport()

            async def call(client, room):
                nonlocal cancelled
                told = {"balancer": {"hedgeable": True}}
                with trio.move_on_after(rng.uniform(0.0, 0.03)) as scope:
                    body = {**ASKED, "stream": rng.random() < 0.5}
                    response = await client.post("/chat/completions", json=body, extensions=told)
                    assert response.status_code in (200, 429)
                cancelled += scope.cancelled_caught
                room.release()

            room = trio.Semaphore(16)
            async with (
                httpx.AsyncClient(transport=transport, base_url="http://balancer/v1", timeout=None) as client,
                trio.open_nursery() as nursery,
            ):
                for _ in range(300):
                    await room.acquire()
                    nursery.start_soon(call, client, room)
            assert cancelled > 30
            assert balancer.statistics().in_flight == 0
            assert balancer.statistics().totals.failed == 0
            for supervisor in balancer._supervisors.values():
                assert supervisor.link.lines.in_use == 0
    gc.collect()
    with trio.fail_after(5):
        while open_files() > before or set(balancing_once.tasks()) - tasks:  # noqa: ASYNC110 - the kernel tells nobody
            await trio.sleep(0.005)
