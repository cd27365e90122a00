"""What a batch tells the person who waits for it: how far it is, and at the end what failed and where."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from balancer.cli.batch_files import Bad, Request
from balancer.core.snapshot import AccountSnapshot
from balancer.engine.unwrapping import Unwrapped
from balancer.nursery import Statistics

MOST_TOLD = 1000
"""Bad lines that are told one by one; beyond it they are only counted."""
MOST_KINDS = 50
"""Kinds of failures that are told apart: a backend names its errors as it likes."""
LINES_SHOWN = 10
MOST_OUT = 5
"""Accounts that are said to be out; what matters of a hundred is that there are so many."""
MOST_LETTERS = 60
"""Characters of a name or reason."""
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
async def shown_progress(console: Console, tally: Tally, size: int | None, waiting: Callable[[], str]) -> AsyncGenerator[None]:
    """Shows how far it is, for the length of the block: a bar where somebody looks, else a line now and then.

    Args:
        console: where.
        tally: what has become of the lines so far.
        size: bytes of all lines, if known.
        waiting: what the calls wait for at the moment, in words; empty while none waits.
    """
    with Unwrapped():
        async with trio.open_nursery() as nursery:
            if console.is_terminal and not console.is_dumb_terminal:
                with Live(console=console, auto_refresh=False, transient=True) as live:
                    nursery.start_soon(_draw, live, tally, size, waiting)
                    yield
            else:
                nursery.start_soon(_say, console, tally, size, waiting)
                yield
            nursery.cancel_scope.cancel()


def tell(console: Console, text: str, style: str = "") -> None:
    """One line, as it is: nothing in it is markup, and it is not broken where the terminal ends."""
    console.print(escape(text), style=style or None, highlight=False, soft_wrap=True)


def waiting_for(statistics: Statistics, now: float) -> str:
    """What calls wait for at `now`: the accounts that take none, why, and for how many seconds; empty while no call waits."""
    if not statistics.waiting:
        return ""
    out = [text for snapshot in statistics.accounts.values() for text in _out(snapshot, now)]
    more = f", and {len(out) - MOST_OUT} more" if len(out) > MOST_OUT else ""
    return f"waiting: {', '.join(out[:MOST_OUT]) or 'for room in the limits'}{more}"


def _out(snapshot: AccountSnapshot, now: float) -> Iterator[str]:
    """Why an account takes no calls, or not all: its state, else what pauses single models or dimensions of it."""
    if snapshot.state != "healthy":
        yield _reason(snapshot, snapshot.state, snapshot.reason, snapshot.until - now)
        return
    for pause in snapshot.pauses:
        if now < pause.until < math.inf:
            narrowed = " ".join(part for part in (pause.model, pause.dimension) if part is not None)
            yield _reason(snapshot, "cooling", f"{pause.reason}: {narrowed}", pause.until - now)


def _reason(snapshot: AccountSnapshot, state: str, reason: str, left: float) -> str:
    name, reason = _plain(snapshot.name), _plain(reason)
    return f"{name} {state} ({reason})" + (f" {left:.0f} s" if 0.0 < left < math.inf else "")


def _plain(text: str) -> str:
    """A name or reason without what a terminal would obey: parts of it come from outside."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MOST_LETTERS])


def _bar(tally: Tally, size: int | None) -> Progress:
    # Drawn by a task of ours: rich's own thread would run garbage collection, and with it finalizers, at any moment.
    progress = Progress(
        TextColumn("{task.fields[tally].served} served, {task.fields[tally].failed} failed"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[tally].rate:.1f}/s, left"),
        TimeRemainingColumn(),
        auto_refresh=False,
    )
    progress.add_task("", total=size, tally=tally)
    return progress


async def _draw(live: Live, tally: Tally, size: int | None, waiting: Callable[[], str]) -> None:
    progress = _bar(tally, size)
    while True:
        progress.update(progress.task_ids[0], completed=tally.read)
        why = [Text(text, no_wrap=True, overflow="ellipsis")] if (text := waiting()) else []
        live.update(Group(progress, *why), refresh=True)
        await trio.sleep(DRAWN_EVERY)


async def _say(console: Console, tally: Tally, size: int | None, waiting: Callable[[], str]) -> None:
    while True:
        await trio.sleep(SAID_EVERY)
        why = f"; {text}" if (text := waiting()) else ""
        tell(console, f"{tally.served} served, {tally.failed} failed, {tally.rate:.1f}/s{_left(tally, size)}{why}")


def _left(tally: Tally, size: int | None) -> str:
    """How far it is and how long it still takes; nothing where nobody can know."""
    if not size or not tally.read:
        return ""
    return f", {tally.read / size:.0%}, {tally.seconds * (size - tally.read) / tally.read:.0f} s left"
