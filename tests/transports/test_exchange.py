"""One attempt of an HTTP call: what is sent, what is committed, what goes to another account."""

from __future__ import annotations

import json

import httpx
import pytest
import trio

from balancer import Account, Served, TimedOut
from balancer.testing.scripted import HTTPReply, ScriptedTransport

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {"content-type": "text/event-stream"}
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
OK = HTTPReply(chunks=[b'{"choices":[]}'])
GENEROUS = {"max_extra_ratio": 1.0, "reserve_per_second": 100.0}
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
        (HTTPReply(error=OSError(101, "Network is unreachable")), "Faulted"),
        (HTTPReply(503, chunks=[b"busy"]), "Overloaded"),
        (HTTPReply(500, chunks=[b"broken"]), "Faulted"),
        (HTTPReply(501), "Faulted"),
        (HTTPReply(302, {"location": "https://elsewhere.test/"}), "Faulted"),
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


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), httpx.LocalProtocolError("no")])
async def test_local_causes_in_an_injected_transport(error, balancing_once, autojump_clock):
    """What this machine or its own settings could not do blames no account, and no other one could do it either."""
    async with (
        balancing_once(account("a", HTTPReply(error=error)), account("b"), **IN_ORDER) as balancer,
        client_of(balancer) as client,
    ):
        if isinstance(error, OSError):
            assert (await client.post("/chat/completions", json=ASKED)).status_code == 503
        else:
            with pytest.raises(type(error)):
                await client.post("/chat/completions", json=ASKED)
        accounts = balancer.statistics().accounts
        assert [(accounts[name].failed, accounts[name].refused, accounts[name].served) for name in "ab"] == [(0, 0, 0)] * 2


class Given(httpx.AsyncBaseTransport):
    """A transport that answers by a function."""

    def __init__(self, answer):
        self.handle_async_request = answer


async def turning(request):
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise ValueError("interrupted") from None


async def grouping(request):
    async def fail():
        with trio.CancelScope(shield=True):
            await trio.sleep(20.0)
        raise ValueError("interrupted")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.sleep_forever()


@pytest.mark.parametrize("answer", [turning, grouping])
async def test_an_injected_transport_that_makes_an_error_of_its_end(answer, balancing, autojump_clock):
    """An attempt that was ended because its time was up has timed out, whatever is made of it; another account serves."""
    late = Account(name="a", provider="openai", base_url="http://a.test/v1", transport=Given(answer))
    async with balancing(late, account("b"), headers_timeout=10.0, **IN_ORDER) as balancer, client_of(balancer) as client:
        response = await client.post("/chat/completions", json=ASKED)
        outcomes = [attempt.outcome for attempt in response.extensions["balancer"].attempts]
        assert outcomes == [TimedOut("headers"), Served()]
        assert balancer.statistics().accounts["a"].failed == 1
        with pytest.raises(ValueError if answer is turning else ExceptionGroup), trio.fail_after(5.0):
            await client.post("/chat/completions", json=ASKED)
        assert balancer.statistics().accounts["a"].failed == 1


async def no_response(request):
    return None


async def sync_response(request):
    return httpx.Response(200, content=iter([b"{}"]))


@pytest.mark.parametrize("answer", [no_response, sync_response])
async def test_what_an_injected_transport_answers_with(answer, balancing_once, autojump_clock):
    """Anything but a response that is read asynchronously is a bug of its own, and named."""
    wrong = Account(name="a", provider="openai", base_url="http://a.test/v1", transport=Given(answer))
    async with balancing_once(wrong) as balancer, client_of(balancer) as client:
        with pytest.raises(TypeError, match=r"transport of an account.*AsyncByteStream"):
            await client.post("/chat/completions", json=ASKED)
        assert balancer.statistics().accounts["a"].failed == 0


async def test_equal_ends_are_told_once(balancing_once, autojump_clock):
    """Who reads what happened reads it once per account, in words."""
    async with balancing_once(account("a", HTTPReply(chunks=[])), retry=GENEROUS) as balancer, client_of(balancer) as client:
        response = await client.post("/chat/completions", json=ASKED)
        assert response.json()["error"]["message"] == (
            "every attempt failed (a: the answer ended without its end mark 3 times)"
        )


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


@pytest.mark.parametrize("provider", ["http", "openai", "anthropic"])
@pytest.mark.parametrize("status", [301, 302, 304, 307, 308, 409, 424, 498, 501])
async def test_what_is_about_the_request(provider, status, balancing_once, autojump_clock):
    """On a path of no dialect these statuses are answers for the caller: one attempt each, and the account stays as it is."""
    body = b'{"error":{"type":"conflict_error","code":"capacity_exceeded"}}' if status != 304 else b""
    first = account("a", HTTPReply(status, {"location": "/v1/other"}, [body]), provider=provider)
    async with balancing_once(first, account("b"), **IN_ORDER) as balancer, client_of(balancer) as client:
        for _ in range(6):
            response = await client.get("/files/x")
            assert (response.status_code, response.content, response.headers["location"]) == (status, body, "/v1/other")
            assert ends(response) == ["Served" if status < 400 else "CallerFault"]
        seen = balancer.statistics().accounts["a"]
        assert (seen.state, seen.failed, seen.refused) == ("healthy", 0, 0)


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        (HTTPReply(401), "Unauthorized"),
        (HTTPReply(404), "ModelMissing"),
        (HTTPReply(429, chunks=[b'{"error":{"code":"insufficient_quota"}}']), "Billing"),
        (HTTPReply(429, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9s"}), "RateLimited"),
        (HTTPReply(500), "Faulted"),
    ],
)
async def test_what_is_about_the_account(reply, end, balancing_once, autojump_clock):
    """On a path of no dialect too, an LLM provider's own table reads what it says of its account; another one is asked."""
    first, second = account("a", reply), account("b")
    async with balancing_once(first, second, **IN_ORDER) as balancer, client_of(balancer) as client:
        response = await client.get("/files/x")
        assert (response.status_code, ends(response)) == (200, [end, "Served"])


@pytest.mark.parametrize("provider", ["http", "openai"])
async def test_a_request_that_came_too_slowly(provider, balancing_once, autojump_clock):
    """A 408 may go elsewhere, once per account and not after an unsafe method, and is no evidence of health."""
    first = account("a", HTTPReply(408), provider=provider)
    async with balancing_once(first, account("b"), retry=GENEROUS, **IN_ORDER) as balancer, client_of(balancer) as client:
        for _ in range(10):
            assert ends(await client.get("/files/x")) == ["TimedOut", "Served"]
        response = await client.post("/files", json={})
        assert (response.status_code, ends(response)) == (408, ["TimedOut"])
        seen = balancer.statistics().accounts["a"]
        assert (seen.state, seen.failed, seen.refused) == ("healthy", 11, 0)


async def test_not_modified(balancing_once, autojump_clock):
    """A 304 keeps the headers that tell of what it has no body of."""
    headers = {"etag": '"7"', "content-length": "5000", "content-encoding": "br"}
    async with balancing_once(account("a", HTTPReply(304, headers))) as balancer, client_of(balancer) as client:
        response = await client.get("/files/x")
        assert (response.status_code, response.content, ends(response)) == (304, b"", ["Served"])
        assert {name: response.headers[name] for name in headers} == headers


async def test_a_long_redirect(balancing_once, autojump_clock):
    """Its body is streamed like that of any answer, not cut like an error's."""
    reply = HTTPReply(302, {"location": "/v1/other"}, [bytes(65536)] * 10)
    async with balancing_once(account("a", reply)) as balancer, client_of(balancer) as client:
        assert len((await client.get("/files/x")).content) == 655360


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
