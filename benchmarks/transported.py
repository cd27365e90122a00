"""Simulated traffic through a transport: seams, parsers and estimates are simulated with the rest.

Calls are chat completions or messages of an `httpx.AsyncClient`; what a backend counts of one is what it reads from its body.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import httpx
import trio

from balancer.config import BalancerConfig
from balancer.core.call import Demand
from balancer.nursery import Statistics, open_balancer
from balancer.testing.seeds import run_seeded
from balancer.testing.simulation import Arrivals, Report, SimulatedBackend, SimulatedCall, SimulatedTransport
from balancer.testing.simulation.arrivals import DrawnCall, draw_calls
from balancer.testing.simulation.signals import MIDNIGHT

CHARACTERS = 4
"""Of a token, for a simulated backend."""


def simulate_transported(
    config: Mapping[str, Any],
    backends: Mapping[str, SimulatedBackend],
    arrivals: Arrivals | Sequence[Arrivals],
    *,
    seed: int,
    for_seconds: float,
) -> Report:
    """As `simulate`, but every call is an HTTP request; those that still wait or run at the end are not reported."""
    running = {name: attrs.evolve(backend, rng=random.Random(f"{seed} {name}")) for name, backend in backends.items()}
    accounts = [
        {**account, "transport": SimulatedTransport(running[account["name"]], account["name"])}
        for account in config["accounts"]
    ]
    ready = attrs.evolve(BalancerConfig.of({**config, "accounts": accounts}), seed=seed)
    streams = [arrivals] if isinstance(arrivals, Arrivals) else arrivals
    drawn = [draw_calls(stream, random.Random(f"{seed} arrivals {place}")) for place, stream in enumerate(streams)]
    calls: list[SimulatedCall] = []
    arriving = heapq.merge(*drawn, key=lambda call: call.at)
    statistics = run_seeded(functools.partial(_run, ready, arriving, for_seconds, calls), seed)
    return Report(seed, for_seconds, tuple(sorted(calls, key=lambda call: call.number)), running, statistics)


async def _run(config: BalancerConfig, arriving: Any, for_seconds: float, calls: list[SimulatedCall]) -> Statistics:
    provider = config.accounts[0].provider
    async with (
        open_balancer(config, epoch=MIDNIGHT) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1", timeout=None) as client,
        trio.open_nursery() as nursery,
    ):
        for number, drawn in enumerate(arriving):
            if drawn.at >= for_seconds:
                break
            if drawn.at > trio.current_time():
                await trio.sleep_until(drawn.at)
            nursery.start_soon(_call, client, provider, number, drawn, calls)
        await trio.sleep_until(for_seconds)
        statistics = balancer.statistics()
        nursery.cancel_scope.cancel()
    return statistics


async def _call(client: httpx.AsyncClient, provider: str, number: int, drawn: DrawnCall, calls: list[SimulatedCall]) -> None:
    arrived_at = trio.current_time()
    path, body = _request(drawn.demand, provider)
    response = await client.post(path, json=body)
    decision = response.extensions["balancer"]
    last = decision.attempts[-1] if decision.attempts else None
    calls.append(
        SimulatedCall(
            number=number,
            name=drawn.kind.name,
            tenant=drawn.kind.tenant,
            demand=drawn.demand,
            truth=drawn.truth,
            arrived_at=arrived_at,
            placed_at=last.started_at if last else None,
            ended_at=trio.current_time(),
            account=last.account if last else None,
            attempts=len(decision.attempts),
            outcome="served" if response.is_success else f"status {response.status_code}",
        )
    )


def _request(demand: Demand, provider: str) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": "x" * CHARACTERS * demand.input_tokens}]
    path = "/messages" if provider == "anthropic" else "/chat/completions"
    return path, {"model": "m", "messages": messages, "max_tokens": demand.output_tokens}
