"""The seams to httpx and httpx2: their requests in, their responses and errors out, over one core that knows neither.

A response's stream must be of the package of its client, so each seam makes its own classes from the same few lines.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import attrs
import httpcore
import httpx

from balancer.core.call import Call, Demand
from balancer.core.decision import Decision
from balancer.core.setting import shown
from balancer.engine.engine import Engine
from balancer.errors import BalancerError
from balancer.providers.dialect import PLAIN, Dialect, dialect_of
from balancer.providers.peeking import Peek
from balancer.transports.answers import final, not_to_retry
from balancer.transports.body import BodyBroken, HeldBody
from balancer.transports.exchange import Answer, Exchange, OneShot
from balancer.transports.marks import marks_of
from balancer.transports.rewriting import BadHeader, BadPath, target_path

if TYPE_CHECKING:
    import httpx2

MAX_BODY = 32 * 1024 * 1024
"""Bytes of a request body that are kept for another attempt."""
SAFE_TO_REPEAT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
ERROR_STATUS = 400
_REMEMBERED = 256  # paths without a query: a caller that invents paths costs time, not memory
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")

_EXTENSION: Mapping[str, tuple[type, ...]] = {
    "demand": (Demand,),
    "tenant": (str,),
    "priority": (int,),
    "tags": (tuple, list),
    "replayable": (bool,),
    "hedgeable": (bool,),
}


@attrs.frozen(eq=False)
class Seam:
    """What both libraries' transports share.

    Args:
        engine: drives the calls.
        mount: the path that stands for an account's base URL.
        headers_timeout: seconds that one attempt may take until its answer's headers.
        speaks: whether any account speaks a dialect; a path that looks like one nobody speaks is plain HTTP.
    """

    engine: Engine
    mount: str
    headers_timeout: Callable[[], float]
    speaks: Callable[[str], bool]
    _known: dict[tuple[str, bytes], tuple[bytes, bytes, Dialect]] = attrs.field(
        factory=dict[tuple[str, bytes], tuple[bytes, bytes, Dialect]], init=False
    )

    async def handle(self, request: Any, body: bytes | OneShot, *, one_shot: bool) -> tuple[Answer, Decision | None]:
        """Serve one request of either library. Raises `BadPath`, `BadHeader`, and what a transport given in code raised."""
        exchange = self._exchange(request, body, one_shot=one_shot)
        try:
            answer, decision = await self.engine.drive(exchange)
        except BalancerError as error:
            return final(error, exchange.dialect), error.decision
        if answer.status >= ERROR_STATUS and exchange.speaks is not None:
            answer = not_to_retry(answer)
        return answer, decision

    def _exchange(self, request: Any, body: bytes | OneShot, *, one_shot: bool) -> Exchange:
        url, extensions = request.url, request.extensions
        if url.scheme not in ("http", "https"):
            raise BadPath(f"a URL of scheme {shown(url.scheme)}; the balancer carries http and https")
        if url.userinfo:
            raise BadPath("a URL with user or password; accounts have their own credentials")
        method, below, dialect = self._known.get((request.method, url.raw_path)) or self._learn(request.method, url.raw_path)
        if dialect is not PLAIN and not self.speaks(dialect.name):
            dialect = PLAIN
        peek = dialect.peek(body) if isinstance(body, bytes) else None
        headers, told = request.headers.raw, extensions.get("balancer")
        if (marks := marks_of(headers)) and (told is None or isinstance(told, Mapping)):
            told = {**marks, **cast("Mapping[str, object]", told or {})}
        return Exchange(
            _call(told, peek, request.method, one_shot=one_shot, held=isinstance(body, bytes)),
            method,
            below,
            headers,
            body,
            dialect,
            None if peek is None else dialect.name,
            extensions.get("timeout") or {},
            self.headers_timeout(),
        )

    def _learn(self, method: str, raw_path: bytes) -> tuple[bytes, bytes, Dialect]:
        """Method, path and query below the mount, and dialect of a request; the usual ones are remembered."""
        below = target_path(raw_path, self.mount)
        if not _METHOD.fullmatch(method) or method == "CONNECT":
            raise httpcore.LocalProtocolError("a method that is not carried")
        path, mark, _ = below.partition(b"?")
        learned = method.encode("ascii"), below, dialect_of(method, path.decode("ascii")) or PLAIN
        if not mark and len(self._known) < _REMEMBERED:
            self._known[method, raw_path] = learned
        return learned


def _call(told: object, peek: Peek | None, method: str, *, one_shot: bool, held: bool) -> Call:
    """The call of a request.

    Args:
        told: what its `extensions["balancer"]` says.
        peek: what its body says; `None` for plain HTTP.
        method: the HTTP method.
        one_shot: whether its body can be given only once.
        held: whether all of its body is in memory.
    """
    if told is None and peek is not None:  # the usual call
        return Call(peek.model, peek.demand, replayable=not one_shot, hedgeable=not one_shot, estimated=True)
    given = _told(told)
    if peek is not None:
        given["estimated"] = given.setdefault("demand", peek.demand) is peek.demand
        given["model"] = peek.model
    given.setdefault("replayable", peek is not None or method in SAFE_TO_REPEAT)
    if one_shot:
        given["replayable"] = False
    # SDKs cannot say so, and `[hedge]` is off unless the owner of the accounts turns it on.
    given.setdefault("hedgeable", peek is not None and given["replayable"])
    if not held:
        given["hedgeable"] = False
    return Call(**given)


def _told(given: object) -> dict[str, Any]:
    """What `extensions["balancer"]` says of the call. Raises `ValueError` naming the key."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        allowed = ", ".join(_EXTENSION)
        raise ValueError(f'extensions["balancer"]: {shown(given)}; allowed: a mapping with any of {allowed}')  # noqa: TRY004
    told: dict[str, Any] = {}
    for key, value in cast("Mapping[object, object]", given).items():
        kinds = _EXTENSION.get(key) if isinstance(key, str) else None
        if kinds is None:
            raise ValueError(f'extensions["balancer"]: unknown key {shown(key)}; known: {", ".join(_EXTENSION)}')
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f'extensions["balancer"]["{key}"]: {shown(value)}; allowed: {kinds[0].__name__}')
        if key == "tags":
            value = tuple(cast("Iterable[object]", value))
            if not all(isinstance(tag, str) for tag in value):
                raise ValueError(f'extensions["balancer"]["tags"]: {shown(value)}; allowed: a tuple of str')
        told[cast("str", key)] = value
    return told


async def _streamed(given: AsyncIterable[bytes]) -> bytes | OneShot:
    """A request body that comes in parts, in memory where it fits."""
    parts: list[bytes] = []
    size = 0
    stream = aiter(given)
    async for chunk in stream:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_BODY:
            return OneShot(parts, stream)
    return b"".join(parts)


def _transport_of(library: ModuleType) -> type[Any]:
    """The transport of one library, with the response stream it needs."""
    kinds = {"protocol": library.RemoteProtocolError, "timeout": library.ReadTimeout, "closed": library.ReadError}

    class BalancedStream(library.AsyncByteStream):  # type: ignore[name-defined, misc]
        """A response's stream over a body that holds a lease."""

        def __init__(self, body: HeldBody) -> None:
            self._body = body
            body.hold(self)

        def __aiter__(self) -> BalancedStream:
            return self

        async def __anext__(self) -> bytes:
            try:
                return await self._body.next_chunk()
            except BodyBroken as broken:
                raise kinds[broken.kind](str(broken)) from broken.reason

        async def aclose(self) -> None:
            await self._body.aclose()

    class WholeResponse(library.Response):  # type: ignore[name-defined, misc]
        """A response all of which is here already. The library reads it through a generator of each of its layers, each of which
        trio has to be told of: for a short answer that is more than placing its call takes."""

        whole: bytes

        async def aread(self) -> bytes:
            if not (self.is_stream_consumed or self.is_closed):
                self.is_stream_consumed = self.is_closed = True
                await self.stream.aclose()
                self._num_bytes_downloaded = len(self.whole)
                self._content = self.whole
            return await library.Response.aread(self)

        def __reduce__(self) -> Any:  # the class is made here, where nobody who unpickles it finds it
            return library.Response.__new__, (library.Response,), self.__getstate__()

    class BalancedTransport(library.AsyncBaseTransport):  # type: ignore[name-defined, misc]
        """Places each request on one of the balancer's accounts. Closing it does not close the balancer."""

        def __init__(self, seam: Seam) -> None:
            self._seam = seam

        async def handle_async_request(self, request: Any) -> Any:
            if isinstance(request.stream, library.ByteStream):
                body = request.read()
                one_shot = len(body) > MAX_BODY
            else:
                body, one_shot = await _streamed(request.stream), True
            try:
                answer, decision = await self._seam.handle(request, body, one_shot=one_shot)
            except BadPath as error:
                raise library.UnsupportedProtocol(str(error), request=request) from None
            except (BadHeader, httpcore.LocalProtocolError) as error:
                raise library.LocalProtocolError(str(error), request=request) from None
            held, extensions = answer.body, {"balancer": decision}
            if isinstance(held, HeldBody):
                if not held.done or held.broken is not None:
                    stream = BalancedStream(held)
                    return library.Response(answer.status, headers=answer.headers, stream=stream, extensions=extensions)
                held = held.take_all()
            stream = library.ByteStream(held)
            response = WholeResponse(answer.status, headers=answer.headers, stream=stream, extensions=extensions)
            response.whole = held
            return response

        async def aclose(self) -> None:
            """A client that is closed leaves the balancer open."""

    return BalancedTransport


_HTTPX_TRANSPORT = _transport_of(httpx)


def httpx_transport(seam: Seam) -> httpx.AsyncBaseTransport:
    """A transport for httpx clients."""
    return _HTTPX_TRANSPORT(seam)


def httpx2_transport(seam: Seam) -> httpx2.AsyncBaseTransport:
    """A transport for httpx2 clients. Raises `ImportError` where httpx2 is not installed."""
    import httpx2

    return _transport_of(httpx2)(seam)
