"""The entry point of `balancer`: says how to install the command line where its extra is missing, else runs it."""

from __future__ import annotations

import os
import sys

_EXTRA = ("cyclopts", "rich")


def main() -> None:
    """Run the command line on the arguments of the process."""
    try:
        from balancer.cli.app import run

        run()
    except KeyboardInterrupt:  # before a command has taken it over
        sys.exit(130)
    except BrokenPipeError:  # as `balancer check --json | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(141)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit("balancer: the command line is an extra: pip install 'balancer[cli]'")


if __name__ == "__main__":
    main()
