"""`balancer demo`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import AsyncExitStack

import httpx
import pytest
import trio
from rich.console import Console

from balancer.cli.board import Board, Run
from balancer.cli.demo import demo
from balancer.cli.scenario import demo_config
from balancer.nursery import open_balancer
from balancer.testing.backends import open_backends

PAIR = """
[[accounts]]
name = "[quick]"
provider = "mock"
models = { "small" = "small-1" }
mock = { latency = 0.005 }
[[accounts]]
name = "limited"
provider = "mock"
models = ["small"]
limits = { requests = { amount = 2, per = 5.0 } }
mock = { latency = 0.005, limits = { requests = { amount = 2, per = 5.0 } } }
[[accounts]]
name = "other"
provider = "mock"
mock = { speaks = "anthropic" }
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(PAIR)
    return path


@pytest.mark.slow
def test_both_clients_meet_the_same_traffic(file, capsys):
    """The balancer is refused nothing where it knows the limits; round robin is. What was sent is what the backends saw."""
    assert demo(config=file, calls=20, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["calls"], told["interrupted"]) == (20, False)
    balanced, in_turn = told["runs"]
    assert [run["client"] for run in told["runs"]] == ["balancer", "round robin"]
    assert (balanced["served"], balanced["failed"], balanced["refused_upstream"]) == (20, 0, 0)
    assert in_turn["refused_upstream"] > 0
    for run in told["runs"]:
        assert run["served"] + run["failed"] == run["arrived"] == 20
        assert run["sent"] == sum(account["received"] for account in run["accounts"].values())
        assert run["served"] == sum(account["served_calls"] for account in run["accounts"].values())
        assert 0 < run["latency"]["p50"] <= run["latency"]["p95"] <= run["latency"]["p99"]
    (gauge,) = balanced["accounts"]["limited"]["quota"]
    assert (gauge["dimension"], gauge["per"], gauge["limit"], gauge["learned"]) == ("requests", 5.0, 2, False)
    assert {"used", "reserved", "refill_after"} < set(gauge)
    assert [account["quota"] for account in in_turn["accounts"].values()] == [[], [], []]
    assert balanced["accounts"]["other"]["served_calls"] == in_turn["accounts"]["other"]["served_calls"] > 0


def test_the_summary_is_plain_text_where_nobody_watches(file, capsys, monkeypatch):
    """Without a terminal there are lines and tables, no escape codes, and nothing wider than 80."""
    monkeypatch.setenv("COLUMNS", "80")
    assert demo(config=file, calls=10) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    for text in ("calls served", "refused upstream", "latency p99", "[quick]", "round robin"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80


def test_real_accounts_are_never_called(tmp_path, capsys):
    """A configuration with a real account is refused: the demo would spend its owner's money."""
    path = tmp_path / "config.toml"
    path.write_text(PAIR + '[[accounts]]\nname = "paid"\nkey_env = "HOME"\n')
    assert demo(config=path) == 2
    assert "paid" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("second_run", [False, True])
def test_ctrl_c_ends_with_what_was_done_so_far(file, second_run):
    """The summary is printed, the exit code says that it is not the whole, and there is no traceback."""
    calls = "60" if second_run else "500"
    command = [sys.executable, "-m", "balancer.cli.main", "demo", "--config", str(file), "--calls", calls, "--json"]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        for line in process.stderr:
            if line.startswith("round robin" if second_run else "balancer"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert "Traceback" not in err
    assert process.returncode == 130
    told = json.loads(out)
    assert told["interrupted"] is True
    assert len(told["runs"]) == 1 + second_run
    assert told["runs"][0]["served"] > 0


@pytest.mark.parametrize("width", [80, 120])
async def test_the_live_table_fits(width):
    """Every account has its line and every rate another, in the demo's own scenario, with and without a balancer behind it."""
    for balancing in (True, False):
        async with open_backends(demo_config(1)) as backends, AsyncExitStack() as stack:
            balancer = await stack.enter_async_context(open_balancer(backends.config)) if balancing else None
            board = Board(Run("round robin", 300, trio.current_time(), backends.by_account), balancer)
            screen = io.StringIO()
            Console(file=screen, width=width, force_terminal=True, no_color=True, highlight=False).print(board.table())
        lines = [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in screen.getvalue().splitlines()]
        assert max(map(len, lines)) <= width
        assert len(lines) <= 24
        assert sum(line.startswith("unannounced") for line in lines) == 1 + balancing
        assert any("requests/5 s  ────────" in line and "0/60" in line for line in lines) is balancing
        assert any("none known" in line for line in lines) is balancing


LONG = """
[[accounts]]
name = "an-account-with-a-name-that-is-longer-than-any-column-should-ever-be"
provider = "mock"
limits = { models = { "a-model-with-a-long-name-as-well" = { input_tokens = "3000000/day" } } }
"""


async def test_long_names_give_way_to_numbers():
    """A name that is too long for its column ends in an ellipsis; no number does."""
    async with open_backends(tomllib.loads(LONG)) as backends, open_balancer(backends.config) as balancer:
        board = Board(Run("balancer", 300, trio.current_time(), backends.by_account), balancer)
        screen = io.StringIO()
        Console(file=screen, width=80, highlight=False).print(board.table())
    rows = [line for line in screen.getvalue().splitlines() if line.startswith("an-account")]
    assert [row.count("…") for row in rows] == [1, 2]
    assert rows[0].split()[-6:] == ["0", "0", "0", "0", "-", "-"]
    assert rows[1].split()[-4:] == ["────────", "0/3M", "0", "-"]


async def test_a_key_that_was_refused_is_shown():
    """Of two keys the backend knows one: the account goes on with that, and its state says so."""
    config = {"accounts": [{"name": "a", "provider": "mock", "key": ["known", "unknown"], "mock": {"keys": ["known"]}}]}
    async with open_backends(config) as backends, open_balancer(backends.config) as balancer:
        async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client:
            for _ in range(3):
                await client.post("/chat/completions", json={"model": "m", "messages": []})
        board = Board(Run("balancer", 300, trio.current_time(), backends.by_account), balancer)
        screen = io.StringIO()
        Console(file=screen, width=120, highlight=False).print(board.table())
    assert "healthy, 1 key refused" in screen.getvalue()


async def test_a_strange_name_is_shown_as_it_is(file):
    """What looks like markup in a name is none."""
    async with open_backends(file) as backends, open_balancer(backends.config) as balancer:
        board = Board(Run("balancer", 300, trio.current_time(), backends.by_account), balancer)
        screen = io.StringIO()
        Console(file=screen, width=80, highlight=False).print(board.table())
        assert sum(line.startswith("[quick]") for line in screen.getvalue().splitlines()) == 2
        assert board.quota_line() == "limited: 0/2 requests/5 s"
