"""Use of quota against offered load, for the selectors and for the peers' rules, as figures and as a drawing of them.

Two pools: equal accounts, each with one request at a time at its rate; and unequal ones, where what is scarce differs.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from balancer.core.call import Demand
from balancer.selection import SELECTORS
from balancer.testing.mock.latency import Uniform
from balancer.testing.simulation import Arrivals, CallClass, CallMix, SimulatedBackend, SimulatedLimit, poisson, simulate
from balancer.testing.simulation.driver import draw_all
from benchmarks.peers import COOLDOWN, simulate_peer
from benchmarks.report import Step

LOADS = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
OURS = ("least_pressure", "shadow_price", "peak_ewma", "round_robin", "weighted", "random")
FIXED_COOLDOWN, LEAST_USED = (
    f"peers: any account, {COOLDOWN:g} s cooldown",
    f"peers: least used tokens, {COOLDOWN:g} s cooldown",
)
FROM_AT = 60.0
LARGE, LARGE_PER_MINUTE = 2000, 20.0
"""Tokens of a large call, and how many of them the unequal pool can serve beside as many small ones as the rest allows."""


@attrs.frozen
class Pool:
    """Accounts and what they are offered.

    Args:
        title: over its panel.
        limits: account name -> its limits, as the balancer is told and as the provider counts.
        mix: of the calls.
        per_minute: calls per minute of this mix that the pool can serve at most: a load of 1.
    """

    title: str
    limits: dict[str, dict[str, Any]]
    mix: CallMix
    per_minute: float

    def config(self, selector: str) -> dict[str, Any]:
        """Of the balancer."""
        accounts = [{"name": name, "base_url": "http://127.0.0.1", "limits": limits} for name, limits in self.limits.items()]
        return {"accounts": accounts, "balancer": {"selector": selector, "max_waiting": 1_000_000}}

    def backends(self) -> dict[str, SimulatedBackend]:
        """The providers."""
        return {
            name: SimulatedBackend(
                [
                    SimulatedLimit(key.removesuffix("_per_minute"), amount, burst=limits.get("burst"))
                    for key, amount in limits.items()
                    if key != "burst"
                ],
                latency=Uniform(0.05, 2.0),
            )
            for name, limits in self.limits.items()
        }

    def arrivals(self, load: float) -> Arrivals:
        """Of a load."""
        return Arrivals(poisson(load * self.per_minute), self.mix)


def _small(rng: random.Random) -> Demand:
    return Demand(rng.randint(50, 150))


EQUAL = Pool(
    "10 equal accounts: 60 requests a minute each, in bursts of 1",
    {f"account-{place}": {"requests_per_minute": 60, "burst": 1} for place in range(10)},
    CallMix(CallClass("any", _small, deadline_after=10.0)),
    600.0,
)
UNEQUAL = Pool(
    "2 unequal accounts: 100 requests and 10,000 tokens a minute,\n20 requests and 50,000 tokens a minute",
    {
        "many-small": {"requests_per_minute": 100, "tokens_per_minute": 10_000},
        "few-large": {"requests_per_minute": 20, "tokens_per_minute": 50_000},
    },
    CallMix(
        CallClass("small", Demand(100), weight=4.0, deadline_after=10.0), CallClass("large", Demand(LARGE), deadline_after=10.0)
    ),
    120.0,  # what their requests allow, and their tokens too if each takes what it is fit for
)
POOLS = (EQUAL, UNEQUAL)


@attrs.frozen
class Point:
    """One simulation, from `FROM_AT` on.

    Attributes:
        load: calls that came, as a share of what the quota allows: what was drawn, which is not its mean.
        used: calls admitted, as a share of the same.
        large_came, large: the same two of large calls alone, as shares of the large ones that the quota allows.
        refused: share of attempts.
    """

    load: float
    used: float
    large_came: float
    large: float
    refused: float


def _point(pool: Pool, rule: str, load: float, seconds: float, seed: int) -> Point:
    arrivals = pool.arrivals(load)
    if rule in (FIXED_COOLDOWN, LEAST_USED):
        backends = simulate_peer(pool.backends(), arrivals, least_used=rule == LEAST_USED, seed=seed, for_seconds=seconds)
    else:
        backends = simulate(pool.config(rule), pool.backends(), arrivals, seed=seed, for_seconds=seconds).backends
    came = [call for call in draw_all(arrivals, seed, seconds) if call.at >= FROM_AT]
    attempts = [seen for backend in backends.values() for seen in backend.record if seen.at >= FROM_AT]
    admitted = [seen for seen in attempts if seen.admitted]
    minutes = (seconds - FROM_AT) / 60.0
    possible, large = pool.per_minute * minutes, LARGE_PER_MINUTE * minutes
    return Point(
        len(came) / possible,
        len(admitted) / possible,
        sum(call.demand.tokens == LARGE for call in came) / large,
        sum(seen.demand.tokens == LARGE for seen in admitted) / large,
        1.0 - len(admitted) / max(1, len(attempts)),
    )


def rules() -> list[str]:
    """What is compared: the selectors that there are, and the peers."""
    return [*(name for name in OURS if name in SELECTORS), FIXED_COOLDOWN, LEAST_USED]


def measure(pool: Pool, loads: Sequence[float], seconds: float, step: Step, seed: int = 1) -> dict[str, list[Point]]:
    """Every rule on every load."""
    curves: dict[str, list[Point]] = {}
    for rule in rules():
        curves[rule] = []
        for load in loads:
            curves[rule].append(_point(pool, rule, load, seconds, seed))
            step()
    return curves


def check_drawable() -> None:
    """Raises `SystemExit` with what to do if matplotlib is missing: before anything is measured for minutes."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install 'balancer[plots]'") from None


def draw(panels: Iterable[tuple[Pool, dict[str, list[Point]]]], folder: Path) -> list[Path]:
    """Draws them as `quota.png` and `quota.svg`; returns the paths."""
    from matplotlib.figure import Figure

    drawings = [(pool.title, "calls", curves) for pool, curves in panels]
    drawings += [("2 unequal accounts: the large calls among them", "large calls", curves) for _, _, curves in drawings[1:]]
    figure = Figure(figsize=(5.6 * len(drawings), 6.4), layout="constrained")
    figure.suptitle("Use of quota against offered load", fontsize=14, fontweight="bold")
    handles: dict[str, Any] = {}
    for axes, (title, what, curves) in zip(figure.subplots(1, len(drawings), squeeze=False)[0], drawings, strict=True):
        handles |= _panel(axes, what, curves)
        axes.set_title(title, fontsize=10)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "quota.png", folder / "quota.svg"]
    for path in paths:
        figure.savefig(path, dpi=140)
    return paths


def _panel(axes: Any, what: str, curves: dict[str, list[Point]]) -> dict[str, Any]:
    """One set of curves; returns a line by what it stands for."""
    handles: dict[str, Any] = {}
    most, highest = 0.0, 1.0
    for place, (rule, points) in enumerate(curves.items()):
        shares = sorted(
            (point.large_came, point.large) if what == "large calls" else (point.load, point.used) for point in points
        )
        most, highest = max(most, *(load for load, _ in shares)), max(highest, *(used for _, used in shares))
        (handles[rule],) = axes.plot(
            [load for load, _ in shares],
            [100.0 * used for _, used in shares],
            color=f"C{place}",
            marker="os^vDPX*"[place % 8],
            markersize=8.0 - 0.7 * place,
            lw=5.0 - 0.55 * place,  # where curves coincide each still shows behind the next
            ls="--" if rule.startswith("peers") else "-",
        )
    (handles["ideal: all that the quota allows"],) = axes.plot(
        [0.0, 1.0, most], [0.0, 100.0, 100.0], color="black", lw=1.2, ls=":", zorder=5
    )
    axes.set_xlabel(f"offered {what} (multiples of what the quota allows)")
    axes.set_ylabel(f"admitted {what} (% of what the quota allows; above it: held before)")
    axes.set_xlim(0.0, 1.02 * most)
    axes.set_ylim(0.0, 108.0 * highest)
    axes.grid(alpha=0.3)
    return handles
