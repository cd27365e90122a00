"""`balancer batch`: a file of requests in, a file of answers out, over all accounts as fast as their quotas allow.

The format is that of OpenAI's batch API, sent now instead of within a day. There is no second way to send: every line is a
request of an httpx client on the balancer's transport. What is held is bounded: so many calls at once, so many bytes of them,
and a digest of each line's id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import attrs
import httpx
import trio
from cyclopts import Parameter, validators
from rich.console import Console

from balancer.cli.batch_files import (
    MAX_ANSWER,
    MOUNT,
    AnswerFile,
    Bad,
    FileUnusable,
    Request,
    RequestFile,
    answer_line,
    digest_of,
)
from balancer.cli.batch_report import Tally, shown_progress, tell, waiting_for
from balancer.cli.console import INTERRUPTED, ConfigFile, Json, complain, interruptible, print_faults, print_json
from balancer.config import BalancerConfig
from balancer.engine.unwrapping import Unwrapped
from balancer.errors import BalancerError, ConfigError, StreamTruncated
from balancer.nursery import BalancerNursery, open_balancer
from balancer.providers.judging import read_error
from balancer.testing.backends import mock_backends

ALL_SERVED = 0
SOME_FAILED = 1
UNUSABLE = 2

CALLS_AT_ONCE = 256
"""Enough for 1,500 answers a minute at ten seconds each; more is asked for with `--limit`."""
MAX_HELD = 64 << 20
"""Bytes of requests that are in flight or wait for an account; one alone may have more."""

TIMEOUT = httpx.Timeout(600.0, connect=10.0, pool=None)
"""Ten minutes of silence are given up, as the official SDKs do; a call waits for an account as long as it takes."""
HEADERS = {"content-type": "application/json", "accept": "application/json"}

RequestPath = Annotated[Path, Parameter(name="IN", help="The requests: lines of custom_id, method, url and body.")]
AnswerPath = Annotated[Path, Parameter(name="OUT", help="The answers, in the order in which they come.")]
Limit = Annotated[int, Parameter(help="Calls at once, at most.", validator=validators.Number(gte=1, lte=100_000))]


def batch(
    source: RequestPath, target: AnswerPath, /, *, config: ConfigFile, as_json: Json = False, limit: Limit = CALLS_AT_ONCE
) -> int:
    """Send every request of a file, as laid out for OpenAI's batch API, and write the answers to another.

    Run it again after a break: what has a 2xx answer in OUT is left out, all else is sent again; of several answers to one
    custom_id the last counts. The exit code is 0 if all were served, 1 if not, 2 if a file cannot be used, 130 after Ctrl-C.
    """
    console = Console(stderr=True)
    try:
        if source.exists() and target.exists() and source.samefile(target):
            raise FileUnusable(f"{source} and {target} are one file; the answers need their own")
        settings = BalancerConfig.load(config)
        with RequestFile.open(source) as requests, AnswerFile(target) as answers:
            run = Batch(requests, answers, console, limit)
            trio.run(run.serve, settings)
    except ConfigError as error:
        print_faults(error)
        return UNUSABLE
    except FileUnusable as error:
        complain(str(error))
        return UNUSABLE
    except KeyboardInterrupt:  # before the first line, or a second time
        return INTERRUPTED
    return _finish(run, target, as_json=as_json)


def _finish(run: Batch, target: Path, *, as_json: bool) -> int:
    tally = run.tally
    if as_json:
        print_json({**tally.summary(), "interrupted": run.interrupted})
    else:
        out = Console()
        for line in tally.lines():
            tell(out, line)
    if run.broken:
        complain(run.broken)
    if run.interrupted or run.broken or tally.failed:
        how = f"Run the same command to go on: what has a 2xx answer in {target} is left out."
        tell(run.console, f"Interrupted. {how}" if run.interrupted else how)
    if run.interrupted:
        return INTERRUPTED
    return SOME_FAILED if run.broken or tally.failed or tally.bad else ALL_SERVED


@attrs.define(eq=False)
class Batch:
    """One run.

    Args:
        requests, answers: its files.
        console: where it tells what happens.
        limit: calls at once.

    Attributes:
        interrupted: whether a signal ended it early.
        broken: what else ended it early, in words.
    """

    requests: RequestFile
    answers: AnswerFile
    console: Console
    limit: int
    tally: Tally = attrs.field(factory=Tally, init=False)
    interrupted: bool = attrs.field(default=False, init=False)
    broken: str = attrs.field(default="", init=False)
    _met: set[bytes] = attrs.field(factory=set[bytes], init=False)
    _held: int = attrs.field(default=0, init=False)
    _freed: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def serve(self, settings: BalancerConfig) -> None:
        """Send what is to be sent, until the file ends or a signal comes. Raises `ConfigError`."""
        patient = attrs.evolve(settings, max_wait_for=None, max_waiting=max(settings.max_waiting, self.limit))
        if self.answers.torn:
            tell(self.console, f"a torn last line of {self.answers.torn} bytes was cut off the answers")
        try:
            with interruptible() as scope:
                async with mock_backends(patient) as ready, open_balancer(ready) as balancer:
                    transport = balancer.transport(mount=MOUNT)
                    async with httpx.AsyncClient(transport=transport, base_url="http://balancer", timeout=TIMEOUT) as client:
                        await self._send_all(client, balancer)
            self.interrupted = scope.cancelled_caught
        except FileUnusable as error:
            self.broken = str(error)
        except BalancerError as error:
            self.broken = f"the balancer has failed: {error}"

    async def _send_all(self, client: httpx.AsyncClient, balancer: BalancerNursery) -> None:
        send, receive = trio.open_memory_channel[Request](0)

        def waiting() -> str:
            return waiting_for(balancer.statistics(), trio.current_time())

        async with shown_progress(self.console, self.tally, self.requests.size, waiting):
            with Unwrapped():
                async with trio.open_nursery() as nursery:
                    for _ in range(self.limit):
                        nursery.start_soon(self._work, client, receive.clone())
                    receive.close()
                    await self._feed(send)

    async def _feed(self, send: trio.MemorySendChannel[Request]) -> None:
        async with send:
            while lines := await trio.to_thread.run_sync(self.requests.some, abandon_on_cancel=True):
                for line in lines:
                    if isinstance(line, Bad):
                        self._pass_over(line)
                    elif (digest := digest_of(line.custom_id)) in self._met:
                        self._pass_over(Bad(line.line, "custom_id: that of an earlier line", line.size))
                    else:
                        self._met.add(digest)
                        await self._serve_or_skip(line, digest, send)

    async def _serve_or_skip(self, request: Request, digest: bytes, send: trio.MemorySendChannel[Request]) -> None:
        if digest in self.answers.served:
            self.answers.served.remove(digest)  # it is in `_met` now: no id is held twice
            self.tally.skip(request)
        else:
            await self._make_room(request)
            await send.send(request)

    def _pass_over(self, bad: Bad) -> None:
        if self.tally.pass_over(bad):
            tell(self.console, f"line {bad.line}: {bad.problem}", "yellow")

    async def _make_room(self, request: Request) -> None:
        while self._held and self._held + len(request.body) > MAX_HELD:
            self._freed = trio.Event()
            await self._freed.wait()
        self._held += len(request.body)

    async def _work(self, client: httpx.AsyncClient, requests: trio.MemoryReceiveChannel[Request]) -> None:
        async with requests:
            async for request in requests:
                status, kind, line = await _answer(client, request)
                self.answers.append(line)
                self.tally.count(request, served=status // 100 == 2, kind=kind)
                self._held -= len(request.body)
                self._freed.set()


async def _answer(client: httpx.AsyncClient, request: Request) -> tuple[int, str, bytes]:
    """Status (0: none), kind and line of the answer to one request."""
    try:
        async with client.stream("POST", request.url, content=request.body, headers=HEADERS) as response:
            content = await _read(response)
    except (httpx.TransportError, AnswerTooLong) as error:
        code = _code(error)
        return 0, code, answer_line(request.custom_id, error=(code, str(error)))
    request_id = response.headers.get("x-request-id") or response.headers.get("request-id") or ""
    status = response.status_code
    kind = "" if response.is_success else f"{status} {next(iter(read_error(content).codes), '')}".rstrip()
    return status, kind, answer_line(request.custom_id, response=(status, request_id, content))


class AnswerTooLong(Exception):
    """An answer that does not fit into a line."""


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > MAX_ANSWER:
            raise AnswerTooLong(f"the answer is longer than {MAX_ANSWER} bytes")
    return bytes(content)


def _code(error: Exception) -> str:
    """What an answer that did not come, or not whole, is called in the file."""
    if isinstance(error, AnswerTooLong):
        return "answer_too_long"
    if isinstance(error.__cause__, StreamTruncated):
        return "stream_truncated"
    return "timeout" if isinstance(error, httpx.TimeoutException) else "connection_error"
