"""One attempt of an HTTP call: rewrite the request for the account, send it, judge the answer's head and first bytes, commit.

What is the caller's own (a 4xx that is about the request) is an answer like any other. What is about the account raises
`AttemptFailed` with the answer kept, so that the engine goes elsewhere and can still hand it over if nobody served.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence

import attrs
import httpcore
import trio

from balancer.actors.lease import Lease
from balancer.core.call import Call
from balancer.core.outcome import AttemptFailed, CallerFault, Evidence, Faulted, LimitSeen, Served, Truncated, Withdrawn
from balancer.core.secret import Secret
from balancer.engine.failures import evidence_of
from balancer.engine.scoped import scoped
from balancer.providers.dialect import PLAIN, Dialect
from balancer.providers.http import plain_outcome
from balancer.providers.refusals import joined
from balancer.providers.values import Headers
from balancer.transports.body import EndMarkMissing, HeldBody
from balancer.transports.connections import StaleConnection, outcome_of
from balancer.transports.decoding import Decoder, DecodingError, decoder
from balancer.transports.link import AccountLink, InjectedLine, InjectedLines, Line, Lines, RawResponse
from balancer.transports.rewriting import HOP_BY_HOP, AccountAddress, BadHeader, rewrite_headers

MAX_ERROR_BODY = 256 * 1024
"""Bytes of an error answer that are read; real ones have a few hundred."""
MAX_PEEKED = 1024 * 1024
"""Bytes that may pass before the first event of an answer; heartbeats beyond it commit it as it is."""

SHORTEST_MASKED = 8
"""Characters of the shortest key that is looked for in an error; less may be a word."""

NO_CONTENT = 204
NOT_MODIFIED = 304
EVENT_STREAM = b"text/event-stream"
PAGE = b"text/html"
HTTPCORE_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, StaleConnection)

_HOP_AND_FRAMING = HOP_BY_HOP | {b"content-encoding", b"content-length"}


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
    """One HTTP call, as the engine's `Job`: what every attempt of it sends.

    Args:
        call: the call; its model is what the body named.
        method: the HTTP method.
        below: path and query below the mount.
        headers: as the caller gave them.
        body: the request body; what can be given only once where it was too large to keep.
        dialect: how the path's API writes.
        speaks: its name where it is an LLM dialect that was understood, and an account must speak it; else `None`.
        timeouts: seconds for pool, connect, read and write, as the caller's library gave them.
        headers_timeout: seconds that one attempt may take from its lease to its answer's first bytes.
    """

    call: Call
    method: bytes
    below: bytes
    headers: list[tuple[bytes, bytes]] = attrs.field(repr=False)
    body: bytes | OneShot = attrs.field(repr=False)
    dialect: Dialect
    speaks: str | None
    timeouts: Mapping[str, float | None]
    headers_timeout: float

    @property
    def shows_limits(self) -> bool:
        """Whether its answers show limits: those of an LLM's dialect do."""
        return self.speaks is not None

    @property
    def patience(self) -> float | None:
        """Seconds that it may wait for accounts: to its caller an account is what a connection of a pool is to others."""
        return self.timeouts.get("pool")

    def repeatable(self) -> bool:
        """Whether its body is still there for another attempt."""
        return isinstance(self.body, bytes) or not self.body.begun

    def discard(self, answer: Answer) -> None:
        """End an answer that came second."""
        if isinstance(answer.body, HeldBody):
            answer.body.abandon()

    def perform(self, lease: Lease) -> Awaitable[Answer]:
        """Run one attempt under a lease. Raises `AttemptFailed` and transport errors, with the line already discarded."""
        link = lease.link
        assert isinstance(link, AccountLink), "the nursery gives every supervisor such a link"
        if isinstance(link.lines, InjectedLines):
            return scoped(lease, self._perform, self.headers_timeout)
        lease.expect_by(lease.record.started_at + self.headers_timeout)
        return self._perform(lease)

    async def _perform(self, lease: Lease) -> Answer:
        link = lease.link
        assert isinstance(link, AccountLink)
        lines = link.lines
        line, response = await self._send(lease, link.address, lines)
        headers = Headers(response.headers)
        limits = link.provider.limits_seen(headers)
        # Where no LLM was asked, a redirect is an answer like any other.
        good = 200 <= response.status < 300 or (self.speaks is None and 300 <= response.status < 400)
        if good:  # else it is not known yet whether the provider counts it, and its end shows the same limits
            lease.observe(limits)
        watched = good and self.speaks is not None and response.status != NO_CONTENT
        said = headers.by_name().get
        kind = said(b"content-type", b"").lower()
        reader = self.dialect.reader(kind.startswith(EVENT_STREAM)) if watched else PLAIN.reader(False)
        undo, unreadable = self._decoder(response.status, said(b"content-encoding"))
        body = HeldBody(lease, link, lines, line, response.stream, reader, undo, needs_end_mark=watched)
        try:
            if not good:
                return await self._judge_error(lease, link, body, response, headers, limits, readable=unreadable is None)
            if unreadable is not None:
                raise unreadable
            if self.speaks is not None:
                if kind.startswith(PAGE):
                    raise AttemptFailed(Faulted("a page instead of an answer"), limits=limits)
                await body.read_first_event(MAX_PEEKED, said(b"content-length"))
                if (error := reader.error) is not None:
                    evidence = link.provider.evidence_of_error(error, trio.current_time())
                    if not isinstance(evidence.outcome, CallerFault):
                        raise AttemptFailed(evidence.outcome, limits=joined(limits, evidence.limits))
            body.commit()
            return Answer(response.status, _passed(headers, decoded=undo is not None), body)
        except BaseException:
            body.drop()
            raise

    async def _send(self, lease: Lease, address: AccountAddress, lines: Lines) -> tuple[Line, RawResponse]:
        """Send it over one of the lines of that address: new settings, while it waits, lead no credential to the old origin."""
        lease.unsent = True
        body = self.body
        if lease.model != self.call.model and lease.model is not None and self.speaks is not None and isinstance(body, bytes):
            body = self.dialect.replace_model(body, lease.model)
        target = address.target(self.below)
        line = self._take(lease, lines, fresh=False)
        try:
            if line.reused:
                try:
                    lease.unsent = False  # it goes out in this step
                    return line, await line.send(self.method, target, self._headers(lease, address, body), body, self.timeouts)
                except StaleConnection:
                    # The other side had closed it: nobody's fault, but what was written may have been read, and counts as sent.
                    if not self.call.replayable:
                        raise AttemptFailed(Withdrawn()) from None
                    lines.discard(line)
                    line = self._take(lease, lines, fresh=True)
            else:
                lease.connecting()
            return line, await line.send(
                self.method, target, self._headers(lease, address, body), body, self.timeouts, lease.written
            )
        except BaseException:
            lines.discard(line)
            raise

    def _take(self, lease: Lease, lines: Lines, *, fresh: bool) -> Line:
        """A line, closed when the lease is ended from outside, which wakes the attempt out of every wait."""
        line = lines.take_fresh() if fresh else lines.take()
        if not isinstance(line, InjectedLine):
            lease.guard(line.abort)
        return line

    def _headers(self, lease: Lease, address: AccountAddress, body: bytes | OneShot) -> list[tuple[bytes, bytes]]:
        """What is sent. No local that lives on holds it: the credential is in it, and tracebacks show locals."""
        length = len(body) if isinstance(body, bytes) else None
        credential = lease.credential if address.others else None
        return rewrite_headers(
            self.headers, llm=self.speaks is not None, address=address, body_length=length, credential=credential
        )

    def _decoder(self, status: int, encoding: bytes | None) -> tuple[Decoder | None, DecodingError | None]:
        """What undoes the answer's encoding, and why nothing does."""
        if encoding is None or self.method == b"HEAD" or status == NOT_MODIFIED:
            return None, None
        try:
            return decoder(encoding), None
        except DecodingError as error:
            return None, error

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
        now = trio.current_time()  # its waits run from the head, however long the body takes
        content = await body.read_error(MAX_ERROR_BODY)
        if not readable:
            content = b""
        outcome = plain_outcome(response.status) if self.speaks is None else None
        evidence = (
            link.provider.evidence(response.status, headers, content, now)
            if outcome is None
            else Evidence(outcome, None, limits)
        )
        answer = Answer(response.status, _passed(headers, decoded=True), _masked(content, lease.account.keys))
        if isinstance(evidence.outcome, CallerFault | Served):
            lease.settle(evidence.outcome, limits=limits)
            return answer
        raise AttemptFailed(evidence.outcome, limits=evidence.limits, answer=answer)

    def evidence(self, error: Exception, lease: Lease) -> Evidence | None:
        """What an error of `perform` says about the account; `None` if it is the caller's own."""
        match error:
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


def _masked(content: bytes, keys: Iterable[Secret]) -> bytes:
    """An error's body without the account's keys, as they are and as JSON writes them: backends quote what they refuse."""
    forms = {key.reveal() for key in keys if len(key.reveal()) >= SHORTEST_MASKED}
    forms |= {json.dumps(form)[1:-1] for form in forms}
    forms |= {form.replace("/", "\\/") for form in forms}
    for form in sorted(forms, key=len, reverse=True):  # one may begin with another
        content = content.replace(form.encode(), b"***")
    return content


def _passed(headers: Headers, *, decoded: bool) -> Sequence[tuple[bytes, bytes]]:
    """An answer's headers for the caller: without those of the connection, and of an encoding that was undone."""
    dropped = _HOP_AND_FRAMING if decoded else HOP_BY_HOP
    if dropped.isdisjoint(headers.by_name()):
        return headers.raw
    return [pair for pair in headers.raw if pair[0].lower() not in dropped]
