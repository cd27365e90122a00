"""What tests of the running balancer share: twenty scheduler seeds, virtual time, and a look at what is left behind."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from balancer import Account, BalancerConfig, open_balancer
from balancer.testing import SEEDS, scheduler_seed


def pytest_collection_finish():
    """The garbage collector looks past what was there before the first test: modules, and thousands of tests."""
    gc.collect()
    gc.freeze()


def tasks_of_the_run():
    """Every task of the run."""
    found, nurseries = [], [*trio.lowlevel.current_root_task().child_nurseries]
    while nurseries:
        for task in nurseries.pop().child_tasks:
            found.append(task)
            nurseries += task.child_nurseries
    return found


def assert_quiet(balancer, tasks_before=()):
    """Nothing in flight, no ticket waiting, no task but the actors."""
    statistics = balancer.statistics()
    assert (statistics.in_flight, statistics.waiting) == (0, 0)
    assert [snapshot.in_flight for snapshot in statistics.accounts.values()] == [0] * len(statistics.accounts)
    for snapshot in statistics.accounts.values():
        assert [view.reserved for view in snapshot.dimensions] == [0] * len(snapshot.dimensions)
        assert not snapshot.probing
    left = sorted(task.name for task in set(tasks_of_the_run()) - set(tasks_before))
    assert left == sorted(["balancer dispatcher", *(f"balancer supervisor {name}" for name in statistics.accounts)])


class Balancing:
    """Opens balancers over scripted accounts, and looks at what is left before each closes."""

    assert_quiet = staticmethod(assert_quiet)
    tasks = staticmethod(tasks_of_the_run)

    def config(self, *accounts, **settings):
        """A configuration; an account is a name, a mapping of what differs from a plain account, or an `Account`."""
        return BalancerConfig(accounts=[self._account(account) for account in accounts], **{"seed": 1, **settings})

    @asynccontextmanager
    async def __call__(self, *accounts, quiet=True, **settings):
        assert isinstance(trio.lowlevel.current_clock(), MockClock), "the test needs the autojump_clock fixture"
        before = tasks_of_the_run()
        async with open_balancer(self.config(*accounts, **settings)) as balancer:
            await trio.testing.wait_all_tasks_blocked()
            yield balancer
            if quiet:
                await trio.testing.wait_all_tasks_blocked()
                assert_quiet(balancer, before)

    def _account(self, account):
        if isinstance(account, Account):
            return account
        given = {"name": account} if isinstance(account, str) else account
        return Account(**{"provider": "http", "base_url": f"http://{given['name']}.test/v1", **given})


@pytest.fixture(params=SEEDS)
def scheduler(request):
    """Runs the test once per scheduler seed."""
    with scheduler_seed(request.param):
        yield request.param


@pytest.fixture
def balancing(scheduler):
    """Opens balancers, on every scheduler seed. The test takes `autojump_clock` beside it."""
    return Balancing()


@pytest.fixture
def balancing_once():
    """Opens balancers, on whatever seed: for tests that choose their own."""
    return Balancing()
