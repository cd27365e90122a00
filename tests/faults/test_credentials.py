"""A backend that refuses one of an account's keys: that credential is disabled, the operator is told once, nobody else is touched."""

from __future__ import annotations

import json
import logging
from collections import Counter

import httpx
import pytest

from balancer import Account, AttemptsFailed, Call, NoAccount, Unauthorized, open_balancer
from balancer.core.outcome import AttemptFailed
from balancer.testing.mock import MockSettings, open_mock
from balancer.testing.mock.record import fingerprint
from balancer.testing.raw import open_raw, receive_request
from balancer.testing.scripted import HTTPReply, ScriptedTransport

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
FIRST = {"selector": lambda accounts, *_: accounts[0]}


def told(caplog, event):
    return [record for record in caplog.records if event in record.getMessage()]


async def test_one_key_refused(caplog):
    """Every call is served, the refused key is asked once, and the account stays as it is: over real connections."""
    caplog.set_level(logging.DEBUG)
    async with open_mock(MockSettings(keys=["sk-good-one", "sk-good-two"])) as backend:
        account = {"name": "a", "base_url": backend.base_url, "key": ["sk-good-one", "sk-revoked", "sk-good-two"]}
        async with (
            open_balancer({"accounts": [account]}) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        ):
            for _ in range(7):
                response = await client.post("/chat/completions", json=ASKED)
                assert response.status_code == 200
            snapshot = balancer.statistics().accounts["a"]
            assert (snapshot.state, snapshot.served, snapshot.refused, snapshot.failed) == ("healthy", 7, 1, 0)
        used = Counter(entry.key for entry in backend.record)
    assert used[fingerprint("sk-revoked")] == 1
    assert sorted(used[fingerprint(key)] for key in ("sk-good-one", "sk-good-two")) == [3, 4]
    [event] = told(caplog, "balancer.credential_disabled")
    assert "account='a'" in event.getMessage()
    assert "place=1" in event.getMessage()
    assert not told(caplog, "balancer.account_")
    assert "sk-" not in caplog.text


async def test_every_key_refused(balancing, autojump_clock, caplog):
    """The account is disabled with its last credential, each is told once, and new settings lift it."""

    async def attempt(lease):
        if lease.credential.reveal() != "sk-new":
            raise AttemptFailed(Unauthorized())
        return lease.credential.reveal()

    async with balancing({"name": "a", "key": ["sk-one", "sk-two"]}) as balancer:
        for _ in range(2):
            with pytest.raises((AttemptsFailed, NoAccount)):
                await balancer.run(Call(), attempt)
        assert balancer.statistics().accounts["a"].state == "disabled"
        places = [record.getMessage().partition("place=")[2][:1] for record in told(caplog, "balancer.credential_disabled")]
        assert places == ["0", "1"]
        assert len(told(caplog, "balancer.account_disabled")) == 1
        await balancer.reconfigure(balancing.config({"name": "a", "key": ["sk-new", "sk-two"]}))
        assert await balancer.run(Call(), attempt) == "sk-new"
    assert "sk-" not in caplog.text


async def test_other_accounts_are_untouched(balancing_once, autojump_clock):
    """What one account's credential suffers says nothing about another account with the same one."""
    seen = []

    async def attempt(lease):
        seen.append((lease.account.name, lease.credential.reveal()))
        if seen[-1] == ("a", "one"):
            raise AttemptFailed(Unauthorized())

    accounts = [{"name": "a", "key": ["one", "two"]}, {"name": "b", "key": "one"}]
    async with balancing_once(*accounts, **FIRST) as balancer:
        for _ in range(3):
            await balancer.run(Call(), attempt)
        states = {name: snapshot.state for name, snapshot in balancer.statistics().accounts.items()}
        assert states == {"a": "healthy", "b": "healthy"}
    assert seen == [("a", "one"), ("a", "two"), ("a", "two"), ("a", "two")]


KEYS = ["sk-canary-one", 'sk-"two"/canary', "short"]


@pytest.mark.parametrize("status", [400, 401, 404, 500])
@pytest.mark.parametrize("path", ["/chat/completions", "/files"])
async def test_error_bodies_that_quote_a_key(status, path):
    """An account's keys are masked in the error that reaches the caller, as they are and as JSON has them; it stays readable."""
    quoted = json.dumps({"error": {"message": f"Incorrect API key provided: {KEYS}. Bearer {KEYS[1]}", "sent": KEYS[2]}})
    body = quoted.replace("/", "\\/").encode() + KEYS[0].encode()

    async def script(stream, _number):
        while await receive_request(stream):
            head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            await stream.send_all(head + body)

    async with open_raw(script) as address:
        account = {"name": "a", "base_url": address.base_url, "key": KEYS[:2]}
        settings = {"accounts": [account], "balancer": {"max_attempts": 1}}
        async with (
            open_balancer(settings) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        ):
            response = await client.post(path, json=ASKED)
    assert response.status_code == status
    assert "canary" not in response.text
    assert response.text.endswith("***")
    assert json.loads(response.text[:-3])["error"]["sent"] == "short"
    assert response.headers.get("content-length", str(len(response.content))) == str(len(response.content))


async def test_good_answers_are_not_touched(balancing_once, autojump_clock):
    """What was served is the application's, whatever is in it; and a short key masks nothing."""
    body = b'{"choices":[],"said":"sk-canary-one"}'
    for reply, key in ((HTTPReply(200, chunks=[body]), "sk-canary-one"), (HTTPReply(400, chunks=[body]), "choices")):
        account = Account(name="a", base_url="http://a.test/v1", key=key, transport=ScriptedTransport([reply]))
        async with (
            balancing_once(account) as balancer,
            httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
        ):
            assert (await client.post("/chat/completions", json=ASKED)).content == body
