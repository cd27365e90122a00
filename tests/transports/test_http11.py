"""Answers that are read here mean what h11 says they mean."""

from __future__ import annotations

import httpcore
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balancer.transports import http11
from balancer.transports.http11 import Http11

LENGTH = b"Content-Length: 2"
PLAIN = [
    b"Connection: keep-alive", b"Connection: Keep-Alive", b"X-A: b", b"x-a:  b \t", b"X-Empty:", b"X: a: b", b"X: caf\xc3\xa9",
    b"X: a\tb", b"Content-Length: 02", b"content-length:2", b"Content-Length: 0",
]  # fmt: skip
ODD = [
    b"Content-Length: 2, 2", b"Content-Length: +2", b"Content-Length: 2_0", b"Content-Length: -1", b"Content-Length:",
    b"Content-Length: 99999999999999999999999", b"Content-Length : 2", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity", b"Connection: close", b"Connection: upgrade, keep-alive", b"Connection: x", b"X: a\x0bb",
    b"X: a\x00b", b"X: a\rb", b"X: a\nb", b": a", b"no colon", b" folded", b"\tfolded", b"X Y: a", b"X(: a", b"",
]  # fmt: skip
STATUS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 -", b"HTTP/1.1 429 Too Many",
    b"HTTP/1.0 200 OK", b"HTTP/1.1 99 -", b"HTTP/1.1 600 -", b"HTTP/2 200", b"HTTP/1.1  200 OK", b"http/1.1 200 OK",
    b"HTTP/1.1 200 \xe9", b"HTTP/1.1 200 a\x01", b"ICY 200 OK", b"",
]  # fmt: skip
USUAL = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"


class Wire:
    """Gives these bytes, one piece per read, then the end."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.closed = False
        self.write_timeout = None

    def hold(self, data):
        pass

    async def read(self, max_bytes, timeout=None):  # noqa: ASYNC109 - as the wire has it
        return self.pieces.pop(0) if self.pieces else b""

    def close(self):
        self.closed = True


async def exchanged(http, method):
    http.begin(method, b"/", [(b"host", b"a.example")])
    response = await http.ask(b"", {})
    body = b"".join([chunk async for chunk in response.stream])
    await response.stream.aclose()
    return response.status, list(response.headers), body


def outcome(method, *pieces):
    """What an exchange comes to; nothing in it waits."""
    wire = Wire(*pieces)
    http = Http11(wire)
    try:
        exchanged(http, method).send(None)
    except StopIteration as done:
        return done.value, http.is_idle, wire.closed
    except httpcore.RemoteProtocolError:
        return "no answer"
    raise AssertionError


@settings(max_examples=1500)
@given(
    st.sampled_from(STATUS[:6]) | st.sampled_from(STATUS),
    st.lists(st.sampled_from(PLAIN[:8]), max_size=3).map(lambda fields: [*fields, LENGTH])
    | st.lists(st.sampled_from([LENGTH, *PLAIN]), max_size=3)
    | st.lists(st.sampled_from([LENGTH, *PLAIN, *ODD]) | st.binary(max_size=12), max_size=4),
    st.just(b"\r\n") | st.sampled_from([b"\r\n", b"\n"]),
    st.sampled_from([b"", b"o", b"ok", b"okok", b"2\r\nok\r\n0\r\n\r\n"]),
    st.sampled_from([b"POST", b"GET", b"HEAD"]),
)
@example(b"HTTP/1.1 200 OK", [b"Content-Length: 2"], b"\r\n", b"ok", b"POST")
def test_usual_answers_are_read_as_h11_reads_them(status, fields, line_end, body, method):
    """An answer that comes whole may be read here; the same one in two pieces is read by h11: the exchange ends the same."""
    answer = line_end.join([status, *fields, b"", body])
    assert outcome(method, answer) == outcome(method, answer[:4], answer[4:])


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
def test_a_usual_answer_needs_no_h11(method, monkeypatch):
    """It is the common case, and h11 takes ten times as long."""
    monkeypatch.delattr(http11, "h11")
    headers = [(b"Server", b"x"), (b"Content-Length", b"2"), (b"Connection", b"keep-alive")]
    body = b"ok" if method == b"POST" else b""
    answer = USUAL if body else USUAL[:-2]
    assert outcome(method, answer) == ((200, headers, body), True, False)
    if body:
        assert outcome(method, answer[:-1], b"k") == ((200, headers, body), True, False)
        assert outcome(method, answer[:-1]) == "no answer"
        assert outcome(method, answer + b"HTTP/1.1") == ((200, headers, body), False, True)


def test_both_ways_on_one_connection():
    """Whoever has read one answer, the next one begins afresh."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    http = Http11(Wire(USUAL, chunked, USUAL, chunked))
    for _ in range(4):
        with pytest.raises(StopIteration) as done:
            exchanged(http, b"POST").send(None)
        status, _, body = done.value.value
        assert (status, body, http.is_idle) == (200, b"ok", True)
