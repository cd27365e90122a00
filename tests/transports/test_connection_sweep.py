"""Calls over the account's own connections, on real sockets, cancelled at every step: nothing is left, nothing half-read kept.

The server runs in the same trio run and sends the next part of an answer when every task waits, so that each read of a call
waits once. Every call has a mark of its own, which its answer repeats: what another call left unread would be seen.
"""

from __future__ import annotations

import os
import re
import ssl
from contextlib import suppress

import httpx
import httpx2
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from balancer import BalancerConfig, open_balancer
from balancer.testing.seeds import scheduler_seed
from balancer.testing.serving import listen
from balancer.testing.steps import CancelAtStep

LIBRARIES = (httpx, httpx2)
MOST_STEPS = 1000
A_DAY = 1_000_000_000  # of requests and of tokens, in windows: nothing comes back while a test runs
USED = 12
LARGE = 4_400_000  # bytes, more than loopback takes at once

USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":5}'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def halves(data):
    return [data[: len(data) // 2], data[len(data) // 2 :]]


def content(mark):
    return b'{"choices":[{"message":{"content":"%b"}}],%b}' % (mark, USAGE)


def whole(mark):
    body = content(mark)
    return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body]


def at_once(mark):
    return [b"".join(whole(mark))]


def in_pieces(mark):
    head, body = whole(mark)
    return [*halves(head), *halves(body)]


def informed(mark):
    return [EARLY, *halves(EARLY), *whole(mark)]


def events(mark):
    return [
        b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % mark,
        b'data: {"choices":[],%b}\n\n' % USAGE,
        b"data: [DONE]\n\n",
    ]


def chunked(mark):
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events(mark)]
    return [STREAM + b"Transfer-Encoding: chunked\r\n\r\n", *(half for chunk in chunks for half in halves(chunk)), b"0\r\n\r\n"]


def until_closed(mark):
    return [STREAM + b"\r\n", *events(mark), None]


def failing(mark):
    return [b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\n{}\r\n", b"0\r\n\r\n"]


class Scenario:
    """What backends answer, request by request, and how a call goes.

    Args:
        answers: per account, the parts of its answers, the last one for all that follow; at `None` the connection is closed.
        size: bytes of padding of the request.
        warm: calls before the one that is cancelled.
        hangs_up: whether the first request on a reused connection is not answered.
        leaves: whether the caller closes the stream after its first part.
        secure: whether the backend is reached over TLS.
    """

    def __init__(self, *answers, size=0, warm=0, hangs_up=False, leaves=False, secure=False):
        self.answers, self.size, self.warm = answers, size, warm
        self.hangs_up, self.leaves, self.secure = hangs_up, leaves, secure
        self.takes_long = size > 0 or secure


SCENARIOS = {
    "at once": Scenario([at_once]),
    "large request": Scenario([in_pieces], size=LARGE),
    "in pieces": Scenario([in_pieces]),
    "informed": Scenario([informed]),
    "chunked": Scenario([chunked]),
    "until closed": Scenario([until_closed]),
    "left half-way": Scenario([chunked], leaves=True),
    "reused": Scenario([chunked], warm=1),
    "stale": Scenario([in_pieces], warm=1, hangs_up=True),
    "stale, large": Scenario([in_pieces], warm=1, hangs_up=True, size=LARGE),
    "fails over": Scenario([failing, chunked], [chunked]),
    "secure": Scenario([chunked], secure=True),
}


@pytest.fixture(scope="module")
def secure():
    """What a backend proves itself with, to whoever trusts what the environment names."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with authority.cert_pem.tempfile() as path, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", path)
        yield context


class Backend:
    """A scripted server of one account, which knows what has reached it."""

    def __init__(self, scenario, answers, context):
        self._answers, self._context = iter(answers), context
        self._hangs_up = scenario.hangs_up
        self._answer = None
        self.open = 0
        self.marks = set()

    async def converse(self, tcp):
        self.open += 1
        stream = tcp if self._context is None else trio.SSLStream(tcp, self._context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with tcp:
                number = 0
                while await self._exchange(stream, reused=number > 0):
                    number += 1
        self.open -= 1

    async def _exchange(self, stream, *, reused):
        if not (received := await stream.receive_some(65536)):
            return False
        self.marks.add(mark := re.search(rb"call-\d+", received)[0])
        left = int(re.search(rb"(?i)content-length: (\d+)", received)[1]) - len(received.partition(b"\r\n\r\n")[2])
        if left > 0:  # a long request waits as well
            await wait_all_tasks_blocked()
        while left > 0 and (data := await stream.receive_some(LARGE)):
            left -= len(data)
        if reused and self._hangs_up:
            self._hangs_up = False
            return False
        self._answer = next(self._answers, self._answer)
        for part in self._answer(mark):
            await wait_all_tasks_blocked()
            if part is None:
                return False
            await stream.send_all(part)
        return True


class World:
    """One run: a balancer over scripted servers, calls on it, and a look at what they leave."""

    def __init__(self, scenario, library, context):
        self.scenario, self.library, self.context = SCENARIOS[scenario], library, context
        self.calls = 0
        self.backends = {}

    async def serve(self, nursery):
        """Start the backends; the configuration of a balancer over them."""
        accounts = []
        limits = {"requests_per_day": A_DAY, "tokens_per_day": A_DAY, "window": "sliding"}
        for name, answers in zip("ab", self.scenario.answers, strict=False):
            backend = self.backends[name] = Backend(self.scenario, answers, self.context if self.scenario.secure else None)
            address, listeners = await listen()
            nursery.start_soon(trio.serve_listeners, backend.converse, listeners)
            url = address.base_url.replace("http:", "https:") if self.scenario.secure else address.base_url
            accounts.append({"name": name, "base_url": url, "limits": limits})
        return BalancerConfig(accounts=accounts, seed=1, selector=lambda candidates, *_: candidates[0])

    async def call(self, balancer, size=0):
        """One call; its answer is the one to it. No client: its generators, where they are left, are none of ours."""
        self.calls += 1
        mark = f"call-{self.calls}"
        response = await balancer.transport(self.library.__name__).handle_async_request(self.request(mark, size))
        received = b""
        try:
            async for part in response.stream:
                received += part
                if self.scenario.leaves:
                    break
        finally:
            await response.aclose()
        assert response.status_code == 200, received
        assert re.findall(rb"call-\d+", received) == [mark.encode()] or self.scenario.leaves
        return response.extensions["balancer"].attempts[-1].account

    def request(self, mark, size):
        asked = {"model": "m", "messages": [{"role": "user", "content": mark + "." * size}]}
        timeout = self.library.Timeout(10.0).as_dict()
        return self.library.Request("POST", "http://balancer/v1/chat/completions", json=asked, extensions={"timeout": timeout})

    async def run(self, step, calls, cancelled):
        """Run `calls` calls and cancel `cancelled` of them at one step; whether there was such a step."""
        scopes = [trio.CancelScope() for _ in range(calls)]
        instrument = CancelAtStep(step, *scopes[:cancelled])

        async def one(scope):
            with scope:
                await self.call(balancer, self.scenario.size)

        async with trio.open_nursery() as servers:
            async with open_balancer(await self.serve(servers)) as balancer:
                for _ in range(self.scenario.warm):
                    await self.call(balancer)
                await settled()
                trio.lowlevel.add_instrument(instrument)
                with trio.fail_after(10):
                    async with trio.open_nursery() as nursery:
                        for scope in scopes:
                            nursery.start_soon(one, scope)
                    await settled()
                trio.lowlevel.remove_instrument(instrument)
                before = self.look(balancer)
                with trio.fail_after(10):
                    served_by = await self.call(balancer)
                await settled()
                assert self.look(balancer)[served_by] - before[served_by] == USED or self.scenario.leaves
            await settled()
            assert not any(backend.open for backend in self.backends.values())
            servers.cancel_scope.cancel()
        return instrument.fired

    def look(self, balancer):
        """Nothing is in flight or reserved, what was sent is charged, what is open is fit for use; tokens charged, by account."""
        statistics = balancer.statistics()
        assert (statistics.in_flight, statistics.waiting) == (0, 0)
        charged = {}
        for name, backend in self.backends.items():
            snapshot, lines = statistics.accounts[name], balancer._supervisors[name].link.lines
            assert (snapshot.in_flight, snapshot.probing) == (0, False)
            assert [view.reserved for view in snapshot.dimensions] == [0] * len(snapshot.dimensions)
            requests, charged[name] = (
                A_DAY - round(snapshot.room(each, trio.current_time())) for each in ("requests", "tokens")
            )
            assert requests == len(backend.marks) or (self.scenario.secure and requests > len(backend.marks))
            assert (charged[name] > 0) == (requests > 0)
            assert (lines.in_use, lines.idle) == (0, backend.open)
            assert all(line.is_usable for line in lines._idle)
        return charged

    async def run_out(self, step):
        """Run two calls and take their balancer away at a step; whether there was such a step."""
        scope = trio.CancelScope()
        instrument = CancelAtStep(step, scope)

        async def one(balancer):
            transport = balancer.transport(self.library.__name__)
            with suppress(self.library.ReadError):
                response = await transport.handle_async_request(self.request("call-1", self.scenario.size))
                assert response.status_code in (200, 503)
                await response.aread()

        async with trio.open_nursery() as servers:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(10), scope:
                    async with open_balancer(await self.serve(servers)) as balancer:
                        trio.lowlevel.add_instrument(instrument)
                        for _ in range(2):
                            nursery.start_soon(one, balancer)
                        await settled()
                        while balancer.statistics().in_flight:
                            await settled()
                trio.lowlevel.remove_instrument(instrument)
            await settled()
            assert balancer.statistics().in_flight == 0
            assert not any(backend.open for backend in self.backends.values())
            servers.cancel_scope.cancel()
        return instrument.fired


async def settled():
    """Until every task waits and no backend has another part to send: those wait for the same, with a smaller cushion."""
    await wait_all_tasks_blocked(0.001)


def open_files():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def sweep(run, scenario):
    """Runs `run(step, library)` in real time for every step until it says that there was none.

    Scenarios take the libraries and the scheduler seeds in turn: the connections under both libraries are the same.
    """
    seed = list(SCENARIOS).index(scenario) % 2
    for step in range(1, MOST_STEPS):
        before = open_files()
        with scheduler_seed(seed):
            there_was_one = trio.run(run, step, LIBRARIES[seed])
        assert open_files() == before
        if not there_was_one:
            break
    else:
        pytest.fail("the calls did not end")
    assert step > 10


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cancelled_at_every_step(scenario, secure):
    """At whatever step a call is cancelled, leases, ledger, connections and files are right, and the next call is served."""

    async def run(step, library):
        return await World(scenario, library, secure).run(step, 1, 1)

    sweep(run, scenario)


@pytest.mark.parametrize("scenario", [name for name, scenario in SCENARIOS.items() if not scenario.takes_long])
def test_two_at_every_step(scenario, secure):
    """The same of two calls that are cancelled at the same step."""

    async def run(step, library):
        return await World(scenario, library, secure).run(step, 2, 2)

    sweep(run, scenario)


@pytest.mark.parametrize("scenario", ["reused", "stale", "fails over"])
def test_one_of_two_at_every_step(scenario, secure):
    """The same of one of two calls; the other is served."""

    async def run(step, library):
        return await World(scenario, library, secure).run(step, 2, 1)

    sweep(run, scenario)


@pytest.mark.parametrize("scenario", ["chunked", "fails over", "secure"])
def test_balancer_ends_at_every_step(scenario, secure):
    """At whatever step a balancer is ended, its calls get an answer, a 503 or the library's ReadError, and nothing is left."""

    async def run(step, library):
        return await World(scenario, library, secure).run_out(step)

    sweep(run, scenario)
