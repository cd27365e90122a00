"""What of a caller's request goes to an account."""

from __future__ import annotations

import pickle
from urllib.parse import unquote_to_bytes

import attrs
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.secret import Secret
from balancer.core.settings import Account
from balancer.providers.provider import get_provider
from balancer.transports.rewriting import (
    AccountAddress,
    BadHeader,
    BadPath,
    address_problems,
    is_host,
    rewrite_headers,
    target_path,
)

KEY = "sk-canary"


def address(provider="openai", key=KEY, **account):
    return AccountAddress(Account(name="a", provider=provider, key=key, **account), get_provider(provider))


def rewritten(headers, at=None, *, llm=True, body_length=2):
    return rewrite_headers(headers, llm=llm, address=at or address(), body_length=body_length)


def names(headers):
    return [name.lower() for name, _ in headers]


# -- addresses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "origin", "host", "target"),
    [
        ("https://api.example/v1", (b"https", b"api.example", 443), b"api.example", b"/v1/chat"),
        ("https://api.example/v1/", (b"https", b"api.example", 443), b"api.example", b"/v1/chat"),
        ("http://API.example", (b"http", b"api.example", 80), b"api.example", b"/chat"),
        ("http://api.example:8000/", (b"http", b"api.example", 8000), b"api.example:8000", b"/chat"),
        ("https://api.example:443/a/b", (b"https", b"api.example", 443), b"api.example", b"/a/b/chat"),
        ("http://[::1]:8000/v1", (b"http", b"::1", 8000), b"[::1]:8000", b"/v1/chat"),
    ],
)
def test_address(base_url, origin, host, target):
    """Origin, Host and base path come from `base_url`; default ports are not sent."""
    at = address(base_url=base_url)
    assert (at.scheme, at.host, at.port) == origin
    assert at.host_header == host
    assert at.target(b"/chat") == target


@pytest.mark.parametrize(
    "base_url",
    [
        "", "api.example/v1", "ftp://api.example", "https://", "https://user:sk-canary@api.example", "https://api.example?key=sk-canary",
        "https://api.example/#x", "https://api.example/../v1", "https://api.example/%2e%2e/v1", "https://api.example:99999",
        "https://api.example:0", "https://api.example:x", "https://api example", "https://b\u00fccher.example", "https://a.example\r\nx",
        "https://[::1", "https://api.example//v1", "https://api.example/a%2fb", "https://api.example\\@evil.example",
    ],
)  # fmt: skip
def test_bad_address(base_url):
    """What is wrong with an address that requests cannot go to is said without quoting it."""
    (problem,) = address_problems(base_url)
    assert "canary" not in problem


def test_every_problem_of_an_address_is_told():
    """All of them at once, in the order of the address."""
    assert address_problems("ftp://u:p@-h:0/a/../b?q#f") == [
        "a scheme other than http and https",
        "a user or password in the address",
        "a host or port that is none",
        "a path with dot segments",
        "a query (params are sent with every request)",
        "a fragment",
    ]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/v1/{deployment}", "a path with characters that no path may have"),
        ("/%zz", "a path with characters that no path may have"),
        ("/v1;a/..;b", "a path with dot segments"),
        ("/%252e%2e/", "a path with dot segments"),
        ("/%25%32%65", "a path with dot segments"),
        ("/a%25252Fb", "a path with an encoded slash or control character"),
        ("/%250d", "a path with an encoded slash or control character"),
        ("//v1", "a path that begins with two slashes"),
    ],
)
def test_bad_base_path(path, problem):
    """The cause is named, and what a backend that decodes twice would read counts as well."""
    assert address_problems("https://api.example" + path) == [problem]


@pytest.mark.parametrize("path", ["", "/", "/100%25", "/a%20b/..c", "/v1//", "/%41", "/a%25ab"])
def test_good_base_path(path):
    """Escapes that stand for nothing else are fine."""
    assert address_problems("https://api.example" + path) == []


@pytest.mark.parametrize(
    ("host", "header", "server_name"),
    [
        ("api.example:8443", b"api.example:8443", "api.example"),
        ("api.example", b"api.example", "api.example"),
        ("[::1]:5", b"[::1]:5", "::1"),
        ("[::1]", b"[::1]", "::1"),
    ],
)
def test_host_setting(host, header, server_name):
    """`host` is what is sent as Host and, without its port, verified in TLS."""
    assert is_host(host)
    at = address(base_url="https://10.0.0.1:8443/v1", host=host)
    assert (at.host, at.host_header, at.server_name) == (b"10.0.0.1", header, server_name)


@pytest.mark.parametrize("text", ["h", "h:1", "h:65535", "h.", "h_x", "_a.h", "1.2.3.4:5", "[::1]", "a" * 63 + ".h"])
def test_host(text):
    """Names and numbers, with a port or without, are hosts in an address as they are in `host`."""
    assert is_host(text)
    assert address_problems(f"http://{text}/v1") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-h",
        ".h",
        "a..b",
        "a.-b",
        "h:0",
        "h:99999",
        "h:",
        "[::1",
        "::1",
        "[::1]:",
        "a\r\nb",
        "a" * 64,
        "a." * 127 + "a",
        "h/x",
    ],
)
def test_what_is_no_host(text):
    """Neither `host` nor an address may say it."""
    assert not is_host(text)
    assert text == "h/x" or address_problems(f"http://{text}/v1")


def test_no_secret_is_shown():
    """Neither repr nor attrs.asdict shows the credential."""
    at = address(params={"api-version": KEY})
    assert KEY not in repr(at)
    assert not attrs.has(type(at))
    assert KEY.encode() in pickle.dumps(at.own_headers)  # it is there, to be sent


def test_several_credentials():
    """Each has its own headers, of one name; one that the account does not have is replaced by the first it has."""
    at = address(key=[KEY, "sk-other"], headers={"X-Team": "t"})
    given_headers = [(b"authorization", b"Bearer -"), (b"accept", b"*/*")]
    for credential, sent in (
        (Secret(KEY), KEY),
        (Secret("sk-other"), "sk-other"),
        (Secret("sk-gone"), KEY),
        (None, KEY),
    ):
        headers = rewrite_headers(given_headers, llm=True, address=at, body_length=0, credential=credential)
        assert [value for name, value in headers if name == b"authorization"] == [f"Bearer {sent}".encode()]
        assert (b"x-team", b"t") in headers
    assert KEY not in repr(at) + repr(at.others)
    assert address().others == address(key=None).others == {}


def test_params():
    """An account's params join the query and replace the caller's of the same name."""
    at = address(base_url="https://api.example/v1", params={"api-version": "2024 10", "x": "&"})
    assert at.target(b"/chat") == b"/v1/chat?api-version=2024%2010&x=%26"
    assert at.target(b"/chat?a=1&api%2Dversion=0&api-version=1&b") == b"/v1/chat?a=1&b&api-version=2024%2010&x=%26"


# -- paths -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw_path", "mount", "below"),
    [
        (b"/v1/chat/completions", "/v1", b"/chat/completions"),
        (b"/v1/chat/completions?a=%2F..&b", "/v1", b"/chat/completions?a=%2F..&b"),
        (b"/v1", "/v1", b""),
        (b"/v1/", "/v1", b"/"),
        (b"/v1?x", "/v1/", b"?x"),
        (b"/%761/%63hat", "/v1", b"/chat"),
        (b"/v1/files/file.%c3%a9x", "/v1", b"/files/file.%C3%A9x"),
        (b"/v1/models/a:b@c", "/v1", b"/models/a:b@c"),
        (b"/anything/v1", "", b"/anything/v1"),
        (b"/v1/.well-known", "/v1", b"/.well-known"),
        (b"/v1/a...b/...", "/v1", b"/a...b/..."),
        (b"/v1/a//b", "/v1", b"/a//b"),
    ],
)
def test_path_below_the_mount(raw_path, mount, below):
    """A path below the mount is normalised; its query is kept as it was."""
    assert target_path(raw_path, mount) == below


@pytest.mark.parametrize(
    "raw_path",
    [
        b"", b"/", b"/v2/chat", b"/v1x/chat", b"/V1/chat", b"v1/chat", b"/v1/../admin", b"/v1/..", b"/v1/./chat", b"/v1/%2e%2e/x",
        b"/v1/.%2E/x", b"/v1/a%2fb", b"/v1/a%2Fb", b"/v1/a%5cb", b"/v1/a\\b", b"/v1/%00", b"/v1/%0d%0a", b"/v1/%7f", b"/v1/a\x00",
        b"/v1/a b", b"/v1/a\r\nHost: x", b"/v1/%zz", b"/v1/%", b"/v1/..;/x", b"/v1/..;a=b", b"/v1//evil.example", b"/v1/a#b",
        b"/v1/\xff", b"/v1/a?b\nc", b"/v1/a?b c", b"/v1/a?b#c", b"http://evil.example/v1/a", b"*",
    ],
)  # fmt: skip
def test_bad_path(raw_path):
    """A path outside the mount, or one that backends could read in two ways, is refused."""
    with pytest.raises(BadPath):
        target_path(raw_path, "/v1")


@given(st.binary(max_size=60) | st.text("/.%2eEfF5cC;v1\\?#a", max_size=30).map(lambda text: b"/v1/" + text.encode()))
def test_no_path_escapes(raw_path):
    """Whatever is asked, what is sent stays below the base path, and nothing but BadPath is raised."""
    at = address(base_url="https://api.example/base")
    try:
        target = at.target(target_path(raw_path, "/v1"))
    except BadPath:
        return
    path = target.partition(b"?")[0]
    assert path == b"/base" or path.startswith(b"/base/")
    segments = unquote_to_bytes(path).split(b"/")
    assert not {b".", b".."} & {segment.partition(b";")[0] for segment in segments}
    assert not set(target) & set(b" \r\n\x00#\x7f")
    assert b"\\" not in unquote_to_bytes(path)


# -- headers -----------------------------------------------------------------------------------------------------------------


def test_llm_headers():
    """An LLM call passes the allow-list and nothing else; the account's own headers come on top."""
    at = address(headers={"OpenAI-Organization": "org", "X-Team": "t"}, allow_headers=("X-Trace",))
    given_headers = [
        (b"Host", b"balancer"), (b"Accept", b"*/*"), (b"Accept-Encoding", b"br"), (b"Connection", b"keep-alive"),
        (b"User-Agent", b"ua"), (b"Content-Type", b"application/json"), (b"Content-Length", b"999"), (b"Authorization", b"Bearer -"),
        (b"X-Stainless-Lang", b"python"), (b"OpenAI-Beta", b"b"), (b"OpenAI-Organization", b"mine"), (b"anthropic-version", b"v"),
        (b"Idempotency-Key", b"i"), (b"traceparent", b"t"), (b"tracestate", b"s"), (b"x-trace", b"1"), (b"X-Other", b"2"),
        (b"Cookie", b"c"), (b"x-api-key", b"k"), (b"X-Balancer-Tenant", b"t"), (b"X-Forwarded-For", b"10.0.0.1"), (b"x-team", b"u"),
    ]  # fmt: skip
    assert rewritten(given_headers, at) == [
        (b"host", b"api.openai.com"), (b"Accept", b"*/*"), (b"User-Agent", b"ua"), (b"Content-Type", b"application/json"),
        (b"X-Stainless-Lang", b"python"), (b"OpenAI-Beta", b"b"), (b"anthropic-version", b"v"), (b"Idempotency-Key", b"i"),
        (b"traceparent", b"t"), (b"tracestate", b"s"), (b"x-trace", b"1"), (b"accept-encoding", b"identity"),
        (b"openai-organization", b"org"), (b"x-team", b"t"), (b"authorization", b"Bearer sk-canary"), (b"content-length", b"2"),
    ]  # fmt: skip


def test_plain_headers():
    """Plain HTTP passes all but the connection's own, what Connection names, cookies and credentials."""
    at = address("http", base_url="http://a.example", key=None)
    given_headers = [
        (b"X-Other", b"2"), (b"connection", b"close, X-Hop , TE"), (b"x-hop", b"h"), (b"TE", b"trailers"), (b"Trailer", b"x"),
        (b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"h2c"), (b"Expect", b"100-continue"), (b"Proxy-Authorization", b"p"),
        (b"Authorization", b"a"), (b"api-key", b"k"), (b"X-Goog-Api-Key", b"k"), (b"cookie", b"c"), (b"x-balancer-a", b"b"),
        (b"Range", b"bytes=0-1"), (b"Range", b"bytes=2-3"), (b"Host", b"evil.example"), (b"Keep-Alive", b"5"),
    ]  # fmt: skip
    assert rewritten(given_headers, at, llm=False) == [
        (b"host", b"a.example"),
        (b"X-Other", b"2"),
        (b"Range", b"bytes=0-1"),
        (b"Range", b"bytes=2-3"),
        (b"accept-encoding", b"identity"),
        (b"content-length", b"2"),
    ]


def test_credentials_never_pass():
    """Not even an account that allows them by name gets a caller's credentials."""
    at = address(key=None, allow_headers=("authorization", "cookie", "x-api-key"))
    for llm in (True, False):
        passed = rewritten([(b"authorization", b"a"), (b"COOKIE", b"c"), (b"X-API-Key", b"k")], at, llm=llm)
        assert names(passed) == [b"host", b"accept-encoding", b"content-length"]


def test_default_headers():
    """A provider's extra header is sent unless the caller or the account gives one of that name."""
    at = address("anthropic")
    assert (b"anthropic-version", b"2023-06-01") in rewritten([], at)
    assert [
        value for name, value in rewritten([(b"Anthropic-Version", b"other")], at) if name.lower() == b"anthropic-version"
    ] == [b"other"]
    own = address("anthropic", headers={"anthropic-version": "own"})
    assert [value for name, value in rewritten([], own) if name == b"anthropic-version"] == [b"own"]
    assert (b"x-api-key", KEY.encode()) in rewritten([], at)


def test_one_framing_header():
    """The body's length is the only framing, and absent where there is neither body nor framing."""
    for framing in ([], [(b"Content-Length", b"7")], [(b"Content-Length", b"7"), (b"transfer-encoding", b"chunked")]):
        sent = [
            value
            for name, value in rewritten(framing, body_length=5)
            if name.lower() in {b"content-length", b"transfer-encoding"}
        ]
        assert sent == [b"5"]
    assert b"content-length" not in names(rewritten([], body_length=0))
    assert (b"content-length", b"0") in rewritten([(b"content-length", b"0")], body_length=0)


@pytest.mark.parametrize(
    "header",
    [
        (b"accept", b"a\r\nX: y"), (b"accept", b"a\nb"), (b"accept", b"a\x00"), (b"x-dropped", b"a\rb"), (b"accept", b"\x7f"),
        (b"", b"x"), (b"a b", b"x"), (b"a\r\nb", b"x"), (b"a:", b"x"), (b"\xff", b"x"), (b"a" * 257, b"x"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("llm", [True, False])
def test_bad_header(header, llm):
    """A header with a line break, or a name that is no token, is refused without quoting its value."""
    with pytest.raises(BadHeader):
        rewritten([header], llm=llm)


def test_memory_of_names_is_bounded():
    """Names that a caller invents are not all remembered."""
    at = address()
    for number in range(2000):
        rewritten([(b"openai-%d" % number, b"x")], at)
    assert len(at.treatments[True]) <= 256


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20))), st.booleans())
def test_any_headers(headers, llm):
    """Whatever the headers, nothing but BadHeader is raised, and no line break is sent."""
    try:
        sent = rewritten(headers, llm=llm)
    except BadHeader:
        return
    assert not set(b"".join(name + value for name, value in sent)) & set(b"\r\n\x00")


def test_usual_client_headers():
    """What httpx sends on its own comes out with our Host, framing and encoding."""
    request = httpx.Client().build_request("POST", "http://balancer/v1/chat/completions", json={})
    sent = rewritten(request.headers.raw, body_length=2)
    assert names(sent) == [
        b"host",
        b"accept",
        b"user-agent",
        b"content-type",
        b"accept-encoding",
        b"authorization",
        b"content-length",
    ]
    assert target_path(request.url.raw_path, "/v1") == b"/chat/completions"
