"""The commands and their common edge: a wrong option or a faulty configuration is a clear message, never a traceback."""

from __future__ import annotations

import sys
from importlib import metadata

from cyclopts import App, CycloptsError, Parameter

from balancer.cli.batch import batch
from balancer.cli.check import check
from balancer.cli.console import UNUSABLE, complain, print_faults, show_warnings_as_lines
from balancer.cli.demo import demo
from balancer.cli.mock import mock
from balancer.errors import ConfigError

app = App(
    name="balancer",
    help="Spreads LLM and HTTP calls over many backend accounts, inside the quota of each.",
    version=metadata.version("balancer"),
    default_parameter=Parameter(negative=()),
)
for command in (demo, batch, check, mock):
    app.command(command)


def run() -> None:
    """Run the command that the arguments of the process name, and exit with its code."""
    show_warnings_as_lines()
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        complain(f"{error} See --help.")
    except ConfigError as error:
        print_faults(error)
    else:
        return  # a command that has ended exits by itself
    sys.exit(UNUSABLE)
