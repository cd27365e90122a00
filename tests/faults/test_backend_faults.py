"""Backends that misbehave on real sockets: the call is served elsewhere or fails clearly, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import resource
import tracemalloc
import zlib
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from balancer import open_balancer
from balancer.core.outcome import Faulted, TimedOut
from balancer.errors import StreamTruncated
from balancer.testing.chaos import Chaos, open_chaos
from balancer.testing.mock import Malformed, MockSettings, Script, open_mock
from balancer.testing.raw import open_raw, receive_request, reset
from balancer.testing.serving import listen

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
GOOD = b'{"object":"chat.completion","choices":[]}'


STUBBORN = {"health": {"consecutive_faults": 1_000_000}, "retry": {"reserve_per_second": 1000.0}}


def answer(body=GOOD, status=b"200 OK", *headers):
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"Content-Type: application/json", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*chunks, end=True, kind=b"text/event-stream"):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: " + kind + b"\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + (b"0\r\n\r\n" if end else b"")


async def serve(stream, _number):
    while await receive_request(stream):
        await stream.send_all(answer())


def sending(*parts, then=None):
    """A script that answers every request with these bytes, then does what is told: ends, resets or falls silent."""

    async def script(stream, _number):
        await receive_request(stream)
        for part in parts:
            await stream.send_all(part)
        if then is not None:
            await then(stream)

    return script


async def resetting(stream):
    reset(stream)


async def silent(_stream):
    await trio.sleep_forever()


async def listening(stream):
    """Until the other side has gone: an end with unread bytes would be a reset."""
    while await stream.receive_some(65536):
        pass


def forever(part):
    async def script(stream):
        while True:
            await stream.send_all(part)

    return script


def dripping(part, every=0.01):
    async def script(stream):
        while True:
            await stream.send_all(part)
            await trio.sleep(every)

    return script


def open_files():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.fixture
async def nothing_left(balancing_once):
    """After the test no file is open and no task runs that was not there before."""
    before, tasks = open_files(), set(balancing_once.tasks())
    yield
    gc.collect()
    with trio.fail_after(5):
        while open_files() > before or set(balancing_once.tasks()) - tasks:  # noqa: ASYNC110 - the kernel tells nobody
            await trio.sleep(0.005)


@asynccontextmanager
async def balanced(*addresses, **settings):
    """A balancer over these backends, asked in their order, with a client on it; checks that it is quiet in the end."""
    accounts = [{"name": "abc"[place], "base_url": address.base_url} for place, address in enumerate(addresses)]
    options = {"selector": lambda candidates, *_: candidates[0], "headers_timeout": 5.0, **settings}
    tables = {name: options.pop(name) for name in ("retry", "health") if name in options}
    async with open_balancer({"accounts": accounts, "balancer": options, **tables}) as balancer:
        async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1", timeout=5.0) as client:
            with trio.fail_after(10):
                yield balancer, client
        statistics = balancer.statistics()
        assert (statistics.in_flight, statistics.waiting) == (0, 0)
        for supervisor in balancer._supervisors.values():
            assert supervisor.link.lines.in_use == 0


def ends(response):
    return [attempt.outcome for attempt in response.extensions["balancer"].attempts]


# -- before the answer -------------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"
CASES = {
    "reset after the request": sending(then=resetting),
    "end after the request": sending(),
    "reset inside the head": sending(HEAD + b"Content-Le", then=resetting),
    "end inside the head": sending(HEAD + b"Content-Le"),
    "reset before the first event": sending(chunked(b": ping\n\n", end=False), then=resetting),
    "end before the first event": sending(chunked(b": ping\n\n", end=False)),
    "cut JSON": sending(answer()[:-3]),
    "cut JSON without a length": sending(HEAD + b"Connection: close\r\n\r\n" + GOOD[:-3]),
    "an empty 200": sending(answer(b"")),
    "a page": sending(HEAD + b"Content-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"),
    "what is not HTTP": sending(b"220 mail.example ready\r\n\r\n", then=listening),
    "a status that is no number": sending(b"HTTP/1.1 abc OK\r\n\r\n", then=listening),
    "a status of four digits": sending(b"HTTP/1.1 2000 OK\r\n\r\n", then=listening),
    "another version": sending(b"HTTP/2.0 200 OK\r\n\r\n"),
    "an endless header block": sending(HEAD, then=forever(b"x-a: " + b"a" * 1000 + b"\r\n")),
    "one header without end": sending(HEAD + b"x-a: ", then=forever(b"a" * 4096)),
    "1xx for ever": sending(then=forever(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")),
    "101": sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", then=listening),
    "two lengths": sending(HEAD + b"Content-Length: 3\r\nContent-Length: 41\r\n\r\n" + GOOD, then=listening),
    "length and chunks": sending(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", then=listening),
    "a bad chunk": sending(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", then=listening),
    "NUL in a header": sending(HEAD + b"x-a: a\0b\r\n\r\n", then=listening),
    "a negative length": sending(HEAD + b"Content-Length: -5\r\n\r\n", then=listening),
    "a length of many digits": sending(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", then=listening),
    "a TLS alert": sending(b"\x15\x03\x03\x00\x02\x02\x28", then=listening),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fails_over(case, stream, nothing_left):
    """A backend that does not answer has failed, once, and the next one serves."""
    async with open_raw(CASES[case]) as bad, open_raw(serve) as good, balanced(bad, good) as (balancer, client):
        tracemalloc.start()
        response = await client.post("/chat/completions", json={**ASKED, "stream": stream})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (response.status_code, response.content) == (200, GOOD)
        assert len(ends(response)) == 2
        assert balancer.statistics().accounts["a"].failed == 1
        assert most < 4 << 20


async def test_refused(nothing_left):
    """A port that nobody listens on: the next account is asked at once, nothing is charged, and no budget spent."""
    address, listeners = await listen()
    for listener in listeners:
        await listener.aclose()
    async with open_raw(serve) as good, balanced(address, good, retry={"max_extra_ratio": 0.0}) as (_, client):
        response = await client.post("/orders", json={})
        assert response.status_code == 200
        failed = ends(response)[0]
        assert isinstance(failed, Faulted)
        assert not failed.sent


@pytest.mark.parametrize(
    "script",
    [
        sending(then=silent),
        sending(HEAD, then=dripping(b"x-a: b\r\n")),
        sending(chunked(end=False), then=dripping(b"8\r\n: ping\n\n\r\n")),
        sending(HEAD + b"Content-Length: 400\r\n\r\n{", then=dripping(b" ")),
    ],
    ids=["silent", "dripping-head", "heartbeats", "dripping-body"],
)
async def test_headers_timeout_is_a_total(script, nothing_left):
    """An attempt is bounded from connect to its first bytes in all, however busily it drips."""
    async with open_raw(script) as bad, open_raw(serve) as good, balanced(bad, good, headers_timeout=0.2) as (_, client):
        began = trio.current_time()
        response = await client.post("/chat/completions", json={**ASKED, "stream": True})
        assert response.content == GOOD
        assert ends(response)[0] == TimedOut("headers")
        assert 0.15 < trio.current_time() - began < 1.0


async def test_request_that_is_not_taken(nothing_left):
    """A backend that accepts and never reads is a write timeout."""

    async def script(_stream, _number):
        await trio.sleep_forever()

    async def swallow(stream, _number):
        left = 20_000_000
        while left > 0:
            left -= len(await stream.receive_some(1 << 20))
        await stream.send_all(answer())

    async with open_raw(script) as bad, open_raw(swallow) as good, balanced(bad, good) as (_, client):
        timeout = httpx.Timeout(5.0, write=0.2)
        body = {**ASKED, "padding": "x" * 20_000_000}
        response = await client.post("/chat/completions", json=body, timeout=timeout)
        assert response.content == GOOD
        assert ends(response)[0] == TimedOut("write")


@pytest.mark.parametrize("way", ["end", "reset"])
async def test_stale_connection_is_nobodys_fault(way, nothing_left):
    """A kept connection that ends before one byte of its answer: once more on a fresh one, with no fault on record."""
    connections = []

    async def script(stream, number):
        connections.append(number)
        await receive_request(stream)
        await stream.send_all(answer())
        if number == 1:
            await receive_request(stream)
            if way == "reset":
                reset(stream)
            return
        await listening(stream)

    async with open_raw(script) as address, balanced(address) as (balancer, client):
        for _ in range(2):
            response = await client.post("/chat/completions", json=ASKED)
            assert response.content == GOOD
        assert connections == [1, 2]
        assert len(ends(response)) == 1
        assert balancer.statistics().accounts["a"].failed == 0


async def test_stale_connection_under_what_cannot_be_repeated(nothing_left):
    """A plain POST on a connection that ended after it was written is not sent again."""
    received = []

    async def script(stream, number):
        while request := await receive_request(stream):
            received.append(request)
            if len(received) == 2:
                return
            await stream.send_all(answer())

    async with open_raw(script) as address, balanced(address) as (balancer, client):
        assert (await client.post("/orders", json={})).status_code == 200
        assert (await client.post("/orders", json={})).status_code == 503
        assert len(received) == 2
        assert balancer.statistics().accounts["a"].failed == 0


# -- refusals ----------------------------------------------------------------------------------------------------------------


async def test_refusal_keeps_its_connection(nothing_left):
    """An error answer that was read to its end costs no connection."""
    connections = []

    async def script(stream, number):
        connections.append(number)
        while await receive_request(stream):
            body = b'{"error":{"message":"slow","code":"rate_limit_exceeded"}}'
            await stream.send_all(answer(body, b"429 Too Many Requests", b"Retry-After: 0"))

    async with open_raw(script) as address, balanced(address, max_wait_for=0.05) as (balancer, client):
        response = await client.post("/chat/completions", json=ASKED, timeout=httpx.Timeout(5.0, pool=0.05))
        assert response.status_code == 429
        assert len(ends(response)) >= 1
        assert balancer._supervisors["a"].link.lines.idle == 1
        assert connections == [1]


NONSENSE = [
    b"Retry-After: 0", b"Retry-After: -1", b"Retry-After: 1e9", b"Retry-After: nan", b"Retry-After: " + b"9" * 5000,
    b"Retry-After: Sat, 01 Jan 0000 00:00:00 GMT", b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", b"Retry-After: 1763865600",
    b"Retry-After: 1\r\nRetry-After: 2", b"Retry-After: \xff\xfe", b"x-ratelimit-remaining-requests: -5",
    b"x-ratelimit-limit-requests: 1e400\r\nx-ratelimit-remaining-requests: 9\r\nx-ratelimit-reset-requests: 1s",
    b"x-ratelimit-limit-requests: 0\r\nx-ratelimit-remaining-requests: 7\r\nx-ratelimit-reset-requests: -1s",
]  # fmt: skip


@pytest.mark.parametrize("header", NONSENSE)
async def test_nonsense_headers(header, nothing_left):
    """Whatever a refusal's headers say, another account serves, and no actor minds."""
    refusal = sending(answer(b"{}", b"429 Too Many Requests", header), then=listening)
    async with open_raw(refusal) as bad, open_raw(serve) as good, balanced(bad, good) as (balancer, client):
        for _ in range(2):
            assert (await client.post("/chat/completions", json=ASKED)).content == GOOD
        assert all(supervisor.failures.total == 0 for supervisor in balancer._supervisors.values())


async def test_status_sweep(nothing_left):
    """Every status that can be written on a wire ends in the right account's answer, and nothing raises."""
    statuses = iter([*range(200, 600), 0, 1, 99, 600, 999])

    async def script(stream, _number):
        while await receive_request(stream):
            status = next(statuses)
            body = b"" if status in (204, 304) else b"{}"
            await stream.send_all(answer(body, b"%03d X" % status, b"Retry-After: 0"))
            if status < 100:
                return

    async with (
        open_raw(script) as bad,
        open_raw(serve) as good,
        balanced(bad, good, **STUBBORN) as (balancer, client),
    ):
        lines, cooldowns = balancer._supervisors["a"].link.lines, balancer._supervisors["a"]._state.cooldowns
        seen = set()
        for _ in range(405):
            response = await client.post("/chat/completions", json=ASKED)
            seen.add((response.status_code, len(ends(response))))
            cooldowns.clear()
            balancer._supervisors["a"]._state._snapshot = None
            assert lines.in_use == 0
        assert {(200, 2), (400, 1), (422, 1)} <= seen
        assert not [status for status, _ in seen if status >= 500 or status in (401, 402, 403, 429)]


# -- bodies ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["end", "reset", "close-delimited"])
async def test_cut_after_the_first_event(way, nothing_left):
    """A stream that is cut after its first event is never complete, and no other account is asked."""
    head = HEAD + b"Connection: close\r\nContent-Type: text/event-stream\r\n\r\n" + FIRST
    script = {
        "end": sending(chunked(FIRST, end=False)),
        "reset": sending(chunked(FIRST, end=False), then=resetting),
        "close-delimited": sending(head),
    }[way]
    async with open_raw(script) as bad, open_raw(serve) as good, balanced(bad, good) as (_, client):
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await client.post("/chat/completions", json={**ASKED, "stream": True})
        cause = caught.value.__cause__
        assert isinstance(cause, StreamTruncated)
        assert cause.received <= len(FIRST)
        assert cause.decision is not None
        assert [attempt.account for attempt in cause.decision.attempts] == ["a"]


async def test_cut_anywhere(nothing_left):
    """A stream cut after any number of bytes is served by another account or breaks; it never passes as complete."""
    whole = chunked(FIRST, FIRST, DONE)

    async def backend(stream, _number):
        while await receive_request(stream):
            await stream.send_all(whole)

    async with (
        open_raw(backend) as target,
        open_raw(serve) as good,
        open_chaos(target.host, target.port, Chaos()) as proxy,
        balanced(proxy, good, **STUBBORN) as (_, client),
    ):
        for cut in range(0, len(whole) + 1, 7):
            proxy.chaos = Chaos(cut_bytes=cut)
            try:
                response = await client.post("/chat/completions", json={**ASKED, "stream": True})
            except httpx.RemoteProtocolError as error:
                assert isinstance(error.__cause__, StreamTruncated)
            else:
                assert response.content == GOOD or (cut >= len(whole) - 5 and response.content == FIRST + FIRST + DONE)


async def test_sliced_answer(nothing_left):
    """One byte at a time gives the same bytes."""

    async def backend(stream, _number):
        await receive_request(stream)
        for place in range(len(whole)):
            await stream.send_all(whole[place : place + 1])
            await trio.lowlevel.checkpoint()

    whole = chunked(FIRST, "é".encode() * 5 + b"\n\n", DONE)
    async with open_raw(backend) as address, balanced(address) as (_, client):
        response = await client.post("/chat/completions", json={**ASKED, "stream": True})
        assert response.content == FIRST + "é".encode() * 5 + b"\n\n" + DONE


async def test_read_timeout(nothing_left):
    """A stream that falls silent is the library's ReadTimeout; its connection is closed."""
    async with open_raw(sending(chunked(FIRST, end=False), then=silent)) as address, balanced(address) as (balancer, client):
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/chat/completions", json={**ASKED, "stream": True}, timeout=httpx.Timeout(5.0, read=0.1))
        assert balancer.statistics().accounts["a"].failed == 1


async def test_reader_that_stops(nothing_left):
    """A caller that stops reading stops the backend; the idle limit closes the connection."""
    sent = 0
    gone = trio.Event()

    async def script(stream, _number):
        nonlocal sent
        await receive_request(stream)
        try:
            await stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
            while True:
                await stream.send_all(b"10000\r\n" + b": ".ljust(65535, b"x") + b"\n\r\n" if sent else chunk_of(FIRST))
                sent += 65536
        finally:
            gone.set()

    def chunk_of(data):
        return b"%x\r\n%b\r\n" % (len(data), data)

    async with open_raw(script) as address, balanced(address, idle_timeout=0.3) as (balancer, client):
        transport = balancer.transport()
        request = client.build_request("POST", "/chat/completions", json={**ASKED, "stream": True})
        response = await transport.handle_async_request(request)
        chunks = aiter(response.stream)
        await anext(chunks)
        with trio.fail_after(2):
            await gone.wait()
        assert sent < 32 << 20  # what the kernel's buffers hold
        with pytest.raises(httpx.ReadError):
            while True:
                await anext(chunks)


@pytest.mark.parametrize("path", ["/chat/completions", "/files"])
async def test_bomb(path, nothing_left):
    """A decompression bomb ends at the cap, in bounded memory."""
    press = zlib.compressobj(wbits=31)
    encoded = b"".join(press.compress(bytes(1 << 20)) for _ in range(100)) + press.flush()
    head = b"Content-Encoding: gzip"
    async with (
        open_raw(sending(answer(encoded, b"200 OK", head), then=listening)) as bad,
        balanced(bad, max_attempts=1) as (balancer, client),
    ):
        transport = balancer.transport()
        response = await transport.handle_async_request(client.build_request("POST", path, json=ASKED))
        tracemalloc.start()
        received = 0
        with pytest.raises(httpx.RemoteProtocolError):
            async for chunk in response.stream:
                received += len(chunk)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert received <= 64 << 20
        assert most < 16 << 20


async def test_answer_without_end(nothing_left):
    """Five gigabytes in answer to a small call end at the cap, whoever reads on; memory stays flat."""
    script = sending(HEAD + b"Content-Length: 5000000000\r\n\r\n{" + b'"a":"', then=forever(b"a" * (1 << 20)))
    async with open_raw(script) as address, balanced(address) as (balancer, client):
        transport = balancer.transport()
        response = await transport.handle_async_request(client.build_request("POST", "/chat/completions", json=ASKED))
        received = 0
        with pytest.raises(httpx.RemoteProtocolError):
            async for chunk in response.stream:
                received += len(chunk)
        assert received <= 64 << 20


# -- the mock backends' own --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["html", "empty", "garbage", "nonsense_headers", "endless_headers", "informational_flood"])
async def test_malformed(shape, nothing_left):
    """What no provider should answer is served by another account, or read for what it is worth."""
    settings = MockSettings(faults=[Script([Malformed(shape)] * 9)])
    async with open_mock(settings) as bad, open_mock() as good, balanced(bad.address, good.address) as (_, client):
        response = await client.post("/chat/completions", json=ASKED)
        assert response.status_code == 200
        assert response.json()["object"] == "chat.completion"
        assert len(ends(response)) == (1 if shape == "nonsense_headers" else 2)


# -- local causes ------------------------------------------------------------------------------------------------------------


async def test_no_more_files(nothing_left):
    """When this process may open no more files the call fails, blames no account, and works again afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_raw(serve) as address, balanced(address) as (balancer, client):
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        try:
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            response = await client.get("/x")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
        assert response.status_code == 503
        assert len(ends(response)) == 1
        assert balancer.statistics().accounts["a"].failed == 0
        assert (await client.get("/x")).status_code == 200
