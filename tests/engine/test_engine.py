"""`run`: what each end of an attempt does to the call, to the account, and to the budgets."""

from __future__ import annotations

import pytest
import trio

from balancer import (
    AttemptFailed,
    AttemptsFailed,
    BalancerError,
    Billing,
    Call,
    CallerFault,
    DeadlineUnreachable,
    Demand,
    Faulted,
    ModelMissing,
    NoAccount,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Route,
    Saturated,
    Served,
    TimedOut,
    TooLarge,
    Truncated,
    Unauthorized,
    Usage,
    Withdrawn,
)
from balancer.routing.table import RouteSettings, TableRouter
from balancer.testing import Reply, ScriptedBackend

DOWN = Faulted("down")
UNSENT = Faulted("connect error", sent=False)
NO_RETRIES = {"max_extra_ratio": 0.0, "reserve_per_second": 0.0}
REFUSALS = [RateLimited(until=5.0), QuotaExhausted(until=5.0), Overloaded(until=5.0), Ramp(until=5.0)]
FAILURES = [DOWN, TimedOut("read"), Truncated(7)]


def room(balancer, dimension, account="a"):
    return balancer.statistics().accounts[account].room(dimension, trio.current_time())


def first(failing, then=Served()):  # noqa: B008 - a frozen value
    """Whatever account comes first meets `failing`; every attempt after it meets `then`."""
    ends = iter([failing])

    async def attempt(lease):
        end = next(ends, then)
        if isinstance(end, Exception):
            raise end
        if not isinstance(end, Served):
            raise AttemptFailed(end)
        return lease.account.name

    return attempt


# -- served ---------------------------------------------------------------------------------------------------------------


async def test_served_is_charged_as_reserved(balancing, autojump_clock):
    """Who reports nothing took what it said it would."""
    async with balancing({"name": "a", "limits": {"tokens_per_minute": 1000}}) as balancer:
        value = await balancer.run(Call(demand=Demand(300, 200)), ScriptedBackend().attempt)
        assert value == "a"
        assert room(balancer, "tokens") == 500


async def test_served_is_charged_as_reported(balancing, autojump_clock):
    """A report corrects the reservation down and up; too much is debt."""
    async with balancing({"name": "a", "limits": {"tokens_per_minute": 1000}}) as balancer:
        backend = ScriptedBackend({"a": [Reply(usage=Usage(100, 50)), Reply(usage=Usage(900, 50))]})
        await balancer.run(Call(demand=Demand(300, 200)), backend.attempt)
        assert room(balancer, "tokens") == 850
        await balancer.run(Call(demand=Demand(300, 200)), backend.attempt)
        assert room(balancer, "tokens") == pytest.approx(-100)


async def test_the_decision_is_the_record(balancing, autojump_clock):
    """Attempts in order with account, model, outcome, times and why others were passed over."""
    accounts = [{"name": "a", "models": {"m": "m-1"}}, {"name": "b", "models": {"m": "m-2"}}, {"name": "c", "models": ["x"]}]
    decisions = []

    async def attempt(lease):
        decisions.append(lease.decision)
        await trio.sleep(2.0)
        if len(decisions) == 1:
            raise AttemptFailed(DOWN)

    async with balancing(*accounts) as balancer:
        start = trio.current_time()
        await balancer.run(Call(model="m"), attempt)
    [decision, same] = decisions
    assert decision is same
    one, two = decision.attempts
    assert {(one.account, one.model), (two.account, two.model)} == {("a", "m-1"), ("b", "m-2")}
    assert (one.outcome, two.outcome, decision.outcome) == (DOWN, Served(), Served())
    assert [one.started_at - start, one.duration, two.started_at - start, two.duration] == [0.0, 2.0, 2.0, 2.0]
    assert two.candidates == {one.account: "avoided by this call", two.account: "chosen", "c": "does not offer the model"}
    assert decision.waited_for == 0.0


# -- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
async def test_a_refusal_goes_elsewhere_at_once(refusal, balancing, autojump_clock):
    """Another account takes the call in the same instant; the refused one cools, keeps its health, and is charged nothing, but for
    what others must have taken of the one rate that can be meant."""
    async with balancing(
        *({"name": name, "limits": {"requests_per_minute": 9}} for name in "ab"), retry=NO_RETRIES
    ) as balancer:
        start = trio.current_time()
        value = await balancer.run(Call(), first(refusal))
        assert trio.current_time() == start
        snapshots = balancer.statistics().accounts
        [refused] = [snapshot for snapshot in snapshots.values() if snapshot.name != value]
        assert (refused.state, refused.refused, refused.failed) == ("cooling", 1, 0)
        assert refused.room("requests", start) == (1 if isinstance(refusal, RateLimited) else 9)


async def test_refusals_do_not_count_toward_max_attempts(balancing, autojump_clock):
    """Only time bounds them: the call queues for the earliest account, the refused one included."""
    replies = [Reply(end=RateLimited(until=float(at))) for at in range(1, 9)]
    backend = ScriptedBackend({"a": [*replies, Reply()]})
    async with balancing("a", max_attempts=1, retry=NO_RETRIES) as balancer:
        start = trio.current_time()
        backend._scripts["a"][0] = Reply(end=RateLimited(until=start + 1.0))
        for place in range(8):
            backend._scripts["a"][place] = Reply(end=RateLimited(until=start + 1.0 + place))
        await balancer.run(Call(), backend.attempt)
    began = [at - start for at in backend.began()]
    assert began[1:] == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8], abs=0.05)
    assert all(at >= floor for at, floor in zip(began[1:], range(1, 9), strict=True))


async def test_the_earliest_account_is_waited_for(balancing, autojump_clock):
    """Of two refusals the one that ends first decides when, and where."""
    start = trio.current_time()
    backend = ScriptedBackend(
        {"a": [Reply(end=RateLimited(until=start + 9.0)), Reply()], "b": [Reply(end=RateLimited(until=start + 4.0)), Reply()]}
    )
    async with balancing("a", "b") as balancer:
        assert await balancer.run(Call(), backend.attempt) == "b"
        assert 4.0 <= trio.current_time() - start <= 4.05


async def test_a_refusal_past_the_deadline_ends_the_call_at_once(balancing, autojump_clock):
    """Nobody waits for what cannot be; the error says when it could be and holds what was met."""
    start = trio.current_time()
    async with balancing("a") as balancer:
        with pytest.raises(DeadlineUnreachable) as caught, trio.fail_after(10.0):
            await balancer.run(Call(), first(RateLimited(until=start + 100.0)))
        assert trio.current_time() == start
        assert start + 100.0 <= caught.value.retry_at <= start + 130.0
        assert [attempt.account for attempt in caught.value.decision.attempts] == ["a"]
        assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_one_refused_dimension_holds_back_only_who_takes_it(balancing, autojump_clock):
    """A refusal for tokens lets a call without tokens pass."""
    start = trio.current_time()
    async with balancing("a") as balancer:
        with pytest.raises(DeadlineUnreachable), trio.fail_after(1.0):
            await balancer.run(Call(demand=Demand(10)), first(RateLimited("tokens", start + 50.0)))
        assert await balancer.run(Call(), first(Served())) == "a"
        assert trio.current_time() == start


@pytest.mark.parametrize("outcome", [Billing(), Unauthorized()])
async def test_an_account_out_of_order_is_disabled_until_it_is_changed(outcome, balancing, autojump_clock):
    """Others serve; an hour changes nothing; a new key does."""
    async with balancing({"name": "a", "key": "old"}, {"name": "b", "weight": 0.0}) as balancer:
        assert await balancer.run(Call(), first(outcome)) == "b"
        await trio.sleep(36000.0)
        disabled = balancer.statistics().accounts["a"]
        assert (disabled.state, disabled.reason) == ("disabled", type(outcome).__name__.lower())
        assert await balancer.run(Call(), first(Served())) == "b"
        await balancer.reconfigure(balancing.config({"name": "a", "key": "new"}, {"name": "b", "weight": 0.0}))
        assert await balancer.run(Call(), first(Served())) == "a"


async def test_a_missing_model_masks_that_model_only(balancing, autojump_clock):
    """The account still serves its others."""
    async with balancing("a", {"name": "b", "weight": 0.0}) as balancer:
        assert await balancer.run(Call(model="new"), first(ModelMissing())) == "b"
        assert await balancer.run(Call(model="new"), first(Served())) == "b"
        assert await balancer.run(Call(model="old"), first(Served())) == "a"


async def test_too_large_excludes_the_account_for_this_call(balancing, autojump_clock):
    """Another one may have a larger bucket; when all have said so, the call has failed and nobody cools."""
    async with balancing("a", "b") as balancer:
        assert await balancer.run(Call(), first(TooLarge())) in {"a", "b"}
        backend = ScriptedBackend(default=Reply(end=TooLarge()))
        start = trio.current_time()
        with pytest.raises(AttemptsFailed) as caught:
            await balancer.run(Call(), backend.attempt)
        assert sorted(backend.accounts()) == ["a", "b"]
        assert trio.current_time() == start
        assert [attempt.outcome for attempt in caught.value.attempts] == [TooLarge(), TooLarge()]
        assert {snapshot.state for snapshot in balancer.statistics().accounts.values()} == {"healthy"}


# -- failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_failure_goes_to_another_account(failure, balancing, autojump_clock):
    """The account that failed the call is avoided, is charged, and its health counts it."""
    accounts = [{"name": name, "limits": {"requests_per_minute": 9}} for name in "ab"]
    async with balancing(*accounts) as balancer:
        start = trio.current_time()
        value = await balancer.run(Call(), first(failure))
        assert trio.current_time() == start
        [failed] = [snapshot for snapshot in balancer.statistics().accounts.values() if snapshot.name != value]
        assert (failed.state, failed.failed, failed.refused) == ("healthy", 1, 0)
        assert failed.room("requests", start) == 8


async def test_at_most_max_attempts_fail(balancing, autojump_clock):
    """The error holds every attempt and every exception in order, each on another account."""
    backend = ScriptedBackend(default=Reply(end=DOWN))
    async with balancing("a", "b", "c", "d", max_attempts=3) as balancer:
        with pytest.raises(AttemptsFailed) as caught:
            await balancer.run(Call(), backend.attempt)
    error = caught.value
    assert [attempt.account for attempt in error.attempts] == backend.accounts()
    assert len(set(backend.accounts())) == 3
    assert [one.outcome for one in error.errors] == [DOWN] * 3
    assert isinstance(error.__cause__, ExceptionGroup)
    assert error.__cause__.exceptions == error.errors
    assert error.decision.attempts == error.attempts
    assert error.decision.outcome == DOWN


async def test_failures_spend_the_retry_budget(balancing, autojump_clock):
    """Without credits the first failure is the last."""
    backend = ScriptedBackend(default=Reply(end=DOWN))
    async with balancing("a", "b", retry=NO_RETRIES) as balancer:
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(), backend.attempt)
    assert len(backend.began()) == 1


async def test_what_was_not_sent_spends_no_budget_and_is_not_charged(balancing, autojump_clock):
    """Nothing was written: any call may go elsewhere, replayable or not."""
    accounts = [{"name": name, "limits": {"requests_per_minute": 9}} for name in "ab"]
    async with balancing(*accounts, retry=NO_RETRIES) as balancer:
        value = await balancer.run(Call(replayable=False), first(UNSENT))
        [failed] = [snapshot for snapshot in balancer.statistics().accounts.values() if snapshot.name != value]
        assert (failed.failed, failed.room("requests", trio.current_time())) == (1, 9)


async def test_a_single_account_is_tried_again_with_backoff(balancing, autojump_clock):
    """Full jitter under a growing bound, up to `max_attempts`."""
    backend = ScriptedBackend(default=Reply(end=DOWN))
    async with balancing("a", max_attempts=4, retry={"backoff": 1.0}) as balancer:
        start = trio.current_time()
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(), backend.attempt)
    pauses = [later - earlier for earlier, later in zip(backend.began(), backend.began()[1:], strict=False)]
    assert len(pauses) == 3
    assert backend.began()[0] == start
    assert all(0.0 < pause <= bound for pause, bound in zip(pauses, (1.0, 2.0, 4.0), strict=True))


async def test_a_call_that_may_not_be_replayed_is_not(balancing, autojump_clock):
    """A failure that may have reached the backend ends it: no other account, no other model."""
    backend = ScriptedBackend(default=Reply(end=DOWN))
    routes = [{"model": "m", "fallback_models": ["n"]}]
    async with balancing("a", "b", routes=routes) as balancer:
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(model="m", replayable=False), backend.attempt)
    assert len(backend.began()) == 1


async def test_refusals_let_a_call_that_may_not_be_replayed_go_on(balancing, autojump_clock):
    """The backend said that it did nothing."""
    async with balancing("a", "b") as balancer:
        assert await balancer.run(Call(replayable=False), first(RateLimited())) in {"a", "b"}


async def test_withdrawn_by_the_attempt_itself_ends_the_call(balancing, autojump_clock):
    """It says nothing about anybody."""
    async with balancing("a", "b") as balancer:
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(), first(Withdrawn()))
        assert {snapshot.failed for snapshot in balancer.statistics().accounts.values()} == {0}


async def test_five_faults_eject_and_one_ordinary_call_probes(balancing, autojump_clock):
    """An ejected account is left alone; when its time is up, an ordinary call tries it, with failover behind it."""
    backend = ScriptedBackend({"a": [Reply(end=DOWN)] * 6 + [Reply()]})
    settings = {"health": {"jitter_ratio": 0.0}, "selector": "round_robin"}
    async with balancing("a", {"name": "b", "weight": 0.001}, **settings) as balancer:
        start = trio.current_time()
        for _ in range(5):
            assert await balancer.run(Call(), backend.attempt) == "b"
        assert balancer.statistics().accounts["a"].state == "ejected"
        attempts = len(backend.began())
        assert await balancer.run(Call(), backend.attempt) == "b"
        assert len(backend.began()) == attempts + 1
        await trio.sleep_until(start + 30.0)
        assert await balancer.run(Call(), backend.attempt) == "b"  # the probe failed on a, the call did not
        assert backend.accounts()[-2:] == ["a", "b"]
        await trio.sleep_until(start + 89.9)
        assert await balancer.run(Call(), backend.attempt) == "b"
        assert backend.accounts()[-2:] == ["b", "b"]
        await trio.sleep_until(start + 90.0)
        assert await balancer.run(Call(), backend.attempt) == "a"
        assert balancer.statistics().accounts["a"].state == "healthy"


# -- the caller's own -----------------------------------------------------------------------------------------------------


class TheirBug(Exception):
    pass


@pytest.mark.parametrize("kind", [TheirBug, KeyError, ExceptionGroup, BalancerError, NoAccount, StopAsyncIteration])
async def test_a_bug_of_the_caller_is_raised_unchanged_at_once(kind, balancing, autojump_clock):
    """The same object with its own cause and context; one attempt; no blame; also if it is an error of ours."""
    cause = ValueError("why")
    bug = kind("group", [TheirBug()]) if kind is ExceptionGroup else kind("bug")
    attempts = 0

    async def attempt(lease):
        nonlocal attempts
        attempts += 1
        raise bug from cause

    routes = [{"model": "m", "fallback_models": ["n"]}]
    async with balancing("a", "b", routes=routes) as balancer:
        with pytest.raises(kind) as caught:
            await balancer.run(Call(model="m"), attempt)
        assert caught.value is bug
        assert (bug.__cause__, bug.__context__) == (cause, None)
        assert attempts == 1
        snapshots = balancer.statistics().accounts.values()
        assert [(snapshot.failed, snapshot.refused, snapshot.served) for snapshot in snapshots] == [(0, 0, 0)] * 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_passes(kind, balancing, autojump_clock):
    """Neither caught nor blamed on an account."""

    async def attempt(lease):
        raise kind

    async with balancing("a") as balancer:
        with pytest.raises(kind):
            await balancer.run(Call(), attempt)
        assert balancer.statistics().accounts["a"].failed == 0


async def test_a_callers_fault_is_told_at_once(balancing, autojump_clock):
    """`AttemptFailed(CallerFault())` has no other exception to give back: it is `AttemptsFailed`, after one attempt."""
    backend = ScriptedBackend(default=Reply(end=CallerFault()))
    routes = [{"model": "m", "fallback_models": ["n"]}]
    async with balancing("a", "b", routes=routes) as balancer:
        with pytest.raises(AttemptsFailed) as caught:
            await balancer.run(Call(model="m"), backend.attempt)
        assert [attempt.outcome for attempt in caught.value.attempts] == [CallerFault()]
        snapshots = balancer.statistics().accounts.values()
        assert [(snapshot.failed, snapshot.refused) for snapshot in snapshots] == [(0, 0)] * 2


async def test_the_errors_survive_nurseries_and_except(balancing, autojump_clock):
    """Type and attributes of `AttemptsFailed` are there behind nurseries and scopes."""
    async with balancing("a", max_attempts=1) as balancer:
        seen = []
        try:
            with trio.CancelScope():
                async with trio.open_nursery() as nursery:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(balancer.run, Call(), first(DOWN))
                    nursery.cancel_scope.cancel()
        except* AttemptsFailed as group:
            error = group.exceptions[0]
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            seen.append(error)
    [error] = seen
    assert isinstance(error, AttemptsFailed)
    assert len(error.attempts) == len(error.errors) == 1
    assert error.decision.call == Call()


# -- routes ---------------------------------------------------------------------------------------------------------------


async def test_a_fallback_model_serves_what_the_first_cannot(balancing, autojump_clock):
    """Unknown everywhere, missing, disabled, too late: the next model of the route is asked for."""
    async with balancing({"name": "a", "models": ["small"]}) as balancer:
        balancer._engine.router = TableRouter([RouteSettings(model="big", fallback_models=["middle", "small"])])
        decisions = []

        async def attempt(lease):
            decisions.append(lease.decision)
            return lease.model

        assert await balancer.run(Call(model="big"), attempt) == "small"
        with pytest.raises(NoAccount):
            await balancer.run(Call(model="middle"), attempt)


async def test_a_fallback_model_on_the_same_account(balancing, autojump_clock):
    """That the account lacks one model says nothing about the next."""
    routes = [{"model": "big", "fallback_models": ["small"]}]

    async def attempt(lease):
        if lease.model == "big":
            raise AttemptFailed(ModelMissing())
        return lease.model

    async with balancing("a", routes=routes) as balancer:
        assert await balancer.run(Call(model="big"), attempt) == "small"


async def test_a_fallback_model_goes_before_a_second_try(balancing, autojump_clock):
    """When the only account of a model has failed the call, another model serves it in the same instant."""
    accounts = [{"name": "a", "models": ["big"]}, {"name": "b", "models": ["small"]}]
    routes = [{"model": "big", "fallback_models": ["small"]}]
    backend = ScriptedBackend({"a": [Reply(end=DOWN)]})
    async with balancing(*accounts, routes=routes) as balancer:
        start = trio.current_time()
        assert await balancer.run(Call(model="big"), backend.attempt) == "b"
        assert trio.current_time() == start
    assert backend.accounts() == ["a", "b"]


async def test_fallbacks_respect_max_attempts(balancing, autojump_clock):
    """However many models there are to fall back to, no more attempts fail than may."""
    backend = ScriptedBackend(default=Reply(end=DOWN))
    routes = [{"model": "m", "fallback_models": ["n", "o", "p", "q"]}]
    async with balancing("a", "b", routes=routes, max_attempts=3) as balancer:
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(model="m"), backend.attempt)
    assert len(backend.began()) == 3


async def test_an_async_router_is_awaited_and_sees_the_attempts(balancing, autojump_clock):
    """A router may take its time, delay a route, and stop."""
    contexts = []

    async def router(context):
        contexts.append(context)
        await trio.sleep(1.0)
        return None if len(context.routes) == 2 else Route("default", f"m{len(context.routes)}", after=3.0)

    backend = ScriptedBackend(default=Reply(end=DOWN))
    async with balancing("a", retry={"backoff": 1e-6}) as balancer:
        balancer._engine.router = router
        start = trio.current_time()
        with pytest.raises(AttemptsFailed) as caught:
            await balancer.run(Call(model="x"), backend.attempt)
    assert [at - start for at in backend.began()] == pytest.approx([4.0, 8.0, 9.0], abs=0.01)
    assert [attempt.model for attempt in caught.value.attempts] == ["m0", "m1", "m1"]
    assert [len(context.attempts) for context in contexts] == [0, 1, 2]


async def test_a_router_that_raises_fails_its_call_only(balancing, autojump_clock):
    """It is the caller's own; the actors do not notice."""
    bug = TheirBug()

    def router(context):
        raise bug

    async with balancing("a") as balancer:
        real, balancer._engine.router = balancer._engine.router, router
        for _ in range(5):
            with pytest.raises(TheirBug) as caught:
                await balancer.run(Call(), first(Served()))
            assert caught.value is bug
        balancer._engine.router = real
        assert await balancer.run(Call(), first(Served())) == "a"


@pytest.mark.parametrize("tickets", [1, 5])
async def test_a_router_that_names_no_pool_of_ours(tickets, balancing, autojump_clock):
    """An unknown pool is `NoAccount`, however often it is named; the dispatcher lives."""
    async with balancing("a") as balancer:
        real, balancer._engine.router = balancer._engine.router, lambda context: Route("nowhere", None)
        balancer._engine.router = lambda context: None if context.routes else Route("nowhere", None)
        for _ in range(tickets):
            with pytest.raises(NoAccount, match="no pool 'nowhere'"):
                await balancer.run(Call(), first(Served()))
        balancer._engine.router = lambda context: None
        with pytest.raises(BalancerError, match="no route"):
            await balancer.run(Call(), first(Served()))
        balancer._engine.router = real
        assert await balancer.run(Call(), first(Served())) == "a"


# -- selectors ------------------------------------------------------------------------------------------------------------


async def asleep(candidates, demand, now, rng):
    await trio.sleep(1.0)


class Sleeper:
    """A selector that is asynchronous by mistake; its coroutine is closed, so that Python does not warn of it."""

    def __call__(self, *arguments):
        coroutine = asleep(*arguments)
        coroutine.close()
        return coroutine


@pytest.mark.parametrize(
    "selector",
    [
        lambda candidates, demand, now, rng: 1 / 0,
        lambda candidates, demand, now, rng: None,
        lambda candidates, demand, now, rng: "a",
        lambda candidates: candidates[0],
        Sleeper(),
    ],
    ids=["raises", "none", "stranger", "signature", "async"],
)
async def test_a_selector_that_fails_fails_its_call_only(selector, balancing, autojump_clock):
    """The call gets a `BalancerError` with the failure as its cause; the dispatcher lives, however often it happens."""
    backend = ScriptedBackend()
    async with balancing("a", selector=selector) as balancer:
        for _ in range(5):
            with pytest.raises(BalancerError) as caught:
                await balancer.run(Call(), backend.attempt)
            assert caught.value.__cause__ is not None
            assert caught.value.decision.attempts == ()
        await balancer.reconfigure(balancing.config("a"))
        assert await balancer.run(Call(), backend.attempt) == "a"
    assert len(backend.began()) == 1


async def test_a_selector_that_blocks_the_loop_is_no_account_s_fault(balancing, autojump_clock):
    """Two seconds of a blocked loop: attempts go on, nobody's health or estimate of latency suffers."""

    def blocking(candidates, demand, now, rng):
        autojump_clock.jump(2.0)
        return candidates[0]

    async with balancing("a", selector=blocking) as balancer:
        for _ in range(10):
            assert await balancer.run(Call(), first(Served())) == "a"
        snapshot = balancer.statistics().accounts["a"]
        assert (snapshot.state, snapshot.failed) == ("healthy", 0)


async def test_a_router_is_tried_again_after_saturation(balancing, autojump_clock):
    """Where the last route is refused too, its refusal is what the caller gets."""
    accounts = [{"name": name, "models": [name], "limits": {"concurrency": 1}} for name in "ab"]
    routes = [{"model": "a", "fallback_models": ["b"]}]
    backend = ScriptedBackend(default=Reply(5.0))
    async with balancing(*accounts, routes=routes, max_waiting=0) as balancer, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(balancer.run, Call(model="a"), backend.attempt)
            await trio.testing.wait_all_tasks_blocked()
        assert backend.accounts() == ["a", "b"]
        with pytest.raises(Saturated):
            await balancer.run(Call(model="a"), backend.attempt)
