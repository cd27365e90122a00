"""The network stream under an HTTP/1.1 connection: a trio socket that can be closed synchronously and tells what was sent.

It holds the request back until the answer is first read, so that head and body leave in one segment, and opens a scope only for
an operation that waits under a timeout.
"""

from __future__ import annotations

import socket
import ssl
from math import inf
from typing import TYPE_CHECKING

import httpcore
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_HELD = 1024 * 1024  # bytes of a request that are held back at the most
_JOIN = 64 * 1024  # bytes up to which copying head and body together is cheaper than a second send


class _Tcp(trio.abc.Stream):
    """A connected socket without the checkpoints of `trio.SocketStream` where nothing waits. TLS runs over it as well."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.is_closed = False

    def try_send(self, data: memoryview) -> int:
        """Send what the kernel takes at once, in bytes."""
        if self.is_closed:
            raise trio.ClosedResourceError
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self.is_closed:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_writable(self._sock)
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                continue

    async def wait_send_all_might_not_block(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self._sock)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            if self.is_closed:
                raise trio.ClosedResourceError
            # Waiting first saves the receive that would find nothing, which is the rule for an answer.
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(max_bytes or _JOIN)
            except BlockingIOError:
                continue

    def is_readable(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    @property
    def socket(self) -> socket.socket:
        return self._sock


class Wire:
    """What an HTTP/1.1 parser reads from and writes to. One exchange at a time, announced by `begin`.

    Attributes:
        written: whether a byte of the present request may have been written.
        received: whether a byte has arrived since the present exchange began.
        write_timeout: seconds that a write may wait; `None` for as long as it takes.
    """

    def __init__(self, tcp: _Tcp, tls: trio.SSLStream[_Tcp] | None) -> None:
        self._tcp = tcp
        self._tls = tls
        self.begin(None)

    def begin(self, on_written: Callable[[], None] | None) -> None:
        """A new exchange begins; `on_written` is called before its first byte is written."""
        self.written = False
        self.received = False
        self._on_written = on_written
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self.write_timeout: float | None = None

    @property
    def is_readable(self) -> bool:
        """Whether a read would return at once, with bytes or with the end."""
        return self._tcp.is_closed or self._tcp.is_readable()

    def hold(self, data: bytes) -> None:
        """Bytes that go out when the answer is first read."""
        if data:
            self._unsent.append(data)
            self._unsent_bytes += len(data)

    async def write(self, data: bytes) -> None:
        """One part of a body that may be larger than memory: what is held goes out when it is much."""
        self.hold(data)
        if self._unsent_bytes > _HELD:
            await self._flush()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - one per operation
        """The next bytes of the answer, after the request was sent; empty at the end.

        Raises:
            httpcore.ReadError, httpcore.ReadTimeout, httpcore.WriteTimeout: of the operation that failed.
        """
        if self._unsent:
            await self._flush()
        source = self._tls or self._tcp
        data = b""
        try:
            if timeout is None:
                data = bytes(await source.receive_some(max_bytes))
            else:
                with trio.move_on_after(timeout) as scope:
                    data = bytes(await source.receive_some(max_bytes))
                if scope.cancelled_caught:
                    raise httpcore.ReadTimeout("no byte of the answer in time")
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.ReadError(_text(exc)) from exc
        if data:
            self.received = True
        return data

    async def _flush(self) -> None:
        unsent = [memoryview(data) for data in self._unsent]  # whose repr shows no credential
        self._unsent = []
        if len(unsent) > 1 and self._unsent_bytes <= _JOIN:
            unsent = [memoryview(b"".join(unsent))]
        self._unsent_bytes = 0
        self.written = True
        if self._on_written is not None:
            self._on_written()
            self._on_written = None
        try:
            for data in unsent:
                sent = 0 if self._tls else self._tcp.try_send(data)
                if sent < len(data):
                    await self._send_rest(data[sent:])
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            # A server may refuse a long request before it has read it all: its answer, or the error, is in the read to come.
            pass

    async def _send_rest(self, rest: memoryview) -> None:
        timeout = self.write_timeout
        with trio.move_on_after(inf if timeout is None else timeout) as scope:
            await (self._tls or self._tcp).send_all(rest)
        if scope.cancelled_caught:
            raise httpcore.WriteTimeout("the request was not taken in time")

    def close(self) -> None:
        """Close the socket now. No TLS goodbye: it could block, and the framing of HTTP/1.1 needs none."""
        self._tcp.close()


async def open_wire(
    origin: httpcore.Origin, ssl_context: ssl.SSLContext | None, server_name: str, scope: trio.CancelScope
) -> Wire:
    """Connect to the origin, and verify it where there is an SSL context.

    Raises:
        httpcore.ConnectError: no connection, or one that could not be verified.
        httpcore.ConnectTimeout: neither, before `scope` was over.
    """
    try:
        with scope:
            stream = await trio.open_tcp_stream(origin.host.decode("ascii"), origin.port)
            tcp = _Tcp(socket.socket(fileno=stream.socket.detach()))
            if ssl_context is None:
                return Wire(tcp, None)
            try:
                tls = trio.SSLStream(tcp, ssl_context, server_hostname=server_name, https_compatible=True)
                await tls.do_handshake()
            except BaseException:
                tcp.close()
                raise
            return Wire(tcp, tls)
        raise httpcore.ConnectTimeout("no connection in time")
    except (OSError, UnicodeError, trio.BrokenResourceError) as exc:
        raise httpcore.ConnectError(_text(exc)) from exc


def _text(exc: BaseException) -> str:
    """What happened, in the system's or the TLS library's words, which a stream's own error hides in its cause."""
    cause = exc.__cause__ if isinstance(exc, trio.BrokenResourceError) else exc
    match cause:
        case ssl.SSLCertVerificationError():
            return f"certificate not accepted: {cause.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {cause.reason}"
        case None:
            return type(exc).__name__
        case _:
            return str(cause) or type(cause).__name__
