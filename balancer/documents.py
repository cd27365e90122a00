"""The files of a configuration, hostile until read: the TOML document and the files and variables that hold keys.

Everything is bounded, and what is wrong is a `ConfigError` that says where and shows no content.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from balancer.core.secret import Secret
from balancer.core.setting import each, shown
from balancer.errors import ConfigError, Fault
from balancer.structuring import VARIABLE, items_of, step

MAX_FILE = 1 << 20
MAX_KEY = 1 << 14
MAX_DEPTH = 32


def read_key(key_env: object, key_file: object, environ: Mapping[str, str]) -> Secret | tuple[Secret, ...] | None:
    """The key that a variable or a file holds, or those that several hold. What names neither is a fault of the field, told
    elsewhere: `None`."""
    field, given = ("key_file", key_file) if key_env is None else ("key_env", key_env)

    def read(one: object) -> Secret | None:
        return _from_variable(one, environ) if field == "key_env" else _from_file(one)

    try:
        if not isinstance(given, list | tuple):
            return read(given)
        return tuple(key for key in each(items_of(cast("object", given)), read) if key is not None) or None
    except ConfigError as error:
        raise ConfigError(fault.below(field) for fault in error.faults) from None


def _from_variable(name: object, environ: Mapping[str, str]) -> Secret | None:
    if isinstance(name, str) and VARIABLE.fullmatch(name):
        return _key_of(environ.get(name), f"the variable {name}", "is not set")
    return None


def _from_file(name: object) -> Secret | None:
    if isinstance(name, str) and name:
        text, problem = _text_of(name)
        return _key_of(text, f"the file {shown(name)}", problem)
    return None


def _key_of(text: str | None, source: str, problem: str) -> Secret:
    """The key in a text, white space around it is no part of it; without a text, `problem` says why there is none."""
    text = None if text is None else text.strip()
    if text == "":
        problem = "is empty"
    elif text is not None and not (len(text) <= MAX_KEY and text.isascii() and text.isprintable()):
        problem = "holds a line break, another character that cannot be sent, or too much"
    elif text is not None:
        return Secret(text)
    raise ConfigError([Fault("", f"{source} {problem}", "one that holds the key alone")])


def _text_of(key_file: str) -> tuple[str | None, str]:
    try:
        with Path(key_file).open("rb") as file:
            return file.read(2 * MAX_KEY).decode("utf-8", "replace"), ""
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    except ValueError:
        return None, "has a name that no file may have"


@attrs.define(eq=False)
class ReadOnce:
    """The path of a file whose text is kept once it has been read: a pipe gives it a single time. It goes where any path does."""

    path: str | os.PathLike[str]
    _data: bytes | None = attrs.field(init=False, default=None)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return os.fspath(self.path)

    def read(self) -> bytes:
        """Its beginning: as much as a configuration may be long, and a byte more. Raises `OSError`."""
        if self._data is None:
            with Path(self.path).open("rb") as file:
                self._data = file.read(MAX_FILE + 1)
        return self._data


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document in a file. Raises `ConfigError`, for a slip of syntax with its line."""
    name = os.fspath(path)
    try:
        data = (path if isinstance(path, ReadOnce) else ReadOnce(path)).read()
        if len(data) > MAX_FILE:
            raise ConfigError([Fault("", f"{name} is too long", f"a file of at most {MAX_FILE} bytes")])
        return tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        problem, allowed = error.strerror or "cannot be read", "a file that can be read"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem, allowed = f"not UTF-8 (at line {line})", "TOML in UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem, allowed = str(error), "TOML"
    except ValueError:
        problem, allowed = "a file name or a number that is none", "TOML"
    except RecursionError:
        problem, allowed = "nested too deeply", f"at most {MAX_DEPTH} levels"
    raise ConfigError([Fault("", f"{name}: {problem}", allowed)])


_NAMED_DEPTH = 3  # document, list of tables, table


def oversized(value: object, path: str, depth: int = 0) -> Iterator[Fault]:
    """What no settings object should have to look at: Python itself fails to print such numbers, or to walk such depths."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield Fault(path, "a whole number beyond 64 bits", "a smaller one")
    elif isinstance(value, Mapping | list | tuple) and depth > MAX_DEPTH:
        yield Fault(path, "nested too deeply", f"at most {MAX_DEPTH} levels")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            below = step(key) if depth < _NAMED_DEPTH else "..."  # deeper down a key may be anything, a credential too
            yield from oversized(item, path + below if below[0] == "[" or not path else f"{path}.{below}", depth + 1)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(items_of(cast("object", value))):
            yield from oversized(item, f"{path}[{place}]", depth + 1)
