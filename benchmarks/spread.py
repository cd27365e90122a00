"""How calls are shared: by what is in flight between equals, by weight where weights say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import httpx
import trio

from balancer import BalancerConfig, Call, Lease, open_balancer
from benchmarks.client import BODY
from benchmarks.report import Row, progress
from benchmarks.server import answer

EQUAL = [{"name": name, "provider": "http", "base_url": "http://127.0.0.1"} for name in ("one", "two")]
HEAVY, LIGHT = 91, 9
AT_ONCE = 10


async def _by_run() -> Counter[str]:
    used: Counter[str] = Counter()

    async def attempt(lease: Lease) -> None:
        used[lease.account.name] += 1
        await trio.sleep(0.01)

    async with open_balancer(BalancerConfig(EQUAL)) as balancer, trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(balancer.run, Call(), attempt)
    return used


async def _by_transport() -> Counter[str]:
    used: Counter[str] = Counter()

    def account(name: str) -> dict[str, object]:
        async def respond(request: httpx.Request) -> httpx.Response:
            used[name] += 1
            await trio.sleep(0.01)
            return httpx.Response(200, text=answer(), headers={"content-type": "application/json"})

        return {"name": name, "base_url": "http://127.0.0.1/v1", "transport": httpx.MockTransport(respond)}

    async with (
        open_balancer(BalancerConfig([account("one"), account("two")])) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(AT_ONCE):
            nursery.start_soon(lambda: client.post("/chat/completions", json=BODY))
    return used


async def _by_weight(calls: int) -> Counter[str]:
    used: Counter[str] = Counter()

    async def attempt(lease: Lease) -> None:
        used[lease.account.name] += 1

    accounts = [
        {"name": f"account-{place}", "provider": "http", "base_url": "http://127.0.0.1", "weight": HEAVY if place == 0 else 1}
        for place in range(1 + LIGHT)
    ]
    async with open_balancer(BalancerConfig(accounts, selector="weighted")) as balancer:
        for _ in range(calls):
            await balancer.run(Call(), attempt)
    return used


def _halves(what: str, used: Counter[str]) -> Row:
    return Row(what, max(used.values()), "= 5", sorted(used.values()) == [AT_ONCE // 2] * 2, _samples(used))


def _samples(used: Counter[str]) -> Sequence[str]:
    return [f"{name}: {count}" for name, count in sorted(used.items())]


def spread(*, quick: bool = False) -> list[Row]:
    """Two equal accounts by `run` and by transport, then weights 91 and nine times 1."""
    calls = 1000 if quick else 10_000
    with progress("spread", 3) as step:
        rows = [_halves("10 calls at once by run, of 2 equal accounts the busier", trio.run(_by_run))]
        step()
        rows.append(_halves("10 calls at once by transport, of 2 equal accounts the busier", trio.run(_by_transport)))
        step()
        used = trio.run(_by_weight, calls)
        share = 100.0 * used["account-0"] / calls
        what = f"share of weight {HEAVY} of {HEAVY + LIGHT}, {calls:,} calls, percent"
        rows.append(Row(what, share, f"{HEAVY} +- 1", abs(share - HEAVY) <= 1.0, _samples(used)))
        step()
    return rows
