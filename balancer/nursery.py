"""Builds the actors of one configuration, starts them, and ends them in reverse: calls first, then the actors, then sockets."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import attrs
import httpx
import trio

from balancer import logs
from balancer.actors.dispatcher import Dispatcher
from balancer.actors.lease import Lease
from balancer.actors.placing import Placer
from balancer.actors.supervisor import Supervisor
from balancer.config import BalancerConfig, pool_tiers, resolve_keys
from balancer.core.budget import Budget
from balancer.core.call import Call
from balancer.core.ledger import Ledger
from balancer.core.line import Line
from balancer.core.outcome import Evidence, Served
from balancer.core.setting import shown
from balancer.core.settings import Account
from balancer.core.snapshot import AccountSnapshot
from balancer.core.tenants import Tenants
from balancer.engine.engine import Engine, FunctionJob
from balancer.engine.failures import evidence_of
from balancer.engine.mapping import Result, map_calls
from balancer.engine.scoped import scoped
from balancer.engine.unwrapping import Unwrapped
from balancer.errors import Closed, ConfigError, Fault
from balancer.providers.provider import common_counting, get_provider
from balancer.routing.table import TableRouter
from balancer.selection import make_selector
from balancer.transports.link import AccountLink
from balancer.transports.seams import Seam, httpx2_transport, httpx_transport

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

HEDGE_BURST = 1.0
"""Hedges allowed at the start, before calls have earned any: the first slow call may be rescued."""

KEPT = 64
"""Removed accounts, and limits that were shared, whose state is kept for their return: what was charged of a month counts for a
month, and what an account has learned is worth more than its few kilobytes."""


@attrs.frozen
class Totals:
    """Sums since the start, those of accounts that are no longer configured among them.

    Attributes:
        calls: calls that were begun.
        served, refused, failed: attempts by how they ended.
    """

    calls: int
    served: int
    refused: int
    failed: int


@attrs.frozen
class Statistics:
    """A balancer at one moment.

    Attributes:
        accounts: account name -> its snapshot.
        waiting: calls that wait for an account.
        in_flight: attempts that hold a lease.
        totals: sums since the start.
    """

    accounts: Mapping[str, AccountSnapshot]
    waiting: int
    in_flight: int
    totals: Totals


class BalancerNursery:
    """The actors of one configuration, and what an application asks of them. Made by `open_balancer`.

    It is no nursery to start tasks in: work in the background is `nursery.start_soon(balancer.run, call, attempt)` in the
    application's own.
    """

    def __init__(self, config: BalancerConfig, nursery: trio.Nursery, epoch: float) -> None:
        self._nursery = nursery
        self._config = config
        self._anchor = (trio.current_time(), epoch)
        self._shared = self._shared_ledgers(config, {})
        self._rng = random.Random(config.seed)
        self._supervisors: dict[str, Supervisor] = {}
        self._removed: list[Supervisor] = []  # for their return, the longest gone first
        self._forgotten = Totals(0, 0, 0, 0)
        self._settled = trio.Event()
        self._dispatcher = Dispatcher(
            placer=Placer(make_selector(config.selector), random.Random(self._rng.random())),
            max_waiting=config.max_waiting,
            retries=_retry_budget(config),
            hedges=_hedge_budget(config),
            tenants=Tenants(config.tenants, config.max_waiting_per_tenant),
        )
        self._engine = Engine(
            dispatcher=self._dispatcher,
            router=TableRouter(config.routes),
            retry=config.retry,
            hedge=config.hedge,
            max_attempts=config.max_attempts,
            max_wait_for=config.max_wait_for,
            rng=random.Random(self._rng.random()),
        )
        for account in config.accounts:
            self._add(account)
        self._dialects = self._spoken()
        self._dispatcher.placer.use(self._pools(config), trio.current_time())

    def __repr__(self) -> str:
        return f"<BalancerNursery: {len(self._supervisors)} accounts, {self._in_flight()} in flight>"

    # -- calls ------------------------------------------------------------------------------------------------------------

    async def run(self, call: Call, attempt: Callable[[Lease], Awaitable[T]], *, shows_limits: bool = False) -> T:
        """Serve one call by a function of yours: it is given a lease on an account and makes one attempt there.

        Returning is `Served`, charged as reserved unless `lease.report(usage=...)` was called. `AttemptFailed(outcome)` says
        outright how it ended; an exception with a `.response` is classified by the provider; transport errors of httpx and
        httpx2, `OSError` of the network and `trio.TooSlowError` are failures of the backend, and so is the `APIConnectionError`
        that the SDKs of OpenAI, Anthropic and their like raise from one. Anything else is yours: re-raised unchanged at once, no
        failover, no blame; a request or URL that cannot be sent and the errors of files are. A `PoolTimeout` blames no account
        either, but nothing was sent: another one may take the call. Where this machine had no file or memory for a connection, the
        call fails and no account is blamed. `attempt` may run more than once, and at
        once only for `Call(hedgeable=True)`.

        Args:
            call: what is asked. Its demand is reserved before the attempt.
            attempt: makes one attempt. The lease ends when it returns, so a stream is consumed inside.
            shows_limits: whether `attempt` tells `lease.observe` what its answers show of limits. An account of which none is known is
                then asked by a few calls until the first answer, where its provider is known to show them.

        Raises:
            BalancerError: one of its children, with the decision.
            TypeError: `call` is no `Call`.
        """
        if not isinstance(call, Call):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"run takes a Call, not {type(call).__name__}")

        async def perform(lease: Lease) -> T:
            value = await scoped(lease, attempt)
            lease.settle(Served())
            return value

        value, _ = await self._engine.drive(FunctionJob(call, perform, _evidence, shows_limits))
        return value

    def map(
        self,
        calls: Iterable[Call] | AsyncIterable[Call],
        attempt: Callable[[Lease], Awaitable[T]],
        limit: int = 64,
    ) -> AbstractAsyncContextManager[AsyncIterator[Result[T]]]:
        """Serve many calls, at most `limit` at once; `async with` gives an async iterator of their results as they finish.

        `calls` is read only as room appears. A failed call is a result, never raised. Leaving the block cancels the rest.
        """
        return map_calls(self.run, calls, attempt, limit)

    @overload
    def transport(self, library: Literal["httpx"] = "httpx", mount: str = "/v1") -> httpx.AsyncBaseTransport: ...

    @overload
    def transport(self, library: Literal["httpx2"], mount: str = "/v1") -> httpx2.AsyncBaseTransport: ...

    def transport(self, library: str = "httpx", mount: str = "/v1") -> Any:
        """A transport for a client of `library`: each of its requests is placed on one of the accounts.

        Args:
            library: `"httpx"` or `"httpx2"`.
            mount: the path that stands for an account's `base_url`; `""`: any path is joined to it.

        Raises:
            ValueError: another library, or a mount that is no path.
            ImportError: httpx2 is not installed.
        """
        is_text = isinstance(mount, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        if mount != "" and not (is_text and mount.startswith("/") and not mount.endswith("/")):
            raise ValueError(f'mount is a path like "/v1", or "": {shown(mount)}')
        seam = Seam(self._engine, mount, lambda: self._config.headers_timeout, self._speaks)
        match library:
            case "httpx":
                return httpx_transport(seam)
            case "httpx2":
                return httpx2_transport(seam)
            case _:
                raise ValueError(f'library is "httpx" or "httpx2": {shown(library)}')

    # -- state ------------------------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """The accounts and queues as they are now."""
        now = trio.current_time()
        accounts = {name: supervisor.snapshot(now) for name, supervisor in self._supervisors.items()}
        removed = [supervisor.snapshot(now) for supervisor in self._removed]
        totals = _sum_up(self._engine.calls, [self._forgotten, *accounts.values(), *removed])
        return Statistics(MappingProxyType(accounts), self._dispatcher.waiting, self._in_flight(), totals)

    async def reconfigure(self, config: BalancerConfig | Mapping[str, Any] | str | os.PathLike[str]) -> None:
        """Use another configuration from now on. What is in flight, learned, charged and ejected stays as it is.

        Attempts on an account that is no longer there end as they would have. An account that comes back under its name, with its
        provider and its address, goes on where it was, if it is among the last 64 that were removed; its keys may be others.

        Raises:
            ConfigError: it cannot be used; nothing has changed.
            Closed: the balancer is closed.
        """
        new = _ready(config)
        if self._dispatcher.closed:
            raise Closed("the balancer is closed")
        same = new.selector == self._config.selector
        selector = self._dispatcher.placer.selector if same else make_selector(new.selector)
        old, self._config = self._config, new
        self._shared = self._shared_ledgers(new, self._shared)
        providers = {account.name: account.provider for account in new.accounts}
        for supervisor in list(self._supervisors.values()):
            if providers.get(supervisor.name) != supervisor.account.provider:  # another provider is another account
                self._remove(supervisor)
        done: list[trio.Event] = []
        for account in new.accounts:
            if (supervisor := self._supervisors.get(account.name)) is None:
                if not self._bring_back(account):
                    self._start(self._add(account))
            else:
                done.append(supervisor.reconfigure(account, new.health, new.idle_timeout, self._shared_lines(account)))
        if new.retry != old.retry:
            self._dispatcher.retries = _retry_budget(new)
        if new.hedge != old.hedge:
            self._dispatcher.hedges = _hedge_budget(new)
        engine = self._engine
        engine.router, engine.retry, engine.hedge = TableRouter(new.routes), new.retry, new.hedge
        engine.max_attempts, engine.max_wait_for = new.max_attempts, new.max_wait_for
        self._dialects = self._spoken()
        self._dispatcher.reconfigure(self._pools(new), selector, new.max_waiting, new.tenants, new.max_waiting_per_tenant)
        self._forget()
        for event in done:  # all has been told by now: who is cancelled here leaves nothing half done
            await event.wait()

    # -- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the actors."""
        for supervisor in self._supervisors.values():
            self._start(supervisor)
        self._nursery.start_soon(self._dispatcher.run, name="balancer dispatcher")
        logs.info("balancer.nursery_started", accounts=list(self._supervisors))

    async def drain(self) -> None:
        """Take no new call, and give those that run `drain_timeout` seconds to end."""
        self._dispatcher.close()
        with trio.move_on_after(self._config.drain_timeout):
            while self._in_flight():
                self._settled = trio.Event()
                await self._settled.wait()

    def close(self) -> None:
        """End every call and every connection, at once and synchronously."""
        self._dispatcher.close()
        for supervisor in (*self._supervisors.values(), *self._removed):
            supervisor.abort()
        logs.info("balancer.nursery_closed", calls=self._engine.calls)

    def _add(self, account: Account) -> Supervisor:
        provider, link = get_provider(account.provider), AccountLink(account)
        supervisor = self._supervisors[account.name] = Supervisor(
            account=account,
            link=link,
            rng=random.Random(self._rng.random()),
            ring=self._ring,
            health=self._config.health,
            idle_timeout=self._config.idle_timeout,
            dialects=provider.dialects,
            shows_limits=provider.shows_limits,
            presets=provider.counting,
            shared=self._shared_lines(account),
            anchor=self._anchor,
        )
        link.changed = supervisor.link_changed
        return supervisor

    def _start(self, supervisor: Supervisor) -> None:
        self._nursery.start_soon(supervisor.run, name=f"balancer supervisor {supervisor.name}")

    def _remove(self, supervisor: Supervisor) -> None:
        del self._supervisors[supervisor.name]
        supervisor.retire()
        self._removed.append(supervisor)

    def _bring_back(self, account: Account) -> bool:
        """Whether the account was removed before and goes on now."""
        owner = _quota_owner(account)
        supervisor = next((gone for gone in reversed(self._removed) if _quota_owner(gone.account) == owner), None)
        if supervisor is None:
            return False
        self._removed.remove(supervisor)
        self._supervisors[account.name] = supervisor
        if supervisor.ended:
            supervisor.link = link = AccountLink(account)
            link.changed = supervisor.link_changed
            self._start(supervisor)
        supervisor.revive(account, self._config.health, self._config.idle_timeout, self._shared_lines(account))
        return True

    def _forget(self) -> None:
        """Keep the last of the removed accounts, and what is still in flight on any."""
        now = trio.current_time()
        for supervisor in self._removed[:-KEPT]:
            if not supervisor.in_flight:
                self._removed.remove(supervisor)
                self._forgotten = _sum_up(0, [self._forgotten, supervisor.snapshot(now)])

    def _shared_ledgers(self, config: BalancerConfig, old: Mapping[str, Ledger]) -> dict[str, Ledger]:
        """What accounts share, counted as their provider counts; what was charged is kept, also of what nobody shares for now."""
        gone = [(name, ledger) for name, ledger in old.items() if name not in config.shared_limits]
        ledgers = dict(gone[-KEPT:])
        for name, limits in config.shared_limits.items():
            presets = common_counting(account.provider for account in config.accounts if name in account.limits.shared)
            if (ledger := old.get(name)) is None:
                ledger = Ledger(limits, presets, anchor=self._anchor)
            else:
                ledger.replace(limits, trio.current_time(), presets=presets)
            ledgers[name] = ledger
        return ledgers

    def _shared_lines(self, account: Account) -> tuple[Line, ...]:
        """What the account shares with others. Each is written by the supervisors of all of them, synchronously."""
        return tuple(line for name in account.limits.shared for line in self._shared[name].lines)

    def _ring(self) -> None:
        self._dispatcher.ring()
        if not self._settled.is_set():
            self._settled.set()

    def _pools(self, config: BalancerConfig) -> dict[str, tuple[tuple[Supervisor, ...], ...]]:
        return {
            pool: tuple(tuple(self._supervisors[name] for name in tier) for tier in tiers)
            for pool, tiers in pool_tiers(config).items()
        }

    def _in_flight(self) -> int:
        return sum(supervisor.in_flight for supervisor in (*self._supervisors.values(), *self._removed))

    def _spoken(self) -> frozenset[str]:
        return frozenset(dialect for supervisor in self._supervisors.values() for dialect in supervisor.dialects)

    def _speaks(self, dialect: str) -> bool:
        return dialect in self._dialects


@asynccontextmanager
async def open_balancer(
    config: BalancerConfig | Mapping[str, Any] | str | os.PathLike[str], *, epoch: float | None = None
) -> AsyncGenerator[BalancerNursery]:
    """Start a balancer for the length of a block.

    A normal exit drains: new calls and calls that wait get `Closed`, those that run get `drain_timeout` seconds, then they are
    cancelled. An exit by exception or cancel does not wait. An exception of the block leaves it unchanged.

    Args:
        config: a `BalancerConfig`, a mapping laid out as the TOML file, or the path of one.
        epoch: seconds since 1970 at the start, which quotas per day and month of the calendar count from; `None`: by this
            machine's clock. It is looked at once, so that setting that clock later moves nothing.

    Raises:
        ConfigError: the configuration cannot be used.
        BalancerError: an actor failed three times in a minute.
    """
    ready = _ready(config)
    raised: Exception | None = None
    with Unwrapped():
        async with trio.open_nursery() as nursery:
            balancer = BalancerNursery(ready, nursery, time.time() if epoch is None else epoch)
            balancer.start()
            try:
                yield balancer
                await balancer.drain()
            except Exception as error:  # raised again outside: a nursery rebuilds the groups that pass it
                raised = error
            finally:
                balancer.close()
                nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


def _ready(config: BalancerConfig | Mapping[str, Any] | str | os.PathLike[str]) -> BalancerConfig:
    ready = resolve_keys(BalancerConfig.of(config), os.environ)
    faults = [
        Fault(
            f"accounts[{place}].provider",
            '"mock" without a started backend',
            "balancer.testing.mock_backends(config) starts it",
        )
        for place, account in enumerate(ready.accounts)
        if account.provider == "mock"
    ]
    if faults:
        raise ConfigError(faults)
    return ready


def _quota_owner(account: Account) -> tuple[str, str, str]:
    """Whose quota an account is: its keys may change."""
    base_url = account.base_url or get_provider(account.provider).base_url or ""
    return account.name, account.provider, base_url.rstrip("/")


def _sum_up(calls: int, parts: Sequence[Totals | AccountSnapshot]) -> Totals:
    return Totals(
        calls, sum(part.served for part in parts), sum(part.refused for part in parts), sum(part.failed for part in parts)
    )


def _retry_budget(config: BalancerConfig) -> Budget:
    return Budget(config.retry.max_extra_ratio, config.retry.reserve_per_second)


def _hedge_budget(config: BalancerConfig) -> Budget:
    return Budget(config.hedge.max_extra_ratio, burst=HEDGE_BURST)


def _evidence(error: Exception, lease: Lease) -> Evidence | None:
    return evidence_of(error, get_provider(lease.account.provider), trio.current_time())
