"""`balancer mock`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from balancer.cli.mock import mock
from balancer.errors import ConfigError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@contextmanager
def running(*arguments):
    command = [sys.executable, "-m", "balancer.cli.main", "mock", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_single_backend_runs_until_it_is_told_to_stop(tmp_path, end):
    """Options make one backend; its address is printed first, the counts and the record are written at the end."""
    record = tmp_path / "record.json"
    with running("--json", "--requests-per-minute", "1", "--record", str(record)) as process:
        (backend,) = json.loads(process.stdout.readline())["backends"]
        statuses = [httpx.post(f"{backend['base_url']}/chat/completions", json=CHAT).status_code for _ in range(2)]
        process.send_signal(end)
        out, err = process.communicate(timeout=10)
    assert statuses == [200, 429]
    assert (process.returncode, err) == (0, "")
    counts = json.loads(out)["counts"]["mock"]
    assert (counts["received"], counts["served"], counts["refused"]) == (2, 1, 1)
    told = json.loads(record.read_text())["backends"]["mock"]
    assert told["counts"] == counts
    assert [entry["status"] for entry in told["received"]] == [200, 429]


def test_a_file_starts_its_mock_accounts(tmp_path):
    """Every mock account gets a backend, real accounts none, and no key is looked for; people read lines and a table."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[[accounts]]\nname = "[a]"\nprovider = "mock"\nmock = { speaks = "anthropic" }\n'
        '[[accounts]]\nname = "b"\nprovider = "mock"\n[[accounts]]\nname = "c"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'key_env = "A_VARIABLE_THAT_IS_NOT_SET"\n[[accounts]]\nname = "d"\nprovider = "anthropic"\nkey_file = ["none.key"]\n'
    )
    with running(str(path)) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert lines[0].startswith("[a]: http://127.0.0.1:")
    assert lines[0].endswith("/v1 speaks anthropic\n")
    assert lines[1].startswith("b: http://")
    assert "Ctrl-C" in lines[2]
    assert "received" in out
    assert (process.returncode, err) == (0, "")


def told(capsys):
    """What was said in one line on stderr, and nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("balancer: ")
    assert len(err.splitlines()) == 1
    return err


def test_a_file_without_a_mock_account_is_refused_as_such(tmp_path):
    """Not for the keys of the accounts that it has, which nobody asked for."""
    path = tmp_path / "config.toml"
    path.write_text('[[accounts]]\nname = "a"\nkey_env = "A_VARIABLE_THAT_IS_NOT_SET"\n')
    with pytest.raises(ConfigError) as caught:
        mock(path)
    assert [str(fault) for fault in caught.value.faults] == [
        'accounts: no mock account; allowed: at least one with provider = "mock"'
    ]


def test_a_port_that_is_taken_is_one_line(capsys):
    """What the system refuses is told in a line with the options and what they may be, with exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert mock(port=port) == 2
    err = told(capsys)
    assert f"--host 127.0.0.1 --port {port}: Address already in use" in err
    assert "allowed: " in err


@pytest.mark.parametrize("host", ["bogus.invalid", "a..b", "x" * 300, "", "192.0.2.1"])
def test_a_host_that_is_none_is_one_line(capsys, host):
    """A name that nobody knows, none at all, or an address of another machine."""
    assert mock(host=host) == 2
    err = told(capsys)
    assert f"--host {host}" in err
    assert "allowed: an address of this machine" in err


def test_ports_that_do_not_suffice_are_told_before_the_start(tmp_path, capsys):
    """No backend takes another port than the one that follows."""
    path = tmp_path / "config.toml"
    path.write_text("".join(f'[[accounts]]\nname = "{name}"\nprovider = "mock"\n' for name in "abc"))
    assert mock(path, port=65534) == 2
    assert told(capsys).endswith("--port 65534: 3 backends take the ports 65534 to 65536; allowed: at most 65533, or 0\n")


@pytest.mark.parametrize(("name", "why"), [("no/record.json", "No such file or directory"), ("", "Is a directory")])
def test_a_record_that_cannot_be_written_is_told_before_the_start(tmp_path, capsys, name, why):
    """No afternoon of traffic is lost to a slip in a path."""
    assert mock(record=tmp_path / name) == 2
    assert f"--record {tmp_path / name}: {why}; allowed: a file that can be written" in told(capsys)


def test_a_record_that_can_no_longer_be_written_is_told_at_the_end(tmp_path):
    """The counts are printed all the same."""
    record = tmp_path / "record.json"
    with running("--record", str(record)) as process:
        process.stdout.readline()
        record.unlink()
        record.mkdir()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "received" in out
    assert f"--record {record}: Is a directory" in err
    assert "Traceback" not in err


def test_options_of_a_single_backend_go_without_a_file(tmp_path, capsys):
    """A file says everything about its backends itself."""
    path = tmp_path / "config.toml"
    path.write_text('[[accounts]]\nname = "a"\nprovider = "mock"\n')
    assert mock(path, latency=1.0) == 2
    assert "without a file" in capsys.readouterr().err
