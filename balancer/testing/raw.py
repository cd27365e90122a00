"""A socket server that follows a script byte by byte, for faults that no HTTP library can be made to commit."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from balancer.testing.serving import Address, listen, running

RawScript = Callable[[trio.SocketStream, int], Awaitable[None]]


@asynccontextmanager
async def open_raw(script: RawScript, *, host: str = "127.0.0.1") -> AsyncGenerator[Address]:
    """Serves every connection with `script(stream, number)`, numbers from 1, and closes it when the script returns.

    A peer that leaves in the middle ends that connection only; any other exception of the script ends the block.
    """
    address, listeners = await listen(host)
    numbers = itertools.count(1)

    async def converse(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await script(stream, next(numbers))

    async def start(nursery: trio.Nursery) -> Address:
        await nursery.start(trio.serve_listeners, converse, listeners)
        return address

    async with running(start) as started:
        yield started


def reset(stream: trio.SocketStream) -> None:
    """Closes a connection at once with a reset: the peer sees an error where it would have seen an end. A closed one stays so."""
    if stream.socket.fileno() == -1:
        return
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def receive_request(stream: trio.SocketStream) -> bytes:
    """Reads one request's head and the body that its `content-length` announces; what came so far if the peer ends it."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (data := await stream.receive_some(65536)):
            return received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        if not (data := await stream.receive_some(65536)):
            break
        received, body = received + data, body + data
    return received
