"""What a caller gets when nobody served."""

from __future__ import annotations

import json

import httpx
import pytest

from balancer import Account
from balancer.core.outcome import AttemptFailed, Faulted, ModelMissing, Overloaded, QuotaExhausted, RateLimited, TooLarge
from balancer.errors import AttemptsFailed, BalancerError, Closed, DeadlineUnreachable, NoAccount, Saturated
from balancer.providers.dialect import PLAIN, dialect_of
from balancer.testing.scripted import HTTPReply, ScriptedTransport
from balancer.transports.answers import final, not_to_retry
from balancer.transports.exchange import Answer

CHAT = dialect_of("POST", "/chat/completions")
MESSAGES = dialect_of("POST", "/messages")
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
FIRST = {"selector": lambda accounts, *_: accounts[0]}
SECRET_DETAIL = b'{"error":{"message":"Incorrect API key provided: sk-a***","code":"invalid_api_key"}}'
BILL = b'{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}'


def failed(outcome, status):
    return AttemptFailed(outcome, answer=Answer(status, [(b"x-which", b"%d" % status)], b"{}"))


def all_failed(*failures):
    return AttemptsFailed("every attempt failed", attempts=(), errors=failures)


# -- which real answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "shown"),
    [
        ([failed(Faulted(), 500), failed(RateLimited(), 429)], 429),
        ([failed(ModelMissing(), 404), failed(Faulted(), 502)], 502),
        ([failed(QuotaExhausted(), 429), failed(Overloaded(), 529), failed(Faulted(), 500)], 529),
        ([failed(TooLarge(), 413), failed(QuotaExhausted(), 429)], 429),
        ([failed(Faulted(), 500), failed(Faulted(), 502)], 500),
        ([AttemptFailed(RateLimited()), failed(Faulted(), 500)], 500),
        ([ValueError(), failed(Faulted(), 500)], 500),
    ],
)
def test_most_retryable_wins(failures, shown):
    """Among real answers the one that most invites another try is shown, marked as not to be retried."""
    answer = final(all_failed(*failures), CHAT)
    assert answer.status == shown
    assert answer.headers == [(b"x-which", b"%d" % shown), (b"x-should-retry", b"false")]


def test_one_mark_only():
    """A backend's own `x-should-retry` is replaced."""
    marked = not_to_retry(Answer(429, [(b"X-Should-Retry", b"true"), (b"a", b"b")], b""))
    assert marked.headers == [(b"a", b"b"), (b"x-should-retry", b"false")]


# -- made ones ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoAccount("none"), 503),
        (NoAccount("no such model", unknown_model=True), 404),
        (Closed("closed"), 503),
        (BalancerError("what"), 503),
        (AttemptsFailed("all", attempts=(), errors=[ValueError("x")]), 503),
    ],
)
@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, PLAIN], ids=lambda dialect: dialect.name)
def test_made(error, status, dialect):
    """Without a real answer one is made in the dialect of the call."""
    answer = final(error, dialect)
    headers = dict(answer.headers)
    assert (answer.status, headers[b"x-should-retry"]) == (status, b"false")
    assert headers[b"content-type"] == dialect.error_type
    assert int(headers[b"content-length"]) == len(answer.body)
    body = json.loads(answer.body)
    if dialect is CHAT:
        assert body["error"]["message"] == str(error)
    elif dialect is MESSAGES:
        assert (body["type"], body["error"]["message"]) == ("error", str(error))
    else:
        assert body["detail"] == str(error)


async def test_when_to_come_back(autojump_clock):
    """A refusal before its time says when a new try could work, rounded up, never at once; what never will is told no time."""
    for error, status in ((DeadlineUnreachable("x", retry_at=2.0004), 429), (Saturated("x", retry_at=2.0004), 503)):
        answer = final(error, CHAT)
        headers = dict(answer.headers)
        assert (answer.status, headers[b"retry-after"], headers[b"retry-after-ms"]) == (status, b"3", b"2001")
    assert b"retry-after" not in dict(final(Saturated("x", retry_at=float("inf")), CHAT).headers)
    for retry_at in (-5.0, 0.0, 0.3):
        headers = dict(final(Saturated("x", retry_at=retry_at), CHAT).headers)
        assert (headers[b"retry-after"], headers[b"retry-after-ms"]) == (b"1", b"1000")


# -- over the transport ------------------------------------------------------------------------------------------------------


def account(name, *replies, **more):
    return Account(name=name, base_url=f"http://{name}.test/v1", key=f"sk-{name}", transport=ScriptedTransport(replies), **more)


async def ask(balancer, path="/chat/completions", times=1, **more):
    async with httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1", timeout=None) as client:
        for _ in range(times):
            response = await client.post(path, json={**ASKED, **more})
        return response


async def test_callers_fault_goes_through(balancing_once, autojump_clock):
    """A 400 reaches the caller at once, its body unchanged, and touches no account."""
    body = b'{ "error": {"message": "bad", "type": "invalid_request_error"} }'
    poisoned = account("a", HTTPReply(400, {"content-type": "application/json", "x-request-id": "r"}, [body]))
    other = account("b", HTTPReply(chunks=[b"{}"]))
    async with balancing_once(poisoned, other, **FIRST) as balancer:
        for _ in range(10):
            response = await ask(balancer)
            assert (response.status_code, response.content, response.headers["x-request-id"]) == (400, body, "r")
            assert response.headers["x-should-retry"] == "false"
        assert balancer.statistics().accounts["a"].state == "healthy"
    assert not other.transport.requests


@pytest.mark.parametrize(("status", "body"), [(401, SECRET_DETAIL), (429, BILL), (402, b"{}")])
async def test_credentials_and_bills_are_the_operators(status, body, balancing_once, autojump_clock, caplog):
    """Where others could have served, an account's 401 or billing answer is never shown, but a made 503 that names it."""
    accounts = [account(name, HTTPReply(status, chunks=[body])) for name in "ab"]
    async with balancing_once(*accounts) as balancer:
        for _ in range(2):
            response = await ask(balancer)
            assert response.status_code == 503
            assert b"sk-" not in response.content
            assert b"current quota" not in response.content
            message = response.json()["error"]["message"]
            assert "a: " in message
            assert "b: " in message
        assert [snapshot.state for snapshot in balancer.statistics().accounts.values()] == ["disabled", "disabled"]
    assert caplog.text.count("balancer.account_disabled") == 2


async def test_unauthorized_beside_a_fault(balancing_once, autojump_clock):
    """A 401 beside a real failure: the failure is shown."""
    refusing, failing = account("a", HTTPReply(401, chunks=[SECRET_DETAIL])), account("b", HTTPReply(500, chunks=[b"no"]))
    async with balancing_once(
        refusing, failing, **FIRST, retry={"reserve_per_second": 0.0, "max_extra_ratio": 0.0}
    ) as balancer:
        response = await ask(balancer)
        assert (response.status_code, response.content) == (500, b"no")


async def test_unauthorized_before_another_tier(balancing_once, autojump_clock):
    """A 401 in the first tier is not shown where the second tier was tried and had no answer either."""
    refusing = account("a", HTTPReply(401, chunks=[SECRET_DETAIL]))
    broken = account("b", HTTPReply(error=httpx.ReadError("cut")))
    pools = [{"name": "default", "tiers": [["a"], ["b"]]}]
    async with balancing_once(refusing, broken, pools=pools, max_attempts=1) as balancer:
        response = await ask(balancer)
        assert response.status_code == 503
        assert "a: Unauthorized" in response.json()["error"]["message"]


async def test_unauthorized_beside_one_that_serves(balancing_once, autojump_clock):
    """A 401 on one key disables that account alone; the call is served by another."""
    refusing, serving = (
        account("a", HTTPReply(401, chunks=[SECRET_DETAIL])),
        account("b", HTTPReply(chunks=[b'{"choices":[]}'])),
    )
    async with balancing_once(refusing, serving, **FIRST) as balancer:
        response = await ask(balancer, times=3)
        assert response.status_code == 200
        states = {name: snapshot.state for name, snapshot in balancer.statistics().accounts.items()}
        assert states == {"a": "disabled", "b": "healthy"}
    assert len(refusing.transport.requests) == 1


async def test_single_account_shows_its_own(balancing_once, autojump_clock):
    """Where nobody else could have served, the account's own 401 is shown: one account, or the only one with the model."""
    alone = account("a", HTTPReply(401, chunks=[SECRET_DETAIL]), models=["m"])
    stranger = account("b", HTTPReply(chunks=[b"{}"]), models=["other"])
    for accounts in ([alone], [alone, stranger]):
        async with balancing_once(*accounts) as balancer:
            response = await ask(balancer)
            assert (response.status_code, response.content) == (401, SECRET_DETAIL)
            assert response.headers["x-should-retry"] == "false"


async def test_all_rate_limited(balancing_once, autojump_clock):
    """When no account can take the call in time, the real refusal is shown once."""
    reply = HTTPReply(429, {"retry-after": "120"}, [b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}'])
    accounts = [account(name, reply) for name in "ab"]
    async with balancing_once(*accounts) as balancer:
        response = await ask(balancer)
        assert (response.status_code, response.json()["error"]["message"]) == (429, "slow down")
        assert response.headers["x-should-retry"] == "false"
    assert [len(each.transport.requests) for each in accounts] == [1, 1]


async def test_all_timed_out(balancing_once, autojump_clock):
    """When every attempt timed out the answer is a made 504."""
    accounts = [account(name, HTTPReply(after=100.0)) for name in "ab"]
    async with balancing_once(*accounts, headers_timeout=1.0) as balancer:
        response = await ask(balancer)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")


async def test_unknown_model(balancing_once, autojump_clock):
    """A model that nobody offers is not found, with near names, as a provider would say it."""
    async with balancing_once(account("a", HTTPReply(), models=["gpt-4o"])) as balancer:
        response = await ask(balancer, model="gpt-4p")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
        assert "gpt-4o" in response.json()["error"]["message"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status, balancing_once, autojump_clock):
    """A redirect to another place is answered as it is; nothing, and no key, goes there."""
    backend = account("a", HTTPReply(status, {"location": "http://169.254.169.254/latest"}))
    async with (
        balancing_once(backend, max_attempts=1) as balancer,
        httpx.AsyncClient(transport=balancer.transport(), base_url="http://balancer/v1") as client,
    ):
        response = await client.get("/files/1")
        assert (response.status_code, response.headers["location"]) == (status, "http://169.254.169.254/latest")
    assert [request.url.host for request in backend.transport.requests] == ["a.test"]
