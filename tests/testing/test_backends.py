"""Backends for the mock accounts of a configuration."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager

import httpx
import pytest

from balancer import BalancerConfig, ConfigError, Secret, open_balancer
from balancer.testing import mock_backends
from balancer.testing.backends import open_backends, read_config

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
CONFIG = {
    "accounts": [
        {"name": "a", "provider": "mock", "mock": {"output_tokens": 3}},
        {"name": "b", "provider": "mock", "mock": {"speaks": "anthropic"}},
        {"name": "c", "provider": "openai", "key": "sk-real"},
    ]
}


async def test_mock_accounts_become_real_ones():
    """A mock account gets the provider it speaks, an address on loopback and a key; a real one stays as it is."""
    async with mock_backends(CONFIG) as config:
        a, b, c = config.accounts
        assert (a.provider, b.provider, c.provider) == ("openai", "anthropic", "openai")
        assert a.base_url.startswith("http://127.0.0.1:")
        assert a.base_url != b.base_url
        assert a.key != b.key is not None
        assert (c.base_url, c.key) == (None, Secret("sk-real"))


@pytest.mark.parametrize("form", ["mapping", "config", "path"])
async def test_every_form_of_a_configuration_is_taken(form, tmp_path):
    """A mapping, a `BalancerConfig` and the path of a file serve calls alike."""
    (tmp_path / "config.toml").write_text('[[accounts]]\nname = "a"\nprovider = "mock"\n')
    mapping = {"accounts": [{"name": "a", "provider": "mock"}]}
    forms = {"mapping": mapping, "config": BalancerConfig.parse(mapping), "path": tmp_path / "config.toml"}
    async with (
        mock_backends(forms[form]) as config,
        open_balancer(config) as balancer,
        httpx.AsyncClient(transport=balancer.transport()) as client,
    ):
        response = await client.post("http://balancer/v1/chat/completions", json=CHAT)
        assert response.status_code == 200


async def test_backends_tell_what_they_saw():
    """What a call did is judged from the backend of its account."""
    config = {"accounts": [{"name": "a", "provider": "mock", "key": "given", "mock": {"keys": ["other", "given"]}}]}
    async with open_backends(config) as backends, open_balancer(backends.config) as balancer:
        async with httpx.AsyncClient(transport=balancer.transport()) as client:
            assert (await client.post("http://balancer/v1/chat/completions", json=CHAT)).status_code == 200
        async with httpx.AsyncClient() as client:
            address = backends.config.accounts[0].base_url.removesuffix("/v1")
            record = json.loads((await client.get(f"{address}/__record__")).content)
        assert backends.by_account["a"].counts().served == record["counts"]["served"] == 1


async def test_a_made_up_key_is_one_that_the_backend_accepts():
    """Where the backend knows its keys and the account gives none, the first of them is used."""
    config = {"accounts": [{"name": "a", "provider": "mock", "mock": {"keys": ["first", "second"]}}]}
    async with mock_backends(config) as ready:
        assert ready.accounts[0].key == Secret("first")


FAULTY = '[[accounts]]\nname = "a"\nprovider = "mock"\nwight = 1\n[accounts.mock]\nlatency = -1\nheaders = "x"\n'


@contextmanager
def as_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(FAULTY)
    yield path


@contextmanager
def as_pipe(tmp_path):
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "w") as stream:
            stream.write(FAULTY)
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)


@pytest.mark.parametrize("given_as", [as_file, as_pipe])
def test_faults_of_both_halves_come_together(given_as, tmp_path):
    """A file's own faults and those inside `[accounts.mock]` are one error, of what can be read a single time, too."""
    with given_as(tmp_path) as path, pytest.raises(ConfigError) as caught:
        read_config(path)
    assert {fault.path for fault in caught.value.faults} == {
        "accounts[0].wight",
        "accounts[0].mock.latency",
        "accounts[0].mock.headers",
    }


@pytest.mark.parametrize("given", ["/nowhere/at/all.toml", {}, {"accounts": 3}, {"accounts": [3]}, 7])
def test_what_is_no_configuration_is_a_config_error(given):
    """Nothing but the documented error leaves, whatever was given."""
    with pytest.raises(ConfigError):
        read_config(given)


@pytest.mark.parametrize(
    ("account", "path"),
    [
        ({"provider": "mock", "mock": 3}, "accounts[0].mock"),
        ({"provider": "mock", "base_url": "http://127.0.0.1:1/v1"}, "accounts[0].base_url"),
        ({"provider": "openai", "key": "k", "mock": {"latency": 1}}, "accounts[0].mock"),
    ],
)
def test_mock_settings_stand_only_where_a_backend_is_started(account, path):
    """Settings that nothing would read are a fault, told once."""
    with pytest.raises(ConfigError) as caught:
        read_config({"accounts": [{"name": "a", **account}]})
    assert [fault.path for fault in caught.value.faults] == [path]
