"""Backends that follow a script inside the process: their latency is `trio.sleep`, so virtual time runs through them.

`ScriptedBackend` answers the attempts of `run` and `map`; `ScriptedTransport` answers HTTP for `Account(transport=...)`. Both
keep what they saw, with times: tests judge by what the backend saw, not by what the balancer counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs
import httpx
import trio

from balancer.actors.lease import Lease
from balancer.core.call import Usage
from balancer.core.outcome import AttemptFailed, Outcome, Served

SERVED = Served()


@attrs.frozen
class Reply:
    """What one attempt meets.

    Args:
        after: seconds until it ends; 0: at once, without a checkpoint.
        end: the outcome, or an exception to raise as it is.
        usage: what it reports to have taken; `None`: nothing is reported.
    """

    after: float = 0.0
    end: Outcome | Exception = SERVED
    usage: Usage | None = None


@attrs.frozen
class Event:
    """Something that a backend saw.

    Attributes:
        at: trio time.
        account: on which account.
        what: `"began"`, `"ended"` (served), `"failed"` or `"cancelled"`.
    """

    at: float
    account: str
    what: str


class ScriptedBackend:
    """The backends behind all accounts, for attempts of `run`.

    Args:
        scripts: account name -> its replies, one per attempt; the last one repeats.
        default: the reply of accounts without a script.

    Attributes:
        events: what was seen, in order.
        most: account name -> attempts that ran there at once, at most.
    """

    def __init__(self, scripts: Mapping[str, Sequence[Reply]] | None = None, *, default: Reply = Reply()) -> None:
        self.events: list[Event] = []
        self.most: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._scripts = {name: deque(replies) for name, replies in (scripts or {}).items()}
        self._default = default

    @property
    def running(self) -> int:
        """Attempts that run now."""
        return self._running.total()

    def began(self, account: str | None = None) -> list[float]:
        """When attempts began, in order; of one account, or of all."""
        return [event.at for event in self.events if event.what == "began" and account in (None, event.account)]

    def accounts(self) -> list[str]:
        """The account of every attempt, in the order of their beginnings."""
        return [event.account for event in self.events if event.what == "began"]

    async def attempt(self, lease: Lease) -> str:
        """One attempt, for `run` and `map`. Returns the account's name; raises what the script says."""
        name = lease.account.name
        reply = self._reply(name)
        self._running[name] += 1
        self.most[name] = max(self.most[name], self._running[name])
        self._note(name, "began")
        what = "cancelled"
        try:
            if reply.after > 0.0:
                await trio.sleep(reply.after)
            if reply.usage is not None:
                lease.report(usage=reply.usage)
            what = "ended" if isinstance(reply.end, Served) else "failed"
            if isinstance(reply.end, Exception):
                raise reply.end
            if not isinstance(reply.end, Served):
                raise AttemptFailed(reply.end)
            return name
        finally:
            self._running[name] -= 1
            self._note(name, what)

    def _reply(self, name: str) -> Reply:
        script = self._scripts.get(name)
        if not script:
            return self._default
        return script.popleft() if len(script) > 1 else script[0]

    def _note(self, name: str, what: str) -> None:
        self.events.append(Event(trio.current_time(), name, what))


@attrs.frozen
class HTTPReply:
    """What one HTTP request meets.

    Args:
        status: of the answer.
        headers: of the answer.
        chunks: its body.
        after: seconds until the head.
        chunk_after: seconds before every chunk.
        error: raised in the place of a head.
        breaks_with: raised by the body after its last chunk.
    """

    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    chunks: Sequence[bytes] = ()
    after: float = 0.0
    chunk_after: float = 0.0
    error: Exception | None = None
    breaks_with: Exception | None = None


class ScriptedBody(httpx.AsyncByteStream):
    """The body of a scripted answer.

    Attributes:
        closed: whether it was closed.
        read: chunks that were read.
    """

    def __init__(self, reply: HTTPReply) -> None:
        self.closed = False
        self.read = 0
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._reply.chunks:
            if self._reply.chunk_after > 0.0:
                await trio.sleep(self._reply.chunk_after)
            self.read += 1
            yield chunk
        if self._reply.breaks_with is not None:
            raise self._reply.breaks_with

    async def aclose(self) -> None:
        """Mark it as closed."""
        self.closed = True


class ScriptedTransport(httpx.AsyncBaseTransport):
    """One account's backend, for `Account(transport=...)`.

    Args:
        replies: one per request; the last one repeats.

    Attributes:
        requests: what was received, bodies read.
        bodies: the bodies that were given, in the order of their heads.
        running: requests without a head yet.
    """

    def __init__(self, replies: Iterable[HTTPReply] = (HTTPReply(),)) -> None:
        self.requests: list[httpx.Request] = []
        self.bodies: list[ScriptedBody] = []
        self.running = 0
        self._replies = deque(replies)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer by the script."""
        await request.aread()
        self.requests.append(request)
        reply = self._replies.popleft() if len(self._replies) > 1 else self._replies[0]
        self.running += 1
        try:
            if reply.after > 0.0:
                await trio.sleep(reply.after)
        finally:
            self.running -= 1
        if reply.error is not None:
            raise reply.error
        body = ScriptedBody(reply)
        self.bodies.append(body)
        return httpx.Response(reply.status, headers=dict(reply.headers), stream=body)
