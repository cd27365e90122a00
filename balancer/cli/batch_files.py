"""The two files of a batch: requests in, answers out, a line each. Both are hostile until read, neither is ever held whole.

An answer is written as one whole line or not at all, and the last line of an id counts: so whatever ends a run, the next one
only has to cut off a torn last line and leave out the ids that are served.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import msgspec
from msgspec import Raw, Struct

from balancer.core.setting import shown
from balancer.transports.rewriting import BadPath, target_path

if sys.platform != "win32":
    import fcntl

MOUNT = "/v1"
MAX_LINE = 32 << 20
"""Bytes of the longest line of requests: a longer body would be sent only once (`transports.seams.MAX_BODY`)."""
MAX_ANSWER = 64 << 20
"""Bytes of the longest answer that is kept; the vectors of 2,048 texts are of that order."""
MAX_TEXT = 64 << 10
"""Bytes that are kept of an answer that is not JSON: a page that says what went wrong."""
MAX_ID = 512
_MAX_ANSWER_LINE = MAX_ANSWER + (1 << 20)
_CHUNK = 1 << 20

_BOM = b"\xef\xbb\xbf"


class FileUnusable(Exception):
    """One of the files cannot be what it was named as."""


class BadLine(Exception):
    """A line that is no request."""


class _Request(Struct):
    custom_id: str
    method: str
    url: str
    body: Raw


class _Streamed(Struct):
    stream: object = None


class _Status(Struct):
    status_code: int


class _Answer(Struct):
    custom_id: str
    response: _Status | None
    error: object = None


@attrs.frozen
class Request:
    """One line to send.

    Attributes:
        line: its number, from 1.
        custom_id: whose answer it will be.
        url: path and query.
        body: the JSON object as it stood in the file.
        size: bytes of the file that it takes up.
    """

    line: int
    custom_id: str
    url: str
    body: bytes
    size: int


@attrs.frozen
class Bad:
    """One line that is no request, and why."""

    line: int
    problem: str
    size: int


def parse_request(line: bytes, number: int, size: int) -> Request:
    """The request in a line. Raises `BadLine` with what is wrong with it."""
    try:
        line.decode()
        request = msgspec.json.decode(line, type=_Request)
        body = bytes(request.body)
        streamed = msgspec.json.decode(body, type=_Streamed).stream if body[:1] == b"{" else None
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None
    except msgspec.ValidationError as error:
        raise BadLine(str(error)) from None
    except msgspec.DecodeError as error:
        raise BadLine(f"not JSON: {str(error).removeprefix('JSON is malformed: ')}") from None
    except RecursionError:
        raise BadLine("not JSON: nested too deeply") from None
    if not 0 < len(request.custom_id) <= MAX_ID:
        raise BadLine(f"custom_id: {shown(request.custom_id)}; allowed: a text of 1 to {MAX_ID} characters")
    if request.method != "POST":
        raise BadLine(f'method: {shown(request.method)}; allowed: "POST"')
    if "://" in request.url.partition("?")[0] or request.url.startswith("//"):
        raise BadLine(f"url: {shown(request.url)}; give the path only, e.g. {MOUNT}/chat/completions")
    try:
        target_path(request.url.encode("ascii"), MOUNT)
    except UnicodeEncodeError:
        raise BadLine(f"url: {shown(request.url)}; a path with characters that no path may have") from None
    except BadPath as error:
        raise BadLine(f"url: {shown(request.url)}; {error}") from None
    if body[:1] != b"{":
        raise BadLine("body: allowed: an object")
    if streamed not in (None, False):
        raise BadLine('body: "stream" is set; the answer has to fit into a line')
    return Request(number, request.custom_id, request.url, body, size)


def digest_of(custom_id: str) -> bytes:
    """What is held of an id: 120 bits, which no two ids share, in the 48 bytes of Python's smallest object that has room for them."""
    return hashlib.blake2b(custom_id.encode(), digest_size=15).digest()


@attrs.define(eq=False)
class RequestFile:
    """The lines of the file of requests, read as they are needed.

    Attributes:
        size: bytes in all; `None` where that cannot be known, as of a pipe.
    """

    size: int | None
    _file: io.BufferedReader = attrs.field(repr=False)
    _line: int = attrs.field(default=0, init=False)
    _offset: int = attrs.field(default=0, init=False)

    @classmethod
    def open(cls, path: Path) -> RequestFile:
        """The file at `path`. Raises `FileUnusable`."""
        try:
            file = path.open("rb")
        except (OSError, ValueError) as error:
            raise FileUnusable(f"{path} cannot be read: {_why(error)}") from None
        status = os.fstat(file.fileno())
        return cls(status.st_size if stat.S_ISREG(status.st_mode) else None, file)

    def some(self) -> list[Request | Bad]:
        """The next lines, about a megabyte of them; empty at the end of the file."""
        found: list[Request | Bad] = []
        start = before = self._offset
        while not found or self._offset - start < _CHUNK:
            line = self._file.readline(MAX_LINE + 1)
            if not line:
                break
            self._line += 1
            self._offset += len(line)
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                self._skip_rest()
                found.append(Bad(self._line, f"longer than {MAX_LINE} bytes", self._offset - before))
            elif text := (line.removeprefix(_BOM) if self._line == 1 else line).strip():
                try:
                    found.append(parse_request(text, self._line, self._offset - before))
                except BadLine as bad:
                    found.append(Bad(self._line, str(bad), self._offset - before))
            else:
                continue
            before = self._offset
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._file.close()

    def _skip_rest(self) -> None:
        while piece := self._file.readline(_CHUNK):
            self._offset += len(piece)
            if piece.endswith(b"\n"):
                return


@attrs.define(eq=False)
class AnswerFile:
    """The file of answers; a context manager that opens it and keeps other runs from it.

    Attributes:
        served: digests of the ids whose last line was a 2xx when it was opened.
        torn: bytes of a torn last line that were cut off.
    """

    path: Path
    served: set[bytes] = attrs.field(factory=set[bytes], init=False, repr=False)
    torn: int = attrs.field(default=0, init=False)
    _fd: int = attrs.field(default=-1, init=False)
    _end: int = attrs.field(default=0, init=False)

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        except (OSError, ValueError) as error:
            raise FileUnusable(f"{self.path} cannot be written: {_why(error)}") from None
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise FileUnusable(f"{self.path} is not a file that can be read again to resume")
            if not _locked(self._fd):
                raise FileUnusable(f"{self.path} is being written by another run")
            self._read()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise FileUnusable(f"{self.path} cannot be written: {_why(error)}") from None
        finally:
            os.close(self._fd)

    def append(self, line: bytes) -> None:
        """Write one whole line, or nothing of it. Raises `FileUnusable`."""
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._cut()
            raise FileUnusable(f"{self.path} cannot be written: {_why(error)}") from None
        except BaseException:  # a second Ctrl-C
            self._cut()
            raise
        self._end += len(line)

    def _cut(self) -> None:
        """What lies behind the last whole line is no answer."""
        os.ftruncate(self._fd, self._end)
        os.lseek(self._fd, self._end, os.SEEK_SET)

    def _read(self) -> None:
        """Take in what is there. A file that holds anything but answers is left alone."""
        last = b""
        size = os.fstat(self._fd).st_size
        for number, line in enumerate(self._lines(), 1):
            answer = _answer_in(line)
            torn = self._end + len(line) == size and line[:1] == b"{" and not line.endswith(b"\n")
            if answer is None and not torn:
                raise FileUnusable(f"{self.path}, line {number}: not an answer of a batch; another file is needed")
            if answer is None:
                self.torn = len(line)
                self._cut()
                break
            self._end += len(line)
            last = line
            served = answer.response is not None and 200 <= answer.response.status_code <= 299
            (self.served.add if served else self.served.discard)(digest_of(answer.custom_id))
        os.lseek(self._fd, self._end, os.SEEK_SET)
        if last and not last.endswith(b"\n"):
            self.append(b"\n")

    def _lines(self) -> Iterator[bytes]:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            while line := file.readline(_MAX_ANSWER_LINE):
                yield line


def answer_line(
    custom_id: str, *, response: tuple[int, str, bytes] | None = None, error: tuple[str, str] | None = None
) -> bytes:
    """One answer as a line.

    Args:
        custom_id: of the request.
        response: status, request id and body, if a backend answered; a body that is not JSON becomes a text.
        error: code and message, if none did.
    """
    answered = None
    if response is not None:
        status, request_id, body = response
        answered = {"status_code": status, "request_id": request_id, "body": _one_line(body)}
    failed = None if error is None else {"code": error[0], "message": error[1]}
    made = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": answered, "error": failed}
    return msgspec.json.encode(made) + b"\n"


def _locked(fd: int) -> bool:
    """Lock the file until it is closed; whether nobody else has. Where files cannot be locked nobody is kept away."""
    if sys.platform != "win32":
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _one_line(body: bytes) -> Raw | str:
    """A JSON body with the same numbers and texts, without its line breaks."""
    try:
        body.decode()
        return Raw(msgspec.json.format(body, indent=-1))
    except (ValueError, RecursionError):
        return body[:MAX_TEXT].decode("utf-8", "replace")


def _answer_in(line: bytes) -> _Answer | None:
    try:
        return msgspec.json.decode(line, type=_Answer)
    except (ValueError, RecursionError):
        return None


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "a name that no file may have"
