"""The most calls that accounts could have served of those that came, each within its deadline: a linear program.

Time is cut into bins. A call may be admitted in the bin in which it comes, or in a later one that begins before its deadline. What all
calls take of a window that are admitted in the bins of any one period is at most its limit; a bucket's level rises by what they take,
falls by what flows in, and is never above its burst. Everything that comes is known beforehand, and parts of calls can be served: no
balancer can do better.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import attrs

from balancer.core.call import Demand
from benchmarks.scenario import MINUTE, Window

BIN = 5.0
"""Seconds of a bin, a whole part of a minute. Bins of half that lower the optimum by less than half a percent."""

TIED = 1e-6
"""Calls by which one of a later class is worth more: of several optima the one with most of those is found."""


def check_solvable() -> None:
    """Raises `SystemExit` with what to do if SciPy is missing: before anything is measured for minutes."""
    try:
        importlib.import_module("scipy")
    except ImportError:
        raise SystemExit("the optimum of unequal accounts needs SciPy: pip install scipy") from None


@attrs.define
class Program:
    """Maximise what the variables are worth, all of them at least 0, under rows of coefficients by variable that have an upper bound."""

    worth: list[float] = attrs.field(factory=list[float])
    rows: list[tuple[Mapping[int, float], float]] = attrs.field(factory=list[tuple[Mapping[int, float], float]])

    def add_variable(self, worth: float) -> int:
        """Returns its number."""
        self.worth.append(worth)
        return len(self.worth) - 1

    def solve(self) -> list[float]:
        """The value of each variable."""
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        values = [value for row, _ in self.rows for value in row.values()]
        columns = [number for row, _ in self.rows for number in row]
        ends = [0]
        for row, _ in self.rows:
            ends.append(ends[-1] + len(row))
        matrix = csr_array((values, columns, ends), shape=(len(self.rows), len(self.worth)))
        found = linprog([-worth for worth in self.worth], matrix, [most for _, most in self.rows])
        assert found.success, found.message
        return list(found.x)


def most_calls(
    limits: Sequence[Mapping[str, float]],
    window: Window,
    demands: Sequence[Demand],
    came: Sequence[Sequence[float]],
    deadline_after: float,
    *,
    full: bool = True,
) -> tuple[float, ...]:
    """How many calls of each class an optimum serves.

    Args:
        limits: of each account: dimension -> units per minute.
        window: how each limit is counted; a bucket's burst is its limit.
        demands: of each class.
        came: of each class, when its calls came, in seconds.
        deadline_after: seconds that each call has.
        full: whether buckets are full in the first bin; else they are empty.
    """
    later = math.ceil(deadline_after / BIN)
    counts = Counter((kind, int(at // BIN)) for kind, times in enumerate(came) for at in times)
    if not counts:
        return (0.0,) * len(demands)
    bins = range(min(first for _, first in counts), max(last for _, last in counts) + later + 1)
    program, kinds = Program(), list[int]()
    taken: dict[tuple[int, int], dict[int, Demand]] = defaultdict(dict)
    for (kind, first), count in sorted(counts.items()):
        own = [(account, place) for account in range(len(limits)) for place in range(first, first + later + 1)]
        for at in own:
            taken[at][program.add_variable(1.0 + TIED * kind)] = demands[kind]
        program.rows.append((dict.fromkeys(range(len(kinds), len(kinds) + len(own)), 1.0), count))
        kinds += [kind] * len(own)
    for account, amounts in enumerate(limits):
        for dimension, amount in amounts.items():
            shares = [{n: getattr(demand, dimension) / amount for n, demand in taken[account, at].items()} for at in bins]
            if window == "bucket":
                _add_bucket(program, shares, 1.0 if full else 0.0)
            else:
                _add_window(program, shares)
    served = program.solve()
    return tuple(math.fsum(served[n] for n, of in enumerate(kinds) if of == kind) for kind in range(len(demands)))


def _add_window(program: Program, shares: Sequence[Mapping[int, float]]) -> None:
    """By bin which share of a limit each variable takes: all that are in one period take no more than the whole."""
    period = round(MINUTE / BIN)
    for begin in range(max(1, len(shares) - period + 1)):
        program.rows.append(({n: share for each in shares[begin : begin + period] for n, share in each.items()}, 1.0))


def _add_bucket(program: Program, shares: Sequence[Mapping[int, float]], room: float) -> None:
    """By bin which share of a limit each variable takes, of a bucket that has so much of it left before the first one."""
    before: dict[int, float] = {}
    for each in shares:
        level = program.add_variable(0.0)
        program.rows.append(({level: 1.0}, 1.0))
        program.rows.append(({**each, **before, level: -1.0}, BIN / MINUTE - (0.0 if before else 1.0 - room)))
        before = {level: 1.0}
