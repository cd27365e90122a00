"""Both libraries' transports: what is asked, what goes out, what comes back, and which of the library's errors."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from contextlib import asynccontextmanager

import httpx
import httpx2
import pytest
import trio

from balancer import Account, Demand
from balancer.core.decision import Decision
from balancer.testing.scripted import HTTPReply, ScriptedTransport
from balancer.transports import seams

LIBRARIES = {"httpx": httpx, "httpx2": httpx2}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = b'{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
KEY = "sk-account"


@pytest.fixture(params=LIBRARIES)
def library(request):
    return LIBRARIES[request.param]


def scripted(*replies):
    return ScriptedTransport(replies or [HTTPReply(chunks=[ANSWER])])


def account(transport, name="a", provider="openai", **more):
    given = {"base_url": f"https://{name}.test/base/v1", "key": KEY, "transport": transport, **more}
    return Account(name=name, provider=provider, **given)


@pytest.fixture
def open_client(balancing_once, library):
    """A client of either library on a balancer over these accounts."""

    @asynccontextmanager
    async def opened(*accounts, mount="/v1", client=None, **settings):
        async with balancing_once(*accounts, **settings) as balancer:
            transport = balancer.transport(library.__name__, mount)
            async with library.AsyncClient(transport=transport, base_url="http://balancer" + mount, **client or {}) as http:
                yield http

    return opened


# -- addresses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mount", "url", "target"),
    [
        ("/v1", "http://balancer/v1/chat/completions", "https://a.test/base/v1/chat/completions"),
        ("/v1", "https://other.example:8443/v1/models?limit=2&q=a%2Fb", "https://a.test/base/v1/models?limit=2&q=a%2Fb"),
        ("/v1", "http://balancer/v1", "https://a.test/base/v1"),
        ("/v1", "http://balancer/v1/a%20b/%C3%A9", "https://a.test/base/v1/a%20b/%C3%A9"),
        ("", "http://balancer/anything/at/all", "https://a.test/base/v1/anything/at/all"),
        ("", "http://balancer/", "https://a.test/base/v1/"),
        ("/api/openai", "http://balancer/api/openai/models", "https://a.test/base/v1/models"),
    ],
)
async def test_where_it_goes(mount, url, target, open_client, autojump_clock):
    """The origin is replaced, the path below the mount joined to the account's base path, the query kept."""
    backend = scripted(HTTPReply(chunks=[b"{}"]))
    async with open_client(account(backend), mount=mount) as client:
        assert (await client.get(url)).status_code == 200
    assert str(backend.requests[0].url) == target
    assert backend.requests[0].headers["host"] == "a.test"
    assert backend.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url",
    [
        "http://balancer/v2/models", "http://balancer/v1x/models", "http://balancer/", "http://user:pw@balancer/v1/models",
        "http://user@balancer/v1/models", "http://balancer/v1/%2e%2e/admin", "http://balancer/v1/..%2fadmin",
        "http://balancer/v1/a%2Fb", "http://balancer/v1/a%5Cb", "http://balancer/v1//evil.example/", "http://balancer/v1/a%0d%0ab",
        "ftp://balancer/v1/models", "ws://balancer/v1/models",
    ],
)  # fmt: skip
async def test_refused_addresses(url, open_client, library, autojump_clock):
    """What no account may be asked for is the library's UnsupportedProtocol, and nothing is sent."""
    backend = scripted()
    async with open_client(account(backend)) as client:
        with pytest.raises(library.UnsupportedProtocol):
            await client.get(url)
    assert not backend.requests


async def test_dot_segments_on_the_wire(open_client, library, autojump_clock):
    """Dot segments that a client leaves in a path do not reach an account."""
    backend = scripted()
    async with open_client(account(backend)) as client:
        request = client.build_request("GET", "/models")
        request.url = request.url.copy_with(raw_path=b"/v1/../../admin")
        if b".." in request.url.raw_path:
            with pytest.raises(library.UnsupportedProtocol):
                await client.send(request)
    assert not backend.requests


@pytest.mark.parametrize("mount", ["v1", "/v1/", "/"])
async def test_mount_must_be_a_path(mount, balancing_once, library, autojump_clock):
    """A mount that is no path is refused when the transport is made."""
    async with balancing_once(account(scripted())) as balancer:
        with pytest.raises(ValueError):
            balancer.transport(library.__name__, mount)
        with pytest.raises(ValueError):
            balancer.transport("requests")


# -- headers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"x-a": "b\r\nx-evil: 1"}, {"accept": "a\nb"}, {"cookie": "a\0b"}, {"x a": "b"}])
async def test_header_with_newline(bad, open_client, library, autojump_clock):
    """A header that is more than one line is the library's LocalProtocolError: nothing sent, nothing charged, nobody blamed."""
    backend = scripted()
    limits = {"requests_per_day": 10}
    async with open_client(account(backend, limits=limits)) as client:
        for path in ("/chat/completions", "/other"):
            with pytest.raises(library.LocalProtocolError) as caught:
                await client.post(path, json=CHAT, headers=bad)
            assert "evil" not in str(caught.value)
        for _ in range(10):
            assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
    assert len(backend.requests) == 10


@pytest.mark.parametrize("method", ["CONNECT", "GE T", "GÉT", "", "G" * 100])
async def test_method_that_is_none(method, open_client, library, autojump_clock):
    """A method that cannot be sent is the library's LocalProtocolError."""
    async with open_client(account(scripted())) as client:
        with pytest.raises(library.LocalProtocolError):
            await client.request(method, "/other")


async def test_credentials_of_the_caller_stay_here(open_client, library, autojump_clock):
    """Cookies and credentials of the caller are not forwarded, in no kind of call; a backend's cookies do not come round."""
    backend = scripted(HTTPReply(headers={"set-cookie": "session=canary"}, chunks=[ANSWER]))
    headers = {"authorization": "Bearer canary", "x-api-key": "canary", "api-key": "canary", "cookie": "a=canary"}
    headers |= {"proxy-authorization": "canary", "x-goog-api-key": "canary"}
    async with open_client(account(backend), client={"headers": headers}) as client:
        for _ in range(2):
            await client.post("/chat/completions", json=CHAT)
            await client.post("/other", json=CHAT)
    assert len(backend.requests) == 4
    assert all("canary" not in str(request.headers.raw) for request in backend.requests)


async def test_headers_of_the_answer(open_client, autojump_clock):
    """The caller gets the answer's headers without those of the connection."""
    headers = {"x-request-id": "r1", "connection": "x-hop", "keep-alive": "timeout=5", "content-type": "application/json"}
    async with open_client(account(scripted(HTTPReply(headers=headers, chunks=[ANSWER])))) as client:
        response = await client.post("/chat/completions", json=CHAT)
    assert response.headers["x-request-id"] == "r1"
    assert "keep-alive" not in response.headers
    assert "connection" not in response.headers


# -- what the caller may tell ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"priority": "high"}, "priority"), ({"priority": True}, "priority"), ({"demand": 5}, "demand"), ({"tenant": 3}, "tenant"),
        ({"tags": "a"}, "tags"), ({"tags": ["a", 3]}, "tags"), ({"replayable": 1}, "replayable"), ({"hedgeable": None}, "hedgeable"),
        ({"prio": 1}, "prio"), ({3: 1}, "3"), ("priority", "priority"), ([], "mapping"),
    ],
)  # fmt: skip
async def test_bad_extension(told, named, open_client, autojump_clock):
    """What `extensions["balancer"]` must not hold is a ValueError that names the key."""
    backend = scripted()
    async with open_client(account(backend)) as client:
        with pytest.raises(ValueError, match=named):
            await client.post("/chat/completions", json=CHAT, extensions={"balancer": told})
    assert not backend.requests


async def test_extensions(open_client, autojump_clock):
    """What the caller tells is in the call, and every response carries its decision."""
    told = {"tenant": "t", "priority": 2, "tags": ["x"], "demand": Demand(5), "replayable": False, "hedgeable": True}
    async with open_client(account(scripted(HTTPReply(chunks=[ANSWER]), HTTPReply(400)))) as client:
        response = await client.post("/chat/completions", json=CHAT, extensions={"balancer": told})
        decision = response.extensions["balancer"]
        assert isinstance(decision, Decision)
        assert (decision.call.model, decision.call.tenant, decision.call.priority) == ("m", "t", 2)
        assert (decision.call.tags, decision.call.demand, decision.call.replayable) == (("x",), Demand(5), False)
        assert decision.attempts[0].account == "a"
        refused = await client.post("/chat/completions", json=CHAT)
        assert refused.extensions["balancer"].attempts[0].outcome is not None


# -- responses ---------------------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_here_is_an_ordinary_response(open_client, library, autojump_clock):
    """Whether it is read at once or in pieces, it looks as the library's own does, and it can be kept for later."""
    pieces = [ANSWER[:10], ANSWER[10:]]
    async with open_client(account(scripted(HTTPReply(chunks=pieces)))) as client:
        response = await client.post("/chat/completions", json=CHAT)
        assert isinstance(response, library.Response)
        assert (response.content, response.num_bytes_downloaded) == (ANSWER, len(ANSWER))
        assert (response.is_closed, response.is_stream_consumed) == (True, True)
        assert response.elapsed.total_seconds() >= 0.0
        kept = pickle.loads(pickle.dumps(response))
        assert (type(kept), kept.content, kept.headers) == (library.Response, ANSWER, response.headers)
        with pytest.raises(library.StreamConsumed):
            [chunk async for chunk in response.aiter_raw()]
        for read in ("aiter_raw", "aiter_bytes", "aiter_text"):
            async with client.stream("POST", "/chat/completions", json=CHAT) as response:
                received = [chunk async for chunk in getattr(response, read)()]
                assert "".join(received) == ANSWER.decode() if read == "aiter_text" else b"".join(received) == ANSWER
                if read == "aiter_raw":
                    with pytest.raises(library.StreamConsumed):
                        await response.aread()
        async with client.stream("POST", "/chat/completions", json=CHAT) as response:
            pass
        with pytest.raises(library.StreamClosed):
            await response.aread()


# -- request bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/chat/completions", "/files"])
async def test_body_is_passed_unchanged(path, open_client, autojump_clock):
    """JSON of odd form, text, bytes and garbage arrive as they were given."""
    backend = scripted(HTTPReply(chunks=[ANSWER]))
    bodies = [b'{ "model" : "m" ,\n"x": 1.0e2, "x": "\\u00e9" }', b"\x00\xff garbage", b"[1,2]", b'"text"', b"", "é".encode()]
    async with open_client(account(backend)) as client:
        for body in bodies:
            assert (await client.post(path, content=body)).status_code == 200
    assert [request.content for request in backend.requests] == bodies


async def test_mapped_model(open_client, autojump_clock):
    """Only a mapped model is replaced; the rest of the body keeps its bytes."""
    backend = scripted(HTTPReply(chunks=[ANSWER]))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    body = {"model": "m", "messages": [{"role": "user", "content": [image, {"type": "text", "text": "é"}]}], "seed": 2**60}
    async with open_client(account(backend, models={"m": "m-2024", "same": "same"})) as client:
        response = await client.post("/chat/completions", json=body)
        decision = response.extensions["balancer"]
        assert decision.attempts[0].model == "m-2024"
        assert decision.call.demand.input_tokens < 2000
        untouched = b'{ "model":"same", "messages":[ ] }'
        await client.post("/chat/completions", content=untouched)
    assert json.loads(backend.requests[0].content) == {**body, "model": "m-2024"}
    assert backend.requests[0].headers["content-length"] == str(len(backend.requests[0].content))
    assert backend.requests[1].content == untouched


async def pieces(*parts, broken=None):
    for part in parts:
        yield part
    if broken:
        raise broken


async def test_streamed_body_has_one_attempt(open_client, autojump_clock):
    """A body that can be given once is read into memory and sent once: a failure ends the call, a refusal does not."""
    failing, refusing = scripted(HTTPReply(500, chunks=[b"no"])), scripted(HTTPReply(429, chunks=[b"{}"]))
    serving = scripted()
    first = {"selector": lambda accounts, *_: accounts[0]}
    async with open_client(account(failing, "a"), account(serving, "b"), **first) as client:
        response = await client.post("/chat/completions", content=pieces(b'{"model":', b'"m"}'))
        assert response.status_code == 500
        assert failing.requests[0].content == b'{"model":"m"}'
        assert not serving.requests
    async with open_client(account(refusing, "a"), account(serving, "b"), **first) as client:
        response = await client.post("/chat/completions", content=pieces(b'{"model":', b'"m"}'))
        assert response.status_code == 200
        assert serving.requests[0].content == b'{"model":"m"}'


async def test_body_that_raises(open_client, autojump_clock):
    """What a caller's own stream raises goes to the caller as it is, with nothing placed."""
    backend = scripted()
    async with open_client(account(backend)) as client:
        with pytest.raises(ZeroDivisionError):
            await client.post("/chat/completions", content=pieces(b"{", broken=ZeroDivisionError()))
    assert not backend.requests


class Swallower(httpx.AsyncBaseTransport):
    """Reads bodies without keeping them."""

    def __init__(self, status=200):
        self.sizes = []
        self.status = status

    async def handle_async_request(self, request):
        self.sizes.append(sum([len(chunk) async for chunk in request.stream]))
        return httpx.Response(self.status, content=b"{}")


async def test_body_beyond_memory(open_client, monkeypatch, autojump_clock):
    """A streamed body beyond the cap is sent in bounded memory, once, refused or not."""
    monkeypatch.setattr(seams, "MAX_BODY", 1 << 20)
    chunk = bytes(1 << 16)
    first = {"selector": lambda accounts, *_: accounts[0]}
    served, refusing, other = Swallower(), Swallower(429), Swallower()
    async with open_client(account(served)) as client:
        tracemalloc.start()
        response = await client.post("/chat/completions", content=pieces(*[chunk] * 512))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert response.status_code == 200
        assert served.sizes == [512 << 16]
        assert most < 4 << 20
    async with open_client(account(refusing, "a"), account(other, "b"), **first) as client:
        response = await client.post("/chat/completions", content=pieces(*[chunk] * 32))
        assert (response.status_code, response.headers["x-should-retry"]) == (429, "false")
        assert (refusing.sizes, other.sizes) == ([32 << 16], [])


async def test_body_beyond_memory_not_begun(open_client, monkeypatch, autojump_clock):
    """A body of which nothing was taken may go to another account."""
    monkeypatch.setattr(seams, "MAX_BODY", 10)
    refusing, serving = scripted(HTTPReply(error=httpx.ConnectError("refused"))), Swallower()

    class Refusing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise httpx.ConnectError("refused")

    async with open_client(
        account(Refusing(), "a"), account(serving, "b"), selector=lambda accounts, *_: accounts[0]
    ) as client:
        assert (await client.post("/files", content=pieces(b"12345678", b"12345678"))).status_code == 200
    assert serving.sizes == [16]
    assert not refusing.requests


# -- waiting -----------------------------------------------------------------------------------------------------------------

FULL = {"limits": {"requests": {"amount": 1, "per": 30.0}, "window": "sliding"}}
NEAR = 0.1  # the ledger keeps a little distance from the edge of a window


@pytest.mark.parametrize(("pool", "waits_for"), [(0.0, 0.0), (3.0, 0.0), (100.0, 30.0), (None, 30.0)])
async def test_pool_timeout_bounds_the_wait(pool, waits_for, open_client, library, autojump_clock):
    """The `pool` timeout bounds the wait for an account; what cannot be in time is refused at once, with when it could be."""
    timeout = library.Timeout(60.0, pool=pool)
    async with open_client(account(scripted(HTTPReply(chunks=[ANSWER])), **FULL), client={"timeout": timeout}) as client:
        await client.post("/chat/completions", json=CHAT)
        began = trio.current_time()
        response = await client.post("/chat/completions", json=CHAT)
        assert trio.current_time() - began == pytest.approx(waits_for, abs=NEAR)
        if waits_for:
            assert response.status_code == 200
            assert response.extensions["balancer"].waited_for == pytest.approx(30.0, abs=NEAR)
        else:
            assert response.status_code == 429
            assert response.headers["retry-after"] in ("30", "31")
            assert int(response.headers["retry-after-ms"]) == pytest.approx(30_000, abs=NEAR * 1000)
            assert response.headers["x-should-retry"] == "false"
            assert response.json()["error"]["code"] == "rate_limit_exceeded"


async def test_default_pool_timeout(open_client, autojump_clock):
    """By default httpx waits five seconds for an account unless told otherwise."""
    slow = scripted(HTTPReply(chunks=[ANSWER], after=7.0))
    async with open_client(account(slow, limits={"concurrency": 1})) as client, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client.post("/chat/completions", json=CHAT))
        await trio.sleep(0.1)
        began = trio.current_time()
        response = await client.post("/chat/completions", json=CHAT)
        assert (response.status_code, trio.current_time() - began) == (429, pytest.approx(5.0, abs=1e-3))


async def test_deadline_from_the_callers_scopes(open_client, autojump_clock):
    """A deadline that no account can meet is refused at once; one in a cancelled scope places nothing."""
    backend = scripted(HTTPReply(chunks=[ANSWER]))
    async with open_client(account(backend, **FULL), client={"timeout": None}) as client:
        await client.post("/chat/completions", json=CHAT)
        with trio.fail_after(10.0):
            began = trio.current_time()
            response = await client.post("/chat/completions", json=CHAT)
            assert (response.status_code, trio.current_time()) == (429, began)
        await trio.sleep(60.0)
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.post("/chat/completions", json=CHAT)
        assert scope.cancelled_caught
    assert len(backend.requests) == 1


async def test_saturated(open_client, autojump_clock):
    """With no room to wait the answer is a made 503 in the dialect of the call."""
    async with open_client(account(scripted(HTTPReply(chunks=[ANSWER])), **FULL), max_waiting=0) as client:
        await client.post("/chat/completions", json=CHAT, timeout=None)
        response = await client.post("/chat/completions", json=CHAT, timeout=None)
        assert (response.status_code, response.headers["retry-after"] in ("30", "31")) == (503, True)
        assert response.json()["error"]["code"] == "server_is_overloaded"


async def test_headers_timeout_is_a_total(open_client, autojump_clock):
    """An attempt without a head in `headers_timeout` seconds has failed: another account is asked."""
    slow, quick = scripted(HTTPReply(after=100.0)), scripted()
    first = {"selector": lambda accounts, *_: accounts[0]}
    async with open_client(account(slow, "a"), account(quick, "b"), headers_timeout=2.0, **first) as client:
        began = trio.current_time()
        response = await client.post("/chat/completions", json=CHAT)
        assert (response.status_code, trio.current_time() - began) == (200, pytest.approx(2.0, abs=1e-3))


async def test_first_bytes_are_bounded_too(open_client, autojump_clock):
    """A head whose first event does not come in time is a failed attempt as well, not an end of the balancer."""
    stream = {"content-type": "text/event-stream"}
    stalled, quick = scripted(HTTPReply(headers=stream, chunks=[b": ping\n\n"] * 99, chunk_after=1.0)), scripted()
    first = {"selector": lambda accounts, *_: accounts[0]}
    async with open_client(account(stalled, "a"), account(quick, "b"), headers_timeout=2.0, **first) as client:
        response = await client.post("/chat/completions", json={**CHAT, "stream": True})
        assert response.status_code == 200
        attempts = response.extensions["balancer"].attempts
        assert [type(attempt.outcome).__name__ for attempt in attempts] == ["TimedOut", "Served"]
        assert all(body.closed for body in stalled.bodies)


async def test_after_the_end(balancing_once, library, autojump_clock):
    """A transport that outlives its balancer answers 503, and raises nothing."""
    async with balancing_once(account(scripted())) as balancer:
        transport = balancer.transport(library.__name__)
    async with library.AsyncClient(transport=transport, base_url="http://balancer/v1") as client:
        response = await client.post("/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert isinstance(response.extensions["balancer"], Decision)


async def test_closing_a_client(balancing_once, library, autojump_clock):
    """A client that is closed leaves the balancer open."""
    async with balancing_once(account(scripted(HTTPReply(chunks=[ANSWER])))) as balancer:
        transport = balancer.transport(library.__name__)
        for _ in range(2):
            async with library.AsyncClient(transport=transport, base_url="http://balancer/v1") as client:
                assert (await client.post("/chat/completions", json=CHAT)).status_code == 200


async def test_broken_body(open_client, library, autojump_clock):
    """A broken body raises the error of the library that reads it."""
    reply = HTTPReply(headers={"content-type": "text/event-stream"}, chunks=[b'data: {"choices":[]}\n\n'])
    async with open_client(account(scripted(reply))) as client:
        with pytest.raises(library.RemoteProtocolError):
            await client.post("/chat/completions", json={**CHAT, "stream": True})
