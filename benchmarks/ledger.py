"""What booking costs, and that it is right: reserve and settle with four dimensions, and a million admissions through one ledger.

The unit of cost is one `trio.lowlevel.checkpoint()` timed in the same round, so that the figure holds on any machine.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Literal

import attrs
import trio

from balancer.core.call import Demand, Usage
from balancer.core.ledger import Ledger
from balancer.core.limits import Limits
from balancer.core.reservation import Reservation
from balancer.testing.simulation import SimulatedLimit
from balancer.testing.simulation.limits import find_overruns
from benchmarks.report import Row, progress

Window = Literal["bucket", "sliding"]
WINDOWS: tuple[Window, ...] = ("bucket", "sliding")
IN_FLIGHT = 32
MOST_CHECKPOINTS = 1.0
DIMENSIONS = ("requests", "tokens", "input_tokens", "output_tokens")


def limits_of(amounts: Mapping[str, float], window: Window) -> Limits:
    """So much of each dimension per minute."""
    return Limits.parse({**{f"{dimension}_per_minute": amount for dimension, amount in amounts.items()}, "window": window})


# -- cost -------------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Costs:
    """One round: microseconds of a checkpoint; reserve and settle in units of it."""

    checkpoint: float
    reserve: float
    settle: float

    def __str__(self) -> str:
        return f"checkpoint {self.checkpoint:.2f} us, reserve {self.reserve:.2f}, settle {self.settle:.2f}"


async def _round(window: Window, operations: int) -> Costs:
    began_at = time.thread_time()
    for _ in range(operations):
        await trio.lowlevel.checkpoint()
    checkpoint = (time.thread_time() - began_at) / operations
    ledger = Ledger(limits_of(dict.fromkeys(DIMENSIONS, 1e7), window))
    demand, usage, now = Demand(900, 100), Usage(880, 60), 1000.0
    reserving = settling = 0.0
    for _ in range(operations // IN_FLIGHT):
        began_at = time.thread_time()
        reservations: list[Reservation] = []
        for _ in range(IN_FLIGHT):
            now += 0.001
            reservations.append(ledger.reserve(demand, now))
        turned_at = time.thread_time()
        for reservation in reservations:
            now += 0.001
            ledger.settle(reservation, usage, now)
        settling += time.thread_time() - turned_at
        reserving += turned_at - began_at
    return Costs(checkpoint * 1e6, reserving / operations / checkpoint, settling / operations / checkpoint)


async def _rounds(rounds: int, operations: int) -> dict[Window, list[Costs]]:
    costs: dict[Window, list[Costs]] = {window: [] for window in WINDOWS}
    gc.collect()
    gc.freeze()
    try:
        with progress("ledger", rounds) as step:
            for _ in range(rounds):
                for window in WINDOWS:
                    costs[window].append(await _round(window, operations))
                step()
    finally:
        gc.unfreeze()
    return costs


def ledger(*, quick: bool = False) -> list[Row]:
    """Reserve, and settle with a usage, by kind of window."""
    costs = trio.run(_rounds, 2 if quick else 25, 320 if quick else 3200)
    rows: list[Row] = []
    for window, rounds in costs.items():
        reserve, settle = ([getattr(each, name) for each in rounds] for name in ("reserve", "settle"))
        what = f"four dimensions, {window}, {IN_FLIGHT} in flight, checkpoints, median"
        rows += [
            Row.at_most(f"reserve, {what}", statistics.median(reserve), MOST_CHECKPOINTS, rounds),
            Row.at_most(f"settle with usage, {what}", statistics.median(settle), MOST_CHECKPOINTS),
        ]
    return rows


# -- exactness --------------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Booked:
    """One reservation that has not ended: its place in the record."""

    reservation: Reservation
    place: int
    ends_at: float


class Admitting:
    """Random calls on one ledger, and a record of what it admitted when.

    An attempt takes at most what was reserved for it, or more by what its record shows as a late correction: that is debt, which
    the law excepts, so it is recorded only as far as it was reserved. What a refund gives back leaves the record.
    """

    def __init__(self, window: Window, rng: random.Random) -> None:
        self.amounts = {"requests": 600.0, "tokens": 300_000.0, "input_tokens": 200_000.0, "output_tokens": 120_000.0}
        self.ledger = Ledger(limits_of(self.amounts, window))
        self.window: Window = window
        self.record: list[tuple[float, Demand | Usage | None]] = []
        self._rng, self._open, self._now = rng, deque[Booked](), 0.0

    def admit(self, count: int) -> None:
        """So many admissions, each as soon as the ledger allows or a little later."""
        rng, ledger = self._rng, self.ledger
        for _ in range(count):
            demand = Demand(rng.randrange(1, 900), rng.randrange(1, 500))
            self._now += rng.expovariate(20.0)
            while not ledger.admits(demand, self._now):
                self._end(upto=self._now)
                self._now = max(ledger.earliest(demand, self._now), self._now + 1e-6)
            reservation = ledger.reserve(demand, self._now)
            self.record.append((self._now, demand))
            self._open.append(Booked(reservation, len(self.record) - 1, self._now + rng.uniform(0.0, 2.0)))
            self._end(upto=self._now)

    def _end(self, upto: float) -> None:
        rng = self._rng
        while self._open and self._open[0].ends_at <= upto:
            booked = self._open.popleft()
            at, demand = self.record[booked.place]
            assert isinstance(demand, Demand)
            chance = rng.random()
            if chance < 0.05:
                self.ledger.refund(booked.reservation, upto)
                self.record[booked.place] = (at, None)
            elif chance < 0.2:
                self.ledger.settle(booked.reservation, None, upto)
            else:
                ratio = rng.uniform(0.3, 1.2)
                usage = Usage(round(demand.input_tokens * ratio), round(demand.output_tokens * ratio))
                self.ledger.settle(booked.reservation, usage, upto)
                self.record[booked.place] = (at, usage if ratio < 1.0 else demand)

    def overruns(self) -> int:
        """Spans that hold more than the law allows, over all dimensions."""
        found = 0
        for dimension, amount in self.amounts.items():
            limit = SimulatedLimit(dimension, amount, 60.0, self.window)
            admitted = [(at, float(getattr(taken, dimension))) for at, taken in self.record if taken is not None]
            found += len(find_overruns(limit, admitted))
        return found

    def used(self) -> float:
        """Share of the fullest dimension that was admitted in all."""
        minutes = self._now / 60.0
        return max(
            sum(getattr(taken, dimension) for _, taken in self.record if taken is not None) / (amount * minutes)
            for dimension, amount in self.amounts.items()
        )


def admissions(*, quick: bool = False, count: int | None = None) -> list[Row]:
    """A million admissions, half of them per kind of window: no span holds more than L t / P + B (bucket) or L per P (sliding)."""
    count = count or (10_000 if quick else 1_000_000)
    rows: list[Row] = []
    with progress("admissions", 2 * 100) as step:
        for window in WINDOWS:
            admitting = Admitting(window, random.Random(f"admissions {window}"))
            for _ in range(100):
                admitting.admit(count // 200)
                step()
            rows += [
                Row.at_most(f"spans over a limit, {window}, {count // 2:,} admissions", admitting.overruns(), 0),
                Row(f"share of the fullest limit that was used, {window}", admitting.used()),
            ]
    return rows
