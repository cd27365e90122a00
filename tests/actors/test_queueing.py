"""The queue over running accounts: who may pass whom, how tenants share, and what is refused as it comes."""

from __future__ import annotations

import math
import random

import pytest
import trio

from balancer import BalancerConfig, Call, ConfigError, DeadlineUnreachable, Demand, NoAccount, Saturated, Usage
from balancer.actors.messages import Ticket
from balancer.actors.placing import Placer
from balancer.core.cooldown import Pause
from balancer.testing import Reply, ScriptedBackend

MARGIN = 0.03  # seconds that the ledger adds to a refill, for the provider's clock
ONE_AT_A_TIME = {"concurrency": 1}


class Calls:
    """Starts calls in a nursery; keeps when each began, on which account, and how it ended."""

    def __init__(self, balancer, nursery, latency=0.0):
        self.balancer, self.nursery, self.latency = balancer, nursery, latency
        self.start_at = trio.current_time()
        self.began, self.account, self.ends, self.scopes = {}, {}, {}, {}

    async def start(self, name, *, within=math.inf, tokens=0, **more):
        """Start a call and let it come to rest."""
        self.launch(name, within=within, tokens=tokens, **more)
        await trio.testing.wait_all_tasks_blocked()

    def launch(self, name, *, within=math.inf, tokens=0, **more):
        """Start a call."""
        self.nursery.start_soon(self._one, name, Call(demand=Demand(input_tokens=tokens), **more), within)

    async def _one(self, name, call, within):
        async def attempt(lease):
            self.began[name] = trio.current_time() - self.start_at
            self.account[name] = lease.account.name
            await trio.sleep(self.latency)

        with trio.move_on_after(within) as self.scopes[name]:
            try:
                await self.balancer.run(call, attempt)
                self.ends[name] = "served"
            except Exception as error:
                self.ends[name] = error


def tokens(amount, per=60.0, **more):
    return {"tokens": {"amount": amount, "per": per}, **more}


# -- a large one and small ones ------------------------------------------------------------------------------------------------


async def test_small_ones_do_not_starve_a_large_one(balancing, autojump_clock):
    """Once it is the first, nothing that would delay it passes: it goes as soon as if it were alone."""
    account = {"name": "a", "limits": tokens(600)}  # 10 per second
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=600)
        await calls.start("large", tokens=300)
        for second in range(60):
            await calls.start(f"small {second}", tokens=5)
            await trio.sleep(1.0)
        assert calls.began["large"] == pytest.approx(30.0, abs=0.1)
        assert min(at for name, at in calls.began.items() if name.startswith("small")) >= calls.began["large"]


async def test_small_ones_pass_where_they_delay_nothing(balancing, autojump_clock):
    """While a large one waits for one account, small ones go to another, and to the same one if they take none of what it needs."""
    accounts = [
        {"name": "a", "limits": tokens(600, requests_per_minute=600)},
        {"name": "b", "limits": tokens(60, requests_per_minute=600)},
    ]
    async with balancing(*accounts, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=600)
        await calls.start("large", tokens=300)
        await calls.start("small", tokens=20)
        await calls.start("as small", tokens=20)
        await calls.start("none")
        await calls.start("too much", tokens=25)
        assert [calls.began.get(name) for name in ("small", "as small", "none", "too much")] == [0.0, 0.0, 0.0, None]
        assert calls.account["small"] == calls.account["as small"] == "b"
        await trio.sleep(80.0)
        assert calls.began["large"] == pytest.approx(30.0, abs=0.1)
        assert calls.account["large"] == "a"
        assert calls.began["too much"] == pytest.approx(5.0, abs=0.2)  # b has refilled as much by then


async def test_one_that_waits_behind_a_large_one_goes_by_time_alone(balancing, autojump_clock):
    """The refill that a small one needs elsewhere wakes the dispatcher, though the first one waits for much longer."""
    accounts = [{"name": "a", "limits": tokens(600)}, {"name": "b", "limits": tokens(60)}]
    async with balancing(*accounts, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all of a", tokens=600)
        await calls.start("all of b", tokens=60)
        await calls.start("large", tokens=500)
        await calls.start("small", tokens=10)
        await trio.sleep(100.0)
        assert calls.began["small"] == pytest.approx(10.0, abs=0.1)
        assert calls.began["large"] == pytest.approx(50.0, abs=0.1)


async def test_who_was_held_up_goes_when_the_first_one_leaves(balancing, autojump_clock):
    """A withdrawn first ticket holds up nobody any longer, without waiting for a bell."""
    async with balancing({"name": "a", "limits": tokens(600)}, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=600)
        await calls.start("large", tokens=600)
        await calls.start("small", tokens=10)
        await trio.sleep(20.0)
        assert "small" not in calls.began
        calls.scopes["large"].cancel()
        await trio.sleep(1.0)
        assert calls.began["small"] == 20.0


async def test_a_claim_holds_against_other_lanes(balancing, autojump_clock):
    """Calls for another model that share the account do not delay the first one either."""
    async with balancing({"name": "a", "limits": tokens(600)}, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=600, model="m")
        await calls.start("large", tokens=300, model="m")
        for second in range(40):
            await calls.start(f"small {second}", tokens=5, model="n")
            await trio.sleep(1.0)
        assert calls.began["large"] == pytest.approx(30.0, abs=0.1)


async def test_a_claim_holds_only_against_what_it_waits_for(balancing, autojump_clock):
    """Calls for a model that has a limit of its own delay nobody who waits for another model's."""
    per_model = {"m": {"requests": {"amount": 1, "per": 60.0}}, "n": {"requests": {"amount": 100, "per": 60.0}}}
    account = {"name": "a", "limits": {"models": per_model}}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("first", model="m")
        await calls.start("waits", model="m")
        await calls.start("other", model="n")
        assert calls.began["other"] == 0.0
        await trio.sleep(70.0)
        assert calls.began["waits"] == pytest.approx(60.0, abs=0.1)


async def test_a_claim_holds_on_every_account_that_shares_the_limit(balancing, autojump_clock):
    """Small ones do not starve a large one by way of another account of the same organisation; what takes nothing of the shared limit
    goes there as ever."""
    accounts = [{"name": name, "limits": {"shared": ["org"], "requests_per_minute": 600}} for name in "ab"]
    settings = {"shared_limits": {"org": {"tokens": {"amount": 600, "per": 60.0}}}, "max_wait_for": None}
    async with balancing(*accounts, **settings) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=600)
        await calls.start("large", tokens=300)
        for second in range(40):
            await calls.start(f"none {second}")
            await calls.start(f"small {second}", tokens=10)
            await trio.sleep(1.0)
        assert calls.began["large"] == pytest.approx(30.0, abs=0.1)
        assert [calls.began[f"none {second}"] for second in range(40)] == pytest.approx(list(range(40)))


async def test_a_claim_follows_a_limit_that_is_shared_from_now_on(balancing, autojump_clock):
    """Which limits an account shares is asked when it is claimed, not when it was made."""
    apart = [{"name": name, "limits": {"requests_per_minute": 600}} for name in "ab"]
    accounts = [{"name": name, "limits": {"shared": ["org"], "requests_per_minute": 600}} for name in "ab"]
    settings = {"shared_limits": {"org": {"tokens": {"amount": 600, "per": 60.0}}}, "max_wait_for": None}
    async with balancing(*apart, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        await balancer.reconfigure(balancing.config(*accounts, **settings))
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=600)
        await calls.start("large", tokens=300)
        for second in range(40):
            await calls.start(f"small {second}", tokens=10)
            await trio.sleep(1.0)
        assert calls.began["large"] == pytest.approx(30.0, abs=0.1)


async def test_what_accounts_have_learned_decides_who_may_pass(balancing, autojump_clock):
    """By its first estimate a call behind the blocked one would never fit; by what such calls have really taken it does."""
    account = {"name": "a", "limits": tokens(600, images={"amount": 1, "per": 60.0})}
    began = {}

    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:

        async def one(name, *, images=0):
            async def attempt(lease):
                began[name] = trio.current_time() - start
                lease.report(usage=Usage(10, 10, images=images))

            await balancer.run(Call(demand=Demand(10, 1000, images=images), estimated=True), attempt)

        async def attempt(lease):
            pass

        start = trio.current_time()
        for number in range(10):
            await one(f"learned from {number}")
        await trio.sleep_until(start + 120.0)
        start = trio.current_time()
        await balancer.run(Call(demand=Demand(600, images=1)), attempt)
        for name in ("blocked", "behind", "behind that"):
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda name=name: one(name, images=int(name == "blocked")))
    assert began["blocked"] == pytest.approx(60.0, abs=0.1)
    assert max(began["behind"], began["behind that"]) < 10.0


async def test_a_claim_does_not_hold_against_higher_priority(balancing, autojump_clock):
    """Strict priority: who ranks before the first one takes what it needs."""
    async with balancing({"name": "a", "limits": tokens(600)}, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=600)
        await calls.start("large", tokens=300)
        await trio.sleep(10.5)
        await calls.start("urgent", tokens=100, priority=1)
        await calls.start("urgent elsewhere", tokens=1, priority=1, model="m")
        await trio.sleep(60.0)
        assert calls.began["urgent"] == 10.5
        assert calls.began["large"] == pytest.approx(40.0, abs=0.3)


async def test_the_last_place_is_kept(balancing, autojump_clock):
    """Of a limited concurrency the last place is not given away: nobody knows for how long it would be held."""
    account = {"name": "a", "limits": tokens(600, requests_per_minute=600, concurrency=2)}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, latency=100.0)
        await calls.start("all", tokens=600)
        await calls.start("large", tokens=100)
        await calls.start("none")
        await trio.sleep(300.0)
        assert (calls.began["large"], calls.began["none"]) == (pytest.approx(10.0, abs=0.1), pytest.approx(100.0, abs=0.2))


async def test_a_thousand_that_do_not_fit_cost_no_look_each(balancing_once, autojump_clock):
    """Those that demand as much as one that could not be placed are passed by."""
    looks = 0

    def counting(candidates, demand, now, rng):
        nonlocal looks
        looks += 1
        return candidates[0]

    account = {"name": "a", "limits": tokens(6000, per=600.0, requests_per_minute=60_000)}
    async with balancing_once(account, selector=counting, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("all", tokens=6000)
        for number in range(1000):
            calls.launch(number, tokens=1000 + number)
        await trio.testing.wait_all_tasks_blocked()
        assert looks == 1
        nursery.cancel_scope.cancel()


async def test_a_hundred_models_cost_no_look_each(balancing_once, autojump_clock, monkeypatch):
    """Whatever the callers name: where every account treats their models alike, one look is for all."""
    looks = 0
    outlook = Placer.outlook

    def counting(placer, ticket, now):
        nonlocal looks
        looks += 1
        return outlook(placer, ticket, now)

    account = {"name": "a", "limits": {"requests": {"amount": 1, "per": 10.0}}}
    async with balancing_once(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        for number in range(400):
            calls.launch(number, model=f"m{number % 100}")
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(Placer, "outlook", counting)
        await trio.sleep(101.0)
        assert len(calls.began) == 11
        assert looks <= 2 * 10
        nursery.cancel_scope.cancel()


async def test_a_model_that_is_paused_holds_up_no_other(balancing, autojump_clock):
    """Nor do others hold it up: one place is kept for it."""
    async with (
        balancing({"name": "a", "limits": {"concurrency": 2}}, max_wait_for=None) as balancer,
        trio.open_nursery() as nursery,
    ):
        calls = Calls(balancer, nursery, latency=1.0)
        (account,) = balancer._dispatcher.placer.accounts(Ticket(Call(), None, None, "default"))
        await calls.start("runs", model="m")
        await calls.start("runs too", model="n")
        account._state.cooldowns.add(Pause(trio.current_time() + 5.5, "rate limited", "m"))
        await calls.start("paused", model="m")
        for model in "nop":
            await calls.start(model, model=model)
        await trio.sleep(10.0)
        assert {name: calls.began[name] for name in ("n", "o", "p")} == {"n": 1.0, "o": 2.0, "p": 3.0}
        assert calls.began["paused"] == 5.5


# -- priorities and tenants ----------------------------------------------------------------------------------------------------


async def test_who_comes_with_the_bell_is_ranked_with_those_that_wait(balancing, autojump_clock):
    """An urgent call that comes in the very step in which an attempt ends goes first."""
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, latency=1.0)

        async def urgent():
            await trio.sleep_until(calls.start_at + 1.0)
            await calls._one("urgent", Call(priority=1), math.inf)

        nursery.start_soon(urgent)
        await calls.start("runs")
        await calls.start("waits")
        await trio.sleep(5.0)
        assert calls.began == {"runs": 0.0, "urgent": 1.0, "waits": 2.0}


async def test_the_small_tenant_waits_as_if_they_shared_equally(balancing_once, autojump_clock):
    """One tenant sends ten times the tokens of the other, together more than there are. The small one waits no longer than it would
    alone at half the rate, and one call of the other."""
    rng, rate, largest = random.Random(5), 100.0, 300
    account = {"name": "a", "limits": tokens(60 * rate, burst=largest)}
    waits = {"small": [], "big": []}
    alone, free_at = [], 0.0  # of the small one, if half the rate were its own
    async with balancing_once(account, max_wait_for=None, max_waiting=10_000) as balancer, trio.open_nursery() as nursery:

        async def one(tenant, demand):
            came_at = trio.current_time()

            async def attempt(lease):
                waits[tenant].append(trio.current_time() - came_at)

            await balancer.run(Call(tenant=tenant, demand=Demand(input_tokens=demand)), attempt)

        async def send(tenant, per_second, until):
            nonlocal free_at
            while (now := trio.current_time()) < until:
                demand = rng.randrange(100, largest + 1)
                nursery.start_soon(one, tenant, demand)
                if tenant == "small":
                    free_at = max(free_at, now)
                    alone.append(free_at - now)
                    free_at += demand / (rate / 2.0)
                await trio.sleep(rng.expovariate(per_second / 200.0))

        start = trio.current_time()
        nursery.start_soon(send, "big", 4.0 * rate, start + 300.0)
        await trio.sleep(20.0)
        nursery.start_soon(send, "small", 0.4 * rate, start + 260.0)
        await trio.sleep(280.0)
        assert len(waits["small"]) == len(alone) > 30
        assert sum(waits["small"]) / len(alone) <= sum(alone) / len(alone) + largest / rate
        assert max(waits["big"]) > 100.0
        nursery.cancel_scope.cancel()


async def test_weights_of_tenants(balancing, autojump_clock):
    """A tenant of weight 3 is served three times as much while both wait."""
    tenants = [{"name": "heavy", "weight": 3.0}]
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}, tenants=tenants) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, latency=1.0)
        for number in range(40):
            for tenant in ("heavy", "light"):
                calls.launch((tenant, number), tenant=tenant, tokens=10)
        await trio.sleep(20.5)
        served = [tenant for tenant, _ in calls.began]
        assert 14 <= served.count("heavy") <= 17
        nursery.cancel_scope.cancel()


async def test_waiting_room_per_tenant(balancing, autojump_clock):
    """A tenant that fills its room is refused, by name, and the others are not."""
    account = {"name": "a", "limits": {"requests": {"amount": 1, "per": 10.0}}}
    settings = {"max_waiting_per_tenant": 2, "tenants": [{"name": "wide", "max_waiting": 3}], "max_waiting": 6}
    async with balancing(account, **settings) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("served")
        for number in range(3):
            await calls.start(("a", number), tenant="a")
        assert list(calls.ends) == ["served", ("a", 2)]
        refused = calls.ends["a", 2]
        assert isinstance(refused, Saturated)
        assert str(refused) == "2 calls of the tenant 'a' wait already (a: no room in requests)"
        assert refused.retry_at == pytest.approx(calls.start_at + 10.0 + MARGIN)
        assert refused.decision.attempts == ()
        for number in range(4):
            await calls.start(("wide", number), tenant="wide")
        assert str(calls.ends["wide", 3]) == "3 calls of the tenant 'wide' wait already (a: no room in requests)"
        await calls.start("b", tenant="b")
        await calls.start("c", tenant="c")
        assert str(calls.ends["c"]) == "6 calls wait already (a: no room in requests)"
        assert balancer.statistics().waiting == 6
        nursery.cancel_scope.cancel()


async def test_other_tenants_from_now_on(balancing, autojump_clock):
    """`reconfigure` changes weights and rooms while calls wait."""
    account = {"name": "a", "limits": ONE_AT_A_TIME}
    async with balancing(account, max_waiting_per_tenant=1) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, latency=10.0)
        await calls.start("runs")
        await calls.start("waits")
        await calls.start("refused")
        assert isinstance(calls.ends["refused"], Saturated)
        await balancer.reconfigure(balancing.config(account, max_waiting_per_tenant=2))
        await calls.start("waits too")
        assert balancer.statistics().waiting == 2


def test_tenants_in_the_configuration():
    """`[[tenants]]` and `max_waiting_per_tenant`, with every fault named."""
    account = {"name": "a", "provider": "http", "base_url": "http://a.test"}
    document = {
        "balancer": {"max_waiting_per_tenant": 9},
        "accounts": [account],
        "tenants": [{"name": "a", "weight": 2.0, "max_waiting": 100}, {"name": ""}],
    }
    config = BalancerConfig.parse(document)
    assert config.max_waiting_per_tenant == 9
    assert [(one.name, one.weight, one.max_waiting) for one in config.tenants] == [("a", 2.0, 100), ("", 1.0, None)]
    assert BalancerConfig([account]).tenants == ()
    wrong = {
        **document,
        "balancer": {"max_waiting_per_tenant": -1},
        "tenants": [{"name": "a", "weight": 0}, {"weight": 1.0}, {"name": "a", "weigth": 1.0}, {"name": "x" * 201}],
    }
    with pytest.raises(ConfigError) as caught:
        BalancerConfig.parse(wrong)
    assert {fault.path for fault in caught.value.faults} >= {
        "balancer.max_waiting_per_tenant", "tenants[0].weight", "tenants[1].name", "tenants[2].weigth", "tenants[2].name",
        "tenants[3].name",
    }  # fmt: skip


# -- refused as they come ------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_in_time_behind_others_is_refused_at_once(balancing, autojump_clock):
    """Of calls with one deadline as many wait as the rate admits until then; the others learn at once when they could go."""
    async with balancing({"name": "a", "limits": {"requests": {"amount": 1, "per": 10.0}}}) as balancer:
        calls = Calls(balancer, None)
        with trio.move_on_after(25.0):
            async with trio.open_nursery() as calls.nursery:
                for number in range(5):
                    await calls.start(number)
                assert [type(end) for end in calls.ends.values()] == [str, DeadlineUnreachable, DeadlineUnreachable]
                assert [calls.ends[number].retry_at for number in (3, 4)] == pytest.approx([calls.start_at + 30.0] * 2, abs=0.2)
                assert trio.current_time() == calls.start_at
        assert list(calls.began) == [0, 1, 2]


async def test_behind_higher_priority(balancing, autojump_clock):
    """Those of higher priority that wait as long go first for certain; those that may give up before do not count."""
    account = {"name": "a", "limits": {"requests": {"amount": 1, "per": 10.0}}}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("served")
        for number in range(3):
            await calls.start(number, priority=1)
        await calls.start("refused", within=35.0)
        refused = calls.ends["refused"]
        assert isinstance(refused, DeadlineUnreachable)
        assert refused.retry_at == pytest.approx(calls.start_at + 40.0, abs=0.2)
        await calls.start("in time", within=45.0)
        calls.scopes[1].cancel()
        await calls.start("in time too", within=40.0, priority=1)
        assert balancer.statistics().waiting == 4
        nursery.cancel_scope.cancel()


async def test_who_has_not_even_time_enough_alone_is_told_of_those_before_it(balancing, autojump_clock):
    """The time at which an account refills helps nobody who goes behind others; without them it is what counts."""
    account = {"name": "a", "limits": {"requests": {"amount": 1, "per": 10.0}}}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        await calls.start("served")
        await calls.start("alone", within=5.0)
        assert calls.ends["alone"].retry_at == pytest.approx(calls.start_at + 10.0, abs=0.2)
        for number in range(3):
            await calls.start(number, priority=1)
        await calls.start("behind", within=5.0)
        assert isinstance(calls.ends["behind"], DeadlineUnreachable)
        assert calls.ends["behind"].retry_at == pytest.approx(calls.start_at + 40.0, abs=0.2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("window", ["bucket", "sliding"])
async def test_none_is_refused_that_could_have_been_in_time(window, balancing_once, autojump_clock):
    """Calls with one deadline at the very edge: as many are served as without any early refusal."""
    limits = {"requests": {"amount": 6, "per": 3.0}, "window": window}
    rng = random.Random(4)
    for _ in range(6):
        within = rng.uniform(0.5, 11.0)
        async with balancing_once({"name": "a", "limits": limits}) as balancer:
            calls = Calls(balancer, None)
            with trio.move_on_after(within):
                async with trio.open_nursery() as calls.nursery:
                    for number in range(40):
                        calls.launch(number)
            windows = 6 * (1 + int(within / (3.0 + MARGIN)))
            refills = 6 + int((within - MARGIN) / 0.5)
            assert len(calls.began) >= (min(windows, 40) if window == "sliding" else min(refills, 40))
            assert len(calls.ends) == 40 or within < 11.0


async def test_small_demands_may_pass_large_ones(balancing, autojump_clock):
    """Where others of higher priority demand more, one that demands less may still be in time: it waits."""
    account = {"name": "a", "limits": tokens(600, requests_per_minute=6, burst=6)}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        for number in range(6):
            await calls.start(f"first {number}")
        for number in range(4):
            await calls.start(number, priority=1, tokens=6)
        await calls.start("less", within=35.0, tokens=5)
        await calls.start("as much", within=35.0, tokens=6)
        assert "less" not in calls.ends
        assert isinstance(calls.ends["as much"], DeadlineUnreachable)
        nursery.cancel_scope.cancel()


async def test_nobody_left_is_told_to_all(balancing, autojump_clock):
    """When the pool's only account goes, all that wait for it are told in one look."""
    account = {"name": "a", "models": ["m"], "limits": {"requests": {"amount": 1, "per": 100.0}}}
    other = {"name": "b", "models": ["n"]}
    async with balancing(account, other, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        for number in range(5):
            await calls.start(number, model="m")
        await balancer.reconfigure(balancing.config(other, max_wait_for=None))
        await trio.testing.wait_all_tasks_blocked()
        assert [type(end) for end in calls.ends.values()] == [str] + [NoAccount] * 4


async def test_ten_thousand_cooldowns_end_at_once(balancing_once, autojump_clock):
    """Many that wait for one instant go in their order, none before it, and in one look."""
    account = {"name": "a", "limits": {"requests": {"amount": 500, "per": 10.0}, "window": "sliding"}}
    backend = ScriptedBackend(default=Reply())
    async with balancing_once(account, max_wait_for=None, max_waiting=10_000) as balancer, trio.open_nursery() as nursery:
        start = trio.current_time()
        for _ in range(1500):
            nursery.start_soon(balancer.run, Call(), backend.attempt)
    began = [at - start for at in backend.began()]
    assert [sum(at < 10.0 for at in began), sum(10.0 <= at < 20.0 for at in began)] == [500, 500]


async def test_what_would_end_too_late_gives_way_while_others_wait(balancing_once, autojump_clock):
    """An attempt takes three seconds where it may go: who has two of eleven left is not placed; three and a half suffice."""
    account = {"name": "a", "models": ["m"], "limits": {"concurrency": 1}}
    unused = {"name": "b", "models": ["n"]}
    backend = ScriptedBackend(default=Reply(3.0))
    ends = {}

    async def call(name, within):
        with trio.move_on_after(within):
            try:
                ends[name] = await balancer.run(Call("m"), backend.attempt)
            except DeadlineUnreachable:
                ends[name] = "refused", trio.current_time() - start

    async with balancing_once(account, unused, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        await balancer.run(Call("m"), backend.attempt)
        start = trio.current_time()
        for name, within in (("first", 4.0), ("second", 11.0), ("third", 11.1), ("fourth", 11.2), ("last", 99.0)):
            nursery.start_soon(call, name, within)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(7.0)
        nursery.start_soon(call, "short", 5.5)
    assert ends == {"first": "a", "second": "a", "third": "a", "fourth": ("refused", 9.0), "last": "a", "short": "a"}


async def test_what_can_end_in_time_is_served_however_long_answers_take(balancing, autojump_clock):
    """One call a second, answers that take 30: of 200 with two minutes each those are served that begin in the first 90 s."""
    account = {"name": "a", "limits": {"requests_per_minute": 60, "burst": 1}}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, latency=30.0)
        for number in range(200):
            await calls.start(number, within=120.0)
        await trio.sleep(121.0)
        served = [number for number in range(200) if calls.began.get(number, 200.0) <= 90.0]
        assert len(served) >= 87
        assert len(calls.began) <= len(served) + 1


async def test_what_would_end_too_late_gives_way_to_nobody_elsewhere(balancing, autojump_clock):
    """A ticket that none of its accounts could serve is not one of those others, in its pool or in another."""
    accounts = [{"name": name, "models": [name], "limits": {"requests": {"amount": 1, "per": 10.0}}} for name in "abc"]
    pools = [{"name": "p", "tiers": [["a", "b"]]}, {"name": "q", "tiers": [["c"]]}]
    routes = [{"model": "a", "pool": "p"}, {"model": "b", "pool": "p"}, {"model": "c", "pool": "q"}]
    for other in "bc":
        async with (
            balancing(*accounts, pools=pools, routes=routes, max_wait_for=None) as balancer,
            trio.open_nursery() as nursery,
        ):
            calls = Calls(balancer, nursery, latency=1.0)
            await calls.start("first", model="a")
            await calls.start("of another", model=other)
            await trio.sleep(1.5)
            await calls.start("waits", model=other)
            await trio.sleep(7.0)
            await calls.start("late", model="a", within=3.0)
            await calls.start("waits as well", model=other)
            await trio.sleep(5.0)
            assert calls.began["late"] == pytest.approx(10.0, abs=0.1)
            nursery.cancel_scope.cancel()


async def test_what_would_end_too_late_is_told_when_it_could_have_begun(balancing, autojump_clock):
    """After the one that has just gone before it: at the next refill, 20 s later."""
    account = {"name": "a", "limits": {"requests": {"amount": 1, "per": 20.0}}}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, latency=3.0)
        await calls.start("first")
        await trio.sleep(5.0)
        await calls.start("late", within=17.0)
        await calls.start("urgent", priority=1)
        await calls.start("another")
        await trio.sleep(15.5)
        assert calls.began["urgent"] == pytest.approx(20.0, abs=0.1)
        refused = calls.ends["late"]
        assert isinstance(refused, DeadlineUnreachable)
        assert refused.retry_at == pytest.approx(calls.start_at + 40.0, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_none_is_refused_for_those_before_it_that_will_be(balancing, autojump_clock):
    """Those of higher priority that can no longer end in time are refused, and then it has its turn."""
    account = {"name": "a", "limits": {"requests": {"amount": 1, "per": 10.0}}}
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, latency=30.0)
        await calls.start("first")
        await trio.sleep(30.0)
        for number in range(12):
            await calls.start(number, priority=1, within=80.0)
        await trio.sleep(45.0)
        await calls.start("last", within=40.0)
        await trio.sleep(20.0)
        assert isinstance(calls.ends[11], DeadlineUnreachable)
        assert calls.began["last"] == pytest.approx(90.0, abs=10.5)
        nursery.cancel_scope.cancel()


async def test_who_comes_behind_too_many_of_its_kind_is_refused_at_once(balancing, autojump_clock):
    """Two accounts admit one call each in ten seconds, three together in fifteen: of ten that may wait so long two go at once, three
    wait, and the others are told when they could."""
    accounts = [{"name": name, "limits": {"requests": {"amount": 1, "per": 10.0}}} for name in "ab"]
    async with balancing(*accounts) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery)
        for number in range(10):
            await calls.start(number, within=15.0)
        refused = [calls.ends[number] for number in range(5, 10)]
        assert all(isinstance(end, DeadlineUnreachable) for end in refused)
        assert refused[0].retry_at == pytest.approx(calls.start_at + 20.0, abs=0.15)
        await trio.sleep(11.0)
        assert sorted(calls.began) == [0, 1, 2, 3]
