"""`balancer demo`: the same traffic once through the balancer and once in turn, over the same unlike mock accounts.

Arrivals are open-loop and seeded, both clients meet backends that were freshly started, and refusals are judged by what those
backends saw.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

import attrs
import httpx
import trio
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from balancer.cli.board import Board, Run, watch
from balancer.cli.clients import balanced, in_turn, kinds_of
from balancer.cli.console import (
    INTERRUPTED,
    UNUSABLE,
    ConfigFile,
    Json,
    complain,
    console_for,
    interruptible,
    print_json,
)
from balancer.cli.scenario import MODEL, PATIENCE, PER_SECOND, demo_config
from balancer.cli.summary import print_summary, summary_of
from balancer.config import BalancerConfig
from balancer.nursery import open_balancer
from balancer.testing.backends import Backends, open_backends, read_config
from balancer.testing.traffic import draw_arrivals, offer

Calls = Annotated[int, Parameter(validator=Number(gte=1, lte=100_000))]

BALANCED = "balancer"
IN_TURN = "round robin"


def demo(*, config: ConfigFile | None = None, calls: Calls = 300, seed: int = 1, as_json: Json = False) -> int:
    """Run calls over mock accounts, through the balancer and then in plain round robin, and compare.

    Args:
        config: a configuration whose accounts are all mock ones; by default five unlike accounts.
        calls: how many, at 30 per second on average.
        seed: of the arrivals and of everything that happens by chance.
    """
    source: Mapping[str, Any] | BalancerConfig = demo_config(seed)
    if config is not None:
        source, mocks = read_config(config)
        if real := [account.name for account in source.accounts if account.name not in mocks]:
            complain(f'the demo calls mock accounts only; {", ".join(real)}: no provider = "mock"')
            return UNUSABLE
        source = attrs.evolve(source, seed=seed)
    console = console_for(as_json=as_json)
    runs: list[Run] = []
    interrupted = trio.run(partial(_run_both, source, calls, seed, console, runs))
    if as_json:
        print_json(summary_of(runs, calls=calls, seed=seed, interrupted=interrupted))
    else:
        print_summary(console, runs, calls=calls, seed=seed, interrupted=interrupted)
    return INTERRUPTED if interrupted else 0


async def _run_both(
    source: Mapping[str, Any] | BalancerConfig, calls: int, seed: int, console: Console, runs: list[Run]
) -> bool:
    """Fills `runs`; whether Ctrl-C ended them early."""
    with interruptible() as scope:
        for client in (BALANCED, IN_TURN):
            async with open_backends(source) as backends:
                run = Run(client, calls, trio.current_time(), backends.by_account)
                runs.append(run)
                try:
                    await _run_one(run, backends, seed, console)
                finally:
                    run.end()
    return scope.cancelled_caught


async def _run_one(run: Run, backends: Backends, seed: int, console: Console) -> None:
    config = backends.config
    kinds = kinds_of(config.accounts, MODEL)
    arrivals = draw_arrivals(run.calls, kinds, PER_SECOND, random.Random(seed))
    async with AsyncExitStack() as stack:
        if run.client == BALANCED:
            balancer = await stack.enter_async_context(open_balancer(config))
            http = await stack.enter_async_context(httpx.AsyncClient(transport=balancer.transport(), timeout=None))  # noqa: S113
            serve, board = balanced(balancer, http), Board(run, balancer)
        else:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            http = await stack.enter_async_context(httpx.AsyncClient(limits=limits, timeout=None))  # noqa: S113
            serve, board = in_turn(config, http), Board(run, None)
        async with trio.open_nursery() as nursery:

            async def show() -> None:
                try:
                    await watch(board, console)
                except SystemExit:  # how rich says that nobody reads any more: no reason to go on
                    nursery.cancel_scope.cancel()

            nursery.start_soon(show)
            try:
                await offer(arrivals, serve, run.tally, patience=PATIENCE)
            finally:
                run.quota = board.quota()
            nursery.cancel_scope.cancel()
