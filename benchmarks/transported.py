"""Simulated traffic through a transport: seams, parsers and estimates are simulated with the rest.

Calls are chat completions or messages of an `httpx.AsyncClient`; what a backend counts of one is what it reads from its body.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import httpx
import trio

from balancer.config import BalancerConfig
from balancer.core.call import Demand
from balancer.nursery import Statistics, open_balancer
from balancer.testing.seeds import run_seeded
from balancer.testing.simulation import Arrivals, Report, SimulatedBackend, SimulatedCall, SimulatedTransport
from balancer.testing.simulation.arrivals import DrawnCall
from balancer.testing.simulation.driver import SERVED, draw_all, let_arrive, own_backends
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
    running = own_backends(backends, seed)
    accounts = [
        {**account, "transport": SimulatedTransport(running[account["name"]], account["name"])}
        for account in config["accounts"]
    ]
    ready = attrs.evolve(BalancerConfig.of({**config, "accounts": accounts}), seed=seed)
    calls: list[SimulatedCall] = []
    arriving = draw_all(arrivals, seed, for_seconds)
    statistics = run_seeded(functools.partial(_run, ready, arriving, for_seconds, calls), seed)
    return Report(seed, for_seconds, tuple(sorted(calls, key=lambda call: call.number)), running, statistics)


async def _run(
    config: BalancerConfig, arriving: Iterator[DrawnCall], for_seconds: float, calls: list[SimulatedCall]
) -> Statistics:
    provider = config.accounts[0].provider
    async with (
        open_balancer(config, epoch=MIDNIGHT) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1", timeout=None) as client,
    ):
        call = functools.partial(_call, client, provider, calls)
        return await let_arrive(arriving, for_seconds, call, balancer.statistics)


async def _call(client: httpx.AsyncClient, provider: str, calls: list[SimulatedCall], number: int, drawn: DrawnCall) -> None:
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
            outcome=SERVED if response.is_success else f"status {response.status_code}",
        )
    )


def _request(demand: Demand, provider: str) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": "x" * CHARACTERS * demand.input_tokens}]
    path = "/messages" if provider == "anthropic" else "/chat/completions"
    return path, {"model": "m", "messages": messages, "max_tokens": demand.output_tokens}
