"""What all commands share: where they print, how they say what is wrong, and how Ctrl-C ends them."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import trio
from cyclopts import Parameter
from cyclopts.types import ExistingFile
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from balancer.errors import ConfigError

UNUSABLE = 2
"""Exit code where a command could not begin: a wrong option, a file that is not there, a configuration that has faults."""
INTERRUPTED = 130

ConfigFile = Annotated[ExistingFile, Parameter(help="The configuration, a TOML file.")]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON to stdout; what is for people goes to stderr.")]


def console_for(*, as_json: bool) -> Console:
    """Where to print for people: stdout, or stderr if JSON goes to stdout. `NO_COLOR` is honoured by rich."""
    return Console(stderr=as_json, highlight=False)


def table_of() -> Table:
    """An empty table in the style of all commands: no frame, so that it reads well as plain text too."""
    return Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document to stdout, at once."""
    print(json.dumps(value, indent=indent, allow_nan=False), flush=True)


def print_faults(error: ConfigError) -> None:
    """Every fault of a configuration on a line of its own, to stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    many = f"{len(error.faults)} faults" if len(error.faults) > 1 else "a fault"
    console.print(Text(f"balancer: the configuration has {many}", "bold red"))
    for fault in error.faults:
        console.print(Text(f"  {fault}"))


def complain(text: str) -> None:
    """One line to stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"balancer: {text}", "bold red"))


def show_warnings_as_lines() -> None:
    """From now on a warning is one line on stderr, without the line of code that it came from."""

    def as_line(message: Warning | str, *_rest: object, **_more: object) -> str:
        return f"balancer: {message}\n"

    warnings.formatwarning = as_line


@contextmanager
def interruptible() -> Generator[trio.CancelScope]:
    """The first Ctrl-C or SIGTERM cancels the block, and what follows it still runs; the second one ends the process."""
    token = trio.lowlevel.current_trio_token()
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        previous.clear()

    def stop(_number: int, _frame: object) -> None:
        restore()
        token.run_sync_soon(scope.cancel)

    with trio.CancelScope() as scope:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, stop)
        try:
            yield scope
        finally:
            restore()
