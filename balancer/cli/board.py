"""What the demo shows while it runs: a table that lives on a terminal, else a line every two seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from balancer.cli.console import table_of
from balancer.cli.gauges import Gauge, gauges_of, short
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
        quota: account name -> its gauges at the end, where there was a balancer.
        seconds: how long it took, once it has ended.
    """

    client: str
    calls: int
    started_at: float
    backends: Mapping[str, MockBackend]
    tally: Tally = attrs.field(factory=Tally)
    quota: Mapping[str, list[Gauge]] = attrs.field(factory=dict[str, list[Gauge]])
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
            f"{tally.served} served, {tally.failed} failed{waiting}, {sum(each.refused for each in counts)} refused"
        )

    def quota(self) -> dict[str, list[Gauge]]:
        """The gauges of every account as they are now; none without a balancer."""
        if self.balancer is None:
            return {}
        now = trio.current_time()
        return {name: gauges_of(snapshot, now) for name, snapshot in self.balancer.statistics().accounts.items()}

    def quota_line(self) -> str:
        """Every gauge in one line; empty without any."""
        texts = [
            f"{name}: " + ", ".join(f"{gauge.level} {gauge.label}{' (learned)' * gauge.learned}" for gauge in gauges)
            for name, gauges in self.quota().items()
            if gauges
        ]
        return "; ".join(texts)

    def table(self) -> Group:
        """The accounts as they are now, and below them their quota."""
        table = table_of()
        table.add_column("account")
        table.add_column("state", no_wrap=True, min_width=13)
        for column in ("in\nflight", "served", "refused", "faulted", "p50\nin s", "p95\nin s"):
            table.add_column(column, justify="right", no_wrap=True)
        now = trio.current_time()
        snapshots: Mapping[str, AccountSnapshot] = self.balancer.statistics().accounts if self.balancer else {}
        for name, counts in self.run.counts().items():
            latencies = self.run.tally.latencies.get(name, ())
            table.add_row(
                shrinkable(name),
                _state(snapshots.get(name), now),
                str(counts.in_flight),
                str(counts.served),
                Text(str(counts.refused), "red" if counts.refused else ""),
                str(counts.faulted),
                seconds(percentile(latencies, 0.5)),
                seconds(percentile(latencies, 0.95)),
            )
        # The last line is short: the terminal echoes ^C behind it, and a line more would be left behind.
        parts = [table, Text(), _quota_table(self.quota())] if self.balancer else [table]
        return Group(Text(self.line(), "bold"), *parts, Text("Ctrl-C ends it here", "dim"))


async def watch(board: Board, console: Console) -> None:
    """Shows the board until it is cancelled."""
    if not console.is_terminal or console.is_dumb_terminal:
        while True:
            await trio.sleep(LINE_EVERY)
            console.print(Text(board.line()), soft_wrap=True)
            if quota := board.quota_line():
                console.print(Text(f"  in use: {quota}"), soft_wrap=True)
    with Live(board.table(), console=console, auto_refresh=False, transient=True) as live:
        while True:
            await trio.sleep(REFRESH_EVERY)
            live.update(board.table(), refresh=True)


def shrinkable(text: str) -> Text:
    """A cell that gives way where the table is too wide: its column must not forbid wrapping, else all columns shrink alike."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def seconds(value: float | None) -> str:
    """A latency as text, `-` where there is none."""
    return "-" if value is None else f"{value:.2f}"


def _state(snapshot: AccountSnapshot | None, now: float) -> Text:
    if snapshot is None:
        return Text("-")
    left = f" {snapshot.until - now:.1f} s" if now < snapshot.until < math.inf else ""
    disabled = snapshot.disabled_credentials
    keys = f", {disabled} key{'s' if disabled > 1 else ''} refused" if disabled else ""
    return Text(snapshot.state + left + keys, _STYLES.get(snapshot.state, ""))


def _quota_table(quota: Mapping[str, list[Gauge]]) -> Table:
    table = table_of()
    table.add_column("quota of")
    table.add_column("rate")
    table.add_column("in use", no_wrap=True)
    for column in ("", "reserved", "refill in"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, gauges in quota.items():
        if not gauges:
            table.add_row(shrinkable(name), Text("none known", "dim"))
        for place, gauge in enumerate(gauges):
            table.add_row(
                shrinkable("" if place else name),
                shrinkable(gauge.label),
                gauge.bar(),
                gauge.level,
                short(gauge.reserved),
                "-" if gauge.refill_after is None else f"{gauge.refill_after:,.1f} s",
                Text("learned", "magenta") if gauge.learned else "",
            )
    return table
