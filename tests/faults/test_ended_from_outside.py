"""Attempts on real connections that are ended from outside: by the end of the balancer, by a race, by their time."""

from __future__ import annotations

import httpx
import pytest
import trio

from balancer import BalancerConfig, TimedOut, Withdrawn, open_balancer
from balancer.testing.mock import MockSettings, open_mock
from balancer.testing.raw import open_raw, receive_request

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Silent:
    """A backend that takes a request and never answers; it sees when its connection is closed."""

    def __init__(self):
        self.asked = trio.Event()
        self.left = trio.Event()

    async def __call__(self, stream, _number):
        await receive_request(stream)
        self.asked.set()
        await stream.receive_some()
        self.left.set()


def account(name, address, **given):
    return {"name": name, "base_url": f"{address}/v1" if "/v1" not in address else address, **given}


async def test_the_end_of_the_balancer_ends_what_waits_for_an_answer():
    """The caller is told at once, and the backend's connection is closed."""
    silent = Silent()
    answers = []
    async with open_raw(silent) as backend, trio.open_nursery() as nursery:
        config = BalancerConfig(accounts=[account("a", backend.base_url)], drain_timeout=0.0)
        async with open_balancer(config) as balancer:

            async def ask():
                async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://b/v1", timeout=None) as client:
                    answers.append(await client.post("/chat/completions", json=ASKED))

            nursery.start_soon(ask)
            await silent.asked.wait()
        with trio.fail_after(2):
            await silent.left.wait()
    (answer,) = answers
    assert answer.status_code == 503
    assert [attempt.outcome for attempt in answer.extensions["balancer"].attempts] == [Withdrawn()]
    assert balancer.statistics().in_flight == 0


async def test_the_loser_of_a_race_is_closed():
    """The hedge is served; the connection of the silent primary is closed in the same moment."""
    silent = Silent()
    async with open_raw(silent) as slow, open_mock(MockSettings()) as fast:
        accounts = [account("slow", slow.base_url), account("fast", fast.base_url, weight=0)]
        config = BalancerConfig(accounts=accounts, hedge={"enabled": True, "delay": 0.05})
        async with (
            open_balancer(config) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://b/v1") as client,
        ):
            answer = await client.post("/chat/completions", json=ASKED)
            with trio.fail_after(2):
                await silent.left.wait()
            attempts = answer.extensions["balancer"].attempts
            assert [(attempt.account, attempt.hedge) for attempt in attempts] == [("slow", False), ("fast", True)]
            assert attempts[0].outcome == Withdrawn()
            assert balancer.statistics().in_flight == 0


@pytest.mark.parametrize("calls", [1, 5])
async def test_an_answer_that_does_not_come_is_late_at_its_time(calls):
    """Every attempt times out at `headers_timeout` from its own start; the next account serves."""
    silent = Silent()
    async with open_raw(silent) as slow, open_mock(MockSettings()) as fast:
        accounts = [  # of a provider that shows no limits, so that nobody waits for its first answer
            account("slow", slow.base_url, provider="vllm"),
            account("fast", fast.base_url, provider="vllm", weight=0),
        ]
        config = BalancerConfig(accounts=accounts, headers_timeout=0.2, health={"consecutive_faults": 100})
        async with (
            open_balancer(config) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://b/v1", timeout=None) as client,
        ):
            ends = []

            async def ask():
                answer = await client.post("/chat/completions", json=ASKED)
                ends.append((answer.status_code, *(attempt.outcome for attempt in answer.extensions["balancer"].attempts)))
                first = answer.extensions["balancer"].attempts[0]
                assert 0.2 <= first.duration < 0.6

            async with trio.open_nursery() as nursery:
                for _ in range(calls):
                    nursery.start_soon(ask)
                    await trio.sleep(0.02)
            assert [end[:2] for end in ends] == [(200, TimedOut("headers"))] * calls
