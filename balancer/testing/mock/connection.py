"""One HTTP/1.1 connection of a mock backend: whole requests in, answers out, and the notice that the client has left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import attrs
import h11
import trio

Headers = list[tuple[bytes, bytes]]
MAX_BODY = 33 << 20
_MAX_HEAD = 65536
_BLOCK = 65536
_BODILESS = (204, 304)


class Gone(Exception):
    """The client has left."""


class Refuse(Exception):
    """A request that cannot be read; its argument is the status to answer with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@attrs.define(eq=False)
class Connection:
    """One connection; `number` counts them from 1. Everything that fails because the client left raises `Gone`."""

    stream: trio.SocketStream
    number: int
    _machine: h11.Connection = attrs.field(
        init=False, factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    )
    _method: bytes = attrs.field(init=False, default=b"")

    async def receive(self) -> tuple[h11.Request, bytes] | None:
        """The next request and its body; `None` if there is none. Raises `Refuse`."""
        request: h11.Request | None = None
        chunks: list[bytes] = []
        size = 0
        while True:
            try:
                event = self._machine.next_event()
            except h11.RemoteProtocolError as error:
                raise Refuse(error.error_status_hint) from None
            if isinstance(event, h11.Data):
                chunks.append(bytes(event.data))
                size += len(event.data)
                if size > MAX_BODY:
                    raise Refuse(413)
            elif isinstance(event, h11.Request):
                request = event
                self._method = event.method
            elif isinstance(event, h11.EndOfMessage):
                return cast("h11.Request", request), chunks[0] if len(chunks) == 1 else b"".join(chunks)
            elif event is h11.NEED_DATA:
                if self._machine.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._machine.receive_data(await self._receive_some())
            else:
                return None

    async def _receive_some(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(_BLOCK))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None

    def next_request(self) -> bool:
        """Makes ready for another request, if the connection can carry one."""
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
            return True
        return False

    async def send(self, *events: h11.Event) -> None:
        """Sends a part of an answer, in one write."""
        await self.send_raw(b"".join(self._machine.send(event) or b"" for event in events))

    async def send_raw(self, data: bytes) -> None:
        """Sends bytes past the protocol."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None

    def head(self, status: int, headers: Headers, length: int | Literal["chunked"]) -> h11.Response:
        """The head of an answer whose body has `length` bytes, or whose length is not known yet."""
        framing = (b"transfer-encoding", b"chunked") if length == "chunked" else (b"content-length", b"%d" % length)
        return h11.Response(status_code=status, headers=[*headers, framing])

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer."""
        events: Sequence[h11.Event] = (h11.Data(data=body), h11.EndOfMessage())
        if self._method == b"HEAD" or status in _BODILESS:
            events = (h11.EndOfMessage(),)
        await self.send(self.head(status, headers, len(body)), *events)

    async def pause(self, seconds: float) -> None:
        """Waits; raises `Gone` as soon as the client leaves."""
        if seconds <= 0.0:
            return
        with trio.move_on_after(seconds):
            if not (data := await self._receive_some()):
                raise Gone
            # The next request already: its sender is still there. No more is read, so that nothing piles up here.
            self._machine.receive_data(data)
            await trio.sleep_forever()
