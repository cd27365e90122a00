"""Forms that the settings of a mock share: tables that name their kind, lists, and faults that know where they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from balancer.core.setting import shown
from balancer.errors import ConfigError, Fault
from balancer.structuring import gathered, items_of, kind_of, structure, table_of

T = TypeVar("T")


def as_table(given: object, allowed: str) -> Mapping[object, Any]:
    """`given` as a mapping. Raises `ConfigError`."""
    if not isinstance(given, Mapping):
        raise ConfigError([Fault("", kind_of(given), allowed)])
    return table_of(cast("object", given))


def below(path: str, parse: Callable[[Any], T]) -> Callable[[Any], T]:
    """A converter whose faults carry `path`."""

    def convert(given: Any) -> T:
        try:
            return parse(given)
        except ConfigError as error:
            raise ConfigError(fault.below(path) for fault in error.faults) from None

    return convert


def read_kind(kinds: Mapping[str, type[T]], table: Mapping[object, Any]) -> T:
    """An instance of the class that the table's `kind` names. Raises `ConfigError` with every fault."""
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        given = shown(kind) if "kind" in table else "missing"
        raise ConfigError([Fault("kind", given, "one of " + ", ".join(f'"{name}"' for name in kinds))])
    return structure(kinds[kind], {key: value for key, value in table.items() if key != "kind"})


def read_list(given: object, parse: Callable[[Any], T], allowed: str) -> tuple[T, ...]:
    """Each item of a list through `parse`. Raises `ConfigError` with the faults of all of them."""
    if not isinstance(given, list | tuple):
        raise ConfigError([Fault("", kind_of(given), allowed)])
    items: list[T] = []
    faults: list[Fault] = []
    for place, item in enumerate(items_of(cast("object", given))):
        with gathered(faults, f"[{place}]"):
            items.append(parse(item))
    if faults:
        raise ConfigError(faults)
    return tuple(items)
