"""What of a caller's request goes to an account: the path below the mount, the headers allowed, the account's own credential.

A request never carries its caller's credentials or address to a backend, and an account's never leave for another origin: the
target is built from checked parts, below the account's base path, and the connection it goes out on knows one origin.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from balancer.core.secret import Secret
    from balancer.core.settings import Account
    from balancer.providers.provider import Provider

LLM_HEADERS = frozenset((b"accept", b"content-type", b"user-agent", b"idempotency-key", b"traceparent", b"tracestate"))
LLM_PREFIXES = (b"openai-", b"anthropic-", b"x-stainless-")
CREDENTIALS = frozenset((
    b"authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"apikey", b"x-goog-api-key", b"x-auth-token",
    b"x-access-token", b"x-amz-security-token", b"ocp-apim-subscription-key", b"cookie", b"cookie2",
))  # fmt: skip
HOP_BY_HOP = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"http2-settings",
    b"expect",  # the body is sent without waiting for leave
))  # fmt: skip
FRAMING = frozenset((b"content-length", b"transfer-encoding"))
MADE_HERE = frozenset((b"host", b"content-length", b"accept-encoding")) | HOP_BY_HOP
"""Headers that say something about this connection: never the caller's, and not an account's to set."""

_OURS = b"x-balancer-"
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_USUAL_PATH = re.compile(rb"(?:/[A-Za-z0-9_~:@!$&'()*+,=-][A-Za-z0-9_.~:@!$&'()*+,=-]*)*/?")
_PATH = re.compile(rb"/(?:[A-Za-z0-9_.~:@!$&'()*+,;=/-]|%[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?:2F|5C|[01][0-9A-F]|7F)")
_QUERY = re.compile(rb"[!-\"$-~]*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NESTED_ESCAPE = re.compile(rb"%(?:25)+(?=[0-9A-Fa-f]{2})")
_ADDRESS = re.compile(r"[!-\[\]-~]*")
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?")
_MOST_ADDRESS = 2048
_MOST_HOST = 254  # what DNS resolves at most, with the dot of the root
_REMEMBERED = 256  # header names whose treatment is kept; a caller that invents names costs time, not memory


class BadPath(ValueError):
    """A path that does not lie below the mount, or that backends could read in two ways."""


class BadHeader(ValueError):
    """A header that cannot be sent as one line. The text never quotes its value."""


class Treatment(enum.Enum):
    """What becomes of a caller's header; `FRAMES` says that there is a body, `NAMES_OTHERS` which further ones to drop."""

    PASS = enum.auto()
    DROP = enum.auto()
    FRAMES = enum.auto()
    NAMES_OTHERS = enum.auto()


class AccountAddress:
    """Where one account is and how its requests identify themselves; made once, at start.

    No attrs class on purpose: like `Secret`, it holds a credential that `asdict` and renderers would walk into.

    Attributes:
        scheme, host, port: the origin, the only one its requests go to.
        host_header: what is sent as `Host`.
        server_name: the name to verify in TLS.
        own_headers: what every request to the account carries, its first credential included.
        others: the same with each of its further credentials.
        defaults: headers that every request carries in which the caller gave none of that name.
        treatments: what was decided per header name, for LLM dialects (`True`) and plain HTTP (`False`).

    Args:
        account: whose address, keys, `headers`, `params`, `auth`, `host` and `allow_headers` count; one of a checked
            configuration.
        provider: whose default address, credential header and extra headers count where the account says nothing else.
    """

    def __init__(self, account: Account, provider: Provider) -> None:
        parts = urlsplit(account.base_url or provider.base_url or "")
        name, usual = parts.hostname or "", 443 if parts.scheme == "https" else 80
        self.scheme, self.host, self.port = parts.scheme.encode(), name.encode(), parts.port or usual
        self._base_path = _normalised(parts.path.encode() or b"/").rstrip(b"/")
        bracketed = b"[%b]" % self.host if b":" in self.host else self.host
        made = bracketed if self.port == usual else b"%b:%d" % (bracketed, self.port)
        self.host_header = account.host.encode() if account.host else made
        self.server_name = (account.host and urlsplit("//" + account.host).hostname) or name
        own = {name.lower().encode() for name in account.headers}
        if account.keys:
            own.add(provider.credential_header("", account.auth)[0])
        self.own_headers = _own_headers(account, provider, account.keys[0] if account.keys else None)
        self.others = {key: _own_headers(account, provider, key) for key in account.keys[1:]}
        self._own_names = frozenset(own)
        self.defaults = tuple(pair for pair in provider.extra_headers if pair[0] not in own)
        self._params = "&".join(
            f"{quote(name, safe='')}={quote(value.reveal(), safe='')}" for name, value in account.params.items()
        ).encode()
        self._param_names = frozenset(account.params)
        self._allowed = LLM_HEADERS | {name.lower().encode() for name in account.allow_headers}
        self.treatments: dict[bool, dict[bytes, Treatment]] = {True: {}, False: {}}

    def __repr__(self) -> str:
        return f"<AccountAddress {self.scheme.decode()}://{self.host_header.decode()}>"

    def target(self, below: bytes) -> bytes:
        """The request target for a path and query as `target_path` gives it."""
        if not self._params:
            return self._base_path + below if self._base_path or below[:1] == b"/" else b"/" + below
        path, _, query = below.partition(b"?")
        pairs = [pair for pair in query.split(b"&") if pair and _param_name(pair) not in self._param_names]
        return (self._base_path + path or b"/") + b"?" + b"&".join((*pairs, self._params))

    def treatment(self, name: bytes, *, llm: bool) -> Treatment:
        """What becomes of a caller's header. Raises `BadHeader`."""
        known = self.treatments[llm]
        found = known.get(name)
        if found is None:
            found = self._decide(name, llm=llm)
            if len(known) < _REMEMBERED:
                known[name] = found
        return found

    def _decide(self, name: bytes, *, llm: bool) -> Treatment:
        if not _NAME.fullmatch(name):
            raise BadHeader("a header name with characters that no header name may have")
        lower = name.lower()
        if lower in FRAMING:
            return Treatment.FRAMES
        if lower == b"connection":
            return Treatment.NAMES_OTHERS
        if lower in MADE_HERE or lower in CREDENTIALS or lower in self._own_names or lower.startswith(_OURS):
            return Treatment.DROP
        if llm and lower not in self._allowed and not lower.startswith(LLM_PREFIXES):
            return Treatment.DROP
        return Treatment.PASS


def _own_headers(account: Account, provider: Provider, key: Secret | None) -> tuple[tuple[bytes, bytes], ...]:
    own = {name.lower().encode(): value.reveal().encode() for name, value in account.headers.items()}
    if key is not None:
        own |= [provider.credential_header(key.reveal(), account.auth)]
    return ((b"accept-encoding", b"identity"), *own.items())


def rewrite_headers(
    headers: Sequence[tuple[bytes, bytes]],
    *,
    llm: bool,
    address: AccountAddress,
    body_length: int | None,
    credential: Secret | None = None,
) -> list[tuple[bytes, bytes]]:
    """The headers of a caller's request as the account gets them.

    An LLM dialect passes an allow-list; plain HTTP all but what belongs to the connection, cookies and credentials. Credentials
    never pass, not even where `allow_headers` names them. A body of unknown length (`None`) is sent in chunks. Without a
    `credential`, or with one that is not the account's, its first one is sent: a lease of earlier settings may name one that was
    meant for another address.

    Raises:
        BadHeader: a name that is no token, or a value with a control character.
    """
    passed = [(b"host", address.host_header)]
    framed = bool(body_length)
    named: set[bytes] = set()
    treatments, passes, drops = address.treatments[llm], Treatment.PASS, Treatment.DROP  # locals: this is the hot path
    for name, value in headers:
        treatment = treatments.get(name) or address.treatment(name, llm=llm)
        if treatment is passes:
            passed.append((name, value.strip(b" \t")))
        elif treatment is drops:
            continue
        elif treatment is Treatment.FRAMES:
            framed = True
        elif value != b"keep-alive":
            named.update(token.strip().lower() for token in value.split(b","))
    if _BAD_VALUE.search(b"".join([value for _, value in headers])):
        raise BadHeader("a header value with a line break or another control character")
    if named:
        passed[1:] = [pair for pair in passed[1:] if pair[0].lower() not in named]
    for default in address.defaults:
        if not any(name.lower() == default[0] for name, _ in passed):
            passed.append(default)
    passed += address.own_headers if credential is None else address.others.get(credential, address.own_headers)
    if body_length is None:
        passed.append((b"transfer-encoding", b"chunked"))
    elif framed:
        passed.append((b"content-length", b"%d" % body_length))
    return passed


def target_path(raw_path: bytes, mount: str) -> bytes:
    """The path below `mount`, normalised, with the query as it was: what `AccountAddress.target` joins to a base path.

    Args:
        raw_path: path and query of the caller's URL.
        mount: `"/v1"` or the like; empty: any path.

    Raises:
        BadPath: it does not lie below the mount, or holds a dot segment, an encoded slash, a backslash or a control character.
    """
    path, mark, query = raw_path.partition(b"?")
    if not _USUAL_PATH.fullmatch(path):
        path = _normalised(path)
    if not _QUERY.fullmatch(query):
        raise BadPath("a query with characters that no URL may have")
    below = path
    if mount:
        prefix = mount.rstrip("/").encode()
        below = path[len(prefix) :]
        if not path.startswith(prefix) or below[:1] not in (b"", b"/"):
            raise BadPath(f"a path that does not lie below {mount}")
    if below.startswith(b"//"):
        raise BadPath("a path that begins with two slashes")
    return below + mark + query


def _normalised(path: bytes) -> bytes:
    """The path with no more escapes than it needs, as backends read it. Raises `BadPath`."""
    if not _PATH.fullmatch(path):
        raise BadPath("a path with characters that no path may have")
    path = _ESCAPE.sub(_unescaped, path)
    if _BAD_ESCAPE.search(path):
        raise BadPath("a path with an encoded slash or control character")
    # Some servers cut `;parameters` off a segment before they resolve dots.
    if any(segment.partition(b";")[0] in (b".", b"..") for segment in path.split(b"/")):
        raise BadPath("a path with dot segments")
    return path


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = int(match[1], 16)
    return bytes((code,)) if code in _UNRESERVED else match[0].upper()


def _param_name(pair: bytes) -> str:
    return unquote_plus(pair.partition(b"=")[0].decode("ascii"))


def address_problems(base_url: str) -> list[str]:
    """Why no request can go to a text as an account's address: everything that is wrong with it, nothing if it is one."""
    if len(base_url) > _MOST_ADDRESS:
        return [f"more than {_MOST_ADDRESS} characters"]
    if not _ADDRESS.fullmatch(base_url):  # what follows would drop some of them
        return ["a character that no address may have"]
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return ["a host or port that is none"]
    known = parts.scheme in ("http", "https")
    problems = [] if known else ["a scheme other than http and https"]
    _, user, host = parts.netloc.rpartition("@")
    if user:
        problems.append("a user or password in the address")
    if host and not is_host(host):
        problems.append("a host or port that is none")
    elif known and not host:
        problems.append("no host")
    if parts.path.startswith("/"):
        problems += _base_path_problems(parts.path.encode())
    if "?" in base_url:
        problems.append("a query (params are sent with every request)")
    if "#" in base_url:
        problems.append("a fragment")
    return problems


def is_host(text: str) -> bool:
    """Whether a text is a host's name or number, with a port or without: what an address and a `Host` header may say."""
    try:
        parts = urlsplit("//" + text)
        return bool(_HOST.fullmatch(text)) and len(parts.hostname or "") <= _MOST_HOST and parts.port != 0
    except ValueError:
        return False


def _base_path_problems(path: bytes) -> list[str]:
    try:
        normal = _normalised(path)
        _normalised(_NESTED_ESCAPE.sub(b"%", normal))  # what a backend that decodes twice would read
    except BadPath as error:
        return [str(error)]
    return ["a path that begins with two slashes"] if normal.startswith(b"//") else []
