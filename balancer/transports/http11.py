"""HTTP/1.1 on one wire, one exchange after another: requests are written here, h11 says what the answers mean.

Everything here that does not wait for bytes is synchronous, so that an exchange is begun and ended in one step, in a cancelled
task too.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import h11
import httpcore

if TYPE_CHECKING:
    from balancer.transports.wire import Wire

MAX_HEAD = 100 * 1024
"""Bytes of an answer's head, or of a chunk's; more is no answer."""
CHUNK = 64 * 1024
MAX_INFORMATIONAL = 5
"""1xx answers before the real one. No backend needs more than one or two; the parser would take them for ever."""
NOT_HTTP = "the answer is not HTTP/1.1"
SWITCHING_PROTOCOLS = 101

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [!-~]+")
_REMEMBERED = 256
_NAMES: set[bytes] = set()
_END = h11.EndOfMessage()
_MORE = h11.NEED_DATA


class Response:
    """The head of an answer, and its body to be read.

    Attributes:
        status: the HTTP status.
        headers: as they came.
        stream: the body; it has to be closed.
    """

    __slots__ = ("headers", "status", "stream")

    def __init__(self, status: int, headers: Sequence[tuple[bytes, bytes]], stream: ResponseBody) -> None:
        self.status = status
        self.headers = headers
        self.stream = stream


def _stand_in(method: bytes) -> h11.Request:
    """What h11 follows the exchange from: of a request it needs the method alone to read the answer. To have it parse and write
    every header again, which `_head` does in a tenth of the time, costs 20 us a request."""
    return h11.Request(method=method, target=b"/", headers=[(b"host", b"-")])


_STAND_INS = {method: _stand_in(method) for method in (b"POST", b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS")}


def _head(method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head of a request. Raises `httpcore.LocalProtocolError` for parts that would read as something else."""
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join([b"%b: %b\r\n" % pair for pair in headers]))
    if (
        not _LINE.fullmatch(b"%b %b" % (method, target))
        or not all(name in _NAMES or _learn(name) for name, _ in headers)
        or head.count(b"\n") != len(headers) + 2
        or head.count(b"\r") != len(headers) + 2
        or b"\0" in head
        or not any(name.lower() == b"host" for name, _ in headers)
    ):
        raise httpcore.LocalProtocolError("the request is not HTTP/1.1")
    return head


def _learn(name: bytes) -> bool:
    """Whether a header's name is a token; the usual ones are remembered."""
    good = _TOKEN.fullmatch(name) is not None
    if good and len(_NAMES) < _REMEMBERED:
        _NAMES.add(name)
    return good


class Http11:
    """The exchanges of one wire.

    Args:
        wire: what carries them.
    """

    __slots__ = ("_h11", "_wire", "is_idle")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.is_idle = True
        """Whether the last exchange ended cleanly, so that another may begin."""

    def begin(self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Write the head of a request, which goes out with its body.

        Raises:
            httpcore.LocalProtocolError: the request is none. Its text and its causes quote nothing of it.
        """
        self.is_idle = False
        self._wire.hold(_head(method, target, headers))
        stand_in = _STAND_INS.get(method) or _stand_in(method)
        self._h11.send(stand_in)
        self._h11.send(_END)

    async def ask(self, body: bytes | AsyncIterable[bytes], timeouts: Mapping[str, float | None]) -> Response:
        """Send the body of the request that was begun, and read the head of its answer.

        Args:
            body: whole, of the length that the head says; or its parts, which go out in chunks as the head says.
            timeouts: seconds for `write` and `read`.

        Raises:
            httpcore.RemoteProtocolError: the answer is none; the text quotes nothing of it.
            httpcore.NetworkError, httpcore.TimeoutException: of the wire.
        """
        wire = self._wire
        wire.write_timeout = timeouts.get("write")
        if isinstance(body, bytes):
            wire.hold(body)
        else:
            async for part in body:
                if part:
                    await wire.write(b"%x\r\n%b\r\n" % (len(part), part))
            wire.hold(b"0\r\n\r\n")
        read_timeout = timeouts.get("read")
        for _ in range(MAX_INFORMATIONAL + 1):
            event = await self.next_event(read_timeout)
            if isinstance(event, h11.Response):
                return Response(event.status_code, event.headers.raw_items(), ResponseBody(self, read_timeout))
            if event.status_code == SWITCHING_PROTOCOLS:
                raise httpcore.RemoteProtocolError("the answer switches protocols, which nobody asked for")
        raise httpcore.RemoteProtocolError(f"more than {MAX_INFORMATIONAL} informational answers")

    async def next_event(self, timeout: float | None) -> Any:  # noqa: ASYNC109 - the wire's own
        """The next event of the answer."""
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError:  # whose text quotes what was received: a backend may have echoed the credential
                raise httpcore.RemoteProtocolError(NOT_HTTP) from None
            if event is not _MORE:
                return event
            await self._receive(timeout)

    async def _receive(self, timeout: float | None) -> None:  # noqa: ASYNC109 - the wire's own
        data = await self._wire.read(CHUNK, timeout)
        if not data and self._h11.their_state is h11.SEND_RESPONSE:
            raise httpcore.RemoteProtocolError("the backend closed the connection without an answer")
        self._h11.receive_data(data)

    def end(self) -> None:
        """Nobody reads the answer any more: the wire is free for the next exchange, or closed."""
        state = self._h11
        if state.our_state is h11.DONE and state.their_state is h11.DONE and not state.trailing_data[0]:
            state.start_next_cycle()
            self.is_idle = True
        else:
            self._wire.close()


class ResponseBody:
    """The body of an answer."""

    __slots__ = ("_closed", "_ended", "_http", "_timeout")

    def __init__(self, http: Http11, timeout: float | None) -> None:
        self._http = http
        self._timeout = timeout
        self._ended = False
        self._closed = False

    def __aiter__(self) -> ResponseBody:
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            event = await self._http.next_event(self._timeout)
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage | h11.PAUSED):
                self._ended = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let go of the wire; nothing waits."""
        if not self._closed:
            self._closed = self._ended = True
            self._http.end()
