"""Fields of settings classes: one declaration gives default, range and the validator's clear error.

A setting made in code is checked by the attrs validator made here; one read from a file by the strict hooks of
`balancer.config`, which read the same `Range` from the field's metadata. Nothing is coerced: `True` is no number, `"3"` is
no integer, `nan` is nowhere allowed.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs

from balancer.errors import ConfigError, Fault

RANGE = "balancer.range"

V = TypeVar("V")

_MOST_FLOAT = sys.float_info.max
"""Whole numbers beyond it overflow the first float they meet."""


@attrs.frozen
class Range:
    """What a setting may hold.

    Attributes:
        kind: `float` (integers are taken too), `int`, `bool` or `str`.
        low, high: bounds, both allowed themselves unless `above` is set.
        above: whether `low` itself is refused.
        choices: for strings, the allowed ones; empty for any.
        optional: whether `None` is allowed.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def allowed(self) -> str:
        """The range in words, for an error text."""
        if self.choices:
            return "one of " + ", ".join(f'"{choice}"' for choice in self.choices)
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[self.kind]
        if self.low > -math.inf:
            words += f" above {self.low:g}" if self.above else f" from {self.low:g}"
        if self.high < math.inf:
            words += f" to {self.high:g}" if self.low > -math.inf else f" up to {self.high:g}"
        return words

    def admits(self, value: object) -> bool:
        """Whether `value` is of this kind and inside the bounds."""
        if value is None:
            return self.optional
        if self.kind is bool or self.kind is str:
            return isinstance(value, self.kind) and (not self.choices or value in self.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float) if self.kind is float else int):
            return False
        inside = self.low < value if self.above else self.low <= value
        return inside and value <= self.high and (self.kind is int or isinstance(value, float) or abs(value) <= _MOST_FLOAT)


_LIKE_A_KEY = re.compile(
    r"\s*(?:bearer\s|(?:sk|rk|gsk|hf|r8|xai|pplx|nvapi|fw|csk)[-_](?=.{12})|AIza|AKIA)", re.IGNORECASE | re.DOTALL
)
"""How the keys of providers begin."""


def looks_like_key(value: object) -> bool:
    """Whether a text that stands where something else belongs may be a provider's key: no error tells those."""
    return isinstance(value, str) and _LIKE_A_KEY.match(value) is not None


def shown(value: object) -> str:
    """A value in an error text: short, and typed so that `"3"` and `3` look different; of a text that may be a key, that it is."""
    if looks_like_key(value):
        return "a text that looks like a key"
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits has none, a class may have a broken one
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def check_range(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """The validator of a field with a `Range`. Raises `ConfigError` naming the field."""
    allowed: Range = attribute.metadata[RANGE]
    if not allowed.admits(value):
        # Of a table or list only the kind is said: a key may lie inside.
        given = (
            shown(value) if value is None or isinstance(value, str | int | float) else f"a value of type {type(value).__name__}"
        )
        raise ConfigError([Fault(attribute.name, given, allowed.allowed)])


def setting(
    default: Any = attrs.NOTHING,
    *,
    kind: type,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    choices: Sequence[str] = (),
    optional: bool = False,
) -> Any:
    """An attrs field with a `Range` in its metadata and a validator that raises `ConfigError` naming the field.

    Type checkers take every such field for one with a default. A required one is better written out:
    `attrs.field(validator=check_range, metadata={RANGE: ...})`.
    """
    allowed = Range(kind, low, high, above, tuple(choices), optional)
    return attrs.field(default=default, validator=check_range, metadata={RANGE: allowed})


def each(given: Iterable[object], parse: Callable[[object], V]) -> tuple[V, ...]:
    """Every item parsed. Raises `ConfigError` with every fault, each at its item's place."""
    values: list[V] = []
    faults: list[Fault] = []
    for place, item in enumerate(given):
        try:
            values.append(parse(item))
        except ConfigError as error:
            faults += [fault.below(f"[{place}]") for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return tuple(values)
