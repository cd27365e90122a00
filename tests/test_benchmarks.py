"""The benchmarks run and say what they found in a form that parses. Never how fast anything is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from benchmarks import __main__ as command
from benchmarks import burst, memory, overhead, plots, quota
from benchmarks.client import BODY
from benchmarks.overhead import Case
from benchmarks.report import Row, as_json, shown
from benchmarks.server import SIZE, answer, find_nginx, nginx, own


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert command.main([*arguments, "--quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["benchmark"] == arguments[0]
    assert document["quick"] is True
    return document["rows"]


def test_spread_shares_by_load_and_by_weight(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten calls over two equal accounts go 5 and 5, and weight 91 of 100 takes 91 percent."""
    rows = _run(capsys, "spread")
    assert [row["reached"] for row in rows] == [True] * 3


def test_memory_leaves_nothing() -> None:
    """After calls of every kind no lease, task or file descriptor is left."""
    rows = memory.memory(quick=True)
    assert [row.value for row in rows[1:]] == [0, 0, 0]


def test_placement_takes_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """Placing a call takes two task steps more than the exchange itself, whatever the machine."""
    rows = _run(capsys, "placement")
    assert rows[-1]["reached"] is True
    assert len(rows) == 3


@pytest.mark.slow
def test_burst_serves_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst beyond the limits is served whole; with the limits configured nothing is refused upstream."""
    monkeypatch.setitem(burst.LIMITS, "requests", {"amount": 5, "per": 1.0})
    rows = _run(capsys, "burst")
    samples = [str(sample) for row in rows for sample in row["samples"]]  # type: ignore[attr-defined]
    assert len(samples) == 2
    assert rows[2]["value"] == 0


@pytest.mark.slow
def test_overhead_compares_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison gives its ratio and every pair, from processes of their own."""
    monkeypatch.setattr(overhead, "placement", lambda *, quick: [])
    (row,) = overhead.overhead(quick=True, cases=[Case("httpx2", 2, 0.0, slow=True)])
    assert row.value > 0.0
    assert row.reached is True
    assert len(row.samples) == 2


def test_without_nginx_the_figures_say_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without nginx our own server stands in, marked as such, and the user is told how to install nginx."""
    monkeypatch.setattr(overhead, "find_nginx", lambda: None)
    with ExitStack() as stack:
        url, name = overhead._fast_server(stack)
        assert name == "OUR OWN SERVER"
        assert "install nginx" in capsys.readouterr().err
        for _ in range(2):
            assert len(httpx.post(f"{url}/chat/completions", json=BODY).content) == SIZE


def test_the_own_server_answers_what_nginx_answers() -> None:
    """Both servers give the same 300 bytes of JSON, the own one after its delay, on connections that stay open."""
    with ExitStack() as stack:
        urls = [stack.enter_context(own(0.001, 0.002))]
        if (program := find_nginx()) is not None:
            urls.append(stack.enter_context(nginx(program)))
        client = stack.enter_context(httpx.Client())
        for url in urls:
            for _ in range(3):
                response = client.post(f"{url}/chat/completions", json=BODY)
                assert response.status_code == 200
                assert response.headers["content-type"] == "application/json"
                assert response.text == answer()


def test_nginx_that_does_not_start_is_told() -> None:
    """A program that is no nginx is an error, not a wait without end."""
    program = shutil.which("false")
    assert program is not None
    with pytest.raises(RuntimeError, match="did not start"), nginx(program):
        pass


def test_a_client_that_fails_shows_why() -> None:
    """The error of a client's process is shown, not swallowed."""
    run = overhead.Run("httpx", "http://127.0.0.1:9/v1", 1, 0.1, 0.1)
    with pytest.raises(RuntimeError, match="ConnectError"):
        run.measure()


def test_the_ledger_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """Reserve and settle by kind of window, in checkpoints."""
    rows = _run(capsys, "ledger")
    assert len(rows) == 4
    assert all(row["value"] > 0 for row in rows)  # type: ignore[operator]


def test_queue_places_while_few_and_while_many_wait(capsys: pytest.CaptureFixture[str]) -> None:
    """Two figures and their ratio."""
    few, many, ratio = _run(capsys, "queue")
    assert ratio["value"] == pytest.approx(many["value"] / few["value"])


@pytest.mark.slow
def test_no_span_holds_more_than_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """A hundredth of the million admissions: nothing exceeds a limit of either kind, and the limits are used."""
    rows = _run(capsys, "admissions")
    assert [row["reached"] for row in rows] == [True, None, True, None]
    assert all(row["value"] > 0.9 for row in rows[1::2])  # type: ignore[operator]


def test_quota_is_held_to_its_goals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each goal of a scenario is a row, of its worst seed."""
    monkeypatch.setattr(quota, "sockets", lambda *, quick: [])
    assert [row["reached"] for row in _run(capsys, "quota")] == [True] * 9


def test_quota_runs_on_as_many_seeds_as_wanted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them is shown."""
    monkeypatch.setattr(quota, "sockets", lambda *, quick: [])
    assert {len(row["samples"]) for row in _run(capsys, "quota", "--seeds", "3")} == {3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["spread", "--plot", "somewhere"], "only quota takes --plot"),
        (["spread", "--seeds", "3"], "only quota takes --seeds"),
        (["quota", "--seeds", "0"], "'0'; allowed: a whole number from 1"),
        (["quota", "--seeds", "many"], "'many'; allowed: a whole number from 1"),
    ],
)
def test_what_no_benchmark_takes_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert said in capsys.readouterr().err


def test_what_is_missing_is_said_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"balancer\[plots\]"):
        quota.quota(plot=tmp_path)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(SystemExit, match="pip install scipy"):
        quota.quota()


@pytest.mark.slow
def test_use_is_drawn_against_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As PNG and SVG; the peers' rules are simulated on the same arrivals, and refused where the balancer is not."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(plots, "OURS", ("least_pressure",))
    curves = plots.measure(plots.UNEQUAL, (1.5,), 80.0, lambda: None)
    (ours,), (peer,) = curves["least_pressure"], curves[plots.FIXED_COOLDOWN]
    assert ours.refused == 0 < peer.refused
    assert ours.used > peer.used
    assert [path.suffix for path in plots.draw([(plots.UNEQUAL, curves)], tmp_path)] == [".png", ".svg"]
    assert all(path.stat().st_size for path in tmp_path.iterdir())


def test_a_missed_goal_is_said() -> None:
    """The table and the JSON both say which goals were missed."""
    rows = [Row.at_least("fast", 1.0, 2.0, ["1.0 once"]), Row.at_most("small", 1.0, 2.0), Row("known", 3.0)]
    text = shown("some", rows, quick=False)
    assert "1 of 2 goals reached" in text
    assert "NO" in text
    assert "1.0 once" in text
    assert [row["reached"] for row in json.loads(as_json("some", rows, quick=False))["rows"]] == [False, True, None]


def test_a_missed_goal_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A measurement that misses a goal fails its command; a quick run cannot."""
    monkeypatch.setitem(command.BENCHMARKS, "spread", lambda *, quick: [Row.at_most("big", 3.0, 2.0)])
    assert command.main(["spread"]) == 1
    assert command.main(["spread", "--quick"]) == 0
    capsys.readouterr()


def test_unknown_names_are_refused() -> None:
    """A name that is none lists those that are."""
    with pytest.raises(SystemExit):
        command.main(["everything"])


def test_the_module_runs() -> None:
    """`python -m benchmarks` is how it is started."""
    ended = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=True)
    assert "overhead" in ended.stdout
