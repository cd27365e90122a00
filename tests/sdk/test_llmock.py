"""Over llmock, a mock server written by others: one process per account, judged by what it recorded."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager

import anthropic
import httpx
import httpx2
import openai
import pytest
import trio

from balancer import Account, BalancerConfig, StreamTruncated, open_balancer
from balancer.core.outcome import Faulted, RateLimited, Served, Truncated
from benchmarks.sockets import llmocks, look_at_llmock, press

pytestmark = [
    # The SDKs leave their own generators unfinished behind a stream that was left early, and trio warns of it.
    pytest.mark.filterwarnings("ignore:Async generator '(openai|anthropic|httpx):ResourceWarning"),
]

PER_MINUTE = 120
"""Requests per minute and key of each process: so many at once, then two a second."""
MESSAGES = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def servers():
    """Two processes that answer. llmock belongs to the development requirements: without it these tests fail."""
    with llmocks(2, rpm=PER_MINUTE) as urls:
        yield urls


class Bench:
    """A balancer with an account on each process."""

    def __init__(self, balancer, servers, admin):
        self.balancer, self._servers, self._admin = balancer, servers, admin
        self.decisions = []

    def client(self, package, **more):
        async def note(response):
            self.decisions.append(response.extensions["balancer"])

        transport = self.balancer.transport(package.__name__)
        return package.AsyncClient(transport=transport, event_hooks={"response": [note]}, **more)

    async def reset(self):
        for server in self._servers:
            (await self._admin.post(f"{server}/_llmock/reset")).raise_for_status()

    async def script(self, place, **behavior):
        """What happens to the next request at one process."""
        answer = await self._admin.post(f"{self._servers[place]}/_llmock/scenario", json={"behaviors": [behavior]})
        answer.raise_for_status()

    async def recorded(self):
        """Per process, the status of each request it has served."""
        return [
            [record["status"] for record in (await self._admin.get(f"{server}/_llmock/requests")).json()["requests"]]
            for server in self._servers
        ]

    async def findings(self):
        """What llmock finds fault with in its client."""
        verdicts = [(await self._admin.get(f"{server}/_llmock/verdict")).json() for server in self._servers]
        return [(finding["code"], finding["title"]) for verdict in verdicts for finding in verdict["findings"]]

    def outcomes(self):
        return [(attempt.account, type(attempt.outcome)) for attempt in self.decisions[-1].attempts]


@pytest.fixture
def opened(servers, request):
    """Opens a bench whose keys no other test has used: llmock counts per key."""

    @asynccontextmanager
    async def opened(provider="openai", path="/v1", limits=None, tiers=(["a"], ["b"])):
        accounts = [
            Account(
                name=name, provider=provider, base_url=server + path, key=f"{request.node.name}-{name}", limits=limits or {}
            )
            for name, server in zip("ab", servers, strict=True)
        ]
        config = BalancerConfig(accounts, pools=[{"name": "all", "tiers": list(tiers)}], seed=1)
        async with httpx.AsyncClient(trust_env=False) as admin, open_balancer(config) as balancer:
            bench = Bench(balancer, servers, admin)
            await bench.reset()
            yield bench
            statistics = balancer.statistics()
            assert (statistics.in_flight, statistics.waiting) == (0, 0)

    return opened


async def burst(bench, count, patience):
    """So many calls at once, all different: how many had which status, and the time they took."""
    started_at, statuses = trio.current_time(), Counter()

    async def one(client, number):
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"call {number}"}]}
        statuses[(await client.post("/chat/completions", json=body)).status_code] += 1

    timeout = httpx.Timeout(10, pool=patience)
    async with bench.client(httpx, base_url="http://balancer/v1", timeout=timeout) as client, trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, client, number)
    return statuses, trio.current_time() - started_at


async def test_limits_that_are_known_are_never_overrun(opened):
    """More calls than both accounts admit at once: all are served as the buckets refill, and llmock has refused none."""
    async with opened(limits={"requests_per_minute": PER_MINUTE}, tiers=[["a", "b"]]) as bench:
        statuses, took = await burst(bench, 2 * PER_MINUTE + 4, 10)
        assert statuses == {200: 2 * PER_MINUTE + 4}
        assert 0.9 <= took < 5.0
        assert [set(recorded) for recorded in await bench.recorded()] == [{200}, {200}]
        assert await bench.findings() == []


async def test_limits_that_are_not_known_are_learned(opened):
    """Its headers show them with the first answer; what would be refused is held back here, and llmock never sees it."""
    async with opened(tiers=[["a", "b"]]) as bench:
        statuses, _ = await burst(bench, 2 * PER_MINUTE + 4, 0.2)
        assert statuses[200] >= 2 * PER_MINUTE
        assert statuses[200] + statuses[429] == 2 * PER_MINUTE + 4
        assert [set(recorded) for recorded in await bench.recorded()] == [{200}, {200}]
        for snapshot in bench.balancer.statistics().accounts.values():
            assert [(view.dimension, view.limit, view.learned) for view in snapshot.dimensions] == [
                ("requests", PER_MINUTE, True)
            ]


@pytest.mark.slow
async def test_nearly_all_of_a_limit_is_used():
    """At three times the quota none is refused; while calls wait nearly all that flows into the bucket is used."""
    with llmocks(1, rpm=600) as (url,):
        (seen,), used = await press([f"{url}/v1"], look_at_llmock, 3.0, per_minute=600)
    assert seen.refused == 0
    assert used >= 0.85  # in real time, where every stall of the machine counts; `benchmarks quota` asks for 97 %


@pytest.mark.parametrize("library", [httpx2, httpx])
async def test_the_openai_sdk(opened, library):
    """Chat, streams, responses and embeddings of the second account, after the first refused or failed."""
    async with opened() as bench, bench.client(library) as http:
        sdk = openai.AsyncOpenAI(api_key="-", http_client=http)
        await bench.script(0, type="fail", status=500)
        answer = await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert answer.choices[0].message.content
        assert bench.outcomes() == [("a", Faulted), ("b", Served)]
        await bench.script(0, type="fail", status=429, retry_after=5)
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert bench.outcomes() == [("a", RateLimited), ("b", Served)]
        assert (await sdk.responses.create(model="gpt-4o", input="Hello")).output_text
        assert (await sdk.embeddings.create(model="text-embedding-3-small", input="Hello")).data[0].embedding
        # The refusal was about chat's model; another model may still be asked for there.
        assert await bench.recorded() == [[500, 429, 200], [200, 200, 200]]


async def test_the_anthropic_sdk(opened):
    """Messages and streams of the second account, after the first was overloaded."""
    async with opened("anthropic", "/anthropic/v1") as bench, bench.client(httpx2) as http:
        sdk = anthropic.AsyncAnthropic(api_key="-", http_client=http)
        await bench.script(0, type="fail", status=529)
        answer = await sdk.messages.create(model="some-model", messages=MESSAGES, max_tokens=50)
        assert answer.content[0].text
        async with sdk.messages.stream(model="some-model", messages=MESSAGES, max_tokens=50) as stream:
            assert (await stream.get_final_message()).stop_reason == "end_turn"
        first, second = await bench.recorded()
        assert first[0] == 529
        assert {*first[1:], *second} == {200}
        assert len(first) + len(second) == 3


async def test_a_stream_that_it_cuts_is_no_answer(opened):
    """A stream that ends cleanly but for its end mark: no SDK notices it by itself."""
    async with opened() as bench, bench.client(httpx2) as http:
        sdk = openai.AsyncOpenAI(api_key="-", http_client=http)
        await bench.script(0, type="stream_fault", kind="truncate", after_chunks=2)
        with pytest.raises((openai.APIError, httpx2.RemoteProtocolError)) as caught:
            async for _ in await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True):
                pass
        assert bench.outcomes() == [("a", Truncated)]
        error = caught.value
        while error.__cause__ is not None:
            error = error.__cause__
        assert isinstance(error, StreamTruncated)
