"""The edge of the command line: help, version, and errors that are one clear message."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from balancer.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "balancer.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def call(monkeypatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["balancer", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    return caught.value.code


def test_help_names_every_command():
    """`balancer --help` is a page that says what each command does."""
    ended = run("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    for command in ("batch", "check", "demo", "mock"):
        (line,) = [line for line in ended.stdout.splitlines() if line.lstrip("│ ").startswith(f"{command} ")]
        assert len(line.split()) > 5


def test_the_version_is_that_of_the_package():
    """`balancer --version`."""
    assert run("--version").stdout.strip() == metadata.version("balancer")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mock", "nowhere.toml"), "nowhere.toml"),
        (("check",), "FILE"),
        (("demo", "--cals", "3"), "--calls"),
        (("demo", "--calls", "many"), "many"),
        (("demo", "--calls", "0"), ">= 1"),
        (("mock", "--port", "99999"), "65535"),
        (("mock", "--latency", "nan"), "nan"),
        (("dmeo",), "dmeo"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(monkeypatch, capsys, arguments, said):
    """No traceback, nothing on stdout, and what was wrong is named."""
    assert call(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("balancer: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [("demo", "--config"), ("mock",)])
def test_a_faulty_configuration_is_listed(monkeypatch, capsys, tmp_path, command):
    """Commands that need a configuration list its faults and do not begin."""
    path = tmp_path / "config.toml"
    path.write_text('[[accounts]]\nname = "a"\nprovider = "mock"\nwieght = 1\n[accounts.mock]\nlatency = -1\n')
    assert call(monkeypatch, *command, str(path)) == 2
    err = capsys.readouterr().err
    assert "accounts[0].wieght" in err
    assert "accounts[0].mock.latency" in err


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_a_missing_extra_is_named(monkeypatch, missing):
    """Without the extra the command says how to get it."""
    for name in [name for name in sys.modules if name.startswith(("balancer.cli.", missing))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert "pip install 'balancer[cli]'" in str(call(monkeypatch, "--help"))


def test_a_reader_that_leaves_early_sees_no_traceback(tmp_path):
    """`balancer check FILE --json | head -0`."""
    file = tmp_path / "balancer.toml"
    accounts = "".join(f'[[accounts]]\nname = "a{number}"\nkey_env = "HOME"\n' for number in range(200))
    file.write_text(accounts)
    command = [sys.executable, "-m", "balancer.cli.main", "check", str(file), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(30) != 0
    assert b"Traceback" not in said
