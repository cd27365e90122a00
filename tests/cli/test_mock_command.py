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
    """Every mock account gets a backend, real accounts none; people read lines and a table."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[[accounts]]\nname = "[a]"\nprovider = "mock"\nmock = { speaks = "anthropic" }\n'
        '[[accounts]]\nname = "b"\nprovider = "mock"\n[[accounts]]\nname = "c"\nbase_url = "http://127.0.0.1:9/v1"\n'
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


def test_a_port_that_is_taken_is_one_line(capsys):
    """What the system refuses is told in a line, with exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert mock(port=taken.getsockname()[1]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("balancer: ")
    assert len(err.splitlines()) == 1


def test_a_record_that_cannot_be_written_is_told_before_the_start(tmp_path, capsys):
    """No afternoon of traffic is lost to a slip in a path."""
    assert mock(record=tmp_path / "no" / "record.json") == 2
    assert "No such file" in capsys.readouterr().err


def test_options_of_a_single_backend_go_without_a_file(tmp_path, capsys):
    """A file says everything about its backends itself."""
    path = tmp_path / "config.toml"
    path.write_text('[[accounts]]\nname = "a"\nprovider = "mock"\n')
    assert mock(path, latency=1.0) == 2
    assert "without a file" in capsys.readouterr().err
