"""The life of a balancer: how its block ends, what becomes of calls, and what a new configuration changes."""

from __future__ import annotations

import contextlib
from functools import partial

import httpx
import pytest
import trio
import trio.testing

from balancer import (
    Account,
    AttemptFailed,
    AttemptsFailed,
    BalancerError,
    Call,
    Closed,
    ConfigError,
    DeadlineUnreachable,
    Demand,
    Faulted,
    NoAccount,
    Usage,
    Withdrawn,
    open_balancer,
)
from balancer.core.account import COLD_LIMIT, AccountState
from balancer.testing import HTTPReply, Reply, ScriptedBackend, ScriptedTransport

ONE_AT_A_TIME = {"concurrency": 1}


# -- the block's end ------------------------------------------------------------------------------------------------------


class TheirGroup(ExceptionGroup):
    pass


@pytest.mark.parametrize(
    "error",
    [ValueError("v"), ExceptionGroup("theirs", [ValueError("v")]), TheirGroup("theirs", [OSError()]), KeyboardInterrupt()],
    ids=["plain", "group", "subclass", "interrupt"],
)
async def test_an_exception_of_the_block_leaves_it_unchanged(error, balancing, autojump_clock):
    """The same object, cause, context and all; groups of theirs are not taken for ours."""
    cause, context = OSError("cause"), KeyError("context")
    with pytest.raises(type(error)) as caught:
        async with open_balancer(balancing.config("a")):
            try:
                raise context
            except KeyError:
                raise error from cause
    assert caught.value is error
    assert (error.__cause__, error.__context__, error.__suppress_context__) == (cause, context, True)


async def test_an_exception_without_context_gets_none(balancing, autojump_clock):
    """Nothing of ours is chained to it."""
    error = ValueError("v")
    with pytest.raises(ValueError, match="v"):
        async with open_balancer(balancing.config("a")):
            raise error
    assert error.__cause__ is error.__context__ is None


class Caller:
    """A call from a nursery that outlives the balancer, and how it ended."""

    def __init__(self, nursery, balancer, attempt, call=None):
        self.end = None
        self._arguments = balancer, attempt, call or Call()
        nursery.start_soon(self._run)

    async def _run(self):
        balancer, attempt, call = self._arguments
        try:
            self.end = await balancer.run(call, attempt)
        except BalancerError as error:
            self.end = error


@pytest.mark.parametrize(("shows_limits", "at_once"), [(True, COLD_LIMIT), (False, 10)])
async def test_whether_a_function_shows_limits(shows_limits, at_once, balancing_once, autojump_clock):
    """Only then an account with unknown ones is asked by a few calls until the first answer."""
    began, answer = [], trio.Event()

    async def attempt(lease):
        began.append(trio.current_time())
        await answer.wait()
        lease.observe(())

    only = Account(name="a", provider="openai", base_url="http://a.test/v1")
    async with balancing_once(only) as balancer, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(partial(balancer.run, Call(), attempt, shows_limits=shows_limits))
        await trio.testing.wait_all_tasks_blocked()
        assert len(began) == at_once
        answer.set()
    assert len(began) == 10


async def test_a_normal_exit_lets_running_attempts_finish(balancing, autojump_clock):
    """Who waits gets `Closed` at once, who runs gets `drain_timeout`, and no longer than it takes."""
    backend = ScriptedBackend(default=Reply(3.0))
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with open_balancer(balancing.config({"name": "a", "limits": ONE_AT_A_TIME}, drain_timeout=10.0)) as balancer:
            runs = Caller(nursery, balancer, backend.attempt)
            await trio.testing.wait_all_tasks_blocked()
            waits = Caller(nursery, balancer, backend.attempt)
            await trio.sleep(1.0)
        assert trio.current_time() - start == 3.0
        comes = Caller(nursery, balancer, backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        assert runs.end == "a"
        assert [type(waits.end), type(comes.end)] == [Closed, Closed]
        assert waits.end.decision.call == Call()
        assert balancer.statistics().in_flight == 0


async def test_new_calls_are_refused_while_it_drains(balancing, autojump_clock):
    """And so is the second attempt of a call that fails meanwhile."""
    ends = {}
    async with trio.open_nursery() as nursery, open_balancer(balancing.config("a", "b", drain_timeout=10.0)) as balancer:
        failing = ScriptedBackend(default=Reply(2.0, end=Faulted("down")))
        ends["fails"] = Caller(nursery, balancer, failing.attempt)
        ends["holds"] = Caller(nursery, balancer, ScriptedBackend(default=Reply(5.0)).attempt)
        await trio.testing.wait_all_tasks_blocked()

        async def later():
            await trio.sleep(1.0)
            ends["comes"] = Caller(nursery, balancer, ScriptedBackend().attempt)
            with pytest.raises(Closed):
                await balancer.reconfigure(balancing.config("a"))

        nursery.start_soon(later)
    assert {name: type(caller.end) for name, caller in ends.items()} == {"fails": Closed, "holds": str, "comes": Closed}
    assert len(failing.began()) == 1
    assert [attempt.outcome for attempt in ends["fails"].end.decision.attempts] == [Faulted("down")]


async def test_after_the_drain_timeout_attempts_are_cancelled(balancing, autojump_clock):
    """Their callers get `Closed`; nobody is blamed; a later settle does nothing."""
    backend = ScriptedBackend(default=Reply(60.0))
    leases = []

    async def attempt(lease):
        leases.append(lease)
        return await backend.attempt(lease)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with open_balancer(balancing.config("a", drain_timeout=5.0)) as balancer:
            caller = Caller(nursery, balancer, attempt)
            await trio.sleep(1.0)
        assert trio.current_time() - start == 6.0
    assert trio.current_time() - start == 6.0
    assert isinstance(caller.end, Closed)
    assert [attempt.outcome for attempt in caller.end.decision.attempts] == [Withdrawn()]
    assert [event.what for event in backend.events] == ["began", "cancelled"]
    leases[0].settle(Faulted("late"))
    leases[0].report(usage=Usage(5))
    leases[0].withdraw()
    snapshot = balancer.statistics().accounts["a"]
    assert (snapshot.failed, snapshot.in_flight) == (0, 0)


@pytest.mark.parametrize("how", ["exception", "cancel"])
async def test_an_exit_by_exception_or_cancel_does_not_wait(how, balancing, autojump_clock):
    """Attempts end in the same instant."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        with contextlib.suppress(ValueError), trio.CancelScope() as scope:
            async with open_balancer(balancing.config({"name": "a", "limits": ONE_AT_A_TIME})) as balancer:
                callers = [Caller(nursery, balancer, ScriptedBackend(default=Reply(60.0)).attempt) for _ in range(2)]
                await trio.sleep(1.0)
                if how == "exception":
                    raise ValueError
                scope.cancel()
                await trio.sleep_forever()
    assert trio.current_time() - start == 1.0
    assert [type(caller.end) for caller in callers] == [Closed, Closed]


async def test_an_attempt_that_ends_in_the_instant_of_the_closing(balancing, autojump_clock):
    """Its caller gets the value or `Closed`, and nothing is left either way."""
    async with trio.open_nursery() as nursery, open_balancer(balancing.config("a", drain_timeout=5.0)) as balancer:
        caller = Caller(nursery, balancer, ScriptedBackend(default=Reply(5.0)).attempt)
        await trio.testing.wait_all_tasks_blocked()
    assert caller.end == "a" or isinstance(caller.end, Closed)
    assert balancer.statistics().in_flight == 0


async def test_a_call_that_begins_in_the_pass_of_the_closing(balancing, autojump_clock):
    """It gets `Closed`; no attempt begins with a lease that is over, and none runs on in a closed balancer."""
    backend = ScriptedBackend(default=Reply(60.0))
    began_settled = []

    async def attempt(lease):
        began_settled.append(lease.settled)
        return await backend.attempt(lease)

    start = trio.current_time()
    for passes in range(5):
        async with trio.open_nursery() as nursery:
            with contextlib.suppress(ValueError):
                async with open_balancer(balancing.config("a")) as balancer:
                    caller = Caller(nursery, balancer, attempt)
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    raise ValueError
        assert isinstance(caller.end, Closed)
        assert balancer.statistics().in_flight == 0
    assert trio.current_time() == start
    assert backend.running == 0
    assert True not in began_settled


async def test_use_after_the_end_is_closed(balancing, autojump_clock):
    """Every way in says so; a second drain and a second close are no events."""
    backend = ScriptedTransport()
    account = Account("a", provider="http", base_url="http://a.test", transport=backend)
    async with open_balancer(balancing.config(account)) as balancer:
        client = httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1")
    with pytest.raises(Closed) as caught:
        await balancer.run(Call(model="m"), ScriptedBackend().attempt)
    assert caught.value.decision.call.model == "m"
    with pytest.raises(Closed):
        await balancer.reconfigure(balancing.config("a", "b"))
    async with client:
        response = await client.get("/x")
    assert response.status_code == 503
    assert backend.requests == []
    await balancer.drain()
    balancer.close()


async def test_no_task_is_left_after_the_block(balancing, autojump_clock):
    """Whatever way it ends."""
    before = set(balancing.tasks())
    async with open_balancer(balancing.config("a", "b")):
        assert len(set(balancing.tasks()) - before) == 3
    assert set(balancing.tasks()) == before


async def test_background_work_lives_in_the_applications_own_nursery(balancing, autojump_clock):
    """A call there outlives the scope that started it, and its error is that nursery's."""
    backend = ScriptedBackend(default=Reply(2.0))
    async with balancing("a") as balancer:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(balancer.run, Call(), backend.attempt)
        assert balancer.statistics().totals.served == 3


async def test_an_unusable_configuration_opens_nothing(balancing, autojump_clock):
    """`ConfigError` comes before any actor."""
    before = balancing.tasks()
    for config in ({"accounts": []}, {"accounts": [{"name": "a", "provider": "mock"}]}, {"nonsense": 1}):
        with pytest.raises(ConfigError):
            async with open_balancer(config):
                raise AssertionError("the block was entered")
    assert balancing.tasks() == before


# -- actors that fail -----------------------------------------------------------------------------------------------------


async def test_the_ticket_in_hand_when_the_dispatcher_fails_is_refused(balancing, autojump_clock, monkeypatch):
    """With a `BalancerError` and the failure as its cause; the next call is served."""
    failure = ZeroDivisionError("poked")

    def poked(state, now):
        raise failure

    async with balancing("a") as balancer:
        monkeypatch.setattr(AccountState, "snapshot", poked)
        with pytest.raises(BalancerError) as caught:
            await balancer.run(Call(), ScriptedBackend().attempt)
        assert type(caught.value) is BalancerError
        assert caught.value.__cause__ is failure
        monkeypatch.undo()
        assert await balancer.run(Call(), ScriptedBackend().attempt) == "a"


@pytest.mark.parametrize("method", ["snapshot", "earliest"])
async def test_a_dispatcher_that_fails_three_times_ends_the_block_loudly(method, balancing, autojump_clock, monkeypatch):
    """One `BalancerError`; every call on its way and every one that waits is answered, in whatever nursery it runs."""
    failure = ZeroDivisionError("poked")

    def poked(*arguments):
        raise failure

    backend = ScriptedBackend(default=Reply(60.0))
    async with trio.open_nursery() as nursery:
        with pytest.raises(BalancerError, match="dispatcher failed three times") as caught:
            async with open_balancer(balancing.config({"name": "a", "limits": ONE_AT_A_TIME})) as balancer:
                callers = [Caller(nursery, balancer, backend.attempt) for _ in range(3)]
                await trio.testing.wait_all_tasks_blocked()
                monkeypatch.setattr(AccountState, method, poked)
                callers += [Caller(nursery, balancer, backend.attempt) for _ in range(5)]
                await trio.sleep_forever()
        assert type(caught.value) is BalancerError
        assert caught.value.__cause__ is failure
    assert all(isinstance(caller.end, BalancerError) for caller in callers)
    assert {type(caller.end) for caller in callers} == {BalancerError, Closed}


# -- reconfigure ----------------------------------------------------------------------------------------------------------


async def test_weights_and_limits_change_and_the_ledger_stays(balancing, autojump_clock):
    """What was charged stays charged under the new limit, what is in flight stays in flight, health is kept."""
    backend = ScriptedBackend(default=Reply(10.0))
    limits = {"requests_per_minute": 10, "tokens_per_minute": 1000}
    async with balancing({"name": "a", "limits": limits}) as balancer, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(balancer.run, Call(demand=Demand(100)), backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        limits = {"requests_per_minute": 6, "tokens_per_minute": 5000}
        await balancer.reconfigure(balancing.config({"name": "a", "limits": limits, "weight": 7.0}))
        snapshot = balancer.statistics().accounts["a"]
        now = trio.current_time()
        assert (snapshot.weight, snapshot.in_flight) == (7.0, 4)
        assert snapshot.room("requests", now) == pytest.approx(2.0, abs=0.01)  # refill is counted on a little late
        assert snapshot.room("tokens", now) == pytest.approx(4600.0, abs=3.0)


async def test_health_is_kept(balancing, autojump_clock):
    """An ejected account stays ejected; settings of its health are the new ones."""
    settings = {"health": {"consecutive_faults": 1}, "max_attempts": 1}
    async with balancing("a", **settings) as balancer:
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(), ScriptedBackend(default=Reply(end=Faulted("down"))).attempt)
        await balancer.reconfigure(balancing.config({"name": "a", "weight": 2.0}, health={"consecutive_faults": 9}))
        assert balancer.statistics().accounts["a"].state == "ejected"
        assert balancer._supervisors["a"].health.consecutive_faults == 9


async def test_more_room_serves_who_waits(balancing, autojump_clock):
    """Nobody waits for an end that is no longer needed."""
    backend = ScriptedBackend(default=Reply(10.0))
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(balancer.run, Call(), backend.attempt)
        await trio.sleep(1.0)
        await balancer.reconfigure(balancing.config({"name": "a", "limits": {"concurrency": 2}}, "b"))
        await trio.testing.wait_all_tasks_blocked()
        assert balancer.statistics().waiting == 0
        assert len(backend.began()) == 3


async def test_an_added_account_takes_calls_with_the_new_settings(balancing, autojump_clock):
    """It is watched by its own actor at once."""
    async with balancing("a", health={"consecutive_faults": 5}) as balancer:
        await balancer.reconfigure(balancing.config("b", health={"consecutive_faults": 2}, idle_timeout=7.0))
        await trio.testing.wait_all_tasks_blocked()
        assert await balancer.run(Call(), ScriptedBackend().attempt) == "b"
        supervisor = balancer._supervisors["b"]
        assert (supervisor.health.consecutive_faults, supervisor.idle_timeout) == (2, 7.0)


async def test_a_removed_account_ends_its_attempts_as_they_would(balancing, autojump_clock):
    """What is in flight goes on and is counted until it ends; nothing new goes there; then its actor is gone."""
    backend = ScriptedBackend(default=Reply(10.0))
    async with balancing("a") as balancer, trio.open_nursery() as nursery:
        caller = Caller(nursery, balancer, backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        await balancer.reconfigure(balancing.config("b"))
        assert balancer.statistics().in_flight == 1
        assert set(balancer.statistics().accounts) == {"b"}
        assert await balancer.run(Call(), ScriptedBackend().attempt) == "b"
        await trio.sleep(11.0)
        assert caller.end == "a"
        assert balancer.statistics().in_flight == 0


async def test_a_removed_account_is_drained_and_closed_like_others(balancing, autojump_clock):
    """The block's end waits for its attempts and cancels them."""
    backend = ScriptedBackend(default=Reply(60.0))
    start = trio.current_time()
    async with trio.open_nursery() as nursery, open_balancer(balancing.config("a", drain_timeout=5.0)) as balancer:
        caller = Caller(nursery, balancer, backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        await balancer.reconfigure(balancing.config("b", drain_timeout=5.0))
    assert trio.current_time() - start == 5.0
    assert isinstance(caller.end, Closed)


async def test_a_rotated_key(balancing, autojump_clock):
    """In flight keeps the old key, new attempts use the new one."""
    seen = []

    async def attempt(lease):
        await trio.sleep(5.0)
        seen.append(lease.credential.reveal())

    async with balancing({"name": "a", "key": "old"}) as balancer, trio.open_nursery() as nursery:
        nursery.start_soon(balancer.run, Call(), attempt)
        await trio.sleep(1.0)
        await balancer.reconfigure(balancing.config({"name": "a", "key": "new"}))
        await balancer.run(Call(), attempt)
    assert seen == ["old", "new"]


async def test_a_rotated_key_on_the_wire(balancing, autojump_clock):
    """A request that is under way was sent with the old key; its failover carries the new one."""
    backend = ScriptedTransport([HTTPReply(503, after=5.0), HTTPReply(200, after=1.0)])

    def account(key):
        return Account("a", provider="http", base_url="http://a.test", key=key, auth="bearer", transport=backend)

    async with (
        balancing(account("old")) as balancer,
        httpx.AsyncClient(transport=balancer.transport()) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.get, "http://balancer/v1/x")
        await trio.sleep(1.0)
        await balancer.reconfigure(balancing.config(account("new")))
    assert [request.headers["authorization"] for request in backend.requests] == ["Bearer old", "Bearer new"]


async def test_a_bad_configuration_changes_nothing(balancing, autojump_clock):
    """`ConfigError`, and all goes on as before."""
    async with balancing("a") as balancer:
        before = balancer.statistics().accounts["a"]
        for config in (
            {"accounts": [{"name": "b", "provider": "http"}]},
            {"accounts": [{"name": "b", "provider": "mock"}]},
            {"balancer": {"selector": "nonsense"}, "accounts": []},
            "/no/such/file.toml",
        ):
            with pytest.raises(ConfigError):
                await balancer.reconfigure(config)
        assert balancer.statistics().accounts == {"a": before}
        assert await balancer.run(Call(), ScriptedBackend().attempt) == "a"


async def test_a_pool_that_goes_away_under_waiting_calls(balancing, autojump_clock):
    """They are told; the dispatcher lives."""
    account = {"name": "a", "limits": ONE_AT_A_TIME}
    pools, routes = [{"name": "p", "tiers": [["a"]]}], [{"model": "m", "pool": "p"}]
    backend = ScriptedBackend(default=Reply(10.0))
    async with balancing(account, pools=pools, routes=routes) as balancer, trio.open_nursery() as nursery:
        callers = [Caller(nursery, balancer, backend.attempt, Call(model="m")) for _ in range(6)]
        await trio.testing.wait_all_tasks_blocked()
        await balancer.reconfigure(balancing.config(account))
        await trio.testing.wait_all_tasks_blocked()
        ended = [caller.end for caller in callers if caller.end is not None]
        assert [type(end) for end in ended] == [NoAccount] * 5
        assert "no pool 'p'" in str(ended[0])
        await trio.sleep(10.0)
        assert await balancer.run(Call(model="m"), backend.attempt) == "a"


async def test_a_cancelled_reconfigure_is_whole(balancing, autojump_clock):
    """It has told everybody or nobody."""
    async with balancing("a", "b") as balancer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await balancer.reconfigure(balancing.config({"name": "a", "weight": 5.0}, {"name": "c", "weight": 5.0}))
        await trio.testing.wait_all_tasks_blocked()
        accounts = balancer.statistics().accounts
        assert {name: snapshot.weight for name, snapshot in accounts.items()} == {"a": 5.0, "c": 5.0}


async def test_another_provider_is_another_account(balancing, autojump_clock):
    """What its provider speaks is what it is asked."""
    async with balancing({"name": "a", "provider": "openai"}) as balancer:
        assert balancer.statistics().accounts["a"].dialects
        await balancer.reconfigure(balancing.config({"name": "a", "provider": "http"}))
        await trio.testing.wait_all_tasks_blocked()
        assert not balancer.statistics().accounts["a"].dialects


LIMITED = {"limits": {"requests": {"amount": 10, "per": 60.0}, "window": "sliding"}}


async def served_at_once(balancer, limit=100):
    """How many calls each account takes now."""
    counts = {}
    with contextlib.suppress(DeadlineUnreachable), trio.fail_after(1.0):
        for _ in range(limit):
            name = await balancer.run(Call(), ScriptedBackend().attempt)
            counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("away", [0.0, 20.0])
async def test_an_account_that_comes_back_goes_on_where_it_was(away, balancing, autojump_clock):
    """Its window stays used, under another key as well; what is charged there by nobody refills as ever."""
    a, b = {"name": "a", "key": "old", **LIMITED}, {"name": "b", **LIMITED}
    async with balancing(a, b) as balancer:
        assert await served_at_once(balancer) == {"a": 10, "b": 10}
        await balancer.reconfigure(balancing.config(b))
        await trio.sleep(away)
        await balancer.reconfigure(balancing.config({**a, "key": "new"}, b))
        assert await served_at_once(balancer) == {}
        await trio.sleep(61.0 - away)
        keys = set()

        async def attempt(lease):
            keys.add((lease.account.name, lease.credential.reveal()))

        for _ in range(20):
            await balancer.run(Call(), attempt)
        assert keys == {("a", "new"), ("b", "")}


async def test_who_comes_back_is_as_ill_as_it_was(balancing, autojump_clock):
    """An ejection is served out; the settings of health are the new ones."""
    settings = {"health": {"consecutive_faults": 1}, "max_attempts": 1}
    async with balancing("a", **settings) as balancer:
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(), ScriptedBackend(default=Reply(end=Faulted("down"))).attempt)
        await balancer.reconfigure(balancing.config("b"))
        await balancer.reconfigure(balancing.config("a", "b", health={"consecutive_faults": 9}))
        assert balancer.statistics().accounts["a"].state == "ejected"
        assert balancer._supervisors["a"].health.consecutive_faults == 9


async def test_an_account_comes_back_while_an_attempt_on_it_runs(balancing, autojump_clock):
    """The attempt counts toward its concurrency, and its end lets in who waits."""
    backend = ScriptedBackend(default=Reply(10.0))
    account = {"name": "a", "limits": ONE_AT_A_TIME}
    async with balancing(account) as balancer, trio.open_nursery() as nursery:
        first = Caller(nursery, balancer, backend.attempt)
        await trio.sleep(1.0)
        await balancer.reconfigure(balancing.config("b"))
        await trio.sleep(1.0)
        await balancer.reconfigure(balancing.config(account))
        start = trio.current_time()
        assert balancer.statistics().in_flight == balancer.statistics().accounts["a"].in_flight == 1
        await balancer.run(Call(), ScriptedBackend().attempt)
        assert trio.current_time() == start + 8.0
        assert first.end == "a"


async def test_another_address_is_another_account(balancing, autojump_clock):
    """It begins anew; the one of before is still known when its address comes back."""
    here, there = {"name": "a", **LIMITED}, {"name": "a", **LIMITED, "base_url": "http://elsewhere.test/v1"}
    async with balancing(here) as balancer:
        assert await served_at_once(balancer) == {"a": 10}
        for account, room in ((there, {"a": 10}), (here, {}), (there, {})):
            await balancer.reconfigure(balancing.config("b"))
            await balancer.reconfigure(balancing.config(account))
            assert await served_at_once(balancer) == room


async def test_a_shared_limit_that_comes_back_is_as_used_as_it_was(balancing, autojump_clock):
    """Even if nobody shared it meanwhile, and the account that does is another."""
    shared = {"shared_limits": {"team": LIMITED["limits"]}}
    sharing = {"limits": {"shared": ["team"]}}
    async with balancing({"name": "a", **sharing}, **shared) as balancer:
        assert await served_at_once(balancer) == {"a": 10}
        await balancer.reconfigure(balancing.config("b"))
        await balancer.reconfigure(balancing.config({"name": "c", **sharing}, **shared))
        assert await served_at_once(balancer) == {}


async def test_a_shared_limit_of_another_period_is_as_used_as_it_was(balancing, autojump_clock):
    """Whoever of those who share it has used it: what they sent counts for it, once, however often it is configured anew."""

    def sharing(*names, per):
        team = {"team": {"requests": {"amount": 10, "per": per}, "window": "sliding"}}
        return balancing.config(*({"name": name, "limits": {"shared": ["team"]}} for name in names), shared_limits=team)

    async with open_balancer(sharing("a", "b", per=60.0)) as balancer:
        used = await served_at_once(balancer, limit=7)
        assert sum(used.values()) == 7
        await balancer.reconfigure(sharing("a", "b", per=3600.0))
        for _ in range(2):
            await balancer.reconfigure(sharing("b", per=3600.0))
            await balancer.reconfigure(sharing("a", "b", per=3600.0))
        assert sum((await served_at_once(balancer)).values()) == 3


async def test_a_returned_account_is_reached_over_new_connections(balancing, autojump_clock):
    """Those of before its removal were closed with it."""
    backend = ScriptedTransport([HTTPReply(200)])
    account = Account("a", provider="http", base_url="http://a.test", transport=backend)
    async with balancing(account) as balancer, httpx.AsyncClient(transport=balancer.transport()) as client:
        for _ in range(2):
            assert (await client.get("http://balancer/v1/x")).status_code == 200
            before = balancer._supervisors["a"].link
            await balancer.reconfigure(balancing.config("b"))
            await trio.testing.wait_all_tasks_blocked()
            await balancer.reconfigure(balancing.config(account))
            assert balancer._supervisors["a"].link is not before
    assert len(backend.requests) == 2


async def test_few_removed_accounts_are_kept(balancing_once, autojump_clock):
    """The last of them; of the others the sums alone, and those on which attempts run."""
    backend = ScriptedBackend(default=Reply(500.0))
    async with balancing_once({"name": "busy"}) as balancer, trio.open_nursery() as nursery:
        caller = Caller(nursery, balancer, backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100):
            await balancer.reconfigure(balancing_once.config({"name": str(number), **LIMITED}))
            await served_at_once(balancer)
        assert len(balancer._removed) == 65
        assert balancer.statistics().totals.served == 1000
        assert balancer.statistics().in_flight == 1
        for number, room in ((98, {}), (0, {"0": 10})):
            await balancer.reconfigure(balancing_once.config({"name": str(number), **LIMITED}))
            assert await served_at_once(balancer) == room
        await trio.sleep(501.0)
        assert caller.end == "busy"
        assert balancer.statistics().totals.served == 1011


async def test_totals_never_go_back(balancing, autojump_clock):
    """They hold what was served by accounts that are gone, and by those that went on to the end of an attempt."""
    async with balancing("a", "b") as balancer, trio.open_nursery() as nursery:
        for _ in range(4):
            await balancer.run(Call(), ScriptedBackend().attempt)
        nursery.start_soon(balancer.run, Call(), ScriptedBackend(default=Reply(10.0)).attempt)
        await trio.testing.wait_all_tasks_blocked()
        for names in ("b", "c", "a", "ab"):
            await balancer.reconfigure(balancing.config(*names))
            assert balancer.statistics().totals.served == 4
        await balancer.reconfigure(balancing.config("c"))
        await trio.sleep(11.0)
        assert (balancer.statistics().totals.calls, balancer.statistics().totals.served) == (5, 5)


async def test_what_is_no_call_is_named(balancing_once, autojump_clock):
    """Where it is given, not deep inside; by `map` as the result."""
    async with balancing_once("a") as balancer:
        with pytest.raises(TypeError, match="run takes a Call, not str"):
            await balancer.run("x", ScriptedBackend().attempt)
        async with balancer.map([1, Call()], ScriptedBackend().attempt, limit=1) as results:
            wrong, right = [result async for result in results]
        assert isinstance(wrong.error, TypeError)
        assert (right.value, right.error) == ("a", None)
        assert balancer.statistics().totals.calls == 1


@pytest.mark.parametrize("mount", [5, None, "v1", "/", "/v1/"])
async def test_a_mount_that_is_no_path(mount, balancing_once, autojump_clock):
    """What was given is shown beside what is allowed."""
    async with balancing_once("a") as balancer:
        with pytest.raises(ValueError, match=f'mount is a path like "/v1", or "": {mount!r}'):
            balancer.transport(mount=mount)
        with pytest.raises(ValueError, match='library is "httpx" or "httpx2": \'requests\''):
            balancer.transport(library="requests")


async def test_statistics_count(balancing, autojump_clock):
    """Calls, and attempts by how they ended."""
    ends = iter([None, Faulted("down"), None])

    async def attempt(lease):
        if (end := next(ends)) is not None:
            raise AttemptFailed(end)

    async with balancing("a", "b") as balancer:
        for _ in range(2):
            await balancer.run(Call(), attempt)
        totals = balancer.statistics().totals
        assert (totals.calls, totals.served, totals.refused, totals.failed) == (2, 2, 0, 1)
        assert repr(balancer) == "<BalancerNursery: 2 accounts, 0 in flight>"
