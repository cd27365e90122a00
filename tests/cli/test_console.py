"""What all commands print on a terminal."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from balancer.cli.batch import batch
from balancer.cli.check import check
from balancer.cli.demo import demo

COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")

MOCKS = """
[[accounts]]
name = "quick"
provider = "mock"
[[accounts]]
name = "limited"
provider = "mock"
limits = { requests_per_minute = 60 }
"""


class Screen(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run(command, folder):
    """Runs one of the commands so that it has something to say in colour."""
    config = folder / "config.toml"
    config.write_text(MOCKS)
    match command:
        case "demo":
            return demo(config=config, calls=10)
        case "check":
            return check(config)
        case "faulty":
            config.write_text(MOCKS + "wieght = 1\n")
            return check(config)
        case _:
            source, body = folder / "in.jsonl", {"model": "m", "messages": []}
            request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
            source.write_text(json.dumps(request) + "\ngarbage\n")
            return batch(source, folder / "out.jsonl", config=config)


@pytest.mark.parametrize("no_color", [False, True])
@pytest.mark.parametrize("command", ["demo", "batch", "check", "faulty"])
def test_no_color_is_honoured(tmp_path, monkeypatch, command, no_color):
    """Colour on a terminal, none where the variable `NO_COLOR` is set."""
    screen = Screen()
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    for name in ("COLORTERM", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    assert run(command, tmp_path) == (1 if command in ("batch", "faulty") else 0)
    shown = screen.getvalue()
    assert len(shown) > 50
    assert bool(COLOUR.search(shown)) is not no_color
