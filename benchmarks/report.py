"""What a benchmark says: rows of a figure and its goal, every sample beside the median, as a table or as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

Step = Callable[[], None]


@attrs.frozen
class Row:
    """One figure.

    Args:
        what: what was measured.
        value: the figure; of several samples the median or the worst, as `what` says.
        goal: the bound in words; empty where the figure only informs.
        reached: whether the figure keeps to it; `None` without a goal.
        samples: everything that was measured for it.
    """

    what: str
    value: float
    goal: str = ""
    reached: bool | None = None
    samples: Sequence[Any] = ()

    @classmethod
    def at_least(cls, what: str, value: float, bound: float, samples: Sequence[Any] = ()) -> Row:
        """A figure that must not be smaller than `bound`."""
        return cls(what, value, f">= {bound:g}", value >= bound, samples)

    @classmethod
    def at_most(cls, what: str, value: float, bound: float, samples: Sequence[Any] = ()) -> Row:
        """A figure that must not be larger than `bound`."""
        return cls(what, value, f"<= {bound:g}", value <= bound, samples)


def shown(name: str, rows: Sequence[Row], *, quick: bool) -> str:
    """The rows as a table for people: first every sample, then the figures with their goals."""
    lines: list[str] = []
    for row in rows:
        if row.samples:
            lines += [f"{row.what}:", *(f"    {sample}" for sample in row.samples)]
    if lines:
        lines.append("")
    table = [("figure", "value", "goal", "reached")]
    table += [(row.what, f"{row.value:,.3f}", row.goal, {None: "", True: "yes", False: "NO"}[row.reached]) for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    for line in table:
        left, value, goal, reached = (
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append(f"{left}  {value}  {goal}  {reached}".rstrip())
    missed = sum(row.reached is False for row in rows)
    goals = sum(row.reached is not None for row in rows)
    lines += [
        "",
        f"{name}: {goals - missed} of {goals} goals reached" + (" (a quick run: figures mean nothing)" if quick else ""),
    ]
    return "\n".join(lines)


def as_json(name: str, rows: Sequence[Row], *, quick: bool) -> str:
    """The rows as one JSON object."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    document = {"benchmark": name, "quick": quick, "python": python, "rows": [attrs.asdict(row) for row in rows]}
    return json.dumps(document, indent=2)


@contextmanager
def progress(title: str, steps: int) -> Iterator[Step]:
    """A bar on standard error, if that is a terminal; yields what is called after each step."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        with _plain(title, steps) as step:
            yield step
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=steps)
        yield lambda: bar.advance(task)


@contextmanager
def _plain(title: str, steps: int) -> Iterator[Step]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        print(f"\r{title}: {done} of {steps}", end="", file=sys.stderr, flush=True)

    try:
        yield step
    finally:
        print(file=sys.stderr)
