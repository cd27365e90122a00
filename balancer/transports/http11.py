"""HTTP/1.1 on one wire, one exchange after another: requests are written here, so are usual answers read; h11 reads all others.

The usual answer is one whose head comes whole, leaves no doubt and says how long the body is. For it h11 takes 70 us, a sixth
of what a request takes in all, and to read it here a tenth of that; the slightest oddity hands the answer to h11 from its first byte.

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
NO_ANSWER = "the backend closed the connection without an answer"
SWITCHING_PROTOCOLS = 101

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t -~\x80-\xff]*)?\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_LENGTH = re.compile(rb"[0-9]{1,15}")
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_BODILESS = frozenset((204, 304))
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
    names = [name for name, _ in headers]
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join([b"%b: %b\r\n" % pair for pair in headers]))
    if (
        not _LINE.fullmatch(b"%b %b" % (method, target))
        or not (_NAMES.issuperset(names) or all(map(_learn, names)))
        or head.count(b"\n") != len(headers) + 2
        or head.count(b"\r") != len(headers) + 2
        or b"\0" in head
        or not (b"host" in names or b"host" in map(bytes.lower, names))
    ):
        raise httpcore.LocalProtocolError("the request is not HTTP/1.1")
    return head


def _learn(name: bytes) -> bool:
    """Whether a header's name is a token; the usual ones are remembered."""
    good = TOKEN.fullmatch(name) is not None
    if good and len(_NAMES) < _REMEMBERED:
        _NAMES.add(name)
    return good


def _usual_head(data: bytes, method: bytes) -> tuple[int, list[tuple[bytes, bytes]], int, int] | None:
    """Status, headers, bytes of body and bytes of head of an answer of the usual form; `None` for any other."""
    match = _USUAL_HEAD.match(data)
    if match is None:
        return None
    status, length = int(match[1]), None
    headers: list[tuple[bytes, bytes]] = []
    for line in match[2].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        headers.append((name, value))
        lower = name.lower()
        if lower == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                return None
            length = int(value)
        elif lower == b"transfer-encoding" or (lower == b"connection" and value.lower() != b"keep-alive"):
            return None
    if method == b"HEAD" or status in _BODILESS:
        length = 0
    return None if length is None else (status, headers, length, match.end())


def _feed(state: h11.Connection, data: bytes) -> None:
    if not data and state.their_state is h11.SEND_RESPONSE:
        raise httpcore.RemoteProtocolError(NO_ANSWER)
    state.receive_data(data)


class Http11:
    """The exchanges of one wire.

    Args:
        wire: what carries them.
    """

    __slots__ = ("_ahead", "_h11", "_left", "_method", "_wire", "is_idle")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._method = b""
        self._h11: h11.Connection | None = None  # of an answer that it reads
        self._left = 0  # bytes to come of a body that is read here
        self._ahead = b""  # bytes that have come and were not taken, of an answer that is read here
        self.is_idle = True
        """Whether the last exchange ended cleanly, so that another may begin."""

    def begin(self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Write the head of a request, which goes out with its body.

        Raises:
            httpcore.LocalProtocolError: the request is none. Its text and its causes quote nothing of it.
        """
        self.is_idle = False
        self._method = method
        self._wire.hold(_head(method, target, headers))

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
        # No local that lives on holds what was received: a backend may echo the credential, and tracebacks show locals.
        response = self._usual_answer(await wire.read(CHUNK, read_timeout), read_timeout)
        return response or await self._parsed_head(read_timeout)

    def _usual_answer(self, data: bytes, timeout: float | None) -> Response | None:
        """An answer that is read here; `None` if h11 has been given it to read."""
        if not data:
            raise httpcore.RemoteProtocolError(NO_ANSWER)
        if (usual := _usual_head(data, self._method)) is None:
            self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
            self._h11.send(_STAND_INS.get(self._method) or _stand_in(self._method))
            self._h11.send(_END)
            self._h11.receive_data(data)
            return None
        self._h11 = None
        status, headers, self._left, end = usual
        self._ahead = data[end:]
        return Response(status, headers, ResponseBody(self, timeout))

    async def next_chunk(self, timeout: float | None) -> bytes:  # noqa: ASYNC109 - the wire's own
        """The next bytes of the answer's body; empty at its end."""
        if self._h11 is not None:
            event = await self._next_event(timeout)
            return bytes(event.data) if isinstance(event, h11.Data) else b""
        if not self._left:
            return b""
        data = self._ahead or await self._wire.read(CHUNK, timeout)
        if not data:
            raise httpcore.RemoteProtocolError("the backend closed the connection within its answer")
        self._ahead = data[self._left :]
        data = data[: self._left]
        self._left -= len(data)
        return data

    def end(self) -> None:
        """Nobody reads the answer any more: the wire is free for the next exchange, or closed."""
        state = self._h11
        if state is None:
            self.is_idle = not (self._left or self._ahead)
        else:
            self.is_idle = state.our_state is h11.DONE and state.their_state is h11.DONE and state.trailing_data == (b"", False)
        if not self.is_idle:
            self._wire.close()

    # -- answers that h11 reads -------------------------------------------------------------------------------------------

    async def _parsed_head(self, timeout: float | None) -> Response:  # noqa: ASYNC109 - the wire's own
        for _ in range(MAX_INFORMATIONAL + 1):
            event = await self._next_event(timeout)
            status = event.status_code
            if isinstance(event, h11.Response):
                response = Response(status, event.headers.raw_items(), ResponseBody(self, timeout))
                del event
                if sum(name.lower() in _FRAMING for name, _ in response.headers) > 1:
                    raise httpcore.RemoteProtocolError("the answer is framed twice")
                return response
            del event  # what was received is in it, as above
            if status == SWITCHING_PROTOCOLS:
                raise httpcore.RemoteProtocolError("the answer switches protocols, which nobody asked for")
        raise httpcore.RemoteProtocolError(f"more than {MAX_INFORMATIONAL} informational answers")

    async def _next_event(self, timeout: float | None) -> Any:  # noqa: ASYNC109 - the wire's own
        state = self._h11
        assert state is not None, "whoever asks for events has given h11 the answer"
        while True:
            try:
                event = state.next_event()
            except h11.RemoteProtocolError:  # whose text quotes what was received: a backend may have echoed the credential
                raise httpcore.RemoteProtocolError(NOT_HTTP) from None
            if event is not _MORE:
                return event
            _feed(state, await self._wire.read(CHUNK, timeout))


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
        if not self._ended:
            if chunk := await self._http.next_chunk(self._timeout):
                return chunk
            self._ended = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Let go of the wire; nothing waits."""
        if not self._closed:
            self._closed = self._ended = True
            self._http.end()
