"""`balancer batch`: every request gets its answer, whatever the lines, the backends and the person at the keyboard do."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import httpx
import pytest
import trio
from cyclopts import App
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from trio.testing import MockClock

from balancer import Account, BalancerConfig
from balancer.cli import batch_files, batch_report
from balancer.cli.batch import Batch, batch
from balancer.cli.batch_files import (
    AnswerFile,
    Bad,
    BadLine,
    FileUnusable,
    Request,
    RequestFile,
    answer_line,
    digest_of,
    parse_request,
)
from balancer.cli.batch_report import MOST_KINDS, MOST_TOLD, Tally
from balancer.core.cooldown import Pause
from balancer.errors import StreamTruncated
from balancer.nursery import Statistics, Totals, open_balancer

command = sys.modules[Batch.__module__]

PROGRAM = "from cyclopts import App; from balancer.cli.batch import batch; app = App(); app.default(batch); app()"
SOLID = """
[[accounts]]
name = "solid"
provider = "mock"
"""


def line_of(custom_id, body=None, **changes):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **(body or {})}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **changes})


def answers_in(path):
    """The answers, each line of the file a whole one."""
    content = path.read_bytes()
    assert content == b"" or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


class Desk:
    """The files of one batch."""

    def __init__(self, folder):
        self.source, self.target, self.config = folder / "in.jsonl", folder / "out.jsonl", folder / "accounts.toml"
        self.config.write_text(SOLID)

    def write(self, *lines):
        self.source.write_text("".join(line + "\n" for line in lines))

    @property
    def arguments(self):
        return [str(self.source), str(self.target), "--config", str(self.config)]

    def run(self, *more):
        app = App()
        app.default(batch)
        return app([*self.arguments, *more], result_action="return_value", exit_on_error=False)

    def summary(self, capsys, *more):
        capsys.readouterr()
        code = self.run("--json", *more)
        return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


# -- the command ----------------------------------------------------------------------------------------------------------


def test_every_request_gets_its_answer(desk, capsys):
    """Both dialects, one answer a line in the format of OpenAI's batch API, exit code 0 and a summary."""
    desk.config.write_text(SOLID + '[[accounts]]\nname = "a"\nprovider = "mock"\nmock = { speaks = "anthropic" }\n')
    desk.write(line_of("one"), line_of("two", {"max_tokens": 5}, url="/v1/messages"), "", line_of("three"))
    assert desk.run() == 0
    answers = {answer["custom_id"]: answer for answer in answers_in(desk.target)}
    assert answers.keys() == {"one", "two", "three"}
    assert len({answer["id"] for answer in answers.values()}) == 3
    for answer in answers.values():
        assert answer.keys() == {"id", "custom_id", "response", "error"}
        assert answer["error"] is None
        assert answer["response"].keys() == {"status_code", "request_id", "body"}
        assert answer["response"]["status_code"] == 200
        assert answer["response"]["request_id"].startswith("req_")
    assert answers["one"]["response"]["body"]["object"] == "chat.completion"
    assert answers["two"]["response"]["body"]["type"] == "message"
    out, err = capsys.readouterr()
    assert out.startswith("3 served, 0 failed in ")
    assert err == ""


def test_bad_lines_are_told_and_do_not_stop_the_rest(desk, capsys):
    """Each with its number; the good ones are served, the exit code is 1, and nothing of the bad ones is in OUT."""
    desk.write(line_of("a"), "garbage", line_of("a"), line_of("b", method="GET"), line_of("c"))
    code, summary = desk.summary(capsys)
    assert code == 1
    assert (summary["served"], summary["bad"], summary["failed"]) == (2, 3, 0)
    assert [bad["line"] for bad in summary["bad_lines"]] == [2, 3, 4]
    assert {answer["custom_id"] for answer in answers_in(desk.target)} == {"a", "c"}
    assert desk.run() == 1
    out, err = capsys.readouterr()
    assert "0 served, 0 failed, 2 were served before" in out
    assert "3 bad lines: 2, 3, 4" in out
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 2", "line 3", "line 4"]


def test_what_failed_is_sent_again_and_what_was_served_is_not(desk, capsys):
    """Refused requests are answers too, told by kind and line; the next run sends only them, and its answer counts."""
    desk.config.write_text(SOLID + 'mock = { faults = [{ script = ["ok", { kind = "status", status = 400 }, "ok"] }] }\n')
    desk.write(line_of("a"), line_of("b"), line_of("c"))
    code, summary = desk.summary(capsys, "--limit", "1")
    assert code == 1
    assert summary["failures"] == [{"kind": "400 invalid_request_error", "count": 1, "lines": [2]}]
    assert [answer["response"]["status_code"] for answer in answers_in(desk.target)] == [200, 400, 200]
    desk.config.write_text(SOLID)
    code, summary = desk.summary(capsys)
    assert (code, summary["served"], summary["skipped"]) == (0, 1, 2)
    assert [(answer["custom_id"], answer["response"]["status_code"]) for answer in answers_in(desk.target)][2:] == [
        ("c", 200),
        ("b", 200),
    ]
    code, summary = desk.summary(capsys)
    assert (code, summary["served"], summary["skipped"]) == (0, 0, 3)


def test_nothing_is_sent_that_the_quotas_would_refuse(desk, capsys):
    """Six requests over two accounts of two in half a second each: none is refused, and none gives up waiting."""
    limited = '[[accounts]]\nname = "{}"\nprovider = "mock"\nlimits = {{ requests = {{ amount = 2, per = 0.5 }} }}\n'
    limited += "mock = {{ limits = {{ requests = {{ amount = 2, per = 0.5 }} }} }}\n"
    text = limited.format("a") + limited.format("b") + "[balancer]\nmax_wait_for = 0.0\nmax_waiting = 0\n"
    desk.config.write_text(text)
    desk.write(*(line_of(f"r{number}") for number in range(8)))
    code, summary = desk.summary(capsys)
    assert (code, summary["served"]) == (0, 8)
    assert summary["seconds"] >= 0.45


def test_unusable_files_are_refused_in_words(desk, tmp_path, capsys):
    """Exit code 2, a line that says which and why, and no file is touched."""
    desk.write(line_of("a"))
    text = desk.source.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(desk.source)
    notes = tmp_path / "notes.txt"
    notes.write_text("shopping list\nmilk")
    for source, target, told in (
        (tmp_path / "none.jsonl", desk.target, "No such file"),
        (tmp_path, desk.target, "Is a directory"),
        (desk.source, tmp_path / "none" / "out.jsonl", "No such file"),
        (desk.source, tmp_path, "Is a directory"),
        (desk.source, desk.source, "one file"),
        (desk.source, link, "one file"),
        (desk.source, notes, "line 1: not an answer"),
        (desk.source, Path(os.devnull), "not a file that can be read again"),
    ):
        assert batch(source, target, config=desk.config) == 2
        out, err = capsys.readouterr()
        assert (out, told in err) == ("", True), err
        assert "Traceback" not in err
    assert (desk.source.read_bytes(), notes.read_text()) == (text, "shopping list\nmilk")


def test_a_faulty_configuration_is_told_whole(desk, capsys):
    """Exit code 2 with every fault, before any file is opened."""
    desk.config.write_text('[[accounts]]\nname = "a"\nprovider = "mock"\nweight = -1\nmock = { latency = 1 }\nwhat = 1\n')
    desk.write(line_of("a"))
    assert desk.run() == 2
    err = capsys.readouterr().err
    assert "accounts[0].weight" in err
    assert "accounts[0].what" in err
    assert not desk.target.exists()


def test_faults_of_a_mock_are_told(desk, capsys):
    """The table of a mock backend is read when it is started, and its faults are told in the same way."""
    desk.config.write_text(SOLID + 'mock = { latency = "soon" }\n')
    desk.write(line_of("a"))
    assert desk.run() == 2
    assert "accounts[0].mock.latency" in capsys.readouterr().err


# -- breaks ---------------------------------------------------------------------------------------------------------------


def started(desk, served=20):
    """A batch in a process of its own that has written so many answers."""
    arguments = [sys.executable, "-c", PROGRAM, *desk.arguments, "--json"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (desk.target.exists() and desk.target.read_bytes().count(b"\n") >= served):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def test_two_runs_do_not_write_one_file(desk, capsys):
    """The second one is refused before it has sent or written anything; once the first has ended, the file is free again."""
    desk.config.write_text(SOLID + "limits = { concurrency = 2 }\nmock = { latency = 0.02 }\n")
    desk.write(*(line_of(f"r{each}") for each in range(1000)))
    process = started(desk, served=2)
    assert desk.run() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is being written by another run" in err.replace("\n", "")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    answered = [answer["custom_id"] for answer in answers_in(desk.target)]
    assert len(answered) == len(set(answered)) < 1000
    desk.write(line_of(answered[0]))
    assert desk.run() == 0


def test_where_files_cannot_be_locked_a_batch_does_without(desk, monkeypatch):
    """Some network drives know no locks."""

    def refuse(_fd, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    desk.write(line_of("a"))
    assert desk.run() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_batch_goes_on_where_it_was_broken_off(desk, capsys, number, code):
    """Ctrl-C leaves whole lines and says how to go on; after it, and after a kill, the next run sends only the rest."""
    desk.config.write_text(SOLID + "limits = { concurrency = 4 }\nmock = { latency = 0.005 }\n")
    desk.write(*(line_of(f"r{each}") for each in range(400)))
    process = started(desk)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "Traceback" not in err
    before = len(answers_in(desk.target))
    assert 20 <= before < 400
    if code == 130:
        assert json.loads(out)["interrupted"] is True
        assert json.loads(out)["served"] == before
        assert "Interrupted. Run the same command to go on" in err
    code, summary = desk.summary(capsys)
    assert (code, summary["skipped"], summary["served"]) == (0, before, 400 - before)
    assert len({answer["custom_id"] for answer in answers_in(desk.target)}) == len(answers_in(desk.target)) == 400


def test_a_full_disk_leaves_whole_lines(desk, capsys, monkeypatch):
    """The line that did not fit is cut off, the run ends with exit code 1 and says why."""
    desk.write(*(line_of(f"r{each}") for each in range(20)))
    write, room = os.write, 3000

    def scarce(fd, data):
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(fd, data[: max(1, min(room, 100))])
        room -= taken
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", scarce)
        code = desk.run()
    assert code == 1
    assert "No space left" in capsys.readouterr().err
    assert 0 < len(answers_in(desk.target)) < 20
    assert desk.run() == 0


def test_a_torn_last_line_is_cut_off(desk, capsys):
    """Its request is sent again, and the file holds whole lines only."""
    desk.write(line_of("a"), line_of("b"))
    assert desk.run() == 0
    content = desk.target.read_bytes()
    desk.target.write_bytes(content[:-30])
    capsys.readouterr()
    assert desk.run() == 0
    out, err = capsys.readouterr()
    assert "torn last line" in err
    assert "1 served, 0 failed, 1 were served before" in out
    assert len(answers_in(desk.target)) == 2


# -- the files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x", "not JSON"),
        (line_of("a")[:-1] + ', "body": ' + "[" * 100_000, "nested too deeply"),
        ("[]", "Expected `object`"),
        ("{}", "custom_id"),
        (line_of(3), "custom_id"),
        (line_of(""), "custom_id"),
        (line_of("x" * 513), "custom_id"),
        (line_of("a", method="get"), "method"),
        (line_of("a", url="https://a.example/v1/chat/completions"), "give the path only, e.g. /v1/chat/completions"),
        (line_of("a", url="HTTPS://\u00e9.example/v1/chat/completions"), "give the path only"),
        (line_of("a", url="//a.example/v1/chat"), "give the path only"),
        (line_of("a", url="chat/completions"), "url"),
        (line_of("a", url="/v2/chat/completions"), "url"),
        (line_of("a", url="/v1/%2e%2e/x"), "url"),
        (line_of("a", url="/v1/x#y"), "url"),
        (line_of("a", url="/v1/x\r\nHost: b"), "url"),
        (line_of("a", url="/v1/\u00e9"), "url"),
        (line_of("a", {"stream": True}), "stream"),
        (line_of("a")[:-1] + ', "body": 3}', "body"),
    ],
)
def test_lines_that_are_no_requests(line, told):
    """What is wrong is said, and short."""
    with pytest.raises(BadLine, match=told) as caught:
        parse_request(line.encode(), 1, 0)
    assert len(str(caught.value)) < 200


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=20).map(lambda inner: line_of("a").encode().replace(b"hi", inner))))
def test_any_line_is_a_request_or_a_bad_line(line):
    """Nothing but `BadLine` leaves the parser, and a request's body is the very text of the line."""
    try:
        request = parse_request(line, 7, 9)
    except BadLine:
        return
    assert request.line == 7
    assert request.body in line
    json.loads(request.body)


def test_requests_are_read_a_piece_at_a_time(desk, monkeypatch):
    """A mark at the beginning, CRLF, empty lines and a last line without its end are no problem; a line too long is a bad one."""
    monkeypatch.setattr(batch_files, "MAX_LINE", 200)
    monkeypatch.setattr(batch_files, "_CHUNK", 1)
    lines = [b"\xef\xbb\xbf" + line_of("a").encode(), b"", b"y" * 500, line_of("b").encode() + b"\r", line_of("c").encode()]
    desk.source.write_bytes(b"\n".join(lines))
    found = []
    with RequestFile.open(desk.source) as requests:
        while more := requests.some():
            assert len(more) == 1
            found += more
        assert requests.size == sum(line.size for line in found)
    assert [(line.line, line.custom_id if isinstance(line, Request) else "bad") for line in found] == [
        (1, "a"),
        (3, "bad"),
        (4, "b"),
        (5, "c"),
    ]
    assert isinstance(found[1], Bad)


def test_the_last_answer_of_an_id_counts(desk):
    """Served ids are those whose last line is a 2xx; a last line that only lacks its end is whole."""
    lines = [
        answer_line("a", response=(200, "", b"{}")),
        answer_line("a", response=(500, "", b"{}")),
        answer_line("b", error=("timeout", "")),
        answer_line("b", response=(201, "", b"{}")),
        answer_line("c", error=("timeout", "")),
        answer_line("d", response=(200, "", b"{}")),
    ]
    content = b"".join(lines)
    desk.target.write_bytes(content[:-1])
    with AnswerFile(desk.target) as answers:
        assert answers.served == {digest_of("b"), digest_of("d")}
        assert answers.torn == 0
    assert desk.target.read_bytes() == content


WHOLE = b"".join(answer_line(f"r{number}", response=(200, "r\u00e9q", b'{"a": [1,\n 2]}')) for number in range(3))


@settings(deadline=None)  # each example waits for the disk
@given(st.integers(0, len(WHOLE)))
def test_answers_broken_off_anywhere_can_be_gone_on_with(tmp_path_factory, place):
    """Whatever prefix is there, what stays are whole lines, and what is written next follows them."""
    path = tmp_path_factory.mktemp("answers") / "out.jsonl"
    path.write_bytes(WHOLE[:place])
    length = len(WHOLE) // 3
    whole = (place + 1) // length  # a line that only lacks its end is whole
    with AnswerFile(path) as answers:
        assert len(answers.served) == whole
        assert answers.torn == max(0, place - whole * length)
        answers.append(answer_line("new", response=(200, "", b"{}")))
    assert [answer["custom_id"] for answer in answers_in(path)] == [*(f"r{number}" for number in range(whole)), "new"]


@pytest.mark.parametrize("content", [b"[]\n", b"milk", line_of("a").encode() + b"\n", b'{"custom_id": 1}\n{"id":', b"\x00" * 9])
def test_a_file_of_something_else_is_left_alone(desk, content):
    """Neither is anything cut off it nor added."""
    desk.target.write_bytes(content)
    with pytest.raises(FileUnusable, match="line 1: not an answer"), AnswerFile(desk.target):
        pass
    assert desk.target.read_bytes() == content


@given(st.text(max_size=8), st.binary(max_size=30))
def test_an_answer_is_one_line(custom_id, body):
    """Whatever a backend sends; JSON stays the same JSON, anything else becomes a text."""
    line = answer_line(custom_id, response=(200, "", body))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    answer = json.loads(line)
    assert answer["custom_id"] == custom_id
    try:
        expected = json.loads(body.decode(), parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        expected = body.decode("utf-8", "replace")
    assert answer["response"]["body"] == expected


# -- what is held, and what is shown --------------------------------------------------------------------------------------

ANSWER = {"id": "1", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def serving(handler):
    """Two accounts that `handler` answers for."""
    transport = httpx.MockTransport(handler)
    shared = {"provider": "openai", "base_url": "http://a.example/v1", "key": "k", "transport": transport}
    return BalancerConfig([Account(name=name, **shared) for name in "ab"])


async def at_once(_request):
    return httpx.Response(200, json=ANSWER)


def serve(desk, handler=at_once, *, limit=64, console=None, clock=None):
    with RequestFile.open(desk.source) as requests, AnswerFile(desk.target) as answers:
        run = Batch(requests, answers, console or Console(file=io.StringIO()), limit)
        trio.run(run.serve, serving(handler), clock=clock)
    return run


def test_neither_file_is_ever_held_whole(desk):
    """20,000 lines of two kilobytes, most of them served before: what is held is a digest of each id."""
    count, fresh = 20_000, 500
    with desk.source.open("w") as file:
        for number in range(count):
            file.write(line_of(f"{number:0400}", {"user": "x" * 2000}) + "\n")
    with desk.target.open("wb") as file:
        for number in range(count - fresh):
            file.write(answer_line(f"{number:0400}", response=(200, "", b'{"a": "%b"}' % (b"x" * 500))))
    tracemalloc.start()
    try:
        run = serve(desk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (run.tally.served, run.tally.skipped) == (fresh, count - fresh)
    assert desk.source.stat().st_size > 40e6
    assert peak < 10e6


def test_so_many_calls_and_so_many_bytes_at_once(desk, monkeypatch):
    """The limit bounds the calls; the bytes of their bodies are bounded too, but one alone may have more."""
    running = most = 0

    async def slowly(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.005)
        running -= 1
        return await at_once(request)

    desk.write(*(line_of(f"r{number}", {"user": "x" * 1000}) for number in range(30)))
    assert serve(desk, slowly, limit=7).tally.served == 30
    assert most == 7
    most = 0
    monkeypatch.setattr(command, "MAX_HELD", 3500)
    desk.write(*(line_of(f"s{number}", {"user": "x" * (5000 if number == 9 else 1000)}) for number in range(20)))
    assert serve(desk, slowly).tally.served == 20
    assert most == 3


@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")  # httpx leaves its own behind what is not read on
async def test_an_answer_that_does_not_come_whole_is_an_error(monkeypatch):
    """Its line has a code and a message instead of a response."""
    monkeypatch.setattr(command, "MAX_ANSWER", 100)
    request = Request(1, "a", "/v1/chat/completions", b"{}", 3)

    async def answer(outcome):
        def handler(_request):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        async with httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://balancer") as client:
            status, kind, line = await command._answer(client, request)
        document = json.loads(line)
        assert (status, document["response"], document["error"]["code"]) == (0, None, kind)
        return kind

    truncated = httpx.RemoteProtocolError("gone")
    truncated.__cause__ = StreamTruncated("gone", received=3)
    assert await answer(truncated) == "stream_truncated"
    assert await answer(httpx.ReadTimeout("slow")) == "timeout"
    assert await answer(httpx.ReadError("gone")) == "connection_error"
    assert await answer(httpx.Response(200, stream=httpx.ByteStream(b"x" * 101))) == "answer_too_long"


def test_progress_for_who_looks_and_for_who_does_not(desk, monkeypatch):
    """A bar on a terminal, plain lines elsewhere, both with the rate and the time that is left."""

    async def slowly(request):
        await trio.sleep(0.01)
        return await at_once(request)

    monkeypatch.setattr(batch_report, "SAID_EVERY", 0.02)
    monkeypatch.setattr(batch_report, "DRAWN_EVERY", 0.02)
    desk.write(*(line_of(f"r{number}") for number in range(20)))
    shown = io.StringIO()
    serve(desk, slowly, limit=2, console=Console(file=shown, width=100))
    assert re.fullmatch(r"(\d+ served, 0 failed, [\d.]+/s(, \d+%, \d+ s left)?\n)+", shown.getvalue())
    desk.target.unlink()
    shown = io.StringIO()
    serve(desk, slowly, limit=2, console=Console(file=shown, width=100, force_terminal=True, color_system=None))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert re.search(r"\d+ served, 0 failed .*% [\d.]+/s, left \d", text)


def dead(_request):
    raise httpx.ConnectError("nobody listens there")


@pytest.mark.parametrize("terminal", [False, True])
def test_why_nothing_moves_is_told(desk, terminal, monkeypatch):
    """While calls wait: the accounts that take none, in which state, why and how long; each probe spends an attempt of a call, so
    that all calls end."""
    monkeypatch.setattr(batch_report, "DRAWN_EVERY", 20.0)
    desk.write(*(line_of(f"r{number}") for number in range(20)))
    shown = io.StringIO()
    console = Console(file=shown, width=200, force_terminal=terminal, color_system=None)
    run = serve(desk, dead, console=console, clock=MockClock(autojump_threshold=0))
    assert run.tally.failed == 20
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    before = r"left .*\s+" if terminal else r"(?m)^0 served, 0 failed, 0\.0/s; "
    assert re.search(before + r"waiting: a ejected \([^)]+\) \d+ s, b ejected \([^)]+\) \d+ s", text)


def test_where_all_accounts_are_disabled_calls_fail_at_once(desk):
    """Nothing is waited for that time does not mend."""
    sent = 0

    async def refuse(_request):
        nonlocal sent
        sent += 1
        return httpx.Response(401, json={"error": {"message": "who are you", "code": "invalid_api_key"}})

    desk.write(*(line_of(f"r{number}") for number in range(100)))
    run = serve(desk, refuse, limit=8)
    assert run.tally.failed == 100
    assert run.tally.seconds < 9.0
    assert sent <= 16


async def waiting_of(*accounts, waiting=1):
    async with open_balancer(serving(at_once)) as balancer:
        usual = balancer.statistics().accounts["a"]
    snapshots = {}
    for place, changes in enumerate(accounts):
        snapshots[f"n{place}"] = usual._replace(**{"name": f"n{place}", **changes})
    return batch_report.waiting_for(Statistics(snapshots, waiting, 0, Totals(0, 0, 0, 0)), 100.0)


async def test_what_calls_wait_for_in_words():
    """Nothing where none waits; no time where none is known; pauses of single models; a few accounts at most, and no escapes."""
    disabled = {"state": "disabled", "reason": "billing"}
    ejected = {"state": "ejected", "reason": "status 500", "until": 128.2}
    assert await waiting_of(disabled, waiting=0) == ""
    assert await waiting_of({}, {}) == "waiting: for room in the limits"
    assert await waiting_of(disabled) == "waiting: n0 disabled (billing)"
    assert await waiting_of({}, ejected) == "waiting: n1 ejected (status 500) 28 s"
    assert await waiting_of({**ejected, "until": math.inf}) == "waiting: n0 ejected (status 500)"
    pauses = (Pause(160.0, "rate limited", "m"), Pause(130.0, "rate limited", None, "tokens"), Pause(99.0, "overloaded", "m"))
    told = "waiting: n0 cooling (rate limited: m) 60 s, n0 cooling (rate limited: tokens) 30 s"
    assert await waiting_of({"pauses": pauses}) == told
    assert await waiting_of({"pauses": (Pause(math.inf, "model missing", "m"),)}) == "waiting: for room in the limits"
    many = await waiting_of(*[ejected] * 9)
    assert many.count("ejected") == 5
    assert many.endswith(", and 4 more")
    strange = await waiting_of({**ejected, "name": "\x1b[31m" * 50, "reason": "\x1b]0;x\x07 " + "y" * 500})
    assert strange.isprintable()
    assert len(strange) < 200


def test_a_summary_is_short_whatever_happens():
    """Kinds of failures, their lines and the bad lines that are told are bounded; all are counted."""
    tally = Tally()
    for number in range(5000):
        tally.count(Request(number, "", "", b"", 10), served=False, kind=f"500 {number}")
        tally.pass_over(Bad(number, "not JSON", 10))
    assert (tally.failed, tally.bad, tally.read) == (5000, 5000, 100_000)
    summary = tally.summary()
    assert len(summary["failures"]) == MOST_KINDS + 1
    assert summary["failures"][0]["kind"] == "others"
    assert sum(failures["count"] for failures in summary["failures"]) == 5000
    assert len(summary["bad_lines"]) == MOST_TOLD
    assert sum(map(len, tally.lines())) < 5000
