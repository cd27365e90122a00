"""Answers that are one JSON object: complete or not, their usage, their errors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.call import Usage
from balancer.providers.dialect import PLAIN, dialect_of
from balancer.providers.reading import EVENT_CAP, UNDECIDED

CHAT = dialect_of("POST", "/chat/completions")


def read(body, *, size=None):
    reader = CHAT.reader(False)
    for start in range(0, len(body), size or max(1, len(body))):
        reader.feed(body[start : start + (size or len(body))])
    before = reader.finished, reader.usage, reader.error
    reader.end()
    assert before == (reader.finished, reader.usage, reader.error)
    assert reader.first_event
    return before


def answer(usage, **more):
    return json.dumps({"choices": [], **more, "usage": usage}).encode()


@pytest.mark.parametrize(
    ("usage", "meant"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21, "prompt_tokens_details": {"cached_tokens": 4}},
         Usage(9, 12, cached_tokens=4)),
        ({"input_tokens": 9, "output_tokens": 12, "input_tokens_details": {"cached_tokens": 3}}, Usage(9, 12, cached_tokens=3)),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0)),
        ({"input_tokens": 10, "output_tokens": 2, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100},
         Usage(115, 2, cached_tokens=100)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "cache_read_input_tokens": 4, "prompt_tokens_details": {"cached_tokens": 4}},
         Usage(10, 2, cached_tokens=4)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 400}},
         Usage(10, 2, cached_tokens=10)),
        ({"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": -4}, None),
        ({"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 10**9}, None),
        (None, None),
        ({}, None),
        ([], None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": 10**20}, None),
        ({"prompt_tokens": "9"}, None),
    ],
)  # fmt: skip
def test_usage(usage, meant):
    """All tokens of the prompt count: cached ones are in OpenAI's number and beside Anthropic's. Nonsense is absent."""
    assert read(answer(usage)) == (True, meant, None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"x","code":"server_error"}}',
        b'{"error":"x"}',
        b'{"type":"error","error":{"type":"overloaded_error"}}',
        b'{"object":"error","message":"x"}',
        b'{"id":"resp","status":"failed","error":{"code":"server_error"}}',
    ],
)
def test_error_objects(body):
    """A 200 that is an error object is told as such."""
    finished, _, error = read(body)
    assert finished
    assert error == body


def test_no_error_is_no_error():
    """A null error is what a good answer of the Responses API has."""
    assert read(b'{"id":"resp","error":null}') == (True, None, None)


@pytest.mark.parametrize("body", [b"", b" ", b"<html></html>", b"[1]", b'"x"', b"}", b"{}}", b"\xff}", b"[" * 100_000 + b"}"])
def test_what_is_no_object_is_not_finished(body):
    """HTML, nothing, or half of something is not an answer."""
    assert read(body) == (False, None, None)


def test_every_cut_is_unfinished():
    """However an object is cut, it is not complete; white space after it does not matter."""
    body = answer({"prompt_tokens": 1, "completion_tokens": 2})
    for cut in range(len(body)):
        assert not read(body[:cut])[0]
    assert read(body + b"\r\n ")[0]


@given(st.integers(1, 40))
def test_any_slicing_gives_the_same(size):
    """Slices do not matter."""
    body = answer({"prompt_tokens": 1, "completion_tokens": 2}, id="caf\u00e9")
    assert read(body, size=size) == (True, Usage(1, 2), None)


def test_a_body_beyond_the_cap_keeps_its_tail_only():
    """A long body is not held, and its usage still found at its end."""
    body = b'{"data":[' + b"0.123456," * (EVENT_CAP // 4) + b'0],"usage":{"prompt_tokens":5,"d":{"x":1},"total_tokens":5}}'
    reader = CHAT.reader(False)
    for start in range(0, len(body), 60_000):
        reader.feed(body[start : start + 60_000])
        assert len(reader._kept) <= EVENT_CAP + 60_000
    assert (reader.finished, reader.usage, reader.error) == (True, Usage(5, 0), None)
    cut = CHAT.reader(False)
    cut.feed(body[:-1] + b" ")
    assert cut.finished


def test_the_commit_point_waits_for_what_may_be_an_error():
    """Half an object decides nothing, unless it is longer than any error."""
    reader = CHAT.reader(False)
    reader.feed(b'{"error":')
    assert not reader.first_event
    reader.feed(b"{}}")
    assert reader.first_event
    long = CHAT.reader(False)
    long.feed(b"{" + b" " * UNDECIDED)
    assert long.first_event


def test_plain_http_has_no_end_mark():
    """A plain body is finished when it ends, and says nothing."""
    reader = PLAIN.reader(True)
    reader.feed(b"x")
    reader.end()
    assert (reader.finished, reader.usage, reader.error, reader.first_event) == (True, None, None, True)
