"""Seeds trio's scheduler, so that the order in which ready tasks run is a function of a number.

trio shuffles each batch of ready tasks with a private generator. A race that one order hides another one shows, so tests of
actors run under several seeds; and a failure that a seed shows, the same seed shows again. Where trio no longer lets itself be
seeded this way, that is an error: tests that quietly ran one order twenty times would prove nothing.
"""

from __future__ import annotations

import functools
import importlib
import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

T = TypeVar("T")

SEEDS = range(20)
"""The seeds that tests of actors run under; a grant and a cancel in one pass leaked under 9 of 20."""

_GENERATOR = "_r"
_DETERMINISTIC = "_ALLOW_DETERMINISTIC_SCHEDULING"


class NotSeedable(RuntimeError):
    """This trio's scheduler does not follow a seed."""


@contextmanager
def scheduler_seed(seed: int) -> Generator[None]:
    """Every `trio.run` that begins inside the block orders its tasks by `seed`.

    Raises:
        NotSeedable: trio no longer can; found out by trying, once per process.
    """
    _check_seedable()
    with _seeded(seed):
        yield


def run_seeded(main: Callable[[], Awaitable[T]], seed: int, *, instruments: Sequence[trio.abc.Instrument] = ()) -> T:
    """`trio.run` on a scheduler seed, in virtual time that jumps to the next deadline whenever every task waits."""
    with scheduler_seed(seed):
        return trio.run(main, clock=MockClock(autojump_threshold=0), instruments=instruments)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    internals: Any = importlib.import_module("trio._core._run")
    generator = getattr(internals, _GENERATOR, None)
    before = getattr(internals, _DETERMINISTIC, None)
    if not isinstance(generator, random.Random) or not isinstance(before, bool):
        raise NotSeedable(f"trio {trio.__version__} keeps its scheduler's generator elsewhere")
    state = generator.getstate()
    setattr(internals, _DETERMINISTIC, True)
    generator.seed(seed)
    try:
        yield
    finally:
        setattr(internals, _DETERMINISTIC, before)
        generator.setstate(state)


@functools.cache
def _check_seedable() -> None:
    # Unseeded, trio gives one of two orders: only a seeded shuffle gives more, and the same one twice.
    orders = [_order(seed) for seed in range(8)]
    if orders != [_order(seed) for seed in range(8)] or len(set(orders)) < 3:
        raise NotSeedable(f"trio {trio.__version__} orders its tasks by something else than the seed")


def _order(seed: int) -> tuple[int, ...]:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(note, number)

    with _seeded(seed):
        trio.run(main)
    return tuple(ran)
