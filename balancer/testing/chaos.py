"""A TCP proxy that spoils what passes through it: late, in slices, cut, reset, silent.

It knows bytes, not HTTP; what it does is set by a frozen `Chaos`, which may be replaced while connections live.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio

from balancer.testing.raw import reset
from balancer.testing.serving import Address, listen, running

_BLOCK = 65536


@attrs.frozen
class Chaos:
    """What the proxy does to each connection.

    Args:
        delay_for: seconds added to every block of the answer.
        slice_bytes: the answer is written in slices of at most this many bytes.
        cut_bytes: the connection ends after this many bytes of answer; 0: at once when the request came.
        stall_bytes: after this many bytes of answer nothing more arrives, and the connection stays.
        reset: a cut is a reset and not an end.
        refuse: new connections are reset as soon as they are made.
    """

    delay_for: float = 0.0
    slice_bytes: int | None = None
    cut_bytes: int | None = None
    stall_bytes: int | None = None
    reset: bool = False
    refuse: bool = False


@attrs.define(eq=False)
class ChaosProxy:
    """A proxy before one backend.

    Attributes:
        address: where it listens.
        chaos: what it does; replace it at any time.
        connections: how many were made so far.
        open_connections: how many live.
    """

    address: Address
    target: tuple[str, int]
    chaos: Chaos
    connections: int = attrs.field(init=False, default=0)
    open_connections: int = attrs.field(init=False, default=0)

    @property
    def base_url(self) -> str:
        """The address as an account's `base_url`."""
        return self.address.base_url

    async def carry(self, client: trio.SocketStream) -> None:
        """Serves one connection."""
        self.connections += 1
        if self.chaos.refuse:
            reset(client)
            return
        self.open_connections += 1
        try:
            async with await trio.open_tcp_stream(*self.target) as backend, trio.open_nursery() as nursery:
                nursery.start_soon(self._ask, client, backend, nursery.cancel_scope)
                await self._answer(backend, client)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            reset(client)
        finally:
            self.open_connections -= 1

    async def _ask(self, client: trio.SocketStream, backend: trio.SocketStream, scope: trio.CancelScope) -> None:
        async for data in client:
            if self.chaos.cut_bytes == 0:
                if self.chaos.reset:
                    reset(client)
                scope.cancel()
                return
            await backend.send_all(data)
        # A client that has ended its side of an HTTP exchange has left it.
        scope.cancel()

    async def _answer(self, backend: trio.SocketStream, client: trio.SocketStream) -> None:
        passed = 0
        async for data in backend:
            chaos = self.chaos
            await trio.sleep(chaos.delay_for)
            stops = [stop for stop in (chaos.cut_bytes, chaos.stall_bytes) if stop is not None]
            room = max(min(stops) - passed, 0) if stops else len(data)
            step = chaos.slice_bytes or _BLOCK
            for start in range(0, min(room, len(data)), step):
                await client.send_all(data[start : min(start + step, room)])
                await trio.lowlevel.checkpoint()
            passed += min(room, len(data))
            if stops and passed >= min(stops):
                if chaos.stall_bytes == min(stops):
                    await trio.sleep_forever()
                if chaos.reset:
                    reset(client)
                return


@asynccontextmanager
async def open_chaos(host: str, port: int, chaos: Chaos | None = None) -> AsyncGenerator[ChaosProxy]:
    """Starts a proxy on loopback before the server at `host` and `port`."""
    address, listeners = await listen()
    proxy = ChaosProxy(address, (host, port), chaos or Chaos())

    async def start(nursery: trio.Nursery) -> ChaosProxy:
        await nursery.start(trio.serve_listeners, proxy.carry, listeners)
        return proxy

    async with running(start) as started:
        yield started
