"""A run of the whole is a function of its seeds."""

from __future__ import annotations

import random

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer import BalancerConfig, BalancerError, Call, Faulted, RateLimited, Served, open_balancer
from balancer.testing import Reply, ScriptedBackend, run_seeded

LIMITS = {"requests": {"amount": 3, "per": 1.0}, "window": "sliding", "concurrency": 2}


def trace(seed, scheduler, *others):
    """Everything that the backends saw in a busy minute, with times."""
    rng = random.Random(seed)
    backend = ScriptedBackend(
        {
            name: [
                Reply(
                    rng.uniform(0.01, 3.0),
                    rng.choice([Faulted("down"), *others, *[Served()] * 8]),
                )
                for _ in range(40)
            ]
            for name in "abc"
        }
    )
    accounts = [{"name": name, "provider": "http", "base_url": "http://x.test", "limits": LIMITS} for name in "abc"]
    config = BalancerConfig(accounts=accounts, seed=seed, hedge={"enabled": True, "delay": 0.7, "max_extra_ratio": 0.5})
    arrivals = sorted(rng.uniform(0.0, 10.0) for _ in range(40))
    ends = []

    async def call(balancer, number, at):
        await trio.sleep_until(at)
        with trio.move_on_after(20.0 + number * 0.001):
            try:
                ends.append((number, await balancer.run(Call(hedgeable=True), backend.attempt)))
            except BalancerError as error:
                ends.append((number, type(error)))

    async def main():
        start = trio.current_time()
        async with open_balancer(config) as balancer:
            async with trio.open_nursery() as nursery:
                for number, at in enumerate(arrivals):
                    nursery.start_soon(call, balancer, number, start + at)
            statistics = balancer.statistics()
            assert (statistics.in_flight, statistics.waiting, backend.running) == (0, 0, 0)
            for snapshot in statistics.accounts.values():
                assert not any(view.reserved for view in snapshot.dimensions)
        return [(round(event.at - start, 9), event.account, event.what) for event in backend.events], ends

    return run_seeded(main, scheduler)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), scheduler=st.integers(0, 10_000))
def test_the_same_seeds_give_the_same_trace(seed, scheduler):
    """Event by event; and whatever the seeds, nothing is left."""
    assert trace(seed, scheduler, RateLimited()) == trace(seed, scheduler, RateLimited())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), scheduler=st.integers(0, 10_000))
def test_limits_hold_whatever_the_seeds(seed, scheduler):
    """In no second do more attempts begin on an account than it may take."""
    events, _ = trace(seed, scheduler)
    for name in "abc":
        began = [at for at, account, what in events if account == name and what == "began"]
        assert all(later - earlier >= 1.0 for earlier, later in zip(began, began[3:], strict=False))


def test_other_seeds_give_other_traces():
    """Else the test above would prove nothing."""
    assert trace(1, 1) != trace(2, 1)
