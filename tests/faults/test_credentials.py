"""A backend that refuses one of an account's keys: that credential is disabled, the operator is told once, nobody else is touched."""

from __future__ import annotations

import logging
from collections import Counter

import httpx
import pytest

from balancer import AttemptsFailed, Call, NoAccount, Unauthorized, open_balancer
from balancer.core.outcome import AttemptFailed
from balancer.testing.mock import MockSettings, open_mock
from balancer.testing.mock.record import fingerprint

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
