"""`balancer check`: what a configuration file was understood to say, or everything that is wrong with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from balancer.cli.console import Json, console_for, print_faults, print_json, table_of
from balancer.cli.rates import counting_text, limits_table, rate_text
from balancer.config import BalancerConfig, LiteralKeyWarning
from balancer.core.limits import Limits, Presets, Terms
from balancer.core.settings import Account
from balancer.documents import ReadOnce, read_toml
from balancer.errors import ConfigError
from balancer.providers.provider import common_counting, get_provider
from balancer.testing.backends import read_config
from balancer.testing.mock import MockSettings

FAULTY = 1
_LISTED = ("accounts", "pools", "routes", "tenants", "shared_limits")
_PARTS = ("hedge", "retry", "health")


# A file that is not there is told as any other fault is, so the command line does not look for it.
Checked = Annotated[Path, Parameter(help="The configuration, a TOML file.")]


def check(file: Checked, /, *, as_json: Json = False) -> int:
    """Check a configuration: print every fault of it (exit code 1), or what was understood.

    Keys are looked for where the file says, and never shown.
    """
    source = ReadOnce(file)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LiteralKeyWarning)
            config, mocks = read_config(source)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "faults": [attrs.asdict(fault) for fault in error.faults]})
        else:
            print_faults(error)
        return FAULTY
    understood = _understood(read_toml(source)["accounts"], config, mocks, [str(warning.message) for warning in caught])
    if as_json:
        print_json(understood)
    else:
        _print(console_for(as_json=False), file, understood)
    return 0


def _understood(
    written: list[dict[str, Any]], config: BalancerConfig, mocks: Mapping[str, MockSettings], warned: list[str]
) -> dict[str, Any]:
    """The configuration as JSON, without any key; `written` are the tables of its accounts, as the file has them."""
    settings = {
        field.name: _number(getattr(config, field.name)) for field in attrs.fields(BalancerConfig) if field.name not in _LISTED
    }
    return {
        "ok": True,
        "warnings": warned,
        "accounts": [_account(account, told, mocks) for account, told in zip(config.accounts, written, strict=True)],
        "shared_limits": {
            name: {
                "accounts": [account.name for account in sharing],
                "limits": limits_table(limits),
                "rates": _rates(limits, common_counting(_provider_of(account, mocks) for account in sharing)),
            }
            for name, limits in config.shared_limits.items()
            for sharing in [[account for account in config.accounts if name in account.limits.shared]]
        },
        "pools": [attrs.asdict(pool) for pool in config.pools],
        "routes": [attrs.asdict(route) for route in config.routes],
        "tenants": [attrs.asdict(tenant) for tenant in config.tenants],
        "balancer": {name: value for name, value in settings.items() if name not in _PARTS},
        **{
            name: attrs.asdict(settings[name], value_serializer=lambda _owner, _field, value: _number(value)) for name in _PARTS
        },
    }


def _number(value: Any) -> Any:
    """JSON has no infinity: no bound is `null` there."""
    return None if value == math.inf else value


def _provider_of(account: Account, mocks: Mapping[str, MockSettings]) -> str:
    """The name of the provider that answers for it."""
    mock = mocks.get(account.name)
    return mock.speaks if mock else account.provider


def _account(account: Account, table: Mapping[str, Any], mocks: Mapping[str, MockSettings]) -> dict[str, Any]:
    """One account as JSON; `table` is its own in the file, which still says where its key comes from."""
    mock = mocks.get(account.name)
    provider = get_provider(_provider_of(account, mocks))
    sources = [{"source": name, "name": table[name]} for name in ("key_env", "key_file") if table.get(name) is not None]
    if account.key is not None and not sources:
        sources = [{"source": "key", "name": [None for _ in account.keys] if len(account.keys) > 1 else None}]
    return {
        "name": account.name,
        "provider": account.provider,
        "base_url": account.base_url or (None if mock else provider.base_url),
        "models": account.models,
        "weight": account.weight,
        "limits": limits_table(account.limits),
        "rates": _rates(account.limits, provider.counting),
        "key": sources[0] if sources else None,
    }


def _rates(limits: Limits, presets: Presets) -> list[dict[str, Any]]:
    """Every rate with its counting settled; `model` is the one that it holds for, `null` for all together."""
    by_model: Mapping[str | None, Limits] = {None: limits, **limits.models}
    return [{"model": model, **attrs.asdict(terms)} for model, own in by_model.items() for terms in own.terms(presets)]


def _print(console: Console, file: Path, understood: dict[str, Any]) -> None:
    accounts = understood["accounts"]
    console.print(Text(f"{file}: good, {len(accounts)} account{'s' * (len(accounts) > 1)}", "bold green"), soft_wrap=True)
    console.print()
    table = table_of()
    for column in ("account", "provider", "base URL", "models", "key"):
        table.add_column(column, overflow="fold")
    for account in accounts:
        weight = account["weight"]
        table.add_row(
            *(
                Text(text)
                for text in (
                    account["name"] + ("" if weight == 1.0 else f"\n(weight {weight:g})"),
                    account["provider"],
                    account["base_url"] or "started on loopback",
                    _models(account["models"]),
                    _key(account),
                )
            )
        )
    console.print(table)
    console.print()
    _print_limits(console, understood)
    for pool in understood["pools"]:
        tiers = ", then ".join(" | ".join(tier) for tier in pool["tiers"])
        console.print(Text(f"pool {pool['name']}: {tiers}"), soft_wrap=True)
    if not understood["pools"]:
        console.print("no pools: all accounts stand in for each other")
    for route in understood["routes"]:
        console.print(Text(f"route {_route(route)}"), soft_wrap=True)
    for tenant in understood["tenants"]:
        console.print(Text(f"tenant {_tenant(tenant)}"), soft_wrap=True)
    for warning in understood["warnings"]:
        console.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)


def _print_limits(console: Console, understood: dict[str, Any]) -> None:
    table = table_of()
    table.add_column("limits of", overflow="fold")
    table.add_column("rate", overflow="fold")
    table.add_column("counted", overflow="fold")
    for account in understood["accounts"]:
        limits = account["limits"]
        more: list[str] = []
        if "concurrency" in limits:
            more.append(f"{limits['concurrency']:,} at once")
        more += [f"shared: {name}" for name in limits.get("shared", ())]
        _add_limits(table, account["name"], account["rates"], more or ([] if account["rates"] else ["none known"]))
    for name, shared in understood["shared_limits"].items():
        _add_limits(table, f"shared: {name}" + ("" if shared["accounts"] else " (by nobody)"), shared["rates"], [])
    console.print(table)
    console.print()


def _add_limits(table: Table, owner: str, rates: list[dict[str, Any]], more: list[str]) -> None:
    rows: list[tuple[str, str]] = []
    for rate in rates:
        terms = Terms(**{name: value for name, value in rate.items() if name != "model"})
        model = "" if rate["model"] is None else f"{rate['model']}: "
        rows.append((model + rate_text(terms), counting_text(terms)))
    rows += [(text, "") for text in more]
    for place, (text, counted) in enumerate(rows):
        table.add_row(*(Text(cell) for cell in ("" if place else owner, text, counted)))


_MOST_MODELS = 8


def _models(models: Mapping[str, str] | None) -> str:
    if models is None:
        return "any"
    lines = [name if name == own else f"{name} -> {own}" for name, own in models.items()]
    more = [f"and {len(lines) - _MOST_MODELS} more"] if len(lines) > _MOST_MODELS else []
    return "\n".join(lines[:_MOST_MODELS] + more) or "none"


def _key(account: Mapping[str, Any]) -> str:
    key = account["key"]
    if key is None:
        return "made up" if account["provider"] == "mock" else "none"
    names = key["name"] if isinstance(key["name"], list) else [key["name"]]
    kinds = {"key_env": "variable {}", "key_file": "file {}", "key": "in this file"}
    return "\n".join(kinds[key["source"]].format(name) for name in names)


def _route(route: Mapping[str, Any]) -> str:
    fallback = "".join(f", then {model}" for model in route["fallback_models"])
    return f"{route['model']}: pool {route['pool'] or 'default'}{fallback}"


def _tenant(tenant: Mapping[str, Any]) -> str:
    most = "" if tenant["max_waiting"] is None else f", at most {tenant['max_waiting']:,} waiting"
    return f"{tenant['name'] or '(none)'}: weight {tenant['weight']:g}{most}"
