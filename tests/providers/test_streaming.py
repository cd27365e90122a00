"""Streams of events in each dialect: the same result from every slicing, and never finished without the end mark."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.call import Usage
from balancer.providers.dialect import dialect_of
from balancer.providers.reading import EVENT_CAP

CHAT = dialect_of("POST", "/chat/completions")
RESPONSES = dialect_of("POST", "/responses")
MESSAGES = dialect_of("POST", "/messages")


def data(document, name=None):
    text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
    return (f"event: {name}\n" if name else "") + f"data: {text}\n\n"


def named(document):
    return data(document, document["type"])


def chunk(text, **more):
    return data({"object": "chat.completion.chunk", "choices": [{"delta": {"content": text}}], **more})


CHAT_STREAM = (
    ": OPENROUTER PROCESSING\n\n"
    + chunk("caf\u00e9 \u65e5\u672c", usage=None)
    + chunk('he said "usage" and [DONE] and message_stop')
    + data(
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 1}}}
    )
    + data("[DONE]")
)
RESPONSES_STREAM = (
    named({"type": "response.created", "response": {"id": "r", "error": None, "usage": None}})
    + named({"type": "response.output_text.delta", "delta": "say response.completed"})
    + named({"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": 12}}})
)
MESSAGES_STREAM = (
    named({"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_creation_input_tokens": 4,
        "cache_read_input_tokens": 70, "output_tokens": 1}}})
    + named({"type": "ping"})
    + named({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "message_stop"}})
    + named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}})
    + named({"type": "message_stop"})
)  # fmt: skip
STREAMS = [
    (CHAT, CHAT_STREAM, Usage(9, 12, cached_tokens=1)),
    (RESPONSES, RESPONSES_STREAM, Usage(9, 12)),
    (MESSAGES, MESSAGES_STREAM, Usage(79, 12, cached_tokens=70)),
]


def state(reader):
    return reader.finished, reader.usage, reader.error, reader.first_event


def read(dialect, slices, *, end=True):
    reader = dialect.reader(True)
    for piece in slices:
        reader.feed(piece)
    if end:
        reader.end()
    return state(reader)


@pytest.mark.parametrize(("dialect", "text", "usage"), STREAMS)
def test_a_whole_stream(dialect, text, usage):
    """The end mark finishes it at once, with the usage it reported."""
    assert read(dialect, [text.encode()], end=False) == (True, usage, None, True)


@pytest.mark.parametrize(("dialect", "text", "usage"), STREAMS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_fixed_slices_and_line_ends(dialect, text, usage, newline, size):
    """Every line end of the standard, a byte order mark, and characters cut in two make no difference."""
    body = b"\xef\xbb\xbf" + text.replace("\n", newline).encode()
    slices = [body[start : start + size] for start in range(0, len(body), size)]
    assert read(dialect, slices) == (True, usage, None, True)


PIECES = st.sampled_from(
    [
        b"data: [DONE]", b"data:", b"data: ", b"event: error", b"event: ping", b"event: message_stop", b":", b"\n", b"\r", b"\n\n",
        b"\r\n", b"\r\r", b'{"error":{"code":"x"}}', b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}', b'{"type":"ping"}',
        b'{"type":"message_stop"}', b'{"type":"message_start","message":{"usage":{"input_tokens":2}}}', b"\xef\xbb\xbf", b"\xff", b"x",
        b'data: {"choices":[]}\n\n', b"data: {\ndata: }\n\n",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 200), max_size=8))
def test_any_slicing_gives_the_same(body, cuts):
    """The state depends on the bytes alone, before the end and after it."""
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    slices = [body[left:right] for left, right in itertools.pairwise(edges)]
    for dialect in (CHAT, RESPONSES, MESSAGES):
        for end in (False, True):
            whole = read(dialect, [body], end=end)
            assert read(dialect, slices, end=end) == whole
            assert read(dialect, [body[place : place + 1] for place in range(len(body))], end=end) == whole


@pytest.mark.parametrize(("dialect", "text", "usage"), STREAMS)
def test_every_cut_is_unfinished(dialect, text, usage):
    """A stream cut anywhere before the last byte of its end mark is not complete."""
    body = text.encode()
    whole = len(body.rstrip(b"\n"))
    for cut in range(whole):
        assert not read(dialect, [body[:cut]])[0], cut
    assert read(dialect, [body[:whole]]) == (True, usage, None, True)


ERRORS = [
    (CHAT, data({"error": {"message": "x", "code": "server_error"}})),
    (CHAT, data({"error": {"code": 502}, "choices": [{"finish_reason": "error"}]})),
    (CHAT, data({"object": "error", "message": "x"})),
    (CHAT, data("broken", "error")),
    (RESPONSES, named({"type": "error", "code": "server_error", "message": "x"})),
    (RESPONSES, named({"type": "response.failed", "response": {"error": {"code": "server_error"}}})),
    (MESSAGES, named({"type": "error", "error": {"type": "overloaded_error"}})),
]


@pytest.mark.parametrize(("dialect", "text"), ERRORS)
@pytest.mark.parametrize("before", ["", ": ping\n\n", data({"type": "x"})])
def test_errors_in_the_stream(dialect, text, before):
    """An error event is handed out as it came, at the start of a stream or in its middle."""
    finished, _, error, first_event = read(dialect, [(before + text).encode()], end=False)
    assert error == text.partition("data: ")[2].strip().encode()
    assert first_event
    assert finished == ("response.failed" in text)


def test_an_incomplete_response_is_finished():
    """`response.incomplete` is an end mark like the other two."""
    text = named({"type": "response.incomplete", "response": {"usage": {"input_tokens": 1, "output_tokens": 2}}})
    assert read(RESPONSES, [text.encode()], end=False) == (True, Usage(1, 2), None, True)


def test_heartbeats_decide_nothing():
    """Comments, pings and empty events are no first event."""
    reader = MESSAGES.reader(True)
    reader.feed(b': keep-alive\n\nevent: ping\ndata: {"type": "ping"}\n\ndata: {"type": "ping"}\n\ndata:\n\n\n\n')
    assert not reader.first_event
    reader.feed(b'data: {"type":"message_start"}\n')
    assert not reader.first_event
    reader.feed(b"\n")
    assert reader.first_event


def test_half_of_the_usage_is_none():
    """A message that broke off before its last count has not said what it took."""
    start = MESSAGES_STREAM.partition("event: message_delta")[0]
    assert read(MESSAGES, [start.encode()]) == (False, None, None, True)


@pytest.mark.parametrize("size", [EVENT_CAP * 3, 65_536, 100_001])
def test_a_huge_line_passes_and_what_follows_is_read(size):
    """A line beyond the cap is not kept, nor understood, and the events after it are."""
    body = b"data: " + b"x" * (EVENT_CAP * 2) + b"\r\n\r\n" + CHAT_STREAM.encode()
    reader = CHAT.reader(True)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
        assert len(reader._tail) <= EVENT_CAP
        assert reader.first_event == (start + size > EVENT_CAP)
    assert state(reader) == (True, Usage(9, 12, cached_tokens=1), None, True)


def test_a_huge_last_event_that_is_cut_does_not():
    """Where the rest of a line was not kept, only its end proves that it is whole."""
    body = data({"type": "response.completed", "response": {"output": "x" * (EVENT_CAP + 1)}}, "response.completed").encode()
    assert read(RESPONSES, [body[:-10]]) == (False, None, None, True)


@pytest.mark.parametrize("name", ["response.completed", None])
def test_a_huge_last_event_still_ends_the_stream(name):
    """An end mark is told from the event's name, or from the beginning of its line."""
    body = data({"type": "response.completed", "response": {"output": "x" * (EVENT_CAP + 1)}}, name).encode()
    for size in (len(body), 65_536):
        assert read(RESPONSES, [body[at : at + size] for at in range(0, len(body), size)], end=False) == (
            True,
            None,
            None,
            True,
        )


def test_an_event_of_many_lines_is_bounded():
    """Lines of one event count together against the cap."""
    reader = CHAT.reader(True)
    for _ in range(40):
        reader.feed(b"data: " + b"x" * 60_000 + b"\n")
        assert sum(map(len, reader._data)) <= EVENT_CAP
    reader.feed(b"\n" + CHAT_STREAM.encode())
    assert reader.finished
