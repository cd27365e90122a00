"""`balancer check`."""

from __future__ import annotations

import json

import pytest

from balancer.cli.check import check

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
[accounts.mock]
latency = 0.1
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
[[accounts]]
name = "a"
wieght = 1
limits = { concurrency = 0 }
[[accounts]]
name = "b"
provider = "mock"
mock = { latency = "slow" }
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
    for text in ("team-[a]", "(weight 3)", "500/min", "9/2.5 s", "sliding", "32 at once", "CHECK_KEY", "any", "made up"):
        assert text in out
    assert "pool chat: team-[a], then b | c" in out
    assert "route gpt-4o: pool chat, then gpt-4o-mini" in out
    assert "holds its key in the file" in out
    assert "secret" not in out + err
    assert max(len(line) for line in out.splitlines() if ":" not in line) <= int(width)
    assert "\x1b" not in out


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
    assert "secret" not in out


def test_every_fault_is_printed(tmp_path, capsys):
    """Faults go to stderr, all of them with their paths, and the exit code is 1."""
    path = tmp_path / "config.toml"
    path.write_text(BAD)
    assert check(path) == 1
    out, err = capsys.readouterr()
    assert out == ""
    for where in ("accounts[0].wieght", "accounts[0].limits.concurrency", "accounts[1].mock.latency"):
        assert where in err
    assert check(path, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert len(told["faults"]) == 3


def test_a_file_that_is_no_toml_is_a_fault(tmp_path, capsys):
    """The line of the slip is named."""
    path = tmp_path / "config.toml"
    path.write_text("[[accounts]\n")
    assert check(path) == 1
    assert "line 1" in capsys.readouterr().err
