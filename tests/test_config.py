"""The configuration: what is understood, and that every fault is named and no key is shown."""

from __future__ import annotations

import datetime
import math
import string
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config import BalancerConfig, LiteralKeyWarning, pool_tiers, resolve_keys
from balancer.core.budget import RetrySettings
from balancer.core.health import HealthSettings
from balancer.core.hedging import HedgeSettings
from balancer.core.limits import Limits
from balancer.core.secret import Secret
from balancer.core.settings import Account, Pool
from balancer.errors import ConfigError
from balancer.routing.table import RouteSettings

KEY = "sk-very-secret-0123456789"

EXAMPLE = """
[balancer]
selector = "least_pressure"
max_waiting = 1000
[hedge]
enabled = true
delay = 2.0
max_extra_ratio = 0.05
[[accounts]]
name = "team-a"
provider = "openai"
key_env = "OPENAI_KEY_A"
weight = 3
models = { "gpt-4o" = "gpt-4o-2024-11-20", "gpt-4o-mini" = "gpt-4o-mini" }
limits = { requests_per_minute = 500, tokens_per_minute = 30000, concurrency = 32, window = "bucket" }
[[accounts]]
name = "team-b"
provider = "anthropic"
key_file = "b.key"
limits = { requests = [{ amount = 5, per = 2.0 }, "10000/day"] }
[[accounts]]
name = "local"
provider = "http"
base_url = "http://[::1]:8000/v1"
auth = { header = "X-Api-Key" }
headers = { "X-Team" = "red" }
params = { "api-version" = "2024-10-21" }
weight = 0
[[pools]]
name = "chat"
tiers = [["team-a", "team-b"], ["@spare"]]
[[pools]]
name = "spare"
tiers = [["local"]]
[[routes]]
model = "gpt-4o"
pool = "chat"
fallback_models = ["gpt-4o-mini"]
"""


def account(name="a", **more):
    return {"name": name, **more}


def faults_of(document):
    with pytest.raises(ConfigError) as caught:
        BalancerConfig.parse(document)
    return {fault.path: str(fault) for fault in caught.value.faults}


@pytest.fixture
def example(tmp_path, monkeypatch):
    path = tmp_path / "balancer.toml"
    path.write_text(EXAMPLE)
    (tmp_path / "b.key").write_text(KEY + "\n")
    monkeypatch.setenv("OPENAI_KEY_A", KEY)
    return path


def test_example_loads(example):
    """The documented layout is understood whole."""
    config = BalancerConfig.load(example)
    first, second, third = config.accounts
    assert first.key == second.key == Secret(KEY)
    assert third.key is None
    assert first.models == {"gpt-4o": "gpt-4o-2024-11-20", "gpt-4o-mini": "gpt-4o-mini"}
    assert first.limits == Limits(requests_per_minute=500, tokens_per_minute=30000, concurrency=32)
    assert third.auth == {"header": "X-Api-Key"}
    assert config.hedge == HedgeSettings(enabled=True, delay=2.0, max_extra_ratio=0.05)
    assert config.routes == (RouteSettings(model="gpt-4o", pool="chat", fallback_models=("gpt-4o-mini",)),)
    assert pool_tiers(config)["chat"] == (("team-a", "team-b"), ("local",))
    assert BalancerConfig.of(str(example)) == config


def test_defaults():
    """Everything but the accounts has a default."""
    config = BalancerConfig([Account(name="a")])
    assert config == BalancerConfig.parse({"accounts": [account()]})
    assert (config.selector, config.max_waiting, config.max_wait_for, config.max_attempts) == ("least_pressure", 1000, 60.0, 3)
    assert (config.drain_timeout, config.headers_timeout, config.idle_timeout, config.seed) == (10.0, 600.0, 600.0, None)
    assert (config.hedge, config.retry, config.health) == (HedgeSettings(), RetrySettings(), HealthSettings())
    assert pool_tiers(config) == {"default": (("a",),)}


def test_code_takes_what_toml_takes():
    """Classes and mappings make the same configuration."""
    made = BalancerConfig(
        accounts=[Account(name="a", limits=Limits(requests="5/s")), {"name": "b", "models": ["m"]}],
        pools=[Pool(name="p", tiers=[["a"], ["b"]])],
        routes=[{"model": "m", "pool": "p"}],
        max_waiting=5,
        health={"consecutive_faults": 2},
    )
    parsed = BalancerConfig.parse(
        {
            "balancer": {"max_waiting": 5},
            "accounts": [account("a", limits={"requests": "5/s"}), account("b", models={"m": "m"})],
            "pools": [{"name": "p", "tiers": [["a"], ["b"]]}],
            "routes": [{"model": "m", "pool": "p"}],
            "health": {"consecutive_faults": 2},
        }
    )
    assert made == parsed
    assert hash(made) == hash(parsed)
    assert BalancerConfig.of(made) is made


@pytest.mark.parametrize("forever", [None, False, math.inf])
def test_wait_without_end(forever):
    """`None`, `False` and `inf` wait for ever."""
    assert BalancerConfig([account()], max_wait_for=forever).max_wait_for == math.inf


def choose_first(candidates, demand, now, rng):
    return candidates[0]


def test_selector_forms():
    """A selector is a name, `module:function`, or the function itself."""
    assert BalancerConfig([account()], selector=choose_first).selector is choose_first
    assert BalancerConfig([account()], selector="random").selector == "random"
    assert BalancerConfig([account()], selector="math:fsum").selector == "math:fsum"


async def choose_later(candidates, demand, now, rng):
    return candidates[0]


class ChooseLater:
    async def __call__(self, candidates, demand, now, rng):
        return candidates[0]


@pytest.mark.parametrize(
    ("selector", "name"), [(choose_later, "choose_later"), (ChooseLater(), "ChooseLater"), ("trio:sleep", "'trio:sleep'")]
)
def test_a_selector_is_no_async_function(selector, name):
    """It is called where nothing can be awaited, and the fault says so, not that it chose a wrong account."""
    with pytest.raises(ConfigError, match=f"selector: {name} is async; allowed: a plain function"):
        BalancerConfig([account()], selector=selector)


@pytest.mark.parametrize("body", ["raise SystemExit", "1 / 0", "def (", "raise ImportError('sk-no')"])
def test_selector_module_that_fails(tmp_path, monkeypatch, body):
    """Whatever a selector's module does when imported, it is a fault of the selector."""
    (tmp_path / "failing_selector.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="selector: 'failing_selector:f' cannot be imported"):
        BalancerConfig([account()], selector="failing_selector:f")


def test_mock_table_is_kept():
    """The table of a mock backend goes on as it is."""
    config = BalancerConfig.parse({"accounts": [account(provider="mock", mock={"latency": 0.1, "keys": [KEY]})]})
    assert config.accounts[0].mock == {"latency": 0.1, "keys": [KEY]}


def test_faults_of_an_account_have_their_place():
    """A fault inside a part is seen from the document."""
    found = faults_of({"accounts": [account("ok"), account(limits={"concurrency": 0}), KEY, {"name": "b", "a b": 1}]})
    assert set(found) == {"accounts[1].limits.concurrency", "accounts[2]", "accounts[3]['a b']"}
    assert KEY not in str(found)


TWO = [account("a"), account("b")]
BAD_DOCUMENTS = [
    ({}, "accounts: none; allowed: at least one account: [[accounts]]"),
    ({"accounts": []}, "accounts: none; allowed: at least one account"),
    ({"accounts": account(key=KEY)}, "accounts: a table; allowed: a list of tables: [[accounts]]"),
    ([], "the configuration: a list; allowed: a table"),
    ({"accounts": TWO, "account": []}, 'account: unknown key (did you mean "accounts"?); allowed: balancer, accounts'),
    ({"accounts": TWO, "max_waiting": 1}, "max_waiting: unknown key; allowed: balancer.max_waiting: it belongs into"),
    ({"accounts": TWO, "balancer": 1}, "balancer: a number; allowed: a table"),
    ({"accounts": TWO, "balancer": {"max_wating": 1}}, 'balancer.max_wating: unknown key (did you mean "max_waiting"?)'),
    ({"accounts": TWO, "balancer": {"max_waiting": -1}}, "balancer.max_waiting: -1; allowed: a whole number from 0"),
    ({"accounts": TWO, "balancer": {"max_waiting": 1.5}}, "balancer.max_waiting: 1.5; allowed: a whole number"),
    ({"accounts": TWO, "balancer": {"max_wait_for": True}}, "balancer.max_wait_for: True; allowed: a number from 0"),
    ({"accounts": TWO, "balancer": {"max_wait_for": math.nan}}, "balancer.max_wait_for: nan; allowed: a number"),
    ({"accounts": TWO, "balancer": {"max_attempts": 0}}, "balancer.max_attempts: 0; allowed: a whole number from 1"),
    ({"accounts": TWO, "balancer": {"headers_timeout": 0}}, "balancer.headers_timeout: 0; allowed: a number above 0"),
    ({"accounts": TWO, "balancer": {"seed": "x"}}, "balancer.seed: 'x'; allowed: a whole number"),
    ({"accounts": TWO, "balancer": {"seed": 2**63}}, "balancer.seed: a whole number beyond 64 bits; allowed"),
    ({"accounts": TWO, "balancer": {"selector": "wieghted"}}, "balancer.selector: 'wieghted' (did you mean \"weighted\"?)"),
    ({"accounts": TWO, "balancer": {"selector": 3}}, "balancer.selector: 3; allowed: least_pressure, "),
    ({"accounts": TWO, "balancer": {"selector": "nowhere_at_all:f"}}, "balancer.selector: 'nowhere_at_all:f' cannot be"),
    ({"accounts": TWO, "balancer": {"selector": "math:pi"}}, "balancer.selector: 'math:pi' is no function; allowed"),
    ({"accounts": TWO, "balancer": {"selector": ".x:y"}}, "balancer.selector: '.x:y'; allowed: least_pressure, "),
    ({"accounts": TWO, "hedge": {"delay": -1}}, "hedge.delay: -1; allowed: a number from 0"),
    ({"accounts": TWO, "hedge": {"enabled": "true"}}, "hedge.enabled: 'true'; allowed: true or false"),
    ({"accounts": TWO, "hedge": []}, "hedge: a list; allowed: a table"),
    ({"accounts": TWO, "retry": {"ratio": 1}}, "retry.ratio: unknown key"),
    ({"accounts": TWO, "health": {"consecutive_faults": 0}}, "health.consecutive_faults: 0; allowed: a whole number from 1"),
    ({"accounts": [*TWO, account("a")]}, "accounts[2].name: 'a'; allowed: a name that accounts[0] does not have"),
    ({"accounts": TWO, "pools": [{"name": "p"}]}, "pools[0].tiers: missing; allowed: a value"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": []}]}, "pools[0].tiers: nothing in it; allowed: a list of tiers"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": 3}]}, "pools[0].tiers: 3; allowed: a list of tiers"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": ["a"]}]}, "pools[0].tiers[0]: 'a'; allowed: a list of tiers"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": [["a"], []]}]}, "pools[0].tiers[1]: nothing in it; allowed"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": [["a", 3]]}]}, "pools[0].tiers[0][1]: 3; allowed: a name"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": [["a"], ["c"]]}]}, "pools[0].tiers[1][0]: 'c'; allowed: the name of"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": [["@q"]]}]}, "pools[0].tiers[0][0]: '@q'; allowed: @ and the name"),
    ({"accounts": TWO, "pools": [{"name": "p", "tiers": [["@p"]]}]}, "pools[0].tiers[0][0]: '@p' closes a cycle of pools"),
    ({"accounts": TWO, "pools": 2 * [{"name": "p", "tiers": [["a"]]}]}, "pools[1].name: 'p'; allowed: a name that pools[0] "),
    ({"accounts": TWO, "routes": [{"model": "m", "pool": "chat"}]}, "routes[0].pool: 'chat'; allowed: the name of a pool"),
    ({"accounts": TWO, "routes": [{"pool": "default"}]}, "routes[0].model: missing; allowed: a text"),
    ({"accounts": TWO, "routes": [{"model": "m", "fallback_models": "n"}]}, "routes[0].fallback_models: 'n'; allowed: a list"),
    ({"accounts": TWO, "routes": 2 * [{"model": "m"}]}, "routes[1].model: 'm'; allowed: a model that routes[0] does not have"),
]


@pytest.mark.parametrize(("document", "text"), BAD_DOCUMENTS, ids=[f"{n} {text}" for n, (_, text) in enumerate(BAD_DOCUMENTS)])
def test_bad_document(document, text):
    """A wrong document is one fault with its path, what was given and what is allowed."""
    (found,) = faults_of(document).values()
    assert found.startswith(text)
    assert KEY not in found


def test_every_fault_is_listed(tmp_path):
    """One error lists all faults of a file: of every part, of what joins them, and of the keys."""
    path = tmp_path / "bad.toml"
    path.write_text(
        """
        surprise = 1
        [balancer]
        max_waiting = -1
        selector = "none"
        [hedge]
        delay = "2"
        [[accounts]]
        name = "a"
        weight = -1
        key_env = "NO_SUCH_VARIABLE_HERE"
        base_url = "ftp://x"
        transport = "x"
        limits = { concurrency = 0, bust = 1 }
        [[accounts]]
        name = "a"
        key_file = "nowhere.key"
        [[pools]]
        name = "p"
        tiers = [["a", "b"], ["@q"]]
        [[routes]]
        model = "m"
        pool = "r"
        """
    )
    with pytest.raises(ConfigError) as caught:
        BalancerConfig.load(path)
    assert sorted(fault.path for fault in caught.value.faults) == [
        "accounts[0].base_url",
        "accounts[0].key_env",
        "accounts[0].limits.bust",
        "accounts[0].limits.concurrency",
        "accounts[0].transport",
        "accounts[0].weight",
        "accounts[1].key_file",
        "accounts[1].name",
        "balancer.max_waiting",
        "balancer.selector",
        "hedge.delay",
        "pools[0].tiers[0][1]",
        "pools[0].tiers[1][0]",
        "routes[0].pool",
        "surprise",
    ]
    assert len(str(caught.value).splitlines()) == 15


def test_no_fault_waits_for_another():
    """A part that is wrong in itself is still held against the others: what they ask of it, what it asks of them."""
    document = {
        "balancer": {"max_waiting": -1},
        "accounts": [
            account(
                provider="http",
                base_url="http://h:0/v1/{deployment}",
                headers={"accept-encoding": "gzip"},
                models=["m"],
                limits={"shared": ["org"]},
                host="h:99999",
            ),
            account("b", provider="http", models=["m"]),
        ],
        "pools": [{"name": "p", "tiers": [["a"], ["c"]], "weight": 1}, {"name": "q", "tiers": [["a"]]}],
        "routes": [{"model": "m", "pool": "r", "tags": []}, {"model": "n", "pool": "q", "fallback_models": ["o"]}],
    }
    assert set(faults_of(document)) == {
        "balancer.max_waiting",
        "accounts[0].base_url",
        "accounts[0].headers.accept-encoding",
        "accounts[0].host",
        "accounts[0].limits.shared[0]",
        "accounts[1].base_url",
        "pools[0].tiers[1][0]",
        "pools[0].weight",
        "routes[0].pool",
        "routes[0].tags",
        "routes[1].model",
        "routes[1].fallback_models[0]",
    }


def test_shared_limits_are_named_by_texts_and_each_once():
    """Twice shared it would be charged twice."""
    rates = {"tokens_per_minute": 5}
    document = {"accounts": [account(limits={"shared": ["o", "o", "p"]})], "shared_limits": {"o": rates, "p": rates}}
    assert list(faults_of(document)) == ["accounts[0].limits.shared[1]"]
    document["shared_limits"] = {"o": rates, 3: rates}
    assert list(faults_of(document)) == ["accounts[0].limits.shared[1]", "shared_limits.[3]", "accounts[0].limits.shared[2]"]


def test_a_missing_key_is_told_beside_the_faults_of_a_mapping(monkeypatch):
    """As it is beside those of a file, whoever is given it."""
    monkeypatch.delenv("NO_SUCH_VARIABLE_HERE", raising=False)
    document = {"accounts": [account(key_env="NO_SUCH_VARIABLE_HERE", weight=-1)]}
    with pytest.raises(ConfigError) as caught:
        BalancerConfig.of(document)
    assert [fault.path for fault in caught.value.faults] == ["accounts[0].weight", "accounts[0].key_env"]


MODELS = {
    "accounts": [account("a", models=["m", "n"]), account("b", models={"o": "own"}), account("any")],
    "pools": [
        {"name": "p", "tiers": [["a"], ["@q"]]},
        {"name": "q", "tiers": [["b"]]},
        {"name": "with-any", "tiers": [["@p"], ["any"]]},
    ],
}


@pytest.mark.parametrize(
    ("routes", "more", "expected"),
    [
        ([{"model": "m", "pool": "p", "fallback_models": ["n", "o"]}], {}, {}),
        ([{"model": "o", "pool": "p"}, {"model": "x", "pool": "with-any"}, {"model": "y", "fallback_models": ["z"]}], {}, {}),
        (
            [{"model": "nn", "pool": "p"}],
            {},
            {"routes[0].model": "'nn' (did you mean \"n\"?); allowed: a model that an account of"},
        ),
        (
            [{"model": "own", "pool": "q"}],
            {},
            {"routes[0].model": "'own'; allowed: a model that an account of the pool \"q\" offers"},
        ),
        # a name that only its fallback models serve
        ([{"model": "any-of-them", "pool": "p", "fallback_models": ["n", "m"]}], {}, {}),
        # a fallback model goes where its own route leads, else to all accounts
        ([{"model": "m", "pool": "p", "fallback_models": ["x"]}], {}, {}),
        (
            [{"model": "m", "pool": "p", "fallback_models": ["x"]}, {"model": "x", "pool": "q"}],
            {},
            {"routes[1].model": "'x'; allowed"},
        ),
        (
            [{"model": "m", "pool": "p", "fallback_models": ["n", "x"]}, {"model": "y"}],
            {"accounts": MODELS["accounts"][:2], "pools": MODELS["pools"][:2]},
            {
                "routes[0].fallback_models[1]": "'x'; allowed: a model that an account of the pool \"default\" offers",
                "routes[1].model": "'y'; allowed",
            },
        ),
        (
            [{"model": "m", "pool": "p", "fallback_models": ["o", "n"]}],
            {"pools": [*MODELS["pools"], {"name": "default", "tiers": [["a"]]}]},
            {"routes[0].fallback_models[0]": "'o'; allowed: a model that an account of the pool \"default\" offers"},
        ),
    ],
)
def test_a_model_that_nobody_offers_has_no_route(routes, more, expected):
    """Where that is sure: an account without a table of models offers every one."""
    document = {**MODELS, **more, "routes": routes}
    found = faults_of(document) if expected else BalancerConfig.parse(document) and {}
    assert set(found) == set(expected)
    for path, text in expected.items():
        assert found[path].startswith(f"{path}: {text}")


@pytest.mark.parametrize(
    ("wrong", "paths"),
    [
        ({"accounts": [account("a", models="m")]}, {"accounts[0].models"}),
        ({"accounts": [account("a", models=["m"]), {"models": ["x"]}]}, {"accounts[1].name"}),
        ({"accounts": [account("a", models=["m"])], "pools": [{"name": "p", "tiers": [["a", "b"]]}]}, {"pools[0].tiers[0][1]"}),
        ({"accounts": [account("a", models=["m"])], "pools": [{"name": "p", "tiers": [["a", ""]]}]}, {"pools[0].tiers[0][1]"}),
        ({"accounts": [account("a", models=["m"])], "pools": [{"name": "p", "tiers": [["@p"]]}]}, {"pools[0].tiers[0][0]"}),
        ({"accounts": [account("a", models=["m"])], "pools": [{"name": "p", "tiers": 3}]}, {"pools[0].tiers"}),
    ],
)
def test_what_others_may_offer_is_not_judged(wrong, paths):
    """Where a slip hides what an account offers, or who is meant, the route is not at fault."""
    routes = [{"model": "x", **({"pool": "p"} if "pools" in wrong else {})}]
    found = set(faults_of({**wrong, "routes": routes}))
    assert found - {"routes[0].model"} == paths
    assert ("routes[0].model" in found) == (paths == {"pools[0].tiers[0][0]"})  # a circle hides nobody


def test_a_faulty_part_is_still_known_by_name():
    """Who names an account or a pool that is wrong in itself is not at fault."""
    document = {
        "accounts": [account(weight=-1)],
        "pools": [{"name": "p", "tiers": [["a"], ["@q"]]}, {"name": "q", "tiers": []}],
        "routes": [{"model": "m", "pool": "q"}],
    }
    assert set(faults_of(document)) == {"accounts[0].weight", "pools[1].tiers"}


def test_cycle_of_pools():
    """Every reference on a cycle is named; pools that only lead to one are not at fault."""
    pools = [
        {"name": "in", "tiers": [["@p"]]},
        {"name": "p", "tiers": [["a"], ["@q"]]},
        {"name": "q", "tiers": [["@r"]]},
        {"name": "r", "tiers": [["@p", "@out"]]},
        {"name": "out", "tiers": [["a"]]},
    ]
    assert set(faults_of({"accounts": [account()], "pools": pools})) == {
        "pools[1].tiers[1][0]",
        "pools[2].tiers[0][0]",
        "pools[3].tiers[0][0]",
    }


def test_own_default_pool():
    """A pool named "default" takes the place of all accounts."""
    config = BalancerConfig(TWO, pools=[{"name": "default", "tiers": [["b"]]}])
    assert pool_tiers(config) == {"default": (("b",),)}


def test_missing_keys_are_all_named():
    """Every key that cannot be had is named with its account."""
    config = BalancerConfig([account("ok"), account("a", key_env="K"), account("b", key_file="/nowhere/key")])
    with pytest.raises(ConfigError) as caught:
        resolve_keys(config, {})
    assert [fault.path for fault in caught.value.faults] == ["accounts[1].key_env", "accounts[2].key_file"]


def test_keys_are_resolved_once():
    """A resolved configuration needs no environment any more."""
    config = resolve_keys(BalancerConfig([account("a", key_env="K"), account("b", key=KEY), account("c")]), {"K": KEY})
    assert [account.key for account in config.accounts] == [Secret(KEY), Secret(KEY), None]
    assert resolve_keys(config, {}) == config


def test_no_key_is_shown():
    """Neither the text nor the tree of a configuration holds a key in the clear."""
    config = BalancerConfig([account(key=KEY, headers={"X-Token": KEY}, params={"token": KEY})])
    assert KEY not in repr(config)
    assert KEY not in str(attrs.asdict(config)) + str(attrs.astuple(config)) + str(attrs.asdict(config, recurse=False))
    assert config.accounts[0].headers == {"X-Token": Secret(KEY)}
    assert BalancerConfig(config.accounts) == config
    assert KEY not in str(config)
    assert KEY not in repr(attrs.asdict(BalancerConfig([account(key=KEY)])))


def test_literal_key_in_a_file(tmp_path):
    """A key that stands in the file itself is warned about, naming the account."""
    path = tmp_path / "keys.toml"
    path.write_text(f'[[accounts]]\nname = "a"\nkey = "{KEY}"\n[[accounts]]\nname = "m"\nprovider = "mock"\nkey = "m"\n')
    with pytest.warns(LiteralKeyWarning) as caught:
        config = BalancerConfig.load(path)
    assert config.accounts[0].key == Secret(KEY)
    (warning,) = caught
    assert 'accounts[0] ("a")' in str(warning.message)
    assert KEY not in str(warning.message)
    assert warning.filename == __file__


def test_several_keys_of_one_account(tmp_path, monkeypatch):
    """Variables, files beside the file, and keys in the file itself, which are warned about once."""
    path = tmp_path / "keys.toml"
    path.write_text(
        f"""
        [[accounts]]
        name = "a"
        key_env = ["K1", "K2"]
        [[accounts]]
        name = "b"
        key_file = ["1.key", "2.key"]
        [[accounts]]
        name = "c"
        key = ["{KEY}", "other"]
        """
    )
    (tmp_path / "1.key").write_text("1\n")
    (tmp_path / "2.key").write_text("2\n")
    monkeypatch.setenv("K1", "1")
    monkeypatch.setenv("K2", "2")
    with pytest.warns(LiteralKeyWarning) as caught:
        config = BalancerConfig.load(path)
    first, second, third = config.accounts
    assert first.keys == second.keys == (Secret("1"), Secret("2"))
    assert third.keys == (Secret(KEY), Secret("other"))
    (warning,) = caught
    assert 'accounts[2] ("c") holds its keys in the file' in str(warning.message)
    assert KEY not in str(warning.message) + repr(config)
    assert resolve_keys(config, {}) == config


def test_every_missing_key_of_a_list_is_named(tmp_path):
    """With its place, beside the other faults of the file."""
    path = tmp_path / "keys.toml"
    path.write_text('[[accounts]]\nname = "a"\nweight = -1\nkey_file = ["nowhere", "", "here"]\n')
    (tmp_path / "here").write_text(KEY)
    with pytest.raises(ConfigError) as caught:
        BalancerConfig.load(path)
    assert [fault.path for fault in caught.value.faults] == [
        "accounts[0].key_file[1]",
        "accounts[0].weight",
        "accounts[0].key_file[0]",
    ]


@pytest.mark.parametrize("given_", ["nowhere.toml", "nul\0", Path("/"), "", None, 3, b"x", ["a"], object()])
def test_no_configuration(given_, tmp_path, monkeypatch):
    """What is no configuration, mapping or readable file is a fault."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        BalancerConfig.of(given_)


scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a", "@p", "p", "openai", "http", "http://x/v1", "5/min", "bucket", "K", "random", KEY, "x:y"]),
    st.just(datetime.date(2024, 1, 1)),
    st.none(),
)
KEYS = [
    *("name tiers model pool fallback_models enabled delay ratio self requests requests_per_minute window amount per".split()),
    *(field.name for cls in (Account, HedgeSettings, HealthSettings, RetrySettings) for field in attrs.fields(cls)),
    *(field.name for field in attrs.fields(BalancerConfig)),
]
keys = st.one_of(st.sampled_from(KEYS), st.text(string.printable, max_size=3))
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=6)), max_leaves=25
)
tables = st.dictionaries(keys, values, max_size=6)
named = st.builds(lambda table, name: {**table, "name": name}, tables, st.sampled_from(["a", "b", "p", "q"]))
documents = st.fixed_dictionaries(
    {},
    optional={
        "balancer": st.one_of(tables, values),
        "accounts": st.one_of(st.lists(st.one_of(named, named, values), max_size=3), values),
        "pools": st.one_of(st.lists(st.one_of(named, values), max_size=3), values),
        "routes": st.one_of(st.lists(st.one_of(tables, values), max_size=3), values),
        **{name: st.one_of(tables, values) for name in ("hedge", "retry", "health", "surprise")},
    },
)


@settings(max_examples=300, deadline=None)
@given(document=st.one_of(documents, values))
def test_nothing_but_config_error_leaves(document):
    """Any document is either a configuration or a `ConfigError` with faults."""
    try:
        config = BalancerConfig.parse(document)
        pool_tiers(config)
        resolve_keys(config, {"K": KEY})
    except ConfigError as error:
        assert error.faults
        assert all(isinstance(fault.path, str) and fault.allowed for fault in error.faults)
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(wrong=values, field=st.sampled_from(["key", "headers", "params", "key_env", "key_file", "mock"]))
def test_what_holds_keys_is_never_echoed(wrong, field):
    """Whatever stands where keys do, a fault does not repeat it."""
    marked = {"x": KEY, KEY: wrong} if field == "mock" else [wrong, KEY]
    try:
        BalancerConfig.parse({"accounts": [account(**{field: marked})]})
    except ConfigError as error:
        assert KEY not in str(error)


def test_a_single_pool_without_routes_takes_the_calls_that_no_route_names() -> None:
    """Its tiers would otherwise be read and never used."""
    accounts = [{"name": name, "base_url": "http://127.0.0.1"} for name in ("a", "b")]
    config = BalancerConfig(
        accounts=accounts, pools=[{"name": "chat", "tiers": [["a"], ["@rest"]]}, {"name": "rest", "tiers": [["b"]]}]
    )
    assert pool_tiers(config)["default"] == (("a",), ("b",))
    routed = BalancerConfig(
        accounts=accounts, pools=[{"name": "chat", "tiers": [["a"]]}], routes=[{"model": "m", "pool": "chat"}]
    )
    assert pool_tiers(routed)["default"] == (("a", "b"),)


@pytest.mark.parametrize("key", ["http2", "proxy"])
def test_what_is_not_carried_yet_is_refused_by_name(key: str) -> None:
    """A key that other clients have says more than that it is unknown."""
    with pytest.raises(ConfigError, match=rf"accounts\[0\].{key}: {key} is not carried yet; allowed: HTTP/1.1"):
        BalancerConfig.parse({"accounts": [{"name": "a", key: True}]})


@pytest.mark.parametrize("key", ["sk-proj-0123456789abcdef", "Bearer 0123456789", "gsk_0123456789abcdef", "AIzaSy0123456789"])
def test_a_key_in_the_wrong_place_is_not_told(key):
    """As a value, as a name, and as a key of a table."""
    accounts = [account(provider=key, limits=key, weight=key), account(name="b", limits={"zone": key, "shared": [key], key: 1})]
    document = {"accounts": accounts, "balancer": {"selector": key}, "pools": [{"name": "p", "tiers": [[key]]}], key: 1}
    with pytest.raises(ConfigError) as caught:
        BalancerConfig.parse(document)
    assert key not in str(caught.value)
    assert key not in repr(caught.value.faults)
    assert "a text that looks like a key" in str(caught.value)
