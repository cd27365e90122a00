"""What was raised inside a nursery of ours leaves it as it was."""

from __future__ import annotations

import pytest
import trio

from balancer.engine.unwrapping import Unwrapped, single


async def block(raising):
    with Unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await raising()


@pytest.mark.parametrize("error", [ValueError("v"), KeyboardInterrupt(), ExceptionGroup("theirs", [ValueError()])], ids=repr)
async def test_the_same_object_with_its_cause_and_context(error, scheduler):
    """A group of theirs is left whole, though trio may rebuild it on its way out of a nursery with cancelled tasks."""
    cause, context = OSError("cause"), OSError("context")

    async def raising():
        try:
            raise context
        except OSError:
            raise error from cause

    with pytest.raises(type(error)) as caught:
        await block(raising)
    assert caught.value is error or caught.value.exceptions == error.exceptions
    error = caught.value
    assert (error.__cause__, error.__context__, error.__suppress_context__) == (cause, context, True)


async def test_a_cancel_stays_a_cancel(scheduler):
    """The scope outside catches it."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await block(trio.lowlevel.checkpoint)
    assert scope.cancelled_caught


async def test_errors_beside_cancels_are_what_it_is_about(scheduler):
    """Siblings that were cancelled because of it do not hide it."""
    with pytest.raises(ValueError, match="v"), trio.CancelScope() as scope, Unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            raise ValueError("v")


def test_of_several_the_first():
    """A group of ours with two errors gives one."""
    one, two = ValueError("one"), ValueError("two")
    assert single(ExceptionGroup("ours", [one, two])) is one
    assert single(one) is one
