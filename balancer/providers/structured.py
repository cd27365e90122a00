"""Structured fields (RFC 9651), as far as limit fields need them: lists and dictionaries of items with parameters, strictly.

Hostile bytes in; items or `ValueInvalid` out, nothing else. What the RFC lets a reader refuse is refused: a field is read
whole or not at all. Inner lists have no place in any field that is read here and are refused with it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping

import attrs

from balancer.providers.values import ValueInvalid

LONGEST_FIELD = 4096
"""Bytes of the longest field, all of its lines together; meant ones have a few hundred."""

MOST_MEMBERS = 32
"""Members of a list or dictionary; meant ones have a handful."""

MOST_PARAMETERS = 16
"""Parameters of one item; meant ones have four."""

Bare = int | float | str | bytes | bool | None
"""A value without its parameters. Strings and Tokens are both text, Byte Sequences are bytes; `None` stands for a type that no
field here uses (Date, Display String), so that such a parameter can be passed over."""


@attrs.frozen
class Item:
    """A value and its parameters."""

    value: Bare
    parameters: Mapping[str, Bare]


_BARE = re.compile(
    rb"""(?P<decimal>-?[0-9]{1,12}\.[0-9]{1,3})(?![0-9.])
    | (?P<integer>-?[0-9]{1,15})(?![0-9.])
    | "(?P<string>(?:[ !#-\[\]-~]|\\["\\])*)"
    | (?P<token>[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*)
    | :(?P<bytes>(?:[A-Za-z0-9+/]+={0,2})?):
    | \?(?P<boolean>[01])
    | (?P<other>@-?[0-9]{1,15}(?![0-9.])|%"(?:[ !#$&-~]|%[0-9a-f]{2})*")""",
    re.VERBOSE,
)
_KEY = re.compile(rb"[a-z*][a-z0-9_\-.*]*")
_ESCAPED = re.compile(rb"\\(.)")
_SPACES = re.compile(rb" *")
_COMMA = re.compile(rb"[ \t]*,[ \t]*")


def parse_list(field: bytes) -> tuple[Item, ...]:
    """The items of a List. Raises `ValueInvalid`."""
    items: list[Item] = []
    field, at = _begin(field)
    while at < len(field):
        item, at = _item(field, at)
        items.append(item)
        at = _next_member(field, at, len(items))
    return tuple(items)


def parse_dictionary(field: bytes) -> Mapping[str, Item]:
    """The members of a Dictionary; of two with one key the last. Raises `ValueInvalid`."""
    members: dict[str, Item] = {}
    field, at = _begin(field)
    read = 0
    while at < len(field):
        key, at = _key(field, at)
        if field[at : at + 1] == b"=":
            members[key], at = _item(field, at + 1)
        else:
            parameters, at = _parameters(field, at)
            members[key] = Item(True, parameters)
        read += 1
        at = _next_member(field, at, read)
    return members


def _begin(field: bytes) -> tuple[bytes, int]:
    if len(field) > LONGEST_FIELD:
        raise ValueInvalid("too long")
    return field.strip(b" "), 0


def _next_member(field: bytes, at: int, read: int) -> int:
    """Where the next member begins; the field's length after the last one."""
    if at == len(field):
        return at
    comma = _COMMA.match(field, at)
    if comma is None or comma.end() == len(field):
        raise ValueInvalid("no member where one must be")
    if read >= MOST_MEMBERS:
        raise ValueInvalid("too many members")
    return comma.end()


def _item(field: bytes, at: int) -> tuple[Item, int]:
    value, at = _bare(field, at)
    parameters, at = _parameters(field, at)
    return Item(value, parameters), at


def _parameters(field: bytes, at: int) -> tuple[Mapping[str, Bare], int]:
    parameters: dict[str, Bare] = {}
    read = 0
    while field[at : at + 1] == b";":
        if read == MOST_PARAMETERS:
            raise ValueInvalid("too many parameters")
        spaces = _SPACES.match(field, at + 1)
        assert spaces is not None, "it matches anywhere"
        key, at = _key(field, spaces.end())
        parameters[key] = True
        if field[at : at + 1] == b"=":
            parameters[key], at = _bare(field, at + 1)
        read += 1
    return parameters, at


def _key(field: bytes, at: int) -> tuple[str, int]:
    match = _KEY.match(field, at)
    if match is None:
        raise ValueInvalid("no key where one must be")
    return match[0].decode("ascii"), match.end()


def _bare(field: bytes, at: int) -> tuple[Bare, int]:
    match = _BARE.match(field, at)
    if match is None:
        raise ValueInvalid("no value where one must be")
    end = match.end()
    kind = match.lastgroup
    assert kind is not None, "every alternative has a name"
    text = match[kind]
    match kind:
        case "integer":
            return int(text), end
        case "decimal":
            return float(text), end
        case "string":
            return _ESCAPED.sub(rb"\1", text).decode("ascii"), end
        case "token":
            return text.decode("ascii"), end
        case "bytes":
            return _bytes(text), end
        case "boolean":
            return text == b"1", end
        case _:
            return None, end


def _bytes(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4))
    except ValueError:
        raise ValueInvalid("no base64") from None
