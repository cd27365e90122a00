"""Typed uses of the public names, as an application writes them. Checked by pyright and mypy, never run.

A `type: ignore` here is an assertion too: unused ones are errors, so each marks a misuse that has to be refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import assert_type

import httpx
import httpx2

from balancer import (
    Account,
    AttemptFailed,
    AttemptsFailed,
    BalancerConfig,
    BalancerError,
    BalancerNursery,
    Call,
    ConfigError,
    Decision,
    Demand,
    Lease,
    Limits,
    Pool,
    RateLimited,
    Saturated,
    Usage,
    open_balancer,
)

ACCOUNTS = [
    Account(
        name="team-a",
        provider="openai",
        key="sk-not-a-key",
        models={"gpt-4o": "gpt-4o-2024-11-20"},
        weight=3,
        limits=Limits(requests_per_minute=500, tokens="30000/min", concurrency=32, window="sliding"),
    ),
    Account(name="team-b", base_url="https://llm.example/v1", models=["gpt-4o"], auth={"header": "X-Api-Key"}),
]


async def count(lease: Lease) -> int:
    """An attempt: what it returns is what `run` returns."""
    assert_type(lease.account, Account)
    assert_type(lease.model, str | None)
    assert_type(lease.deadline, float)
    assert_type(lease.credential.reveal(), str)
    if lease.model is None:
        raise AttemptFailed(RateLimited(dimension="requests"))
    lease.report(usage=Usage(input_tokens=900))
    return 1


def not_async(_lease: Lease) -> int:
    """No attempt."""
    return 1


async def calls() -> AsyncIterator[Call]:
    """Calls that come as they come."""
    yield Call(model="gpt-4o", demand=Demand(input_tokens=900), tenant="a", priority=1, tags=("batch",), hedgeable=True)


async def runs(balancer: BalancerNursery) -> None:
    """`run` gives the attempt's own type; its errors carry the record."""
    try:
        assert_type(await balancer.run(Call(model="gpt-4o"), count), int)
    except Saturated as error:
        assert_type(error.retry_at, float)
    except AttemptsFailed as error:
        assert_type(error.errors, tuple[Exception, ...])
    except BalancerError as error:
        assert_type(error.decision, Decision | None)
    await balancer.run(Call(), not_async)  # type: ignore[arg-type]
    await balancer.run("gpt-4o", count)  # type: ignore[arg-type]


async def maps(balancer: BalancerNursery, known: Iterable[Call]) -> int:
    """`map` reads any iterable and yields results as they finish."""
    total = 0
    async with balancer.map(known, count, limit=64) as results:
        async for result in results:
            assert_type(result.call, Call)
            total += result.value or 0
    async with balancer.map(calls(), count, limit=64) as results:
        async for result in results:
            if result.error is not None:
                raise result.error
    return total


async def transports(balancer: BalancerNursery) -> None:
    """Each library's client takes the transport of its own kind."""
    async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client:
        await client.post("/chat/completions", json={}, extensions={"balancer": {"tenant": "a", "priority": 1}})
    async with httpx.AsyncClient(transport=balancer.transport("httpx", mount="")):
        pass
    async with httpx2.AsyncClient(transport=balancer.transport("httpx2")):
        pass
    httpx.AsyncClient(transport=balancer.transport("httpx2"))  # type: ignore[arg-type]
    balancer.transport("requests")  # type: ignore[call-overload]


async def lives() -> None:
    """A balancer opens on a configuration, a mapping or a file."""
    config = BalancerConfig(accounts=ACCOUNTS, pools=[Pool(name="chat", tiers=[["team-a"], ["team-b"]])], max_attempts=2)
    try:
        async with open_balancer(config) as balancer:
            assert_type(balancer, BalancerNursery)
            await balancer.reconfigure(BalancerConfig.load("balancer.toml"))
            for name, snapshot in balancer.statistics().accounts.items():
                assert_type(name, str)
                assert_type(snapshot.in_flight, int)
        async with open_balancer({"accounts": [{"name": "team-a", "provider": "openai"}]}):
            pass
        async with open_balancer(Path("balancer.toml")):
            pass
    except ConfigError as error:
        assert_type([fault.path for fault in error.faults], list[str])
