"""What placing a call adds: the balancer's transport against the bare stack of connections, over connections without I/O.

The unit is one `trio.lowlevel.checkpoint()` timed in the same run, so that the figure holds on any machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from math import inf

import attrs
import httpx
import trio
import trio.testing

from balancer import BalancerConfig, open_balancer
from balancer.nursery import BalancerNursery
from balancer.transports.link import AccountLink
from benchmarks.client import ACCOUNTS, BODY
from benchmarks.report import Row, progress
from benchmarks.server import answer

Call = Callable[[], Awaitable[object]]

URL = "http://127.0.0.1/v1/chat/completions"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"300"), (b"server", b"none")]
ANSWER = answer().encode()
MOST_STEPS = 2


@attrs.define(eq=False)
class Body:
    """One chunk."""

    left: bool = True

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self.left:
            self.left = False
            return ANSWER
        raise StopAsyncIteration

    async def aclose(self) -> None:
        pass


@attrs.define(eq=False)
class Response:
    """What the line answers."""

    stream: Body
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = HEADERS


@attrs.define(eq=False)
class Line:
    """A connection that lets other tasks run, as an exchange does, and answers."""

    reused: bool = True

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: object,
        timeouts: Mapping[str, float | None],
        on_written: Callable[[], None] | None = None,
    ) -> Response:
        await trio.lowlevel.checkpoint()
        return Response(Body())

    def abort(self) -> None:
        pass


@attrs.define(eq=False)
class Lines:
    """The bare stack: what is idle is taken last in, first out."""

    idle: list[Line] = attrs.field(factory=list)

    def take(self) -> Line:
        return self.idle.pop() if self.idle else Line()

    take_fresh = take

    def give_back(self, line: Line) -> None:
        self.idle.append(line)

    def discard(self, line: Line) -> None:
        pass

    def next_change(self, now: float) -> float:
        return inf

    def expire(self, now: float) -> None:
        pass

    def abort(self) -> None:
        pass


class BareStream(httpx.AsyncByteStream):
    """A response's stream that gives its line back at its end."""

    def __init__(self, stream: Body, line: Line, lines: Lines) -> None:
        self._stream, self._line, self._lines = stream, line, lines

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        self._lines.give_back(self._line)


@attrs.define(eq=False)
class Bare(httpx.AsyncBaseTransport):
    """The stack of connections behind httpx and nothing else."""

    lines: Lines

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        line = self.lines.take()
        timeouts = request.extensions["timeout"]
        response = await line.send(request.method.encode(), request.url.raw_path, request.headers.raw, body, timeouts)
        return httpx.Response(response.status, headers=response.headers, stream=BareStream(response.stream, line, self.lines))


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


def without_io(balancer: BalancerNursery) -> None:
    """Puts connections that do no I/O under every account."""
    for supervisor in balancer._supervisors.values():  # there is no public way to have no network
        link = supervisor.link
        assert isinstance(link, AccountLink)
        link.lines = Lines()  # type: ignore[assignment]


def caller(transport: httpx.AsyncBaseTransport) -> Call:
    """One call over a transport, body and all."""
    request = httpx.Request("POST", URL, json=BODY, extensions={"timeout": httpx.Timeout(60.0).as_dict()})

    async def call() -> None:
        response = await transport.handle_async_request(request)
        await response.aread()

    return call


async def seconds_per_call(call: Call, in_flight: int, calls: int) -> float:
    """Seconds that one of `calls` calls takes, `in_flight` at once."""

    async def several(count: int) -> None:
        for _ in range(count):
            await call()

    began_at = time.perf_counter()
    if in_flight == 1:
        await several(calls)
    else:
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(several, calls // in_flight)
    return (time.perf_counter() - began_at) / calls


async def steps_per_call(call: Call, calls: int) -> float:
    """Task steps that one call takes, over all tasks."""
    steps = Steps()
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.add_instrument(steps)
    for _ in range(calls):
        await call()
    trio.lowlevel.remove_instrument(steps)
    return steps.count / calls


async def measure(*, quick: bool) -> list[Row]:
    """Rounds of checkpoint, bare and balanced in turn; the median of the rounds counts."""
    rounds, calls = (3, 320) if quick else (25, 3200)
    accounts = [{"name": f"account-{n}", "base_url": "http://127.0.0.1/v1", "key": "sk-none"} for n in range(ACCOUNTS)]
    rows: list[Row] = []
    with progress("placement", 2 * rounds) as step:
        async with open_balancer(BalancerConfig(accounts)) as balancer:
            without_io(balancer)
            balanced, bare = caller(balancer.transport()), caller(Bare(Lines()))
            for in_flight, most in ((1, 18.0), (32, 10.0)):
                await seconds_per_call(balanced, in_flight, calls)
                samples: list[tuple[float, float, float]] = []
                for _ in range(rounds):
                    unit = await seconds_per_call(trio.lowlevel.checkpoint, 1, calls)
                    samples.append((
                        unit,
                        await seconds_per_call(bare, in_flight, calls),
                        await seconds_per_call(balanced, in_flight, calls),
                    ))  # fmt: skip
                    step()
                units = statistics.median((with_it - without) / unit for unit, without, with_it in samples)
                said = [
                    f"checkpoint {a * 1e6:5.2f} us, bare {b * 1e6:6.2f} us, balanced {c * 1e6:6.2f} us" for a, b, c in samples
                ]
                rows.append(Row.at_most(f"placement, {in_flight} in flight, in checkpoints", units, most, said))
            added = await steps_per_call(balanced, 100) - await steps_per_call(bare, 100)
            rows.append(Row.at_most("placement, task steps added, all tasks", added, MOST_STEPS))
    return rows


def placement(*, quick: bool = False) -> list[Row]:
    """Added cost of a placed call, in checkpoints and in task steps."""
    return trio.run(lambda: measure(quick=quick))
