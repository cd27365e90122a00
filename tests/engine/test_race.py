"""The race: who wins, what becomes of the loser, and what may be spent on it."""

from __future__ import annotations

import pytest
import trio

from balancer import AttemptFailed, AttemptsFailed, Call, CallerFault, Closed, Faulted, Served, Withdrawn
from balancer.engine.ends import Won
from balancer.engine.race import Race

HEDGED = Call(hedgeable=True)
HEDGE = {"hedge": {"enabled": True, "delay": 2.0, "max_extra_ratio": 1.0}}
DOWN = Faulted("down")


class Runners:
    """What the first and the second attempt of a call do, whatever account they run on: a number of seconds, then an end."""

    def __init__(self, *runners):
        self.runners = list(runners)
        self.began, self.ended, self.decision = [], [], None

    async def attempt(self, lease):
        seconds, end = self.runners[len(self.began)]
        self.began.append((trio.current_time(), lease.account.name))
        self.decision = lease.decision
        try:
            await trio.sleep(seconds)
        finally:
            self.ended.append((trio.current_time(), lease.account.name))
        if isinstance(end, Exception):
            raise end
        if end is not None:
            raise AttemptFailed(end)
        return lease.account.name


async def race(balancer, runners, call=HEDGED):
    start = trio.current_time()
    value = await balancer.run(call, runners.attempt)
    return value, trio.current_time() - start


def outcomes(runners):
    return [attempt.outcome for attempt in runners.decision.attempts]


async def test_the_hedge_wins_and_the_loser_is_withdrawn(balancing, autojump_clock):
    """The silent primary is cancelled in the instant of the commit: it says nothing about its account."""
    async with balancing("a", "b", **HEDGE) as balancer:
        runners = Runners((60.0, None), (1.0, None))
        value, took = await race(balancer, runners)
        assert took == 3.0
        assert value == runners.began[1][1] != runners.began[0][1]
        assert outcomes(runners) == [Withdrawn(), Served()]
        assert [attempt.hedge for attempt in runners.decision.attempts] == [False, True]
        totals = balancer.statistics().totals
        assert (totals.served, totals.failed, totals.refused) == (1, 0, 0)


async def test_the_primary_wins(balancing, autojump_clock):
    """The hedge is withdrawn; what it may have sent stays charged."""
    accounts = [{"name": name, "limits": {"requests_per_minute": 9}} for name in "ab"]
    async with balancing(*accounts, **HEDGE) as balancer:
        runners = Runners((3.0, None), (60.0, None))
        value, took = await race(balancer, runners)
        assert (value, took) == (runners.began[0][1], 3.0)
        assert outcomes(runners) == [Served(), Withdrawn()]
        rooms = [view.room("requests", trio.current_time()) for view in balancer.statistics().accounts.values()]
        assert all(room < 9 for room in rooms)


async def test_a_quick_primary_is_not_hedged(balancing, autojump_clock):
    """Before the delay nothing is spent."""
    async with balancing("a", "b", **HEDGE) as balancer:
        runners = Runners((1.9, None))
        await race(balancer, runners)
        assert outcomes(runners) == [Served()]


@pytest.mark.parametrize(
    ("call", "settings"),
    [(Call(), HEDGE), (HEDGED, {"hedge": {"enabled": False, "delay": 0.0}})],
    ids=["not hedgeable", "disabled"],
)
async def test_only_who_may_be_hedged_is(call, settings, balancing, autojump_clock):
    """Both the call and the settings have to allow it."""
    async with balancing("a", "b", **settings) as balancer:
        runners = Runners((60.0, None))
        await race(balancer, runners, call)
        assert outcomes(runners) == [Served()]


async def test_a_hedge_needs_another_account(balancing, autojump_clock):
    """Never beside itself."""
    async with balancing("a", **HEDGE) as balancer:
        runners = Runners((60.0, None))
        await race(balancer, runners)
        assert outcomes(runners) == [Served()]


async def test_a_hedge_needs_capacity_now(balancing, autojump_clock):
    """It is a ticket that never queues, not even for a moment."""
    async with balancing("a", {"name": "b", "weight": 0.0, "limits": {"concurrency": 1}}, **HEDGE) as balancer:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(balancer.run, HEDGED, Runners((9.0, None), (2.1, None)).attempt)
            await trio.sleep(2.0)
            await trio.testing.wait_all_tasks_blocked()  # now b runs the hedge, until 4.1
            runners = Runners((9.0, None))
            await race(balancer, runners)  # its delay was over at 4.0
        assert runners.began == [(start + 2.0, "a")]
        assert outcomes(runners) == [Served()]


async def test_hedges_spend_their_budget(balancing, autojump_clock):
    """One hedge is given at the start; after it calls must earn each."""
    settings = {"hedge": {"enabled": True, "delay": 2.0, "max_extra_ratio": 0.25}}
    async with balancing("a", "b", **settings) as balancer:
        hedged = []
        for _ in range(9):
            runners = Runners((2.5, None), (60.0, None))
            await race(balancer, runners)
            hedged.append(len(outcomes(runners)) == 2)
    assert hedged[:3] == [True, False, False]
    assert 2 <= hedged.count(True) <= 3  # the given one; nine calls earn two at most, if no credit dies


async def test_both_fail(balancing, autojump_clock):
    """Two failures count as two; the call goes on with what is left, on a third account."""
    async with balancing("a", "b", "c", **HEDGE) as balancer:
        runners = Runners((5.0, DOWN), (1.0, DOWN), (1.0, None))
        value, took = await race(balancer, runners)
        assert took == 6.0
        assert len({name for _, name in runners.began}) == 3
        assert value == runners.began[2][1]
        assert outcomes(runners) == [DOWN, DOWN, Served()]


async def test_both_fail_for_good(balancing, autojump_clock):
    """The error holds the exceptions in the order in which they came."""
    one, two = OSError("one"), OSError("two")
    async with balancing("a", "b", max_attempts=2, **HEDGE) as balancer:
        with pytest.raises(AttemptsFailed) as caught:
            await race(balancer, Runners((5.0, one), (1.0, two)))
        assert caught.value.errors == (two, one)


async def test_a_failed_primary_leaves_the_race_to_its_hedge(balancing, autojump_clock):
    """And a failed hedge to the primary."""
    async with balancing("a", "b", **HEDGE) as balancer:
        for runners, seconds in ((Runners((3.0, DOWN), (9.0, None)), 11.0), (Runners((9.0, None), (1.0, DOWN)), 9.0)):
            _, took = await race(balancer, runners)
            assert took == seconds
            assert sorted(map(str, outcomes(runners))) == sorted(map(str, [DOWN, Served()]))


async def test_a_primary_that_fails_before_the_delay_is_no_race(balancing, autojump_clock):
    """It fails over at once, and the next attempt has its own delay."""
    async with balancing("a", "b", **HEDGE) as balancer:
        runners = Runners((1.0, DOWN), (1.5, None))
        _, took = await race(balancer, runners)
        assert took == 2.5
        assert [attempt.hedge for attempt in runners.decision.attempts] == [False, False]


@pytest.mark.parametrize("who", ["hedge", "primary"])
async def test_the_callers_own_error_ends_the_race_at_once(who, balancing, autojump_clock):
    """The other attempt is withdrawn, not waited for; the error is the same object."""
    bug = ValueError("bug")
    plans = {"hedge": [(60.0, None), (1.0, bug)], "primary": [(3.0, bug), (60.0, None)]}
    async with balancing("a", "b", **HEDGE) as balancer:
        start = trio.current_time()
        runners = Runners(*plans[who])
        with pytest.raises(ValueError, match="bug") as caught:
            await race(balancer, runners)
        assert caught.value is bug
        assert bug.__cause__ is bug.__context__ is None
        assert trio.current_time() - start == 3.0
        assert outcomes(runners) == [Withdrawn(), Withdrawn()]


async def test_a_fault_of_the_request_ends_the_race_at_once(balancing, autojump_clock):
    """No other backend would say anything else."""
    async with balancing("a", "b", **HEDGE) as balancer:
        start = trio.current_time()
        runners = Runners((60.0, None), (1.0, CallerFault()))
        with pytest.raises(AttemptsFailed) as caught:
            await race(balancer, runners)
        assert trio.current_time() - start == 3.0
        assert outcomes(runners) == [Withdrawn(), CallerFault()]
        assert len(caught.value.errors) == 1


async def test_a_cancelled_race_leaves_nothing(balancing, autojump_clock):
    """Both attempts end with it."""
    async with balancing("a", "b", **HEDGE) as balancer:
        runners = Runners((60.0, None), (60.0, None))
        with trio.move_on_after(3.0):
            await race(balancer, runners)
        assert len(runners.ended) == 2
        assert outcomes(runners) == [Withdrawn(), Withdrawn()]


async def test_a_race_when_the_balancer_closes(balancing, autojump_clock):
    """Both attempts are cancelled, the caller gets `Closed`."""
    runners = Runners((60.0, None), (60.0, None))
    caught = []

    async def caller(balancer):
        with pytest.raises(Closed) as error:
            await race(balancer, runners)
        caught.append(error.value)

    async with trio.open_nursery() as nursery, balancing("a", "b", quiet=False, drain_timeout=1.0, **HEDGE) as balancer:
        nursery.start_soon(caller, balancer)
        await trio.sleep(3.0)
    assert outcomes(runners) == [Withdrawn(), Withdrawn()]
    assert caught[0].decision is runners.decision


class FakeLease:
    """What a race asks of a lease."""

    def __init__(self):
        self.aborted = 0
        self.settled = None

    def abort(self):
        self.aborted += 1

    def settle(self, outcome):
        self.settled = outcome


async def test_a_loser_that_commits_all_the_same_is_discarded(scheduler, autojump_clock):
    """Two commits in one instant: one is the caller's, the other is ended."""
    primary, hedge = FakeLease(), FakeLease()
    discarded = []

    async def attempt(lease):
        with trio.CancelScope(shield=True):  # it does not notice that it has lost
            await trio.sleep(2.0 if lease is primary else 1.0)
        return Won(Served(), lease)

    async def place_hedge():
        return hedge

    ends = await Race(1.0, attempt, place_hedge, discarded.append).run(primary)
    assert len(ends) == 1
    assert [ends[0].value, *discarded] in ([primary, hedge], [hedge, primary])
    assert discarded[0].aborted == 1


async def test_a_winner_that_nobody_takes_is_discarded(scheduler, autojump_clock):
    """Cancelled from outside while the loser is still ending, the race ends what it has won."""
    primary, hedge = FakeLease(), FakeLease()
    discarded = []

    async def attempt(lease):
        if lease is hedge:
            await trio.sleep(1.0)
            return Won(Served(), lease)
        with trio.CancelScope(shield=True):
            await trio.sleep(10.0)
        await trio.lowlevel.checkpoint()
        raise AssertionError("it was cancelled")

    async def place_hedge():
        return hedge

    with trio.move_on_after(5.0) as scope:
        await Race(1.0, attempt, place_hedge, discarded.append).run(primary)
    assert scope.cancelled_caught
    assert discarded == [hedge]


async def test_a_hedge_granted_after_the_race_is_decided_is_given_back(scheduler, autojump_clock):
    """Its attempt does not begin: nothing was written, nothing is charged."""
    primary, hedge = FakeLease(), FakeLease()
    attempts = []

    async def attempt(lease):
        attempts.append(lease)
        await trio.sleep(2.0)
        return Won(Served(), lease)

    async def place_hedge():
        with trio.CancelScope(shield=True):
            await trio.sleep(5.0)
        return hedge

    [won] = await Race(1.0, attempt, place_hedge, lambda value: None).run(primary)
    assert won.value is primary
    assert attempts == [primary]
    assert hedge.settled == Withdrawn(sent=False)
