"""A response body holds its lease, and settles it once, whatever becomes of it."""

from __future__ import annotations

import gc
import os
import threading
import time
import zlib
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from balancer import Account, open_balancer
from balancer.core.outcome import Faulted, Overloaded, Served, TimedOut, Truncated, Withdrawn
from balancer.errors import StreamTruncated
from balancer.testing.raw import open_raw, receive_request
from balancer.testing.scripted import HTTPReply, ScriptedTransport
from balancer.testing.seeds import scheduler_seed
from balancer.transports import body as body_module

STREAM = {"content-type": "text/event-stream"}
TOKENS = 100_000
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"no room","type":"service_unavailable_error","code":"server_is_overloaded"}}\n\n'
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


def streamed(*chunks, **more):
    return ScriptedTransport([HTTPReply(headers=STREAM, chunks=chunks, **more)])


def account(transport, name="a", **more):
    return Account(
        name=name, base_url=f"http://{name}.test/v1", limits={"tokens_per_minute": TOKENS}, transport=transport, **more
    )


@pytest.fixture
def open_transport(balancing_once):
    """Opens a balancer over scripted transports with an httpx transport on it, and looks at what is left."""

    @asynccontextmanager
    async def opened(*transports, quiet=True, **settings):
        accounts = [account(transport, "abc"[place]) for place, transport in enumerate(transports)]
        async with balancing_once(*accounts, quiet=quiet, **settings) as balancer:
            yield balancer, balancer.transport()
            if quiet:
                await wait_all_tasks_blocked()
                assert all(body.closed for transport in transports for body in transport.bodies)

    return opened


async def ask(transport, **more):
    """The response, its body not read. No client: its generators, where they are left, are none of ours."""
    request = httpx.Request("POST", "http://balancer/v1/chat/completions", json={**ASKED, **more})
    return await transport.handle_async_request(request)


def charged(balancer, name="a"):
    """Tokens that are charged or reserved at the account."""
    return TOKENS - round(balancer.statistics().accounts[name].room("tokens", trio.current_time()))


def outcomes(response):
    return [attempt.outcome for attempt in response.extensions["balancer"].attempts]


# -- the end -----------------------------------------------------------------------------------------------------------------


async def test_settled_at_its_end(open_transport, autojump_clock):
    """At the body's end the lease is settled with the usage found in the tail; the caller's bytes are unchanged."""
    async with open_transport(streamed(FIRST, USAGE, DONE)) as (balancer, http):
        response = await ask(http)
        assert balancer.statistics().in_flight == 1
        assert charged(balancer) == response.extensions["balancer"].call.demand.tokens
        assert [chunk async for chunk in response.stream] == [FIRST, USAGE, DONE]
        assert balancer.statistics().in_flight == 0
        assert charged(balancer) == 12
        assert outcomes(response) == [Served()]
        await response.aclose()
        assert balancer.statistics().totals.served == 1


async def test_settled_by_estimate_without_usage(open_transport, autojump_clock):
    """A stream that does not report its usage stays charged as estimated."""
    async with open_transport(streamed(FIRST, DONE)) as (balancer, http):
        response = await ask(http)
        await response.aread()
        assert charged(balancer) == response.extensions["balancer"].call.demand.tokens > 1000
        assert outcomes(response) == [Served()]


async def test_complete_body_settles_at_once(open_transport, autojump_clock):
    """An answer whose length is known and has arrived has settled before the caller reads it."""
    content = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    transport = ScriptedTransport([HTTPReply(headers={"content-length": str(len(content))}, chunks=[content])])
    async with open_transport(transport) as (balancer, http):
        response = await ask(http, stream=False)
        assert balancer.statistics().in_flight == 0
        assert charged(balancer) == 7
        assert await response.aread() == content


async def test_closed_early(open_transport, autojump_clock):
    """A body that is closed before its end gives its lease back, blames nobody and stays charged."""
    async with open_transport(streamed(FIRST, USAGE, DONE)) as (balancer, http):
        response = await ask(http)
        async for _ in response.stream:
            break
        await response.aclose()
        assert outcomes(response) == [Withdrawn()]
        assert charged(balancer) > 1000
        assert balancer.statistics().accounts["a"].failed == 0
        await response.aclose()


async def test_closed_after_the_end_mark(open_transport, autojump_clock):
    """Who closes after the end mark, before the end of the framing, was served: the rest is read for them."""
    transport = streamed(FIRST, USAGE, DONE, b": bye\n\n", chunk_after=1e-5)
    async with open_transport(transport) as (balancer, http):
        response = await ask(http)
        async for chunk in response.stream:
            if chunk == DONE:
                break
        await response.aclose()
        assert outcomes(response) == [Served()]
        assert charged(balancer) == 12
        assert transport.bodies[0].read == 4


async def test_endless_tail(open_transport, autojump_clock):
    """A backend that goes on after its end mark is not listened to for long."""
    transport = streamed(FIRST, USAGE, DONE, *[b": on and on\n\n"] * 100, chunk_after=0.05)
    async with open_transport(transport) as (_, http):
        response = await ask(http)
        async for chunk in response.stream:
            if chunk == DONE:
                break
        began = trio.current_time()
        await response.aclose()
        assert trio.current_time() - began <= body_module.TAIL_TIMEOUT + 1e-6
        assert outcomes(response) == [Served()]
        assert transport.bodies[0].read < 10


# -- left behind -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterated", [False, True])
@pytest.mark.parametrize("thread", [False, True])
async def test_garbage_collected(iterated, thread, balancing_once, caplog):
    """A stream that nobody closes gives its lease back when it is collected, in whatever thread, iterated or not."""
    released = trio.Event()

    async def script(stream, _number):
        await receive_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + FIRST)
        assert not await stream.receive_some(1)
        released.set()

    async with open_raw(script) as address, balancing_once_real(address) as balancer:
        response = await ask(balancer.transport())
        if iterated:
            assert await anext(aiter(response.stream)) == FIRST
        left = [response]
        del response
        assert balancer.statistics().in_flight == 1
        if thread:
            worker = threading.Thread(target=left.clear)
            worker.start()
            worker.join()
        else:
            left.clear()
        gc.collect()
        with trio.fail_after(5):
            await released.wait()
        await wait_all_tasks_blocked()
        assert balancer.statistics().in_flight == 0
        assert balancer.statistics().accounts["a"].failed == 0
        assert "balancer.body_abandoned" in caplog.text
        balancing_once.assert_quiet(balancer, trio_tasks_of_the_test(balancing_once, balancer))


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_dropped(library, open_transport, autojump_clock):
    """Nothing of ours is in a reference cycle: an answer that is dropped gives its lease back without a collection."""
    async with open_transport(streamed(FIRST, DONE)) as (balancer, _):
        response = await ask(balancer.transport(library))
        assert await anext(aiter(response.stream)) == FIRST
        gc.disable()
        try:
            del response
            await wait_all_tasks_blocked()
            assert balancer.statistics().in_flight == 0
        finally:
            gc.enable()


@asynccontextmanager
async def balancing_once_real(address, **settings):
    """A balancer over one real backend."""
    async with open_balancer({"accounts": [{"name": "a", "base_url": address.base_url}], "balancer": settings}) as balancer:
        yield balancer


def trio_tasks_of_the_test(balancing, balancer):
    names = ("balancer dispatcher", *(f"balancer supervisor {name}" for name in balancer.statistics().accounts))
    return [task for task in balancing.tasks() if task.name not in names and "dropped" not in task.name]


async def test_collected_after_the_balancer(open_transport, autojump_clock):
    """A stream that outlives its balancer is over; collecting it does nothing."""
    async with open_transport(streamed(FIRST, DONE), quiet=False, drain_timeout=0.0) as (_, http):
        response = await ask(http)
    with pytest.raises(httpx.ReadError):
        [chunk async for chunk in response.stream if chunk != FIRST]
    del response
    gc.collect()
    await wait_all_tasks_blocked()


async def test_idle_limit(open_transport, autojump_clock):
    """A body that nobody reads for `idle_timeout` gives its lease back; who reads on gets the library's ReadError."""
    async with open_transport(streamed(FIRST, FIRST, FIRST, DONE), idle_timeout=10.0) as (balancer, http):
        response = await ask(http)
        chunks = aiter(response.stream)
        await anext(chunks)
        await trio.sleep(9.0)
        assert await anext(chunks) == FIRST
        await trio.sleep(9.0)
        assert balancer.statistics().in_flight == 1
        await trio.sleep(1.1)
        assert balancer.statistics().in_flight == 0
        with pytest.raises(httpx.ReadError):
            await anext(chunks)
        assert outcomes(response) == [Withdrawn()]


async def test_idle_limit_under_a_reader(open_transport, autojump_clock, caplog):
    """A backend that falls silent for `idle_timeout` under a reader who would wait longer is at fault; the reader is told."""
    async with open_transport(streamed(FIRST, FIRST, DONE, chunk_after=20.0), idle_timeout=10.0) as (balancer, http):
        response = await ask(http)
        chunks = aiter(response.stream)
        await anext(chunks)
        await trio.sleep(9.0)  # in which the reader was late, not the backend
        began = trio.current_time()
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await anext(chunks)
        assert trio.current_time() - began == pytest.approx(10.0)
        assert outcomes(response) == [TimedOut("read")]
        assert response.extensions["balancer"].outcome == TimedOut("read")
        assert balancer.statistics().accounts["a"].failed == 1
        assert "balancer.body_abandoned" not in caplog.text


@pytest.mark.parametrize("last", [FIRST, b": nothing\n\n", b""])
async def test_idle_limit_without_a_reader(last, open_transport, autojump_clock, caplog):
    """A body that nobody reads when the idle limit comes blames nobody, whatever was read of it last."""
    async with open_transport(streamed(FIRST, FIRST, last, FIRST, DONE), idle_timeout=10.0) as (balancer, http):
        response = await ask(http)
        chunks = aiter(response.stream)
        for _ in range(3):
            await anext(chunks)
        await trio.sleep(11.0)
        assert outcomes(response) == [Withdrawn()]
        assert balancer.statistics().accounts["a"].failed == 0
        assert "balancer.body_abandoned" in caplog.text


async def test_idle_limit_after_the_end_mark(balancing_once, autojump_clock):
    """A backend that falls silent after the end mark has served, though the framing has not ended."""

    async def parts():
        yield FIRST
        yield USAGE + DONE
        await trio.sleep_forever()

    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=STREAM, content=parts()))
    async with balancing_once(account(transport), idle_timeout=10.0) as balancer:
        response = await ask(balancer.transport())
        with pytest.raises(httpx.ReadError):
            [chunk async for chunk in response.stream]
        assert outcomes(response) == [Served()]


@pytest.mark.parametrize("seed", range(5))
def test_blocked_loop_is_no_silence(seed):
    """What came while the event loop was blocked for longer than `idle_timeout` is read, and nobody is blamed."""
    streams = []

    async def script(stream, _number):
        await receive_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + FIRST)
        streams.append(stream)
        await stream.receive_some(1)

    async def main():
        async with open_raw(script) as address, balancing_once_real(address, idle_timeout=0.2) as balancer:
            response = await ask(balancer.transport())
            chunks = aiter(response.stream)
            await anext(chunks)

            async def block():
                await wait_all_tasks_blocked()
                os.write(streams[0].socket.fileno(), DONE)
                time.sleep(0.3)  # noqa: ASYNC251 - that is the fault

            async with trio.open_nursery() as nursery:
                nursery.start_soon(block)
                assert await anext(chunks) == DONE
            await response.aclose()
            assert outcomes(response) == [Served()]

    with scheduler_seed(seed):
        trio.run(main)


async def test_idle_limit_spares_the_wait_for_an_answer(open_transport, autojump_clock):
    """Before the answer is the caller's only `headers_timeout` bounds it, also while an idle body beside it is ended."""
    content = b'{"choices":[]}'
    slow = HTTPReply(chunks=[content[:5], content[5:]], chunk_after=20.0)
    transport = ScriptedTransport([slow, HTTPReply(headers=STREAM, chunks=[FIRST, DONE])])
    async with open_transport(transport, idle_timeout=10.0) as (_, http), trio.open_nursery() as nursery:

        async def wait():
            response = await ask(http, stream=False)
            assert await response.aread() == content

        nursery.start_soon(wait)
        await trio.sleep(22.0)
        left = await ask(http)
        await trio.sleep(11.0)
        with pytest.raises(httpx.ReadError):
            [chunk async for chunk in left.stream]


async def test_shutdown(open_transport, autojump_clock):
    """At the balancer's end a reader in the middle of a read gets the library's ReadError."""
    failed = trio.Event()

    async def read(response):
        with pytest.raises(httpx.ReadError):
            [chunk async for chunk in response.stream]
        failed.set()

    async with trio.open_nursery() as nursery:
        async with open_transport(streamed(FIRST, DONE, chunk_after=1.0), quiet=False, drain_timeout=0.5) as (_, http):
            response = await ask(http)
            nursery.start_soon(read, response)
            await wait_all_tasks_blocked()
        with trio.fail_after(1.0):
            await failed.wait()
        assert outcomes(response) == [Withdrawn()]


async def test_cancelled_read_is_no_end(open_transport, autojump_clock):
    """A read that was cancelled settles the lease; what follows is an error and never the end of an answer."""
    async with open_transport(streamed(FIRST, FIRST, DONE, chunk_after=1.0)) as (balancer, http):
        response = await ask(http)
        chunks = aiter(response.stream)
        await anext(chunks)
        with trio.move_on_after(0.5) as scope:
            await anext(chunks)
        assert scope.cancelled_caught
        assert balancer.statistics().in_flight == 0
        assert outcomes(response) == [Withdrawn()]
        for _ in range(2):
            with pytest.raises(httpx.ReadError):
                await anext(chunks)


async def test_deadline_of_the_call_is_not_the_bodys(open_transport, autojump_clock):
    """A deadline around the call and `headers_timeout` bound the way to the first bytes, not the reading of the rest."""
    transport = streamed(*[FIRST] * 5, DONE, chunk_after=1.0)
    async with open_transport(transport, headers_timeout=1.5) as (_, http):
        with trio.fail_after(2.0):
            response = await ask(http)
        assert len(await response.aread()) == 5 * len(FIRST) + len(DONE)


# -- where it breaks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks", [[FIRST], [FIRST, USAGE], [FIRST, FIRST[:10]]], ids=["after-an-event", "after-usage", "inside-an-event"]
)
async def test_truncated(chunks, open_transport, autojump_clock):
    """A stream that ends without its end mark is never complete: the library's error, with StreamTruncated as its cause."""
    async with open_transport(streamed(*chunks)) as (balancer, http):
        response = await ask(http)
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await response.aread()
        cause = caught.value.__cause__
        assert isinstance(cause, StreamTruncated)
        assert cause.received == sum(map(len, chunks))
        assert cause.decision is response.extensions["balancer"]
        assert outcomes(response) == [Truncated(cause.received)]
        assert cause.decision.outcome == Truncated(cause.received)
        assert balancer.statistics().accounts["a"].failed == 1


async def test_broken_connection(open_transport, autojump_clock):
    """A connection that breaks after the first bytes is a truncation: no other account is asked."""
    other = streamed(FIRST, DONE)
    transport = streamed(FIRST, breaks_with=httpx.ReadError("reset"))
    async with open_transport(transport, other, selector=lambda accounts, *_: accounts[0]) as (_, http):
        response = await ask(http)
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await response.aread()
        assert isinstance(caught.value.__cause__, StreamTruncated)
        assert not other.requests


async def test_read_timeout(open_transport, autojump_clock):
    """A backend that falls silent in the middle is the library's ReadTimeout, and the account's fault."""
    async with open_transport(streamed(FIRST, breaks_with=httpx.ReadTimeout("silent"))) as (_, http):
        response = await ask(http)
        with pytest.raises(httpx.ReadTimeout):
            await response.aread()
        assert outcomes(response) == [TimedOut("read")]


async def test_error_before_the_first_event(open_transport, autojump_clock):
    """An error in the place of the first event is a failed attempt: another account answers."""
    first, second = streamed(b": ping\n\n", ERROR), streamed(FIRST, DONE)
    async with open_transport(first, second, selector=lambda accounts, *_: accounts[0]) as (_, http):
        response = await ask(http)
        assert await response.aread() == FIRST + DONE
        assert [type(outcome) for outcome in outcomes(response)] == [Overloaded, Served]


@pytest.mark.parametrize("closes", [False, True])
async def test_error_after_the_first_event(closes, open_transport, autojump_clock):
    """An error after the first event is passed on as it is and counts against the account, also if the caller stops there."""
    first, second = streamed(FIRST, ERROR), streamed(FIRST, DONE)
    async with open_transport(first, second, selector=lambda accounts, *_: accounts[0]) as (balancer, http):
        response = await ask(http)
        chunks = aiter(response.stream)
        assert [await anext(chunks), await anext(chunks)] == [FIRST, ERROR]
        if closes:
            await response.aclose()
        else:
            assert [chunk async for chunk in chunks] == []
        assert [type(outcome) for outcome in outcomes(response)] == [Overloaded]
        assert isinstance(response.extensions["balancer"].outcome, Overloaded)
        assert balancer.statistics().accounts["a"].refused == 1
        assert not second.requests


async def test_answer_without_end(open_transport, autojump_clock, monkeypatch):
    """An answer that passes the cap of all answers is cut off with an error, whatever the caller does with it."""
    monkeypatch.setattr(body_module, "MAX_ANSWER", 1 << 20)
    transport = ScriptedTransport([HTTPReply(chunks=[b'{"a":"' + bytes([97]) * 65536] * 50)])
    async with open_transport(transport) as (_, http):
        response = await ask(http, stream=False)
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()
        assert transport.bodies[0].read <= 18


# -- encoded answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_encoded_answer(size, open_transport, autojump_clock):
    """An answer that is encoded all the same reaches the caller decoded, its usage read."""
    press = zlib.compressobj(wbits=31)
    encoded = press.compress(FIRST + USAGE + DONE) + press.flush()
    pieces = [encoded[start : start + size] for start in range(0, len(encoded), size)]
    transport = ScriptedTransport([HTTPReply(headers={**STREAM, "content-encoding": "gzip"}, chunks=pieces)])
    async with open_transport(transport) as (balancer, http):
        response = await ask(http)
        assert "content-encoding" not in response.headers
        assert await response.aread() == FIRST + USAGE + DONE
        assert charged(balancer) == 12


async def test_encoding_that_breaks_off(open_transport, autojump_clock):
    """An encoded answer cut short is truncated, though what arrived could be decoded."""
    press = zlib.compressobj(wbits=31)
    encoded = press.compress(FIRST + DONE) + press.flush(zlib.Z_SYNC_FLUSH)
    transport = ScriptedTransport([HTTPReply(headers={**STREAM, "content-encoding": "gzip"}, chunks=[encoded])])
    async with open_transport(transport) as (_, http):
        response = await ask(http)
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()


async def test_unknown_encoding(open_transport, autojump_clock):
    """An encoding that has no decoder fails over; on an error answer the status is judged all the same."""
    first = ScriptedTransport([HTTPReply(headers={"content-encoding": "br"}, chunks=[b"x"])])
    second = ScriptedTransport([HTTPReply(429, headers={"content-encoding": "br", "retry-after": "1"}, chunks=[b"x"])])
    third = streamed(FIRST, DONE)
    async with open_transport(first, second, third, selector=lambda accounts, *_: accounts[0]) as (_, http):
        response = await ask(http)
        assert await response.aread() == FIRST + DONE
        assert [type(outcome).__name__ for outcome in outcomes(response)] == ["Faulted", "RateLimited", "Served"]
        assert isinstance(outcomes(response)[0], Faulted)
