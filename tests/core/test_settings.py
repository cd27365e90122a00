"""Accounts, limits and pools as data: their forms, and the fault of every wrong one."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.limits import Limits, Rate, parse_rates
from balancer.core.secret import Secret
from balancer.core.settings import Account, Pool
from balancer.errors import ConfigError

KEY = "sk-canary-0123456789"

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["5/s", "a", 10**400]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["amount", "per", "self", "header"]), inner, max_size=4)
    ),
    max_leaves=8,
)


def faults_of(make, *given_, **named):
    with pytest.raises(ConfigError) as caught:
        make(*given_, **named)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("form", "rate"),
    [
        ("500/min", Rate(500, 60)),
        ("500/minute", Rate(500, 60)),
        ("2.5/s", Rate(2.5, 1)),
        ("1/second", Rate(1, 1)),
        ("9/h", Rate(9, 3600)),
        ("10000/day", Rate(10000, 86400)),
        ({"amount": 5, "per": 2.0}, Rate(5, 2)),
        (Rate(3, 4), Rate(3, 4)),
    ],
)
def test_forms_of_a_rate(form, rate):
    """A string, a table, or a rate."""
    assert Rate.parse(form) == rate
    assert parse_rates([form, form]) == (rate, rate)


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        ("0/min", ["the configuration: '0/min'; allowed: \"500/min\""]),
        ("500/fortnight", ["the configuration: '500/fortnight'; allowed"]),
        ("\u0665/min", ["the configuration: '\u0665/min'; allowed"]),
        ("1_0/min", ["the configuration: '1_0/min'; allowed"]),
        (500, ["the configuration: 500; allowed"]),
        ({"amount": 5}, ["per: missing; allowed: a number from 1e-06"]),
        ({"amount": 0, "per": math.inf, "x": 1}, ["x: unknown key", "amount: 0; allowed", "per: inf; allowed"]),
        ({"amount": True, "per": "2"}, ["amount: True; allowed", "per: '2'; allowed"]),
        ({"amount": 5, "per": 5e-324}, ["per: 5e-324; allowed: a number from 1e-06"]),
    ],
)
def test_a_wrong_rate(form, texts):
    """Every fault of it, with its place in a list."""
    found = faults_of(Rate.parse, form)
    assert len(found) == len(texts)
    assert all(fault.startswith(text) for fault, text in zip(found, texts, strict=True))
    assert all(fault.startswith("[1]") for fault in faults_of(parse_rates, ["5/s", form]))


def test_short_forms_join_the_long_ones():
    """Every dimension, every period."""
    limits = Limits(requests=["5/s", {"amount": 7, "per": 3.0}], requests_per_minute=100, input_tokens_per_day=1e6)
    assert limits.requests == (Rate(5, 1), Rate(7, 3), Rate(100, 60))
    assert list(limits.rates()) == [*(("requests", rate) for rate in limits.requests), ("input_tokens", Rate(1e6, 86400))]
    assert attrs.evolve(limits, concurrency=3).requests == limits.requests


@pytest.mark.parametrize(
    ("table", "texts"),
    [
        ({"self": 1}, ["self: unknown key; allowed: known: requests, "]),
        ({"requests_per_minute": "5/min"}, ["requests_per_minute: '5/min'; allowed: a number above 0"]),
        ({"requests_per_week": 5}, ["requests_per_week: unknown key"]),
        ({"requests": ["5/s", "x"]}, ["requests[1]: 'x'; allowed"]),
        ({"concurrency": True, "window": "fixed"}, ["concurrency: True; allowed", "window: 'fixed'; allowed"]),
        ({"requests": "5/s", "burst": 6}, ["burst: 6; allowed: at most 5, the amount of requests per 1 s"]),
        (
            {"tokens": ["5/s", "60/min"], "input_tokens": "9/s", "burst": 10},
            [
                "burst: 10; allowed: at most 5, the amount of tokens",
                "burst: 10; allowed: at most 9, the amount of input_tokens",
            ],
        ),
        ({"shared": ["org", "team", "org"]}, ["shared[2]: 'org'; allowed: a name that shared[0] does not have"]),
        ({3: 4}, ["3: unknown key; allowed: texts as keys"]),
        (3, ["the configuration: 3; allowed: a table of limits"]),
    ],
)
def test_wrong_limits(table, texts):
    """One error with every fault; a burst is held against every rate it would bound."""
    found = faults_of(Limits.parse, table)
    assert len(found) == len(texts)
    assert all(fault.startswith(text) for fault, text in zip(found, texts, strict=True))


def test_a_burst_up_to_the_amount():
    """All of the smallest rate, or less."""
    assert Limits(requests=["5/s", "60/min"], burst=5).burst == 5
    assert Limits(burst=1e9).burst == 1e9


def test_a_burst_is_of_the_requests_of_the_shortest_period():
    """A bucket of five tokens, or one that gives five calls of a day's, would admit next to nothing."""
    limits = Limits(requests=["60/min", "1000/day"], tokens_per_minute=9000, burst=5)
    assert [(terms.dimension, terms.burst) for terms in limits.terms({})] == [
        ("requests", 5),
        ("requests", 1000),
        ("tokens", 9000),
    ]
    own = Limits(tokens={"amount": 9000, "per": 60.0, "burst": 50}, requests="60/min")
    assert [terms.burst for terms in own.terms({})] == [60, 50]


@given(ANYTHING)
def test_nothing_but_the_documented_error_leaves_a_parser(value):
    """Whatever is given, alone or as any field."""
    makers = [Limits.parse, Rate.parse, parse_rates, lambda given_: Pool(name="p", tiers=given_)]
    names = (
        *("name", "provider", "base_url", "key", "key_env", "key_file", "models", "weight", "limits", "headers", "params"),
        *("auth", "host", "tags", "allow_headers"),
    )
    makers += [lambda given_, name=name: Account(**{"name": "a", name: given_}) for name in names]
    makers += [lambda given_, name=name: Limits(**{name: given_}) for name in (*Limits.keys(), "self")]
    for make in makers:
        try:
            make(value)
        except ConfigError as error:
            assert str(error)


def test_forms_of_an_account():
    """Code takes what a file takes."""
    account = Account(
        name="a",
        key=KEY,
        models=["m"],
        limits={"requests_per_minute": 5},
        auth={"header": "X-Key"},
        tags=["t"],
        headers={"X-Y": "z"},
    )
    assert account.key == Secret(KEY)
    assert account.models == {"m": "m"}
    assert account.limits == Limits(requests_per_minute=5)
    assert (account.auth, account.tags, account.weight) == ({"header": "X-Key"}, ("t",), 1.0)
    assert hash(account) == hash(attrs.evolve(account))


@pytest.mark.parametrize("given_", [(), None, KEY, [KEY], (KEY, Secret("other"))])
def test_keys_of_an_account(given_):
    """None, one or several: `keys` has them in the order given, none of them is shown, and an evolved account keeps them."""
    account = Account(name="a", key=given_ or None)
    texts = [KEY] if isinstance(given_, str) else given_ or ()
    assert account.keys == tuple(text if isinstance(text, Secret) else Secret(text) for text in texts)
    assert attrs.evolve(account, weight=2.0).keys == account.keys
    assert KEY not in repr(account) + repr(attrs.asdict(account))
    assert hash(account) == hash(attrs.evolve(account))


def test_model_names():
    """Mapped to the account's own, kept where no list is given, absent where not offered."""
    assert Account(name="a").model_name("any") == "any"
    assert Account(name="a", models={"m": "m-2026"}).model_name("m") == "m-2026"
    assert Account(name="a", models={"m": "m-2026"}).model_name("m-2026") is None
    assert Account(name="a", models=["m"]).model_name(None) is None


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"name": 3}, "name: 3; allowed: a text"),
        ({"weight": -1}, "weight: -1; allowed: a number from 0"),
        ({"key": KEY + "\n"}, "key: a value that cannot be sent; allowed"),
        ({"key": ""}, "key: a value that cannot be sent; allowed"),
        ({"key_env": {KEY: KEY}}, "key_env: a value of type dict; allowed: a text, or a list of texts"),
        ({"key_file": ["a", [KEY]]}, "key_file[1]: a value of type list; allowed: a text, or a list of texts"),
        ({"key": ["good", KEY + "\n"]}, "key[1]: a value that cannot be sent; allowed"),
        ({"key": []}, "key: an empty list; allowed: at least one"),
        ({"models": ["m", 3]}, "models: ['m', 3]; allowed: a list of model names"),
        ({"models": {"m": ""}}, "models: {'m': ''}; allowed"),
        ({"headers": {"X": KEY + "\r\n"}}, "headers: a table with a name or value that no header may have; allowed"),
        ({"params": {"k": [KEY]}}, "params: a table with a name"),
        ({"auth": "basic"}, "auth: 'basic'; allowed"),
        ({"auth": "Bearer " + KEY}, "auth: a text that names no way; allowed"),
        ({"tags": "t"}, "tags: 't'; allowed: a list of texts"),
        ({"limits": {"requests": ["x"]}}, "limits.requests[0]: 'x'; allowed"),
    ],
)
def test_a_wrong_account(wrong, text):
    """The field is named, a credential is not shown."""
    (found,) = faults_of(Account, **({"name": "a"} | wrong))
    assert found.startswith(text)
    assert KEY not in found


def test_a_name_is_required():
    """Of an account and of a pool."""
    with pytest.raises(TypeError, match="name"):
        Account()
    with pytest.raises(TypeError, match="name"):
        Pool(tiers=[])


def test_values_that_may_be_credentials_are_not_shown():
    """The repr of an account, and the tree of its values, name its headers and parameters only."""
    account = Account(name="a", key=KEY, headers={"X-Token": KEY, "X-Other": KEY}, params={"api-key": KEY})
    assert KEY not in repr(account) + str(attrs.asdict(account))
    assert "headers={'X-Token': Secret(***), 'X-Other': Secret(***)}, params={'api-key': Secret(***)}" in repr(account)


def test_forms_of_a_pool():
    """Lists of names, as lists or tuples."""
    assert Pool(name="p", tiers=[["a", "b"], ["@q"]]).tiers == (("a", "b"), ("@q",))


@pytest.mark.parametrize(
    ("tiers", "texts"),
    [
        (3, ["tiers: 3; allowed: a list of tiers"]),
        ("ab", ["tiers: 'ab'; allowed: a list of tiers"]),
        (["a", ["b"], 3], ["tiers[0]: 'a'; allowed: a list of texts", "tiers[2]: 3; allowed"]),
        ([["a", 3]], ["tiers[0]: ['a', 3]; allowed"]),
    ],
)
def test_a_wrong_pool(tiers, texts):
    """Every tier that is wrong, by its place."""
    found = faults_of(Pool, name="p", tiers=tiers)
    assert len(found) == len(texts)
    assert all(fault.startswith(text) for fault, text in zip(found, texts, strict=True))


def test_integers_that_python_does_not_print():
    """Their fault is told all the same."""
    huge = 10**5000
    for make in (Limits.parse, Rate.parse, parse_rates):
        assert faults_of(make, huge)
    assert faults_of(Limits, requests_per_minute=huge)
    assert faults_of(Limits, burst=huge)
    assert faults_of(Account, name=huge)
    assert faults_of(Pool, name="p", tiers=[[huge]])
