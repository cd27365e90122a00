"""`balancer mock`: mock backends that run until Ctrl-C, for trying out any client against honest limits and bad days."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import trio
from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, PositiveFloat, ResolvedPath
from cyclopts.validators import Number
from rich.console import Console
from rich.text import Text

from balancer.cli.console import UNUSABLE, ConfigFile, Json, complain, console_for, interruptible, print_json, table_of
from balancer.errors import ConfigError, Fault
from balancer.testing.backends import read_config
from balancer.testing.mock import MockBackend, MockSettings, serve
from balancer.testing.serving import running

Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]
Ratio = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]


def mock(
    file: ConfigFile | None = None,
    /,
    *,
    host: str = "127.0.0.1",
    port: Port = 0,
    record: ResolvedPath | None = None,
    speaks: Literal["openai", "anthropic"] | None = None,
    latency: NonNegativeFloat | None = None,
    requests_per_minute: PositiveFloat | None = None,
    tokens_per_minute: PositiveFloat | None = None,
    error_ratio: Ratio | None = None,
    seed: int | None = None,
    as_json: Json = False,
) -> int:
    """Run mock backends until Ctrl-C: those of a configuration's mock accounts, or one made of the options.

    Args:
        file: the configuration; the options from --speaks on are for a single backend, without a file.
        host: the address to listen on.
        port: the port of the first backend, the next ones follow; 0 takes free ones.
        record: where to write, at the end, everything that was received.
        speaks: whose headers and errors the backend sends; by default openai.
        latency: seconds to the first byte.
        requests_per_minute: what it lets in per key.
        tokens_per_minute: what it lets in per key.
        error_ratio: share of the requests that are answered with status 503.
        seed: of latencies and errors.
    """
    options = {"speaks": speaks, "latency": latency, "seed": seed}
    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    table: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if told := {name: value for name, value in limits.items() if value is not None}:
        table["limits"] = told
    if error_ratio is not None:
        table["faults"] = [{"kind": "status", "status": 503, "probability": error_ratio}]
    if file is not None and table:
        complain("the options of a single backend go without a file")
        return UNUSABLE
    settings = {"mock": MockSettings.parse(table)} if file is None else _settings_in(file)
    try:
        if record is not None:
            record.open("ab").close()  # told now, not after an afternoon of traffic
        return trio.run(partial(_serve, settings, host, port, record, as_json=as_json))
    except OSError as error:
        complain(error.strerror or str(error))
        return UNUSABLE


def _settings_in(file: Path) -> dict[str, MockSettings]:
    _, settings = read_config(file)
    if not settings:
        raise ConfigError([Fault("accounts", "no mock account", 'at least one with provider = "mock"')])
    return settings


async def _serve(settings: Mapping[str, MockSettings], host: str, port: int, record: Path | None, *, as_json: bool) -> int:
    console = console_for(as_json=as_json)
    started_at = trio.current_time()

    async def start(nursery: trio.Nursery) -> dict[str, MockBackend]:
        backends: dict[str, MockBackend] = {}
        for place, (name, each) in enumerate(settings.items()):
            own_port = port + place if port else 0
            backends[name] = await nursery.start(partial(serve, each, host=host, port=own_port, started_at=started_at))
        return backends

    async with running(start) as backends:
        with interruptible():
            _announce(console, backends, as_json=as_json)
            await trio.sleep_forever()
        _conclude(console, backends, record, as_json=as_json)
    return 0


def _announce(console: Console, backends: Mapping[str, MockBackend], *, as_json: bool) -> None:
    if as_json:
        shown = [
            {"account": name, "base_url": backend.base_url, "speaks": backend.settings.speaks}
            for name, backend in backends.items()
        ]
        print_json({"backends": shown}, indent=None)
        return
    for name, backend in backends.items():
        console.print(Text(f"{name}: {backend.base_url} speaks {backend.settings.speaks}"), soft_wrap=True)
    console.print("running until Ctrl-C", style="dim")


def _conclude(console: Console, backends: Mapping[str, MockBackend], record: Path | None, *, as_json: bool) -> None:
    counts = {name: attrs.asdict(backend.counts()) for name, backend in backends.items()}
    if record is not None:
        record.write_text(json.dumps({"backends": {name: json.loads(each.record_json()) for name, each in backends.items()}}))
    if as_json:
        print_json({"counts": counts}, indent=None)
        return
    table = table_of()
    columns = ("received", "served", "refused", "rejected", "faulted", "gone")
    table.add_column("account", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for name, each in counts.items():
        table.add_row(Text(name), *(str(each[column]) for column in columns))
    console.print(table)
    if record is not None:
        console.print(Text(f"record: {record}"), soft_wrap=True)
