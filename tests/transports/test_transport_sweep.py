"""Calls over both transports, cancelled at every step, alone and two in the same step, on six scheduler seeds: nothing is left."""

from __future__ import annotations

import httpx
import httpx2
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from balancer import Account, BalancerConfig, open_balancer
from balancer.testing.scripted import HTTPReply, ScriptedTransport
from balancer.testing.seeds import run_seeded
from balancer.testing.steps import CancelAtStep

SEEDS = range(6)
LIBRARIES = (httpx, httpx2)
STREAM = {"content-type": "text/event-stream"}
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
MOST_STEPS = 400

SERVES = HTTPReply(headers=STREAM, chunks=[FIRST, DONE], after=0.1, chunk_after=0.1)
WHOLE = HTTPReply(chunks=[b'{"choices":[]}'], after=0.1)
REFUSES = HTTPReply(429, {"retry-after": "1"}, [b"{}"], after=0.1, chunk_after=0.1)
FAILS = HTTPReply(500, chunks=[b"{}"], after=0.1, chunk_after=0.1)
SLOW = HTTPReply(headers=STREAM, chunks=[FIRST, DONE], after=0.1, chunk_after=3.0)

SCENARIOS = {
    "streamed": {"a": [FAILS, SERVES], "b": [REFUSES, SERVES]},
    "whole": {"a": [FAILS, WHOLE], "b": [REFUSES, WHOLE]},
    "queued": {"a": [SERVES]},
    "hedged": {"a": [SLOW], "b": [SERVES]},
}


class World:
    """One run: a balancer over scripted backends, calls on it, and a look at what they leave."""

    def __init__(self, scenario, library, balancing):
        self.library, self.balancing = library, balancing
        self.backends = {name: ScriptedTransport(replies) for name, replies in SCENARIOS[scenario].items()}
        self.hedged = scenario == "hedged"
        self.streamed = scenario != "whole"

    def config(self):
        accounts = [
            Account(
                name=name,
                base_url=f"http://{name}.test/v1",
                transport=backend,
                limits={"tokens_per_minute": 1_000_000, "concurrency": 1},
            )
            for name, backend in self.backends.items()
        ]
        return BalancerConfig(accounts=accounts, seed=1, hedge={"enabled": self.hedged, "delay": 0.5, "max_extra_ratio": 1.0})

    async def call(self, client, scope, ended):
        with scope:
            told = {"balancer": {"hedgeable": self.hedged}}
            response = await client.post("/chat/completions", json={**ASKED, "stream": self.streamed}, extensions=told)
            assert response.status_code == 200
        ended.append(scope)

    async def run(self, step, calls, cancelled):
        """Run `calls` calls and cancel `cancelled` of them at one step; whether there was such a step."""
        before = set(self.balancing.tasks())
        async with open_balancer(self.config()) as balancer:
            transport = balancer.transport(self.library.__name__)
            async with self.library.AsyncClient(transport=transport, base_url="http://balancer/v1", timeout=None) as client:
                scopes, ended = [trio.CancelScope() for _ in range(calls)], []
                instrument = CancelAtStep(step, *scopes[:cancelled])
                trio.lowlevel.add_instrument(instrument)
                try:
                    with trio.fail_after(60):
                        async with trio.open_nursery() as nursery:
                            for scope in scopes:
                                nursery.start_soon(self.call, client, scope, ended)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
                assert len(ended) == calls
                await wait_all_tasks_blocked()
                self.balancing.assert_quiet(balancer, before)
                for backend in self.backends.values():
                    assert backend.running == 0
                    assert all(body.closed for body in backend.bodies)
        assert set(self.balancing.tasks()) <= before
        return instrument.fired

    async def run_out(self, step):
        """Run two calls and take their balancer away at a step; whether there was such a step."""
        before = set(self.balancing.tasks())
        scope = trio.CancelScope()
        instrument = CancelAtStep(step, scope)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(60), scope:
                async with open_balancer(self.config()) as balancer:
                    transport = balancer.transport(self.library.__name__)
                    trio.lowlevel.add_instrument(instrument)
                    for _ in range(2):
                        nursery.start_soon(self.outlive, transport)
                    await trio.sleep(5.0)
            trio.lowlevel.remove_instrument(instrument)
        await wait_all_tasks_blocked()
        assert balancer.statistics().in_flight == 0
        for backend in self.backends.values():
            assert backend.running == 0
            assert all(body.closed for body in backend.bodies)
        assert set(self.balancing.tasks()) <= before
        return instrument.fired

    async def outlive(self, transport):
        async with self.library.AsyncClient(transport=transport, base_url="http://balancer/v1", timeout=None) as client:
            told = {"balancer": {"hedgeable": self.hedged}}
            try:
                response = await client.post("/chat/completions", json={**ASKED, "stream": self.streamed}, extensions=told)
            except self.library.ReadError:
                return
            assert response.status_code in (200, 503)


@pytest.mark.parametrize("calls", [1, 2], ids=["alone", "pairs"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cancelled_at_every_step(scenario, calls, balancing_once):
    """At whatever step calls are cancelled, leases, tickets, answers and tasks are as they were before."""
    for seed in SEEDS:
        library = LIBRARIES[seed % 2]
        for step in range(1, MOST_STEPS):

            async def main(step=step, library=library):
                return await World(scenario, library, balancing_once).run(step, calls, calls)

            if not run_seeded(main, seed):
                break
        else:
            pytest.fail("the calls did not end")
        assert step > 5


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
def test_one_of_two_is_cancelled(library, balancing_once):
    """Who queues behind a call that is cancelled at any step is served."""
    for seed in SEEDS[:4]:
        for step in range(1, MOST_STEPS):

            async def main(step=step):
                return await World("queued", library, balancing_once).run(step, 2, 1)

            if not run_seeded(main, seed):
                break


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_balancer_ends_at_every_step(scenario, balancing_once):
    """At whatever step a balancer is ended, its calls get a 503 or the library's ReadError, and nothing is left."""
    for seed in SEEDS[:4]:
        library = LIBRARIES[seed % 2]
        for step in range(1, MOST_STEPS):

            async def main(step=step, library=library):
                return await World(scenario, library, balancing_once).run_out(step)

            if not run_seeded(main, seed):
                break
