"""Where events go: structlog where the application configured it, else the standard `logging` under `balancer`.

structlog unconfigured prints every event to stdout, at 24 us each. The library never configures structlog itself.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import structlog

_standard = logging.getLogger("balancer")
_configured: Any = structlog.get_logger("balancer")


def debugs() -> bool:
    """Whether anybody may listen to `debug`: asked on the way of every call, where making the event would cost more."""
    return structlog.is_configured() or _standard.isEnabledFor(logging.DEBUG)


def debug(event: str, **data: object) -> None:
    """An event of one attempt."""
    _emit(logging.DEBUG, "debug", event, data)


def info(event: str, **data: object) -> None:
    """A transition."""
    _emit(logging.INFO, "info", event, data)


def warning(event: str, **data: object) -> None:
    """Something an operator has to look at."""
    _emit(logging.WARNING, "warning", event, data)


def error(event: str, *, failure: BaseException, **data: object) -> None:
    """A failure of ours, with its traceback."""
    with contextlib.suppress(Exception):
        if structlog.is_configured():
            _configured.error(event, exc_info=failure, **data)
        else:
            _standard.error("%s %s", event, _pairs(data), exc_info=failure)


def _emit(level: int, method: str, event: str, data: dict[str, object]) -> None:
    with contextlib.suppress(Exception):  # processors and handlers are the application's: theirs must not end a call
        if structlog.is_configured():
            getattr(_configured, method)(event, **data)
        elif _standard.isEnabledFor(level):
            _standard.log(level, "%s %s", event, _pairs(data))


def _pairs(data: dict[str, object]) -> str:
    return " ".join(f"{key}={value!r}" for key, value in data.items())
