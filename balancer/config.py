"""What a balancer is told: accounts, pools, routes and settings, from code, a mapping or a TOML file, all held to the same.

Whoever has a `BalancerConfig` need not check it again: names resolve, pools form no cycle, numbers are in range. What is wrong
comes as one `ConfigError` that lists every fault with its path, and shows no credential.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs

from balancer.core.budget import RetrySettings
from balancer.core.health import HealthSettings
from balancer.core.hedging import HedgeSettings
from balancer.core.limits import Limits
from balancer.core.setting import setting
from balancer.core.settings import Account, Pool
from balancer.core.tenants import TenantSettings
from balancer.documents import oversized, read_key, read_toml
from balancer.errors import ConfigError, Fault
from balancer.routing.pools import cyclic, entries, flattened
from balancer.routing.table import DEFAULT_POOL, RouteSettings
from balancer.selection import SELECTORS, Selector, make_selector
from balancer.structuring import (
    as_far_as_right,
    check_field,
    gathered,
    hint,
    items_of,
    kind_of,
    step,
    structure,
    table_of,
    told,
    unknown_key,
)

T = TypeVar("T")

_FUNCTION = re.compile(r"[A-Za-z_][\w.]{0,200}:[A-Za-z_]\w{0,100}")


class LiteralKeyWarning(UserWarning):
    """A file holds a credential that should stand in the environment or in a file of its own."""


def _account_names(accounts: Sequence[Account]) -> str:
    return repr([account.name for account in accounts])


@attrs.frozen(init=False)
class BalancerConfig:
    """Everything a balancer is told. Parts may be given as objects or as the mappings that stand for them in TOML.

    Args:
        accounts: at least one, no two of one name.
        pools: who can stand in for whom; all accounts together are the pool `"default"`.
        routes: which pool serves which model.
        tenants: those whose share or waiting room differs from the others'.
        shared_limits: limits that several accounts share, an organisation's for example: name -> rates. Accounts name them in
            `limits.shared`.
        selector: how one account is chosen among those that can take a call: a name, `"module:function"`, or a function.
        max_waiting: tickets that may wait at once, >= 0; 1,000 are some megabytes.
        max_waiting_per_tenant: tickets of any one tenant that may wait at once, >= 0; `None`: no limit beside `max_waiting`.
        max_wait_for: seconds that a call without a deadline of its own waits for an account; `None`, `False`, `inf`: for ever.
        max_attempts: attempts of one call that may fail, >= 1; the third rarely succeeds where two have failed.
        drain_timeout: seconds that running calls get at a normal exit, >= 0.
        hedge, retry, health: the settings of those parts.
        seed: of every random choice, to make a run repeatable; `None`: another one each time.
        headers_timeout: seconds from connect to the answer's headers, > 0; the official SDKs also wait ten minutes.
        idle_timeout: seconds without a read after which an open body gives its lease back, > 0; as long as the SDKs wait for a byte.
    """

    accounts: tuple[Account, ...] = attrs.field(repr=_account_names)
    pools: tuple[Pool, ...]
    routes: tuple[RouteSettings, ...]
    tenants: tuple[TenantSettings, ...]
    shared_limits: Mapping[str, Limits] = attrs.field(hash=False)
    selector: str | Selector
    max_waiting: int = setting(kind=int, low=0, high=10_000_000)
    max_waiting_per_tenant: int | None = setting(kind=int, low=0, high=10_000_000, optional=True)
    max_wait_for: float = setting(kind=float, low=0.0)
    max_attempts: int = setting(kind=int, low=1, high=1000)
    drain_timeout: float = setting(kind=float, low=0.0)
    hedge: HedgeSettings
    retry: RetrySettings
    health: HealthSettings
    seed: int | None = setting(kind=int, optional=True)
    headers_timeout: float = setting(kind=float, low=0.0, above=True)
    idle_timeout: float = setting(kind=float, low=0.0, above=True)

    def __init__(
        self,
        accounts: Sequence[Account | Mapping[str, Any]],
        pools: Sequence[Pool | Mapping[str, Any]] = (),
        routes: Sequence[RouteSettings | Mapping[str, Any]] = (),
        selector: str | Selector = "least_pressure",
        max_waiting: int = 1000,
        max_wait_for: float | None = 60.0,
        max_attempts: int = 3,
        drain_timeout: float = 10.0,
        hedge: HedgeSettings | Mapping[str, Any] | None = None,
        retry: RetrySettings | Mapping[str, Any] | None = None,
        health: HealthSettings | Mapping[str, Any] | None = None,
        seed: int | None = None,
        headers_timeout: float = 600.0,
        idle_timeout: float = 600.0,
        tenants: Sequence[TenantSettings | Mapping[str, Any]] = (),
        max_waiting_per_tenant: int | None = None,
        shared_limits: Mapping[str, Limits | Mapping[str, Any]] | None = None,
    ) -> None:
        faults: list[Fault] = []
        given: dict[str, Any] = {
            "selector": selector,
            "max_waiting": max_waiting,
            "max_waiting_per_tenant": max_waiting_per_tenant,
            "max_wait_for": math.inf if max_wait_for is None or max_wait_for is False else max_wait_for,
            "max_attempts": max_attempts,
            "drain_timeout": drain_timeout,
            "seed": seed,
            "headers_timeout": headers_timeout,
            "idle_timeout": idle_timeout,
        }
        for field in attrs.fields(BalancerConfig):
            if field.name in given:
                with gathered(faults):
                    check_field(field, given[field.name])
        with gathered(faults):
            _check_selector(selector)
        for name, cls, one in (
            ("hedge", HedgeSettings, hedge),
            ("retry", RetrySettings, retry),
            ("health", HealthSettings, health),
        ):
            with gathered(faults, name):
                given[name] = structure(cls, {} if one is None else one)
        parts: dict[str, tuple[type[Any], object]] = {
            "accounts": (Account, accounts),
            "pools": (Pool, pools),
            "routes": (RouteSettings, routes),
            "tenants": (TenantSettings, tenants),
        }
        for name, (cls, many) in parts.items():
            given[name] = _listed(cls, many, name, faults)
        if accounts in ([], ()):
            faults.append(Fault("accounts", "none", "at least one account: [[accounts]]"))
        faults += _repeated(accounts, "accounts", "name")
        faults += _repeated(pools, "pools", "name")
        faults += _repeated(routes, "routes", "model")
        faults += _repeated(tenants, "tenants", "name")
        faults += _dangling(accounts, pools, given["pools"], given["routes"])
        faults += _unoffered(accounts, pools, routes, given)
        given["shared_limits"] = _shared_limits(shared_limits, faults)
        faults += _limits_of_nobody(accounts, given["accounts"], shared_limits)
        if faults:
            raise ConfigError(faults)
        given |= {name: tuple(given[name].values()) for name in parts}
        self.__attrs_init__(**given)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    @classmethod
    def parse(cls, mapping: object) -> BalancerConfig:
        """A configuration from a mapping laid out as the TOML file is.

        Raises:
            ConfigError: with every fault.
        """
        faults: list[Fault] = []
        with gathered(faults):
            table = table_of(mapping)
        if not faults:
            faults = list(oversized(mapping, ""))
        if faults:
            raise ConfigError(faults)
        scalars: Mapping[object, Any] = {}
        with gathered(faults, "balancer"):
            scalars = table_of(table.get("balancer", {}))
        tables = {key: value for key, value in table.items() if key != "balancer"}
        faults += [_unknown_table(key) for key in tables if key not in _TABLES]
        faults += [unknown_key(key, _SCALARS).below("balancer") for key in scalars if key not in _SCALARS]
        known: dict[Any, Any] = {"accounts": ()}
        known |= {key: value for key, value in tables.items() if key in _TABLES}
        known |= {key: value for key, value in scalars.items() if key in _SCALARS}
        try:
            config = cls(**known)
        except ConfigError as error:
            faults += [fault.below("balancer") if fault.path in _SCALARS else fault for fault in error.faults]
        else:
            if not faults:
                return config
        raise ConfigError(faults)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BalancerConfig:
        """A configuration from a TOML file, its keys resolved. A relative `key_file` is found beside the file.

        Raises:
            ConfigError: with every fault.
        """
        document = read_toml(path)
        accounts = _account_tables(document.get("accounts"))
        for account in accounts.values():
            key_file = account.get("key_file")
            if isinstance(key_file, list):
                account["key_file"] = [_beside(path, one) for one in items_of(cast("object", key_file))]
            elif key_file is not None:
                account["key_file"] = _beside(path, key_file)
        config = _parsed(document)
        for place, account in enumerate(config.accounts):
            if account.key is not None and account.provider != "mock":  # the key of a mock backend opens nothing
                keys = "keys" if len(account.keys) > 1 else "key"
                text = f'{path}: accounts[{place}] ("{account.name}") holds its {keys} in the file; use key_env or key_file'
                warnings.warn(text, LiteralKeyWarning, stacklevel=2)
        return resolve_keys(config, os.environ)

    @classmethod
    def of(cls, given: object) -> BalancerConfig:
        """A configuration as it is, from a mapping, or from the path of a TOML file. Raises `ConfigError`."""
        if isinstance(given, BalancerConfig):
            return given
        if isinstance(given, str | os.PathLike):
            return cls.load(cast("str | os.PathLike[str]", given))
        if isinstance(given, Mapping):
            return _parsed(cast("Mapping[str, Any]", given))
        raise ConfigError([Fault("", kind_of(given), "a BalancerConfig, a mapping, or the path of a TOML file")])


_TABLES = {
    "accounts": Account,
    "pools": Pool,
    "routes": RouteSettings,
    "tenants": TenantSettings,
    "shared_limits": Limits,
    "hedge": HedgeSettings,
    "retry": RetrySettings,
    "health": HealthSettings,
}
_SCALARS = tuple(field.name for field in attrs.fields(BalancerConfig) if field.name not in _TABLES)


def resolve_keys(config: BalancerConfig, environ: Mapping[str, str]) -> BalancerConfig:
    """The same configuration with every `key_env` and `key_file` replaced by the key, or the keys, that it names.

    Raises:
        ConfigError: with every variable that is missing and every file that cannot be read.
    """
    accounts: list[Account] = []
    faults: list[Fault] = []
    for place, account in enumerate(config.accounts):
        with gathered(faults, f"accounts[{place}]"):
            key = read_key(account.key_env, account.key_file, environ) or account.key
            accounts.append(attrs.evolve(account, key=key, key_env=None, key_file=None))
    if faults:
        raise ConfigError(faults)
    return attrs.evolve(config, accounts=tuple(accounts))


def _unknown_table(key: object) -> Fault:
    if key in _SCALARS:
        return Fault(step(key), "unknown key", f"balancer.{key}: it belongs into the table [balancer]")
    return unknown_key(key, ("balancer", *_TABLES))


def _beside(path: str | os.PathLike[str], key_file: object) -> object:
    """A file's name as seen from the file at `path`; what names no file is a fault, told elsewhere."""
    return str(Path(path).parent / key_file) if isinstance(key_file, str) and key_file else key_file


def _parsed(document: Mapping[str, Any]) -> BalancerConfig:
    """The configuration in a document, its keys not yet read. Raises `ConfigError`, which names the keys that are missing too."""
    try:
        return BalancerConfig.parse(document)
    except ConfigError as error:
        missing: list[Fault] = []
        for place, account in _account_tables(document.get("accounts")).items():
            with gathered(missing, f"accounts[{place}]"):
                read_key(account.get("key_env"), account.get("key_file"), os.environ)
        raise ConfigError([*error.faults, *missing]) from None


def _account_tables(accounts: object) -> dict[int, dict[str, Any]]:
    return {place: cast("dict[str, Any]", item) for place, item in enumerate(items_of(accounts)) if isinstance(item, dict)}


def _check_selector(selector: object) -> None:
    if callable(selector):
        make_selector(cast("Selector", selector))
        return
    problem = told(selector) + hint(selector, SELECTORS)
    if isinstance(selector, str) and (selector in SELECTORS or _FUNCTION.fullmatch(selector)):
        try:
            make_selector(selector)
            return
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # whatever the module does when it is imported
            problem = f"{told(selector)} cannot be imported: {type(error).__name__}"
    raise ConfigError([Fault("selector", problem, ", ".join(SELECTORS) + ', or "module:function"')])


def _listed(cls: type[T], given: object, path: str, faults: list[Fault]) -> dict[int, T]:
    """The parts, by place: of a faulty one what is right of it, as far as that is a part."""
    if not isinstance(given, list | tuple):
        faults.append(Fault(path, kind_of(given), f"a list of tables: [[{path}]]"))
        return {}
    parts: dict[int, T] = {}
    for place, item in enumerate(items_of(cast("object", given))):
        try:
            parts[place] = structure(cls, item)
        except ConfigError as error:
            faults += [fault.below(f"{path}[{place}]") for fault in error.faults]
            if (part := as_far_as_right(cls, item, error.faults)) is not None:
                parts[place] = part
    return parts


def _named(parts: object, key: str) -> Iterator[tuple[int, str]]:
    """Place and name of every part that has one, the faulty ones too: who refers to them is not at fault."""
    for place, part in enumerate(items_of(parts)):
        if isinstance(name := _field(part, key), str):
            yield place, name


def _field(part: object, key: str) -> object:
    """A field of a table, or of what was made in code; `None` without one."""
    return cast("Mapping[str, object]", part).get(key) if isinstance(part, Mapping) else getattr(part, key, None)


def _repeated(parts: object, path: str, key: str) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for place, name in _named(parts, key):
        if first.setdefault(name, place) != place:
            yield Fault(f"{path}[{place}].{key}", told(name), f"a {key} that {path}[{first[name]}] does not have")


def _dangling(
    accounts: object, pools: object, good_pools: Mapping[int, Pool], routes: Mapping[int, RouteSettings]
) -> Iterator[Fault]:
    """Names that lead nowhere, or in a circle."""
    account_names = {name for _, name in _named(accounts, "name")}
    pool_names = {name for _, name in _named(pools, "name")}
    circling = cyclic(good_pools.values())
    for place, pool in good_pools.items():
        for path, entry in entries(pool):
            path = f"pools[{place}].{path}"
            if entry.startswith("@"):
                if entry[1:] not in pool_names:
                    yield Fault(path, told(entry) + hint(entry[1:], pool_names), "@ and the name of a pool")
                elif {pool.name, entry[1:]} <= circling:
                    yield Fault(path, f"{told(entry)} closes a cycle of pools", "a pool that does not lead back here")
            elif entry not in account_names:
                yield Fault(path, told(entry) + hint(entry, account_names), "the name of an account, or @ and that of a pool")
    for place, route in routes.items():
        if route.pool is not None and route.pool not in pool_names and route.pool != DEFAULT_POOL:
            yield Fault(f"routes[{place}].pool", told(route.pool) + hint(route.pool, pool_names), "the name of a pool")


def _unoffered(accounts: object, pools: object, routes: object, right: Mapping[str, Mapping[int, Any]]) -> Iterator[Fault]:
    """Models that provably no account offers where their route leads; `right` is what could be read of the parts."""
    rows = {name for _, name in _named(routes, "model")}
    by_name: dict[str, Pool] = {pool.name: pool for pool in right["pools"].values()}
    everybody = [name for _, name in _named(accounts, "name")]
    if DEFAULT_POOL not in {name for _, name in _named(pools, "name")} and len(everybody) == len(items_of(accounts)):
        by_name[DEFAULT_POOL] = Pool(DEFAULT_POOL, [everybody])
    known: dict[str, Collection[str] | None] = {}

    def unoffered(model: str, pool: str, path: str) -> list[Fault]:
        if pool not in known:
            known[pool] = _offered(pool, by_name, right["accounts"].values())
        offered = known[pool]
        if offered is None or model in offered:
            return []
        return [Fault(path, told(model) + hint(model, offered), f'a model that an account of the pool "{pool}" offers')]

    for place, route in right["routes"].items():
        faults = [
            fault
            for position, model in enumerate(route.fallback_models)
            if model not in rows  # one with a row of its own is looked at there
            for fault in unoffered(model, DEFAULT_POOL, f"routes[{place}].fallback_models[{position}]")
        ]
        if len(faults) == len(route.fallback_models):  # else its name is an alias for those that are offered
            yield from unoffered(route.model, route.pool or DEFAULT_POOL, f"routes[{place}].model")
        yield from faults


def _offered(pool: str, pools: Mapping[str, Pool], accounts: Collection[Account]) -> Collection[str] | None:
    """The models of all accounts that a pool leads to; `None`: any, or nobody knows."""
    ahead, reached = [f"@{pool}"], set[str]()
    while ahead:
        entry = ahead.pop()
        if entry not in reached:
            reached.add(entry)
            nested = pools.get(entry[1:]) if entry.startswith("@") else None
            ahead += [below for _, below in entries(nested)] if nested else ()
    serving = [account for account in accounts if account.name in reached]
    sure = {f"@{name}" for name in pools} | {account.name for account in serving}
    if reached - sure or any(account.models is None for account in serving):
        return None
    return {model for account in serving for model in account.models or ()}


def _shared_limits(given: object, faults: list[Fault]) -> dict[str, Limits]:
    """The named limits that are right."""
    limits: dict[str, Limits] = {}
    table: Mapping[object, Any] = {}
    with gathered(faults, "shared_limits"):
        table = table_of({} if given is None else given)
    for name, one in table.items():
        with gathered(faults, f"shared_limits.{step(name)}"):
            if not isinstance(name, str):
                raise ConfigError([Fault("", told(name), "a text as name")])
            limits[name] = parsed = Limits.parse(one)
            if parsed.concurrency is not None or parsed.shared:
                raise ConfigError([Fault("", "concurrency or shared", "rates, and how they are counted")])
    return limits


def _limits_of_nobody(accounts: object, right: Mapping[int, Account], shared: object) -> Iterator[Fault]:
    """Limits that an account names and nobody has, and those of models that it does not offer; `right` is what could be read of them."""
    given = set(cast("Mapping[object, object]", shared)) if isinstance(shared, Mapping) else set[object]()
    names = {name for name in given if isinstance(name, str)}
    for place, account in enumerate(items_of(accounts)):
        for position, name in enumerate(items_of(_field(_field(account, "limits"), "shared"))):
            if isinstance(name, str) and name not in names:
                path = f"accounts[{place}].limits.shared[{position}]"
                yield Fault(path, told(name) + hint(name, names), "a name from [shared_limits]")
    for place, account in right.items():
        path, limits = f"accounts[{place}].limits", account.limits
        offered = limits.models if account.models is None else account.models
        for model in limits.models:
            if model not in offered:
                text = told(model) + hint(model, offered)
                yield Fault(f"{path}.models.{step(model)}", text, "a model that the account offers")


def pool_tiers(config: BalancerConfig) -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Every pool as tiers of account names, and `"default"` for calls without a route.

    The default pool is the one of that name; else, where there are no routes, the only pool that stands in no other; else all
    accounts.
    """
    pools = dict(flattened(config.pools))
    nested = {name[1:] for pool in config.pools for tier in pool.tiers for name in tier if name.startswith("@")}
    outer = [pool.name for pool in config.pools if pool.name not in nested]
    everybody = (tuple(account.name for account in config.accounts),)
    default = pools[outer[0]] if len(outer) == 1 and not config.routes else everybody
    return {DEFAULT_POOL: default} | pools
