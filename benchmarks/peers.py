"""The rules that other routers go by, on the same simulated backends and arrivals: what refusals and guesses are worth.

They keep no mirror and no queue: an account is left alone for a fixed while once it has refused, and a call that finds none, or
is refused, comes back a little later, a few times. As such routers are set by default, and without their defects.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence

import attrs
import trio

from balancer.testing.seeds import run_seeded
from balancer.testing.simulation import Arrivals, SimulatedAttempt, SimulatedBackend
from balancer.testing.simulation.arrivals import DrawnCall
from balancer.testing.simulation.driver import draw_all, let_arrive, own_backends

COOLDOWN = 5.0
"""Seconds for which an account is not asked after it has refused."""
RETRIES = 3
FIRST_BACKOFF, MOST_BACKOFF = 0.5, 8.0
"""Seconds before the first retry, doubled for each further one, with full jitter added on top."""
MINUTE = 60.0


@attrs.define(eq=False)
class Peer:
    """One router.

    Args:
        backends: account name -> its provider.
        rng: of its choices and its jitter.
        least_used: whether it takes the account that has used the fewest tokens in this minute, as far as answers have told; else
            any.
    """

    backends: Mapping[str, SimulatedBackend]
    rng: random.Random
    least_used: bool
    _cooling: dict[str, float] = attrs.field(factory=dict[str, float], init=False)
    _used: dict[tuple[str, float], int] = attrs.field(factory=dict[tuple[str, float], int], init=False)

    async def call(self, number: int, drawn: DrawnCall) -> None:
        """One call, until it is served, its retries are spent or its deadline has come."""
        with trio.CancelScope(deadline=trio.current_time() + drawn.kind.deadline_after):
            for retry in range(1 + RETRIES):
                if retry:
                    longest = min(MOST_BACKOFF, FIRST_BACKOFF * 2.0 ** (retry - 1))
                    await trio.sleep(longest + self.rng.uniform(0.0, longest))
                if (account := self._choose()) is not None and await self._attempt(account, number, drawn):
                    return

    def _choose(self) -> str | None:
        now = trio.current_time()
        able = [name for name in self.backends if self._cooling.get(name, -math.inf) <= now]
        if not able:
            return None
        self.rng.shuffle(able)
        return min(able, key=lambda name: self._used.get((name, now // MINUTE), 0)) if self.least_used else able[0]

    async def _attempt(self, account: str, number: int, drawn: DrawnCall) -> bool:
        sent = SimulatedAttempt(number, account, drawn.kind.model, drawn.kind.tenant, drawn.demand, drawn.truth)
        answer = await self.backends[account].answer(sent)
        now = trio.current_time()
        if answer.status == 429:
            self._cooling[account] = now + COOLDOWN
            return False
        key = account, now // MINUTE
        self._used[key] = self._used.get(key, 0) + drawn.truth.input_tokens + drawn.truth.output_tokens
        return True


def simulate_peer(
    backends: Mapping[str, SimulatedBackend],
    arrivals: Arrivals | Sequence[Arrivals],
    *,
    least_used: bool,
    seed: int,
    for_seconds: float,
) -> Mapping[str, SimulatedBackend]:
    """As `simulate`, with a peer's rule in the balancer's place; the same seed gives the same arrivals. Returns the backends."""
    running = own_backends(backends, seed)
    peer = Peer(running, random.Random(f"{seed} peer"), least_used)
    arriving = draw_all(arrivals, seed, for_seconds)
    return run_seeded(functools.partial(let_arrive, arriving, for_seconds, peer.call, lambda: running), seed)
