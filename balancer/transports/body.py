"""A response body that holds a lease, and settles it with the usage found in the answer's tail.

The lease is settled by the first of: the body's end, `aclose`, garbage collection, the balancer's idle limit or its end. A
finalizer may run in any thread and in the middle of any function, so it touches no state: it posts to trio's own turn, which
settles and closes the socket synchronously; that connection is never used again.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import trio

from balancer import logs
from balancer.actors.lease import Lease
from balancer.core.outcome import SERVED, Outcome, Served, TimedOut, Truncated
from balancer.errors import StreamTruncated
from balancer.providers.dialect import BodyReader
from balancer.transports.decoding import Decoder, DecodingError
from balancer.transports.link import AccountLink, InjectedLine, Line, Lines, ResponseStream

MAX_TAIL = 64 * 1024
"""Bytes that a reader may leave unread at `aclose` and still have the rest read for its end mark, so that the connection is kept."""
TAIL_TIMEOUT = 0.1
"""Seconds that this may take."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of one answer of an LLM, twice the largest request: more is no answer, and most clients keep it whole in memory."""
ERROR_BODY_TIMEOUT = 5.0
"""Seconds that the body of an error answer may take: its status has said enough."""
NOTHING_LEFT: Iterator[bytes] = iter(())
CLOSED = "the balancer has closed this answer"
LEFT = "this answer was left before its end"


class BodyBroken(Exception):
    """The body cannot be read on.

    Args:
        kind: `"protocol"`, `"timeout"` or `"closed"`: which of its library's errors the caller gets.
        message: for that error.
        reason: the `BalancerError` or transport error behind it.
    """

    def __init__(self, kind: str, message: str, reason: Exception | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason


class EndMarkMissing(Exception):
    """The body ended without its protocol's end mark."""


class AnswerTooLarge(Exception):
    """The body is longer than an answer can be."""


class HeldBody:
    """The body of one answer, in no library's class.

    Args:
        lease: what it holds.
        link, lines, line: what the exchange runs on.
        stream: the response's stream.
        reader: looks for the end mark, errors and usage in what passes.
        decoder: undoes a content encoding; `None` for a plain body.
        needs_end_mark: whether the protocol has an end mark: an end without it is a truncation, and no answer is endless.
    """

    __slots__ = (
        "_awaited", "_committed", "_decoder", "_finalizer", "_iterator", "_lease", "_line", "_lines", "_link", "_needs_end_mark",
        "_peeked", "_pieces", "_reader", "_stream", "broken", "done", "received",
    )  # fmt: skip

    def __init__(
        self,
        lease: Lease,
        link: AccountLink,
        lines: Lines,
        line: Line,
        stream: ResponseStream,
        reader: BodyReader,
        decoder: Decoder | None,
        *,
        needs_end_mark: bool,
    ) -> None:
        self._lease = lease
        self._link = link
        self._lines = lines
        self._line = line
        self._stream = stream
        self._iterator: AsyncIterator[bytes] = aiter(stream)
        self._reader = reader
        self._decoder = decoder
        self._needs_end_mark = needs_end_mark
        self._pieces = NOTHING_LEFT  # of the last chunk, decoded one by one: a bomb is never whole in memory
        self._peeked: deque[bytes] = deque()
        self._finalizer: Any = None
        self._committed = False
        self._awaited = -1  # bytes that had arrived when a read last began to wait: the same as now while it waits
        self.received = 0
        """Bytes of body that have arrived, as they came."""
        self.done = False
        """Whether nothing more is to be read from the line."""
        self.broken: BodyBroken | None = None
        """Why it was over before its end."""

    @property
    def reader(self) -> BodyReader:
        """What has been seen so far."""
        return self._reader

    # -- before the answer is the caller's --------------------------------------------------------------------------------

    async def read_first_event(self, cap: int, length: bytes | None) -> None:
        """Read ahead up to the first event of the answer: until then nothing has reached the caller, and another attempt may
        follow. Raises what reading raises.

        Args:
            cap: decoded bytes beyond which nothing more is read, whatever they are.
            length: the answer's `Content-Length`.
        """
        reader, ahead = self._reader, 0
        while ahead <= cap and (size := self._keep(await self._next())) is not None:
            ahead += size
            if reader.first_event:
                # Who said how long the answer is has sent its end with its last byte: it is read without waiting.
                if reader.finished and length == b"%d" % self.received:
                    self._keep(await self._next())
                return

    def _keep(self, piece: bytes | None) -> int | None:
        """Keep for the caller what was read ahead; its size, or `None` at the end. No frame holds the piece itself while the next one
        is waited for: a backend may echo the credential, and tracebacks show locals."""
        if piece is None:
            return None
        self._peeked.append(piece)
        return len(piece)

    async def read_error(self, cap: int) -> bytes:
        """The body of an error answer, up to `cap` bytes or as far as it can be read in time."""
        ahead = 0
        with trio.move_on_after(ERROR_BODY_TIMEOUT), suppress(Exception):
            while ahead <= cap and (size := self._keep(await self._next())) is not None:
                ahead += size
        self.drop()
        return self.take_all()[:cap]

    def take_all(self) -> bytes:
        """What has been read ahead: all of a body that is complete."""
        content = b"".join(self._peeked)
        self._peeked.clear()
        return content

    def commit(self) -> None:
        """The answer is the caller's: a body that is complete settles its lease now."""
        self._committed = True
        if self.done:
            self._settle(self._ending())

    def drop(self) -> None:
        """An answer that is not the caller's: close it, without a word about its lease."""
        if not self.done:
            self.done = True
            self._drop()

    # -- in the caller's hands --------------------------------------------------------------------------------------------

    def hold(self, owner: object) -> None:
        """From now on `owner`, the library's stream object, is what a caller may abandon, and the balancer may end it."""
        if self.done:
            return
        token = trio.lowlevel.current_trio_token()
        self._finalizer = weakref.finalize(owner, _post, token, self._collected)
        self._finalizer.atexit = False
        self._lease.guard(self.close_now, idle=True)

    async def next_chunk(self) -> bytes:
        """The next bytes for the caller. Raises `StopAsyncIteration` at the end, `BodyBroken` where it breaks."""
        if self._peeked:
            return self._peeked.popleft()
        if not self.done:
            self._lease.touch()
            try:
                piece = await self._next()
            except Exception as error:
                raise self.broken or self._broken(error) from None
            if piece is not None:
                return piece
        if self.broken is not None:
            raise self.broken
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """The caller wants no more of it."""
        if not self.done and self._needs_end_mark and self._has_ended:
            # What the caller wanted has come; what is left is at most the end of the framing.
            await self._rest()
        self.abandon()

    def close_now(self) -> None:
        """The balancer ends it, at its own end or because nothing was read for the idle limit: the lease is given back, the
        read of the caller fails. The silence is the backend's while a read waits, else the caller's."""
        lease = self._lease
        if lease.is_idle:
            if self._awaited == self.received and not self._has_ended:
                self._broken(trio.TooSlowError("the backend fell silent within its answer"))
                return
            logs.warning("balancer.body_abandoned", account=lease.account.name)
        self.abandon(CLOSED)

    def abandon(self, why: str = LEFT) -> None:
        """Nobody reads on: settle and close the socket, synchronously."""
        if self.done:
            return
        self.broken = BodyBroken("closed", why)
        if self._has_ended:
            self._settle(self._ending())
        else:
            self._release()
            if self._reader.usage is not None:
                self._lease.report(usage=self._reader.usage)
            self._lease.withdraw()
        self._drop()

    # -- reading ----------------------------------------------------------------------------------------------------------

    async def _next(self) -> bytes | None:
        """One piece, decoded; `None` at the end, where the lease is settled and the line given back."""
        while self._decoder is None or (piece := next(self._pieces, None)) is None:
            try:
                self._awaited = self.received
                chunk = await anext(self._iterator)
            except StopAsyncIteration:
                await self._finish()
                return None
            except Exception:
                raise
            except BaseException:
                # An exchange whose read was cancelled cannot be resumed. Before the commit its attempt says how it ended.
                if self._committed:
                    self.abandon()
                else:
                    self.drop()
                raise
            self.received += len(chunk)
            if self._committed:
                self._lease.touch()
            if self._needs_end_mark and self.received > MAX_ANSWER:
                raise AnswerTooLarge(f"more than {MAX_ANSWER} bytes")
            if self._decoder is None:
                self._reader.feed(chunk)
                return chunk
            self._pieces = self._decoder.feed(chunk)
        self._reader.feed(piece)
        return piece

    async def _rest(self) -> None:
        """Read to the end of the framing, where that is near, so that the line can be kept."""
        left = MAX_TAIL
        with trio.move_on_after(TAIL_TIMEOUT), suppress(Exception):
            while left > 0 and (piece := await self._next()) is not None:
                left -= len(piece)

    async def _finish(self) -> None:
        if self._decoder is not None:
            self._decoder.finish()
        self._reader.end()
        if self._needs_end_mark and not self._has_ended:
            raise EndMarkMissing
        self.done = True
        if self._committed:
            self._settle(self._ending())
        try:
            await self._stream.aclose()
        except BaseException:
            self._lines.discard(self._line)
            raise
        self._link.give_back(self._line, self._lines)

    @property
    def _has_ended(self) -> bool:
        """Whether the answer has said its last, served or failed, whatever its framing still has to say."""
        return self._reader.finished or self._reader.error is not None

    # -- ending -----------------------------------------------------------------------------------------------------------

    def _ending(self) -> Outcome:
        """What an answer that ended cleanly says: served, or the error it carried inside."""
        error = self._reader.error
        if error is None:
            return SERVED
        return self._link.provider.evidence_of_error(error, trio.current_time()).outcome

    def _settle(self, outcome: Outcome) -> None:
        """The synchronous end: whatever happens next, the lease is back."""
        self.done = True
        if self._finalizer is not None:
            self._release()
        lease = self._lease
        if not isinstance(outcome, Served):
            lease.decision.outcome = outcome
        lease.settle(outcome, usage=self._reader.usage)

    def _release(self) -> None:
        self.done = True
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None

    def _broken(self, error: Exception) -> BodyBroken:
        """Settle a body that broke, and say which of its library's errors the caller gets."""
        if is_timeout(error):
            outcome: Outcome = TimedOut("read")
            self.broken = BodyBroken("timeout", str(error) or "no byte of the answer in time", error)
        else:
            outcome = Truncated(self.received)
            why = f": {error}" if isinstance(error, DecodingError | AnswerTooLarge) else ""
            reason = StreamTruncated(
                f"the answer of account {self._lease.account.name!r} broke off after {self.received} bytes{why}",
                received=self.received,
                decision=self._lease.decision,
            )
            self.broken = BodyBroken("protocol", str(reason), reason)
        self._settle(outcome)
        self._drop()
        return self.broken

    def _collected(self) -> None:
        """Its owner was garbage-collected, unread or unclosed."""
        if not self.done:
            logs.warning("balancer.body_abandoned", account=self._lease.account.name)
            self.abandon()

    def _drop(self) -> None:
        self._lines.discard(self._line)
        if isinstance(self._line, InjectedLine):
            trio.lowlevel.spawn_system_task(_bury, self._iterator, self._stream, name="balancer closes a dropped answer")


def is_timeout(error: Exception) -> bool:
    """Whether a library's error is its read timeout."""
    return type(error).__name__ in ("ReadTimeout", "TooSlowError")


async def _bury(iterator: AsyncIterator[bytes], stream: ResponseStream) -> None:
    """Let the generators of a transport given in code end. They have been told to, so that reading on ends all of them at once, the
    inner ones too; closing the outer one would leave those to the garbage collector, and trio warns of that."""
    with trio.move_on_after(1.0, shield=True):
        with suppress(Exception):
            while True:
                await anext(iterator)
        with suppress(Exception):
            await stream.aclose()


def _post(token: trio.lowlevel.TrioToken, collected: Callable[[], None]) -> None:
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(collected)
