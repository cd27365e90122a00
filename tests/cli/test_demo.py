"""`balancer demo`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from balancer.cli.board import Board, Run
from balancer.cli.demo import demo
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
async def test_the_live_table_fits(file, width):
    """Every account has its line, whatever its name, with and without a balancer behind the table."""
    async with open_backends(file) as backends:
        board = Board(Run("round robin", 300, 0.0, backends.by_account), None)
        screen = io.StringIO()
        Console(file=screen, width=width, force_terminal=True, no_color=True, highlight=False).print(board.table())
    lines = screen.getvalue().splitlines()
    assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in lines) <= width
    assert any(line.startswith("[quick]") for line in lines)
