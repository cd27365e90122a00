"""Mock backends on real sockets: answers, limits, keys, and a record that tests can judge by."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio

from balancer.testing.mock import MockBackend, MockSettings, fingerprint, open_mock, open_mocks, serve

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there, you"}]}


@asynccontextmanager
async def open_pair(**settings: object) -> AsyncGenerator[tuple[MockBackend, httpx.AsyncClient]]:
    """A backend and a client that talks to it."""
    async with (
        open_mock(MockSettings.parse(settings)) as backend,
        httpx.AsyncClient(base_url=backend.base_url, trust_env=False, headers={"authorization": "Bearer key-a"}) as client,
    ):
        yield backend, client


def data_of(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


async def test_chat_is_answered_with_usage() -> None:
    """A chat completion has as many tokens as its usage says, and says why it ended."""
    async with open_pair(output_tokens=5) as (_, client):
        answer = (await client.post("/chat/completions", json=CHAT)).json()
        assert answer["usage"]["prompt_tokens"] == 4
        assert answer["usage"]["completion_tokens"] == len(answer["choices"][0]["message"]["content"].split()) == 5
        assert answer["choices"][0]["finish_reason"] == "stop"
        short = (await client.post("/chat/completions", json={**CHAT, "max_tokens": 2})).json()
        assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (2, "length")


@pytest.mark.parametrize("interval", [0.0, 0.001])
async def test_chat_stream_has_its_end_mark_and_usage_only_if_asked(interval: float) -> None:
    """A stream ends with `[DONE]`; usage comes in one more chunk with `include_usage` only."""
    async with open_pair(output_tokens=4, token_interval=interval) as (_, client):
        plain = data_of((await client.post("/chat/completions", json={**CHAT, "stream": True})).text)
        asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        with_usage = data_of((await client.post("/chat/completions", json=asked)).text)
        assert plain[-1] == with_usage[-1] == "[DONE]"
        assert not any("usage" in json.loads(chunk) for chunk in plain[:-1])
        last = json.loads(with_usage[-2])
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)


async def test_other_paths_answer_small_json() -> None:
    """Any method on any other path gets a little JSON; a HEAD gets its head."""
    async with open_pair() as (backend, client):
        answers = [await client.request(method, "/things?key=secret&page=2") for method in ("GET", "PUT", "HEAD")]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert answers[0].json()["ok"] is True
        assert answers[2].content == b""
        assert backend.record[0].query == [("key", "***"), ("page", "2")]
        assert backend.record[0].path == "/v1/things"


async def test_connections_are_kept() -> None:
    """Requests in turn share a connection; requests at once get one each."""
    async with open_pair(latency=0.02) as (backend, client):
        for _ in range(2):
            await client.post("/chat/completions", json=CHAT)
        assert {entry.connection for entry in backend.record} == {1}
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(partial(client.post, "/chat/completions", json=CHAT))
        counts = backend.counts()
        assert (counts.connections, counts.served, counts.in_flight, counts.most_in_flight) == (5, 7, 0, 5)


async def test_requests_beyond_the_limit_are_refused_for_as_long_as_it_says() -> None:
    """Five per half second: the sixth is told when to come, and is served then; the body names the dimension."""
    limits = {"requests": {"amount": 5, "per": 0.5}, "window": "sliding"}
    async with open_pair(limits=limits) as (backend, client):
        answers = [await client.post("/chat/completions", json=CHAT) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["4", "3", "2", "1", "0", "0"]
        refused = answers[-1]
        assert refused.json()["error"]["type"] == "requests"
        wait_for = int(refused.headers["retry-after-ms"]) / 1000
        assert 0 < wait_for <= 0.5
        assert refused.headers["retry-after"] == "1"
        await trio.sleep(wait_for)
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
        counts = backend.counts()
        assert (counts.received, counts.served, counts.refused) == (7, 6, 1)


async def test_tokens_are_counted_at_arrival_and_corrected() -> None:
    """`max_tokens` is what a request takes at first; what it did not use comes back with its answer."""
    limits = {"tokens_per_minute": 1000}
    async with open_pair(limits=limits, output_tokens=6, latency=0.3) as (backend, client):
        body = {**CHAT, "max_tokens": 900}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.post, "/chat/completions", json=body))
            await trio.sleep(0.1)
            refused = await client.post("/chat/completions", json=body)
        assert refused.json()["error"]["type"] == "tokens"
        served = await client.post("/chat/completions", json=body)
        assert served.status_code == 200
        assert int(served.headers["x-ratelimit-remaining-tokens"]) >= 1000 - 2 * 10
        assert [entry.admitted for entry in backend.record] == [True, False, True]
        assert (backend.record[2].reserved_tokens, backend.record[2].output_tokens) == (904, 6)


async def test_limits_are_per_key_and_strangers_are_turned_away() -> None:
    """Each accepted key has its own ledger; others get the provider's 401 and count nowhere."""
    limits = {"requests_per_minute": 1}
    async with open_pair(limits=limits, keys=["key-a", "key-b"]) as (backend, client):
        headers = [{}, {"authorization": "Bearer key-b"}, {}, {"authorization": "Bearer key-c"}]
        answers = [await client.post("/chat/completions", json=CHAT, headers=each) for each in headers]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 401]
        assert answers[3].json()["error"]["code"] == "invalid_api_key"
        assert [entry.key for entry in backend.record] == [fingerprint(f"key-{x}") for x in "abac"]
        assert backend.counts().rejected == 1


async def test_models_have_limits_of_their_own_and_images_count() -> None:
    """A key's limit for one model refuses that model alone; images are counted by the `n` of their request."""
    limits = {"models": {"gpt-4o": {"requests_per_minute": 1}}, "images_per_minute": 4}
    async with open_pair(limits=limits) as (_, client):
        statuses = [
            (await client.post("/chat/completions", json={**CHAT, "model": model})).status_code
            for model in ("gpt-4o", "gpt-4o", "gpt-4o-mini")
        ]
        assert statuses == [200, 429, 200]
        paint = {"model": "paint", "prompt": "a cat", "n": 3}
        made, refused = [await client.post("/images/generations", json=paint) for _ in range(2)]
        assert [len(image["b64_json"]) > 50 for image in made.json()["data"]] == [True] * 3
        assert "images per min (IPM): Limit 4, Used 3, Requested 3" in refused.json()["error"]["message"]
        assert (await client.post("/images/generations", json={**paint, "n": 0})).status_code == 400


async def test_a_backend_counts_as_the_provider_it_speaks_for() -> None:
    """One that speaks for Anthropic counts output when it is produced, so what a request permits does not matter."""
    limits = {"output_tokens_per_minute": 100}
    async with open_pair(speaks="anthropic", limits=limits, output_tokens=4) as (_, client):
        body = {"model": "claude", "max_tokens": 5000, "messages": [{"role": "user", "content": "Hi"}]}
        assert (await client.post("/messages", json=body)).status_code == 200


async def test_anthropic_speaks_its_own_headers_and_errors() -> None:
    """An Anthropic backend shows instants beside a date, and its 429 has its own shape and whole seconds."""
    limits = {"requests_per_minute": 1, "input_tokens_per_minute": 5000}
    async with open_pair(speaks="anthropic", limits=limits) as (_, client):
        body = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        served, refused = [await client.post("/messages", json=body, headers={"x-api-key": "k"}) for _ in range(2)]
        assert served.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert served.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert served.headers["date"].endswith("GMT")
        assert "x-ratelimit-limit-requests" not in served.headers
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 55 <= int(refused.headers["retry-after"]) <= 60
        missing = await client.post("/messages", json={"model": "claude"})
        assert (missing.status_code, missing.json()["error"]["message"]) == (400, "max_tokens: Field required")


async def test_a_backend_may_keep_its_limits_to_itself() -> None:
    """Without honest headers and waits a refusal is bare."""
    async with open_pair(limits={"requests_per_minute": 1}, headers="none", retry_after=False) as (_, client):
        answers = [await client.post("/chat/completions", json=CHAT) for _ in range(2)]
        assert answers[1].status_code == 429
        assert not [name for answer in answers for name in answer.headers if "ratelimit" in name or "retry" in name]


async def test_the_record_is_json_without_secrets() -> None:
    """`/__record__` gives what was received; no key is in it, nor any header that might carry one."""
    async with open_pair(record_bodies=True) as (backend, client):
        headers = {"x-custom-credential": "canary-1", "x-stainless-lang": "python", "authorization": "Bearer canary-2"}
        await client.post("/chat/completions?api_key=canary-3", json=CHAT, headers=headers)
        answer = await client.get(backend.base_url.removesuffix("/v1") + "/__record__")
        assert answer.content == backend.record_json()
        assert b"canary" not in answer.content
        assert "canary" not in repr(backend) + repr(backend.record)
        (entry,) = answer.json()["received"]
        assert entry["headers"]["x-custom-credential"] == "***"
        assert entry["headers"]["x-stainless-lang"] == "python"
        assert json.loads(entry["body"]) == CHAT
        assert (entry["model"], entry["status"], entry["ended"], entry["admitted"]) == ("gpt-4o", 200, "whole", True)
        assert answer.json()["counts"]["served"] == 1


async def test_the_record_is_bounded_and_the_counts_are_not() -> None:
    """Old entries leave, their counts stay."""
    async with open_pair(record_limit=2) as (backend, client):
        for _ in range(5):
            await client.get("/x")
        assert [entry.number for entry in backend.record] == [4, 5]
        assert backend.counts().served == 5


async def test_a_client_that_leaves_is_noticed_at_once() -> None:
    """A cancelled request ends as gone while it still waits for its answer; its tokens come back."""
    async with open_pair(latency=30, limits={"tokens_per_minute": 1000, "concurrency": 1}) as (backend, client):
        with trio.move_on_after(0.3):
            await client.post("/chat/completions", json={**CHAT, "max_tokens": 900})
        await trio.sleep(0.05)
        (entry,) = backend.record
        assert (entry.ended, entry.status, entry.output_tokens) == ("gone", None, 0)
        counts = backend.counts()
        assert (counts.gone, counts.in_flight) == (1, 0)


# The libraries leave their own generators unfinished when a stream is left early, and trio warns of it.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_a_stream_that_is_left_has_produced_what_was_sent() -> None:
    """Tokens of a stream count as far as it came."""
    async with open_pair(token_interval=0.02, output_tokens=1000) as (backend, client):
        async with client.stream("POST", "/chat/completions", json={**CHAT, "stream": True}) as response:
            async for line in response.aiter_lines():
                if "waits" in line:
                    break
        await trio.sleep(0.05)
        assert backend.record[0].ended == "gone"
        assert 3 <= backend.record[0].output_tokens <= 6


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nhost: " + b"x" * 70_000]
)
async def test_what_is_no_request_gets_an_error_and_the_door(sent: bytes) -> None:
    """A request that cannot be read is answered with its error, and the connection ends."""
    async with open_mock() as backend, await trio.open_tcp_stream(backend.address.host, backend.address.port) as stream:
        with trio.fail_after(5):
            await stream.send_all(sent)
            received = b"".join([bytes(chunk) async for chunk in stream])
        assert received.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


async def test_requests_in_a_row_and_expectations_are_answered_in_order() -> None:
    """Pipelined requests get their answers one after the other; who expects a 100 gets it before sending the body."""
    async with (
        open_mock(MockSettings(latency=0.01)) as backend,
        await trio.open_tcp_stream(backend.address.host, backend.address.port) as stream,
    ):
        await stream.send_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        received = b""
        while received.count(b'{"ok":true') < 2:
            received += await stream.receive_some()
        assert received.count(b"HTTP/1.1 200") == 2
        await stream.send_all(b"POST /b HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100")
        await stream.send_all(b"x")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        assert [entry.number for entry in backend.record] == [1, 2, 3]


async def test_several_backends_count_from_one_instant() -> None:
    """Backends opened together have a common time, so that their records can be merged."""
    async with open_mocks({"a": MockSettings(), "b": MockSettings()}) as backends:
        assert list(backends) == ["a", "b"]
        assert backends["a"].started_at == backends["b"].started_at
        assert backends["a"].base_url != backends["b"].base_url


async def test_a_served_backend_ends_with_its_task(nursery: trio.Nursery) -> None:
    """`serve` tells its address when it listens, and runs until it is cancelled."""
    backend = await nursery.start(serve, MockSettings())
    assert httpx.URL(backend.base_url).port == backend.address.port
    nursery.cancel_scope.cancel()


async def test_an_error_of_the_block_is_not_wrapped() -> None:
    """What the block raises comes out as it was."""
    with pytest.raises(KeyError, match="mine"):
        async with open_mock():
            raise KeyError("mine")
