"""What request headers say of a call: `x-balancer-priority` and `x-balancer-tenant`, for callers that cannot set extensions.

They are for the balancer alone: like every header that begins so they are not sent on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from balancer.core.tenants import MOST_NAME
from balancer.transports.rewriting import BadHeader

PRIORITY, TENANT = b"x-balancer-priority", b"x-balancer-tenant"
MOST_PRIORITY = 100

_LENGTHS = frozenset((len(PRIORITY), len(TENANT)))
_PRIORITY = re.compile(rb"[+-]?[0-9]{1,3}")


def marks_of(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, int | str]:
    """`priority` and `tenant` as the headers give them, if they do.

    Raises:
        BadHeader: a value that is not allowed, or two of them. The text never quotes it.
    """
    marks: dict[str, int | str] = {}
    for name, value in headers:
        if len(name) in _LENGTHS:  # nearly no header is: this is looked at for every call
            lower = name.lower()
            if lower == PRIORITY:
                _mark(marks, "priority", _priority(value.strip(b" \t")))
            elif lower == TENANT:
                _mark(marks, "tenant", _tenant(value.strip(b" \t")))
    return marks


def _mark(marks: dict[str, int | str], name: str, value: int | str) -> None:
    if name in marks:
        raise BadHeader(f"x-balancer-{name}: given twice; allowed: once")
    marks[name] = value


def _priority(value: bytes) -> int:
    if _PRIORITY.fullmatch(value) and abs(priority := int(value)) <= MOST_PRIORITY:
        return priority
    raise BadHeader(f"x-balancer-priority: not allowed; allowed: a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}")


def _tenant(value: bytes) -> str:
    try:
        tenant = value.decode("utf-8")
    except UnicodeDecodeError:
        tenant = "\0"
    if tenant.isprintable() and len(tenant) <= MOST_NAME:
        return tenant
    raise BadHeader(f"x-balancer-tenant: not allowed; allowed: at most {MOST_NAME} printable characters")
