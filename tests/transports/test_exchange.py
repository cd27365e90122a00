"""One attempt of an HTTP call: what is sent, what is committed, what goes to another account."""

from __future__ import annotations

import json

import httpx
import pytest
import trio

from balancer import Account
from balancer.testing.scripted import HTTPReply, ScriptedTransport

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {"content-type": "text/event-stream"}
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
OK = HTTPReply(chunks=[b'{"choices":[]}'])
IN_ORDER = {"selector": lambda accounts, *_: accounts[0]}


def account(name, *replies, provider="openai", **more):
    return Account(
        name=name, provider=provider, base_url=f"http://{name}.test/v1", transport=ScriptedTransport(replies or [OK]), **more
    )


def client_of(balancer, **more):
    return httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1", **{"timeout": None, **more})


def ends(response):
    return [type(attempt.outcome).__name__ for attempt in response.extensions["balancer"].attempts]


# -- what is no answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        (HTTPReply(headers={"content-type": "text/html; charset=utf-8"}, chunks=[b"<html>It works"]), "Faulted"),
        (HTTPReply(chunks=[]), "Truncated"),
        (HTTPReply(headers=STREAM, chunks=[]), "Truncated"),
        (HTTPReply(headers=STREAM, chunks=[b": ping\n\n"]), "Truncated"),
        (HTTPReply(chunks=[b'{"choices":[']), "Truncated"),
        (HTTPReply(chunks=[b"It works"]), "Truncated"),
        (HTTPReply(chunks=[b'{"error":{"message":"x","type":"server_error"}}']), "Faulted"),
        (HTTPReply(headers=STREAM, chunks=[b'data: {"error":{"code":"rate_limit_exceeded"}}\n\n']), "RateLimited"),
        (HTTPReply(error=httpx.ReadTimeout("silent")), "TimedOut"),
        (HTTPReply(error=httpx.RemoteProtocolError("what")), "Faulted"),
        (HTTPReply(error=OSError(24, "Too many open files")), "Faulted"),
        (HTTPReply(503, chunks=[b"busy"]), "Overloaded"),
        (HTTPReply(500, chunks=[b"broken"]), "Faulted"),
        (HTTPReply(404, chunks=[b'{"error":{"code":"model_not_found"}}']), "ModelMissing"),
    ],
)
async def test_no_answer(reply, end, balancing_once, autojump_clock):
    """What is no answer counts as what it is, and another account answers."""
    async with (
        balancing_once(account("a", reply), account("b"), **IN_ORDER) as balancer,
        client_of(balancer) as client,
    ):
        response = await client.post("/chat/completions", json={**ASKED, "stream": True})
        assert (response.status_code, response.content) == (200, b'{"choices":[]}')
        assert ends(response) == [end, "Served"]


async def test_backends_fault_of_the_request_inside_an_answer(balancing_once, autojump_clock):
    """An error inside a 200 that is about the request goes to the caller as it is."""
    body = b'{"error":{"message":"bad","type":"invalid_request_error"}}'
    async with (
        balancing_once(account("a", HTTPReply(chunks=[body])), account("b"), **IN_ORDER) as balancer,
        client_of(balancer) as client,
    ):
        response = await client.post("/chat/completions", json=ASKED)
        assert (response.status_code, response.content) == (200, body)
        assert ends(response) == ["CallerFault"]


async def test_bug_of_an_injected_transport(balancing_once, autojump_clock):
    """What a transport given in code raises of its own goes to the caller unchanged and blames nobody."""
    async with (
        balancing_once(account("a", HTTPReply(error=ZeroDivisionError())), account("b"), **IN_ORDER) as balancer,
        client_of(balancer) as client,
    ):
        with pytest.raises(ZeroDivisionError):
            await client.post("/chat/completions", json=ASKED)
        assert balancer.statistics().accounts["a"].failed == 0


async def test_stream_without_being_asked(balancing_once, autojump_clock):
    """How an answer is read is told by the answer: a stream for who asked in a strange way is a stream."""
    async with (
        balancing_once(account("a", HTTPReply(headers=STREAM, chunks=[FIRST, DONE]))) as balancer,
        client_of(balancer) as client,
    ):
        response = await client.post("/chat/completions", json={**ASKED, "stream": 1})
        assert response.content == FIRST + DONE
        assert ends(response) == ["Served"]


async def test_waits_for_the_first_event(balancing_once, autojump_clock):
    """Heartbeats do not commit an answer; its first event does, at once."""
    reply = HTTPReply(headers=STREAM, chunks=[b": ping\n\n", b": ping\n\n", FIRST, DONE], chunk_after=1.0)
    async with balancing_once(account("a", reply)) as balancer:
        request = httpx.Request("POST", "http://balancer/v1/chat/completions", json={**ASKED, "stream": True})
        response = await balancer.transport().handle_async_request(request)
        assert trio.current_time() == 3.0
        assert b"".join([chunk async for chunk in response.stream]) == b": ping\n\n" * 2 + FIRST + DONE


async def test_error_body_that_does_not_end(balancing_once, autojump_clock):
    """A refusal is heard though its body drips on: its status has said enough."""
    dripping = HTTPReply(429, {"retry-after": "60"}, [b"x"] * 1000, chunk_after=1.0)
    async with (
        balancing_once(account("a", dripping), account("b"), **IN_ORDER) as balancer,
        client_of(balancer) as client,
    ):
        response = await client.post("/chat/completions", json=ASKED)
        assert ends(response) == ["RateLimited", "Served"]
        assert trio.current_time() < 10.0


async def test_endless_error_body(balancing_once, autojump_clock):
    """Of an endless error body a part is kept."""
    flood = account("a", HTTPReply(500, chunks=[bytes(65536)] * 1000))
    async with balancing_once(flood, max_attempts=1) as balancer, client_of(balancer) as client:
        response = await client.post("/chat/completions", json=ASKED)
        assert (response.status_code, len(response.content)) == (500, 256 * 1024)
        assert flood.transport.bodies[0].read < 10


# -- plain HTTP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(
    ("reply", "told", "goes_on"),
    [
        (HTTPReply(500), {}, False),
        (HTTPReply(error=httpx.ReadError("cut")), {}, False),
        (HTTPReply(500), {"replayable": True}, True),
        (HTTPReply(429, {"retry-after": "1"}), {}, True),
        (HTTPReply(error=httpx.ConnectError("refused")), {}, True),
        (HTTPReply(error=httpx.ConnectTimeout("refused")), {}, True),
    ],
)
async def test_unsafe_methods(method, reply, told, goes_on, balancing_once, autojump_clock):
    """A plain POST or PATCH goes to another account only when not sent, refused, or marked as replayable."""
    first, second = account("a", reply, provider="http"), account("b", provider="http")
    async with balancing_once(first, second, **IN_ORDER) as balancer, client_of(balancer) as client:
        response = await client.request(method, "/orders", json={}, extensions={"balancer": told})
        assert (response.status_code == 200) is goes_on
        assert len(second.transport.requests) == goes_on


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_safe_methods(method, balancing_once, autojump_clock):
    """What may be repeated goes to another account after a failure."""
    first, second = account("a", HTTPReply(500), provider="http"), account("b", provider="http")
    async with balancing_once(first, second, **IN_ORDER) as balancer, client_of(balancer) as client:
        assert (await client.request(method, "/orders/1")).status_code == 200
        assert ends(await client.request(method, "/orders/1"))[-1] == "Served"


@pytest.mark.parametrize("body", [b"garbage", b"[1]", b"\xff\xfe", b"", b"[" * 100_000])
async def test_garbage_is_plain(body, balancing_once, autojump_clock):
    """A body that is no JSON object passes as plain HTTP, to accounts of any provider, and its answer is not judged."""
    page = HTTPReply(headers={"content-type": "text/html"}, chunks=[b"<html>"])
    async with balancing_once(account("a", page, provider="http")) as balancer, client_of(balancer) as client:
        async with client.stream("POST", "/chat/completions", content=body) as response:
            assert await response.aread() == b"<html>"
        assert response.extensions["balancer"].call.model is None


async def test_only_speakers_are_asked(balancing_once, autojump_clock):
    """A dialect goes to accounts that speak it; every other path to any."""
    openai, anthropic = account("a"), account("b", provider="anthropic")
    async with balancing_once(openai, anthropic) as balancer, client_of(balancer) as client:
        for _ in range(3):
            await client.post("/chat/completions", json=ASKED)
        assert (len(openai.transport.requests), len(anthropic.transport.requests)) == (3, 0)
        await client.post("/messages", json=ASKED)
        assert len(anthropic.transport.requests) == 1


async def test_answers_without_a_body(balancing_once, autojump_clock):
    """204 and the answer to HEAD are whole as they are."""
    async with (
        balancing_once(account("a", HTTPReply(204), HTTPReply(200, {"content-length": "5"}))) as balancer,
        client_of(balancer) as client,
    ):
        assert ends(await client.post("/chat/completions", json=ASKED)) == ["Served"]
        response = await client.head("/files/1")
        assert (response.content, response.headers["content-length"]) == (b"", "5")


async def test_every_status(balancing_once, autojump_clock):
    """Every status ends a call in an answer: the backend's own."""
    for status in (*range(200, 600), 600, 777, 999):
        body = b"{}" if status not in (204, 304) else b""
        async with balancing_once(account("a", HTTPReply(status, chunks=[body]), provider="http")) as balancer:
            async with client_of(balancer, timeout=httpx.Timeout(None, pool=0.0)) as client:
                response = await client.get("/x")
            assert response.status_code == status


# -- waiting and sending again -----------------------------------------------------------------------------------------------


async def test_refused_account_is_asked_again(balancing_once, autojump_clock):
    """A refusal is no failure: the call waits for the earliest account, the refused one included."""
    refused = account("a", HTTPReply(429, {"retry-after": "5"}), HTTPReply(429, {"retry-after": "5"}), OK)
    async with balancing_once(refused, max_attempts=1) as balancer, client_of(balancer) as client:
        response = await client.post("/chat/completions", json=ASKED)
        assert ends(response) == ["RateLimited", "RateLimited", "Served"]
        assert 10.0 <= trio.current_time() < 20.0


async def test_a_wait_runs_from_the_answers_head(balancing_once, autojump_clock):
    """However long the body of the refusal takes."""
    slow = HTTPReply(429, {"retry-after": "6"}, chunks=[b"{", b"}"], chunk_after=2.0)
    async with balancing_once(account("a", slow, OK)) as balancer, client_of(balancer) as client:
        start = trio.current_time()
        assert ends(await client.post("/chat/completions", json=ASKED)) == ["RateLimited", "Served"]
        assert 6.0 <= trio.current_time() - start < 6.5


async def test_each_attempt_gets_its_accounts_own(balancing_once, autojump_clock):
    """Every attempt is rewritten for its account: credential, model, address."""
    first = account("a", HTTPReply(500), key="sk-a", models={"m": "m-a"})
    second = account("b", key="sk-b", models={"m": "m-b"}, auth={"header": "X-Key"})
    async with balancing_once(first, second, **IN_ORDER) as balancer, client_of(balancer) as client:
        await client.post("/chat/completions", json=ASKED)
    sent, again = first.transport.requests[0], second.transport.requests[0]
    assert (sent.headers["authorization"], json.loads(sent.content)["model"]) == ("Bearer sk-a", "m-a")
    assert (again.headers["x-key"], json.loads(again.content)["model"]) == ("sk-b", "m-b")
    assert "authorization" not in again.headers


# -- the race ----------------------------------------------------------------------------------------------------------------

HEDGED = {"hedge": {"enabled": True, "delay": 1.0}, **IN_ORDER}


@pytest.mark.parametrize("head_after", [0.0, 10.0])
async def test_hedge(head_after, balancing, autojump_clock):
    """The hedge commits first and wins: the loser's answer is closed, its lease withdrawn, nothing is left."""
    slow = HTTPReply(headers=STREAM, chunks=[FIRST, DONE], after=head_after, chunk_after=10.0)
    first, second = account("a", slow), account("b", HTTPReply(headers=STREAM, chunks=[FIRST, DONE]))
    async with balancing(first, second, **HEDGED) as balancer, client_of(balancer) as client:
        told = {"balancer": {"hedgeable": True}}
        response = await client.post("/chat/completions", json={**ASKED, "stream": True}, extensions=told)
        assert response.content == FIRST + DONE
        assert trio.current_time() == pytest.approx(1.0)
        assert ends(response) == ["Withdrawn", "Served"]
        await trio.testing.wait_all_tasks_blocked()
        assert first.transport.running == 0
        assert all(body.closed for body in (*first.transport.bodies, *second.transport.bodies))


async def test_hedge_that_ties(balancing, autojump_clock):
    """Two that commit in the same instant: one is the caller's, the other is discarded."""
    replies = [HTTPReply(headers=STREAM, chunks=[FIRST, DONE], after=after) for after in (2.0, 1.0)]
    first, second = account("a", replies[0]), account("b", replies[1])
    async with balancing(first, second, **HEDGED) as balancer, client_of(balancer) as client:
        told = {"balancer": {"hedgeable": True}}
        response = await client.post("/chat/completions", json={**ASKED, "stream": True}, extensions=told)
        assert response.content == FIRST + DONE
        assert sorted(ends(response)) == ["Served", "Withdrawn"]
        await trio.testing.wait_all_tasks_blocked()
        assert all(body.closed for body in (*first.transport.bodies, *second.transport.bodies))


@pytest.mark.parametrize("told", [{"hedgeable": False}, {"replayable": False}])
async def test_an_llm_call_may_hedge_unless_it_says_no(told, balancing_once, autojump_clock):
    """The owner has turned hedging on, and SDKs cannot say more; a call that may not be repeated is not."""
    slow = HTTPReply(headers=STREAM, chunks=[FIRST, DONE], after=10.0)
    asked = {**ASKED, "stream": True}
    for extensions, after in (({}, 1.0), ({"balancer": told}, 10.0)):
        first, second = account("a", slow), account("b", HTTPReply(headers=STREAM, chunks=[FIRST, DONE]))
        began = trio.current_time()
        async with balancing_once(first, second, **HEDGED) as balancer, client_of(balancer) as client:
            await client.post("/chat/completions", json=asked, extensions=extensions)
        assert trio.current_time() - began == pytest.approx(after)
