"""The hop budget: what placing a call costs in task steps, counted over all tasks."""

from __future__ import annotations

import pytest
import trio

from balancer import Call
from balancer.testing import counted_steps


@pytest.mark.parametrize("checkpoints", [0, 1, 5])
async def test_an_uncontended_call_takes_two_steps_more_than_its_attempt(checkpoints, balancing, autojump_clock):
    """One of the dispatcher, and one of the caller to go on with its lease; settling takes none."""

    async def attempt(lease):
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()

    account = {"name": "a", "limits": {"requests_per_minute": 1000, "tokens_per_minute": 1000, "concurrency": 9}}
    async with balancing(account, "b") as balancer:
        for _ in range(3):
            with counted_steps() as counter:
                await balancer.run(Call(), attempt)
            assert counter.steps <= checkpoints + 2


async def test_a_failover_takes_two_more(balancing, autojump_clock):
    """Each placement costs the same."""
    attempts = 0

    async def attempt(lease):
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError

    async with balancing("a", "b") as balancer:
        with counted_steps() as counter:
            await balancer.run(Call(), attempt)
        assert counter.steps <= 4


async def test_many_calls_share_the_dispatchers_step(balancing, autojump_clock):
    """At 100 in one pass the dispatcher's share of a call is a hundredth step."""

    async def attempt(lease):
        pass

    async with balancing("a", "b") as balancer:
        with counted_steps() as counter:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(balancer.run, Call(), attempt)
        assert counter.steps <= 100 * 2 + 2
