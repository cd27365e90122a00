"""What can go wrong with one request at a mock backend, and when it does: by chance, or by a script.

An *action* is what happens to one admitted request in place of a plain answer. A script gives the n-th admitted request its
n-th action and then falls silent; sources are asked in order and the first action counts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Literal, cast

import attrs

from balancer.core.setting import setting, shown
from balancer.errors import ConfigError, Fault
from balancer.structuring import gathered, step, structure, told
from balancer.testing.mock.table import as_table, below, read_kind, read_list

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?", re.ASCII)
SHAPES = ("html", "empty", "garbage", "nonsense_headers", "endless_headers", "informational_flood", "gzip_bomb")


def _headers(given: object) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for name, value in as_table(given, "a table from header name to text").items():
        if not (isinstance(name, str) and _HEADER_NAME.fullmatch(name)):
            raise ConfigError([Fault(step(name), "a name that cannot be sent", "the name of a header")])
        if not (isinstance(value, str) and _HEADER_VALUE.fullmatch(value)):
            raise ConfigError([Fault(step(name), told(value), "a text of printable ASCII characters, no space around it")])
        headers[name] = value
    return headers


def _events(default: int) -> int:
    return setting(default, kind=int, low=0, high=1_000_000)


@attrs.frozen
class Status:
    """Answers with this status and a body in the provider's shape.

    Args:
        status: 200 to 599.
        code: the error's own code, as in `"insufficient_quota"`; by default the usual one of the status.
        message: the error's text; by default the usual one.
        headers: sent with it, as in `{"retry-after": "2"}`.
    """

    status: int = setting(503, kind=int, low=200, high=599)
    code: str | None = setting(None, kind=str, optional=True)
    message: str | None = setting(None, kind=str, optional=True)
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False, converter=below("headers", _headers))


@attrs.frozen
class Delay:
    """Takes this much longer to its first byte (seconds), then answers."""

    delay_for: float = setting(kind=float, low=0.0, high=86400.0)


@attrs.frozen
class Drop:
    """Closes the connection without an answer, with a reset instead of an end if `reset`."""

    reset: bool = setting(False, kind=bool)


@attrs.frozen
class Stall:
    """Falls silent, after `events` of a stream (or that many bytes of a whole body); with 0, before the head."""

    events: int = _events(0)


@attrs.frozen
class Truncate:
    """Ends the answer after `events` of a stream (or that many bytes of a whole body).

    Args:
        events: how much is sent.
        clean: a stream's framing is ended properly, so that only the missing end mark tells; else the connection just closes.
    """

    events: int = _events(2)
    clean: bool = setting(False, kind=bool)


@attrs.frozen
class StreamError:
    """Status 200 and then an error: as an event after `events` of a stream, or as the whole body.

    Args:
        events: how many come before it.
        status: the status it would have had.
        code: as in `Status`.
    """

    events: int = _events(2)
    status: int = setting(503, kind=int, low=400, high=599)
    code: str | None = setting(None, kind=str, optional=True)


@attrs.frozen
class Malformed:
    """Answers what no provider should.

    Args:
        shape: a 200 of `html`, an `empty` 200, `garbage` that is not HTTP, `nonsense_headers` on a good answer,
            `endless_headers`, an `informational_flood` of 1xx without end, or a `gzip_bomb`.
    """

    shape: Literal["html", "empty", "garbage", "nonsense_headers", "endless_headers", "informational_flood", "gzip_bomb"] = (
        setting(kind=str, choices=SHAPES)
    )


Action = Status | Delay | Drop | Stall | Truncate | StreamError | Malformed

KINDS: dict[str, type[Action]] = {
    "status": Status,
    "delay": Delay,
    "drop": Drop,
    "stall": Stall,
    "truncate": Truncate,
    "stream_error": StreamError,
    "malformed": Malformed,
}
NAMES = {cls: kind for kind, cls in KINDS.items()}


def name_of(action: Action) -> str:
    """The action's kind, as the record shows it."""
    return action.shape if isinstance(action, Malformed) else NAMES[type(action)]


def parse_action(given: object) -> Action | None:
    """An action from a table, from its bare kind, or `None` from `"ok"`. Raises `ConfigError`."""
    if given is None or isinstance(given, tuple(NAMES)):
        return given
    if isinstance(given, str):
        return None if given == "ok" else read_kind(KINDS, {"kind": given})
    return read_kind(KINDS, as_table(given, '"ok", the kind of a fault, or a table { kind = ... }'))


def _actions(given: object) -> tuple[Action | None, ...]:
    return read_list(given, parse_action, "a list of actions")


@attrs.frozen
class Chance:
    """An action that befalls a share of the requests."""

    action: Action
    probability: float = setting(kind=float, low=0.0, high=1.0)


@attrs.frozen
class Script:
    """An action for each request in turn; `None` for a plain answer."""

    script: tuple[Action | None, ...] = attrs.field(converter=below("script", _actions))


Source = Chance | Script


def parse_source(given: object) -> Source:
    """A source from `{ script = [...] }` or `{ probability = 0.1, kind = ..., ... }`. Raises `ConfigError`."""
    if isinstance(given, Chance | Script):
        return given
    table = as_table(given, "a table with `script`, or with `probability` and `kind`")
    if "script" in table:
        return structure(Script, table)
    faults: list[Fault] = []
    actions: list[Action] = []
    probability: object = table.get("probability")
    if not isinstance(probability, int | float) or isinstance(probability, bool) or not 0.0 <= probability <= 1.0:
        faults.append(Fault("probability", shown(probability) if "probability" in table else "missing", "a number from 0 to 1"))
    with gathered(faults):
        actions.append(read_kind(KINDS, {key: value for key, value in table.items() if key != "probability"}))
    if faults:
        raise ConfigError(faults)
    return Chance(actions[0], cast("float", probability))


def parse_sources(given: object) -> tuple[Source, ...]:
    """The `faults` of a mock. Raises `ConfigError` with every fault."""
    return read_list(given, parse_source, "a list of tables")


@attrs.define(eq=False)
class Faults:
    """Which action befalls the next request; the only state is how far each script has come."""

    sources: tuple[Source, ...]
    rng: random.Random
    _places: dict[int, int] = attrs.field(init=False, factory=dict[int, int])

    def draw(self) -> Action | None:
        """The action for the next request."""
        for number, source in enumerate(self.sources):
            if isinstance(source, Chance):
                if self.rng.random() < source.probability:
                    return source.action
                continue
            place = self._places.get(number, 0)
            if place < len(source.script):
                self._places[number] = place + 1
                if (action := source.script[place]) is not None:
                    return action
        return None
