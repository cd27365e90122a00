"""Faults of mock backends as a client meets them on a real socket."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from balancer.testing.mock import (
    Delay,
    Drop,
    Malformed,
    MockBackend,
    MockSettings,
    Script,
    Stall,
    Status,
    StreamError,
    Truncate,
    open_mock,
)
from balancer.testing.mock.malformed import BOMB_SIZE

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**CHAT, "stream": True}


@asynccontextmanager
async def open_faulty(*actions: object, **settings: object) -> AsyncGenerator[tuple[MockBackend, httpx.AsyncClient]]:
    """A backend that does these actions in turn, and a client."""
    parsed = MockSettings.parse({"faults": [{"script": list(actions)}], **settings})
    async with (
        open_mock(parsed) as backend,
        httpx.AsyncClient(base_url=backend.base_url, trust_env=False, timeout=2.0) as client,
    ):
        yield backend, client


async def test_a_status_comes_in_the_shape_of_the_path() -> None:
    """A scripted status has the dialect's body and its own headers; the next request is served."""
    refusal = Status(429, code="slow_down", headers={"retry-after": "7"})
    async with open_faulty(refusal, Status(529), None) as (backend, client):
        first = await client.post("/chat/completions", json=CHAT)
        assert (first.status_code, first.json()["error"]["code"], first.headers["retry-after"]) == (429, "slow_down", "7")
        second = await client.post("/messages", json={**CHAT, "max_tokens": 5})
        assert (second.status_code, second.json()["error"]["type"]) == (529, "overloaded_error")
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
        assert [entry.fault for entry in backend.record] == ["status", "status", None]
        counts = backend.counts()
        assert (counts.faulted, counts.served) == (2, 1)


async def test_refused_requests_do_not_use_up_a_script() -> None:
    """A script counts the requests that the limits let in."""
    limits = {"requests": {"amount": 1, "per": 0.2}, "window": "sliding"}
    async with open_faulty(None, Status(500), limits=limits) as (_, client):
        assert [(await client.get("/x")).status_code for _ in range(2)] == [200, 429]
        await trio.sleep(0.21)
        assert (await client.get("/x")).status_code == 500


async def test_a_delay_only_delays() -> None:
    """A delayed answer is a good one, and late."""
    async with open_faulty(Delay(0.1)) as (backend, client):
        started_at = trio.current_time()
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
        assert trio.current_time() - started_at >= 0.1
        assert backend.counts().served == 1


async def test_a_drop_closes_before_an_answer() -> None:
    """An end is a protocol error for the client, a reset a read error."""
    async with open_faulty(Drop(), Drop(reset=True)) as (backend, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/chat/completions", json=CHAT)
        with pytest.raises(httpx.ReadError):
            await client.post("/chat/completions", json=CHAT)
        assert [entry.ended for entry in backend.record] == ["cut", "cut"]


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("events", [0, 3])
async def test_a_stall_is_silent_until_the_client_leaves(body: dict[str, object], events: int) -> None:
    """Nothing more arrives, and the backend sees the client go."""
    async with open_faulty(Stall(events)) as (backend, client):
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/chat/completions", json=body, timeout=httpx.Timeout(5.0, read=0.1))
        await trio.sleep(0.05)
        assert backend.record[0].ended == "gone"
        assert backend.record[0].status == (200 if events else None)
        assert backend.counts().in_flight == 0


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_broken_truncation_is_a_protocol_error(body: dict[str, object]) -> None:
    """The connection closes in the middle of the body."""
    async with open_faulty(Truncate(3)) as (backend, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/chat/completions", json=body)
        assert backend.record[0].ended == "cut"
        assert backend.record[0].status == 200


async def test_a_clean_truncation_lacks_only_the_end_mark() -> None:
    """HTTP is content; the stream has its first events and no `[DONE]`, and the tokens that came are counted."""
    async with open_faulty(Truncate(3, clean=True)) as (backend, client):
        text = (await client.post("/chat/completions", json=STREAM)).text
        assert text.count("data: ") == 3
        assert "[DONE]" not in text
        assert backend.record[0].output_tokens == 2


@pytest.mark.parametrize(
    ("path", "mark"),
    [
        ("/chat/completions", 'data: {"error":{"message"'),
        ("/responses", 'event: error\ndata: {"type":"error","code":"server_is_overloaded"'),
        ("/messages", 'event: error\ndata: {"type":"error","error":{"type":"api_error"'),
    ],
)
async def test_an_error_inside_a_stream_has_the_dialects_form(path: str, mark: str) -> None:
    """After some events comes the error, and no end mark."""
    async with open_faulty(StreamError(4), StreamError()) as (_, client):
        body = {**STREAM, "max_tokens": 9, "input": "x"}
        response = await client.post(path, json=body)
        assert response.status_code == 200
        assert mark in response.text
        assert not any(end in response.text for end in ("[DONE]", "message_stop", "response.completed"))
        whole = await client.post(path, json={**body, "stream": False})
        assert (whole.status_code, "error" in whole.json()) == (200, True)


async def test_wrong_content_under_a_good_status() -> None:
    """HTML, nothing at all, and limits that are nonsense: each with status 200."""
    async with open_faulty(Malformed("html"), Malformed("empty"), Malformed("nonsense_headers")) as (backend, client):
        html, empty, nonsense = [await client.post("/chat/completions", json=CHAT) for _ in range(3)]
        assert html.headers["content-type"].startswith("text/html")
        assert (empty.status_code, empty.content) == (200, b"")
        assert nonsense.headers["x-ratelimit-limit-requests"] == "nan"
        assert nonsense.json()["object"] == "chat.completion"
        assert backend.counts().served == 1


async def test_garbage_and_endless_headers_are_protocol_errors() -> None:
    """What is not HTTP, and a head that never ends, break the client's parser and nothing else."""
    async with open_faulty(Malformed("garbage"), Malformed("endless_headers")) as (backend, client):
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/chat/completions", json=CHAT)
        await trio.sleep(0.05)
        counts = backend.counts()
        assert (counts.faulted, counts.in_flight) == (2, 0)


async def test_informational_answers_never_end() -> None:
    """A flood of 1xx goes on for as long as somebody reads."""
    async with (
        open_faulty(Malformed("informational_flood")) as (backend, _),
        await trio.open_tcp_stream(backend.address.host, backend.address.port) as stream,
    ):
        await stream.send_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
        received = 0
        while received < 1 << 20:
            chunk = await stream.receive_some(65536)
            assert b"HTTP/1.1 200" not in chunk
            received += len(chunk)


async def test_a_gzip_bomb_is_small_on_the_wire() -> None:
    """A thousandfold: the coded body stays under 100 kB."""
    async with open_faulty(Malformed("gzip_bomb")) as (_, client):
        async with client.stream("POST", "/chat/completions", json=CHAT) as response:
            assert response.headers["content-encoding"] == "gzip"
            body = b"".join([chunk async for chunk in response.aiter_raw()])
        assert len(body) * 900 < BOMB_SIZE == len(gzip.decompress(body))


async def test_chances_are_seeded() -> None:
    """Two backends of one seed fail the same requests."""
    outcomes: list[list[int]] = []
    for _ in range(2):
        settings = MockSettings.parse({"seed": 5, "faults": [{"probability": 0.5, "kind": "status", "status": 500}]})
        async with open_mock(settings) as backend, httpx.AsyncClient(base_url=backend.base_url, trust_env=False) as client:
            outcomes.append([(await client.get("/x")).status_code for _ in range(20)])
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {200, 500}


def test_a_script_in_code_takes_actions() -> None:
    """Actions are values, and `None` is a plain answer."""
    assert MockSettings(faults=[Script([None, "drop"])]).faults == (Script((None, Drop())),)
