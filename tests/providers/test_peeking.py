"""What a look into a request's body finds, and that no body makes it raise."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.call import Demand
from balancer.providers.dialect import PLAIN, dialect_of
from balancer.providers.peeking import CHARACTERS_PER_TOKEN, MEDIA_TOKENS, MESSAGE_TOKENS, OUTPUT_TOKENS, Peek

CHAT = dialect_of("POST", "/chat/completions")
RESPONSES = dialect_of("POST", "/responses")
EMBEDDINGS = dialect_of("POST", "/embeddings")
MESSAGES = dialect_of("POST", "/messages")
DIALECTS = (CHAT, RESPONSES, EMBEDDINGS, MESSAGES)
BASE64 = "QUJD" * 100_000


def peek(dialect, indent=None, **fields):
    return dialect.peek(json.dumps(fields, indent=indent).encode())


def user(content):
    return [{"role": "user", "content": content}]


def test_a_chat_request():
    """Model, stream flag, output bound and the size of the messages come out, however the JSON is spaced."""
    for indent in (None, 2):
        seen = peek(
            CHAT,
            indent,
            model="m",
            messages=user("x" * 400),
            stream=True,
            max_tokens=50,
        )
        assert seen == Peek("m", True, Demand(100 + MESSAGE_TOKENS, 50, max_output_tokens=50))


@pytest.mark.parametrize(
    ("dialect", "fields", "tokens"),
    [
        (CHAT, {}, OUTPUT_TOKENS),
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 9}, 9),
        (CHAT, {"max_tokens": 7, "n": 3}, 21),
        (CHAT, {"max_tokens": 0}, OUTPUT_TOKENS),
        (CHAT, {"max_tokens": -5}, OUTPUT_TOKENS),
        (CHAT, {"max_tokens": "many"}, OUTPUT_TOKENS),
        (CHAT, {"max_tokens": 10**30}, 100_000_000),
        (RESPONSES, {"max_output_tokens": 8}, 8),
        (RESPONSES, {}, OUTPUT_TOKENS),
        (MESSAGES, {"max_tokens": 6}, 6),
        (EMBEDDINGS, {"max_tokens": 6}, 0),
    ],
)
def test_the_output_bound(dialect, fields, tokens):
    """The stated bound, else a default above nothing; embeddings have no output."""
    assert peek(dialect, **fields).demand.output_tokens == tokens


MEDIA = [
    (CHAT, {"messages": user([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + BASE64}}])}),
    (CHAT, {"messages": user([{"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}}])}),
    (CHAT, {"messages": user([{"type": "file", "file": {"file_data": BASE64}}])}),
    (MESSAGES, {"messages": user([{"type": "image", "source": {"type": "base64", "data": BASE64}}])}),
    (MESSAGES, {"messages": user([{"type": "document", "source": {"type": "base64", "data": BASE64}}])}),
    (MESSAGES, {"messages": user([{"type": "tool_result", "tool_use_id": "t",
        "content": [{"type": "image", "source": {"type": "base64", "data": BASE64}}]}])}),
    (RESPONSES, {"input": user([{"type": "input_image", "image_url": "data:image/png;base64," + BASE64}])}),
    (RESPONSES, {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": BASE64}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fields"), MEDIA)
def test_media_count_a_fixed_number(dialect, fields):
    """An image, a sound or a file counts the same whatever its length."""
    assert peek(dialect, **fields).demand.input_tokens == MEDIA_TOKENS + MESSAGE_TOKENS


TEXT = "t" * 4000
TEXTS = [
    (CHAT, {"messages": user([{"type": "text", "text": TEXT}])}),
    (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": TEXT}}]}]}),
    (CHAT, {"messages": user(""), "tools": [{"type": "function", "function": {"description": TEXT}}]}),
    (CHAT, {"messages": user(""), "response_format": {"type": "json_schema", "json_schema": {"description": TEXT}}}),
    (RESPONSES, {"input": TEXT}),
    (RESPONSES, {"input": user([{"type": "input_text", "text": TEXT}])}),
    (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": TEXT}]}),
    (RESPONSES, {"input": [{"type": "function_call", "name": "f", "arguments": TEXT}]}),
    (RESPONSES, {"input": "", "instructions": TEXT}),
    (MESSAGES, {"system": TEXT}),
    (MESSAGES, {"system": [{"type": "text", "text": TEXT}]}),
    (MESSAGES, {"messages": user([{"type": "tool_use", "id": "t", "name": "f", "input": {"a": TEXT}}])}),
    (MESSAGES, {"messages": user([{"type": "tool_result", "tool_use_id": "t", "content": TEXT}])}),
    (MESSAGES, {"messages": user([{"type": "document", "source": {"type": "text", "data": TEXT}}])}),
    (MESSAGES, {"messages": user([{"type": "thinking", "thinking": TEXT}])}),
    (EMBEDDINGS, {"input": TEXT}),
    (EMBEDDINGS, {"input": [TEXT[:2000], TEXT[:2000]]}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fields"), TEXTS)
def test_text_is_counted_wherever_it_stands(dialect, fields):
    """Messages, parts, tool calls and results, system texts, tools and schemas all count as text."""
    tokens = peek(dialect, **fields).demand.input_tokens
    assert len(TEXT) / CHARACTERS_PER_TOKEN <= tokens <= len(TEXT) / CHARACTERS_PER_TOKEN + 30


@pytest.mark.parametrize(("given", "tokens"), [([1, 2, 3], 3), ([[1, 2], [3, 4]], 4), ("", 1), (None, 1)])
def test_embeddings_of_tokens_are_counted(given, tokens):
    """An input that is tokens already is counted, not measured."""
    assert peek(EMBEDDINGS, model="m", input=given).demand == Demand(tokens)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"x"', b"null", b"{", b"\xff", b'{"a":1}x', b"<html>", b'{"a":' + b"[" * 100_000]
)
def test_what_is_no_json_object_is_plain(dialect, body):
    """A body that is not a JSON object passes as plain HTTP, and its model is nobody's to replace."""
    assert dialect.peek(body) is None
    assert dialect.replace_model(body, "m") == body


def test_wrong_types_leave_the_other_fields():
    """One field of the wrong type does not hide the others."""
    seen = peek(CHAT, model="m", stream="yes", messages=[1, {"content": "x"}], max_tokens=5, stream_options=3)
    assert seen == Peek("m", False, Demand(1, 5, max_output_tokens=5))
    assert peek(CHAT, model=3, stream=True).model is None


NAMES = ["model", "stream", "stream_options", "messages", "content", "text", "type", "source", "data", "input", "output", "system", "n",
         "tools", "max_tokens", "max_completion_tokens", "max_output_tokens", "role", "tool_calls", "include_usage"]  # fmt: skip
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6))
def test_any_object_is_looked_into(fields):
    """Whatever stands in the fields, a look ends in an estimate above nothing, and a new model changes nothing else."""
    body = json.dumps(fields).encode()
    for dialect in DIALECTS:
        seen = dialect.peek(body)
        if seen is None:  # NaN, Infinity and lone surrogates are no JSON
            continue
        assert seen.demand.input_tokens > 0
        assert (seen.demand.output_tokens > 0) == (dialect is not EMBEDDINGS)
    if CHAT.peek(body) is not None and "NaN" not in (text := CHAT.replace_model(body, "new").decode()):
        assert json.loads(text) == {**fields, "model": "new"} or text.encode() == body


@given(st.binary(max_size=60))
def test_any_bytes_are_looked_into(body):
    """No body makes a look raise."""
    for dialect in DIALECTS:
        dialect.peek(body)
        dialect.replace_model(body, "m")


def test_replace_model_changes_only_the_model():
    """Order, numbers and spelling of everything else stay as they were."""
    body = b'{"temperature":1.000,"model":"gpt-4o","big":12345678901234567890123,"a":"\\u00e9","messages":[ {"content":"x"} ]}'
    assert CHAT.replace_model(body, 'a"b') == body.replace(b'"gpt-4o"', b'"a\\"b"')
    assert PLAIN.replace_model(body, "x") == body


def test_plain_http_has_no_peek():
    """A path without a dialect is not looked into."""
    assert PLAIN.peek(b"{}") is None
