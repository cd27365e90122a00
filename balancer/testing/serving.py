"""Servers that live as long as an `async with` block, for tests and tools. An exception of the block leaves it unchanged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio

T = TypeVar("T")


@attrs.frozen
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def base_url(self) -> str:
        """The address as an account's `base_url`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


async def listen(host: str = "127.0.0.1", port: int = 0) -> tuple[Address, list[trio.SocketListener]]:
    """Opens a listener; port 0 takes a free one."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    return Address(host, int(listeners[0].socket.getsockname()[1])), listeners


@asynccontextmanager
async def running(start: Callable[[trio.Nursery], Awaitable[T]]) -> AsyncGenerator[T]:
    """Runs what `start` puts into a nursery; yields what it returns, cancels the rest at the end of the block."""
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield await start(nursery)
        except Exception as error:  # raised again below, outside the nursery that would wrap it in a group
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
