"""How the demo ended, to be read in ten seconds: what each client got, and how the accounts shared the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from rich.console import Console
from rich.text import Text

from balancer.cli.board import Run, seconds, shrinkable
from balancer.cli.clients import TRIES
from balancer.cli.console import table_of
from balancer.cli.scenario import PATIENCE, PER_SECOND
from balancer.testing.traffic import percentile

_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_BAR = 10


def summary_of(runs: Sequence[Run], *, calls: int, seed: int, interrupted: bool) -> dict[str, Any]:
    """The outcome as JSON. `unfinished` calls are those that Ctrl-C cut off."""
    return {"calls": calls, "seed": seed, "interrupted": interrupted, "runs": [_run(run) for run in runs]}


def _run(run: Run) -> dict[str, Any]:
    counts, tally = run.counts(), run.tally
    latencies = tally.all_latencies()
    return {
        "client": run.client,
        "seconds": run.seconds,
        "arrived": tally.arrived,
        "served": tally.served,
        "failed": tally.failed,
        "unfinished": tally.arrived - tally.served - tally.failed,
        "sent": sum(each.received for each in counts.values()),
        "refused_upstream": sum(each.refused for each in counts.values()),
        "latency": {name: percentile(latencies, ratio) for name, ratio in _PERCENTILES.items()},
        "accounts": {
            name: {
                "served_calls": len(tally.latencies.get(name, ())),
                **attrs.asdict(each),
                "quota": [attrs.asdict(gauge) for gauge in run.quota.get(name, ())],
            }
            for name, each in counts.items()
        },
    }


def print_summary(console: Console, runs: Sequence[Run], *, calls: int, seed: int, interrupted: bool) -> None:
    """The outcome for people."""
    told = [_run(run) for run in runs]
    console.print()
    if interrupted:
        console.print("interrupted: this is what was done so far", style="yellow")
    text = f"{calls} calls, {PER_SECOND:g} per second with bursts; callers give up after {PATIENCE:g} s; seed {seed}"
    console.print(Text(text, "bold"), soft_wrap=True)
    if not told:
        return
    _print_outcome(console, told)
    _print_shares(console, told)
    if len(told) > 1:
        console.print(
            f"round robin: plain httpx over the same accounts in turn, freshly started; a call that was refused or went wrong "
            f"is tried at once on the next account, {TRIES} tries in all. Refused and faulted is what the backends say.",
            style="dim",
        )


def _print_outcome(console: Console, told: Sequence[dict[str, Any]]) -> None:
    table = table_of()
    table.add_column("")
    for run in told:
        table.add_column(run["client"], justify="right")
    rows = {
        "calls served": [f"{run['served']} of {run['arrived']}" for run in told],
        "calls failed": [str(run["failed"]) for run in told],
        "unfinished": [str(run["unfinished"]) for run in told],
        "refused upstream": [str(run["refused_upstream"]) for run in told],
        "requests sent": [str(run["sent"]) for run in told],
        **{f"latency {name} in s": [seconds(run["latency"][name]) for run in told] for name in _PERCENTILES},
    }
    if not any(run["unfinished"] for run in told):
        del rows["unfinished"]
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)
    console.print()


def _print_shares(console: Console, told: Sequence[dict[str, Any]]) -> None:
    table = table_of()
    table.add_column("calls served by")
    for run in told:
        table.add_column(run["client"], no_wrap=True)
        table.add_column("refused", justify="right", no_wrap=True)
        table.add_column("faulted", justify="right", no_wrap=True)
    for name in told[0]["accounts"]:
        cells: list[str | Text] = [shrinkable(name)]
        for run in told:
            account = run["accounts"][name]
            share = account["served_calls"] / (run["served"] or 1)
            cells += [
                f"{account['served_calls']:4} {'━' * round(share * _BAR)}",
                Text(str(account["refused"]), "red" if account["refused"] else ""),
                str(account["faulted"]),
            ]
        table.add_row(*cells)
    console.print(table)
    console.print()
