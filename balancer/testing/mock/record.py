"""The record of one mock backend: what it received and what it did, so that tests judge by what the backend saw.

No credential enters it: a key is kept as a fingerprint, and only headers known to be harmless keep their value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal
from urllib.parse import parse_qsl

import attrs

from balancer.testing.mock.dialects import Dialect

Ended = Literal["whole", "cut", "gone"]
HIDDEN = "***"
_HARMLESS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "user-agent",
    }
)
_HARMLESS_PREFIXES = ("anthropic-", "openai-", "x-stainless-")
_SECRETIVE = ("key", "token", "secret", "sig", "auth", "password")


def fingerprint(key: str) -> str:
    """What the record shows of a credential: enough to tell two apart; empty for none."""
    return hashlib.blake2s(key.encode(), digest_size=6).hexdigest() if key else ""


def shown_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Every header's name, and the value of the harmless ones."""
    names = ((name.decode("latin-1"), value) for name, value in headers)
    return {
        name: value.decode("latin-1") if name in _HARMLESS or name.startswith(_HARMLESS_PREFIXES) else HIDDEN
        for name, value in names
    }


def shown_query(query: str) -> list[tuple[str, str]]:
    """The pairs of a query, without values whose name sounds like a credential."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return [(name, HIDDEN if any(word in name.lower() for word in _SECRETIVE) else value) for name, value in pairs]


@attrs.define(eq=False)
class Received:
    """One request as the backend saw it, and how it ended there.

    Attributes:
        number: from 1, in order of arrival.
        at: seconds since the backend started, when the request had arrived whole.
        connection: its connection, from 1 in order of opening.
        key: the credential's fingerprint.
        body_size: bytes.
        body: only if `record_bodies` is set.
        input_tokens: tokens of the prompt, as counted.
        reserved_tokens: tokens counted at arrival, input and permitted output.
        output_tokens: tokens sent in the end.
        admitted: whether the limits let it in; `None` if it never came to that.
        fault: the fault that befell it.
        status: the status that was sent; `None` if none was.
        answered_at: seconds since the backend started, when the head was sent.
        ended: `"whole"`: its last byte was handed to the socket; `"cut"` by a fault; `"gone"`: the client left first; `None`
            while it is in flight.
        ended_at: seconds since the backend started.
    """

    number: int
    at: float
    connection: int
    key: str
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    dialect: Dialect
    body_size: int
    body: str | None = None
    model: str | None = None
    stream: bool = False
    input_tokens: int = 0
    reserved_tokens: int = 0
    output_tokens: int = 0
    admitted: bool | None = None
    fault: str | None = None
    status: int | None = None
    answered_at: float | None = None
    ended: Ended | None = None
    ended_at: float | None = None


@attrs.define
class Counts:
    """What a backend has seen so far, the requests that its record has forgotten included.

    Attributes:
        received: requests; the sum of the next six.
        served: answered as asked.
        refused: by the limits.
        rejected: for a wrong key or a request that makes no sense.
        faulted: befallen by a fault that spoils the answer.
        gone: left by their client before the answer was whole.
        in_flight: not ended yet.
        most_in_flight: the most at any time.
        connections: opened so far.
    """

    received: int = 0
    served: int = 0
    refused: int = 0
    rejected: int = 0
    faulted: int = 0
    gone: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    connections: int = 0

    def begin(self) -> None:
        """Counts an arrival."""
        self.received += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def end(self, entry: Received, *, spoiled: bool) -> None:
        """Counts an end."""
        self.in_flight -= 1
        if spoiled:
            self.faulted += 1
        elif entry.ended == "gone":
            self.gone += 1
        elif entry.admitted:
            self.served += 1
        elif entry.admitted is False:
            self.refused += 1
        else:
            self.rejected += 1
