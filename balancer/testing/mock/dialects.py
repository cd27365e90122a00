"""What a model's request asks and what its answer looks like, in each dialect. Pure: bytes in, bytes out.

The answer is filler text, one word to a token, so that `usage` and what arrived can be compared.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, cast

import attrs
import msgspec

from balancer.core.call import Demand
from balancer.testing.mock.signals import Family

Dialect = Literal["chat", "responses", "embeddings", "images", "messages", "plain"]

_PATHS: tuple[tuple[str, Dialect], ...] = (
    ("/chat/completions", "chat"),
    ("/responses", "responses"),
    ("/embeddings", "embeddings"),
    ("/images/generations", "images"),
    ("/messages", "messages"),
)
_BOUNDS = {"chat": ("max_completion_tokens", "max_tokens"), "responses": ("max_output_tokens",), "messages": ("max_tokens",)}
_PROMPTS = ("messages", "input", "prompt", "system", "instructions")
_WORDS = ("one", "call", "waits", "while", "another", "account", "sits", "idle")
_CREATED = 1_790_000_000
_MOST_IMAGES = 1000
_IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
"""One pixel, as PNG."""
_CHARACTERS_PER_TOKEN = 4
encode = msgspec.json.Encoder().encode


class BadRequest(Exception):
    """A request that no model would take: answered with status 400."""


@attrs.frozen
class Asked:
    """What one request asks.

    Attributes:
        produced: output tokens of a complete answer.
        reserved: output tokens counted at arrival: what the request allows.
        complete: whether the answer ends by itself and not at the request's bound.
        inputs: texts to embed.
        images: images to make.
    """

    dialect: Dialect
    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    input_tokens: int = 0
    produced: int = 0
    reserved: int = 0
    complete: bool = True
    inputs: int = 1
    images: int = 0

    @property
    def demand(self) -> Demand:
        """What limits may count: what the answer will have, and the most that the request permits."""
        return Demand(self.input_tokens, self.produced, images=self.images, max_output_tokens=self.reserved)


def dialect_of(method: str, path: str) -> Dialect:
    """The dialect that a path speaks."""
    if method == "POST":
        for ending, dialect in _PATHS:
            if path.endswith(ending):
                return dialect
    return "plain"


def family_of(dialect: Dialect, speaks: Family) -> Family:
    """Whose error bodies a dialect has; a plain path has the backend's own."""
    return speaks if dialect == "plain" else "anthropic" if dialect == "messages" else "openai"


def read_request(dialect: Dialect, body: bytes, output_tokens: int) -> Asked:
    """What a request asks of a model that would produce `output_tokens`. Raises `BadRequest`, and nothing else."""
    if dialect == "plain":
        return Asked(dialect)
    try:
        decoded: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.") from None
    if not isinstance(decoded, dict):
        raise BadRequest("The body of your request is no object.")
    request = cast("dict[str, Any]", decoded)
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("You must provide a model parameter.")
    bound = _bound(dialect, request)
    speechless = dialect in ("embeddings", "images")
    options = request.get("stream_options")
    produced = 0 if speechless else output_tokens if bound is None else min(bound, output_tokens)
    texts = request.get("input")
    return Asked(
        dialect=dialect,
        model=model,
        stream=request.get("stream") is True and not speechless,
        include_usage=isinstance(options, dict) and cast("dict[str, Any]", options).get("include_usage") is True,
        input_tokens=-(-_characters([request.get(name) for name in _PROMPTS]) // _CHARACTERS_PER_TOKEN),
        produced=produced,
        reserved=produced if bound is None or speechless else bound,
        complete=bound is None or bound >= output_tokens,
        inputs=len(cast("list[Any]", texts)) if isinstance(texts, list) else 1,
        images=_images(request) if dialect == "images" else 0,
    )


def _images(request: dict[str, Any]) -> int:
    count = request.get("n")
    if count is None:
        return 1
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_IMAGES:
        raise BadRequest(f"n: a whole number from 1 to {_MOST_IMAGES} is expected.")
    return count


def _bound(dialect: Dialect, request: dict[str, Any]) -> int | None:
    for name in _BOUNDS.get(dialect, ()):
        if (bound := request.get(name)) is not None:
            if not isinstance(bound, int) or isinstance(bound, bool) or not 1 <= bound <= 10**9:
                raise BadRequest(f"{name}: a whole number from 1 is expected.")
            return bound
    if dialect == "messages":
        raise BadRequest("max_tokens: Field required")
    return None


def _characters(prompt: object) -> int:
    """Characters of text in a prompt of whatever shape; images and the like count nothing."""
    total = 0
    pending: list[object] = [prompt]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, int):
            total += _CHARACTERS_PER_TOKEN  # an input given as token ids
        elif isinstance(item, list):
            pending += cast("list[object]", item)
        elif isinstance(item, dict):
            table = cast("dict[str, object]", item)
            pending += [table[name] for name in ("content", "text") if name in table]
    return total


def words(count: int) -> list[str]:
    """`count` tokens of filler; all but the first begin with their space."""
    filled = [" " + word for word in itertools.islice(itertools.cycle(_WORDS), count)]
    return [filled[0].lstrip(), *filled[1:]] if filled else []


def usage(asked: Asked) -> dict[str, Any]:
    """What a complete answer reports to have taken."""
    given, made = asked.input_tokens, asked.produced
    match asked.dialect:
        case "messages":
            return {
                "input_tokens": given,
                "output_tokens": made,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            }
        case "responses":
            return {
                "input_tokens": given,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": made,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": given + made,
            }
        case "embeddings":
            return {"prompt_tokens": given, "total_tokens": given}
        case _:
            return {
                "prompt_tokens": given,
                "completion_tokens": made,
                "total_tokens": given + made,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            }


def message(asked: Asked, number: int, text: str | None) -> dict[str, Any]:
    """Anthropic's message; `text` is `None` at the beginning of a stream."""
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": None if text is None else stop_reason(asked),
        "stop_sequence": None,
        "usage": usage(asked) if text is not None else {**usage(asked), "output_tokens": 1},
    }


def stop_reason(asked: Asked) -> str:
    """Why Anthropic's message ends."""
    return "end_turn" if asked.complete else "max_tokens"


def item(number: int, text: str | None) -> dict[str, Any]:
    """The one output item of the responses dialect; `text` is `None` while it is being made."""
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "content": [] if text is None else [part(text)],
    }


def part(text: str) -> dict[str, Any]:
    """The one content part of the responses dialect."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response(asked: Asked, number: int, text: str | None) -> dict[str, Any]:
    """The response object of the responses dialect; `text` is `None` at the beginning of a stream."""
    state = "in_progress" if text is None else "completed" if asked.complete else "incomplete"
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": _CREATED,
        "status": state,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if state == "incomplete" else None,
        "instructions": None,
        "model": asked.model,
        "output": [] if text is None else [item(number, text)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None if text is None else usage(asked),
    }


def finish_reason(asked: Asked) -> str:
    """Why a chat completion ends."""
    return "stop" if asked.complete else "length"


def whole_answer(asked: Asked, number: int) -> bytes:
    """The body of an answer that is not streamed."""
    text = "".join(words(asked.produced))
    match asked.dialect:
        case "messages":
            return encode(message(asked, number, text))
        case "responses":
            return encode(response(asked, number, text))
        case "embeddings":
            vectors = [
                {"object": "embedding", "index": index, "embedding": [0.5, -0.5, 0.5, -0.5]} for index in range(asked.inputs)
            ]
            return encode({"object": "list", "data": vectors, "model": asked.model, "usage": usage(asked)})
        case "images":
            return encode({"created": _CREATED, "data": [{"b64_json": _IMAGE}] * asked.images})
        case "plain":
            return encode({"ok": True, "number": number})
        case "chat":
            content = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": content, "logprobs": None, "finish_reason": finish_reason(asked)}
            return encode({**completion(asked, number, "chat.completion", [choice]), "usage": usage(asked)})


def completion(asked: Asked, number: int, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The object of the chat dialect, whole or a chunk, without its usage."""
    return {"id": f"chatcmpl-{number}", "object": kind, "created": _CREATED, "model": asked.model, "choices": choices}
