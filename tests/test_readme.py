"""Every fence of the README runs: code as it stands, the configuration with only its addresses replaced."""

from __future__ import annotations

import queue
import re
import threading
import tomllib
from pathlib import Path

import httpx
import pytest
import trio

from balancer import BalancerConfig, open_balancer
from balancer.testing import mock_backends
from balancer.testing.mock import MockSettings, open_mock

README = Path(__file__).parent.parent / "README.md"
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
KEYS = ("OPENAI_KEY_A", "OPENAI_KEY_B", "OPENAI_KEY_C")


def fences(language):
    return [text for name, text in FENCES if name == language]


@pytest.fixture
def backend():
    """The address of a mock backend in a thread of its own, for code that calls `trio.run` itself."""
    started = queue.Queue()

    async def serve():
        async with open_mock(MockSettings()) as mock:
            stop = trio.Event()
            started.put((mock.base_url, trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    address, token, stop = started.get(timeout=10)
    yield address
    token.run_sync_soon(stop.set)
    thread.join(timeout=10)


@pytest.fixture
def place(tmp_path, monkeypatch, backend):
    """A folder with the README's configuration, its accounts on the mock backend."""
    text, _ = fences("toml")
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        monkeypatch.setenv(key, "sk-of-no-use")
    addressed = text.replace('provider = "openai"', f'base_url = "{backend}"\nprovider = "openai"')
    assert addressed.count(backend) == len(KEYS)
    (tmp_path / "balancer.toml").write_text(addressed)
    return tmp_path


def test_there_is_no_fence_that_nothing_runs():
    """A fence in another language would be a claim that no test holds."""
    assert {name for name, _ in FENCES} == {"sh", "text", "python", "toml"}


def test_the_configuration_is_understood(monkeypatch):
    """As it stands in the README, with its keys in the environment."""
    for key in KEYS:
        monkeypatch.setenv(key, "sk-of-no-use")
    text, _ = fences("toml")
    config = BalancerConfig.parse(tomllib.loads(text))
    assert [account.name for account in config.accounts] == ["team-a", "team-b", "reserve"]


async def test_the_mock_account_answers():
    """As it stands in the README, with a backend behind it."""
    _, text = fences("toml")
    async with (
        mock_backends(tomllib.loads(text)) as config,
        open_balancer(config) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
    ):
        answer = await client.post("/chat/completions", json={"model": "m", "messages": []})
    assert answer.status_code == httpx.codes.OK


@pytest.mark.parametrize("number", range(len(fences("python"))))
def test_the_code_runs(number, place, capsys):
    """As a newcomer would run it: pasted into a file."""
    exec(compile(fences("python")[number], f"README fence {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_the_two_commands_are_those_of_the_makefile():
    """`.ci/run` exercises both from a clean clone."""
    targets = re.findall(r"^make (\w+)", "\n".join(fences("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
