"""`python -m benchmarks NAME [--json] [--quick] [--plot DIR] [--seeds N]`: measures, and ends with 1 if a goal was missed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.burst import burst
from benchmarks.ledger import admissions, ledger
from benchmarks.memory import memory
from benchmarks.overhead import overhead
from benchmarks.placement import placement
from benchmarks.queue import queue
from benchmarks.quota import quota
from benchmarks.report import Row, as_json, shown
from benchmarks.spread import spread

BENCHMARKS: dict[str, Callable[..., list[Row]]] = {
    "overhead": overhead,
    "placement": placement,
    "burst": burst,
    "spread": spread,
    "memory": memory,
    "quota": quota,
    "ledger": ledger,
    "admissions": admissions,
    "queue": queue,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the balancer.")
    parser.add_argument("name", choices=BENCHMARKS, help="what to measure; overhead includes placement")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="see that it works; the figures mean nothing")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="with quota: draw use of quota against offered load there")
    parser.add_argument("--seeds", type=_count, metavar="N", help="with quota: run each scenario on N seeds, 1 to N")
    given = parser.parse_args(arguments)
    of_quota = {name: value for name in ("plot", "seeds") if (value := getattr(given, name)) is not None}
    if of_quota and given.name != "quota":
        parser.error(f"only quota takes --{next(iter(of_quota))}")
    rows = BENCHMARKS[given.name](quick=given.quick, **of_quota)
    print((as_json if given.json else shown)(given.name, rows, quick=given.quick))
    return 0 if given.quick else int(any(row.reached is False for row in rows))


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number from 1")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
