"""The scheduler follows a seed, or says loudly that it does not."""

from __future__ import annotations

import importlib
import random
from functools import partial

import pytest
import trio

from balancer.testing import SEEDS, CancelAtStep, NotSeedable, counted_steps, run_seeded, scheduler_seed, seeds


def order(seed):
    ran = []

    async def note(number):
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            ran.append(number)

    async def main():
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(note, number)

    run_seeded(main, seed)
    return tuple(ran)


def test_a_seed_is_an_order():
    """The same one twice, another one for almost every other seed."""
    orders = [order(seed) for seed in SEEDS]
    assert orders == [order(seed) for seed in SEEDS]
    assert len(set(orders)) > len(SEEDS) - 3


def test_what_was_there_is_restored():
    """The flag, and the generator's state."""
    run = importlib.import_module("trio._core._run")
    before = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    with pytest.raises(ValueError, match="v"), scheduler_seed(7):
        assert run._ALLOW_DETERMINISTIC_SCHEDULING is True
        raise ValueError("v")
    assert (run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()) == before


@pytest.fixture
def unchecked():
    """Forgets that this trio was found to be seedable."""
    seeds._check_seedable.cache_clear()
    yield
    seeds._check_seedable.cache_clear()


@pytest.mark.parametrize("name", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"])
def test_a_trio_that_has_renamed_it_is_an_error(name, unchecked, monkeypatch):
    """Not twenty runs in one order."""
    monkeypatch.delattr(f"trio._core._run.{name}")
    with pytest.raises((NotSeedable, NameError)), scheduler_seed(1):
        pass


class Stubborn(random.Random):
    """A generator that follows no seed."""

    def seed(self, *arguments, **options):
        super().seed()


def test_a_trio_that_does_not_follow_is_an_error(unchecked, monkeypatch):
    """Found out by trying."""
    monkeypatch.setattr("trio._core._run._r", Stubborn())
    with pytest.raises(NotSeedable, match="something else"), scheduler_seed(1):
        pass


def test_a_trio_that_ignores_the_flag_is_an_error(unchecked, monkeypatch):
    """Two orders are not an order per seed."""

    class TwoOrders(random.Random):
        def shuffle(self, x):
            if self.random() < 0.5:
                x.reverse()

    monkeypatch.setattr("trio._core._run._r", TwoOrders())
    with pytest.raises(NotSeedable, match="something else"), scheduler_seed(1):
        pass


def test_steps_are_counted_over_all_tasks():
    """What happens inside the block, in whatever task."""

    async def main():
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            with counted_steps() as counter:
                nursery.start_soon(trio.lowlevel.checkpoint)
                await trio.sleep(1.0)
            await trio.lowlevel.checkpoint()
        return counter.steps

    assert run_seeded(main, 1) == 3


def test_cancelling_at_every_step_ends():
    """Each step is met once, and a step that does not come does not fire."""

    async def main(step):
        await trio.testing.wait_all_tasks_blocked()
        scope = trio.CancelScope()
        cancel = CancelAtStep(step, scope)
        trio.lowlevel.add_instrument(cancel)
        with scope:
            for _ in range(4):
                await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(cancel)
        return cancel.fired, scope.cancelled_caught

    found = [run_seeded(partial(main, step), 1) for step in range(1, 7)]
    assert found == [(True, True)] * 4 + [(False, False)] * 2
