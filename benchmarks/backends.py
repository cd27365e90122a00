"""Mock backends in a process of their own: what the client's code costs must not delay when they count a request.

Run as `python -m benchmarks.backends`; settings come as JSON in its argument, the base URLs leave as one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from balancer.testing.mock import MockSettings, open_mocks
from benchmarks.server import ROOT

RECORD = "/__record__"


@contextmanager
def backends(count: int, settings: Mapping[str, Any]) -> Iterator[list[str]]:
    """Runs `count` equal backends for the length of the block; yields their base URLs."""
    command = [sys.executable, "-m", "benchmarks.backends", json.dumps({"count": count, "settings": settings})]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


async def _serve(count: int, settings: Mapping[str, Any]) -> None:
    truth = MockSettings.parse(settings)
    async with open_mocks({str(number): truth for number in range(count)}) as started:
        print(json.dumps([backend.base_url for backend in started.values()]), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(lambda: _serve(**json.loads(sys.argv[1])))
