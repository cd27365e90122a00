"""Seeded open-loop traffic: calls arrive when they arrive, whether earlier ones are answered or not.

The same seed gives every client the same calls at the same instants, so that two of them can be compared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import attrs
import trio

BURST_EVERY = 5.0
BURST_FOR = 1.0
BURST_FACTOR = 2.5


@attrs.frozen
class Kind:
    """What a call asks for: the dialect it speaks and the model it names."""

    dialect: Literal["chat", "messages"]
    model: str

    @property
    def path(self) -> str:
        """The path below the base URL of an account."""
        return "/chat/completions" if self.dialect == "chat" else "/messages"


@attrs.frozen
class Arrival:
    """One call of the traffic.

    Attributes:
        at: seconds after the start.
        kind: what it asks for.
        words: length of its prompt, about a token each.
        output_tokens: the longest answer it permits.
    """

    at: float
    kind: Kind
    words: int
    output_tokens: int

    def body(self, model: str) -> dict[str, Any]:
        """The JSON of its request to a backend that knows the model as `model`."""
        return {
            "model": model,
            "max_tokens": self.output_tokens,
            "messages": [{"role": "user", "content": "word " * self.words}],
        }


def draw_arrivals(calls: int, kinds: Sequence[Kind], per_second: float, rng: random.Random) -> list[Arrival]:
    """A Poisson stream of `calls` at `per_second` on average, `BURST_FACTOR` times that for one second in every five."""
    quiet = (BURST_EVERY - BURST_FACTOR * BURST_FOR) / (BURST_EVERY - BURST_FOR)
    arrivals: list[Arrival] = []
    at = 0.0
    for _ in range(calls):
        bursting = at % BURST_EVERY >= BURST_EVERY - BURST_FOR
        at += rng.expovariate(per_second * (BURST_FACTOR if bursting else quiet))
        arrivals.append(Arrival(at, rng.choice(kinds), rng.randint(5, 80), rng.choice((16, 32, 64))))
    return arrivals


@attrs.define(eq=False)
class Tally:
    """What a client got, as its calls end.

    Attributes:
        arrived, served, failed: calls so far; the rest is on its way.
        latencies: seconds from arrival to whole answer, of the calls that were served, per account.
    """

    arrived: int = 0
    served: int = 0
    failed: int = 0
    latencies: dict[str, list[float]] = attrs.field(factory=dict[str, list[float]])

    def count(self, account: str | None, latency: float) -> None:
        """Counts the end of one call: served by `account`, or failed."""
        if account is None:
            self.failed += 1
        else:
            self.served += 1
            self.latencies.setdefault(account, []).append(latency)

    def all_latencies(self) -> list[float]:
        """Those of all accounts together."""
        return [latency for each in self.latencies.values() for latency in each]


async def offer(
    arrivals: Sequence[Arrival], serve: Callable[[Arrival], Awaitable[str | None]], tally: Tally, *, patience: float
) -> None:
    """Runs the traffic against one client until its last call has ended.

    Args:
        arrivals: the traffic.
        serve: makes one call; the name of the account that served it, `None` if it failed.
        tally: told of every call.
        patience: seconds after which a call is given up; it has failed then.
    """
    started_at = trio.current_time()

    async def one(arrival: Arrival) -> None:
        account = None
        planned_at = started_at + arrival.at
        with trio.CancelScope(deadline=planned_at + patience):
            account = await serve(arrival)
        tally.count(account, trio.current_time() - planned_at)

    async with trio.open_nursery() as nursery:
        for arrival in arrivals:
            await trio.sleep_until(started_at + arrival.at)
            tally.arrived += 1
            nursery.start_soon(one, arrival)


def percentile(values: Sequence[float], ratio: float) -> float | None:
    """The smallest value that at least `ratio` of `values` do not exceed; `None` of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(ratio * len(values)) - 1)]
