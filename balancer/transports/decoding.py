"""Bodies that come encoded although `identity` was asked for: decoded piece by piece, under caps that a bomb cannot pass.

One layer, gzip or deflate. A piece is at most 64 KiB whatever the chunk it comes from, so 200 kB that stand for 200 MiB cost
one piece of memory until the cap ends them.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DECODED = 64 * 1024 * 1024
"""Bytes of one decoded body: twice the largest request body, far more than any answer in text."""

_PIECE = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
_WITHOUT_DECODER = (b"br", b"zstd", b"compress", b"x-compress")


class DecodingError(Exception):
    """A body that cannot be decoded. The text never quotes what was received."""


class EncodingRefused(DecodingError):
    """An encoding that has no decoder here, or more than one layer."""


class DecodedTooLarge(DecodingError):
    """The decoded body passes its cap."""


class BadlyEncoded(DecodingError):
    """The bytes are not what `Content-Encoding` says, or they end too early."""


class Decoder:
    """Decodes one body. `feed` it every chunk, then `finish` it.

    Args:
        gzip: gzip, of any number of members; else deflate, with or without zlib's header.
        cap: bytes of decoded body allowed, >= 0.
    """

    def __init__(self, *, gzip: bool, cap: int) -> None:
        self._gzip = gzip
        self._cap = cap
        self._decoded = 0
        self._held = b""  # the first byte of a deflate header that came alone
        self._inflater = zlib.decompressobj(_GZIP) if gzip else None
        self._open = False  # inside a member or stream that has begun

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded pieces of one more chunk.

        Raises:
            BadlyEncoded, DecodedTooLarge: nothing more is to be fed.
        """
        data = chunk
        if self._inflater is None:
            data = self._held + chunk
            if len(data) < 2:
                self._held, self._open = data, bool(data)
                return
            # Servers send raw deflate under the same name; a zlib header divides by 31 and says method 8.
            wrapped = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS if wrapped else _RAW)
        full = False
        while data or full:
            piece, data = self._inflate(data)
            full = self._open and len(piece) == _PIECE  # more may be inside the inflater, with no input left
            self._decoded += len(piece)
            if self._decoded > self._cap:
                raise DecodedTooLarge(f"the decoded body is larger than {self._cap} bytes")
            if piece:
                yield piece

    def _inflate(self, data: bytes) -> tuple[bytes, bytes]:
        """One piece, and what is left of the input."""
        inflater = self._inflater
        if inflater is None or inflater.eof:
            if not self._gzip:
                raise BadlyEncoded("bytes after the end of the encoded body")
            inflater = self._inflater = zlib.decompressobj(_GZIP)
        try:
            piece = inflater.decompress(data, _PIECE)
        except zlib.error:
            raise BadlyEncoded("the body is not what Content-Encoding says") from None
        self._open = not inflater.eof
        return piece, inflater.unused_data if inflater.eof else inflater.unconsumed_tail

    def finish(self) -> None:
        """The body has ended.

        Raises:
            BadlyEncoded: its encoding has not.
        """
        if self._open:
            raise BadlyEncoded("the encoded body breaks off")


def decoder(content_encoding: bytes | None, cap: int = MAX_DECODED) -> Decoder | None:
    """What decodes a body with this `Content-Encoding` (several headers joined by commas); `None` if nothing is to be done.

    Raises:
        EncodingRefused: there is no decoder for it.
    """
    if not content_encoding:
        return None
    layers = [layer for name in content_encoding.lower().split(b",") if (layer := name.strip()) not in (b"", b"identity")]
    match layers:
        case []:
            return None
        case [b"gzip" | b"x-gzip"]:
            return Decoder(gzip=True, cap=cap)
        case [b"deflate"]:
            return Decoder(gzip=False, cap=cap)
        case [name] if name in _WITHOUT_DECODER:
            raise EncodingRefused(f"the answer is encoded as {name.decode()}, though identity was asked for")
        case [_]:
            raise EncodingRefused("the answer has an unknown encoding, though identity was asked for")
        case _:
            raise EncodingRefused(f"the answer is encoded in {len(layers)} layers")
