"""A mailbox is drained: its owner takes all that has come, in one step."""

from __future__ import annotations

import trio

from balancer.actors.mailbox import Mailbox
from balancer.testing import counted_steps


async def test_a_backlog_passes_in_one_step(scheduler, autojump_clock):
    """32 senders of 200 messages each cost the owner a step per round of senders, not one per message."""
    box = Mailbox[int]()
    taken, drains = [], 0

    async def owner():
        nonlocal drains
        while len(taken) < 32 * 200:
            taken.extend(await box.drain())
            drains += 1

    async def sender():
        for number in range(200):
            box.post(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner)
        for _ in range(32):
            nursery.start_soon(sender)
    assert drains <= 202


async def test_messages_keep_their_order(scheduler, autojump_clock):
    """One sender's messages arrive as they were sent."""
    box = Mailbox[int]()
    for number in range(100):
        box.post(number)
    assert await box.drain() == list(range(100))
    assert box.take() == []


async def test_posting_takes_no_step(scheduler, autojump_clock):
    """Nobody waits for room."""
    box = Mailbox[int]()
    with counted_steps() as counter:
        for number in range(1000):
            box.post(number)
    assert counter.steps == 0
    assert len(box.take()) == 1000
