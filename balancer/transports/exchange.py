"""One attempt of an HTTP call: rewrite the request for the account, send it, judge the answer's head and first bytes, commit.

What is the caller's own (a 4xx that is about the request) is an answer like any other. What is about the account raises
`AttemptFailed` with the answer kept, so that the engine goes elsewhere and can still hand it over if nobody served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import attrs
import httpcore
import trio

from balancer.actors.lease import Lease
from balancer.core.call import Call
from balancer.core.outcome import AttemptFailed, CallerFault, Evidence, Faulted, LimitSeen, Served, Truncated, Withdrawn
from balancer.engine.failures import evidence_of
from balancer.engine.scoped import scoped
from balancer.providers.dialect import PLAIN, Dialect
from balancer.providers.values import Headers
from balancer.transports.body import EndMarkMissing, HeldBody
from balancer.transports.connections import StaleConnection, outcome_of
from balancer.transports.decoding import Decoder, DecodingError, decoder
from balancer.transports.link import AccountLink, InjectedLine, InjectedLines, Line, Lines, RawResponse
from balancer.transports.rewriting import BadHeader, rewrite_headers

MAX_ERROR_BODY = 256 * 1024
"""Bytes of an error answer that are read; real ones have a few hundred."""
MAX_PEEKED = 1024 * 1024
"""Bytes that may pass before the first event of an answer; heartbeats beyond it commit it as it is."""

NO_CONTENT = 204
HTTPCORE_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, StaleConnection)

_CONNECTION = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding", b"upgrade",
))  # fmt: skip
_FRAMING = frozenset((b"content-encoding", b"content-length"))


@attrs.define(eq=False)
class Answer:
    """A backend's answer, in no library's class.

    Attributes:
        status: the HTTP status.
        headers: without those of the connection.
        body: what is still to be read, or all of it.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]] = attrs.field(repr=False)
    body: HeldBody | bytes = attrs.field(repr=False)


class OneShot:
    """A request body too large to keep: what was read of it and the rest, given once."""

    def __init__(self, parts: Iterable[bytes], rest: AsyncIterator[bytes]) -> None:
        self._parts = deque(parts)
        self._rest = rest
        self.begun = False

    def __aiter__(self) -> OneShot:
        self.begun = True
        return self

    async def __anext__(self) -> bytes:
        return self._parts.popleft() if self._parts else await anext(self._rest)


@attrs.define(eq=False)
class Exchange:
    """What every attempt of one HTTP call sends.

    Args:
        call: the call; its model is what the body named.
        method: the HTTP method.
        below: path and query below the mount.
        headers: as the caller gave them.
        body: the request body; what can be given only once where it was too large to keep.
        dialect: how the path's API writes.
        llm: whether that is an LLM dialect that was understood.
        timeouts: seconds for connect, read and write, as the caller's library gave them.
        headers_timeout: seconds that one attempt may take from its lease to its answer's first bytes.
    """

    call: Call
    method: bytes
    below: bytes
    headers: list[tuple[bytes, bytes]] = attrs.field(repr=False)
    body: bytes | OneShot = attrs.field(repr=False)
    dialect: Dialect
    llm: bool
    timeouts: Mapping[str, float | None]
    headers_timeout: float

    def repeatable(self) -> bool:
        """Whether its body is still there for another attempt."""
        return isinstance(self.body, bytes) or not self.body.begun

    async def perform(self, lease: Lease) -> Answer:
        """Run one attempt under a lease. Raises `AttemptFailed` and transport errors, with the line already discarded."""
        link = lease.link
        assert isinstance(link, AccountLink), "the nursery gives every supervisor such a link"
        if isinstance(link.lines, InjectedLines):
            return await scoped(lease, self._perform, self.headers_timeout)
        lease.expect_by(lease.record.started_at + self.headers_timeout)
        return await self._perform(lease)

    async def _perform(self, lease: Lease) -> Answer:
        link = lease.link
        assert isinstance(link, AccountLink)
        lines = link.lines
        line, response = await self._send(lease, link, lines)
        headers = Headers(response.headers)
        limits = link.provider.limits_seen(headers)
        lease.observe(limits)
        good = 200 <= response.status < 300
        watched = self.llm and good and response.status != NO_CONTENT
        reader = self.dialect.reader(_is_stream(headers)) if watched else PLAIN.reader(False)
        undo, unreadable = self._decoder(headers)
        body = HeldBody(lease, link, lines, line, response.stream, reader, undo, needs_end_mark=watched)
        try:
            if not good:
                return await self._judge_error(lease, link, body, response, headers, limits, readable=unreadable is None)
            if unreadable is not None:
                raise unreadable
            return await self._judge(link, body, response, headers, limits)
        except BaseException:
            body.drop()
            raise

    async def _send(self, lease: Lease, link: AccountLink, lines: Lines) -> tuple[Line, RawResponse]:
        lease.unsent = True
        body = self.body
        if self.llm and lease.model is not None and lease.model != self.call.model and isinstance(body, bytes):
            body = self.dialect.replace_model(body, lease.model)
        target = link.address.target(self.below)
        line = self._take(lease, lines, fresh=False)
        try:
            if line.reused:
                try:
                    lease.unsent = False  # it goes out in this step
                    return line, await line.send(self.method, target, self._headers(link, body), body, self.timeouts)
                except StaleConnection:
                    # The other side had closed it: nobody's fault, but what was written may have been read.
                    if not self.call.replayable:
                        raise AttemptFailed(Withdrawn()) from None
                    lines.discard(line)
                    line = self._take(lease, lines, fresh=True)
                    lease.unsent = True
            return line, await line.send(self.method, target, self._headers(link, body), body, self.timeouts, lease.written)
        except BaseException:
            lines.discard(line)
            raise

    def _take(self, lease: Lease, lines: Lines, *, fresh: bool) -> Line:
        """A line, closed when the lease is ended from outside, which wakes the attempt out of every wait."""
        line = lines.take_fresh() if fresh else lines.take()
        if not isinstance(line, InjectedLine):
            lease.guard(line.abort)
        return line

    def _headers(self, link: AccountLink, body: bytes | OneShot) -> list[tuple[bytes, bytes]]:
        """What is sent. No local that lives on holds it: the credential is in it, and tracebacks show locals."""
        length = len(body) if isinstance(body, bytes) else None
        return rewrite_headers(self.headers, llm=self.llm, address=link.address, body_length=length)

    def _decoder(self, headers: Headers) -> tuple[Decoder | None, DecodingError | None]:
        """What undoes the answer's encoding, and why nothing does."""
        if self.method == b"HEAD":
            return None, None
        try:
            return decoder(headers.get(b"content-encoding")), None
        except DecodingError as error:
            return None, error

    async def _judge(
        self, link: AccountLink, body: HeldBody, response: RawResponse, headers: Headers, limits: tuple[LimitSeen, ...]
    ) -> Answer:
        if self.llm:
            if _is_page(headers):
                raise AttemptFailed(Faulted("a page instead of an answer"), limits=limits)
            await _first_bytes(body, headers)
            if (error := body.reader.error) is not None:
                evidence = link.provider.evidence_of_error(error, trio.current_time())
                if not isinstance(evidence.outcome, CallerFault):
                    raise AttemptFailed(evidence.outcome, limits=limits)
        body.commit()
        return Answer(response.status, _passed(response.headers, decoded=body.decodes), body)

    async def _judge_error(
        self,
        lease: Lease,
        link: AccountLink,
        body: HeldBody,
        response: RawResponse,
        headers: Headers,
        limits: tuple[LimitSeen, ...],
        *,
        readable: bool,
    ) -> Answer:
        content = await body.read_error(MAX_ERROR_BODY)
        if not readable:
            content = b""
        evidence = link.provider.evidence(response.status, headers, content, trio.current_time())
        answer = Answer(response.status, _passed(response.headers, decoded=True), content)
        if isinstance(evidence.outcome, CallerFault | Served):
            lease.settle(evidence.outcome, limits=limits)
            return answer
        raise AttemptFailed(evidence.outcome, limits=limits, answer=answer)

    def evidence(self, error: Exception, lease: Lease) -> Evidence | None:
        """What an error of `perform` says about the account; `None` if it is the caller's own."""
        match error:
            case AttemptFailed():
                return Evidence(error.outcome, error.usage, error.limits)
            case EndMarkMissing():
                return Evidence(Truncated())
            case DecodingError():
                return Evidence(Faulted(str(error)))
            case BadHeader():
                lease.unsent = True
                return None
            case _ if isinstance(error, HTTPCORE_ERRORS):
                return Evidence(outcome_of(error, not lease.unsent))
            case _:
                link = lease.link
                assert isinstance(link, AccountLink)
                return evidence_of(error, link.provider, trio.current_time())


async def _first_bytes(body: HeldBody, headers: Headers) -> None:
    """Read up to the first event of the answer: until then nothing has reached the caller, and another attempt may follow."""
    while not body.done and body.peeked_bytes <= MAX_PEEKED:
        await body.peek()
        if body.reader.first_event:
            # Who said how long the answer is has sent its end with its last byte: it is read without waiting.
            if body.reader.finished and headers.get(b"content-length") == b"%d" % body.received and not body.done:
                await body.peek()
            return


def _is_stream(headers: Headers) -> bool:
    return (headers.get(b"content-type") or b"").lower().startswith(b"text/event-stream")


def _is_page(headers: Headers) -> bool:
    return (headers.get(b"content-type") or b"").lower().startswith(b"text/html")


def _passed(headers: Sequence[tuple[bytes, bytes]], *, decoded: bool) -> list[tuple[bytes, bytes]]:
    """An answer's headers for the caller: without those of the connection, and of an encoding that was undone."""
    dropped = _CONNECTION | _FRAMING if decoded else _CONNECTION
    return [pair for pair in headers if pair[0].lower() not in dropped]
