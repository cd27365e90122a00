"""What an exception of an attempt says: in this order it speaks outright, has a response, broke in transport, or is the caller's."""

from __future__ import annotations

import errno
import io
import socket
import ssl

import anthropic
import httpcore
import httpx
import httpx2
import openai
import pytest
import trio

from balancer import (
    AttemptFailed,
    AttemptsFailed,
    Call,
    CallerFault,
    Faulted,
    RateLimited,
    TimedOut,
    Unauthorized,
    Withdrawn,
    open_balancer,
)
from balancer.core.call import Usage
from balancer.core.outcome import LimitSeen, Overloaded
from balancer.engine.failures import evidence_of
from balancer.providers.provider import get_provider
from balancer.testing.mock import open_mock

REQUEST = httpx2.Request("GET", "http://x.test")
OPENAI = get_provider("openai")


class WithResponse(Exception):
    """Like the errors of the SDKs: a response hangs on it."""

    def __init__(self, response):
        super().__init__("failed")
        self.response = response


class Bare:
    """A response of no library."""

    def __init__(self, **fields):
        vars(self).update(fields)


def error_of(library, status, headers=None, content=b"{}"):
    return WithResponse(library.Response(status, headers=headers, content=content))


def test_attempt_failed_says_it_outright():
    """With usage and limits as given."""
    limits = (LimitSeen("requests", "requests", limit=5.0),)
    evidence = evidence_of(AttemptFailed(Faulted("x"), usage=Usage(5), limits=limits), OPENAI, 10.0)
    assert (evidence.outcome, evidence.usage, evidence.limits) == (Faulted("x"), Usage(5), limits)


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (401, {}, Unauthorized()),
        (400, {}, CallerFault()),
        (500, {}, Faulted),
        (503, {}, (Faulted, Overloaded)),
        (429, {"retry-after": "7"}, RateLimited),
    ],
)
def test_a_response_is_classified_by_the_provider(library, status, headers, outcome):
    """Responses of both libraries alike."""
    found = evidence_of(error_of(library, status, headers), OPENAI, 10.0).outcome
    assert isinstance(found, outcome) if isinstance(outcome, type | tuple) else found == outcome
    if status == 429:
        assert found.until == 17.0


def test_a_status_error_of_httpx():
    """As `raise_for_status` makes it."""
    response = httpx.Response(500, request=httpx.Request("GET", "http://x.test"))
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    assert isinstance(evidence_of(caught.value, OPENAI, 0.0).outcome, Faulted)


def test_headers_show_limits():
    """Also those of an error."""
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}
    evidence = evidence_of(error_of(httpx, 429, headers), OPENAI, 0.0)
    assert [(seen.dimension, seen.limit, seen.remaining) for seen in evidence.limits] == [("requests", 60.0, 0.0)]


@pytest.mark.parametrize(
    "response",
    [
        Bare(status_code=429, headers={"retry-after": "5"}, content=b"{}"),
        Bare(status_code=429, headers={b"retry-after": b"5"}, content="text"),
        Bare(status_code=429, headers=None),
        Bare(status_code=429),
        Bare(status_code=429, headers=7, content=None),
        Bare(status_code=429, headers=Bare(raw=7)),
        Bare(status_code=429, headers=Bare(raw=[(b"a",), b"x", ("retry-after", "5")])),
        Bare(status_code=429, headers={"\u2603": "\u2603"}),
    ],
    ids=range(8),
)
def test_a_response_of_no_library_is_read_as_far_as_it_goes(response):
    """A status is enough; nothing in it raises."""
    assert isinstance(evidence_of(WithResponse(response), OPENAI, 0.0).outcome, RateLimited)


def test_a_body_that_was_not_read_is_none():
    """The status still counts."""
    response = httpx.Response(500, stream=httpx.ByteStream(b"x"))
    response = httpx.Response(500, content=iter([b"x"]))
    assert isinstance(evidence_of(WithResponse(response), OPENAI, 0.0).outcome, Faulted)


@pytest.mark.parametrize("response", [None, 7, Bare(status_code="429"), Bare(status_code=True), Bare(status=429)])
def test_what_has_no_status_is_no_response(response):
    """Then it is the caller's."""
    assert evidence_of(WithResponse(response), OPENAI, 0.0) is None


class Hostile(Exception):
    """Its response raises."""

    @property
    def response(self):
        raise RuntimeError("no response")


class HostileHeaders:
    """Raises wherever it is touched."""

    def __getattr__(self, name):
        raise RuntimeError(name)


@pytest.mark.parametrize("error", [Hostile(), WithResponse(HostileHeaders())], ids=["property", "object"])
def test_an_exception_that_cannot_be_looked_at_is_the_callers(error):
    """It is not replaced by another one."""
    assert evidence_of(error, OPENAI, 0.0) is None


def test_headers_that_cannot_be_looked_at_are_none():
    """The status still counts."""
    error = WithResponse(Bare(status_code=500, headers=HostileHeaders()))
    assert isinstance(evidence_of(error, OPENAI, 0.0).outcome, Faulted)


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("ConnectTimeout", TimedOut("connect")),
        ("ReadTimeout", TimedOut("read")),
        ("WriteTimeout", TimedOut("write")),
        ("PoolTimeout", TimedOut("pool")),
        ("ConnectError", Faulted("connect error", sent=False)),
        ("ReadError", Faulted("ReadError")),
        ("RemoteProtocolError", Faulted("RemoteProtocolError")),
        ("UnsupportedProtocol", None),
        ("LocalProtocolError", None),
        ("ProxyError", Faulted("ProxyError")),
        ("InvalidURL", None),
    ],
)
def test_transport_errors(library, name, outcome):
    """What was never written is told apart; what the caller's own client could not do is the caller's."""
    evidence = evidence_of(getattr(library, name)("x"), OPENAI, 0.0)
    assert outcome == (evidence and evidence.outcome)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (trio.TooSlowError(), TimedOut()),
        (TimeoutError(), TimedOut()),
        (ConnectionRefusedError(), Faulted("connect error", sent=False)),
        (ConnectionResetError(), Faulted("ConnectionResetError")),
        (OSError(), Faulted("OSError")),
        (trio.BrokenResourceError(), Faulted("BrokenResourceError")),
        (OSError(errno.EHOSTUNREACH, "no route"), Faulted("OSError")),
        (socket.gaierror(-2, "unknown"), Faulted("gaierror")),
        (ssl.SSLError("alert"), Faulted("SSLError")),
        (OSError(errno.EMFILE, "x"), Withdrawn(sent=False)),
        (OSError(errno.ENFILE, "x"), Withdrawn(sent=False)),
        (OSError(errno.ENOMEM, "x"), Withdrawn(sent=False)),
        (FileNotFoundError(errno.ENOENT, "x"), None),
        (FileExistsError(), None),
        (PermissionError(), None),
        (IsADirectoryError(), None),
        (NotADirectoryError(), None),
        (ChildProcessError(), None),
        (ProcessLookupError(), None),
        (io.UnsupportedOperation(), None),
        (OSError(errno.ENOSPC, "x"), None),
        (ValueError(), None),
        (KeyError("response"), None),
        (ExceptionGroup("g", [OSError()]), None),
    ],
    ids=repr,
)
def test_other_errors(error, outcome):
    """Those of the network are the backend's, this machine's are nobody's, those of files and the rest are the caller's."""
    evidence = evidence_of(error, OPENAI, 0.0)
    assert outcome == (evidence and evidence.outcome)


def raised_from(error, cause):
    """`error` as `raise error from cause` leaves it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_connection_that_this_machine_had_no_file_for(library):
    """However deep the reason lies: here as the libraries and trio raise it for a host with two addresses."""
    tried = [ConnectionRefusedError(), OSError(errno.EMFILE, "Too many open files")]
    beneath = raised_from(OSError("all attempts failed"), ExceptionGroup("attempts", tried))
    error = raised_from(library.ConnectError("x"), raised_from(httpcore.ConnectError("x"), beneath))
    assert evidence_of(error, OPENAI, 0.0).outcome == Withdrawn(sent=False)


@pytest.mark.parametrize("sdk", [openai, anthropic])
@pytest.mark.parametrize(
    ("cause", "outcome"),
    [
        (httpx2.ConnectError("x"), Faulted("connect error", sent=False)),
        (httpx.ReadTimeout("x"), TimedOut("read")),
        (raised_from(httpx.ConnectError("x"), OSError(errno.EMFILE, "x")), Withdrawn(sent=False)),
        (httpx2.PoolTimeout("x"), TimedOut("pool")),
        (httpx2.LocalProtocolError("x"), None),
        (ValueError("x"), None),
        (None, None),
    ],
    ids=repr,
)
def test_connection_errors_of_an_sdk(sdk, cause, outcome):
    """They say what the transport error says that they were raised from."""
    request = httpx2.Request("GET", "http://x.test")
    for error in (sdk.APIConnectionError(request=request), sdk.APITimeoutError(request=request)):
        evidence = evidence_of(raised_from(error, cause), OPENAI, 0.0)
        assert outcome == (evidence and evidence.outcome)


def test_an_applications_own_error_about_a_transport_error():
    """What it raises in the place of one is its own decision; so is a chain of errors without end."""
    assert evidence_of(raised_from(RuntimeError("mine"), httpx.ConnectError("x")), OPENAI, 0.0) is None
    assert evidence_of(raised_from(KeyError("mine"), openai.APIConnectionError(request=REQUEST)), OPENAI, 0.0) is None
    circle = openai.APIConnectionError(request=REQUEST)
    assert evidence_of(raised_from(circle, circle), OPENAI, 0.0) is None
    assert evidence_of(raised_from(httpx.ConnectError("x"), circle), OPENAI, 0.0).outcome.sent is False


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
async def test_sdks_fail_over_when_nobody_listens(sdk):
    """The SDKs themselves inside `run`, over real sockets: the account at the closed port is passed over."""

    async def attempt(lease):
        options = {"api_key": "sk-x", "base_url": lease.account.base_url, "max_retries": 0}
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
        if sdk == "openai":
            async with openai.AsyncOpenAI(**options) as client:
                return await client.chat.completions.create(**asked)
        async with anthropic.AsyncAnthropic(**options) as client:
            return await client.messages.create(max_tokens=9, **asked)

    async with open_mock() as backend:
        at = {
            "closed": await closed_port(),
            "good": backend.base_url if sdk == "openai" else backend.base_url.removesuffix("/v1"),
        }
        accounts = [{"name": name, "base_url": url, "provider": sdk} for name, url in at.items()]
        first = {"selector": lambda candidates, *_: candidates[0]}
        async with open_balancer({"accounts": accounts, "balancer": first}) as balancer:
            with trio.fail_after(10):
                await balancer.run(Call(), attempt)
            seen = balancer.statistics().accounts
            assert (seen["closed"].failed, seen["good"].served) == (1, 1)


async def closed_port():
    """A base URL at which nobody listens."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    return f"http://127.0.0.1:{port}/v1"


@pytest.mark.parametrize(
    "error",
    [httpx.LocalProtocolError("x"), FileNotFoundError(errno.ENOENT, "x"), OSError(errno.EMFILE, "x")],
    ids=repr,
)
async def test_local_causes_eject_nobody(error, balancing_once, autojump_clock):
    """However often: one attempt each, the caller's own errors unchanged, a lack of this machine as the error of the call."""
    attempts = 0

    async def attempt(lease):
        nonlocal attempts
        attempts += 1
        raise error

    async with balancing_once({"name": "a", "limits": {"requests_per_day": 50}}) as balancer:
        for _ in range(10):
            with pytest.raises((type(error), AttemptsFailed)) as caught:
                await balancer.run(Call(), attempt)
            lacking = getattr(error, "errno", None) == errno.EMFILE
            assert (caught.value.errors == (error,)) if lacking else (caught.value is error)
        seen = balancer.statistics().accounts["a"]
        assert (attempts, seen.state, seen.failed) == (10, "healthy", 0)
        assert round(seen.room("requests", trio.current_time())) == (50 if lacking else 40)


async def test_no_free_connection_of_its_own_sends_a_call_elsewhere(balancing_once, autojump_clock):
    """Nothing was written: refunded, no matter of health, and another account has a client of its own."""

    async def attempt(lease):
        if lease.account.name == "a":
            raise httpx.PoolTimeout("x")

    limits = {"requests_per_day": 50}
    accounts = [{"name": name, "limits": limits} for name in "ab"]
    async with balancing_once(*accounts, selector=lambda candidates, *_: candidates[0]) as balancer:
        for _ in range(10):
            await balancer.run(Call(), attempt)
        seen, now = balancer.statistics().accounts, trio.current_time()
        assert (seen["a"].state, seen["a"].failed, seen["b"].served) == ("healthy", 10, 10)
        assert (round(seen["a"].room("requests", now)), round(seen["b"].room("requests", now))) == (50, 40)


class SDKError(Exception):
    """An error that a call ends with."""


@pytest.mark.parametrize("foreign", [True, False])
async def test_a_fault_of_the_request_gives_the_callers_own_exception_back(foreign, balancing, autojump_clock):
    """A 400 of an SDK is re-raised as it is, after one attempt."""
    error = error_of(httpx, 400) if foreign else AttemptFailed(CallerFault())
    attempts = 0

    async def attempt(lease):
        nonlocal attempts
        attempts += 1
        raise error

    async with balancing({"name": "a", "provider": "openai"}, {"name": "b", "provider": "openai"}) as balancer:
        with pytest.raises(WithResponse if foreign else AttemptsFailed) as caught:
            await balancer.run(Call(), attempt)
        assert attempts == 1
        assert not foreign or caught.value is error
        assert foreign or caught.value.errors == (error,)
        assert {snapshot.failed + snapshot.refused for snapshot in balancer.statistics().accounts.values()} == {0}


async def test_errors_of_an_sdk_fail_over(balancing, autojump_clock):
    """429, 500 and a broken connection on the first accounts: the fourth serves, each outcome on record."""
    errors = [error_of(httpx, 429, {"retry-after": "60"}), error_of(httpx2, 500), httpx.ReadError("reset")]
    leases = []

    async def attempt(lease):
        leases.append(lease)
        if len(leases) <= len(errors):
            raise errors[len(leases) - 1]
        return lease.account.name

    accounts = [{"name": name, "provider": "openai"} for name in "abcd"]
    async with balancing(*accounts) as balancer:
        value = await balancer.run(Call(model="m"), attempt)
        names = [lease.account.name for lease in leases]
        assert sorted(names) == ["a", "b", "c", "d"]
        assert value == names[-1]
        states = balancer.statistics().accounts
        assert (states[names[0]].refused, states[names[1]].failed, states[names[2]].failed) == (1, 1, 1)
        kinds = [type(attempt.outcome).__name__ for attempt in leases[0].decision.attempts]
        assert kinds == ["RateLimited", "Faulted", "Faulted", "Served"]


async def test_a_time_limit_inside_an_attempt_is_the_backends(balancing, autojump_clock):
    """`trio.fail_after` of the attempt itself; one around the call is the caller's own end."""

    async def slow(lease):
        with trio.fail_after(1.0):
            await trio.sleep(60.0)

    async with balancing("a", max_attempts=1) as balancer:
        with pytest.raises(AttemptsFailed) as caught:
            await balancer.run(Call(), slow)
        assert caught.value.attempts[0].outcome == TimedOut()
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
            await balancer.run(Call(), slow)
        assert balancer.statistics().accounts["a"].failed == 1
