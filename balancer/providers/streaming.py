"""A stream of server-sent events, watched as it passes."""

from __future__ import annotations

import attrs

from balancer.core.call import Usage
from balancer.providers.reading import EVENT_CAP, Document, document_in, is_error, usage_in

_BOM = b"\xef\xbb\xbf"


@attrs.define(eq=False)
class EventReader:
    """Of a stream of events, in any of the dialects: they differ in the types of their last event.

    Args:
        ends: the types of the events that end the stream.
    """

    _ends: tuple[bytes, ...]
    finished: bool = False
    error: bytes | None = None
    first_event: bool = False
    _counted: bool = False
    _counts: Usage | None = None
    _marks: tuple[bytes, ...] = attrs.field(init=False)
    _begun: bool = False
    _tail: bytearray = attrs.field(factory=bytearray)
    _name: bytes = b""
    _data: list[bytes] = attrs.field(factory=list[bytes])
    _size: int = 0
    _spoiled: bool = False

    def __attrs_post_init__(self) -> None:
        self._marks = (b'"usage"', b"error", b"[DONE]", *self._ends)

    @property
    def usage(self) -> Usage | None:
        """What the answer took; what only the first event says is half of it."""
        return self._counts if self._counted else None

    def feed(self, chunk: bytes) -> None:
        """Takes the next slice of the stream."""
        tail = self._tail
        if self._between_events() and chunk.endswith(b"\n\n") and len(chunk) <= EVENT_CAP and not self._marked(chunk):
            return  # whole events that say nothing to us: nearly all of a stream
        if b"\n" not in chunk and b"\r" not in chunk and not tail.endswith(b"\r"):
            tail += chunk
        else:
            lines = (tail + chunk).splitlines(keepends=True)
            # A last CR may be half of a CRLF.
            rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
            self._tail = tail = bytearray(rest)
            for line in lines:
                self._line(bytes(line.rstrip(b"\r\n")))
        if len(tail) - tail.endswith(b"\r") > EVENT_CAP:
            self._spoil(bytes(tail[:256]))
            # What is left of the line becomes a comment; a CR at its end still counts.
            self._tail = bytearray(b":\r" if tail.endswith(b"\r") else b":")

    def end(self) -> None:
        """The stream has ended; a last event without its empty line counts, if it is whole."""
        cut = bool(self._tail) and not self._tail.endswith(b"\r")
        if self._tail:
            line = bytes(self._tail.rstrip(b"\r"))
            self._tail = bytearray()
            self._line(line)
        if not (cut and self._spoiled):  # nobody knows how much of a line is missing that was not kept
            self._take()
        self._reset()

    def _between_events(self) -> bool:
        return self.first_event and not (self._tail or self._data or self._name or self._spoiled)

    def _marked(self, data: bytes) -> bool:
        # A plain loop takes half the time of any() over a generator, and this is on the way of every chunk.
        for mark in self._marks:  # noqa: SIM110
            if mark in data:
                return True
        return False

    def _line(self, line: bytes) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            if self._data or self._spoiled:
                self._take()
                self.first_event = self.first_event or not self._is_heartbeat()
            self._reset()
            return
        if len(line) > EVENT_CAP:
            self._spoil(line[:256])
            return
        field, _, value = line.partition(b":")
        if field == b"event":
            self._name = value.removeprefix(b" ")[:64]
        elif field == b"data" and not self._spoiled:
            self._data.append(value.removeprefix(b" "))
            self._size += len(line)
            if self._size > EVENT_CAP:
                self._spoil(self._data[0][:256])

    def _spoil(self, head: bytes) -> None:
        """This event is too long to be kept; its type may still be told from its beginning."""
        if not self._spoiled and not self._name:
            self._name = next((end for end in self._ends if b'"' + end + b'"' in head), b"")
        self._spoiled = True
        self._data.clear()
        self.first_event = True

    def _take(self) -> None:
        """Takes what the event in hand says."""
        if self._spoiled:
            self.finished = self.finished or self._name in self._ends
            return
        data = self._joined()
        named = self._name == b"error" or self._name in self._ends
        if not data or not (named or self._marked(data)):
            return
        if data.strip() == b"[DONE]":
            self.finished = True
            return
        document = document_in(data)
        if self.error is None and (self._name == b"error" or (document is not None and is_error(document))):
            self.error = data
        if document is not None:
            self._read(document)

    def _read(self, document: Document) -> None:
        ended = self._name in self._ends or bytes(document.type).strip(b'"') in self._ends
        self.finished = self.finished or ended
        before = self._counts
        outer = document_in(document.response)
        for raw in (document.usage, *([outer.usage] if outer is not None else ())):
            self._counts = usage_in(raw, self._counts)
        self._counted = self._counted or self._counts is not before
        if (first := document_in(document.message)) is not None:
            self._counts = usage_in(first.usage, self._counts)

    def _is_heartbeat(self) -> bool:
        if self._spoiled:
            return False
        data = self._joined()
        if not data.strip() or self._name == b"ping":
            return True
        document = document_in(data) if b'"ping"' in data else None
        return document is not None and bytes(document.type) == b'"ping"'

    def _joined(self) -> bytes:
        return self._data[0] if len(self._data) == 1 else b"\n".join(self._data)

    def _reset(self) -> None:
        self._name = b""
        self._size = 0
        self._spoiled = False
        if self._data:
            self._data = []
