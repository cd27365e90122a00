"""Windows that are used up for a while: who has no time to wait until they are free leaves dear ones to those that need them."""

from __future__ import annotations

import math

import pytest
import trio

from balancer import BalancerError, Call, Demand

FEW_TOKENS = {
    "name": "a",
    "models": ["m", "only-a"],
    "limits": {"requests_per_minute": 100, "tokens_per_minute": 10_000, "window": "sliding"},
}
FEW_REQUESTS = {
    "name": "b",
    "models": ["m", "only-b"],
    "limits": {"requests_per_minute": 20, "tokens_per_minute": 50_000, "window": "sliding"},
}
LATENCY = 1.0
LAST_MOMENT = 1.2 * LATENCY


class Calls:
    """Starts calls in a nursery; keeps where and when each began, and why it did not."""

    def __init__(self, balancer, nursery):
        self.balancer, self.nursery = balancer, nursery
        self.began, self.errors = {}, {}

    async def start(self, name, tokens, *, within=600.0, model="m"):
        """Start one and let it come to rest."""
        self.nursery.start_soon(self._one, name, Call(model, Demand(input_tokens=tokens)), within)
        await trio.testing.wait_all_tasks_blocked()

    async def _one(self, name, call, within):
        async def attempt(lease):
            self.began[name] = lease.account.name, trio.current_time()
            await trio.sleep(LATENCY)

        with trio.move_on_after(within):
            try:
                await self.balancer.run(call, attempt)
            except BalancerError as error:
                self.errors[name] = error

    async def use_up(self, tokens=100):
        """All of b's requests and at least 3,000 of a's tokens, by calls of so many; then five seconds."""
        for number in range(20):
            await self.start(f"of b {number}", tokens, model="only-b")
        for number in range(math.ceil(3000 / tokens)):
            await self.start(f"of a {number}", tokens, model="only-a")
        await trio.sleep(5.0)


async def test_alone_a_large_call_leaves_a_dear_window_to_others_until_its_last_moment(balancing, autojump_clock):
    """It has 10 s and b is 55 away: small ones go to a meanwhile, and it goes there when it cannot wait any longer."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.use_up()
        await calls.start("large", 2000, within=10.0)
        await calls.start("small", 100)
        assert calls.began["small"] == ("a", 5.0)
        assert "large" not in calls.began
        await trio.sleep(20.0)
        assert calls.began["large"] == ("a", pytest.approx(15.0 - LAST_MOMENT, abs=0.1))


async def test_a_window_of_no_more_than_an_even_pace_is_open_to_all(balancing, autojump_clock):
    """After half a minute 3,000 of 10,000 tokens are little."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.use_up()
        await trio.sleep(25.0)
        await calls.start("large", 2000, within=10.0)
        assert calls.began["large"] == ("a", 30.0)


async def test_while_others_wait_a_call_that_would_cost_more_than_one_is_not_served(balancing, autojump_clock):
    """Neither of two large ones: each takes of a what twenty small ones would."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.use_up()
        await calls.start("large", 2000, within=9.0)
        await calls.start("other", 2000, within=9.0)
        await trio.sleep(20.0)
        assert {"large", "other"}.isdisjoint(calls.began)


async def test_where_no_smaller_call_has_come_lately_large_ones_go_where_they_can(balancing, autojump_clock):
    """There is nobody whom they would cost anything."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.use_up(2000)
        await calls.start("large", 2000, within=10.0)
        await calls.start("other", 2000, within=10.0)
        assert calls.began["large"] == calls.began["other"] == ("a", 5.0)


async def test_a_call_that_takes_no_more_than_the_smallest_goes_where_it_can(balancing, autojump_clock):
    """Small ones cost b one request like any other call: those for which a's tokens come too late go there, however many wait."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("of a", 9950, model="only-a")
        for number in range(19):
            await calls.start(f"of b {number}", 100, model="only-b")
        await trio.sleep(5.0)
        await calls.start("waits", 10_000, within=10.0, model="only-a")
        await calls.start("small", 100, within=10.0)
        assert calls.began["small"] == ("b", 5.0)
