"""What the demo shows while it runs: a table that lives on a terminal, else a line every two seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from balancer.cli.console import table_of
from balancer.core.snapshot import AccountSnapshot
from balancer.nursery import BalancerNursery
from balancer.testing.mock import Counts, MockBackend
from balancer.testing.traffic import Tally, percentile

REFRESH_EVERY = 0.2
LINE_EVERY = 2.0
_STYLES = {"healthy": "green", "cooling": "yellow", "probing": "yellow", "ejected": "red", "disabled": "red"}


@attrs.define(eq=False)
class Run:
    """One client's way through the traffic.

    Attributes:
        client: its name.
        calls: how many calls the traffic has.
        started_at: trio time.
        backends: account name -> its backend.
        tally: what the client got.
        seconds: how long it took, once it has ended.
    """

    client: str
    calls: int
    started_at: float
    backends: Mapping[str, MockBackend]
    tally: Tally = attrs.field(factory=Tally)
    seconds: float = 0.0

    def end(self) -> None:
        """The last call has ended, or Ctrl-C was pressed."""
        self.seconds = trio.current_time() - self.started_at

    def counts(self) -> dict[str, Counts]:
        """What each backend saw so far."""
        return {name: backend.counts() for name, backend in self.backends.items()}


@attrs.frozen
class Board:
    """A run to look at, with the state of its accounts where there is a balancer."""

    run: Run
    balancer: BalancerNursery | None

    def line(self) -> str:
        """Where the run stands, in one line."""
        tally = self.run.tally
        counts = self.run.counts().values()
        waiting = f", {self.balancer.statistics().waiting} waiting" if self.balancer else ""
        return (
            f"{self.run.client} {trio.current_time() - self.run.started_at:.0f} s: {tally.arrived}/{self.run.calls} calls, "
            f"{tally.served} served, {tally.failed} failed, {sum(each.in_flight for each in counts)} in flight{waiting}, "
            f"{sum(each.refused for each in counts)} refused"
        )

    def table(self) -> Group:
        """The accounts as they are now."""
        table = table_of()
        table.add_column("account", overflow="ellipsis", no_wrap=True)
        table.add_column("state", no_wrap=True, min_width=13)
        for column in ("in\nflight", "quota\nused", "served", "refused", "faulted", "p50\nin s", "p95\nin s"):
            table.add_column(column, justify="right", no_wrap=True)
        now = trio.current_time()
        snapshots: Mapping[str, AccountSnapshot] = self.balancer.statistics().accounts if self.balancer else {}
        for name, counts in self.run.counts().items():
            latencies = self.run.tally.latencies.get(name, ())
            table.add_row(
                Text(name),
                _state(snapshots.get(name), now),
                str(counts.in_flight),
                _quota_used(snapshots.get(name), now),
                str(counts.served),
                Text(str(counts.refused), "red" if counts.refused else ""),
                str(counts.faulted),
                seconds(percentile(latencies, 0.5)),
                seconds(percentile(latencies, 0.95)),
            )
        # The last line is short: the terminal echoes ^C behind it, and a line more would be left behind.
        return Group(Text(self.line(), "bold"), table, Text("Ctrl-C ends it here", "dim"))


async def watch(board: Board, console: Console) -> None:
    """Shows the board until it is cancelled."""
    if not console.is_terminal or console.is_dumb_terminal:
        while True:
            await trio.sleep(LINE_EVERY)
            console.print(Text(board.line()), soft_wrap=True)
    with Live(board.table(), console=console, auto_refresh=False, transient=True) as live:
        while True:
            await trio.sleep(REFRESH_EVERY)
            live.update(board.table(), refresh=True)


def seconds(value: float | None) -> str:
    """A latency as text, `-` where there is none."""
    return "-" if value is None else f"{value:.2f}"


def _state(snapshot: AccountSnapshot | None, now: float) -> Text:
    if snapshot is None:
        return Text("-")
    left = f" {snapshot.until - now:.1f} s" if now < snapshot.until < math.inf else ""
    return Text(snapshot.state + left, _STYLES.get(snapshot.state, ""))


def _quota_used(snapshot: AccountSnapshot | None, now: float) -> str:
    """The share of its scarcest rate that is in use, as the balancer knows it."""
    shares = [view.used(now) / view.limit for view in snapshot.dimensions] if snapshot else []
    return f"{max(shares):.0%}" if shares else "-"
