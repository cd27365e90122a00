"""What placing costs while calls wait: with 100,000 of them in the queue it may take twice as long as with 100, not more.

One placement is what happens when an attempt ends and a call comes: the end rings, the dispatcher looks at those that wait and
gives the freed account to one or more of them, and the new call joins the queue. Both queues live in one run and take turns.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque

import trio
import trio.testing

from balancer import BalancerConfig, Call, Demand, Lease, open_balancer
from balancer.actors.messages import Ticket
from balancer.core.decision import Decision
from balancer.core.outcome import Withdrawn
from balancer.nursery import BalancerNursery
from benchmarks.report import Row, progress

FEW, MANY = 100, 100_000
TENANTS, PRIORITIES = 50, 3
LIMITS = {"requests_per_minute": 6000, "tokens_per_minute": 40_000, "concurrency": 16}
MOST_RATIO = 2.0


class Waiting(Ticket):
    """A ticket that nobody waits for: its lease goes where all are kept."""

    __slots__ = ("granted",)
    granted: deque[Lease]

    def grant(self, lease: Lease) -> None:
        self.lease, self.open = lease, False
        self.granted.append(lease)

    def refuse(self, error: Exception) -> None:
        self.error, self.open = error, False


class Queue:
    """A balancer whose queue is kept at one length."""

    def __init__(self, balancer: BalancerNursery, rng: random.Random) -> None:
        self._dispatcher, self._rng = balancer._dispatcher, rng  # tickets without tasks: there is no public way
        self._now = trio.current_time()
        self.granted: deque[Lease] = deque()

    def post(self) -> None:
        """One more call."""
        rng = self._rng
        call = Call(
            demand=Demand(input_tokens=rng.randrange(20, 4000), output_tokens=rng.randrange(1000)),
            tenant=f"tenant-{rng.randrange(TENANTS)}",
            priority=rng.randrange(PRIORITIES),
        )
        patience = rng.choice((600.0, 3600.0, 86400.0, float("inf")))
        ticket = Waiting(call, Decision(call), None, "default", give_up_at=self._now + 7 * 86400.0 + patience)
        ticket.granted = self.granted
        self._dispatcher._mailbox.post(ticket)

    async def fill(self, count: int) -> None:
        """Let calls come until so many wait."""
        while self._dispatcher.waiting < count:
            for _ in range(count - self._dispatcher.waiting):
                self.post()
            await trio.testing.wait_all_tasks_blocked()

    async def place(self) -> float:
        """One attempt ends, one call comes; the seconds until the dispatcher is done with both."""
        lease = self.granted.popleft() if self.granted else None
        began_at = time.perf_counter()
        if lease is not None:
            lease.settle(Withdrawn(sent=False))
        self.post()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return time.perf_counter() - began_at


async def _measure(placements: int, many: int) -> tuple[list[float], list[float]]:
    accounts = [
        {"name": f"account-{n}", "provider": "http", "base_url": "http://127.0.0.1", "limits": LIMITS} for n in range(4)
    ]
    config = BalancerConfig(accounts, max_waiting=10_000_000, drain_timeout=0.0, seed=1)
    async with open_balancer(config) as one, open_balancer(config) as other:
        queues = Queue(one, random.Random(1)), Queue(other, random.Random(1))
        for queue, count in zip(queues, (FEW, many), strict=True):
            await queue.fill(count)
        samples: tuple[list[float], list[float]] = ([], [])
        for _ in range(placements):
            for queue, taken in zip(queues, samples, strict=True):
                taken.append(await queue.place())
        return samples


def queue(*, quick: bool = False) -> list[Row]:
    """Placements with few and with many calls waiting: the ratio of the medians, within one run."""
    placements, many = (100, 1000) if quick else (4000, MANY)
    with progress("queue", 1) as step:
        short, long = trio.run(_measure, placements, many)
        step()
    ratio = statistics.median(long) / statistics.median(short)
    rows = [
        Row(f"placement, {count:,} waiting, median of {placements:,}, us", statistics.median(taken) * 1e6)
        for count, taken in ((FEW, short), (many, long))
    ]
    return [*rows, Row.at_most(f"placement, {many:,} waiting against {FEW}, ratio", ratio, MOST_RATIO)]
