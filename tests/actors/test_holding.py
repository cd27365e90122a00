"""A call may wait for an account, though another one could take it: what it takes there is needed more by others."""

from __future__ import annotations

import math

import pytest
import trio

from balancer import BalancerError, Call, Demand

MARGIN = 0.03  # seconds that the ledger adds to a refill, for the provider's clock
FEW_TOKENS = {"name": "a", "models": ["m", "only-a"], "limits": {"requests_per_minute": 100, "tokens_per_minute": 10_000}}
FEW_REQUESTS = {"name": "b", "models": ["m", "only-b"], "limits": {"requests_per_minute": 20, "tokens_per_minute": 50_000}}


class Calls:
    """Starts calls in a nursery; keeps when each began, and on which account."""

    def __init__(self, balancer, nursery):
        self.balancer, self.nursery, self.latency = balancer, nursery, 0.0
        self.began, self.account, self.errors = {}, {}, {}

    async def start(self, name, tokens, *, within=math.inf, count=1, **more):
        """Start calls and let them come to rest."""
        for number in range(count):
            call = Call(demand=Demand(input_tokens=tokens), **more)
            self.nursery.start_soon(self._one, f"{name} {number}" if count > 1 else name, call, within)
            await trio.testing.wait_all_tasks_blocked()

    async def _one(self, name, call, within):
        async def attempt(lease):
            self.began[name], self.account[name] = trio.current_time(), lease.account.name
            await trio.sleep(self.latency)

        with trio.move_on_after(within):
            try:
                await self.balancer.run(call, attempt)
            except BalancerError as error:
                self.errors[name] = error


class Priced:
    """A selector of a user's: a costs ten seconds a token, everything else nothing."""

    def __init__(self):
        self.learned = []

    def __call__(self, candidates, demand, now, rng):
        return candidates[0]

    def price(self, account, demand, now):
        return 10.0 * demand.tokens if account.name == "a" else 0.0

    def learn(self, accounts, demand, now):
        self.learned.append(([account.name for account in accounts], demand.tokens))
        return True


class ByTime(Priced):
    """Another: a call costs the time that the account needs for it, of what is half used up."""

    def price(self, account, demand, now):
        views = [view for view in account.dimensions if view.used(now) > 0.5 * view.burst]
        return max((getattr(demand, view.dimension) / view.limit * view.period for view in views), default=0.0)


ONE = {"name": "b", "limits": {"requests": {"amount": 1, "per": 5.0}}}
MANY = {"name": "a", "limits": {"requests_per_minute": 1000}}


async def test_a_call_waits_for_the_account_of_less_price(balancing, autojump_clock):
    """5 s at b are less than 10 s at a; it goes to b as soon as that can take it."""
    async with balancing(MANY, ONE, selector=Priced()) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("first", 1)
        await calls.start("second", 1)
        assert calls.account == {"first": "b"}
        await trio.sleep(20.0)
        assert calls.account["second"] == "b"
        assert calls.began["second"] == pytest.approx(5.0 + MARGIN, abs=0.01)


async def test_a_call_does_not_wait_for_longer_than_the_price(balancing, autojump_clock):
    """The third one would wait for 10 s and more."""
    slower = {"name": "b", "limits": {"requests": {"amount": 1, "per": 12.0}}}
    async with balancing(MANY, slower, selector=Priced()) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("first", 1)
        await calls.start("second", 1)
        assert calls.account == {"first": "b", "second": "a"}


async def test_alone_a_call_waits_for_no_account_that_comes_too_late(balancing, autojump_clock):
    """With 3 s left the dear account serves it at once."""
    async with balancing(MANY, ONE, selector=Priced()) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("first", 1)
        await calls.start("second", 1, within=3.0)
        assert calls.account == {"first": "b", "second": "a"}


async def test_left_alone_it_goes_at_once(balancing, autojump_clock):
    """It costs more than the smallest and has too little time for the cheap account: it goes when the one that waits has left."""
    both = {**ONE, "models": ["m", "n"]}
    async with balancing({**MANY, "models": ["m"]}, both, selector=Priced()) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("first", 1, model="m")
        await calls.start("small", 1, within=0.5, model="m")
        async with trio.open_nursery() as others:
            await Calls(balancer, others).start("waits", 1, model="n")
            await calls.start("held", 2, within=2.0, model="m")
            await trio.sleep(1.0)
            assert calls.account == {"first": "b", "small": "a"}
            others.cancel_scope.cancel()
        await trio.sleep(10.0)
        assert calls.account["held"] == "a"
        assert calls.began["held"] == pytest.approx(1.0, abs=0.01)
        assert calls.errors == {}


async def test_left_alone_by_one_that_was_placed_it_goes_at_once(balancing, autojump_clock):
    """As when that had withdrawn: the other one has got its account in the look in which this one was held back once more."""
    both = {**ONE, "models": ["m", "n"]}
    other = {"name": "c", "models": ["n"], "limits": {"concurrency": 1}}
    async with balancing({**MANY, "models": ["m"]}, both, other, selector=Priced()) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("first", 1, model="m")
        calls.latency = 1.0
        await calls.start("runs", 1, model="n")
        calls.latency = 5.0
        await calls.start("other", 1, model="n")
        await calls.start("small", 1, within=0.5, model="m")
        await calls.start("held", 2, within=2.0, model="m", priority=1)
        await trio.sleep(10.0)
        assert calls.account == {"first": "b", "runs": "c", "small": "a", "other": "c", "held": "a"}
        assert calls.began["held"] == calls.began["other"] == pytest.approx(calls.began["first"] + 1.0)


@pytest.mark.parametrize("other", ["c", "d"])
async def test_nobody_waits_for_the_sake_of_those_elsewhere(other, balancing, autojump_clock):
    """A ticket that none of its accounts could serve, in its pool or in another, does not make one wait in vain."""
    limits = {"limits": {"requests": {"amount": 1, "per": 600.0}}}
    accounts = [
        {**MANY, "models": ["m"]},
        {**ONE, "models": ["m"]},
        *({"name": name, "models": [name], **limits} for name in "cd"),
    ]
    pools = [{"name": "p", "tiers": [["a", "b", "c"]]}, {"name": "q", "tiers": [["d"]]}]
    routes = [{"model": "m", "pool": "p"}, {"model": "c", "pool": "p"}, {"model": "d", "pool": "q"}]
    settings = {"pools": pools, "routes": routes, "selector": Priced(), "max_wait_for": None}
    async with balancing(*accounts, **settings) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("served", 1, model=other)
        await calls.start("waits", 1, model=other)
        await calls.start("first", 1, model="m")
        await calls.start("second", 1, within=3.0, model="m")
        assert calls.account == {"served": other, "first": "b", "second": "a"}
        nursery.cancel_scope.cancel()


async def test_none_is_refused_for_those_before_it_that_may_be_held_back(balancing, autojump_clock):
    """While small ones of higher priority wait for a, large ones go to b: by their number alone they would be too late."""
    async with (
        balancing(FEW_TOKENS, FEW_REQUESTS, max_waiting=1000, selector=ByTime()) as balancer,
        trio.open_nursery() as nursery,
    ):
        calls = Calls(balancer, nursery)
        await calls.start("small", 100, within=20.0, count=150, model="m", priority=1)
        await calls.start("large", 2000, within=10.0, count=5, model="m")
        await trio.sleep(30.0)
        assert calls.errors == {}
        assert [calls.account.get(f"large {number}") for number in range(3)] == ["b"] * 3


async def test_those_that_demand_the_same_wait_in_order(balancing, autojump_clock):
    """One after the other at b, none at a: each time b is 5 s away at most."""
    async with balancing(MANY, ONE, selector=Priced()) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("call", 1, count=4)
        await trio.sleep(60.0)
        assert [calls.began[f"call {number}"] for number in range(4)] == pytest.approx([0.0, 5.03, 10.06, 15.09], abs=0.05)
        assert set(calls.account.values()) == {"b"}


async def test_a_selector_learns_of_every_call_once(balancing, autojump_clock):
    """Whether it is placed at once or waits; of each the accounts that could ever take it."""
    learner = Priced()
    tokens = {"name": "c", "limits": {"tokens_per_minute": 5}}
    async with balancing(MANY, ONE, tokens, selector=learner) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        for place, demand in enumerate((1, 2, 9)):
            await calls.start(f"call {place}", demand)
        await trio.sleep(30.0)
    assert learner.learned == [(["a", "b", "c"], 1), (["a", "b", "c"], 2), (["a", "b"], 9)]


class Failing(Priced):
    """A price that raises."""

    def price(self, account, demand, now):
        raise ZeroDivisionError


class Unteachable(Priced):
    """Learning raises."""

    def learn(self, accounts, demand, now):
        raise ZeroDivisionError


@pytest.mark.parametrize("make", [Failing, Unteachable])
async def test_a_selector_that_fails_fails_the_call_alone(make, balancing, autojump_clock):
    """The next call gets the same answer: the dispatcher has not ended."""

    async def attempt(lease):
        pass

    async with balancing(MANY, ONE, selector=make()) as balancer:
        for _ in range(5):
            with pytest.raises(BalancerError, match="the selector failed") as caught:
                await balancer.run(Call(), attempt)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_a_selector_that_returns_something_else_is_told_what(balancing, autojump_clock):
    """By its type: an account's name is not its snapshot."""

    async def attempt(lease):
        pass

    async with balancing(MANY, ONE, selector=lambda candidates, demand, now, rng: candidates[0].name) as balancer:
        with pytest.raises(BalancerError, match="the selector failed") as caught:
            await balancer.run(Call(), attempt)
        assert str(caught.value.__cause__) == "a selector returns one of its candidates, not a str that is none of them"


async def drain(calls):
    """Use all of b's requests, and all but 2,400 of a's tokens."""
    await calls.start("of a", 7600, model="only-a")
    await calls.start("of b", 100, model="only-b", count=20)


async def test_large_calls_leave_scarce_tokens_to_small_ones(balancing, autojump_clock):
    """A large one waits for b's next request, 3 s away, rather than take 12 s of a's tokens; small ones go to a meanwhile."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await drain(calls)
        await calls.start("large", 2000)
        await calls.start("small", 100)
        assert calls.account["small"] == "a"
        assert "large" not in calls.account
        await trio.sleep(10.0)
        assert calls.account["large"] == "b"
        assert calls.began["large"] == pytest.approx(3.0 + MARGIN, abs=0.05)


async def test_a_large_call_takes_scarce_tokens_rather_than_fail(balancing, autojump_clock):
    """Nobody else waits, and b comes too late."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await drain(calls)
        await calls.start("large", 2000, within=2.0)
        assert calls.account["large"] == "a"


async def test_what_nobody_has_needed_lately_costs_nothing(balancing, autojump_clock):
    """With b used up a large call goes to a at once: the burst that took all of that is a minute ago."""
    async with balancing(FEW_TOKENS, FEW_REQUESTS) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("of a", 10_000, model="only-a")
        await trio.sleep(61.0)
        await calls.start("of b", 100, model="only-b", count=20)
        await calls.start("large", 2000)
        assert calls.account["large"] == "a"
