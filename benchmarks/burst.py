"""30 calls at once over 2 accounts limited to 5 per rolling 2 s: the bound is 4.0 s with no refusal where limits are known.

Backends are our mocks on real sockets, with honest headers, in a process of their own. Repetitions run
side by side, each begun a little after the one before, so that their bursts do not meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import httpx
import trio

from balancer import BalancerConfig, open_balancer
from benchmarks.backends import RECORD, backends
from benchmarks.client import BODY
from benchmarks.report import Row, Step, progress

CALLS = 30
LIMITS: dict[str, Any] = {"requests": {"amount": 5, "per": 2.0}, "window": "sliding"}
MOST_SECONDS = 4.2
MOST_REFUSALS = 4
APART = 0.1


@attrs.frozen
class Burst:
    """One repetition."""

    served: int
    seconds: float
    refusals: int

    def __str__(self) -> str:
        return f"{self.served} served in {self.seconds:.3f} s, {self.refusals} refused upstream"


async def once(urls: Sequence[str], limits: Mapping[str, Any]) -> Burst:
    """One burst over fresh backends; `limits` is what the balancer is told."""
    accounts = [{"name": f"account-{n}", "base_url": url, "key": "sk-none", "limits": limits} for n, url in enumerate(urls)]
    served = 0
    async with httpx.AsyncClient(timeout=60.0) as client:
        # Limits are per key: this one's requests make sure that a backend does not answer its first one while it is measured.
        for url in urls:
            await client.post(f"{url}/chat/completions", json=BODY, headers={"authorization": "Bearer sk-other"})
    async with (
        open_balancer(BalancerConfig(accounts)) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), timeout=60.0) as client,
    ):

        async def call() -> None:
            nonlocal served
            response = await client.post("http://balancer/v1/chat/completions", json=BODY)
            served += response.status_code == httpx.codes.OK

        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(CALLS):
                nursery.start_soon(call)
        seconds = trio.current_time() - began_at
    async with httpx.AsyncClient() as client:
        records = [(await client.get(url.removesuffix("/v1") + RECORD)).json() for url in urls]
    return Burst(served, seconds, sum(record["counts"]["refused"] for record in records))


async def repeated(urls: Sequence[str], limits: Mapping[str, Any], step: Step) -> list[Burst]:
    """One burst for every two of the backends."""
    bursts: list[Burst] = []

    async def later(number: int) -> None:
        await trio.sleep(number * APART)
        bursts.append(await once(urls[2 * number : 2 * number + 2], limits))
        step()

    async with trio.open_nursery() as nursery:
        for number in range(len(urls) // 2):
            nursery.start_soon(later, number)
    return bursts


def burst(*, quick: bool = False) -> list[Row]:
    """Bursts with limits configured, then learned only."""
    repetitions = 1 if quick else 20
    rows: list[Row] = []
    with progress("burst", 2 * repetitions) as step:
        for how, limits, most in (("configured", LIMITS, 0), ("learned", {}, MOST_REFUSALS)):
            with backends(2 * repetitions, {"limits": LIMITS}) as urls:
                bursts = trio.run(repeated, urls, limits, step)
            in_time = sum(one.served == CALLS and one.seconds <= MOST_SECONDS for one in bursts)
            slowest = max(one.seconds for one in bursts)
            refusals = max(one.refusals for one in bursts)
            rows += [
                Row.at_least(
                    f"limits {how}: repetitions with {CALLS} served in {MOST_SECONDS} s", in_time, repetitions, bursts
                ),
                Row.at_most(f"limits {how}: slowest, seconds", slowest, MOST_SECONDS),
                Row.at_most(f"limits {how}: refusals upstream, most of any", refusals, most),
            ]
    return rows
