"""The servers under the overhead benchmark: nginx with a fixed answer, and one of our own that takes its time.

The own one runs as `python -m benchmarks.server LOW HIGH`: it answers each request after LOW to HIGH seconds. It parses next to
nothing, so that a client in Python is the bottleneck, never the server. Without nginx it stands in for it, without a delay.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATH = "/v1/chat/completions"
SIZE = 300

INSTALL = "install nginx (Debian, Ubuntu: apt-get install nginx-light; macOS: brew install nginx)"

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CONFIG = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location = {path} {{ return 200 '{answer}'; }}
    }}
}}
"""


def answer() -> str:
    """A chat completion of `SIZE` bytes."""
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
    }
    missing = SIZE - len(json.dumps(document, separators=(",", ":")))
    document["choices"][0]["message"]["content"] = "a" * missing  # type: ignore[index]
    return json.dumps(document, separators=(",", ":"))


def find_nginx() -> str | None:
    """Where nginx is; `None` if it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


@contextmanager
def nginx(program: str) -> Iterator[str]:
    """Runs nginx with one worker on loopback for the length of the block; yields its base URL."""
    with tempfile.TemporaryDirectory(prefix="balancer-nginx-") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = Path(folder) / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, port=port, path=PATH, answer=answer()))
        process = subprocess.Popen(
            [program, "-e", f"{folder}/error.log", "-p", folder, "-c", str(config)], stderr=subprocess.DEVNULL
        )
        try:
            _await_listening(process, port)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def own(low: float, high: float) -> Iterator[str]:
    """Runs the own server for the length of the block; yields its base URL."""
    command = [sys.executable, "-m", "benchmarks.server", str(low), str(high)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.terminate()
        process.communicate()


def _await_listening(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(100):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nginx did not start")


class Delayed(asyncio.Protocol):
    """One connection of the own server."""

    def __init__(self, low: float, high: float, rng: random.Random) -> None:
        body = answer().encode()
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        self._low, self._high, self._rng = low, high, rng
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._received, 0, end)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            if self._high:
                asyncio.get_running_loop().call_later(self._rng.uniform(self._low, self._high), self._reply)
            else:
                self._reply()

    def _reply(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._answer)


async def _serve(low: float, high: float) -> None:
    rng = random.Random(1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Delayed(low, high, rng), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), float(sys.argv[2])))
