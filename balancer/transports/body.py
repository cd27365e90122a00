"""A response body that holds a lease, and settles it with the usage found in the answer's tail.

The lease is settled by the first of: the body's end, `aclose`, garbage collection, the balancer's idle limit or its end. A
finalizer may run in any thread and in the middle of any function, so it touches no state: it posts to trio's own turn, which
settles and closes the socket synchronously; that connection is never used again.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from balancer.actors.lease import Lease
from balancer.core.outcome import Outcome, Served, TimedOut, Truncated
from balancer.errors import StreamTruncated
from balancer.providers.dialect import BodyReader
from balancer.transports.decoding import Decoder, DecodingError
from balancer.transports.link import AccountLink, Line, Lines, ResponseStream

MAX_TAIL = 64 * 1024
"""Bytes that a reader may leave unread at `aclose` and still have the rest read for its end mark, so that the connection is kept."""


TAIL_TIMEOUT = 0.1
"""Seconds that this may take."""
CLOSED = "the balancer has closed this answer"


class BodyBroken(Exception):
    """The body cannot be read on. `reason` is the `BalancerError` or transport error behind it."""

    def __init__(self, kind: str, message: str, reason: Exception | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        """`"protocol"`, `"timeout"` or `"closed"`: which of its library's errors the caller gets."""
        self.__cause__ = reason


class HeldBody:
    """The body of one answer, in no library's class.

    Args:
        lease: what it holds.
        link, lines, line: what the exchange runs on.
        stream: the response's stream.
        reader: looks for the end mark, errors and usage in what passes.
        decoder: undoes a content encoding; `None` for a plain body.
        needs_end_mark: whether an end without the protocol's mark is a truncation.
    """

    __slots__ = (
        "_chunks", "_committed", "_decoder", "_finalizer", "_iterator", "_lease", "_line", "_lines", "_link", "_needs_end_mark", "_reader",
        "_received", "_stream", "closed_by_us", "done",
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
        self._chunks: list[bytes] = []
        self._received = 0
        self._finalizer: Any = None
        self._committed = False
        self.done = False
        self.closed_by_us = False

    @property
    def reader(self) -> BodyReader:
        """What has been seen so far."""
        return self._reader

    @property
    def decodes(self) -> bool:
        """Whether a content encoding is undone."""
        return self._decoder is not None

    @property
    def received(self) -> int:
        """Bytes of body that have arrived."""
        return self._received

    async def peek(self) -> None:
        """Read one chunk ahead and keep it for the caller. Raises what reading raises."""
        self._chunks += await self._next()

    async def read_all(self, cap: int) -> bytes:
        """All of an error answer, up to about `cap` bytes or as far as it can be read: its status has said enough."""
        try:
            while not self.done and self._received <= cap:
                await self.peek()
        except Exception:
            self.drop()
        self.drop()
        return self.take_all()[:cap]

    def take_all(self) -> bytes:
        """What is there of a body that is complete."""
        content, self._chunks = b"".join(self._chunks), []
        return content

    async def next_chunk(self) -> bytes:
        """The next bytes for the caller. Raises `StopAsyncIteration` at the end, `BodyBroken` where it breaks."""
        while not self._chunks:
            if self.done:
                if self.closed_by_us:
                    raise BodyBroken("closed", CLOSED)
                raise StopAsyncIteration
            try:
                self._chunks = await self._next()
            except BodyBroken:
                raise
            except Exception as error:
                raise self._broken(error) from None
        return self._chunks.pop(0)

    async def _next(self) -> list[bytes]:
        """One chunk, decoded into pieces. At the end the lease is settled and the line given back."""
        try:
            chunk = await self._iterator.__anext__()
        except StopAsyncIteration:
            await self._finish()
            return []
        except Exception:
            if self.closed_by_us:
                raise BodyBroken("closed", CLOSED) from None
            raise
        except BaseException:
            self.abandon()  # an exchange whose read was cancelled cannot be resumed
            raise
        self._received += len(chunk)
        self._lease.touch()
        pieces = [chunk] if self._decoder is None else list(self._decoder.feed(chunk))
        for piece in pieces:
            self._reader.feed(piece)
        return pieces

    async def _finish(self) -> None:
        if self._decoder is not None:
            self._decoder.finish()
        self._reader.end()
        if self._needs_end_mark and not self._reader.finished and self._reader.error is None:
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

    def _ending(self) -> Outcome:
        """What an answer that ended cleanly says: served, or the error it carried inside."""
        error = self._reader.error
        if error is None:
            return Served()
        return self._link.provider.evidence_of_error(error, trio.current_time()).outcome

    def _settle(self, outcome: Outcome) -> None:
        """The synchronous end: whatever happens next, the lease is back."""
        self.done = True
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        lease = self._lease
        if not isinstance(outcome, Served):
            lease.decision.outcome = outcome
        lease.settle(outcome, usage=self._reader.usage)

    def _broken(self, error: Exception) -> BodyBroken:
        """Settle a body that broke, and say which of its library's errors the caller gets."""
        outcome: Outcome
        if is_timeout(error):
            outcome, kind, reason = TimedOut("read"), "timeout", error
        else:
            outcome, kind = Truncated(self._received), "protocol"
            reason = StreamTruncated(
                f"the answer of account {self._lease.account.name!r} broke off after {self._received} bytes"
                + (f": {error}" if isinstance(error, DecodingError) else ""),
                received=self._received,
                decision=self._lease.decision,
            )
        self._settle(outcome)
        self._drop()
        return BodyBroken(kind, str(reason), reason)

    def commit(self) -> None:
        """The answer is the caller's: a body that is complete settles its lease now."""
        self._committed = True
        if self.done:
            self._settle(self._ending())

    def hold(self, owner: object) -> None:
        """From now on `owner`, the library's stream object, is what a caller may abandon, and the balancer may end it."""
        if self.done:
            return
        token = trio.lowlevel.current_trio_token()
        self._finalizer = weakref.finalize(owner, _post, token, self.abandon)
        self._finalizer.atexit = False
        self._lease.guard(self.close_now, idle=True)

    async def aclose(self) -> None:
        """The caller wants no more of it."""
        if self.done:
            return
        if self._needs_end_mark and self._reader.finished:
            # What the caller wanted has come; what is left is at most the end of the framing.
            await self._rest()
            if self.done:
                return
        self.abandon()

    async def _rest(self) -> None:
        """Read to the end of the framing, where that is near, so that the line can be kept."""
        left = MAX_TAIL
        with trio.move_on_after(TAIL_TIMEOUT):
            try:
                while not self.done and left > 0:
                    left -= sum(map(len, await self._next()))
            except Exception:
                self.abandon()

    def close_now(self) -> None:
        """The balancer ends it: the lease is given back, the next read of the caller fails."""
        self.closed_by_us = True
        self.abandon()

    def abandon(self) -> None:
        """Nobody reads on: settle and close the socket, synchronously."""
        if self.done:
            return
        self.done = True
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        if self._reader.finished:
            self._lease.settle(self._ending(), usage=self._reader.usage)
        else:
            if self._reader.usage is not None:
                self._lease.report(usage=self._reader.usage)
            self._lease.withdraw()
        self._drop()

    def drop(self) -> None:
        """An answer that is not the caller's: close it, without a word about its lease."""
        if not self.done:
            self.done = True
            self._drop()

    def _drop(self) -> None:
        self._lines.discard(self._line)
        # Generators that are dropped unfinished make trio warn and close them itself; their own close needs a task.
        trio.lowlevel.spawn_system_task(_bury, self._iterator, self._stream, name="balancer closes a dropped answer")


class EndMarkMissing(Exception):
    """The body ended without its protocol's end mark."""


def is_timeout(error: Exception) -> bool:
    """Whether a library's error is its read timeout."""
    return type(error).__name__ in ("ReadTimeout", "TooSlowError")


async def _bury(iterator: Any, stream: ResponseStream) -> None:
    """Let the parser's generators end; their socket is closed already, so nothing waits."""
    with trio.move_on_after(1.0, shield=True):
        for close in (getattr(iterator, "aclose", None), stream.aclose):
            try:
                if close is not None:
                    await close()
            except Exception:
                continue


def _post(token: trio.lowlevel.TrioToken, abandon: Callable[[], None]) -> None:
    try:
        token.run_sync_soon(abandon)
    except trio.RunFinishedError:
        return
