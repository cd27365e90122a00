"""Decoding of bodies that come encoded all the same."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.transports.decoding import BadlyEncoded, DecodedTooLarge, DecodingError, EncodingRefused, decoder

BODY = b'{"answer": "' + b"word " * 5000 + b'"}'
MIB = 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


ENCODINGS = {b"gzip": gzip.compress, b"x-gzip": gzip.compress, b"deflate": zlib.compress, b" Deflate ,identity": raw_deflate}


def decode(encoding: bytes, chunks: list[bytes], cap: int = MIB) -> bytes:
    decoding = decoder(encoding, cap)
    assert decoding is not None
    body = b"".join(piece for chunk in chunks for piece in decoding.feed(chunk))
    decoding.finish()
    return body


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_round_trip(encoding, size):
    """Whatever the slices, the body comes back whole."""
    encoded = ENCODINGS[encoding](BODY)
    assert decode(encoding, [encoded[at : at + size] for at in range(0, len(encoded), size)]) == BODY


@pytest.mark.parametrize("encoding", [None, b"", b"identity", b" , Identity"])
def test_nothing_to_decode(encoding):
    """An identity body needs no decoder."""
    assert decoder(encoding) is None


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"compress", b"gzip, gzip", b"gzip,deflate", b"sk-secret", b"\xff\x00"])
def test_refused(encoding):
    """An encoding without decoder, and more than one layer, are refused by name but never quoted."""
    with pytest.raises(EncodingRefused) as caught:
        decoder(encoding)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_cut_is_seen(encoding):
    """A body cut anywhere but at its ends is never taken for whole."""
    encoded = ENCODINGS[encoding](b"a short body")
    for length in range(1, len(encoded)):
        with pytest.raises(BadlyEncoded):
            decode(encoding, [encoded[:length]])


def test_empty_body():
    """A body of no bytes, as HEAD and 304 have, is whole."""
    assert decode(b"gzip", []) == b""


def test_members():
    """Members of gzip follow each other; bytes after the end of deflate are an error, as is what is no member."""
    assert decode(b"gzip", [gzip.compress(b"a") + gzip.compress(b"b"), gzip.compress(b"c")]) == b"abc"
    for encoding, encoded in ((b"deflate", zlib.compress(b"a")), (b"gzip", gzip.compress(b"a"))):
        with pytest.raises(BadlyEncoded):
            decode(encoding, [encoded + b"rest"])
        with pytest.raises(BadlyEncoded):
            decode(encoding, [encoded, b"rest"])


def test_bomb():
    """A bomb ends at the cap, and costs a piece at a time."""
    deflater = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflater.compress(bytes(MIB)) for _ in range(200)) + deflater.flush()
    tracemalloc.start()
    try:
        decoding = decoder(b"gzip", 50 * MIB)
        assert decoding is not None
        decoded = 0
        with pytest.raises(DecodedTooLarge):
            for piece in decoding.feed(bomb):
                decoded += len(piece)
        assert 49 * MIB < decoded <= 50 * MIB
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


def test_cap_is_inclusive():
    """A body of exactly the cap is served."""
    assert len(decode(b"gzip", [gzip.compress(bytes(MIB))], cap=MIB)) == MIB
    with pytest.raises(DecodedTooLarge):
        decode(b"gzip", [gzip.compress(bytes(MIB))], cap=MIB - 1)


@given(st.sampled_from([b"gzip", b"deflate"]), st.lists(st.binary(max_size=50)), st.booleans())
def test_garbage(encoding, chunks, headed):
    """Nothing but a DecodingError leaves the decoder."""
    if headed:
        chunks = [gzip.compress(b"x")[:10] if encoding == b"gzip" else b"\x78\x9c", *chunks]
    try:
        decode(encoding, chunks)
    except DecodingError as error:
        assert type(error) in {BadlyEncoded, DecodedTooLarge}
