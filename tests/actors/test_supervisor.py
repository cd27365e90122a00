"""An account's owner: leases and their ends, failures of its own, settings that change."""

from __future__ import annotations

import logging
import math

import pytest
import structlog
import trio

from balancer import AttemptFailed, AttemptsFailed, BalancerError, Billing, Call, Demand, Faulted, Served, Usage
from balancer.actors.failures import Failures
from balancer.core.account import AccountState
from balancer.testing import Reply, ScriptedBackend


class Poked:
    """A method of an account's state that raises for the first so many calls."""

    def __init__(self, monkeypatch, name, times, *, after=False):
        self.error = ZeroDivisionError("poked")
        self.left = times
        real = getattr(AccountState, name)

        def method(state, *arguments, **options):
            if self.left:
                self.left -= 1
                if after:
                    real(state, *arguments, **options)
                raise self.error
            return real(state, *arguments, **options)

        monkeypatch.setattr(AccountState, name, method)


@pytest.mark.parametrize("kind", ["configured", "standard"])
async def test_a_failing_try_lease_is_a_refusal(kind, balancing, autojump_clock, monkeypatch, caplog):
    """The call goes to another account; with one account it is tried again once the supervisor has restarted."""
    if kind == "configured":
        structlog.configure(processors=[lambda *_: 1 / 0])
    try:
        start = trio.current_time()
        async with balancing("a", "b") as balancer:
            Poked(monkeypatch, "admit", 1)
            assert await balancer.run(Call(), ScriptedBackend().attempt) in ("a", "b")
        async with balancing("a") as balancer:
            Poked(monkeypatch, "admit", 2)
            assert await balancer.run(Call(), ScriptedBackend().attempt) == "a"
            assert balancer._supervisors["a"].failures.total == 2
        assert trio.current_time() == start
    finally:
        structlog.reset_defaults()
    if kind == "standard":
        [record] = [record for record in caplog.records if record.exc_info][:1]
        assert "balancer.supervisor_failed" in record.getMessage()


@pytest.mark.parametrize("after", [False, True])
async def test_settle_never_raises(after, balancing, autojump_clock, monkeypatch):
    """The call is served all the same; the restarted supervisor counts what is really out, and keeps its ledger."""
    limits = {"requests_per_minute": 10}
    backend = ScriptedBackend(default=Reply(1.0))
    async with balancing({"name": "a", "limits": limits}) as balancer:
        Poked(monkeypatch, "settle", 1, after=after)
        assert await balancer.run(Call(), backend.attempt) == "a"
        await trio.testing.wait_all_tasks_blocked()
        snapshot = balancer.statistics().accounts["a"]
        assert snapshot.in_flight == 0
        assert snapshot.room("requests", trio.current_time()) < 10
        assert await balancer.run(Call(), backend.attempt) == "a"


async def test_a_probe_whose_end_failed_leaves_its_place(balancing, autojump_clock, monkeypatch):
    """A failure of ours does not keep an account ejected for ever."""
    backend = ScriptedBackend({"a": [Reply(end=Faulted("down")), Reply()]})
    async with balancing("a", health={"consecutive_faults": 1}, max_attempts=1) as balancer:
        with pytest.raises(AttemptsFailed):
            await balancer.run(Call(), backend.attempt)
        await trio.sleep(60.0)
        Poked(monkeypatch, "settle", 1)
        await balancer.run(Call(), backend.attempt)
        await balancer.run(Call(), backend.attempt)
        assert balancer.statistics().accounts["a"].state == "healthy"


async def test_a_failure_of_its_task_restarts_it_with_its_state_kept(balancing, autojump_clock):
    """What was charged, learned and is in flight survives the restart."""
    backend = ScriptedBackend(default=Reply(5.0, usage=Usage(input_tokens=70)))
    account = {"name": "a", "limits": {"tokens_per_minute": 100}}
    async with balancing(account) as balancer, trio.open_nursery() as nursery:
        supervisor = balancer._supervisors["a"]
        nursery.start_soon(balancer.run, Call(demand=Demand(input_tokens=60)), backend.attempt)
        await trio.testing.wait_all_tasks_blocked()
        expire, supervisor.link.expire = supervisor.link.expire, lambda now: 1 / 0
        supervisor.wake_at(trio.current_time())
        await trio.testing.wait_all_tasks_blocked()
        supervisor.link.expire = expire
        assert supervisor.failures.total == 1
        now = trio.current_time()
        assert balancer.statistics().accounts["a"].room("tokens", now) == pytest.approx(40.0)
        assert balancer.statistics().in_flight == 1
        await trio.sleep(5.5)
        assert balancer.statistics().accounts["a"].room("tokens", trio.current_time()) == pytest.approx(
            100 - 70 + 5.5 / 0.6, abs=0.1
        )


async def test_three_failures_in_a_minute_end_the_nursery_loudly(balancing, autojump_clock, monkeypatch):
    """A supervisor that keeps failing ends the block with one `BalancerError`, the failure as its cause."""
    with pytest.raises(BalancerError, match="supervisor of account 'a' failed three times") as caught:
        async with balancing("a") as balancer:
            poked = Poked(monkeypatch, "admit", 3)
            await balancer.run(Call(), ScriptedBackend().attempt)
    assert type(caught.value) is BalancerError
    assert caught.value.__cause__ is poked.error


async def test_failures_far_apart_are_survived(balancing, autojump_clock, monkeypatch):
    """Three failures in more than a minute are no reason to give up."""
    async with balancing("a") as balancer:
        for _ in range(5):
            Poked(monkeypatch, "admit", 1)
            await balancer.run(Call(), ScriptedBackend().attempt)
            await trio.sleep(31.0)
        assert balancer._supervisors["a"].failures.total == 5


def test_three_in_a_minute_are_too_many():
    """The window slides."""
    failures = Failures()
    assert [failures.too_many(at) for at in (0.0, 50.0, 61.0, 70.0)] == [False, False, False, True]
    assert failures.total == 4


async def test_a_failure_while_it_takes_new_settings_lets_nobody_wait(balancing, autojump_clock, monkeypatch):
    """Who reconfigures is answered, and what is in the same mailbox is still handled."""
    async with balancing("a") as balancer:
        Poked(monkeypatch, "change", 1)
        with trio.fail_after(1.0):
            await balancer.reconfigure(balancing.config("a"))
            await balancer.reconfigure(balancing.config({"name": "a", "weight": 7.0}))
        assert balancer.statistics().accounts["a"].weight == 7.0


@pytest.mark.parametrize("until", [40.0, None])
async def test_an_account_that_may_not_spend_is_told_as_it_is(until, balancing, autojump_clock, caplog):
    """Paused with the reason and the instant where the answer names one, else disabled; in no case recovered."""
    caplog.set_level(logging.INFO)
    start = trio.current_time()

    async def attempt(lease):
        if lease.account.name == "a" and trio.current_time() < start + 40.0:
            raise AttemptFailed(Billing(None if until is None else start + until))
        return lease.account.name

    async with balancing("a", "b", pools=[{"name": "all", "tiers": [["a"], ["b"]]}]) as balancer:
        assert await balancer.run(Call(), attempt) == "b"
        snapshot = balancer.statistics().accounts["a"]
        told = [record.getMessage() for record in caplog.records if "balancer.account_" in record.getMessage()]
        if until is None:
            assert (snapshot.state, snapshot.until) == ("disabled", math.inf)
            assert told == ["balancer.account_disabled account='a' reason='billing'"]
        else:
            assert snapshot.state == "cooling"
            assert told == [f"balancer.account_paused account='a' reason='billing' until={snapshot.until!r}"]
            await trio.sleep_until(snapshot.until)
            assert await balancer.run(Call(), attempt) == "a"


async def test_a_lease_is_settled_once(balancing, autojump_clock):
    """Only the first end counts."""
    async with balancing({"name": "a", "limits": {"tokens_per_minute": 1000}}) as balancer:

        async def attempt(lease):
            assert repr(lease) == "Lease(account='a', model='m', settled=False)"
            lease.settle(Served(), usage=Usage(input_tokens=10))
            lease.settle(Faulted("late"))
            lease.withdraw()
            lease.abort()
            lease.report(usage=Usage(input_tokens=900))

        await balancer.run(Call(model="m", demand=Demand(input_tokens=500)), attempt)
        snapshot = balancer.statistics().accounts["a"]
        assert (snapshot.served, snapshot.failed) == (1, 0)
        assert snapshot.room("tokens", trio.current_time()) == 990


@pytest.mark.parametrize("others", [False, True])
async def test_what_is_no_usage_is_refused_and_keeps_no_lease(others, balancing, autojump_clock):
    """A slip of the application's own attempt is its own error, whether others wait or not."""
    accounts = [
        {"name": "a", "models": ["m"]},
        {"name": "b", "models": ["n"], "limits": {"requests": {"amount": 1, "per": 600.0}}},
    ]

    async def attempt(lease):
        lease.report(usage={"input_tokens": 5})

    async with balancing(*accounts, max_wait_for=None) as balancer, trio.open_nursery() as nursery:
        for _ in range(2 * others):
            nursery.start_soon(balancer.run, Call("n"), ScriptedBackend().attempt)
        await trio.testing.wait_all_tasks_blocked()
        assert balancer.statistics().waiting == others
        with pytest.raises(TypeError, match="Usage"):
            await balancer.run(Call("m"), attempt)
        assert balancer.statistics().in_flight == 0
        nursery.cancel_scope.cancel()


async def test_a_lease_shows_what_an_attempt_needs(balancing, autojump_clock):
    """Account, the account's own model name, the credential and the deadline; the credential shows in no repr."""
    account = {"name": "a", "key": "sk-canary", "models": {"gpt": "gpt-2024"}}
    seen = []

    async def attempt(lease):
        seen.append((lease.account.name, lease.model, lease.credential.reveal(), lease.deadline, lease.decision.call.model))
        assert "canary" not in repr(lease) + repr(lease.account) + repr(lease.decision) + repr(vars(Call))

    async with balancing(account) as balancer:
        with trio.fail_after(9.0) as scope:
            await balancer.run(Call(model="gpt"), attempt)
        assert seen == [("a", "gpt-2024", "sk-canary", scope.deadline, "gpt")]
