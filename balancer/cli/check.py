"""`balancer check`: what a configuration file was understood to say, or everything that is wrong with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.text import Text

from balancer.cli.console import ConfigFile, Json, console_for, print_faults, print_json, table_of
from balancer.config import BalancerConfig, LiteralKeyWarning
from balancer.core.settings import Account, Limits, Rate
from balancer.documents import read_toml
from balancer.errors import ConfigError
from balancer.providers.provider import get_provider
from balancer.structuring import items_of
from balancer.testing.backends import read_config

FAULTY = 1
_PERIODS = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "day"}


def check(file: ConfigFile, /, *, as_json: Json = False) -> int:
    """Check a configuration: print every fault of it (exit code 1), or what was understood.

    Keys are looked for where the file says, and never shown.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LiteralKeyWarning)
            config, _ = read_config(file)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "faults": [attrs.asdict(fault) for fault in error.faults]})
        else:
            print_faults(error)
        return FAULTY
    understood = _understood(file, config, [str(warning.message) for warning in caught])
    if as_json:
        print_json(understood)
    else:
        _print(console_for(as_json=False), file, understood)
    return 0


def _understood(file: Path, config: BalancerConfig, warned: list[str]) -> dict[str, Any]:
    """The configuration as JSON, without any key."""
    written: list[dict[str, Any]] = read_toml(file)["accounts"]
    settings = {
        field.name: _number(getattr(config, field.name))
        for field in attrs.fields(BalancerConfig)
        if field.name not in ("accounts", "pools", "routes")
    }
    parts = ("hedge", "retry", "health")
    return {
        "ok": True,
        "warnings": warned,
        "accounts": [_account(account, told) for account, told in zip(config.accounts, written, strict=True)],
        "pools": [attrs.asdict(pool) for pool in config.pools],
        "routes": [attrs.asdict(route) for route in config.routes],
        "balancer": {name: value for name, value in settings.items() if name not in parts},
        **{name: attrs.asdict(settings[name], value_serializer=lambda _owner, _field, value: _number(value)) for name in parts},
    }


def _number(value: Any) -> Any:
    """JSON has no infinity: no bound is `null` there."""
    return None if value == math.inf else value


def _account(account: Account, table: Mapping[str, Any]) -> dict[str, Any]:
    """One account as JSON; `table` is its own in the file, which still says where its key comes from."""
    mock = account.provider == "mock"
    sources = [{"source": name, "name": table[name]} for name in ("key_env", "key_file") if table.get(name) is not None]
    if account.key is not None and not sources:
        sources = [{"source": "key", "name": None}]
    return {
        "name": account.name,
        "provider": account.provider,
        "base_url": account.base_url or (None if mock else get_provider(account.provider).base_url),
        "models": account.models,
        "weight": account.weight,
        "limits": {name: value for name, value in attrs.asdict(account.limits).items() if value not in (None, ())},
        "key": sources[0] if sources else None,
    }


def _print(console: Console, file: Path, understood: dict[str, Any]) -> None:
    accounts = understood["accounts"]
    console.print(Text(f"{file}: good, {len(accounts)} account{'s' * (len(accounts) > 1)}", "bold green"), soft_wrap=True)
    console.print()
    table = table_of()
    for column in ("account", "provider", "base URL", "models", "limits", "key"):
        table.add_column(column, overflow="fold")
    for account in accounts:
        weight = account["weight"]
        table.add_row(
            *(
                Text(text)
                for text in (
                    account["name"] + ("" if weight == 1.0 else f" (weight {weight:g})"),
                    account["provider"],
                    account["base_url"] or "started on loopback",
                    _models(account["models"]),
                    _limits(account["limits"]),
                    _key(account),
                )
            )
        )
    console.print(table)
    console.print()
    for pool in understood["pools"]:
        tiers = ", then ".join(" | ".join(tier) for tier in pool["tiers"])
        console.print(Text(f"pool {pool['name']}: {tiers}"), soft_wrap=True)
    if not understood["pools"]:
        console.print("no pools: all accounts stand in for each other")
    for route in understood["routes"]:
        console.print(Text(f"route {_route(route)}"), soft_wrap=True)
    for warning in understood["warnings"]:
        console.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)


_MOST_MODELS = 8


def _models(models: Mapping[str, str] | None) -> str:
    if models is None:
        return "any"
    lines = [name if name == own else f"{name} -> {own}" for name, own in models.items()]
    more = [f"and {len(lines) - _MOST_MODELS} more"] if len(lines) > _MOST_MODELS else []
    return "\n".join(lines[:_MOST_MODELS] + more) or "none"


def _limits(limits: Mapping[str, Any]) -> str:
    texts: list[str] = []
    for name, value in limits.items():
        texts += [f"{_rate(rate)} {name}" for rate in items_of(value)]
    parsed = Limits.parse(limits)
    if texts and parsed.window == "sliding":
        texts.append("sliding window")
    if parsed.burst is not None:
        texts.append(f"bursts of {parsed.burst:g}")
    if parsed.concurrency is not None:
        texts.append(f"{parsed.concurrency} at once")
    return "\n".join(texts).replace("_", " ") or "none known"


def _rate(rate: object) -> str:
    parsed = Rate.parse(rate)
    return f"{parsed.amount:,.12g}/{_PERIODS.get(parsed.per, f'{parsed.per:g} s')}"


def _key(account: Mapping[str, Any]) -> str:
    key = account["key"]
    if key is None:
        return "made up" if account["provider"] == "mock" else "none"
    match key["source"]:
        case "key_env":
            return f"variable {key['name']}"
        case "key_file":
            return f"file {key['name']}"
        case _:
            return "in this file"


def _route(route: Mapping[str, Any]) -> str:
    fallback = "".join(f", then {model}" for model in route["fallback_models"])
    return f"{route['model']}: pool {route['pool'] or 'default'}{fallback}"
