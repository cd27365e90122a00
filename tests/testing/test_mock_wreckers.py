"""The scripted socket server and the chaos proxy do what they say, on real sockets."""

from __future__ import annotations

import httpx
import pytest
import trio

from balancer.testing.chaos import Chaos, open_chaos
from balancer.testing.mock import MockSettings, open_mock
from balancer.testing.raw import open_raw, receive_request, reset

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_a_script_has_each_connection_to_itself() -> None:
    """The script reads the request, knows its connection's number, and its end closes the connection."""

    async def script(stream: trio.SocketStream, number: int) -> None:
        received = await receive_request(stream)
        assert received.endswith(b'"Hello"}]}')
        if number == 1:
            reset(stream)
        elif number == 2:
            await stream.send_all(OK)

    async with open_raw(script) as address, httpx.AsyncClient(base_url=address.base_url, trust_env=False) as client:
        with pytest.raises(httpx.ReadError):
            await client.post("/chat/completions", json=CHAT)
        assert (await client.post("/chat/completions", json=CHAT)).text == "ok"
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/chat/completions", json=CHAT)


async def test_a_peer_that_leaves_does_not_end_a_script_server() -> None:
    """A broken connection is that connection's business."""

    async def script(stream: trio.SocketStream, _number: int) -> None:
        await receive_request(stream)
        while True:
            await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    async with open_raw(script) as address:
        for _ in range(2):
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                assert (await stream.receive_some(4)).startswith(b"HTTP")


@pytest.mark.parametrize("chaos", [Chaos(), Chaos(slice_bytes=1), Chaos(delay_for=0.02)])
async def test_what_is_only_slow_is_whole(chaos: Chaos) -> None:
    """Slices and delays change no byte."""
    async with open_mock(MockSettings(output_tokens=3)) as backend:
        async with (
            open_chaos(backend.address.host, backend.address.port, chaos) as proxy,
            httpx.AsyncClient(base_url=proxy.base_url, trust_env=False) as client,
        ):
            for _ in range(2):
                answer = (await client.post("/chat/completions", json=CHAT)).json()
                assert answer["choices"][0]["message"]["content"] == "one call waits"
            assert proxy.connections == 1
        assert backend.counts().served == 2


@pytest.mark.parametrize(
    ("chaos", "error"),
    [
        (Chaos(cut_bytes=0), httpx.RemoteProtocolError),
        (Chaos(cut_bytes=0, reset=True), httpx.ReadError),
        (Chaos(cut_bytes=40), httpx.RemoteProtocolError),
        (Chaos(cut_bytes=400, slice_bytes=7), httpx.RemoteProtocolError),
        (Chaos(cut_bytes=40, reset=True), httpx.ReadError),
        (Chaos(stall_bytes=400), httpx.ReadTimeout),
        (Chaos(refuse=True), httpx.TransportError),
    ],
)
async def test_what_is_broken_breaks(chaos: Chaos, error: type[httpx.TransportError]) -> None:
    """Cuts, resets, stalls and refusals reach the client as what they are; nothing is left open."""
    async with (
        open_mock() as backend,
        open_chaos(backend.address.host, backend.address.port, chaos) as proxy,
        httpx.AsyncClient(base_url=proxy.base_url, trust_env=False, timeout=httpx.Timeout(5.0, read=0.3)) as client,
    ):
        with pytest.raises(error):
            await client.post("/chat/completions", json=CHAT)
        proxy.chaos = Chaos()
        assert (await client.post("/chat/completions", json=CHAT, timeout=5.0)).status_code == 200
        await client.aclose()
        await trio.sleep(0.05)
        assert proxy.open_connections == 0


async def test_a_proxy_without_a_backend_resets() -> None:
    """A closed port behind the proxy is a broken connection before it."""
    async with open_mock() as backend:
        gone = backend.address
    async with (
        open_chaos(gone.host, gone.port) as proxy,
        httpx.AsyncClient(base_url=proxy.base_url, trust_env=False) as client,
    ):
        with pytest.raises((httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
            await client.get("/x")
