"""No channel shows a credential: logs, errors, tracebacks with their locals, reprs, records."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from contextlib import suppress
from urllib.parse import quote

import attrs
import httpx
import pytest
import structlog
import trio

from balancer import Account, BalancerConfig, open_balancer
from balancer.testing.raw import open_raw, receive_request, reset
from balancer.testing.scripted import HTTPReply, ScriptedTransport
from balancer.transports import seams

KEY = 'q7Xw9KpZ/m+3=Lt5"vN8rJy2Bc'
SECOND = "h4Gd2/YsF+uC9=Ax7'eQ1bTn6M"
FORMS = {
    form
    for key in (KEY, SECOND)
    for form in (
        key, key[:8], key[-8:], quote(key, safe=""), json.dumps(key)[1:-1], repr(key)[1:-1], base64.b64encode(key.encode()).decode(),
        base64.urlsafe_b64encode(key.encode()).decode(),
    )
}  # fmt: skip
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def assert_clean(text):
    found = [form for form in FORMS if form in text]
    assert not found, text[max(0, text.find(found[0]) - 200) :][:400]


def told(error):
    """All that a traceback with locals shows of an error, its causes, contexts and groups."""
    shown = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True, compact=True)
    structured = structlog.tracebacks.ExceptionDictTransformer(show_locals=True, locals_max_string=10_000)
    return "".join(shown.format()) + repr(structured((type(error), error, error.__traceback__)))


async def echo(stream, number):
    """A backend that fails in many ways, and throws what it was sent back at who sent it."""
    while request := await receive_request(stream):
        line = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"authorization"))
        match number % 8:
            case 0:
                reset(stream)
            case 1:
                await stream.send_all(b"HTTP/1.1 2xx " + line + b"\r\n\r\n")
            case 2:
                await stream.send_all(b"HTTP/1.1 200 OK\r\n" + line.replace(b":", b"\0") + b"\r\n\r\n")
            case 3:
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: " + line + b"\r\n\r\n")
            case 4:
                await stream.send_all(HEAD + b"zz" + line + b"\r\n")
            case 5:
                await stream.send_all(HEAD + b"%x\r\n%b\r\n" % (len(FIRST), FIRST) + line)
            case 6:
                await stream.send_all(b"HTTP/1.1 429 X\r\nRetry-After: " + line + b"\r\nContent-Length: 0\r\n\r\n")
            case _:
                await stream.send_all(b"HTTP/1.1 302 X\r\nLocation: http://evil.test/\r\nContent-Length: 0\r\n\r\n")
        return


class Refused(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request):
        raise httpx.ConnectError("refused")


def quotes(record):
    return record.name.startswith("httpcore") and record.getMessage().startswith("receive_response")


@pytest.fixture(params=["unconfigured", "configured"])
def log(request, caplog):
    """All that was logged, at DEBUG."""
    caplog.set_level(logging.DEBUG)
    events = []
    if request.param == "configured":

        def keep(_logger, _method, event):
            events.append(repr(event))
            raise structlog.DropEvent

        render = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=True))
        structlog.configure(processors=[render, keep])
    # What httpcore's own debug log quotes of an answer are the backend's words, not ours.
    yield lambda: "".join([*events, *(f"{record.getMessage()}\n" for record in caplog.records if not quotes(record))])
    structlog.reset_defaults()


async def test_no_channel_shows_a_key(log, monkeypatch):
    """Through every kind of failure no form of the key is in any log, error, traceback, repr or record."""
    refusals = []

    def final(error, dialect):
        refusals.append(error)
        return original(error, dialect)

    original = seams.final
    monkeypatch.setattr(seams, "final", final)

    async def unread(_stream, _number):
        await trio.sleep_forever()

    async with open_raw(echo) as address, open_raw(unread) as deaf:
        accounts = [
            Account(name="a", base_url=address.base_url, key=[SECOND, KEY]),
            Account(name="b", base_url=address.base_url, key=KEY, auth={"header": "Authorization"}),
            Account(name="c", base_url="http://c.test/v1", key=KEY, transport=Refused(), weight=0.001),
            Account(name="d", base_url="http://d.test/v1", key=[KEY, SECOND], transport=ScriptedTransport([HTTPReply(401)])),
        ]
        deaf_one = Account(name="e", base_url=deaf.base_url, key=[KEY, SECOND])
        health = {"consecutive_faults": 1000}
        shown = []
        async with open_balancer(BalancerConfig(accounts=accounts, health=health, seed=1, selector="round_robin")) as balancer:
            async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client:
                for _ in range(24):
                    timeout = httpx.Timeout(2.0, pool=0.05)
                    try:
                        response = await client.post("/chat/completions", json=ASKED, timeout=timeout)
                    except httpx.TransportError as error:
                        shown.append(told(error))
                    else:
                        shown.append(response.text)
                        shown += [repr(response), repr(response.extensions)]
                    for supervisor in balancer._supervisors.values():
                        supervisor._state.cooldowns.clear()
                        supervisor._state._snapshot = None
                with suppress(httpx.LocalProtocolError):
                    await client.post("/chat/completions", json=ASKED, headers={"x-a": "a\nb"})
            shown += [repr(balancer), repr(balancer.statistics()), repr(balancer._config), str(balancer._config)]
            shown += [repr(attrs.asdict(account)) for account in balancer._config.accounts]
            for supervisor in balancer._supervisors.values():
                link = supervisor.link
                shown += [repr(supervisor), repr(link), repr(link.lines), repr(link.address), repr(link.provider)]
        async with (
            open_balancer(BalancerConfig(accounts=[deaf_one], max_attempts=1)) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        ):
            timeout = httpx.Timeout(2.0, write=0.05)
            await client.post("/chat/completions", json={**ASKED, "x": "x" * 20_000_000}, timeout=timeout)
            await client.post("/chat/completions", json=ASKED, timeout=httpx.Timeout(2.0, read=0.05))
    assert len(refusals) > 5
    shown += [repr(error.decision) + str(error) for error in refusals]
    shown += [told(error) for error in (*refusals[:8], *refusals[-2:])]  # each takes a while
    assert len(shown) > 40
    for text in shown:
        assert_clean(text)
    assert_clean(log())


async def test_key_goes_nowhere_else():
    """A redirect, an absolute URL and a Host of the caller's lead no key to another origin."""
    heard = []

    async def evil(stream, _number):
        heard.append(await receive_request(stream))

    async with open_raw(evil) as elsewhere:

        async def script(stream, _number):
            while request := await receive_request(stream):
                assert b"Host: elsewhere" not in request
                location = f"http://{elsewhere.host}:{elsewhere.port}/v1/x".encode()
                await stream.send_all(b"HTTP/1.1 307 X\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

        async with open_raw(script) as address:
            account = Account(name="a", provider="http", base_url=address.base_url, key=KEY)
            async with open_balancer(BalancerConfig(accounts=[account], health={"consecutive_faults": 1000})) as balancer:
                client = httpx.AsyncClient(transport=balancer.transport(), follow_redirects=True, max_redirects=2)
                async with client:
                    with suppress(httpx.TooManyRedirects):
                        headers = {"host": "elsewhere"}
                        await client.get(f"http://{elsewhere.host}:{elsewhere.port}/v1/x", headers=headers)
    assert heard == []
