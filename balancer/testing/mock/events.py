"""Streamed answers as lists of server-sent events, with each dialect's event names and end mark. Pure."""

from __future__ import annotations

from typing import Any

import attrs

from balancer.testing.mock import dialects
from balancer.testing.mock.dialects import Asked, encode, words
from balancer.testing.mock.signals import error_body


@attrs.frozen
class Streamed:
    """A whole stream.

    Attributes:
        events: each as its bytes.
        first: which event carries the first token.
        tokens: how many events carry one each.
    """

    events: tuple[bytes, ...]
    first: int
    tokens: int

    def produced(self, sent: int) -> int:
        """Tokens in the first `sent` events."""
        return min(max(sent - self.first, 0), self.tokens)


def _named(event: dict[str, Any]) -> bytes:
    return b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"


def _data(event: dict[str, Any]) -> bytes:
    return b"data: " + encode(event) + b"\n\n"


def stream(asked: Asked, number: int) -> Streamed:
    """The events of a streamed answer."""
    match asked.dialect:
        case "messages":
            return _messages(asked, number)
        case "responses":
            return _responses(asked, number)
        case _:
            return _chat(asked, number)


def error_event(asked: Asked, sent: int, status: int, code: str | None) -> bytes:
    """An error inside a stream, after `sent` events."""
    match asked.dialect:
        case "messages":
            return _named(error_body("anthropic", status, code=code))
        case "responses":
            error = error_body("openai", status, code=code)["error"]
            fields = {"code": error["code"], "message": error["message"], "param": None}
            return _named({"type": "error", **fields, "sequence_number": sent})
        case _:
            return _data(error_body("openai", status, code=code))


def _chat(asked: Asked, number: int) -> Streamed:
    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        completion = dialects.completion(asked, number, "chat.completion.chunk", [choice])
        if asked.include_usage:
            completion["usage"] = None
        return _data(completion)

    events = [chunk({"role": "assistant", "content": "", "refusal": None})]
    events += [chunk({"content": word}) for word in words(asked.produced)]
    events.append(chunk({}, dialects.finish_reason(asked)))
    if asked.include_usage:
        completion = dialects.completion(asked, number, "chat.completion.chunk", [])
        events.append(_data({**completion, "usage": dialects.usage(asked)}))
    events.append(b"data: [DONE]\n\n")
    return Streamed(tuple(events), first=1, tokens=asked.produced)


def _responses(asked: Asked, number: int) -> Streamed:
    text = words(asked.produced)
    whole = "".join(text)
    place: dict[str, Any] = {"output_index": 0, "content_index": 0, "item_id": f"msg_{number}"}
    begun = dialects.response(asked, number, None)
    ended = dialects.response(asked, number, whole)
    last = "response.completed" if asked.complete else "response.incomplete"
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": dialects.item(number, None)},
        {"type": "response.content_part.added", **place, "part": dialects.part("")},
    ]
    first = len(events)
    events += [{"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in text]
    events += [
        {"type": "response.output_text.done", **place, "text": whole, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": dialects.part(whole)},
        {"type": "response.output_item.done", "output_index": 0, "item": dialects.item(number, whole)},
        {"type": last, "response": ended},
    ]
    numbered = tuple(_named({**event, "sequence_number": place}) for place, event in enumerate(events))
    return Streamed(numbered, first=first, tokens=asked.produced)


def _messages(asked: Asked, number: int) -> Streamed:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": dialects.message(asked, number, None)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]
    first = len(events)
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
        for word in words(asked.produced)
    ]
    events += [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": dialects.stop_reason(asked), "stop_sequence": None},
            "usage": {"output_tokens": asked.produced},
        },
        {"type": "message_stop"},
    ]
    return Streamed(tuple(_named(event) for event in events), first=first, tokens=asked.produced)
