"""A dialect: how one API writes a request, its answer and its errors; told from the path of the request alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
import msgspec

from balancer.providers.peeking import (
    Peek,
    peek_chat,
    peek_embeddings,
    peek_messages,
    peek_responses,
    replace_model,
)
from balancer.providers.reading import BodyReader, JsonReader, PlainReader
from balancer.providers.streaming import EventReader


class Dialect(Protocol):
    """One API's way of writing."""

    @property
    def name(self) -> str:
        """As accounts name what they speak."""
        ...

    @property
    def error_type(self) -> bytes:
        """The content type of `error_body`."""
        ...

    def peek(self, body: bytes) -> Peek | None:
        """What a request's body says; `None` if it is no JSON object and so passes as plain HTTP. It never raises."""
        ...

    def replace_model(self, body: bytes, model: str) -> bytes:
        """`body` with another model and nothing else changed."""
        ...

    def reader(self, streamed: bool) -> BodyReader:
        """A watcher of one answer's body."""
        ...

    def error_body(self, status: int, kind: str, message: str) -> bytes:
        """An error answer of our own; `kind` is one of `"rate_limited"`, `"overloaded"`, `"unavailable"`,
        `"timeout"`, `"unknown_model"`."""
        ...


_OPENAI_ERRORS: Mapping[str, tuple[str, str]] = {
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "overloaded": ("service_unavailable_error", "server_is_overloaded"),
    "unavailable": ("server_error", "server_error"),
    "timeout": ("server_error", "timeout"),
    "unknown_model": ("invalid_request_error", "model_not_found"),
}
_ANTHROPIC_ERRORS: Mapping[str, str] = {
    "rate_limited": "rate_limit_error",
    "overloaded": "overloaded_error",
    "unavailable": "api_error",
    "timeout": "timeout_error",
    "unknown_model": "not_found_error",
}
_TITLES: Mapping[str, str] = {
    "rate_limited": "Too Many Requests",
    "overloaded": "Overloaded",
    "unavailable": "Service Unavailable",
    "timeout": "Timeout",
    "unknown_model": "Not Found",
}


def _openai_error(status: int, kind: str, message: str) -> bytes:
    del status  # stands in the status line
    error_type, code = _OPENAI_ERRORS[kind]
    return msgspec.json.encode({"error": {"message": message, "type": error_type, "param": None, "code": code}})


def _anthropic_error(status: int, kind: str, message: str) -> bytes:
    del status
    return msgspec.json.encode({"type": "error", "error": {"type": _ANTHROPIC_ERRORS[kind], "message": message}})


@attrs.frozen
class JsonDialect:
    """A dialect of JSON requests, and of JSON or event streams as answers.

    Args:
        name: as accounts name it.
        path: of its one resource, below the mount.
        ends: types of the events that end a stream.
    """

    name: str
    path: str
    ends: tuple[bytes, ...]
    _peek: Callable[[bytes], Peek | None]
    _error: Callable[[int, str, str], bytes]
    error_type: bytes = b"application/json"

    def peek(self, body: bytes) -> Peek | None:
        """What a request's body says; `None` if it is no JSON object."""
        return self._peek(body)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """`body` with another model and nothing else changed."""
        return replace_model(body, model)

    def reader(self, streamed: bool) -> BodyReader:
        """A watcher of one answer's body."""
        return EventReader(self.ends) if streamed else JsonReader()

    def error_body(self, status: int, kind: str, message: str) -> bytes:
        """An error answer that the dialect's SDK turns into its own error."""
        return self._error(status, kind, message)


@attrs.frozen
class PlainDialect:
    """Plain HTTP: nothing is read, nothing is changed, and errors are problem documents."""

    name: str = "plain"
    error_type: bytes = b"application/problem+json"

    def peek(self, body: bytes) -> Peek | None:
        """Nothing: the body is the application's."""
        del body
        return None

    def replace_model(self, body: bytes, model: str) -> bytes:
        """`body` as it is: there is no model in it."""
        del model
        return body

    def reader(self, streamed: bool) -> BodyReader:
        """A watcher that sees nothing."""
        del streamed
        return _PLAIN_READER

    def error_body(self, status: int, kind: str, message: str) -> bytes:
        """A problem document."""
        return msgspec.json.encode({"type": "about:blank", "title": _TITLES[kind], "status": status, "detail": message})


_PLAIN_READER = PlainReader()

PLAIN: Dialect = PlainDialect()
"""For every path that no dialect has."""

_RESPONSE_ENDS = (b"response.completed", b"response.incomplete", b"response.failed")

_BY_PATH: Mapping[str, Dialect] = {
    dialect.path: dialect
    for dialect in (
        JsonDialect("openai.chat", "/chat/completions", (), peek_chat, _openai_error),
        JsonDialect("openai.responses", "/responses", _RESPONSE_ENDS, peek_responses, _openai_error),
        JsonDialect("openai.embeddings", "/embeddings", (), peek_embeddings, _openai_error),
        JsonDialect("anthropic.messages", "/messages", (b"message_stop",), peek_messages, _anthropic_error),
    )
}


def dialect_of(method: str, path: str) -> Dialect | None:
    """The dialect of a request to `path` below the mount, without its query; `None` for plain HTTP."""
    return _BY_PATH.get(path) if method == "POST" else None
