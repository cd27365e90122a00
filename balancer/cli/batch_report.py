"""What a batch tells the person who waits for it: how far it is, and at the end what failed and where."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from balancer.cli.batch_files import Bad, Request
from balancer.engine.unwrapping import Unwrapped

MOST_TOLD = 1000
"""Bad lines that are told one by one; beyond it they are only counted."""
MOST_KINDS = 50
"""Kinds of failures that are told apart: a backend names its errors as it likes."""
LINES_SHOWN = 10
DRAWN_EVERY = 0.2
SAID_EVERY = 10.0


@attrs.define(eq=False)
class Failures:
    """The failures of one kind: how many, and the lines of the first."""

    count: int = 0
    lines: list[int] = attrs.field(factory=list[int])


@attrs.define(eq=False)
class Tally:
    """What has become of the lines so far.

    Attributes:
        served: answered with a 2xx.
        failed: answered otherwise, or not at all.
        skipped: served by an earlier run.
        bad: lines that are no requests.
        read: bytes of the requests that are done with.
    """

    served: int = 0
    failed: int = 0
    skipped: int = 0
    bad: int = 0
    read: int = 0
    failures: dict[str, Failures] = attrs.field(factory=dict[str, Failures])
    bad_lines: list[Bad] = attrs.field(factory=list[Bad])
    _started_at: float = attrs.field(factory=time.monotonic)

    @property
    def answered(self) -> int:
        """Lines that this run has sent and written an answer of."""
        return self.served + self.failed

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started_at

    @property
    def rate(self) -> float:
        """Answers per second since the start."""
        return self.answered / max(self.seconds, 1e-3)

    def count(self, request: Request, *, served: bool, kind: str) -> None:
        """One more answer is written."""
        self.read += request.size
        if served:
            self.served += 1
            return
        self.failed += 1
        if kind not in self.failures and len(self.failures) >= MOST_KINDS:
            kind = "others"
        failures = self.failures.setdefault(kind, Failures())
        failures.count += 1
        if len(failures.lines) < LINES_SHOWN:
            failures.lines.append(request.line)

    def skip(self, request: Request) -> None:
        """One more that an earlier run has served."""
        self.read += request.size
        self.skipped += 1

    def pass_over(self, bad: Bad) -> bool:
        """One more bad line; whether it is among those told one by one."""
        self.read += bad.size
        self.bad += 1
        if len(self.bad_lines) >= MOST_TOLD:
            return False
        self.bad_lines.append(bad)
        return True

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "served": self.served,
            "failed": self.failed,
            "skipped": self.skipped,
            "bad": self.bad,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.rate, 3),
            "failures": [{"kind": kind, **attrs.asdict(failures)} for kind, failures in self._by_count()],
            "bad_lines": [{"line": bad.line, "problem": bad.problem} for bad in self.bad_lines],
        }

    def lines(self) -> Iterator[str]:
        """The summary for a person."""
        skipped = f", {self.skipped} were served before" if self.skipped else ""
        yield f"{self.served} served, {self.failed} failed{skipped} in {self.seconds:.1f} s ({self.rate:.1f}/s)"
        for kind, failures in self._by_count():
            more = ", ..." if failures.count > len(failures.lines) else ""
            yield f"  {failures.count} x {kind}: line {', '.join(map(str, failures.lines))}{more}"
        if self.bad:
            numbers = ", ".join(str(bad.line) for bad in self.bad_lines[:LINES_SHOWN])
            yield f"{self.bad} bad lines: {numbers}{', ...' if self.bad > LINES_SHOWN else ''}"

    def _by_count(self) -> list[tuple[str, Failures]]:
        return sorted(self.failures.items(), key=lambda item: -item[1].count)


@asynccontextmanager
async def shown_progress(console: Console, tally: Tally, size: int | None) -> AsyncGenerator[None]:
    """Shows how far it is, for the length of the block: a bar where somebody looks, else a line now and then."""
    with Unwrapped():
        async with trio.open_nursery() as nursery:
            if console.is_terminal and not console.is_dumb_terminal:
                with _bar(console) as progress:
                    nursery.start_soon(_draw, progress, tally, size)
                    yield
            else:
                nursery.start_soon(_say, console, tally, size)
                yield
            nursery.cancel_scope.cancel()


def tell(console: Console, text: str, style: str = "") -> None:
    """One line, as it is: nothing in it is markup, and it is not broken where the terminal ends."""
    console.print(escape(text), style=style or None, highlight=False, soft_wrap=True)


def _bar(console: Console) -> Progress:
    # Drawn by a task of ours: rich's own thread would run garbage collection, and with it finalizers, at any moment.
    return Progress(
        TextColumn("{task.fields[served]} served, {task.fields[failed]} failed"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:.1f}/s, left"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
    )


def _move(progress: Progress, tally: Tally, size: int | None) -> None:
    if not progress.task_ids:
        progress.add_task("", total=size, served=0, failed=0, rate=0.0)
    task = progress.task_ids[0]
    progress.update(task, completed=tally.read, served=tally.served, failed=tally.failed, rate=tally.rate, refresh=True)


async def _draw(progress: Progress, tally: Tally, size: int | None) -> None:
    while True:
        _move(progress, tally, size)
        await trio.sleep(DRAWN_EVERY)


async def _say(console: Console, tally: Tally, size: int | None) -> None:
    while True:
        await trio.sleep(SAID_EVERY)
        tell(console, f"{tally.served} served, {tally.failed} failed, {tally.rate:.1f}/s{_left(tally, size)}")


def _left(tally: Tally, size: int | None) -> str:
    """How far it is and how long it still takes; nothing where nobody can know."""
    if not size or not tally.read:
        return ""
    return f", {tally.read / size:.0%}, {tally.seconds * (size - tally.read) / tally.read:.0f} s left"
