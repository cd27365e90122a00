"""One account's own HTTP/1.1 connections: a stack of idle ones, last in first out, in which nothing ever queues.

A library's pool lets requests wait for connections and loses slots when waiters are cancelled. Here whoever holds a lease gets
a connection at once, an idle one or a new one, because the lease already is the right to use it. Any of them can be closed
synchronously, from a cancelled task too. Errors are httpcore's, which both client libraries know.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

import attrs
import httpcore
import trio

from balancer.core.outcome import CallerFault, Failure, Faulted, TimedOut, Withdrawn
from balancer.engine.failures import is_local
from balancer.transports.http11 import Http11, Response
from balancer.transports.wire import Wire, open_wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, Callable, Mapping, Sequence


class StaleConnection(Exception):
    """A reused connection ended before one byte of an answer: nobody's fault, the request may go once more on a fresh one."""


def outcome_of(exc: Exception, written: bool, *, phase: str = "headers") -> Failure | CallerFault | Withdrawn:
    """What an error of `Connection.send`, or of reading its response, says about the account.

    Args:
        exc: an httpcore error or a `StaleConnection`.
        written: whether a byte of the request was written, on this connection or on a stale one before it.
        phase: what a read timeout interrupted: `"headers"`, or `"read"` for the body.
    """
    match exc:
        case httpcore.ConnectTimeout() if not written:
            return TimedOut("connect")
        case httpcore.WriteTimeout():
            return TimedOut("write")
        case httpcore.ReadTimeout():
            return TimedOut(phase)
        case httpcore.ConnectError() if is_local(exc):
            return Withdrawn(sent=written)
        case httpcore.ConnectError():
            return Faulted(f"no connection: {exc}", sent=written)
        case httpcore.LocalProtocolError():
            return CallerFault()
        case _:
            return Faulted(str(exc) or type(exc).__name__, sent=written)


@attrs.define(eq=False)
class Connection:
    """One connection to the account's origin, fresh or reused, and the exchange that runs on it.

    Made and taken back by `Connections`; one task uses it at a time.
    """

    _origin: httpcore.Origin
    _ssl_context: ssl.SSLContext | None
    _server_name: str
    reused: bool = False
    """Whether an earlier exchange has run on it."""
    idle_until: float = inf
    """Trio time at which the idle connection is closed."""
    _wire: Wire | None = None
    _http: Http11 | None = None
    _closed: bool = False
    _connecting: trio.CancelScope | None = None

    @property
    def written(self) -> bool:
        """Whether a byte of the present request may have been written."""
        return self._wire is not None and self._wire.written

    @property
    def is_idle(self) -> bool:
        """Whether its last exchange ended cleanly, so that another may begin."""
        return not self._closed and self._http is not None and self._http.is_idle

    @property
    def is_usable(self) -> bool:
        """Whether it is idle and silent. A readable idle socket was closed by the other side, or answers what nobody asked."""
        return self.is_idle and self._wire is not None and not self._wire.is_readable

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | AsyncIterable[bytes],
        timeouts: Mapping[str, float | None],
        on_written: Callable[[], None] | None = None,
    ) -> Response:
        """Run one exchange up to the response's head; the body is read from `response.stream`, which must be closed.

        Args:
            method: anything but CONNECT.
            target: path and query.
            headers: as they are to be sent, `Host` and framing included.
            body: the whole request body, or its parts as they come.
            timeouts: seconds for `connect`, `write`, `read`; absent or `None`: none of its own.
            on_written: called once, just before the first byte of the request is written.

        Raises:
            StaleConnection: a reused connection ended before a byte of the answer.
            httpcore.ConnectError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException: see `outcome_of`.
                Whatever is raised, the connection is of no more use and goes to `Connections.discard`.
        """
        if method == b"CONNECT":
            raise httpcore.LocalProtocolError("CONNECT is not carried")
        http, wire = await self._connected(timeouts)
        wire.begin(on_written)
        try:
            http.begin(method, target, headers)
            del headers  # the credential is in them, and tracebacks show locals
            response = await http.ask(body, timeouts)
        except (httpcore.RemoteProtocolError, httpcore.NetworkError) as exc:
            if self.reused and not wire.received and not self._closed:
                raise StaleConnection("a reused connection ended before its answer began") from exc
            raise
        return response

    async def _connected(self, timeouts: Mapping[str, float | None]) -> tuple[Http11, Wire]:
        if self._http is not None and self._wire is not None:
            return self._http, self._wire
        connect_timeout = timeouts.get("connect")
        self._connecting = trio.CancelScope(deadline=inf if connect_timeout is None else trio.current_time() + connect_timeout)
        try:
            wire = await open_wire(self._origin, self._ssl_context, self._server_name, self._connecting)
        except httpcore.ConnectTimeout:
            if self._closed:  # aborted, which ends the same scope
                raise httpcore.ConnectError("closed") from None
            raise
        if self._closed:
            wire.close()
            raise httpcore.ConnectError("closed")
        self._wire, self._http = wire, Http11(wire)
        return self._http, wire

    def abort(self) -> None:
        """Close it synchronously; who waits to connect, read or write gets an error. Safe to repeat."""
        self._closed = True
        if self._wire is not None:
            self._wire.close()
        elif self._connecting is not None:
            self._connecting.cancel()


class Connections:
    """The connections of one account. Synchronous throughout, so that every method runs in a cancelled task too.

    Also what the account's supervisor holds: it calls `next_change` and `expire` on its timer and `abort` at its end.

    Args:
        origin: the only place that any of them connects to.
        ssl_context: what verifies an https origin; one per account, made at start: making one takes 38 ms.
        sni_host: the name to ask for and to verify in TLS, where it is not the origin's host.
        keepalive_expiry: seconds an idle connection is kept, >= 0; by default 5, less than what common servers wait before they
            close (uvicorn 5, Node 5, nginx 75), so that most stale connections are ours to drop.
        max_idle: idle connections kept, >= 0; beyond it the one idle for longest is closed.
        clock: trio time.
    """

    def __init__(
        self,
        origin: httpcore.Origin,
        *,
        ssl_context: ssl.SSLContext | None,
        sni_host: str | None = None,
        keepalive_expiry: float = 5.0,
        max_idle: int = 1000,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        if origin.scheme == b"https":
            if ssl_context is None:
                raise ValueError("an https origin needs an SSL context")
            ssl_context.set_alpn_protocols(["http/1.1"])
        self._origin = origin
        self._ssl_context = ssl_context if origin.scheme == b"https" else None
        self._server_name = sni_host or origin.host.decode("ascii")
        self._keepalive_expiry = keepalive_expiry
        self._max_idle = max_idle
        self._clock = clock
        self._idle: deque[Connection] = deque()  # by `idle_until`, since they are pushed in order of time
        self._in_use: set[Connection] = set()
        self._aborted = False

    def __repr__(self) -> str:
        state = "aborted" if self._aborted else f"{self.idle} idle, {self.in_use} in use"
        return f"<Connections {self._origin}: {state}>"

    @property
    def idle(self) -> int:
        """Connections kept for the next exchange."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """Connections taken and not yet given back or discarded."""
        return len(self._in_use)

    def take(self) -> Connection:
        """The idle connection used last that is still good, or a new one, which connects when it first sends."""
        self.expire(self._clock())
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                connection.reused = True
                self._in_use.add(connection)
                return connection
            connection.abort()
        return self.take_fresh()

    def take_fresh(self) -> Connection:
        """A new connection, for what a reused one could not carry."""
        connection = Connection(self._origin, self._ssl_context, self._server_name)
        self._in_use.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose response was closed; close it if its exchange did not end cleanly."""
        if self._aborted or not connection.is_idle:
            self.discard(connection)
            return
        self._in_use.discard(connection)
        connection.idle_until = self._clock() + self._keepalive_expiry
        self._idle.append(connection)
        if len(self._idle) > self._max_idle:
            self._idle.popleft().abort()

    def discard(self, connection: Connection) -> None:
        """Close a connection that is of no more use, at once and whatever runs on it. Safe to repeat."""
        self._in_use.discard(connection)
        connection.abort()

    def next_change(self, now: float) -> float:
        """The trio time at which the next idle connection expires; `inf` if none is idle."""
        return self._idle[0].idle_until if self._idle else inf

    def expire(self, now: float) -> None:
        """Close the idle connections whose time is over."""
        while self._idle and self._idle[0].idle_until <= now:
            self._idle.popleft().abort()

    def abort(self) -> None:
        """Close every connection, idle and in use, for good: what is given back later is closed too."""
        self._aborted = True
        self.expire(inf)
        for connection in self._in_use:
            connection.abort()
