"""One table at a time: the path of each fault, what was given, what is allowed."""

from __future__ import annotations

import math

import httpx
import pytest

from balancer.core.health import HealthSettings
from balancer.core.secret import Secret
from balancer.core.settings import Account
from balancer.errors import ConfigError
from balancer.structuring import structure

KEY = "sk-very-secret-0123456789"


def account(name="a", **more):
    return {"name": name, **more}


BAD_ACCOUNTS = [
    ({}, "name: missing; allowed: a text"),
    ({"name": ""}, "name: ''; allowed: a text of 1 to 100 printable characters that does not begin with \"@\""),
    ({"name": "@a"}, "name: '@a'; allowed: a text of 1 to 100 printable characters that does not begin with \"@\""),
    ({"name": 3}, "name: 3; allowed: a text"),
    (account(wieght=1), 'wieght: unknown key (did you mean "weight"?); allowed: name, provider, '),
    ({"name": "a", "a b\n": 1}, "['a b\\n']: unknown key; allowed: name, provider, "),
    (account(weight="3"), "weight: '3'; allowed: a number from 0 to 1e+09"),
    (account(weight=True), "weight: True; allowed: a number"),
    (account(weight=-1), "weight: -1; allowed: a number"),
    (account(weight=math.nan), "weight: nan; allowed: a number"),
    (account(weight={"key": KEY}), "weight: a table; allowed: a number"),
    (account(provider="opnai"), "provider: 'opnai' (did you mean \"openai\"?); allowed: openai, anthropic, http, azure, "),
    (account(provider="http"), 'base_url: missing; allowed: an address: provider "http" has none of its own'),
    (account(base_url="ftp://x"), "base_url: 'ftp://x': a scheme other than http and https"),
    (account(base_url="api.openai.com/v1"), "base_url: 'api.openai.com/v1': a scheme other than http and https"),
    (account(base_url="https:///v1"), "base_url: 'https:///v1': no host"),
    (account(base_url=f"https://u:{KEY}@x/v1"), "base_url: a user or password in the address; allowed"),
    (account(base_url=f"https://x/v1?key={KEY}"), "base_url: a query (params are sent with every request); allowed"),
    (account(base_url="https://x/v1#f"), "base_url: 'https://x/v1#f': a fragment"),
    (account(base_url="https://x/v1/../v2"), "base_url: 'https://x/v1/../v2': a path with dot segments"),
    (account(base_url="https://x/%252e%2e/"), "base_url: 'https://x/%252e%2e/': a path with dot segments"),
    (account(base_url="https://x/a%2Fb"), "base_url: 'https://x/a%2Fb': a path with an encoded slash"),
    (account(base_url="https://x:99999/"), "base_url: 'https://x:99999/': a host or port that is none"),
    (account(base_url="https://[::1/"), "base_url: 'https://[::1/': a host or port that is none"),
    (account(base_url="https://x\n.y/"), "base_url: 'https://x\\n.y/': a character that no address may have"),
    (account(base_url=["https://x"]), "base_url: a list; allowed: a text"),
    (
        account(base_url="http://h/v1/{deployment}"),
        "base_url: 'http://h/v1/{deployment}': a path with characters that no path may",
    ),
    (
        account(base_url=f"ftp://u:{KEY}@x/../"),
        "base_url: a scheme other than http and https, a user or password in the address, a pa",
    ),
    (account(base_url="x" * 3000), f"base_url: '{'x' * 56}...: more than 2048 characters"),
    (account(host="a b"), "host: 'a b'; allowed: a host name"),
    (account(host="h:99999"), "host: 'h:99999'; allowed: a host name"),
    (account(transport=5), "transport: a number; allowed: an httpx.AsyncBaseTransport, made in code"),
    (account(transport=httpx.MockTransport), "transport: a type; allowed: an httpx.AsyncBaseTransport"),
    (account(key=f"{KEY}\n{KEY}"), "key: a value that cannot be sent; allowed"),
    (account(key=KEY + " "), "key: a value with space around it"),
    (account(key=[KEY, KEY + "\n"]), "key[1]: a value with space around it"),
    (account(key=["k", [KEY]]), "key[1]: a value that cannot be sent; allowed"),
    (account(key=[]), "key: an empty list; allowed: at least one"),
    (account(key=KEY, key_env="A"), "key_env: key and key_env together; allowed: only one of key, key_env, key_file"),
    (account(key_env="A", key_file="a"), "key_file: key_env and key_file together; allowed"),
    (account(key_env=KEY), "key_env: a text that names no variable; allowed"),
    (account(key_env={KEY: KEY}), "key_env: a table; allowed: the name of an environment variable"),
    (account(key_env=["A", KEY]), "key_env[1]: a text that names no variable; allowed"),
    (account(key_env=["A", 3]), "key_env[1]: a number; allowed: the name of an environment variable"),
    (account(key_env=[]), "key_env: an empty list; allowed"),
    (account(key_file=""), "key_file: ''; allowed: the path of a file"),
    (account(key_file=["a", ""]), "key_file[1]: ''; allowed: the path of a file"),
    (account(key=[KEY], key_env=["A"]), "key_env: key and key_env together; allowed: only one of key, key_env, key_file"),
    (account(models=["m", 3]), "models[1]: 3; allowed: the name of a model"),
    (account(models={"m": "m", "key": [KEY]}), "models.key: a list; allowed: the name of a model"),
    (account(models="gpt"), "models: 'gpt'; allowed: a list of model names"),
    (account(headers={"X-Y": KEY + "\r\n"}), "headers.X-Y: a value that cannot be sent; allowed"),
    (account(headers={"X Y": KEY}), "headers['X Y']: a name that cannot be sent; allowed"),
    (account(headers={"Content-Length": "3"}), "headers.Content-Length: a name that cannot be set; allowed"),
    (account(headers={"accept-encoding": KEY}), "headers.accept-encoding: a name that cannot be set; allowed"),
    (account(headers=KEY), "headers: a text; allowed: a table"),
    (account(headers={"X-Y": Secret(KEY + "\n")}), "headers.X-Y: a value that cannot be sent; allowed"),
    (account(key=Secret(KEY + "\n")), "key: a value with space around it"),
    (account(key=Secret(KEY + "\n" + KEY)), "key: a value that cannot be sent"),
    (account(params={"p": 3}), "params.p: a number; allowed"),
    (account(auth="basic"), "auth: 'basic'; allowed: \"bearer\", or { header"),
    (account(auth={"header": "X-Y", "key": KEY}), "auth.key: unknown key; allowed: header"),
    (account(auth={"header": "Host"}), "auth.header: 'Host'; allowed: the name of a header"),
    (account(auth={"header": "Accept-Encoding"}), "auth.header: 'Accept-Encoding'; allowed: the name of a header"),
    (account(auth={"header": ["x"]}), "auth: {'header': ['x']}; allowed: \"bearer\", or { header"),
    (account(allow_headers=["ok", "not ok"]), "allow_headers[1]: 'not ok'; allowed: the name of a header"),
    (account(tags="a"), "tags: 'a'; allowed: a list of texts"),
    (account(mock=[KEY]), "mock: a list; allowed: a table"),
    (account(limits=3), "limits: 3; allowed: a table of limits"),
    (account(limits={"concurency": 3}), 'limits.concurency: unknown key (did you mean "concurrency"?); allowed: requests, '),
    (account(limits={"self": 3}), "limits.self: unknown key; allowed"),
    (account(limits={"concurrency": 0}), "limits.concurrency: 0; allowed: a whole number from 1 to 1e+06"),
    (account(limits={"concurrency": 1.0}), "limits.concurrency: 1.0; allowed: a whole number"),
    (account(limits={"requests": "5/fortnight"}), "limits.requests: '5/fortnight'; allowed: \"500/min\""),
    (account(limits={"requests": [{"amount": 5}]}), "limits.requests[0].per: missing; allowed: a number from 1e-06"),
    (account(limits={"requests_per_minute": "500"}), "limits.requests_per_minute: '500'; allowed: a number above 0"),
    (account(limits={"window": "fixed"}), 'limits.window: \'fixed\'; allowed: one of "bucket", "sliding"'),
    (KEY, "the configuration: a text; allowed: a table"),
]


@pytest.mark.parametrize(("given_", "text"), BAD_ACCOUNTS, ids=[f"{n} {text}" for n, (_, text) in enumerate(BAD_ACCOUNTS)])
def test_bad_account(given_, text):
    """A wrong account is one fault with its path, what was given and what is allowed; never a key."""
    with pytest.raises(ConfigError) as caught:
        structure(Account, given_)
    (fault,) = caught.value.faults
    found = str(fault)
    assert found.startswith(text)
    assert KEY not in found


def test_every_fault_of_a_table():
    """One error lists all faults of one table, in its fields' order."""
    with pytest.raises(ConfigError) as caught:
        structure(
            Account, {"weight": -1, "provider": "http", "limits": {"burst": 0, "bust": 1}, "key": KEY, "key_env": "A", "x": 1}
        )
    assert [fault.path for fault in caught.value.faults] == [
        "name",
        "weight",
        "limits.bust",
        "limits.burst",
        "x",
        "key_env",
        "base_url",
    ]


def test_every_fault_of_the_headers():
    """Of each name and each value, those that the transport sets included."""
    with pytest.raises(ConfigError) as caught:
        structure(Account, account(headers={"Host": "x", "A B": KEY + "\n", "TE": "é", "X": KEY, "Y": 3}))
    told = [str(fault).partition(";")[0] for fault in caught.value.faults]
    assert sorted(told) == [
        "headers.Host: a name that cannot be set",
        "headers.TE: a name that cannot be set",
        "headers.TE: a value that cannot be sent",
        "headers.Y: a number",
        "headers['A B']: a name that cannot be sent",
        "headers['A B']: a value that cannot be sent",
    ]


def test_every_fault_of_a_list_of_keys():
    """One error lists them all, each at its place."""
    with pytest.raises(ConfigError) as caught:
        structure(Account, {"name": "a", "key": [" ", "good", "k\u00e9", 3]})
    assert [fault.path for fault in caught.value.faults] == ["key[0]", "key[2]", "key[3]"]


def test_objects_are_checked_too():
    """What only this module knows is checked of objects made in code as well."""
    with pytest.raises(ConfigError, match="base_url: missing"):
        structure(Account, Account(name="a", provider="http"))


def test_what_is_right():
    """A table becomes the object that code would make, and an object itself."""
    made = Account(name="a", key=KEY, limits={"requests_per_minute": 5}, models=["m"], auth={"header": "X-Key"}, tags=["t"])
    given = account(key=KEY, limits={"requests": "5/min"}, models={"m": "m"}, auth={"header": "X-Key"}, tags=["t"])
    assert structure(Account, given) == structure(Account, made) == made
    assert made.key == Secret(KEY)
    assert structure(HealthSettings, {}) == HealthSettings()


@pytest.mark.parametrize(
    "address",
    ["http://localhost", "https://api.example.com/v1/", "http://127.0.0.1:8000/v1", "http://[::1]:8000", "https://x/a%20b/..c"],
)
def test_good_address(address):
    """Hosts by name and number, ports and paths are fine."""
    assert structure(Account, account(provider="http", base_url=address)).base_url == address
