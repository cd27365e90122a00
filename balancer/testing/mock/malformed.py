"""Answers that no provider should give. The endless ones end when the client has had enough."""

from __future__ import annotations

import functools
import struct
import zlib

from balancer.testing.mock.connection import Connection, Headers

BOMB_SIZE = 64 << 20
ENDLESS = ("endless_headers", "informational_flood")
NONSENSE: Headers = [
    (b"retry-after", b"-1"),
    (b"retry-after-ms", b"9" * 5000),
    (b"x-ratelimit-limit-requests", b"nan"),
    (b"x-ratelimit-limit-tokens", b"-30000"),
    (b"x-ratelimit-remaining-requests", b"1e400"),
    (b"x-ratelimit-remaining-tokens", b"\xd9\xa1\xd9\xa2"),
    (b"x-ratelimit-reset-requests", b"1_000"),
    (b"x-ratelimit-reset-tokens", b"6m0s6m0s"),
    (b"anthropic-ratelimit-requests-limit", b"inf"),
    (b"anthropic-ratelimit-requests-remaining", b"0x10"),
    (b"anthropic-ratelimit-requests-reset", b"9999-99-99T99:99:99Z"),
    (b"ratelimit", b'"default";r=-5;t=nan,,;;'),
]
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_HTML = b"<!doctype html><html><title>It works</title><p>This is not the page you are looking for.</html>\n"
_GARBAGE = b"\x00\x01\xff220 mail.example ready\r\n\r\n"
_HEADER_BLOCK = b"".join(b"x-endless-%d: %b\r\n" % (number, b"a" * 1000) for number in range(64))
_INFORMATIONAL = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"


@functools.cache
def bomb() -> bytes:
    """A gzip body that grows a thousandfold."""
    zeros, check, blocks = bytes(1 << 20), 0, BOMB_SIZE >> 20
    press = zlib.compressobj(wbits=-15)
    # A fully flushed block may be repeated as it is: one is pressed, not all of them.
    block = press.compress(zeros) + press.flush(zlib.Z_FULL_FLUSH)
    for _ in range(blocks):
        check = zlib.crc32(zeros, check)
    return _GZIP_HEAD + block * blocks + press.flush() + struct.pack("<II", check, BOMB_SIZE)


async def send_malformed(shape: str, connection: Connection, headers: Headers) -> None:
    """Sends one of them."""
    match shape:
        case "html":
            await connection.answer(200, [*headers, (b"content-type", b"text/html; charset=utf-8")], _HTML)
        case "empty":
            await connection.answer(200, [*headers, (b"content-type", b"application/json")], b"")
        case "gzip_bomb":
            encoded = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]
            await connection.answer(200, [*headers, *encoded], bomb())
        case "endless_headers":
            await connection.send_raw(b"HTTP/1.1 200 OK\r\n")
            while True:
                await connection.send_raw(_HEADER_BLOCK)
        case "informational_flood":
            while True:
                await connection.send_raw(_INFORMATIONAL * 100)
        case _:
            await connection.send_raw(_GARBAGE)
