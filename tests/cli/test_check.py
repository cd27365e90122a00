"""`balancer check`."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from balancer.cli.app import app
from balancer.cli.check import check
from balancer.core.limits import Limits

GOOD = """
[balancer]
max_wait_for = false
[[accounts]]
name = "team-[a]"
provider = "openai"
key_env = "CHECK_KEY"
weight = 3
models = { "gpt-4o" = "gpt-4o-2024-11-20", "gpt-4o-mini" = "gpt-4o-mini" }
limits = { requests_per_minute = 500, tokens = { amount = 9, per = 2.5 }, concurrency = 32, window = "sliding" }
[[accounts]]
name = "b"
provider = "mock"
[accounts.limits]
requests = ["60/min", { amount = 1500, per = "day", window = "calendar", zone = "Asia/Tokyo", failed_charged = true }]
tokens = { amount = 30000, per = "minute", burst = 500, charged = "max_tokens" }
output_tokens_per_month = 2000000
models = { small = { input_tokens_per_minute = 10 } }
shared = ["organisation"]
[accounts.mock]
latency = 0.1
speaks = "anthropic"
[shared_limits.organisation]
images_per_day = 7
[[tenants]]
name = "batch"
weight = 0.25
max_waiting = 10
[[accounts]]
name = "c"
provider = "anthropic"
key = "sk-literal-secret"
[[pools]]
name = "chat"
tiers = [["team-[a]"], ["b", "c"]]
[[routes]]
model = "gpt-4o"
pool = "chat"
fallback_models = ["gpt-4o-mini"]
"""
BAD = """
[shared_limits.organisation]
requests = "5/fortnight"
[[accounts]]
name = "a"
wieght = 1
limits = { concurrency = 0 }
[[accounts]]
name = "b"
provider = "mock"
mock = { latency = "slow", limits = { shared = ["organisation"] } }
[[accounts]]
name = "c"
base_url = "https://c.test/v1/{deployment}"
headers = { accept-encoding = "gzip" }
models = ["small"]
limits = { models = { smal = { requests = "5/min" } }, shared = ["organization"], requests = { amount = 5, per = "month" } }
[[accounts]]
name = "d"
[accounts.limits]
requests = [
  { amount = 5, per = "day", window = "calendar", zone = "Mars" },
  { amount = 5, per = "minute", window = "calendar" },
  { amount = 5, per = "minute", burst = 9 },
  { amount = 5, per = "month", busrt = 9 },
  { amount = 5, per = "year" },
]
[[pools]]
name = "chat"
tiers = [["c"]]
[[pools]]
name = "default"
tiers = [["c"]]
[[routes]]
model = "unknown"
pool = "chat"
fallback_models = ["smal"]
[balancer]
max_waiting = -1
"""
FAULTS = """
accounts[0].limits.concurrency: 0; allowed: a whole number from 1
accounts[0].wieght: unknown key (did you mean "weight"?); allowed: name,
accounts[1].mock.latency: a text; allowed:
accounts[1].mock.limits.shared: ['organisation']; allowed: nothing: a mock backend counts its own limits only
accounts[2].base_url: 'https://c.test/v1/{deployment}': a path with characters that no path may have; allowed: http://
accounts[2].headers.accept-encoding: a name that cannot be set; allowed: any other header: the transport sets this one
accounts[2].limits.models.smal: 'smal' (did you mean "small"?); allowed: a model that the account offers
accounts[2].limits.shared[0]: 'organization' (did you mean "organisation"?); allowed: a name from [shared_limits]
accounts[3].limits.requests[0].zone: 'Mars'; allowed: a name of the IANA time zone database, such as "America/Los_Angeles"
accounts[3].limits.requests[1].window: 'calendar'; allowed: a rate per "day" or per "month"
accounts[3].limits.requests[2].burst: 9; allowed: at most 5, the amount per 60 s
accounts[3].limits.requests[3].busrt: unknown key; allowed: amount, per, window, burst,
accounts[3].limits.requests[4].per: 'year'; allowed: a number from 1e-06
balancer.max_waiting: -1; allowed: a whole number from 0
routes[0].fallback_models[0]: 'smal' (did you mean "small"?); allowed: a model that an account of the pool "default" offers
routes[0].model: 'unknown'; allowed: a model that an account of the pool "chat" offers
shared_limits.organisation.requests: '5/fortnight'; allowed: "500/min" (second, min, hour, day, month)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECK_KEY", "sk-env-secret")
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("width", ["80", "120"])
def test_a_good_file_is_a_table_of_what_was_understood(file, capsys, monkeypatch, width):
    """Accounts, limits, key sources, pools and routes are shown, keys are not; nothing is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", width)
    assert check(file) == 0
    out, err = capsys.readouterr()
    for text in (
        "team-[a]",
        "(weight 3)",
        "500 requests/min",
        "9 tokens/2.5 s",
        "sliding window",
        "shared: organisation",
        "32 at once",
        "CHECK_KEY",
        "any",
        "made up",
    ):
        assert text in out
    assert "pool chat: team-[a], then b | c" in out
    assert "tenant batch: weight 0.25, at most 10 waiting" in out
    assert "route gpt-4o: pool chat, then gpt-4o-mini" in out
    assert "holds its key in the file" in out
    assert "secret" not in out + err
    assert max(len(line) for line in out.splitlines() if ":" not in line) <= int(width)
    assert "\x1b" not in out


def test_every_rate_says_how_it_is_counted(file, capsys, monkeypatch):
    """Window, burst, zone, what of the tokens is charged: as said, else as the provider's preset has it."""
    monkeypatch.setenv("COLUMNS", "140")
    check(file)
    lines = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    told = {cells[-2]: cells[-1] for cells in lines if re.search(r"/(s|min|day|month|2\.5 s)$", cells[-2] if cells[1:] else "")}
    assert told == {
        "500 requests/min": "sliding window",
        "9 tokens/2.5 s": "sliding window, by estimate, then usage",
        "60 requests/min": "bucket",
        "1,500 requests/day": "calendar day in Asia/Tokyo, refused ones counted",
        "30,000 tokens/min": "bucket, burst 500, by max_tokens",
        "2,000,000 output tokens/month": "bucket, as produced",
        "small: 10 input tokens/min": "bucket, by estimate, then usage, cached ones free",
        "7 images/day": "bucket",
    }


def test_json_tells_the_same(file, capsys):
    """`--json` is one document, without any key; no bound is null."""
    assert check(file, as_json=True) == 0
    out = capsys.readouterr().out
    told = json.loads(out)
    assert told["ok"] is True
    assert [account["key"] for account in told["accounts"]] == [
        {"source": "key_env", "name": "CHECK_KEY"},
        None,
        {"source": "key", "name": None},
    ]
    assert told["accounts"][0]["base_url"] == "https://api.openai.com/v1"
    assert told["balancer"]["max_wait_for"] is None
    assert len(told["warnings"]) == 1
    written = tomllib.loads(GOOD)["accounts"]
    for account, table in zip(told["accounts"], written, strict=True):
        assert Limits.parse(account["limits"]) == Limits.parse(table.get("limits", {}))
    assert told["accounts"][0]["limits"] == {
        "requests": "500/min",
        "tokens": {"amount": 9, "per": 2.5},
        "concurrency": 32,
        "window": "sliding",
    }
    assert told["accounts"][1]["limits"]["models"] == {"small": {"input_tokens": "10/min"}}
    assert [rate["window"] for rate in told["accounts"][1]["rates"]] == ["bucket", "calendar", "bucket", "bucket", "bucket"]
    shared = told["shared_limits"]["organisation"]
    assert (shared["accounts"], shared["limits"]) == (["b"], {"images": "7/day"})
    assert told["tenants"] == [{"name": "batch", "weight": 0.25, "max_waiting": 10}]
    assert "secret" not in out


@pytest.mark.parametrize("text", [GOOD, BAD])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_pipe_is_read_once(file, text, as_json, capsys):
    """A process substitution gives its text a single time: what is told of it is told of a file, the name aside."""
    file.write_text(text)
    expected = check(file, as_json=as_json), [stream.replace(str(file), "FILE") for stream in capsys.readouterr()]
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "w") as stream:
            stream.write(text)
        pipe = Path(f"/dev/fd/{reader}")
        assert (check(pipe, as_json=as_json), [stream.replace(str(pipe), "FILE") for stream in capsys.readouterr()]) == expected
    finally:
        os.close(reader)


def test_every_fault_is_printed(tmp_path, capsys):
    """Faults go to stderr, all of them with their paths and what is allowed, and the exit code is 1."""
    path = tmp_path / "config.toml"
    path.write_text(BAD)
    assert check(path) == 1
    out, err = capsys.readouterr()
    assert out == ""
    told = sorted(line.strip() for line in err.splitlines()[1:])
    expected = FAULTS.strip().splitlines()
    assert len(told) == len(expected)
    assert [line[: len(start)] for line, start in zip(told, expected, strict=True)] == expected
    assert check(path, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert len(told["faults"]) == len(expected)


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path, monkeypatch, capsys, name):
    """Told as any other is: one JSON document, or lines on stderr."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app(["check", name, "--json"])
    assert ended.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    (fault,) = told["faults"]
    assert fault["path"] == ""
    assert fault["given"].startswith(f"{name}: ")
    with pytest.raises(SystemExit) as ended:
        app(["check", name])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert fault["given"] in err


def test_a_file_that_is_no_toml_is_a_fault(tmp_path, capsys):
    """The line of the slip is named."""
    path = tmp_path / "config.toml"
    path.write_text("[[accounts]\n")
    assert check(path) == 1
    assert "line 1" in capsys.readouterr().err


def test_every_key_source_is_shown(tmp_path, monkeypatch, capsys):
    """Of an account with several keys each variable or file is named; of keys in the file only their number shows."""
    (tmp_path / "1.key").write_text("sk-file-secret")
    monkeypatch.setenv("K1", "sk-env-secret")
    monkeypatch.setenv("K2", "sk-other-secret")
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "config.toml"
    path.write_text(
        """
        [[accounts]]
        name = "a"
        key_env = ["K1", "K2"]
        [[accounts]]
        name = "b"
        key_file = ["1.key"]
        [[accounts]]
        name = "c"
        key = ["sk-one-secret", "sk-two-secret"]
        """
    )
    assert check(path, as_json=True) == 0
    out = capsys.readouterr().out
    assert [account["key"] for account in json.loads(out)["accounts"]] == [
        {"source": "key_env", "name": ["K1", "K2"]},
        {"source": "key_file", "name": ["1.key"]},
        {"source": "key", "name": [None, None]},
    ]
    assert check(path) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("variable K1", "variable K2", "file 1.key", "holds its keys in the file"))
    assert shown.count("in this file") == 2
    assert "secret" not in out + shown


def test_a_shared_limit_is_counted_as_the_provider_of_its_accounts_counts(tmp_path, capsys):
    """Where they have one provider; of different ones nothing is known."""
    file = tmp_path / "balancer.toml"
    account = '[[accounts]]\nname = "{0}"\nprovider = "{1}"\nbase_url = "http://x.test"\nlimits = {{ shared = ["org"] }}\n'
    shared = "[shared_limits.org]\ntokens_per_minute = 1000\n"
    for second, charged in (("azure", "max_tokens"), ("openai", "adjusted")):
        file.write_text(account.format("a", "azure") + account.format("b", second) + shared)
        assert check(file, as_json=True) == 0
        (rate,) = json.loads(capsys.readouterr().out)["shared_limits"]["org"]["rates"]
        assert rate["charged"] == charged
