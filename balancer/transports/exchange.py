"""One attempt of an HTTP call: rewrite the request for the account, send it, judge the answer's head and first bytes, commit.

What is the caller's own (a 4xx that is about the request) is an answer like any other. What is about the account raises
`AttemptFailed` with the answer kept, so that the engine goes elsewhere and can still hand it over if nobody served.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping, Sequence

import attrs
import httpcore
import trio

from balancer.actors.lease import Lease
from balancer.core.call import Call
from balancer.core.outcome import AttemptFailed, CallerFault, Evidence, Faulted, LimitSeen, Served, Truncated, Withdrawn
from balancer.engine.failures import evidence_of
from balancer.providers.dialect import PLAIN, Dialect
from balancer.providers.values import Headers
from balancer.transports.body import EndMarkMissing, HeldBody
from balancer.transports.connections import StaleConnection, outcome_of
from balancer.transports.decoding import DecodingError, decoder
from balancer.transports.link import AccountLink, Line, Lines, RawResponse
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


@attrs.frozen(eq=False)
class Answer:
    """A backend's answer, in no library's class.

    Attributes:
        status: the HTTP status.
        headers: without those of the connection.
        body: what is still to be read, or all of it.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: HeldBody | bytes


@attrs.frozen(eq=False)
class Exchange:
    """What every attempt of one HTTP call sends.

    Args:
        call: the call; its model is what the body named.
        method: the HTTP method.
        below: path and query below the mount.
        headers: as the caller gave them.
        body: the request body; an iterable where it was too large to keep.
        dialect: how the path's API writes.
        llm: whether that is an LLM dialect that was understood.
        streamed: whether the answer is to be a stream of events.
        timeouts: seconds for connect, read and write, as the caller's library gave them.
    """

    call: Call
    method: bytes
    below: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterable[bytes]
    dialect: Dialect
    llm: bool
    streamed: bool
    timeouts: Mapping[str, float | None]

    async def perform(self, lease: Lease) -> Answer:
        """Run one attempt under a lease. Raises `AttemptFailed` and transport errors, with the line already discarded."""
        link = lease.link
        assert isinstance(link, AccountLink), "the nursery gives every supervisor such a link"
        lines = link.lines
        line, response = await self._send(lease, link, lines)
        headers = Headers(response.headers)
        limits = link.provider.limits_seen(headers)
        lease.observe(limits)
        body = self._body(lease, link, lines, line, response, headers)
        try:
            if 200 <= response.status < 300:
                return await self._judge(link, body, response, headers, limits)
            return await self._judge_error(lease, link, body, response, headers, limits)
        except BaseException:
            body.drop()
            raise

    async def _send(self, lease: Lease, link: AccountLink, lines: Lines) -> tuple[Line, RawResponse]:
        body = self.body
        if self.llm and lease.model is not None and lease.model != self.call.model and isinstance(body, bytes):
            body = self.dialect.replace_model(body, lease.model)
        target = link.address.target(self.below)
        length = len(body) if isinstance(body, bytes) else None
        headers = rewrite_headers(self.headers, llm=self.llm, address=link.address, body_length=length)
        line = lines.take()
        try:
            if line.reused:
                try:
                    return line, await line.send(self.method, target, headers, body, self.timeouts)
                except StaleConnection:
                    # The other side had closed it: nobody's fault, but what was written may have been read.
                    if not self.call.replayable:
                        raise AttemptFailed(Withdrawn()) from None
                    lines.discard(line)
                    line = lines.take_fresh()
            lease.unsent = True
            return line, await line.send(self.method, target, headers, body, self.timeouts, lease.written)
        except BaseException:
            lines.discard(line)
            raise

    def _body(
        self, lease: Lease, link: AccountLink, lines: Lines, line: Line, response: RawResponse, headers: Headers
    ) -> HeldBody:
        good = 200 <= response.status < 300
        watched = self.llm and good and self.method != b"HEAD" and response.status != NO_CONTENT
        reader = self.dialect.reader(self.streamed and _is_stream(headers)) if watched else PLAIN.reader(False)
        try:
            undo = decoder(headers.get(b"content-encoding")) if self.method != b"HEAD" else None
        except DecodingError:
            lines.discard(line)
            raise
        return HeldBody(lease, link, lines, line, response.stream, reader, undo, needs_end_mark=watched)

    async def _judge(
        self, link: AccountLink, body: HeldBody, response: RawResponse, headers: Headers, limits: tuple[LimitSeen, ...]
    ) -> Answer:
        if self.llm:
            if _is_page(headers):
                raise AttemptFailed(Faulted("a page instead of an answer"), limits=limits)
            await _first_bytes(body)
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
    ) -> Answer:
        content = await body.read_all(MAX_ERROR_BODY)
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
                return None
            case _ if isinstance(error, HTTPCORE_ERRORS):
                return Evidence(outcome_of(error, not lease.unsent))
            case _:
                link = lease.link
                assert isinstance(link, AccountLink)
                return evidence_of(error, link.provider, trio.current_time())


async def _first_bytes(body: HeldBody) -> None:
    """Read up to the first event of the answer: until then nothing has reached the caller, and another attempt may follow."""
    while not body.done and body.received <= MAX_PEEKED:
        await body.peek()
        if body.reader.first_event:
            # Who sends a short answer whole has sent its end with it, which is then here without waiting.
            if body.reader.finished and not body.done:
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
