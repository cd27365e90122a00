"""Runs the unchanged balancer in virtual time against simulated backends and seeded traffic: one seed, one trace."""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import math
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import trio

from balancer.actors.lease import Lease
from balancer.config import BalancerConfig
from balancer.core.call import Call, Demand, Usage
from balancer.errors import BalancerError
from balancer.nursery import BalancerNursery, Statistics, open_balancer
from balancer.testing.seeds import run_seeded
from balancer.testing.simulation.arrivals import Arrivals, DrawnCall, draw_calls
from balancer.testing.simulation.backends import SimulatedAttempt, SimulatedBackend, SimulatedRefusal
from balancer.testing.simulation.limits import Overrun
from balancer.testing.simulation.signals import MIDNIGHT

T = TypeVar("T")

SERVED = "served"
EXPIRED = "expired"
UNFINISHED = "unfinished"


@attrs.frozen
class SimulatedCall:
    """One call as its caller saw it. Instants are trio times, the start is 0.

    Attributes:
        number: its place among the arrivals, from 0.
        name: of its class.
        tenant: for whom it was.
        demand: what it demanded.
        truth: what it really takes.
        arrived_at: its arrival.
        placed_at: when its last attempt began; `None` without one.
        ended_at: its end.
        account: that of its last attempt.
        attempts: how many it had.
        outcome: `"served"`; `"expired"`: its deadline came; `"unfinished"`: the simulation ended; else the name of the error.
    """

    number: int
    name: str
    tenant: str
    demand: Demand
    truth: Usage
    arrived_at: float
    placed_at: float | None
    ended_at: float
    account: str | None
    attempts: int
    outcome: str

    @property
    def waited_for(self) -> float:
        """Seconds from its arrival to its last attempt; without one, to its end."""
        return (self.ended_at if self.placed_at is None else self.placed_at) - self.arrived_at


@attrs.frozen(eq=False)
class Report:
    """What a simulation showed.

    Attributes:
        seed, for_seconds: as given.
        calls: every call that arrived, in the order of arrival.
        backends: account name -> its backend, with its record.
        statistics: the balancer's own, at the end.
    """

    seed: int
    for_seconds: float
    calls: tuple[SimulatedCall, ...]
    backends: Mapping[str, SimulatedBackend]
    statistics: Statistics

    def attempts(self, account: str | None = None) -> list[SimulatedAttempt]:
        """Attempts in the order of counting; of one account, or of all."""
        if account is not None:
            return self.backends[account].record
        return list(heapq.merge(*(backend.record for backend in self.backends.values()), key=lambda seen: seen.at))

    def refusals(self, account: str | None = None, *, from_at: float = 0.0) -> list[SimulatedAttempt]:
        """Attempts that a limit refused, counted at `from_at` or later."""
        return [seen for seen in self.attempts(account) if seen.refused_by is not None and seen.at >= from_at]

    def overruns(self) -> list[Overrun]:
        """Spans in which a rate of any account was exceeded; none, if backends count right."""
        return [
            overrun
            for backend in self.backends.values()
            for limit in backend.limits
            if limit.dimension != "concurrency"
            for overrun in backend.overruns(limit)
        ]

    def used_ratio(self, account: str, dimension: str, from_at: float = 0.0, until: float = math.inf) -> float:
        """Share of the account's first limit of `dimension` that was used in [from_at, until), at most to the end."""
        backend = self.backends[account]
        limit = next(limit for limit in backend.limits if limit.dimension == dimension)
        return backend.used_ratio(limit, from_at, min(until, self.for_seconds))

    def ended(self, outcome: str | None = None, *, name: str | None = None, tenant: str | None = None) -> list[SimulatedCall]:
        """Calls that ended so: of any outcome, class or tenant, or of one."""
        return [
            call
            for call in self.calls
            if outcome in (None, call.outcome) and name in (None, call.name) and tenant in (None, call.tenant)
        ]

    def served(self, *, name: str | None = None, tenant: str | None = None) -> list[SimulatedCall]:
        """Calls that were served, of one class or tenant or of all."""
        return self.ended(SERVED, name=name, tenant=tenant)

    def waits(self, *, name: str | None = None, tenant: str | None = None) -> list[float]:
        """Seconds for which those that were served had waited to be placed."""
        return [call.waited_for for call in self.served(name=name, tenant=tenant)]

    @property
    def trace(self) -> tuple[tuple[Any, ...], ...]:
        """Everything that happened, as `(at, what, number of the call, ...)` in the order of time."""
        events: list[tuple[Any, ...]] = []
        for call in self.calls:
            events.append((call.arrived_at, "arrived", call.number, call.name, call.tenant))
            events.append((call.ended_at, "ended", call.number, call.outcome, call.account or "", call.placed_at or 0.0))
        for seen in self.attempts():
            events.append((seen.at, "counted", seen.number, seen.account, seen.status))
            if seen.answered_at is not None:
                events.append((seen.answered_at, "answered", seen.number, seen.account))
        return tuple(sorted(events))

    @property
    def trace_hash(self) -> str:
        """SHA-256 of the trace, in hexadecimal: equal for equal seeds, in any process."""
        return hashlib.sha256("\n".join(map(repr, self.trace)).encode()).hexdigest()


def simulate(
    config: BalancerConfig | Mapping[str, Any] | str | os.PathLike[str],
    backends: Mapping[str, SimulatedBackend],
    arrivals: Arrivals | Sequence[Arrivals],
    *,
    seed: int,
    for_seconds: float,
    epoch: float = MIDNIGHT,
) -> Report:
    """Let calls arrive at a balancer for a while of virtual time, and report what became of them.

    What still waits or runs at the end is cancelled. Not to be called inside a running trio.

    Args:
        config: of the balancer; its seed is replaced.
        backends: account name -> the provider behind it. They are templates: the report has backends of its own.
        arrivals: a stream of calls, or several, each drawn on its own.
        seed: of everything: traffic, backends, balancer and scheduler.
        for_seconds: how long calls arrive.
        epoch: seconds since 1970 at the start, for quotas of the calendar; by default the midnight, UTC, at which backends begin.

    Raises:
        ValueError: an account without a backend, or a backend without an account.
        ConfigError: the configuration cannot be used.
    """
    ready = attrs.evolve(BalancerConfig.of(config), seed=seed)
    if missing := {account.name for account in ready.accounts} ^ backends.keys():
        raise ValueError(f"accounts and backends differ: {', '.join(sorted(missing))}")
    world = _World(ready, own_backends(backends, seed), draw_all(arrivals, seed, for_seconds), for_seconds, epoch)
    statistics = run_seeded(world.run, seed)
    calls = tuple(sorted(world.calls, key=lambda call: call.number))
    return Report(seed, for_seconds, calls, world.backends, statistics)


def own_backends(backends: Mapping[str, SimulatedBackend], seed: int) -> dict[str, SimulatedBackend]:
    """Backends such as these for one simulation: nothing counted yet, each with chances of its own."""
    return {name: attrs.evolve(backend, rng=random.Random(f"{seed} {name}")) for name, backend in backends.items()}


def draw_all(arrivals: Arrivals | Sequence[Arrivals], seed: int, for_seconds: float) -> Iterator[DrawnCall]:
    """The calls of one simulation in the order of time, each stream drawn on its own."""
    streams = [arrivals] if isinstance(arrivals, Arrivals) else arrivals
    drawn = [draw_calls(stream, random.Random(f"{seed} arrivals {place}")) for place, stream in enumerate(streams)]
    return itertools.takewhile(lambda call: call.at < for_seconds, heapq.merge(*drawn, key=lambda call: call.at))


async def let_arrive(
    arriving: Iterable[DrawnCall],
    for_seconds: float,
    call: Callable[[int, DrawnCall], Awaitable[object]],
    look: Callable[[], T],
) -> T:
    """Run every call from its arrival; at the end take a look, cancel what still waits or runs, and return what was seen.

    Args:
        arriving: the calls, in the order of time.
        for_seconds: trio time of the end.
        call: one of them, by its place among the arrivals, from 0.
        look: at the end.
    """
    async with trio.open_nursery() as nursery:
        for number, drawn in enumerate(arriving):
            if drawn.at > trio.current_time():
                await trio.sleep_until(drawn.at)
            nursery.start_soon(call, number, drawn)
        await trio.sleep_until(for_seconds)
        seen = look()
        nursery.cancel_scope.cancel()
    return seen


@attrs.define(eq=False)
class _World:
    config: BalancerConfig
    backends: Mapping[str, SimulatedBackend]
    arriving: Iterator[DrawnCall]
    for_seconds: float
    epoch: float
    calls: list[SimulatedCall] = attrs.field(factory=list[SimulatedCall], init=False)

    @property
    def _shows_limits(self) -> bool:
        return any(backend.headers != "absent" for backend in self.backends.values())

    async def run(self) -> Statistics:
        """The simulation, from 0."""
        async with open_balancer(self.config, epoch=self.epoch) as balancer:
            call = functools.partial(self._call, balancer)
            return await let_arrive(self.arriving, self.for_seconds, call, balancer.statistics)

    async def _call(self, balancer: BalancerNursery, number: int, drawn: DrawnCall) -> None:
        kind, arrived_at = drawn.kind, trio.current_time()
        call = Call(kind.model, drawn.demand, kind.tenant, kind.priority)
        outcome, account, placed_at, attempts = UNFINISHED, None, None, 0

        async def attempt(lease: Lease) -> Usage:
            nonlocal account, placed_at, attempts
            account, placed_at, attempts = lease.account.name, trio.current_time(), attempts + 1
            return await self.backends[account].attempt(lease, number, drawn.truth)

        try:
            with trio.CancelScope(deadline=arrived_at + kind.deadline_after) as scope:
                await balancer.run(call, attempt, shows_limits=self._shows_limits)
                outcome = SERVED
            if scope.cancelled_caught:
                outcome = EXPIRED
        except (BalancerError, SimulatedRefusal) as error:
            outcome = type(error).__name__
        finally:
            self.calls.append(
                SimulatedCall(
                    number=number,
                    name=kind.name,
                    tenant=kind.tenant,
                    demand=drawn.demand,
                    truth=drawn.truth,
                    arrived_at=arrived_at,
                    placed_at=placed_at,
                    ended_at=trio.current_time(),
                    account=account,
                    attempts=attempts,
                    outcome=outcome,
                )
            )
