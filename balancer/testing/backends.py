"""Backends for the mock accounts of a configuration: each gets a server on loopback and becomes a real account of it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs

from balancer.config import BalancerConfig, resolve_keys
from balancer.core.secret import Secret
from balancer.core.settings import Account
from balancer.documents import ReadOnce, read_toml
from balancer.errors import ConfigError, Fault
from balancer.structuring import gathered, items_of
from balancer.testing.mock import MockBackend, MockSettings, open_mocks

ConfigSource = BalancerConfig | Mapping[str, Any] | str | os.PathLike[str]


@attrs.frozen
class Backends:
    """What runs for a configuration.

    Attributes:
        config: the configuration with real accounts in the place of mock ones.
        by_account: account name -> its backend, for the mock accounts.
    """

    config: BalancerConfig
    by_account: Mapping[str, MockBackend]


def read_config(given: ConfigSource) -> tuple[BalancerConfig, dict[str, MockSettings]]:
    """A configuration with its keys resolved, and the settings of its mock backends by account name.

    Raises:
        ConfigError: with every fault, those inside `[accounts.mock]` included.
    """
    if isinstance(given, str | os.PathLike) and not isinstance(given, ReadOnce):
        given = ReadOnce(given)
    faults: list[Fault] = []
    configs: list[BalancerConfig] = []
    with gathered(faults):
        configs.append(resolve_keys(BalancerConfig.of(given), os.environ))
    settings: dict[str, MockSettings] = {}
    for place, part in enumerate(configs[0].accounts if configs else _account_parts(given)):
        told = _told(part)
        if told.get("provider") == "mock" and isinstance(told.get("mock", {}), Mapping | None):
            with gathered(faults, f"accounts[{place}].mock"):
                settings[str(told.get("name"))] = MockSettings.parse(told.get("mock") or {})
    if faults:
        raise ConfigError(faults)
    return configs[0], settings


@asynccontextmanager
async def open_backends(config: ConfigSource) -> AsyncGenerator[Backends]:
    """Runs a backend for each account with `provider = "mock"` for the length of the block.

    Raises:
        ConfigError: the configuration, or a table `[accounts.mock]`, cannot be used.
    """
    ready, settings = read_config(config)
    async with open_mocks(settings) as running:
        accounts = [
            _real(account, place, running[account.name]) if account.name in running else account
            for place, account in enumerate(ready.accounts)
        ]
        yield Backends(attrs.evolve(ready, accounts=tuple(accounts)), running)


@asynccontextmanager
async def mock_backends(config: ConfigSource) -> AsyncGenerator[BalancerConfig]:
    """The configuration to open a balancer with, while a backend runs for each of its mock accounts.

    What a backend saw is told by `GET /__record__` at its address.

    Args:
        config: a `BalancerConfig`, a mapping laid out as the TOML file, or the path of one.

    Raises:
        ConfigError: the configuration, or a table `[accounts.mock]`, cannot be used.
    """
    async with open_backends(config) as backends:
        yield backends.config


def _real(account: Account, place: int, backend: MockBackend) -> Account:
    accepted = backend.settings.keys or (Secret(f"mock-key-{place}"),)
    return attrs.evolve(
        account,
        provider=backend.settings.speaks,
        base_url=backend.base_url,
        key=account.key or accepted[0],
        mock=None,
    )


def _account_parts(given: ConfigSource) -> Sequence[object]:
    """The accounts of a configuration that has faults, as far as there are any."""
    if isinstance(given, BalancerConfig):
        return given.accounts
    if isinstance(given, str | os.PathLike):
        try:
            given = read_toml(given)
        except ConfigError:
            return ()
    return items_of(given.get("accounts")) if isinstance(given, Mapping) else ()  # pyright: ignore[reportUnnecessaryIsInstance]


def _told(part: object) -> Mapping[str, object]:
    if isinstance(part, Account):
        return {"name": part.name, "provider": part.provider, "mock": part.mock}
    return cast("Mapping[str, object]", part) if isinstance(part, Mapping) else {}
