"""One admitted request: wait, then answer it or do what its fault says, and end it in the ledger with what was produced."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import attrs
import h11
import trio

from balancer.core.call import Demand
from balancer.testing.mock.connection import Connection, Headers
from balancer.testing.mock.counting import Admitted, Ledger
from balancer.testing.mock.dialects import Asked, encode, family_of, whole_answer
from balancer.testing.mock.events import error_event, stream
from balancer.testing.mock.faults import Action, Delay, Drop, Malformed, Stall, Status, StreamError, Truncate
from balancer.testing.mock.malformed import ENDLESS, NONSENSE, send_malformed
from balancer.testing.mock.record import Ended, Received
from balancer.testing.mock.settings import MockSettings
from balancer.testing.mock.signals import error_body, limit_headers
from balancer.testing.raw import reset

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


@attrs.define(eq=False)
class Exchange:
    """One admitted request on its connection. `base` are the headers of every answer; `on_end` is told how it ended, once."""

    settings: MockSettings
    connection: Connection
    entry: Received
    asked: Asked
    ledger: Ledger
    admitted: Admitted
    action: Action | None
    base: Headers
    clock: Callable[[], float]
    on_end: Callable[[Received, Ended, Action | None], None]

    async def run(self, latency: float) -> None:
        """Answers after `latency`. Whatever happens, the ledger gets its end."""
        try:
            await self.connection.pause(latency + (self.action.delay_for if isinstance(self.action, Delay) else 0.0))
            await self._perform()
        finally:
            self._end("gone")

    def _end(self, how: Ended) -> None:
        """Ends it, if nothing has yet. Called before the last write: whoever has read the answer finds it counted."""
        if self.entry.ended is None:
            self.ledger.end(self.admitted, self._actual(), trio.current_time())
            self.on_end(self.entry, how, self.action)

    def _actual(self) -> Demand:
        return Demand(input_tokens=self.entry.input_tokens, output_tokens=self.entry.output_tokens)

    async def _perform(self) -> None:
        match self.action:
            case Drop(reset=hard):
                self._end("cut")
                if hard:
                    reset(self.connection.stream)
            case Stall(events=0):
                await self.connection.pause(math.inf)
            case Status(status=status, code=code, message=message, headers=extra):
                body = error_body(family_of(self.asked.dialect, self.settings.speaks), status, code=code, message=message)
                more = [(name.encode(), value.encode()) for name, value in extra.items()]
                await self._answer(status, [*self._head(status), _JSON, *more], encode(body))
            case Malformed(shape=shape) if shape != "nonsense_headers":
                headers = self._head(200)
                if shape not in ENDLESS:
                    self._end("cut" if shape == "garbage" else "whole")
                await send_malformed(shape, self.connection, headers)
            case _ if self.asked.stream:
                await self._stream()
            case _:
                await self._whole()

    def _head(self, status: int) -> Headers:
        """The headers of the answer that is about to be sent."""
        self.entry.status = status
        self.entry.answered_at = self.clock()
        if isinstance(self.action, Malformed) and self.action.shape == "nonsense_headers":
            return [*self.base, *NONSENSE]
        if self.settings.headers == "none":
            return self.base
        now, model = trio.current_time(), self.asked.model
        return [*self.base, *limit_headers(self.settings.speaks, self.ledger, now, time.time(), model)]

    async def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        self._end("whole")
        await self.connection.answer(status, headers, body)

    async def _whole(self) -> None:
        entry, connection = self.entry, self.connection
        body = whole_answer(self.asked, entry.number)
        entry.output_tokens = self.asked.produced
        self.ledger.correct(self.admitted, self._actual(), trio.current_time())
        headers = [*self._head(200), _JSON]
        match self.action:
            case StreamError(status=status, code=code):
                error = error_body(family_of(self.asked.dialect, self.settings.speaks), status, code=code)
                await self._answer(200, headers, encode(error))
            case Truncate(events=count, clean=True):
                await self._answer(200, headers, body[:count])
            case Truncate(events=count):
                self._end("cut")
                await connection.send(connection.head(200, headers, len(body)), h11.Data(data=body[:count]))
            case Stall(events=count):
                await connection.send(connection.head(200, headers, len(body)), h11.Data(data=body[:count]))
                await connection.pause(math.inf)
            case _:
                await self._answer(200, headers, body)

    async def _stream(self) -> None:
        entry, connection, action = self.entry, self.connection, self.action
        streamed = stream(self.asked, entry.number)
        stop = action.events if isinstance(action, Stall | Truncate | StreamError) else len(streamed.events)
        interval = self.settings.token_interval
        pending: list[h11.Event] = [connection.head(200, [*self._head(200), _EVENTS], "chunked")]
        block: list[bytes] = []
        for place, event in enumerate(streamed.events[:stop]):
            if interval and streamed.first < place < streamed.first + streamed.tokens:
                await connection.send(*pending, h11.Data(data=b"".join(block)))
                pending, block = [], []
                entry.output_tokens = streamed.produced(place)
                await connection.pause(interval)
            block.append(event)
        if isinstance(action, StreamError):
            block.append(error_event(self.asked, stop, action.status, action.code))
        pending.append(h11.Data(data=b"".join(block)))
        whole = not isinstance(action, Stall | Truncate) or (isinstance(action, Truncate) and action.clean)
        if whole:
            pending.append(h11.EndOfMessage())
        entry.output_tokens = streamed.produced(stop)
        if not isinstance(action, Stall):
            self._end("whole" if whole else "cut")
        await connection.send(*pending)
        if isinstance(action, Stall):
            await connection.pause(math.inf)
