"""Calls cancelled at every task step, alone and two at the same step, with queueing, failover, a hedge race and a drain in the mix.

One call cancelled at each step finds little; two at the same step find what ordinary tests never show.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import trio

from balancer import AttemptFailed, BalancerConfig, BalancerError, Call, Closed, Faulted, open_balancer
from balancer.testing import CancelAtStep, StepCounter, run_seeded

CALLS = ("hedged", "fails over", "waits", "is cut off")
VICTIMS = [*itertools.combinations(CALLS, 1), *itertools.combinations(CALLS, 2)]

SCRIPTS = {  # what the attempts of each call do: seconds, and whether they are served
    "hedged": [(60.0, True), (0.5, True)],
    "fails over": [(0.25, False), (0.5, True)],
    "waits": [(0.5, True)],
    "is cut off": [(60.0, True)],
}
CONFIG = BalancerConfig(
    accounts=[
        {"name": name, "provider": "http", "base_url": "http://x.test", "limits": {"concurrency": 1, "requests_per_second": 9}}
        for name in "abc"
    ],
    hedge={"enabled": True, "delay": 1.0, "max_extra_ratio": 1.0},
    drain_timeout=0.75,
    seed=1,
)


class World:
    """One run: four calls in a nursery of their own, over three accounts that take one attempt each."""

    def __init__(self, step=0, victims=()):
        self.ends = {}
        self.running = Counter()
        self.began = []
        self.scopes = {name: trio.CancelScope() for name in CALLS}
        self.cancel = CancelAtStep(step, *(self.scopes[name] for name in victims))
        self.victims = victims
        self.counter = StepCounter()
        self.instrument = self.cancel if victims else self.counter
        self.ended_after = {}

    async def call(self, balancer, name):
        script = iter(SCRIPTS[name])

        async def attempt(lease):
            seconds, served = next(script, (0.5, True))
            self.began.append((trio.current_time(), name, lease.account.name))
            self.running[name] += 1
            try:
                await trio.sleep(seconds)
            finally:
                self.running[name] -= 1
            if not served:
                raise AttemptFailed(Faulted("down"))
            return lease.account.name

        with self.scopes[name]:
            try:
                self.ends[name] = await balancer.run(Call(hedgeable=name == "hedged"), attempt)
            except BalancerError as error:
                self.ends[name] = error
        self.ended_after[name] = self.counter.steps

    async def main(self):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            async with open_balancer(CONFIG) as balancer:
                await trio.lowlevel.checkpoint()
                trio.lowlevel.add_instrument(self.instrument)
                for name in CALLS:
                    nursery.start_soon(self.call, balancer, name)
                await trio.sleep(1.75)
                await self.check_inside(balancer)
                await balancer.drain()
                await self.check_inside(balancer)  # what the closing would clear away has to be right before it
            trio.lowlevel.remove_instrument(self.instrument)
        self.check(balancer, start)
        return self

    async def check_inside(self, balancer):
        """What the actors count is what there is: leases of attempts that run, tickets of calls that wait."""
        await trio.testing.wait_all_tasks_blocked()
        statistics = balancer.statistics()
        assert statistics.in_flight == self.running.total()
        unended = [name for name in CALLS if name not in self.ends and not self.scopes[name].cancelled_caught]
        assert statistics.waiting == len([name for name in unended if not self.running[name]])

    def check(self, balancer, start):
        """Nothing in flight, waiting, reserved, probing or running; every call has one end."""
        assert self.running.total() == 0
        statistics = balancer.statistics()
        assert (statistics.in_flight, statistics.waiting) == (0, 0)
        assert balancer._dispatcher._waiting.all() == []
        for snapshot in statistics.accounts.values():
            assert (snapshot.in_flight, snapshot.failed <= 1, snapshot.probing) == (0, True, False)
            assert [view.reserved for view in snapshot.dimensions] == [0]
        for name in CALLS:
            cancelled = self.scopes[name].cancelled_caught
            assert cancelled != (name in self.ends), name
            assert not cancelled or name in self.victims
        assert all(isinstance(end, str | Closed) for end in self.ends.values())
        assert trio.current_time() - start <= 1.75 + 2 * 0.75 + 0.001


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("victims", VICTIMS, ids="+".join)
def test_nothing_is_left_wherever_calls_are_cancelled(victims, seed):
    """No lease, no ticket, no task, no reservation; nobody else's call is touched, nobody is blamed."""
    uncancelled = run_seeded(World().main, seed)
    steps = max(uncancelled.ended_after[name] for name in victims)
    assert steps > 5 * len(victims)
    for step in range(1, steps + 1):
        world = run_seeded(World(step, victims).main, seed)
        assert world.cancel.fired


def test_the_mix_is_one():
    """Uncancelled, the run has a queue, a failover, a hedge that wins, and a call that the drain cuts off."""
    world = run_seeded(World().main, 3)
    assert {name: type(end) for name, end in world.ends.items()} == {
        "hedged": str,
        "fails over": str,
        "waits": str,
        "is cut off": Closed,
    }
    attempts = [name for _, name, _ in world.began]
    assert {name: attempts.count(name) for name in CALLS} == {"hedged": 2, "fails over": 2, "waits": 1, "is cut off": 1}
