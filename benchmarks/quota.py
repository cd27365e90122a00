"""Quota: every scenario on several seeds held to its goals, known limits once on real sockets, and use against offered load drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.optimum import check_solvable
from benchmarks.plots import LOADS, POOLS, check_drawable, draw, measure, rules
from benchmarks.report import Row, progress
from benchmarks.scenario import LONG, Scenario, Window
from benchmarks.scenarios import (
    calendar,
    input_and_output,
    known,
    known_tokens,
    models,
    packed,
    shared,
    tenants_share,
    tenants_wait,
    unknown,
    unknown_models,
    unseen,
    wrong_estimates,
)
from benchmarks.sockets import sockets
from benchmarks.unequal import unequal

SEEDS = 5
"""Of each scenario."""
RULES: tuple[tuple[Window, int | None], ...] = (("bucket", 1), ("bucket", 60), ("sliding", None))
DRAWN_FOR = 300.0
"""Simulated seconds of each point of the drawing."""


def known_scenarios() -> Iterator[Scenario]:
    """Limits that are configured."""
    for window, burst in RULES:
        yield known(window, burst)
        yield known(window, burst, shape="bursts")
        yield known(window, burst, shape="on and off")
        yield known(window, burst, headers="absent")
        yield known(window, burst, headers="lying")
        yield known(window, burst, load=0.5)
        yield known(window, burst, load=0.95)
    for window in ("bucket", "sliding"):
        yield known_tokens(window)
        yield packed(window, 0.01, 0.35)
        yield packed(window, 0.1, 0.6)
    yield input_and_output()


def wrong_scenarios() -> Iterator[Scenario]:
    """Estimates that are wrong."""
    for window in ("bucket", "sliding"):
        for factor in (None, 0.5, 0.7, 1.5, 2.0):
            yield wrong_estimates(factor, window, load=1.5)
        yield wrong_estimates(None, window, headers="absent", load=1.5)
        for factor in (None, 0.5, 2.0):
            yield wrong_estimates(factor, window, latency=LONG, load=1.5)
            yield wrong_estimates(factor, window, latency=LONG, headers="absent", load=1.5)
        for factor in (None, 2.0):
            yield wrong_estimates(factor, window, charged="max_tokens", load=1.5)
    for factor in (None, 0.5, 2.0):
        yield wrong_estimates(factor, charged="produced", latency=LONG, load=1.5)
    yield wrong_estimates(None, charged="adjusted", load=1.5)


def unknown_scenarios() -> Iterator[Scenario]:
    """Limits that are not configured."""
    for window, burst in RULES:
        if burst != 1:  # what goes out before the first answer is not held back there
            yield unknown(window, burst)
        yield unknown(window, burst, transported=True)
        yield unseen(window, burst, load=1.5)
    for burst in (1, 2, 5, 10, 20):
        yield unknown("bucket", burst, provider="anthropic", transported=True)
        if burst > 1:
            yield unknown("bucket", burst, transported=True)
    yield unknown("bucket", provider="anthropic")
    yield unknown("bucket", provider="anthropic", transported=True)
    yield unseen("fixed", load=1.5)
    for window in ("bucket", "sliding", "fixed"):
        yield unseen(window, retry_after=True, load=1.5)
        yield unseen(window, dimension="tokens", named=False, load=1.5)
    for window in ("bucket", "sliding"):
        yield unseen(window, dimension="tokens", load=1.5)
        for together in (False, True):
            yield unknown_models(window, shared=together)


def shared_scenarios() -> Iterator[Scenario]:
    """Quota that tenants, models, accounts and days share."""
    yield tenants_wait()
    yield tenants_share()
    yield models()
    yield shared()
    yield calendar("UTC")
    yield calendar("America/Los_Angeles")


def unequal_scenarios() -> Iterator[Scenario]:
    """Accounts with unequal limits, under the selectors that know what is scarce."""
    for selector in ("least_pressure", "shadow_price"):
        for window in ("bucket", "sliding"):
            yield unequal(selector, window)


def scenarios() -> list[Scenario]:
    """All of them."""
    return [*known_scenarios(), *wrong_scenarios(), *unknown_scenarios(), *shared_scenarios(), *unequal_scenarios()]


def quota(*, quick: bool = False, plot: Path | None = None, seeds: int | None = None) -> list[Row]:
    """Every goal of every scenario by its worst seed, then real sockets; a plot takes some minutes more.

    Args:
        quick: see that it works.
        plot: a folder for `quota.png` and `quota.svg`.
        seeds: how many of each scenario, from 1 on; `None`: 5, and 1 if quick.
    """
    check_solvable()
    if plot is not None:
        check_drawable()
    chosen = [known("sliding", seconds=120.0), shared(seconds=120.0)] if quick else scenarios()
    count = seeds or (1 if quick else SEEDS)
    rows: list[Row] = []
    with progress("quota", len(chosen) * count) as step:
        for scenario in chosen:
            found: list[Mapping[str, float]] = []
            for seed in range(1, count + 1):
                found.append(scenario.run(seed))
                step()
            for goal in scenario.goals:
                values = [figures[goal.figure] for figures in found]
                bounded, worst = (Row.at_least, min(values)) if goal.least else (Row.at_most, max(values))
                rows.append(bounded(f"{scenario.name}: {goal.figure}", worst, goal.bound, values))
    rows += sockets(quick=quick)
    if plot is not None:
        drawn(plot, quick=quick)
    return rows


def drawn(folder: Path, *, quick: bool = False) -> list[Path]:
    """Measures and draws use against load; returns the files."""
    loads, seconds = ((1.0,), 65.0) if quick else (LOADS, DRAWN_FOR)
    with progress("plot", len(POOLS) * len(rules()) * len(loads)) as step:
        return draw([(pool, measure(pool, loads, seconds, step)) for pool in POOLS], folder)
