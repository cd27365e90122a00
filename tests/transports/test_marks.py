"""Priority and tenant from request headers: read, never sent on, and a clear error where they are wrong."""

from __future__ import annotations

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from balancer import Account
from balancer.testing.scripted import HTTPReply, ScriptedTransport
from balancer.transports.marks import marks_of
from balancer.transports.rewriting import BadHeader

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = b'{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'


@pytest.mark.parametrize(
    ("headers", "marks"),
    [
        ([], {}),
        ([(b"X-Balancer-Priority", b"7")], {"priority": 7}),
        ([(b"x-balancer-priority", b" -100 ")], {"priority": -100}),
        ([(b"x-balancer-priority", b"+100")], {"priority": 100}),
        ([(b"X-BALANCER-TENANT", b"team a"), (b"x-balancer-priority", b"0")], {"tenant": "team a", "priority": 0}),
        ([(b"x-balancer-tenant", "Jörg".encode())], {"tenant": "Jörg"}),
        ([(b"x-balancer-tenant", b"")], {"tenant": ""}),
        ([(b"x-balancer-other", b"1"), (b"x-stainless-runtime", b"CPython")], {}),
    ],
)
def test_what_headers_say(headers, marks):
    """Both are read whatever the case of their names; others say nothing."""
    assert marks_of(headers) == marks


@pytest.mark.parametrize(
    "value", [b"101", b"-101", b"1.0", b"", b"high", b"1_0", "\u0661".encode(), b"9" * 5000, b"\xff", b"0x1"]
)
def test_a_priority_is_a_small_whole_number(value):
    """Anything else is refused by name, with what is allowed and without the value."""
    with pytest.raises(BadHeader, match=r"^x-balancer-priority: not allowed; allowed: a whole number from -100 to 100$"):
        marks_of([(b"x-balancer-priority", value)])


@pytest.mark.parametrize("value", [b"a\tb", b"\xff", b"a" * 201, b"a\r\nb", "\u200b".encode()])
def test_a_tenant_is_short_and_printable(value):
    """Anything else is refused by name."""
    with pytest.raises(BadHeader, match=r"^x-balancer-tenant: not allowed; allowed: at most 200 printable characters$"):
        marks_of([(b"x-balancer-tenant", value)])


@pytest.mark.parametrize("name", [b"x-balancer-priority", b"x-balancer-tenant"])
def test_given_twice(name):
    """Which of two would count nobody can tell."""
    with pytest.raises(BadHeader, match="given twice"):
        marks_of([(name, b"1"), (name.upper(), b"1")])


@given(st.lists(st.tuples(st.sampled_from([b"x-balancer-priority", b"x-balancer-tenant", b"a" * 17]), st.binary(max_size=300))))
def test_nothing_but_the_documented_error(headers):
    """Whatever bytes come, marks are in range or `BadHeader` is raised."""
    try:
        marks = marks_of(headers)
    except BadHeader:
        return
    assert -100 <= marks.get("priority", 0) <= 100
    assert len(marks.get("tenant", "")) <= 200


def account(transport, provider, **more):
    return Account(name="a", provider=provider, base_url="https://a.test/v1", key="sk-a", transport=transport, **more)


@pytest.mark.parametrize(("provider", "path"), [("openai", "/chat/completions"), ("openai", "/files"), ("http", "/anything")])
async def test_they_are_not_sent_on(provider, path, balancing_once, autojump_clock):
    """For every dialect, plain HTTP too; and they are on the call."""
    backend = ScriptedTransport([HTTPReply(chunks=[ANSWER])])
    headers = {"X-Balancer-Priority": "5", "X-Balancer-Tenant": "team", "x-balancer-else": "1"}
    async with (
        balancing_once(account(backend, provider, allow_headers=["x-balancer-tenant"])) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1", headers=headers) as http,
    ):
        answer = await http.post(path, json=CHAT)
        decision = answer.extensions["balancer"]
        assert (decision.call.priority, decision.call.tenant) == (5, "team")
        assert not [name for name in backend.requests[0].headers if name.startswith("x-balancer")]
        extensions = {"balancer": {"tenant": "other"}}
        answer = await http.post(path, json=CHAT, extensions=extensions)
        assert (answer.extensions["balancer"].call.priority, answer.extensions["balancer"].call.tenant) == (5, "other")


async def test_a_wrong_one_is_the_callers_error(balancing_once, autojump_clock):
    """The library's `LocalProtocolError`, before anything is placed."""
    backend = ScriptedTransport([HTTPReply(chunks=[ANSWER])])
    async with (
        balancing_once(account(backend, "openai")) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as http,
    ):
        with pytest.raises(httpx.LocalProtocolError, match="x-balancer-priority"):
            await http.post("/chat/completions", json=CHAT, headers={"x-balancer-priority": "urgent"})
        assert (backend.requests, balancer.statistics().totals.calls) == ([], 0)


async def test_the_pool_timeout_bounds_the_wait(balancing_once, autojump_clock):
    """And nothing else: an account that comes free before it is waited for."""
    backend = ScriptedTransport([HTTPReply(chunks=[ANSWER])] * 3)
    limits = {"requests": {"amount": 1, "per": 8.0}, "window": "bucket"}
    async with (
        balancing_once(account(backend, "openai", limits=limits)) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as http,
    ):
        timeouts = [httpx.Timeout(1.0, pool=pool) for pool in (10.0, 10.0, 5.0)]
        began_at = trio.current_time()
        answers = [await http.post("/chat/completions", json=CHAT, timeout=timeout) for timeout in timeouts]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[1].extensions["balancer"].waited_for == pytest.approx(8.0, abs=0.1)
        assert 8.0 <= trio.current_time() - began_at < 13.0
