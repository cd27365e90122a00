"""Placing: tickets, their order, and what is refused at once."""

from __future__ import annotations

import contextlib
import math
import sys

import pytest
import trio

from balancer import (
    AttemptsFailed,
    BalancerConfig,
    Call,
    Closed,
    DeadlineUnreachable,
    Demand,
    Faulted,
    NoAccount,
    RateLimited,
    Saturated,
    Unauthorized,
    open_balancer,
)
from balancer.actors.messages import Ticket
from balancer.core.decision import Decision
from balancer.core.snapshot import AccountSnapshot
from balancer.selection.selectors import least_in_flight
from balancer.testing import Reply, ScriptedBackend

MARGIN = 0.03  # seconds that the ledger adds to a refill, for the provider's clock
ONE_AT_A_TIME = {"concurrency": 1}


class Calls:
    """Starts calls in a nursery and keeps how each of them ended."""

    def __init__(self, balancer, nursery, backend):
        self.balancer, self.nursery, self.backend = balancer, nursery, backend
        self.ends = {}
        self.scopes = {}

    async def start(self, name, call=None, *, within=math.inf):
        """Start a call and let it come to rest, so that the order of arrival is that of the lines."""
        self.nursery.start_soon(self._one, name, call or Call(), within)
        await trio.testing.wait_all_tasks_blocked()

    async def _one(self, name, call, within):
        with trio.move_on_after(within) as self.scopes[name]:
            try:
                self.ends[name] = await self.balancer.run(call, self.backend.attempt)
            except Exception as error:
                self.ends[name] = error


async def test_a_burst_is_served_at_the_instants_of_the_law(balancing, autojump_clock):
    """30 calls on two accounts of 5 per 2 s: 10 at once, 10 a period later, 10 after two; none waits for more than time."""
    limits = {"requests": {"amount": 5, "per": 2.0}, "window": "sliding"}
    backend = ScriptedBackend(default=Reply(0.1))
    accounts = [{"name": name, "limits": limits} for name in ("a", "b")]
    async with balancing(*accounts) as balancer, trio.open_nursery() as nursery:
        start = trio.current_time()
        for _ in range(30):
            nursery.start_soon(balancer.run, Call(), backend.attempt)
    began = [at - start for at in backend.began()]
    assert began == pytest.approx([0.0] * 10 + [2.0 + MARGIN] * 10 + [2 * (2.0 + MARGIN)] * 10, abs=0.02)  # margins are learned
    assert began[10] > 2.0
    assert began[20] > began[10] + 2.0
    assert backend.accounts().count("a") == 15


async def test_a_queue_does_not_stall_on_time_alone(balancing, autojump_clock):
    """When nothing is in flight whose end could ring, the refill of a bucket alone gives a waiting ticket its lease."""
    backend = ScriptedBackend()
    async with balancing({"name": "a", "limits": {"requests": {"amount": 1, "per": 5.0}}}) as balancer:
        start = trio.current_time()
        for _ in range(3):
            await balancer.run(Call(), backend.attempt)
    assert [at - start for at in backend.began()] == pytest.approx([0.0, 5.0 + MARGIN, 10.0 + 2 * MARGIN], abs=0.001)


async def test_a_cooled_account_is_used_again_by_time_alone(balancing, autojump_clock):
    """A ticket that waits for a cooldown is placed when it ends, not before and not much later."""
    start = trio.current_time()
    backend = ScriptedBackend({"a": [Reply(end=RateLimited(until=start + 7.0)), Reply()]})
    async with balancing("a") as balancer:
        assert await balancer.run(Call(), backend.attempt) == "a"
    assert backend.began()[1] - start == pytest.approx(7.0, abs=0.051)
    assert backend.began()[1] - start >= 7.0


async def test_a_backlog_is_drained_in_one_pass(balancing, autojump_clock):
    """The dispatcher takes all that has come before it decides: 200 calls at once cost it one step, not 200."""
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing("a", "b") as balancer, trio.open_nursery() as nursery:
        steps = DispatcherSteps(balancer)
        for _ in range(200):
            nursery.start_soon(balancer.run, Call(), backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        assert len(backend.began()) == 200
        assert steps.taken == 1
        steps.stop()


class DispatcherSteps(trio.abc.Instrument):
    """Counts the steps of the dispatcher's task."""

    def __init__(self, balancer):
        [self._task] = [task for task in balancer._nursery.child_tasks if task.name == "balancer dispatcher"]
        self.taken = 0
        trio.lowlevel.add_instrument(self)

    def before_task_step(self, task):
        self.taken += task is self._task

    def stop(self):
        trio.lowlevel.remove_instrument(self)


async def test_the_doorbell_rings_only_while_tickets_wait(balancing, autojump_clock):
    """An attempt that ends wakes the dispatcher if a ticket waits, and nobody if none does."""
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing({"name": "a", "limits": {"concurrency": 2}}) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, backend)
        for name in ("one", "two"):
            await calls.start(name)
        steps = DispatcherSteps(balancer)
        await trio.sleep(5.0)
        assert steps.taken == 0
        for name in ("three", "four", "five"):
            await calls.start(name)
        assert (steps.taken, balancer.statistics().waiting) == (3, 1)
        await trio.sleep(1.5)  # two attempts ended in one instant: one bell
        assert (steps.taken, balancer.statistics().waiting) == (4, 0)
        await trio.sleep(5.0)
        assert steps.taken == 4
        steps.stop()


async def test_waiting_is_no_polling(balancing, autojump_clock):
    """While a ticket waits for a refill an hour away the dispatcher sleeps: it wakes for the ticket and for the refill."""
    backend = ScriptedBackend()
    async with balancing({"name": "a", "limits": {"requests": {"amount": 1, "per": 3600.0}}}, max_wait_for=None) as balancer:
        await balancer.run(Call(), backend.attempt)
        steps = DispatcherSteps(balancer)
        await balancer.run(Call(), backend.attempt)
        assert steps.taken == 2
        steps.stop()


async def test_first_come_first_served(balancing, autojump_clock):
    """Tickets of one priority and without deadlines leave in the order of their arrival; who comes late does not barge."""
    backend = ScriptedBackend(default=Reply(1.0))
    order = []

    async def attempt(lease):
        order.append(lease.call.tags)
        return await backend.attempt(lease)

    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(balancer.run, Call(tags=(number,)), attempt)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(4.5)
        nursery.start_soon(balancer.run, Call(tags=(5,)), attempt)
    assert order == [(number,) for number in range(6)]


async def test_priority_then_deadline_then_arrival(balancing, autojump_clock):
    """Higher priority goes first, inside it the earlier deadline, then the order of arrival."""
    order = []
    backend = ScriptedBackend(default=Reply(1.0))

    async def run(name, priority, within):
        async def attempt(lease):
            order.append(name)
            return await backend.attempt(lease)

        with trio.fail_after(within):
            await balancer.run(Call(priority=priority), attempt)

    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        for waiting in (
            ("running", 0, 500.0),
            ("late", 0, 400.0),
            ("soon", 0, 100.0),
            ("also soon", 0, 100.0),
            ("low", -1, 50.0),
            ("high", 1, 300.0),
        ):
            nursery.start_soon(run, *waiting)
            await trio.testing.wait_all_tasks_blocked()
    assert order == ["running", "high", "soon", "also soon", "late", "low"]


async def test_lanes_do_not_block_each_other(balancing, autojump_clock):
    """A ticket that waits for one model does not hold up those for a model that is free."""
    accounts = [
        {"name": "a", "models": ["big"], "limits": ONE_AT_A_TIME},
        {"name": "b", "models": ["small"]},
    ]
    backend = ScriptedBackend({"a": [Reply(100.0)]}, default=Reply(1.0))
    async with balancing(*accounts) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, backend)
        await calls.start("one", Call(model="big"))
        await calls.start("two", Call(model="big"))
        await calls.start("three", Call(model="small"))
        await trio.sleep(1.5)
        assert calls.ends == {"three": "b"}


async def test_beyond_max_waiting_a_call_is_refused_at_once(balancing, autojump_clock):
    """`Saturated` comes before queueing, charges nothing, and says when it could have worked."""
    limits = {"requests": {"amount": 1, "per": 10.0}}
    async with balancing({"name": "a", "limits": limits}, max_waiting=2) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, ScriptedBackend())
        start = trio.current_time()
        for name in ("served", "waits", "waits too", "refused"):
            await calls.start(name)
        refused = calls.ends["refused"]
        assert isinstance(refused, Saturated)
        assert refused.retry_at == pytest.approx(start + 10.0 + MARGIN)
        assert refused.decision.attempts == ()
        assert trio.current_time() == start
        assert balancer.statistics().waiting == 2


async def test_without_waiting_room_a_free_account_still_serves(balancing, autojump_clock):
    """`max_waiting = 0` refuses only what would have to wait."""
    async with balancing("a", max_waiting=0) as balancer:
        assert await balancer.run(Call(), ScriptedBackend().attempt) == "a"


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(balancing, autojump_clock):
    """`DeadlineUnreachable` comes at the enqueue, with the earliest time at which an account could take the call."""
    async with balancing({"name": "a", "limits": {"requests": {"amount": 1, "per": 10.0}}}) as balancer:
        backend = ScriptedBackend()
        start = trio.current_time()
        await balancer.run(Call(), backend.attempt)
        with pytest.raises(DeadlineUnreachable) as caught, trio.fail_after(5.0):
            await balancer.run(Call(), backend.attempt)
        assert trio.current_time() == start
        assert caught.value.retry_at == pytest.approx(start + 10.0 + MARGIN)
        assert caught.value.decision.attempts == ()
        with trio.fail_after(11.0):
            await balancer.run(Call(), backend.attempt)


async def test_who_queues_behind_others_is_refused_as_early(balancing, autojump_clock):
    """A deadline that no account can meet is refused at the enqueue, also behind tickets that wait."""
    limits = {"requests": {"amount": 1, "per": 10.0}}
    async with balancing({"name": "a", "limits": limits}) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, ScriptedBackend())
        start = trio.current_time()
        await calls.start("served")
        await calls.start("waits")
        await calls.start("refused", within=5.0)
        assert isinstance(calls.ends["refused"], DeadlineUnreachable)
        assert calls.ends["refused"].retry_at == pytest.approx(start + 10.0 + MARGIN)


async def test_the_callers_deadline_ends_the_wait(balancing, autojump_clock):
    """A call that could have been in time but was not ends by its own scope, and its ticket is gone."""
    backend = ScriptedBackend(default=Reply(60.0))
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        nursery.start_soon(balancer.run, Call(), backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.TooSlowError), trio.fail_after(5.0):
            await balancer.run(Call(), backend.attempt)
        assert balancer.statistics().waiting == 0


async def test_an_expired_deadline_places_nothing(balancing, autojump_clock):
    """A call whose scope is cancelled already ends there: no ticket, no lease, no charge."""
    backend = ScriptedBackend()
    async with balancing("a") as balancer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await balancer.run(Call(), backend.attempt)
        assert scope.cancelled_caught
        assert backend.events == []
        assert balancer.statistics().totals.calls == 0


async def test_patience_of_calls_without_a_deadline(balancing, autojump_clock):
    """`max_wait_for` bounds the wait of a call that has no deadline; with one, the deadline alone counts."""
    backend = ScriptedBackend(default=Reply(60.0))
    account = {"name": "a", "limits": ONE_AT_A_TIME}
    async with balancing(account, max_wait_for=5.0) as balancer, trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(balancer.run, Call(), backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DeadlineUnreachable) as caught:
            await balancer.run(Call(), backend.attempt)
        assert trio.current_time() - start == 5.0
        assert caught.value.retry_at >= start + 5.0
        assert caught.value.decision.waited_for == 5.0
        with trio.fail_after(200.0):
            assert await balancer.run(Call(), backend.attempt) == "a"


async def test_a_demand_that_never_fits_is_told_so(balancing, autojump_clock):
    """More than a whole bucket is no reason to wait."""
    async with balancing({"name": "a", "limits": {"tokens_per_minute": 100}}) as balancer:
        with pytest.raises(NoAccount, match="no room in tokens"):
            await balancer.run(Call(demand=Demand(input_tokens=101)), ScriptedBackend().attempt)
        assert await balancer.run(Call(demand=Demand(input_tokens=100)), ScriptedBackend().attempt) == "a"


async def test_an_unknown_model_is_told_near_names(balancing, autojump_clock):
    """`NoAccount` helps with a slip of the pen."""
    async with balancing({"name": "a", "models": ["gpt-4o", "gpt-4o-mini", "llama"]}) as balancer:
        with pytest.raises(NoAccount, match=r"'gpt4o'; near names: gpt-4o") as caught:
            await balancer.run(Call(model="gpt4o"), ScriptedBackend().attempt)
        assert "llama" not in str(caught.value)
        assert caught.value.decision.call.model == "gpt4o"


async def refusal(balancer, call=None, within=5.0):
    """The text that a call is refused with."""
    with pytest.raises((DeadlineUnreachable, NoAccount, Saturated)) as caught, trio.move_on_after(within):
        await balancer.run(call or Call(), ScriptedBackend(default=Reply(60.0)).attempt)
    return str(caught.value)


async def test_who_is_refused_as_too_late_is_told_why(balancing, autojump_clock):
    """Account by account: its state and its reason; those that do not offer the model are left out."""
    limits = {"requests": {"amount": 1, "per": 40.0}}
    accounts = [{"name": "c", "models": ["n"]}, {"name": "a", "limits": limits}, {"name": "b", "limits": limits}]
    async with balancing(*accounts, health={"consecutive_faults": 1}, max_wait_for=5.0) as balancer:
        await balancer.run(Call("m"), ScriptedBackend().attempt)
        with contextlib.suppress(AttemptsFailed, DeadlineUnreachable):
            await balancer.run(Call("m"), ScriptedBackend(default=Reply(end=Faulted("down"))).attempt)
        sick = next(name for name, snapshot in balancer.statistics().accounts.items() if snapshot.state == "ejected")
        told = await refusal(balancer, Call("m"))
        assert told.startswith("no account can take the call before its time is up; the earliest could in ")
        assert f"{sick}: ejected, down" in told
        assert f"{({'a', 'b'} - {sick}).pop()}: no room in requests" in told
        assert "c: " not in told


async def test_what_awaits_a_running_call_is_told_no_time(balancing, autojump_clock):
    """Nobody knows when that will end."""
    account = {"name": "a", "limits": ONE_AT_A_TIME}
    async with balancing(account, max_wait_for=5.0) as balancer, trio.open_nursery() as nursery:
        nursery.start_soon(balancer.run, Call(), ScriptedBackend(default=Reply(60.0)).attempt)
        await trio.testing.wait_all_tasks_blocked()
        told = await refusal(balancer, within=math.inf)
        assert told == (
            "no account can take the call before its time is up; it waits for a running call to end (a: its concurrency is used)"
        )
        nursery.cancel_scope.cancel()


async def test_what_gives_up_its_place_is_told_so(balancing_once, autojump_clock):
    """It could still have begun in time."""
    account = {"name": "a", "limits": ONE_AT_A_TIME}
    async with balancing_once(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, ScriptedBackend(default=Reply(3.0)))
        await calls.start("measures")
        await trio.sleep(3.0)
        await calls.start("first")
        await calls.start("second", within=10.8)
        await calls.start("third", within=10.9)
        await calls.start("late", within=11.0)
        await calls.start("last")
        await trio.sleep(10.0)
        assert str(calls.ends["late"]) == (
            "the call gives way to others that wait: 2.000 s are too few for it to end in time (a: others go before the call)"
        )


async def test_of_many_accounts_few_are_told(balancing, autojump_clock):
    """Of a hundred the first four, whatever refuses the call."""
    accounts = [{"name": f"n{number}", "limits": {"tokens_per_minute": 100, **ONE_AT_A_TIME}} for number in range(100)]
    async with balancing(*accounts, max_waiting=0) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, ScriptedBackend(default=Reply(60.0)))
        why = "no room in tokens"
        told = f"(n0: {why}; n1: {why}; n2: {why}; n3: {why}; and others)"
        never = Call(demand=Demand(input_tokens=101))
        assert (await refusal(balancer, never)).endswith(f"can ever take the call {told}")
        for number in range(100):
            await calls.start(number, Call(demand=Demand(input_tokens=100)))
        told = told.replace(why, "its concurrency is used")
        assert await refusal(balancer) == f"0 calls wait already {told}"
        assert (await refusal(balancer, never)).endswith(f"{why}; and others)"), "their ends would not help"
        nursery.cancel_scope.cancel()


async def test_refusals_of_many_at_once_look_at_few_accounts(balancing_once, autojump_clock, monkeypatch):
    """What a thousand of them are told is worked out of four accounts each, and of nobody that is not refused."""
    explained = []
    passed_over = AccountSnapshot.passed_over

    def counting(snapshot, *arguments, **more):
        if sys._getframe(1).f_code.co_name == "_why":
            explained.append(snapshot.name)
        return passed_over(snapshot, *arguments, **more)

    monkeypatch.setattr(AccountSnapshot, "passed_over", counting)
    accounts = [{"name": f"n{number}", "limits": {"requests": {"amount": 1, "per": 60.0}}} for number in range(20)]
    async with balancing_once(*accounts, max_wait_for=61.0) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, ScriptedBackend(default=Reply(500.0)))
        for number in range(1020):
            nursery.start_soon(calls._one, number, Call(), math.inf)
        await trio.testing.wait_all_tasks_blocked()
        assert balancer.statistics().waiting == 20
        assert len(calls.ends) == 980
        assert len(explained) == 4 * 980
        nursery.cancel_scope.cancel()


async def test_waiting_tickets_learn_that_nobody_is_left(balancing, autojump_clock):
    """When the last account is disabled, who waits for it is told at once."""
    backend = ScriptedBackend({"a": [Reply(1.0, end=Unauthorized())]})
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, backend)
        start = trio.current_time()
        await calls.start("one")
        await calls.start("two")
        await trio.sleep(2.0)
        assert isinstance(calls.ends["two"], NoAccount)
        assert "unauthorized" in str(calls.ends["two"])
        assert len(backend.began()) == 1
        assert trio.current_time() == start + 2.0


async def test_a_tier_is_used_when_none_before_it_can(balancing, autojump_clock):
    """The second tier takes what the first cannot take now, and nothing else."""
    pools = [{"name": "default", "tiers": [["a"], ["b"]]}]
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}, "b", pools=pools) as balancer, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(balancer.run, Call(), backend.attempt)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1.5)
        nursery.start_soon(balancer.run, Call(), backend.attempt)
    assert backend.accounts() == ["a", "b", "a"]


async def test_weight_zero_is_for_when_no_other_can(balancing, autojump_clock):
    """An account of weight 0 takes a call only if every other account is passed over."""
    accounts = [{"name": "a", "limits": ONE_AT_A_TIME}, {"name": "spare", "weight": 0.0}]
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing(*accounts) as balancer, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(balancer.run, Call(), backend.attempt)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1.5)
        await balancer.run(Call(), backend.attempt)
    assert backend.accounts() == ["a", "spare", "a"]


async def test_ten_calls_on_two_equal_accounts(balancing, autojump_clock):
    """The choice counts its own choices at once: 5 and 5."""
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing("a", "b") as balancer, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(balancer.run, Call(), backend.attempt)
    assert backend.most == {"a": 5, "b": 5}


async def test_a_selector_sees_the_quota_of_the_calls_model_alone(balancing, autojump_clock):
    """Of two models with limits of their own, the one that is used up says nothing about the other."""
    seen = []

    def looking(candidates, demand, now, rng):
        seen.append([[(view.models, view.used(now)) for view in candidate.dimensions] for candidate in candidates])
        return candidates[0]

    limits = {"models": {"large": {"requests_per_minute": 2}, "small": {"requests_per_minute": 100}}}
    accounts = [{"name": name, "limits": limits} for name in "ab"]
    async with balancing(*accounts, selector=looking) as balancer:
        for model in ("large", "small", None):
            await balancer.run(Call(model), ScriptedBackend().attempt)
    assert seen == [
        [[(frozenset({"large"}), 0.0)], [(frozenset({"large"}), 0.0)]],
        [[(frozenset({"small"}), 0.0)], [(frozenset({"small"}), 0.0)]],
        [[], []],
    ]


async def test_a_call_that_its_own_selector_cancels_gets_no_lease(balancing, autojump_clock):
    """Withdrawn in the middle of its placing, a ticket leaves neither a lease nor a place in the queue."""
    backend = ScriptedBackend(default=Reply(10.0))
    scope = trio.CancelScope()

    def cancelling(candidates, demand, now, rng):
        scope.cancel()
        return least_in_flight(candidates, demand, now, rng)

    async with balancing("a", selector=cancelling) as balancer:
        start = trio.current_time()
        with scope:
            await balancer.run(Call(), backend.attempt)
        assert scope.cancelled_caught
        assert balancer.statistics().in_flight == 0
        assert trio.current_time() == start
        assert backend.events == []
        assert balancer.statistics().accounts["a"].failed == 0


class CancelAfterGrant(trio.abc.Instrument):
    """Cancels a scope as soon as a lease is out, before the task that was granted it can run."""

    def __init__(self, balancer, scope):
        self._balancer, self._scope = balancer, scope
        self.fired = False

    def after_task_step(self, task):
        if not self.fired and task.name == "balancer dispatcher" and self._balancer._in_flight():
            self.fired = True
            self._scope.cancel()


async def test_a_ticket_cancelled_in_the_pass_that_grants_it_gives_its_lease_back(balancing, autojump_clock):
    """Granted and cancelled before its task runs again, the call ends at its first checkpoint and nothing stays in flight."""
    backend = ScriptedBackend(default=Reply(10.0))
    async with balancing("a") as balancer:
        start = trio.current_time()
        with trio.CancelScope() as scope:
            cancel = CancelAfterGrant(balancer, scope)
            trio.lowlevel.add_instrument(cancel)
            await balancer.run(Call(), backend.attempt)
        trio.lowlevel.remove_instrument(cancel)
        assert cancel.fired
        assert scope.cancelled_caught
        assert balancer.statistics().in_flight == 0
        assert trio.current_time() == start


async def test_a_waiting_ticket_that_is_cancelled_is_withdrawn(balancing, autojump_clock):
    """Its place goes to the next one, and what comes free later is not given to nobody."""
    backend = ScriptedBackend(default=Reply(10.0))
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, backend)
        for name in ("one", "two", "three"):
            await calls.start(name)
        calls.scopes["two"].cancel()
        await trio.sleep(15.0)
        assert (calls.ends, balancer.statistics().waiting) == ({"one": "a"}, 0)
        assert len(backend.began()) == 2


async def test_now_or_never_never_queues(balancing, autojump_clock):
    """A hedge's ticket is granted or refused in the pass that takes it."""
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer:
        dispatcher = balancer._dispatcher

        def ticket():
            call = Call()
            return Ticket(call, Decision(call), None, "default", now_or_never=True)

        lease = await dispatcher.place(ticket())
        with pytest.raises(trio.WouldBlock):
            await dispatcher.place(ticket())
        assert dispatcher.waiting == 0
        lease.withdraw()


async def test_a_snapshot_is_replaced_whole(balancing, autojump_clock):
    """Who holds a snapshot keeps what it was; a new one is another object, and it cannot be written."""
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing({"name": "a", "limits": {"requests_per_minute": 2}}) as balancer, trio.open_nursery() as nursery:
        before = balancer.statistics()
        assert balancer.statistics().accounts["a"] is before.accounts["a"]
        nursery.start_soon(balancer.run, Call(), backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        after = balancer.statistics()
        now = trio.current_time()
        assert (before.accounts["a"].in_flight, after.accounts["a"].in_flight) == (0, 1)
        assert (before.accounts["a"].room("requests", now), after.accounts["a"].room("requests", now)) == (2.0, 1.0)
        for target, name in ((after, "waiting"), (after.accounts["a"], "in_flight"), (after.totals, "calls")):
            with pytest.raises(AttributeError):
                setattr(target, name, 7)
        with pytest.raises(TypeError):
            after.accounts["b"] = None


async def test_a_snapshot_says_until_when_it_holds(balancing, autojump_clock):
    """What time alone has changed is not read from an old snapshot."""
    start = trio.current_time()
    backend = ScriptedBackend({"a": [Reply(end=RateLimited(until=start + 10.0))]}, default=Reply())
    async with balancing("a", "b") as balancer:
        while balancer.statistics().accounts["a"].state == "healthy":
            await balancer.run(Call(), backend.attempt)
        cooling = balancer.statistics().accounts["a"]
        assert (cooling.state, cooling.valid_until) == ("cooling", cooling.until)
        await trio.sleep_until(cooling.until)
        assert balancer.statistics().accounts["a"].state == "healthy"


async def test_one_probe_for_a_queue(balancing, autojump_clock):
    """When an ejection ends in front of many waiting calls, one probes; the others go when it was served."""
    backend = ScriptedBackend({"a": [Reply(1.0, end=Faulted("down"))] * 2 + [Reply(1.0)]})
    settings = {"health": {"consecutive_faults": 2, "jitter_ratio": 0.0}, "max_attempts": 1}
    async with balancing("a", **settings) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, backend)
        start = trio.current_time()
        for name in ("one", "two"):
            await calls.start(name)
        await trio.sleep(2.0)
        for name in range(50):
            await calls.start(name)
        await trio.sleep(60.0)
        assert [at - start for at in backend.began()] == pytest.approx([0.0, 0.0, 31.0] + [32.0] * 49)
        assert backend.most["a"] == 49


async def test_a_probe_that_is_cancelled_leaves_its_place(balancing, autojump_clock):
    """The caller of a probe may go: the next call probes at once."""
    backend = ScriptedBackend({"a": [Reply(end=Faulted("down")), Reply(100.0), Reply()]})
    async with balancing("a", health={"consecutive_faults": 1, "jitter_ratio": 0.0}, max_attempts=1) as balancer:
        with pytest.raises(Exception, match="down"):
            await balancer.run(Call(), backend.attempt)
        await trio.sleep(30.0)
        with trio.move_on_after(5.0):
            await balancer.run(Call(), backend.attempt)
        assert balancer.statistics().accounts["a"].state == "ejected"
        assert await balancer.run(Call(), backend.attempt) == "a"
        assert balancer.statistics().accounts["a"].state == "healthy"


async def test_closing_refuses_who_waits_and_who_comes(balancing, autojump_clock):
    """After `close` every waiting and every new ticket gets `Closed`, with its decision."""
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing({"name": "a", "limits": ONE_AT_A_TIME}) as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, backend)
        for name in ("runs", "waits"):
            await calls.start(name)
        balancer._dispatcher.close()
        await calls.start("comes")
        assert [type(calls.ends[name]) for name in ("waits", "comes")] == [Closed, Closed]
        assert calls.ends["waits"].decision.attempts == calls.ends["comes"].decision.attempts == ()
        await trio.sleep(2.0)
        assert calls.ends["runs"] == "a"


async def test_closing_refuses_who_is_on_the_way(balancing, autojump_clock):
    """A ticket that was handed to the dispatcher's task in the pass of the closing gets no lease any more."""
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing("a") as balancer, trio.open_nursery() as nursery:
        calls = Calls(balancer, nursery, backend)
        nursery.start_soon(calls._one, "late", Call(), math.inf)
        while balancer._engine.calls == 0:
            await trio.lowlevel.checkpoint()
        granted = balancer.statistics().in_flight
        balancer._dispatcher.close()
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(2.0)
        assert calls.ends["late"] == "a" if granted else isinstance(calls.ends["late"], Closed)


async def test_the_next_look_is_as_of_the_decision():
    """What becomes possible between the decision and the look is waited for until then, not until a bell that never rings."""
    limits = {"requests": {"amount": 1, "per": 0.02}, "window": "sliding"}
    config = BalancerConfig(accounts=[{"name": "a", "provider": "http", "base_url": "http://a.test", "limits": limits}])
    began = []

    async def attempt(_lease):
        began.append(trio.current_time())

    with trio.fail_after(5.0):
        async with open_balancer(config) as balancer, trio.open_nursery() as nursery:  # the real clock moves in a step
            for _ in range(3):
                nursery.start_soon(balancer.run, Call(), attempt)
    assert began[2] - began[0] >= 0.04
