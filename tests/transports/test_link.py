"""One account's address and lines."""

from __future__ import annotations

from math import inf

import httpx
import pytest
import trio

from balancer import Account, BalancerConfig, open_balancer
from balancer.testing.raw import open_raw, receive_request
from balancer.testing.scripted import HTTPReply, ScriptedTransport
from balancer.transports.connections import Connections
from balancer.transports.link import AccountLink, InjectedLines

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def serve(stream, _number):
    while await receive_request(stream):
        await stream.send_all(OK)


async def exchange(link):
    lines = link.lines
    line = lines.take()
    response = await line.send(b"GET", b"/v1/x", [(b"host", b"a.example")], b"", {})
    body = b"".join([chunk async for chunk in response.stream])
    await response.stream.aclose()
    return line, lines, body


async def test_keeps_connections_until_they_expire():
    """A line given back is kept, and whoever watches the timer is told."""
    async with open_raw(serve) as address:
        link = AccountLink(Account(name="a", base_url=address.base_url))
        told = []
        link.changed = lambda: told.append(link.next_change(trio.current_time()))
        assert link.next_change(0.0) == inf
        line, lines, body = await exchange(link)
        link.give_back(line, lines)
        assert body == b"{}"
        assert told == [pytest.approx(trio.current_time() + 5.0, abs=0.5)]
        link.expire(told[0])
        assert link.lines.idle == 0
        link.abort()


async def test_reconfigured_elsewhere():
    """Another address means other lines: idle ones are closed, and what was in use is not kept when it comes back."""
    async with open_raw(serve) as address, open_raw(serve) as other:
        link = AccountLink(Account(name="a", base_url=address.base_url))
        line, lines, _ = await exchange(link)
        link.give_back(line, lines)
        line, lines, _ = await exchange(link)
        link.reconfigure(Account(name="a", base_url=other.base_url))
        assert link.lines is not lines
        link.give_back(line, lines)
        assert (lines.idle, lines.in_use) == (0, 0)
        assert link.next_change(0.0) == inf
        link.abort()


async def test_reconfigured_in_place():
    """A new key or limit keeps the lines."""
    link = AccountLink(Account(name="a", base_url="http://a.test", key="one"))
    lines = link.lines
    link.reconfigure(Account(name="a", base_url="http://a.test", key="two"))
    assert link.lines is lines
    assert (b"authorization", b"Bearer two") in link.address.own_headers


@pytest.mark.parametrize(
    ("account", "kind"),
    [
        (Account(name="a", base_url="http://a.test"), Connections),
        (Account(name="a"), Connections),
        (Account(name="a", transport=ScriptedTransport()), InjectedLines),
    ],
)
def test_lines_of_an_account(account, kind):
    """Real connections, or the transport given in code; the repr shows no credential."""
    link = AccountLink(account)
    assert isinstance(link.lines, kind)
    assert repr(link) == "AccountLink('a')"


async def test_idle_connections_are_closed_on_time():
    """A supervisor closes its idle connections when their time is over, without a call that looks for one."""
    closed = trio.Event()

    async def script(stream, number):
        await serve(stream, number)
        closed.set()

    async with open_raw(script) as address:
        account = {"name": "a", "base_url": address.base_url}
        async with open_balancer({"accounts": [account]}) as balancer:
            link = balancer._supervisors["a"].link
            link.lines._keepalive_expiry = 0.05
            async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client:
                await client.get("/x")
                assert link.lines.idle == 1
                with trio.fail_after(2):
                    await closed.wait()
                assert link.lines.idle == 0


async def test_injected_stream_that_is_ended():
    """Whoever reads from a transport given in code is woken when the balancer ends the line, and so is who comes later."""
    transport = ScriptedTransport([HTTPReply(chunks=[b"a", b"b"], chunk_after=0.01)])
    link = AccountLink(Account(name="a", base_url="http://a.test", transport=transport))
    line = link.lines.take()
    response = await line.send(b"GET", b"/", [], b"", {})
    chunks = aiter(response.stream)
    assert await anext(chunks) == b"a"

    async def read():
        with pytest.raises(httpx.ReadError):
            await anext(chunks)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked(0.001)
        link.lines.discard(line)
    await read()
    await response.stream.aclose()
    assert transport.bodies[0].closed
    link.lines.discard(link.lines.take())


async def test_key_rotation_in_flight():
    """What is in flight keeps the old key, what comes after uses the new one, over the same connections."""
    received, go_on = [], trio.Event()

    async def script(stream, _number):
        while request := await receive_request(stream):
            received.append(request)
            if len(received) == 1:
                await go_on.wait()
            await stream.send_all(OK)

    async with open_raw(script) as address:

        def config(key):
            return BalancerConfig(accounts=[Account(name="a", base_url=address.base_url, key=key)])

        async with (
            open_balancer(config("sk-old")) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(client.get, "/one")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await balancer.reconfigure(config("sk-new"))
            await client.get("/two")
            go_on.set()
    assert [b"sk-old" in received[0], b"sk-new" in received[1]] == [True, True]


async def test_new_settings_lead_no_key_to_the_old_address():
    """A request whose kept connection turns out to be closed goes out again as it began: the old key to the old address."""
    heard, asked, go_on = [], trio.Event(), trio.Event()

    async def old(stream, _number):
        while request := await receive_request(stream):
            heard.append(request)
            if len(heard) == 2:
                asked.set()
                await go_on.wait()
                return
            await stream.send_all(OK)

    async with open_raw(old) as address, open_raw(serve) as other:

        def config(at, *keys):
            return BalancerConfig(accounts=[Account(name="a", base_url=at.base_url, key=keys)])

        async with (
            open_balancer(config(address, "sk-old", "sk-older")) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
            trio.open_nursery() as nursery,
        ):
            await client.get("/one")
            nursery.start_soon(client.get, "/two")
            await asked.wait()
            await balancer.reconfigure(config(other, "sk-new", "sk-newer"))
            go_on.set()
    assert [b"sk-new" in request for request in heard] == [False] * 3
    assert [b"sk-older" in request for request in heard] == [False, True, True]


async def test_requests_take_turns_among_keys():
    """Each carries the key of its lease and no other, over the same connections."""
    heard = []

    async def script(stream, _number):
        while request := await receive_request(stream):
            heard.append(request)
            await stream.send_all(OK)

    async with open_raw(script) as address:
        account = Account(name="a", base_url=address.base_url, key=["sk-one", "sk-two"], auth={"header": "X-Key"})
        async with (
            open_balancer(BalancerConfig(accounts=[account])) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        ):
            for _ in range(4):
                await client.get("/x", headers={"x-key": "mine"})
    sent = [[line for line in request.lower().split(b"\r\n") if line.startswith(b"x-key:")] for request in heard]
    assert sent == [[b"x-key: sk-one"], [b"x-key: sk-two"]] * 2


async def test_nothing_is_charged_for_what_was_not_sent():
    """A request that cannot be sent is not charged, on a kept connection either."""
    async with open_raw(serve) as address:
        account = {"name": "a", "base_url": address.base_url, "limits": {"requests_per_day": 3}}
        async with (
            open_balancer({"accounts": [account]}) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        ):
            await client.get("/x")
            for _ in range(3):
                with pytest.raises(httpx.LocalProtocolError):
                    await client.get("/x", headers={"x-a": "b\nc"})
            assert round(balancer.statistics().accounts["a"].room("requests", trio.current_time())) == 2


async def test_what_waits_for_a_connection_keeps_its_room():
    """A quota that refills in a tenth of a second is not counted on again before the request that has it is written."""

    async def silent(_stream, _number):
        await trio.sleep_forever()

    limits = {"requests": {"amount": 60, "per": 6.0, "burst": 2}}
    async with open_raw(silent) as address:
        account = Account(name="a", base_url=address.base_url.replace("http:", "https:"), limits=limits)

        def used(balancer):
            (view,) = balancer.statistics().accounts["a"].dimensions
            return view.used(trio.current_time())

        async with (
            open_balancer(BalancerConfig([account])) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        ):
            with trio.move_on_after(0.4):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.get, "/models")
                    await trio.sleep(0.3)
                    assert used(balancer) >= 1.0
            assert used(balancer) == 0.0
