"""Mock backends: real HTTP/1.1 servers on loopback that speak the providers' dialects, keep limits, fail on demand, and
record what they received.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from functools import partial

import attrs
import h11
import trio

from balancer.providers.provider import get_provider
from balancer.testing.mock.connection import Connection, Gone, Headers, Refuse
from balancer.testing.mock.counting import Ledger, Refused
from balancer.testing.mock.dialects import BadRequest, dialect_of, encode, family_of, read_request
from balancer.testing.mock.exchange import Exchange
from balancer.testing.mock.faults import Action, Delay, Faults, Malformed, name_of
from balancer.testing.mock.record import Counts, Ended, Received, fingerprint, shown_headers, shown_query
from balancer.testing.mock.settings import MockSettings
from balancer.testing.mock.signals import error_body, limit_headers, refusal_body, wait_headers
from balancer.testing.serving import Address, listen, running

RECORD_PATH = "/__record__"
_JSON = (b"content-type", b"application/json")


def _spoils(action: Action | None) -> bool:
    """Whether the answer is not what was asked for."""
    if isinstance(action, Malformed):
        return action.shape != "nonsense_headers"
    return action is not None and not isinstance(action, Delay)


@attrs.define(eq=False)
class MockBackend:
    """One running backend. Its identity is its address; its truth are its settings.

    Attributes:
        record: what it received, oldest first, at most `settings.record_limit` of them.
        started_at: trio time from which the record counts its seconds.
    """

    settings: MockSettings
    address: Address
    started_at: float
    record: deque[Received] = attrs.field(init=False, repr=False)
    _counts: Counts = attrs.field(init=False, factory=Counts)
    _ledgers: dict[str, Ledger] = attrs.field(init=False, factory=dict[str, Ledger], repr=False)
    _faults: Faults = attrs.field(init=False, repr=False)
    _latencies: random.Random = attrs.field(init=False, repr=False)
    _accepted: frozenset[str] | None = attrs.field(init=False, repr=False)
    _date: tuple[int, bytes] = attrs.field(init=False, default=(0, b""), repr=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        self.record = deque(maxlen=settings.record_limit)
        # Two generators, so that a fault more or less leaves the latencies as they were.
        self._faults = Faults(settings.faults, random.Random(settings.seed))
        self._latencies = random.Random(settings.seed + 1)
        keys = settings.keys
        self._accepted = None if keys is None else frozenset(fingerprint(key.reveal()) for key in keys)

    @property
    def base_url(self) -> str:
        """What an account's `base_url` is to be."""
        return self.address.base_url

    def counts(self) -> Counts:
        """What was seen so far, as a copy."""
        return attrs.evolve(self._counts)

    def record_json(self) -> bytes:
        """Counts and record as JSON."""
        return encode({"counts": attrs.asdict(self._counts), "received": [attrs.asdict(entry) for entry in self.record]})

    def clock(self) -> float:
        """Seconds since the start."""
        return trio.current_time() - self.started_at

    async def converse(self, stream: trio.SocketStream) -> None:
        """Serves one connection to its end."""
        self._counts.connections += 1
        connection = Connection(stream, self._counts.connections)
        try:
            while (received := await connection.receive()) is not None:
                await self._serve(connection, *received)
                if not connection.next_request():
                    break
        except Refuse as refuse:
            with suppress(Gone, h11.LocalProtocolError):
                await connection.answer(refuse.status, [(b"connection", b"close")], b"")
        except Gone:
            pass

    async def _serve(self, connection: Connection, request: h11.Request, body: bytes) -> None:
        path, _, query = request.target.decode("latin-1").partition("?")
        if path == RECORD_PATH:
            await connection.answer(200, [_JSON], self.record_json())
            return
        exchange = await self._admit(connection, self._enter(connection, request, path, query, body), body)
        if exchange is not None:
            await exchange.run(self.settings.latency.draw(self._latencies))

    def _end(self, entry: Received, how: Ended, action: Action | None = None) -> None:
        entry.ended, entry.ended_at = how, self.clock()
        self._counts.end(entry, spoiled=_spoils(action))

    def _enter(self, connection: Connection, request: h11.Request, path: str, query: str, body: bytes) -> Received:
        self._counts.begin()
        method = request.method.decode("ascii")
        entry = Received(
            number=self._counts.received,
            at=self.clock(),
            connection=connection.number,
            key=fingerprint(_credential(request)),
            method=method,
            path=path,
            query=shown_query(query) if query else [],
            headers=shown_headers(request.headers),
            dialect=dialect_of(method, path),
            body_size=len(body),
            body=body.decode(errors="replace") if self.settings.record_bodies else None,
        )
        self.record.append(entry)
        return entry

    async def _admit(self, connection: Connection, entry: Received, body: bytes) -> Exchange | None:
        """The exchange of a request that is let in; any other is answered here."""
        settings = self.settings
        family = family_of(entry.dialect, settings.speaks)
        headers = self._headers(entry.number)

        async def turn_away(status: int, answer: object, more: Headers) -> None:
            entry.status, entry.answered_at = status, self.clock()
            self._end(entry, "whole")
            await connection.answer(status, [*headers, *more, _JSON], encode(answer))

        if self._accepted is not None and entry.key not in self._accepted:
            return await turn_away(401, error_body(family, 401), [])
        try:
            asked = read_request(entry.dialect, body, settings.output_tokens)
        except BadRequest as error:
            return await turn_away(400, error_body(family, 400, message=str(error)), [])
        entry.model, entry.stream, entry.input_tokens = asked.model, asked.stream, asked.input_tokens
        entry.reserved_tokens = asked.demand.bound
        now = trio.current_time()
        if (ledger := self._ledgers.get(entry.key)) is None:
            counting = get_provider(settings.speaks).counting
            ledger = self._ledgers[entry.key] = Ledger(settings.limits, settings.charge_refused, counting, time.time() - now)
        admitted = ledger.admit(asked.demand, now, asked.model)
        entry.admitted = not isinstance(admitted, Refused)
        if isinstance(admitted, Refused):
            more = limit_headers(settings.speaks, ledger, now, time.time(), asked.model) if settings.headers == "honest" else []
            more += wait_headers(settings.speaks, admitted) if settings.retry_after else []
            return await turn_away(429, refusal_body(family, admitted, asked.model), more)
        action = self._faults.draw()
        entry.fault = None if action is None else name_of(action)
        return Exchange(settings, connection, entry, asked, ledger, admitted, action, headers, self.clock, self._end)

    def _headers(self, number: int) -> Headers:
        """The headers of every answer: the date, against which instants are read, and the request's id."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode())
        name = b"request-id" if self.settings.speaks == "anthropic" else b"x-request-id"
        return [(b"date", self._date[1]), (name, b"req_%d" % number)]


def _credential(request: h11.Request) -> str:
    """The credential of a request, in any of the headers in which providers take it; empty if there is none."""
    found = ""
    for name, value in request.headers:
        if name == b"authorization":
            scheme, _, found = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return found.strip()
        elif name in (b"x-api-key", b"api-key"):
            found = value.decode("latin-1")
    return found


async def serve(
    settings: MockSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    started_at: float | None = None,
    task_status: trio.TaskStatus[MockBackend] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs one backend until it is cancelled; tells its nursery the `MockBackend` once it listens."""
    address, listeners = await listen(host, port)
    backend = MockBackend(settings, address, trio.current_time() if started_at is None else started_at)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, backend.converse, listeners)
        task_status.started(backend)


@asynccontextmanager
async def open_mocks(settings: Mapping[str, MockSettings]) -> AsyncGenerator[dict[str, MockBackend]]:
    """Runs a backend for each name on loopback for the length of the block. Their records count from one instant."""
    started_at = trio.current_time()

    async def start(nursery: trio.Nursery) -> dict[str, MockBackend]:
        backends: dict[str, MockBackend] = {}
        for name, each in settings.items():
            backends[name] = await nursery.start(partial(serve, each, started_at=started_at))
        return backends

    async with running(start) as started:
        yield started


@asynccontextmanager
async def open_mock(settings: MockSettings | None = None) -> AsyncGenerator[MockBackend]:
    """Runs one backend on loopback for the length of the block."""
    async with open_mocks({"": settings or MockSettings()}) as backends:
        yield backends[""]
