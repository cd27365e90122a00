"""What a mock backend reads from a request, whatever its bytes."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.testing.mock.dialects import Asked, BadRequest, dialect_of, read_request, whole_answer, words
from balancer.testing.mock.events import stream

LONG = {"role": "user", "content": "x" * 400}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/responses", "responses"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/messages", "messages"),
        ("/v1/models", "plain"),
    ],
)
def test_the_path_decides_the_dialect(path: str, dialect: str) -> None:
    """A POST to a known path speaks its dialect; everything else is plain."""
    assert dialect_of("POST", path) == dialect
    assert dialect_of("GET", path) == "plain"


@pytest.mark.parametrize(
    ("dialect", "body", "expected"),
    [
        ("chat", {"messages": [LONG]}, (100, 16, 16, True)),
        ("chat", {"messages": [LONG], "max_tokens": 5}, (100, 5, 5, False)),
        ("chat", {"messages": [LONG], "max_completion_tokens": 500}, (100, 16, 500, True)),
        ("responses", {"input": "x" * 41, "max_output_tokens": 20}, (11, 16, 20, True)),
        ("messages", {"system": "x" * 4, "messages": [LONG], "max_tokens": 16}, (101, 16, 16, True)),
        ("messages", {"messages": [{"content": [{"type": "text", "text": "x" * 8}, {"source": "x" * 99}]}], "max_tokens": 9},
         (2, 9, 9, False)),
        ("embeddings", {"input": ["abcd", "efgh"]}, (2, 0, 0, True)),
        ("embeddings", {"input": [1, 2, 3]}, (3, 0, 0, True)),
    ],
)  # fmt: skip
def test_prompt_and_bound_are_read(dialect: str, body: dict[str, object], expected: tuple[int, int, int, bool]) -> None:
    """Text counts a token for four characters; what is reserved is what the request allows."""
    asked = read_request(dialect, msgspec.json.encode({"model": "m", **body}), 16)
    assert (asked.input_tokens, asked.produced, asked.reserved, asked.complete) == expected


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"{}", b'{"model": 3}', b'{"model": "m", "max_tokens": -1}']
)
def test_nonsense_is_a_bad_request(body: bytes) -> None:
    """A body that asks nothing is refused with its own error."""
    with pytest.raises(BadRequest):
        read_request("messages", body, 16)


@given(
    st.binary(max_size=80)
    | st.from_regex(rb'\{"model":"m","(messages|input|max_tokens|stream_options)":[\[\]{}"a0-9:,]{0,9}\}')
)
def test_nothing_but_bad_request_leaves_the_reader(body: bytes) -> None:
    """Whatever arrives is read or refused."""
    with suppress(BadRequest):
        assert isinstance(read_request("chat", body, 16), Asked)


@given(st.integers(0, 30), st.sampled_from(["chat", "responses", "messages"]))
def test_an_answer_has_as_many_tokens_as_it_reports(count: int, dialect: str) -> None:
    """Words, stream events and usage agree."""
    asked = Asked(dialect, "m", produced=count)  # type: ignore[arg-type]
    assert len("".join(words(count)).split()) == count
    streamed = stream(asked, 1)
    assert streamed.produced(len(streamed.events)) == count
    assert streamed.produced(streamed.first) == 0
    assert isinstance(msgspec.json.decode(whole_answer(asked, 1)), dict)
