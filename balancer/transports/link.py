"""What carries an account's requests: its address and its own lines, real connections or a transport given in code."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import httpcore
import httpx
import trio

from balancer.core.settings import Account
from balancer.providers.provider import Provider, get_provider
from balancer.transports.connections import Connections
from balancer.transports.rewriting import AccountAddress

RequestBody = bytes | AsyncIterable[bytes]


class ResponseStream(Protocol):
    """A response's body as our connections and httpx give it."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its chunks."""
        ...

    async def aclose(self) -> None:
        """Let go of what carries it."""
        ...


class RawResponse(Protocol):
    """A response's head and body."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    stream: ResponseStream


class Line(Protocol):
    """What one exchange runs on."""

    @property
    def reused(self) -> bool:
        """Whether an earlier exchange has run on it."""
        ...

    def abort(self) -> None:
        """Close it synchronously, which wakes who waits on it."""
        ...

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: RequestBody,
        timeouts: Mapping[str, float | None],
        on_written: Callable[[], None] | None = None,
    ) -> Any:
        """Run the exchange up to the response's head: a `RawResponse`, in the class of whoever carries it."""
        ...


class Lines(Protocol):
    """The lines of one account."""

    def take(self) -> Line:
        """A line that is free, or a new one."""
        ...

    def take_fresh(self) -> Line:
        """A new line."""
        ...

    def give_back(self, line: Any, /) -> None:
        """Keep one of its lines whose exchange ended cleanly."""
        ...

    def discard(self, line: Any, /) -> None:
        """Close one of its lines, synchronously."""
        ...

    def next_change(self, now: float) -> float:
        """Trio time at which an idle line expires."""
        ...

    def expire(self, now: float) -> None:
        """Close what has been idle too long."""
        ...

    def abort(self) -> None:
        """Close everything, synchronously."""
        ...


class _InjectedStream:
    """A response's body from a transport given in code. Its socket is not ours to close: who waits in a read is woken by a scope."""

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream
        self._iterator: AsyncIterator[bytes] = aiter(stream)
        self._scope = trio.CancelScope()
        self._ended = False

    def __aiter__(self) -> _InjectedStream:
        return self

    async def __anext__(self) -> bytes:
        if not self._ended:
            with trio.CancelScope() as self._scope:
                while not (chunk := await anext(self._iterator)):  # an empty one is no news
                    pass
                return chunk
        raise httpx.ReadError("the answer was ended")

    def end(self) -> None:
        """Wake who reads; nothing more is read."""
        self._ended = True
        self._scope.cancel()

    async def aclose(self) -> None:
        """Let go of what carries it."""
        try:
            if (close := getattr(self._iterator, "aclose", None)) is not None:
                await close()
        finally:  # it may run still: whoever reads from it has been woken and ends it
            await self._stream.aclose()


@attrs.frozen(eq=False)
class _InjectedResponse:
    status: int
    headers: Sequence[tuple[bytes, bytes]]
    stream: ResponseStream


@attrs.define(eq=False)
class InjectedLine:
    """One exchange over a transport given in code."""

    transport: httpx.AsyncBaseTransport
    origin: str
    reused: bool = attrs.field(default=False, init=False)
    _stream: _InjectedStream | None = attrs.field(default=None, init=False)

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: RequestBody,
        timeouts: Mapping[str, float | None],
        on_written: Callable[[], None] | None = None,
    ) -> _InjectedResponse:
        """Run the exchange up to the response's head."""
        request = httpx.Request(
            method.decode("ascii"),
            self.origin + target.decode("ascii"),
            headers=list(headers),
            content=body,
            extensions={"timeout": dict(timeouts)},
        )
        del headers  # the credential is in them, and tracebacks show locals
        if on_written is not None:
            on_written()
        response = await self.transport.handle_async_request(request)
        stream: object = getattr(response, "stream", None)
        if not isinstance(stream, httpx.AsyncByteStream):
            given = type(response if stream is None else stream).__name__
            raise TypeError(
                f"the transport of an account answers with a Response over an AsyncByteStream of httpx, not {given}"
            )
        self._stream = _InjectedStream(stream)
        return _InjectedResponse(response.status_code, response.headers.raw, self._stream)

    def abort(self) -> None:
        """Nothing more is read of it."""
        if self._stream is not None:
            self._stream.end()


@attrs.frozen(eq=False)
class InjectedLines:
    """Lines over an `httpx.AsyncBaseTransport` given in code, which keeps its own connections."""

    transport: httpx.AsyncBaseTransport
    origin: str

    def take(self) -> InjectedLine:
        """One for an exchange."""
        return InjectedLine(self.transport, self.origin)

    def take_fresh(self) -> InjectedLine:
        """One for an exchange."""
        return self.take()

    def give_back(self, line: object) -> None:
        """Nothing is kept here."""

    def discard(self, line: InjectedLine) -> None:
        """Wake who reads from it; its stream is closed by who holds it."""
        line.abort()

    def next_change(self, now: float) -> float:
        """Nothing expires here."""
        return math.inf

    def expire(self, now: float) -> None:
        """Nothing expires here."""

    def abort(self) -> None:
        """The transport is its owner's to close."""


class AccountLink:
    """One account's address and lines; what its supervisor owns of the network."""

    def __init__(self, account: Account) -> None:
        self.changed: Callable[[], None] = _nobody
        self.provider: Provider = get_provider(account.provider)
        self.address = AccountAddress(account, self.provider)
        self._account = account
        self.lines = self._make_lines()

    def __repr__(self) -> str:
        return f"AccountLink({self._account.name!r})"

    def give_back(self, line: Line, lines: Lines) -> None:
        """Keep a line whose exchange ended cleanly."""
        if lines is not self.lines:  # new settings lead elsewhere
            lines.discard(line)
            return
        expected = lines.next_change(0.0)
        lines.give_back(line)
        if lines.next_change(0.0) < expected:
            self.changed()

    def next_change(self, now: float) -> float:
        """Trio time at which an idle connection expires."""
        return self.lines.next_change(now)

    def expire(self, now: float) -> None:
        """Close what has been idle too long."""
        self.lines.expire(now)

    def abort(self) -> None:
        """Close everything, synchronously."""
        self.lines.abort()

    def reconfigure(self, account: Account) -> None:
        """Use these settings for requests to come. Connections stay unless they lead elsewhere now; what runs on those ends
        as it would have."""
        old = self._account
        self._account = account
        self.provider = get_provider(account.provider)
        self.address = AccountAddress(account, self.provider)
        if (old.base_url, old.host, old.provider, old.transport) != (
            account.base_url, account.host, account.provider, account.transport,
        ):  # fmt: skip
            self.lines.expire(math.inf)
            self.lines = self._make_lines()

    def _make_lines(self) -> Lines:
        address = self.address
        if self._account.transport is not None:
            origin = f"{address.scheme.decode()}://{address.host_header.decode()}"
            return InjectedLines(self._account.transport, origin)
        secure = address.scheme == b"https"
        return Connections(
            httpcore.Origin(address.scheme, address.host, address.port),
            ssl_context=ssl.create_default_context() if secure else None,
            sni_host=address.server_name,
        )


def _nobody() -> None:
    """Nobody listens yet."""
