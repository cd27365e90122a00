"""What the balancer costs: an httpx client on its transport over 4 accounts, against plain clients on the same server.

Each client runs in a fresh process; pairs alternate in order, so that what else the machine does falls on both.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import attrs

from benchmarks.client import Run, Speed
from benchmarks.placement import placement
from benchmarks.report import Row, Step, progress
from benchmarks.server import INSTALL, find_nginx, nginx, own

SLOW = (0.005, 0.050)


APART = 0.005
"""Seconds between the starts of two callers, where they do not start together. httpcore's pool gets slower with every request
that is in it: callers that start together keep it in its slow state, callers that come one by one let it settle. Both happen."""
PAIRS = 9
PAIRS_WITHOUT_GOAL = 3


@attrs.frozen
class Case:
    """One comparison; `goal` is the least ratio of requests per second, `None` where the figure only informs."""

    plain: str
    in_flight: int
    goal: float | None
    slow: bool = False
    apart: float = 0.0


CASES = (
    Case("httpx", 1, 0.88),
    Case("httpx", 32, 2.0),
    Case("httpx", 256, 3.0),
    Case("httpx-default", 32, 2.5),
    Case("httpx", 256, 5.0, slow=True),
    Case("httpx2", 1, 0.88),
    Case("httpx2", 32, 1.15),
    Case("httpx2", 256, 1.7),
    Case("httpx", 32, None, apart=APART),
    Case("httpx-default", 32, None, apart=APART),
    Case("httpx", 256, None, apart=APART),
)


def overhead(*, quick: bool = False, cases: Sequence[Case] = CASES) -> list[Row]:
    """Runs the comparisons, then the placement."""
    warm_up, seconds = (0.2, 0.2) if quick else (0.8, 1.5)
    pairs = [1 if quick else PAIRS_WITHOUT_GOAL if case.goal is None else PAIRS for case in cases]
    rows: list[Row] = []
    with ExitStack() as stack:
        fast, name = _fast_server(stack)
        slow = stack.enter_context(own(*SLOW)) if any(case.slow for case in cases) else ""
        step = stack.enter_context(progress("overhead", sum(pairs)))
        for case, count in zip(cases, pairs, strict=True):
            server = "a server of 5-50 ms" if case.slow else name
            url = slow if case.slow else fast
            runs = [Run(client, url, case.in_flight, warm_up, seconds, case.apart) for client in ("balanced", case.plain)]
            rows.append(_compare(case, runs, count, server, step))
    return [*rows, *placement(quick=quick)]


def _fast_server(stack: ExitStack) -> tuple[str, str]:
    program = find_nginx()
    if program is None:
        print(f"nginx is not installed: the figures are taken on our own server instead; {INSTALL}", file=sys.stderr)
        return stack.enter_context(own(0.0, 0.0)), "OUR OWN SERVER"
    return stack.enter_context(nginx(program)), "nginx"


def _compare(case: Case, runs: list[Run], pairs: int, server: str, step: Step) -> Row:
    speeds: list[tuple[Speed, Speed]] = []
    for number in range(pairs):
        first, second = runs if number % 2 == 0 else runs[::-1]
        measured = {first.client: first.measure(), second.client: second.measure()}
        speeds.append((measured["balanced"], measured[case.plain]))
        step()
    samples = [_said(*pair) for pair in speeds]
    balanced, plain = (
        Speed(*(statistics.median(values) for values in zip(*map(attrs.astuple, side), strict=True)))
        for side in zip(*speeds, strict=True)
    )
    samples.append(_said(balanced, plain) + ", medians")
    ratio = statistics.median(mine.per_second / theirs.per_second for mine, theirs in speeds)
    what = f"balanced / {case.plain}, {case.in_flight} in flight, {server}"
    if case.goal is None:
        return Row(f"{what}, begun {case.apart * 1000:g} ms apart", ratio, samples=samples)
    return Row.at_least(what, ratio, case.goal, samples)


def _said(mine: Speed, theirs: Speed) -> str:
    ratio = mine.per_second / theirs.per_second
    return (
        f"{mine.per_second:8,.0f} / {theirs.per_second:8,.0f} per second = {ratio:5.2f}   "
        f"({mine.cpu:6,.0f} / {theirs.cpu:6,.0f} us of CPU per request)"
    )
