"""What an exception of an attempt says: in this order it speaks outright, has a response, broke in transport, or is the caller's."""

from __future__ import annotations

import httpx
import httpx2
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
)
from balancer.core.call import Usage
from balancer.core.outcome import LimitSeen, Overloaded
from balancer.engine.failures import evidence_of
from balancer.providers.provider import get_provider

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
        ("PoolTimeout", TimedOut("")),
        ("ConnectError", Faulted("connect error", sent=False)),
        ("ReadError", Faulted("ReadError")),
        ("RemoteProtocolError", Faulted("RemoteProtocolError")),
        ("UnsupportedProtocol", None),
    ],
)
def test_transport_errors(library, name, outcome):
    """What was never written is told apart."""
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
        (ValueError(), None),
        (KeyError("response"), None),
        (ExceptionGroup("g", [OSError()]), None),
    ],
    ids=repr,
)
def test_other_errors(error, outcome):
    """Those of the system are the backend's, the rest is the caller's."""
    evidence = evidence_of(error, OPENAI, 0.0)
    assert outcome == (evidence and evidence.outcome)


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
