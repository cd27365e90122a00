"""An answer's body, watched as it passes: did it end as its protocol says, what did it use, does it hold an error?

The readers never change, hold back or copy what passes. They take it in any slices and come to the same result, in memory
bounded by `EVENT_CAP`: what is longer is not understood but still passes. Most events of a stream are not decoded at all;
only those that hold one of a few marks are.
"""

from __future__ import annotations

import re
from typing import Protocol

import attrs
import msgspec
from msgspec import Raw, Struct

from balancer.core.call import Usage

EVENT_CAP = 1 << 20
"""Bytes of the longest event, or whole JSON body, that is looked into; longer ones are pictures and vectors."""

TAIL = 1 << 16
"""Bytes kept of a JSON body beyond the cap: usage stands near its end."""

UNDECIDED = 1 << 14
"""Bytes of a JSON body that may still be an error in full; real ones have a few hundred."""

MOST_TOKENS = 100_000_000
"""A count above every context there is: not believed."""


class BodyReader(Protocol):
    """Watches one answer's body."""

    def feed(self, chunk: bytes) -> None:
        """Takes the next slice of the body."""
        ...

    def end(self) -> None:
        """The body has ended: what was incomplete stays so."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the protocol's end mark was seen."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What the answer took, once it has said so in full."""
        ...

    @property
    def error(self) -> bytes | None:
        """The JSON of an error inside the answer, for `Provider.evidence_of_error`."""
        ...

    @property
    def first_event(self) -> bool:
        """Whether there is more than heartbeats: enough to decide whether the answer is one."""
        ...


@attrs.frozen
class PlainReader:
    """Of a body without a protocol: its end is the end, and it says nothing."""

    finished: bool = True
    usage: Usage | None = None
    error: bytes | None = None
    first_event: bool = True

    def feed(self, chunk: bytes) -> None:
        """Nothing to see."""

    def end(self) -> None:
        """Nothing to do."""


NOTHING = Raw()


class Document(Struct, gc=False):
    """The fields that matter of an event or a whole answer, in any dialect."""

    type: Raw = NOTHING
    object: Raw = NOTHING
    error: Raw = NOTHING
    usage: Raw = NOTHING
    message: Raw = NOTHING
    response: Raw = NOTHING


class _Details(Struct, gc=False):
    cached_tokens: int | None = None


class _Counts(Struct, gc=False):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Answer(Struct, gc=False):
    """A whole answer whose usage is of the usual form."""

    type: Raw = NOTHING
    object: Raw = NOTHING
    error: Raw = NOTHING
    usage: _Counts | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_DOCUMENT = msgspec.json.Decoder(Document)
_COUNTS = msgspec.json.Decoder(_Counts)
_USAGE_IN_TEXT = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


def document_in(data: bytes | Raw) -> Document | None:
    """The fields that matter of `data`; `None` if it is no JSON object."""
    if not data:
        return None
    try:
        return _DOCUMENT.decode(data)
    except (ValueError, RecursionError):
        return None


def usage_in(raw: bytes | Raw, before: Usage | None = None) -> Usage | None:
    """The usage in `raw`, on top of what was reported `before`: all counts of a stream are cumulative."""
    if bytes(raw)[:1] != b"{":
        return before
    try:
        return _usage_of(_COUNTS.decode(raw), before)
    except (ValueError, RecursionError):
        return before


def _usage_of(counts: _Counts, before: Usage | None) -> Usage | None:
    details = counts.prompt_tokens_details or counts.input_tokens_details
    given = counts.input_tokens if counts.prompt_tokens is None else counts.prompt_tokens
    made = counts.output_tokens if counts.completion_tokens is None else counts.completion_tokens
    if given is None and made is None:
        return before
    cached = (details.cached_tokens if details is not None else None) or 0
    taken, made = given or 0, made or 0
    if counts.prompt_tokens is None:  # Anthropic counts what went through its cache apart from the rest of the prompt
        read, written = counts.cache_read_input_tokens or 0, counts.cache_creation_input_tokens or 0
        if read < 0 or written < 0:
            return before
        taken += read + written
        cached = max(cached, read)
    cached = min(cached, taken)
    if not (0 <= taken <= MOST_TOKENS and 0 <= made <= MOST_TOKENS and 0 <= cached <= MOST_TOKENS):
        return before
    if before is not None:
        taken, made = max(before.input_tokens, taken), max(before.output_tokens, made)
        cached = max(before.cached_tokens, cached)
    return Usage(taken, made, 1, cached)


def is_error(document: Document | _Answer) -> bool:
    """Whether the document is an error in one of the dialects."""
    return (
        (document.error is not NOTHING and bytes(document.error)[:1] in (b"{", b'"'))
        or (document.type is not NOTHING and bytes(document.type) in (b'"error"', b'"response.failed"'))
        or (document.object is not NOTHING and bytes(document.object) == b'"error"')
    )


class JsonReader:
    """Of an answer that is one JSON object. It is decoded once it may be complete."""

    __slots__ = ("_ended", "_error", "_finished", "_kept", "_received", "_stale", "_usage")

    def __init__(self) -> None:
        self._kept: bytes | bytearray = b""
        self._received = 0
        self._stale = False
        self._ended = False
        self._finished = False
        self._usage: Usage | None = None
        self._error: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        """Takes the next slice of the body."""
        self._received += len(chunk)
        self._stale = True
        if self._kept:
            if not isinstance(self._kept, bytearray):
                self._kept = bytearray(self._kept)
            self._kept += chunk
            if self._received > EVENT_CAP and len(self._kept) > 2 * TAIL:
                del self._kept[:-TAIL]
        else:
            self._kept = chunk

    def end(self) -> None:
        """The body has ended: what was incomplete stays so."""
        if self._stale:
            self._look()
        self._ended = True
        self._kept = b""

    @property
    def finished(self) -> bool:
        """Whether the object is complete."""
        if self._stale:
            self._look()
        return self._finished

    @property
    def usage(self) -> Usage | None:
        """What the answer took, if it said so."""
        if self._stale:
            self._look()
        return self._usage

    @property
    def error(self) -> bytes | None:
        """The body, if it is an error object."""
        if self._stale:
            self._look()
        return self._error

    @property
    def first_event(self) -> bool:
        """Whether the object is complete, or too long to be an error: nobody can use the half of one."""
        if self._stale:
            self._look()
        return self._finished or self._ended or self._received > UNDECIDED

    def _look(self) -> None:
        self._stale = False
        if self._ended:
            return
        self._finished, self._usage, self._error = False, None, None
        kept = self._kept
        if not kept.endswith(b"}") and not kept[-64:].rstrip().endswith(b"}"):
            return
        if self._received > EVENT_CAP:
            found = _USAGE_IN_TEXT.findall(bytes(kept[-TAIL:]))
            self._finished, self._usage = True, usage_in(found[-1]) if found else None
            return
        try:  # the usual answer: read in one pass
            answer = _ANSWER.decode(kept)
            document: Document | _Answer = answer
            usage = _usage_of(answer.usage, None) if answer.usage is not None else None
        except (ValueError, RecursionError):
            seen = document_in(bytes(kept))
            if seen is None:
                return
            document, usage = seen, usage_in(seen.usage)
        self._finished, self._usage = True, usage
        self._error = bytes(kept) if is_error(document) else None
