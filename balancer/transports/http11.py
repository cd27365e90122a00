"""HTTP/1.1 on one wire, one exchange after another: h11 says what the bytes mean, the wire moves them.

Everything here that does not wait for bytes is synchronous, so that an exchange is begun and ended in one step, in a cancelled
task too.
"""

from __future__ import annotations

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
        try:
            head = self._h11.send(h11.Request(method=method, target=target, headers=list(headers)))
        except h11.LocalProtocolError:
            raise httpcore.LocalProtocolError("the request is not HTTP/1.1") from None
        self._wire.hold(head or b"")

    async def ask(self, body: bytes | AsyncIterable[bytes], timeouts: Mapping[str, float | None]) -> Response:
        """Send the body of the request that was begun, and read the head of its answer.

        Raises:
            httpcore.LocalProtocolError, httpcore.RemoteProtocolError: request or answer are none; the texts quote nothing.
            httpcore.NetworkError, httpcore.TimeoutException: of the wire.
        """
        wire, state = self._wire, self._h11
        wire.write_timeout = timeouts.get("write")
        try:
            if isinstance(body, bytes):
                if body:
                    wire.hold(state.send(h11.Data(body)) or b"")
            else:
                async for part in body:
                    await wire.write(state.send(h11.Data(part)) or b"")
            wire.hold(state.send(_END) or b"")
        except h11.LocalProtocolError:
            raise httpcore.LocalProtocolError("the request is not HTTP/1.1") from None
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
