"""What an exception of an attempt says: evidence about the account, or nothing (then it is the caller's own)."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, cast

import httpx
import trio

from balancer.core.outcome import AttemptFailed, Evidence, Faulted, Outcome, TimedOut, Withdrawn
from balancer.providers.provider import Provider
from balancer.providers.values import Headers


def evidence_of(error: Exception, provider: Provider, now: float) -> Evidence | None:
    """Evidence from an exception that an attempt raised; `None` if it says nothing about the backend.

    In this order: `AttemptFailed` says it outright; an exception with a `.response` is classified by the provider; transport
    errors of httpx and httpx2, `OSError` of the network and `trio.TooSlowError` are failures of the backend; where an SDK has put
    an `APIConnectionError` of its own in the place of one, that one speaks. What only this machine lacked is nobody's fault.
    """
    if isinstance(error, AttemptFailed):
        return Evidence(error.outcome, error.usage, error.limits)
    if (evidence := _of_response(_look(error, "response"), provider, now)) is not None:
        return evidence
    outcome = _of_transport_error(_beneath(error))
    return None if outcome is None else Evidence(outcome)


def is_local(error: BaseException) -> bool:
    """Whether this machine had no file, port or memory for it, as what it was raised from says: nobody else's fault."""
    return _is_local(error, _DEEPEST)


def _is_local(error: BaseException, depth: int) -> bool:
    if isinstance(error, OSError) and error.errno in _LACKING:
        return True
    group = cast("BaseExceptionGroup[BaseException]", error).exceptions if isinstance(error, BaseExceptionGroup) else ()
    beneath = group if error.__cause__ is None else (*group, error.__cause__)
    return depth > 0 and any(_is_local(each, depth - 1) for each in beneath)


def _beneath(error: BaseException) -> BaseException:
    """The error itself; of an SDK's connection error what it was raised from. An application's own errors stay its own decision,
    so it is told by its name, which all SDKs of that make have in common, those of OpenAI and Anthropic among them."""
    for _ in range(_DEEPEST):
        if error.__cause__ is None or not any(kind.__name__ == "APIConnectionError" for kind in type(error).__mro__):
            break
        error = error.__cause__
    return error


def _of_response(response: Any, provider: Provider, now: float) -> Evidence | None:
    status = _look(response, "status_code")
    if isinstance(status, bool) or not isinstance(status, int):
        return None
    headers = Headers(_raw_headers(_look(response, "headers")))
    return provider.evidence(status, headers, _body(response), now)


def _raw_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    raw = _look(headers, "raw")
    if raw is None and isinstance(headers, Mapping):
        raw = tuple(cast("Mapping[Any, Any]", headers).items())
    pairs: list[tuple[bytes, bytes]] = []
    for pair in cast("Iterable[Any]", raw) if isinstance(raw, list | tuple) else ():
        match pair:
            case (name, value):
                pairs.append((_bytes(name), _bytes(value)))
            case _:
                continue
    return pairs


def _look(holder: Any, name: str) -> Any:
    """An attribute of what somebody else has made; `None` where it has none or cannot be looked at."""
    try:
        return getattr(holder, name, None)
    except Exception:  # a property may do as it likes; the caller's error must not be replaced by its error
        return None


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")


def _body(response: Any) -> bytes:
    content = _look(response, "content")  # libraries raise their own error for a body that was not read
    return content if isinstance(content, bytes) else b""


_DEEPEST = 4
"""How many causes beneath an error are looked at: httpx has one of httpcore, that one of trio, that a group of one per address."""
_LACKING = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
_OF_FILES = (
    FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, ChildProcessError,
    ProcessLookupError, io.UnsupportedOperation,
)  # fmt: skip
_OF_DISKS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))


def _of_transport_error(error: BaseException) -> Outcome | None:
    for library in _libraries():
        if isinstance(error, library.ConnectTimeout):
            return TimedOut("connect")
        if isinstance(error, library.PoolTimeout):
            return TimedOut("pool")
        if isinstance(error, library.LocalProtocolError | library.UnsupportedProtocol):
            return None  # its own request or URL: no backend has heard of it
        if isinstance(error, library.TimeoutException):
            return TimedOut({library.ReadTimeout: "read", library.WriteTimeout: "write"}.get(type(error), ""))
        if isinstance(error, library.ConnectError):
            return Withdrawn(sent=False) if is_local(error) else Faulted("connect error", sent=False)
        if isinstance(error, library.TransportError):
            return Faulted(type(error).__name__)
    if isinstance(error, trio.TooSlowError | TimeoutError):
        return TimedOut()
    if isinstance(error, ConnectionRefusedError):
        return Faulted("connect error", sent=False)
    if isinstance(error, OSError):
        if isinstance(error, _OF_FILES) or error.errno in _OF_DISKS:
            return None  # no connection raises them
        if is_local(error):
            return Withdrawn(sent=False)
    if isinstance(error, OSError | trio.BrokenResourceError | trio.ClosedResourceError):
        return Faulted(type(error).__name__)
    return None


def _libraries() -> list[ModuleType | Any]:
    """httpx, and httpx2 where the application has imported it: its errors can come from nowhere else."""
    second = sys.modules.get("httpx2")
    return [httpx] if second is None else [httpx, second]
