"""`balancer mock`: mock backends that run until Ctrl-C, for trying out any client against honest limits and bad days."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import attrs
import trio
from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, PositiveFloat, ResolvedPath
from cyclopts.validators import Number
from rich.console import Console
from rich.text import Text

from balancer.cli.console import UNUSABLE, ConfigFile, Json, complain, console_for, interruptible, print_json, table_of
from balancer.documents import read_toml
from balancer.errors import ConfigError, Fault
from balancer.structuring import items_of
from balancer.testing.backends import read_config
from balancer.testing.mock import MockBackend, MockSettings, serve
from balancer.testing.serving import running

HIGHEST_PORT = 65535
Port = Annotated[int, Parameter(validator=Number(gte=0, lte=HIGHEST_PORT))]
Ratio = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]


class OptionUnusable(Exception):
    """An option that cannot be followed here; the text names it, and what is allowed."""


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
        _check_ports(port, len(settings))
        if record is not None:
            with _writing(record):
                record.open("ab").close()  # told now, not after an afternoon of traffic
        trio.run(partial(_serve, settings, host, port, record, as_json=as_json))
    except OptionUnusable as error:
        complain(str(error))
        return UNUSABLE
    return 0


def _settings_in(file: Path) -> dict[str, MockSettings]:
    """The backends of a file. Its keys are not looked for: they are what clients send, and the file may name paid ones."""
    document = read_toml(file)
    for account in items_of(document.get("accounts")):
        if isinstance(account, dict):
            for source in ("key_env", "key_file"):
                cast("dict[str, object]", account).pop(source, None)
    _, settings = read_config(document)
    if not settings:
        raise ConfigError([Fault("accounts", "no mock account", 'at least one with provider = "mock"')])
    return settings


def _check_ports(port: int, count: int) -> None:
    """What lies beyond the last port would be another one, silently."""
    last, highest = port + count - 1, HIGHEST_PORT - count + 1
    if port and last > HIGHEST_PORT:
        raise OptionUnusable(
            f"--port {port}: {count} backends take the ports {port} to {last}; allowed: at most {highest}, or 0"
        )


@contextmanager
def _listening(host: str, port: int) -> Generator[None]:
    given = f"--host {host} --port {port}" if port else f"--host {host}"
    allowed = "an address of this machine" + (", and a port that is free there" if port else "")
    try:
        yield
    except OSError as error:
        raise OptionUnusable(f"{given}: {error.strerror or error}; allowed: {allowed}") from None
    except UnicodeError:
        raise OptionUnusable(f"{given}: a name that no host may have; allowed: {allowed}") from None


@contextmanager
def _writing(record: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise OptionUnusable(f"--record {record}: {error.strerror or error}; allowed: a file that can be written") from None


async def _serve(settings: Mapping[str, MockSettings], host: str, port: int, record: Path | None, *, as_json: bool) -> None:
    console = console_for(as_json=as_json)
    started_at = trio.current_time()

    async def start(nursery: trio.Nursery) -> dict[str, MockBackend]:
        backends: dict[str, MockBackend] = {}
        for place, (name, each) in enumerate(settings.items()):
            own_port = port + place if port else 0
            with _listening(host, own_port):
                backends[name] = await nursery.start(partial(serve, each, host=host, port=own_port, started_at=started_at))
        return backends

    async with running(start) as backends:
        with interruptible():
            _announce(console, backends, as_json=as_json)
            await trio.sleep_forever()
        _conclude(console, backends, as_json=as_json)
        if record is not None:
            _write(record, backends)
            if not as_json:
                console.print(Text(f"record: {record}"), soft_wrap=True)


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


def _write(record: Path, backends: Mapping[str, MockBackend]) -> None:
    recorded = {name: json.loads(each.record_json()) for name, each in backends.items()}
    with _writing(record):
        record.write_text(json.dumps({"backends": recorded}))


def _conclude(console: Console, backends: Mapping[str, MockBackend], *, as_json: bool) -> None:
    counts = {name: attrs.asdict(backend.counts()) for name, backend in backends.items()}
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
