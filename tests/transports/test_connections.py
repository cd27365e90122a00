"""One account's own connections, over real sockets."""

from __future__ import annotations

import errno
import gc
import os
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import inf

import httpcore
import pytest
import trio
import trio.testing
import trustme

from balancer.core.outcome import CallerFault, Faulted, TimedOut
from balancer.testing.raw import open_raw, receive_request, reset
from balancer.transports.connections import Connections, StaleConnection, outcome_of

HEADERS = [(b"host", b"a.example"), (b"content-length", b"2")]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD_OK = b"HTTP/1.1 200 OK\r\n"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def connections_to(address, clock=None, *, ssl_context=None, sni_host=None, **settings):
    origin = httpcore.Origin(b"https" if ssl_context else b"http", address.host.encode(), address.port)
    return Connections(origin, ssl_context=ssl_context, sni_host=sni_host, clock=clock or trio.current_time, **settings)


async def exchange(connections, connection=None, *, body=b"{}", timeouts=None, on_written=None):
    """One whole exchange, given back or discarded as the engine does it."""
    connection = connection or connections.take()
    headers = [HEADERS[0], (b"content-length", b"%d" % len(body))]
    try:
        response = await connection.send(b"POST", b"/v1/x", headers, body, timeouts or {}, on_written)
        received = b"".join([chunk async for chunk in response.stream])
        await response.stream.aclose()
    except BaseException:
        connections.discard(connection)
        raise
    connections.give_back(connection)
    return response.status, received


async def serve(stream, _number):
    while await receive_request(stream):
        await stream.send_all(OK)


async def silent(_stream, _number):
    await trio.sleep_forever()


def answering(*answers, then=serve):
    """A script that gives these answers, one per request, then goes on as told."""

    async def script(stream, number):
        for answer in answers:
            await receive_request(stream)
            await stream.send_all(answer)
        if then is not None:
            await then(stream, number)

    return script


def open_files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def wait_open_files(at_most):
    """Until no more files are open than that; the peers' ends close in their own time."""
    with trio.fail_after(5):
        while open_files() > at_most:  # noqa: ASYNC110 - the kernel tells nobody
            await trio.sleep(0.005)


# -- the stack ---------------------------------------------------------------------------------------------------------------


async def test_reuse_is_last_in_first_out():
    """The connection given back last is taken first; nothing waits for one in use."""
    async with open_raw(serve) as address:
        connections = connections_to(address)
        first, second = connections.take(), connections.take()
        assert (connections.idle, connections.in_use) == (0, 2)
        assert await exchange(connections, first) == (200, b"ok")
        assert await exchange(connections, second) == (200, b"ok")
        assert (connections.idle, connections.in_use) == (2, 0)
        assert not first.reused
        assert connections.take() is second
        assert second.reused
        assert await exchange(connections, second) == (200, b"ok")
        assert connections.take() is second
        assert connections.take() is first
        fresh = connections.take_fresh()
        assert not fresh.reused
        assert "0 idle, 3 in use" in repr(connections)
        connections.abort()


async def test_keep_alive_expiry():
    """An idle connection is closed when its time is over, by the supervisor's timer or when one is taken."""
    clock = Clock()
    async with open_raw(serve) as address:
        connections = connections_to(address, clock, keepalive_expiry=5.0)
        assert connections.next_change(clock.now) == inf
        first, second = connections.take(), connections.take()
        await exchange(connections, first)
        clock.now += 1
        await exchange(connections, second)
        assert connections.next_change(clock.now) == 105.0
        connections.expire(104.9)
        assert connections.idle == 2
        connections.expire(105.0)
        assert connections.idle == 1
        assert connections.next_change(105.0) == 106.0
        clock.now = 106.0
        assert not connections.take().reused
        assert connections.idle == 0
        connections.abort()


async def test_idle_connections_are_bounded():
    """Beyond `max_idle` the connection idle for longest is closed."""
    async with open_raw(serve) as address:
        connections = connections_to(address, max_idle=2)
        taken = [connections.take() for _ in range(3)]
        for connection in taken:
            await exchange(connections, connection)
        assert connections.idle == 2
        assert connections.take() is taken[2]
        assert connections.take() is taken[1]
        connections.abort()


async def test_closed_by_the_server_while_idle():
    """A connection that the server has closed is not taken again."""
    closed = trio.Event()

    async def once(stream, number):
        await answering(OK, then=None)(stream, number)
        await stream.aclose()
        closed.set()

    async with open_raw(once) as address:
        connections = connections_to(address)
        await exchange(connections)
        await closed.wait()
        await trio.sleep(0.01)
        assert not connections.take().reused
        connections.abort()


@pytest.mark.parametrize(
    "answer", [HEAD_OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok"]
)
async def test_what_cannot_be_reused_is_closed(answer):
    """A connection whose exchange ended it is not kept."""
    async with open_raw(answering(answer, then=None)) as address:
        connections = connections_to(address)
        assert await exchange(connections) == (200, b"ok")
        assert (connections.idle, connections.in_use) == (0, 0)


async def test_response_not_read_to_its_end_is_not_reused():
    """A response closed before its end costs its connection."""
    async with open_raw(answering(OK[:-1])) as address:
        connections = connections_to(address)
        connection = connections.take()
        response = await connection.send(b"POST", b"/", HEADERS, b"{}", {})
        await response.stream.aclose()
        connections.give_back(connection)
        assert (connections.idle, connections.in_use) == (0, 0)


async def test_abort_closes_everything():
    """After `abort` no connection is open, a reader in another task has its error, and what is given back is closed."""
    async with open_raw(answering(OK, then=silent)) as address:
        before = open_files()
        connections = connections_to(address)
        idle, other, hung = (connections.take() for _ in range(3))
        for connection in (idle, hung):
            await exchange(connections, connection)
        hung = connections.take()
        response = await other.send(b"POST", b"/", HEADERS, b"{}", {})
        async with trio.open_nursery() as nursery:

            async def read():
                with pytest.raises(httpcore.ReadError):
                    await hung.send(b"POST", b"/", HEADERS, b"{}", {})

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            connections.abort()
        assert b"".join([chunk async for chunk in response.stream]) == b"ok"  # had arrived already
        await response.stream.aclose()
        connections.give_back(other)
        connections.discard(hung)
        connections.discard(hung)
        assert (connections.idle, connections.in_use) == (0, 0)
        await wait_open_files(before + 3)  # the server's ends


# -- one exchange ------------------------------------------------------------------------------------------------------------


async def test_request_on_the_wire():
    """Head and body leave together, as given, after `on_written` was called; the body arrives whatever its size."""
    received = []

    async def script(stream, _number):
        while request := await receive_request(stream):
            received.append(request)
            await stream.send_all(OK)

    async with open_raw(script) as address:
        connections = connections_to(address)
        connection = connections.take()
        written = []
        await exchange(connections, connection, on_written=lambda: written.append(connection.written))
        assert written == [True]
        await exchange(connections, body=bytes(5_000_000), timeouts={"write": 5.0, "read": 5.0, "connect": 5.0})
        assert connection.reused
        connections.abort()
    assert received[0] == b"POST /v1/x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\n{}"
    assert received[1].endswith(bytes(5_000_000))


async def test_answer_before_the_request_was_read():
    """A server that refuses a long request and closes is heard, not blamed for the broken write."""

    async def script(stream, _number):
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        while await stream.receive_some(1 << 20):
            pass

    async with open_raw(script) as address:
        connections = connections_to(address)
        connection = connections.take()
        with trio.fail_after(5):
            response = await connection.send(
                b"POST", b"/", [HEADERS[0], (b"content-length", b"3000000")], bytes(3_000_000), {"write": 5.0, "read": 5.0}
            )
        assert response.status == 413
        connections.discard(connection)


async def test_stale_connection():
    """A reused connection that ends before a byte of its answer is stale, by an end or by a reset; a fresh one then serves."""
    for ending in (None, reset):

        async def script(stream, number, ending=ending):
            if number > 1:
                await serve(stream, number)
                return
            await answering(OK, then=None)(stream, number)
            await receive_request(stream)
            if ending:
                ending(stream)

        async with open_raw(script) as address:
            connections = connections_to(address)
            await exchange(connections)
            with pytest.raises(StaleConnection) as caught:
                await exchange(connections)
            assert outcome_of(caught.value, written=True) == Faulted(
                "a reused connection ended before its answer began", sent=True
            )
            assert await exchange(connections, connections.take_fresh()) == (200, b"ok")
            connections.abort()


@pytest.mark.parametrize("ending", [None, reset])
async def test_fresh_connection_that_ends_is_a_fault(ending):
    """On a fresh connection the same end is the backend's fault, after the request was sent."""

    async def script(stream, _number):
        await receive_request(stream)
        if ending:
            ending(stream)

    async with open_raw(script) as address:
        connections = connections_to(address)
        connection = connections.take()
        with pytest.raises((httpcore.RemoteProtocolError, httpcore.ReadError)) as caught:
            await exchange(connections, connection)
        assert connection.written
        assert isinstance(outcome_of(caught.value, written=True), Faulted)


async def test_reused_connection_that_breaks_in_its_answer_is_a_fault():
    """A reused connection that ends after the first byte of an answer is not stale."""

    async def script(stream, number):
        await answering(OK, HEAD_OK[:5], then=None)(stream, number)

    async with open_raw(script) as address:
        connections = connections_to(address)
        await exchange(connections)
        with pytest.raises(httpcore.RemoteProtocolError):
            await exchange(connections)
        assert (connections.idle, connections.in_use) == (0, 0)


async def test_nothing_listens():
    """A refused connection is a fault of which nothing was sent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        connections = Connections(httpcore.Origin(b"http", b"127.0.0.1", taken.getsockname()[1]), ssl_context=None)
        connection = connections.take()
        with pytest.raises(httpcore.ConnectError) as caught:
            await exchange(connections, connection)
    outcome = outcome_of(caught.value, connection.written)
    assert isinstance(outcome, Faulted)
    assert not outcome.sent
    assert connections.in_use == 0


@pytest.mark.parametrize(
    ("script", "body", "timeouts", "outcome"),
    [
        (silent, b"{}", {"read": 0.02}, TimedOut("headers")),
        (silent, bytes(20_000_000), {"write": 0.05}, TimedOut("write")),
    ],
)
async def test_timeouts(script, body, timeouts, outcome):
    """A silent server is a timeout of headers; one that never reads, of the write."""
    async with open_raw(script) as address:
        connections = connections_to(address)
        with pytest.raises(httpcore.TimeoutException) as caught:
            await exchange(connections, body=body, timeouts=timeouts)
        assert outcome_of(caught.value, written=True) == outcome


async def test_connect_timeout():
    """A handshake that stalls runs into the connect timeout, with nothing sent and its socket closed."""
    async with open_raw(silent) as address:
        before = open_files()
        connections = connections_to(address, ssl_context=ssl.create_default_context())
        connection = connections.take()
        with pytest.raises(httpcore.ConnectTimeout) as caught:
            await exchange(connections, connection, timeouts={"connect": 0.03})
        outcome = outcome_of(caught.value, connection.written)
        assert outcome == TimedOut("connect")
        assert not connection.written
        await wait_open_files(before + 1)  # the server's end


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage sk-canary\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        HEAD_OK + b"bad header sk-canary\r\n\r\n",
        HEAD_OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        HEAD_OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD_OK + b"Content-Length: -2\r\n\r\nok",
        HEAD_OK + b"X: a\x00b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\r\n\r\n",
        b"",
    ],
)
async def test_answers_that_are_no_answer(answer):
    """What is not HTTP/1.1 is a protocol error whose text does not quote it."""
    async with open_raw(answering(answer, then=None)) as address:
        connections = connections_to(address)
        with pytest.raises(httpcore.RemoteProtocolError) as caught:
            await exchange(connections)
        assert "canary" not in str(caught.value)
        assert (connections.idle, connections.in_use) == (0, 0)


async def test_broken_body_is_described_without_quoting_it():
    """A parser's error in the body is a fault whose text quotes nothing."""
    async with open_raw(answering(HEAD_OK + b"Transfer-Encoding: chunked\r\n\r\nsk-canary\r\n", then=None)) as address:
        connections = connections_to(address)
        with pytest.raises(httpcore.RemoteProtocolError) as caught:
            await exchange(connections)
        assert outcome_of(caught.value, written=True) == Faulted("the answer is not HTTP/1.1")


async def test_answer_that_was_there_before_its_request():
    """A second answer to one request is never handed to the next."""
    async with open_raw(answering(OK + OK.replace(b"ok", b"no"))) as address:
        connections = connections_to(address)
        assert await exchange(connections) == (200, b"ok")
        assert connections.idle == 0
        assert await exchange(connections) == (200, b"ok")


@pytest.mark.parametrize("headers", [[(b"host", b"a\nb")], [(b"a b", b"c")], []])
async def test_request_that_is_not_http(headers):
    """A request that cannot be written is the caller's fault, and quotes nothing."""
    async with open_raw(serve) as address:
        connections = connections_to(address)
        connection = connections.take()
        with pytest.raises(httpcore.LocalProtocolError) as caught:
            await connection.send(b"POST", b"/", headers, b"{}", {})
        connections.discard(connection)
        assert outcome_of(caught.value, connection.written) == CallerFault()
        assert not connection.written
        with pytest.raises(httpcore.LocalProtocolError):
            await connections.take().send(b"CONNECT", b"a:1", HEADERS, b"", {})
        connections.abort()


# -- caps --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_some_informational_answers(size):
    """Up to five 1xx answers are passed over, however they are cut."""
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 3 + OK

    async def script(stream, _number):
        await receive_request(stream)
        for at in range(0, len(answer), size):
            await stream.send_all(answer[at : at + size])
            await trio.lowlevel.checkpoint()
        await serve(stream, 0)

    async with open_raw(script) as address:
        connections = connections_to(address)
        assert await exchange(connections) == (200, b"ok")
        assert await exchange(connections) == (200, b"ok")
        connections.abort()


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
        b"HTTP/1.1 100 \n\n",
        b"X-Header: value\r\n",
        b"x" * 1000,
    ],
)
async def test_endless_head(endless):
    """1xx for ever, headers for ever and a line for ever end in an error after bounded bytes."""
    sent = 0

    async def script(stream, _number):
        nonlocal sent
        await receive_request(stream)
        if not endless.startswith(b"HTTP"):
            await stream.send_all(HEAD_OK)
        while True:
            await stream.send_all(endless * 10)
            sent += len(endless) * 10

    async with open_raw(script) as address:
        connections = connections_to(address)
        with trio.fail_after(5), pytest.raises(httpcore.RemoteProtocolError) as caught:
            await exchange(connections)
        assert len(str(caught.value)) < 100
    assert sent < 20_000_000  # what the kernel's buffers take included


# -- cancels -----------------------------------------------------------------------------------------------------------------


async def test_cancelled_exchanges_leak_nothing():
    """Exchanges cancelled anywhere, while connecting, waiting or reading, cost their connections and nothing else."""

    async def script(stream, number):
        while await receive_request(stream):
            await trio.sleep(0.001 * (number % 3))
            await stream.send_all(OK[:-1])
            await trio.sleep(0.001 * (number % 2))
            await stream.send_all(OK[-1:])

    async with open_raw(script) as address:
        connections = connections_to(address)
        await exchange(connections)
        connections.expire(inf)
        await trio.sleep(0.01)
        before = open_files()
        cancelled = 0

        async def one(after):
            nonlocal cancelled
            with trio.move_on_after(after) as scope:
                await exchange(connections)
            cancelled += scope.cancelled_caught

        for round_ in range(10):
            async with trio.open_nursery() as nursery:
                for step in range(20):
                    nursery.start_soon(one, 0.0004 * step + 0.0001 * round_)
        assert connections.in_use == 0
        assert cancelled > 20
        assert await exchange(connections) == (200, b"ok")
        connections.abort()
        await wait_open_files(before)


async def test_cancelled_stream_is_closed_synchronously():
    """Under cancellation `discard` closes the socket at once, without awaiting."""
    async with open_raw(answering(OK[:-1], then=silent)) as address:
        connections = connections_to(address)
        connection = connections.take()
        with trio.CancelScope() as scope:
            response = await connection.send(b"POST", b"/", HEADERS, b"{}", {})
            sock = connection._wire._tcp.socket
            assert sock.fileno() > 0
            scope.cancel()
            connections.discard(connection)
            assert sock.fileno() == -1
        await response.stream.aclose()
        assert connections.in_use == 0


async def test_discarded_while_connecting():
    """A connection aborted while it is being made is closed when it is there."""
    async with open_raw(serve) as address:
        before = open_files()
        connections = connections_to(address)
        connection = connections.take()
        async with trio.open_nursery() as nursery:

            async def send():
                with pytest.raises(httpcore.ConnectError):
                    await exchange(connections, connection)

            nursery.start_soon(send)
            await trio.lowlevel.checkpoint()
            connections.abort()
        await wait_open_files(before)


# -- TLS ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def over_tls(authority, seen, *names, **certificate):
    """A script that serves over TLS; what arrives in clear text is noted."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, **certificate).configure_cert(context)

    async def script(stream, _number):
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        request = await receive_request(tls)
        seen.append(request)
        while request:
            await tls.send_all(OK)
            request = await receive_request(tls)

    return script


def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls(authority):
    """A verified connection serves, is reused, and closes synchronously."""
    seen = []
    async with open_raw(over_tls(authority, seen, "api.example")) as address:
        connections = connections_to(address, ssl_context=trusting(authority), sni_host="api.example")
        first = connections.take()
        assert await exchange(connections, first) == (200, b"ok")
        assert await exchange(connections, body=bytes(500_000), timeouts={"read": 5.0, "write": 5.0}) == (200, b"ok")
        assert first.reused
        connection = connections.take()
        await connection.send(b"POST", b"/", HEADERS, b"{}", {})
        wire = connection._wire
        assert wire._tls.selected_alpn_protocol() in {None, "http/1.1"}
        connections.discard(connection)
        assert wire._tcp.socket.fileno() == -1
        assert wire.is_readable
    assert len(seen) == 1


EXPIRED = {"not_before": datetime.now(UTC) - timedelta(days=9), "not_after": datetime.now(UTC) - timedelta(days=1)}


@pytest.mark.parametrize(
    ("certificate", "trusted", "text"),
    [
        (("other.example", {}), True, "api.example"),
        (("api.example", {}), False, "certificate not accepted"),
        (("api.example", EXPIRED), True, "expired"),
    ],
    ids=["wrong host", "self-signed", "expired"],
)
async def test_unverified_tls_is_a_hard_fault(authority, certificate, trusted, text):
    """A certificate for another host, of an unknown authority or expired ends it before a request byte is sent."""
    seen = []
    name, validity = certificate
    before = open_files()
    async with open_raw(failing_softly(over_tls(authority, seen, name, **validity))) as address:
        context = trusting(authority) if trusted else ssl.create_default_context()
        connections = connections_to(address, ssl_context=context, sni_host="api.example")
        connection = connections.take()
        with pytest.raises(httpcore.ConnectError) as caught:
            await exchange(connections, connection)
        outcome = outcome_of(caught.value, connection.written)
        assert isinstance(outcome, Faulted)
        assert text in outcome.detail
        assert not outcome.sent
    assert not seen
    assert open_files() <= before


def failing_softly(script):
    async def softly(stream, number):
        with suppress(trio.BrokenResourceError):
            await script(stream, number)

    return softly


async def test_plain_server_behind_https():
    """A server without TLS is never spoken to in clear text."""
    received = []

    async def script(stream, _number):
        received.append(await stream.receive_some(1000))
        await stream.send_all(OK)

    async with open_raw(script) as address:
        connections = connections_to(address, ssl_context=ssl.create_default_context())
        with pytest.raises(httpcore.ConnectError):
            await exchange(connections)
    assert b"POST" not in b"".join(received)
    with pytest.raises(ValueError):
        Connections(httpcore.Origin(b"https", b"a.example", 443), ssl_context=None)


# -- outcomes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "written", "phase", "outcome"),
    [
        (httpcore.ConnectTimeout("x"), False, "headers", TimedOut("connect")),
        (httpcore.WriteTimeout("x"), True, "headers", TimedOut("write")),
        (httpcore.ReadTimeout("x"), True, "read", TimedOut("read")),
        (httpcore.ConnectError("refused"), False, "headers", Faulted("no connection: refused", sent=False)),
        (httpcore.ConnectError("refused"), True, "headers", Faulted("no connection: refused")),
        (httpcore.ConnectTimeout("x"), True, "headers", Faulted("x")),
        (httpcore.ReadError(os.strerror(errno.ECONNRESET)), True, "headers", Faulted("Connection reset by peer", sent=True)),
        (httpcore.WriteError(), False, "headers", Faulted("WriteError", sent=False)),
        (httpcore.LocalProtocolError("x"), False, "headers", CallerFault()),
    ],
)
def test_outcome_of(error, written, phase, outcome):
    """Every error of the connection has one outcome; what a stale connection before it may have carried counts as sent."""
    assert outcome_of(error, written, phase=phase) == outcome
