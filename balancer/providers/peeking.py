"""A look into a request's body without building it: the model, whether it streams, and what it will take from a quota.

Only the fields that are named here are decoded; texts are measured where they stand, by the length of their JSON. So a
character outside ASCII counts as its bytes, which is nearer to its tokens than one character would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
import msgspec
from msgspec import Raw, Struct

from balancer.core.call import Demand
from balancer.core.estimating import CHARACTERS_PER_TOKEN

MEDIA_TOKENS = 1_000
"""Tokens of one image, sound or file, whatever its length: between the 85 to 1,105 of one vendor's images and 1,600 of
another's largest. Its base64 text would count for a hundred times as much."""

MESSAGE_TOKENS = 4
"""Tokens that wrap each message (role and separators)."""

OUTPUT_TOKENS = 1_000
"""Tokens reserved for an answer that has no bound of its own: more than most chat answers have; never nothing."""

LARGEST = 100_000_000
"""Tokens of the largest demand: above every context there is, so that no absurd bound overflows a ledger."""

DEEPEST = 4
"""Levels of content within content (a tool's result that holds parts); below that, nothing is looked into."""


@attrs.define  # not frozen: one is made for every call, and that takes three times as long
class Peek:
    """What a request's body says.

    Args:
        model: the model asked for, if it names one.
        stream: whether the answer is to be streamed.
        demand: what it is expected to take.
    """

    model: str | None
    stream: bool
    demand: Demand


ABSENT = Raw()


class _Part(Struct, gc=False):
    """One message, content part or input item, with every field that may hold text."""

    text: Raw = ABSENT
    content: Raw = ABSENT
    tool_calls: Raw = ABSENT
    function_call: Raw = ABSENT
    input: Raw = ABSENT
    arguments: Raw = ABSENT
    output: Raw = ABSENT
    thinking: Raw = ABSENT
    refusal: Raw = ABSENT
    source: Raw = ABSENT


class _Source(Struct, gc=False):
    type: str = ""
    data: Raw = ABSENT
    content: Raw = ABSENT


class _Chat(Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    messages: list[_Part | str] = []
    tools: Raw = ABSENT
    functions: Raw = ABSENT
    response_format: Raw = ABSENT
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: int | None = None


class _Responses(Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    input: Raw = ABSENT
    instructions: Raw = ABSENT
    tools: Raw = ABSENT
    text: Raw = ABSENT
    max_output_tokens: int | None = None


class _Embeddings(Struct, gc=False):
    model: str | None = None
    input: Raw = ABSENT


class _Messages(Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    system: Raw = ABSENT
    messages: list[_Part | str] = []
    tools: Raw = ABSENT
    max_tokens: int | None = None


_PARTS = msgspec.json.Decoder(list[_Part | str])
_PART = msgspec.json.Decoder(_Part)
_SOURCE = msgspec.json.Decoder(_Source)
_CHAT = msgspec.json.Decoder(_Chat)
_RESPONSES = msgspec.json.Decoder(_Responses)
_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)
_MESSAGES = msgspec.json.Decoder(_Messages)
_FIELDS = msgspec.json.Decoder(dict[str, Raw])

_QUOTE, _BRACKET, _BRACE, _NULL = b'"[{n'
MEDIA_SIZE = MEDIA_TOKENS * CHARACTERS_PER_TOKEN

S = TypeVar("S", bound=Struct)


def peek_chat(body: bytes) -> Peek | None:
    """A look into a chat completion request; `None` if the body is no JSON object."""
    seen = _decoded(_CHAT, _Chat, body)
    if seen is None:
        return None
    bound, times = _bound(seen.max_completion_tokens or seen.max_tokens), 1
    if seen.n is not None and seen.n > 1:
        times = min(seen.n, 128)
    size = _parts_size(seen.messages, 0) + _lengths(seen.tools, seen.functions, seen.response_format)
    return Peek(seen.model, seen.stream is True, _demand(size, bound, times))


def peek_responses(body: bytes) -> Peek | None:
    """A look into a Responses request; `None` if the body is no JSON object."""
    seen = _decoded(_RESPONSES, _Responses, body)
    if seen is None:
        return None
    size = _size(seen.input) + _lengths(seen.instructions, seen.tools, seen.text)
    return Peek(seen.model, seen.stream is True, _demand(size, _bound(seen.max_output_tokens)))


def peek_embeddings(body: bytes) -> Peek | None:
    """A look into an embeddings request; `None` if the body is no JSON object. Its input may be tokens already."""
    seen = _decoded(_EMBEDDINGS, _Embeddings, body)
    if seen is None:
        return None
    given = bytes(seen.input)
    if given[:1] == b"[" and b'"' not in given:
        tokens = min(given.count(b",") + 1, LARGEST)
    else:
        tokens = _tokens(len(given) - 2)
    return Peek(seen.model, stream=False, demand=Demand(tokens))


def peek_messages(body: bytes) -> Peek | None:
    """A look into an Anthropic messages request; `None` if the body is no JSON object."""
    seen = _decoded(_MESSAGES, _Messages, body)
    if seen is None:
        return None
    size = _size(seen.system) + _parts_size(seen.messages, 0) + _length(seen.tools)
    return Peek(seen.model, seen.stream is True, _demand(size, _bound(seen.max_tokens)))


def replace_model(body: bytes, model: str) -> bytes:
    """`body` with another model and everything else as it was, in its order. What is no JSON object stays as it is: the
    backend will refuse it in its own words."""
    try:
        fields = _FIELDS.decode(body)
        fields["model"] = Raw(msgspec.json.encode(model))
        return msgspec.json.encode(fields)
    except (ValueError, RecursionError):
        return body


def _decoded(decoder: msgspec.json.Decoder[S], kind: type[S], body: bytes) -> S | None:
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError):
        pass
    try:  # a field of the wrong type is the backend's to refuse; the others still count
        raw = _FIELDS.decode(body)
    except (ValueError, RecursionError):
        return None
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in raw:
            try:
                fields[field.name] = msgspec.json.decode(raw[field.name], type=field.type)
            except (ValueError, RecursionError):
                continue
    return kind(**fields)


def _size(raw: Raw, depth: int = 0) -> int:
    """Bytes of text in a content: a text, a part, or a list of parts; what is no text counts as one medium."""
    if raw is ABSENT:
        return 0
    view = memoryview(raw)
    first = view[0]
    if first == _QUOTE:
        return len(view) - 2
    if first not in (_BRACKET, _BRACE):
        return 0
    if depth >= DEEPEST:
        return MEDIA_SIZE
    try:
        parts = _PARTS.decode(view) if first == _BRACKET else [_PART.decode(view)]
    except (ValueError, RecursionError):
        return MEDIA_SIZE
    return _parts_size(parts, depth)


def _parts_size(parts: Sequence[_Part | str], depth: int) -> int:
    size = 0 if depth else len(parts) * MESSAGE_TOKENS * CHARACTERS_PER_TOKEN
    for part in parts:
        size += len(part) if isinstance(part, str) else _part_size(part, depth)
    return size


def _part_size(part: _Part, depth: int) -> int:
    if part.content is not ABSENT:
        return _size(part.content, depth + 1) + _lengths(part.tool_calls, part.function_call)
    if part.text is not ABSENT:
        return _length(part.text)
    if part.output is not ABSENT:
        return _size(part.output, depth + 1)
    rest = _lengths(part.tool_calls, part.function_call, part.input, part.arguments, part.thinking, part.refusal)
    return rest or _source_size(part.source) or MEDIA_SIZE


def _source_size(raw: Raw) -> int:
    """Bytes of a document's source where it is text; 0 where it is base64, an address or a file."""
    if raw is ABSENT:
        return 0
    try:
        source = _SOURCE.decode(raw)
    except (ValueError, RecursionError):
        return 0
    return _length(source.data) if source.type == "text" else _size(source.content, DEEPEST - 1)


def _length(raw: Raw) -> int:
    """Bytes of a value's JSON, without the quotes of a text; 0 for `null` and nothing."""
    if raw is ABSENT:
        return 0
    view = memoryview(raw)
    return len(view) - 2 if view[0] == _QUOTE else 0 if view[0] == _NULL else len(view)


def _lengths(*raws: Raw) -> int:
    """Their lengths together; most are absent."""
    size = 0
    for raw in raws:
        if raw is not ABSENT:
            size += _length(raw)
    return size


def _tokens(size: int) -> int:
    tokens = -(-size // CHARACTERS_PER_TOKEN) or 1
    return min(tokens, LARGEST)


def _bound(given: int | None) -> int | None:
    return None if given is None or given <= 0 else min(given, LARGEST)


def _demand(size: int, bound: int | None, times: int = 1) -> Demand:
    """What a request of this size takes that wants so many answers, each with this bound."""
    if bound is None:
        return Demand(_tokens(size), OUTPUT_TOKENS * times)
    output = min(bound * times, LARGEST)
    return Demand(_tokens(size), output, 1, 0, output)
