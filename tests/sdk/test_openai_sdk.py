"""The official OpenAI SDK over the balancer, on real sockets: it sees answers and its own errors, and never retries beside us."""

from __future__ import annotations

import gc
import random
from contextlib import asynccontextmanager

import httpx
import httpx2
import openai
import pytest
import trio
from openai import AsyncOpenAI

from balancer import Account, BalancerConfig, StreamTruncated, open_balancer
from balancer.core.outcome import Faulted, Overloaded, RateLimited, Served, Truncated, Unauthorized
from balancer.testing.mock import MockSettings, open_mocks

pytestmark = [
    # The SDK leaves its own generators unfinished behind a stream that was left early, and trio warns of it.
    pytest.mark.filterwarnings("ignore:Async generator 'openai:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
]

MESSAGES = [{"role": "user", "content": "Hello there"}]
USAGE = {"include_usage": True}
LATER = {"retry-after": "30"}

REFUSALS = {
    "rate limited": ({"kind": "status", "status": 429, "headers": LATER}, RateLimited),
    "failing": ({"kind": "status", "status": 500}, Faulted),
    "unauthorized": ({"kind": "status", "status": 401}, Unauthorized),
    "overloaded": ({"kind": "status", "status": 503, "code": "server_is_overloaded", "headers": LATER}, Overloaded),
    "dropping": ({"kind": "drop"}, Faulted),
}
ERRORS = {
    "rate limited": (openai.RateLimitError, 429),
    "failing": (openai.InternalServerError, 500),
    "unauthorized": (openai.InternalServerError, 503),
    "overloaded": (openai.InternalServerError, 503),
    "dropping": (openai.InternalServerError, 503),
}


def always(fault):
    return [{"probability": 1.0, **fault}]


class Bench:
    """A balancer over mock backends, and an SDK client on it that counts what it sends."""

    def __init__(self, balancer, backends, library, patience):
        self.balancer, self.backends = balancer, backends
        self.sent, self.decisions = 0, []
        package = {"httpx": httpx, "httpx2": httpx2}[library]

        async def on_request(_request):
            self.sent += 1

        async def on_response(response):
            self.decisions.append(response.extensions["balancer"])

        http = package.AsyncClient(
            transport=balancer.transport(library),
            event_hooks={"request": [on_request], "response": [on_response]},
        )
        # Its own retries are left as they are: it is the balancer that keeps it from using them.
        timeout = package.Timeout(10.0, pool=patience)
        self.sdk = AsyncOpenAI(api_key="-", http_client=http, timeout=timeout)

    @property
    def received(self):
        return {name: backend.counts().received for name, backend in self.backends.items()}

    @property
    def in_flight(self):
        return self.balancer.statistics().in_flight

    def outcomes(self, call=-1):
        """Account and outcome of the attempts of one call."""
        return [(attempt.account, type(attempt.outcome)) for attempt in self.decisions[call].attempts]

    async def settled(self, also=lambda: True):
        """Wait until nothing is in flight, collecting garbage on the way."""
        with trio.fail_after(5):
            while self.in_flight or not also():
                gc.collect()
                await trio.sleep(0.01)

    def used(self, account, dimension):
        """What is charged of one dimension of an account."""
        views = self.balancer.statistics().accounts[account].dimensions
        return sum(view.used(trio.current_time()) for view in views if view.dimension == dimension and not view.learned)


@pytest.fixture(params=["httpx2", "httpx"])
def library(request):
    return request.param


@asynccontextmanager
async def opened(library="httpx2", *, patience=5.0, limits=None, **mocks):
    """A bench with one account per backend, each a tier of its own in the order given."""
    settings = {name: MockSettings.parse({"output_tokens": 6, **mock}) for name, mock in mocks.items()}
    async with open_mocks(settings) as backends:
        accounts = [
            Account(name=name, base_url=backend.base_url, key=f"key-{name}", limits=limits or {})
            for name, backend in backends.items()
        ]
        config = BalancerConfig(accounts, pools=[{"name": "all", "tiers": [[name] for name in mocks]}], seed=1)
        async with open_balancer(config) as balancer:
            yield Bench(balancer, backends, library, patience)
            assert balancer.statistics().waiting == 0


# -- what the SDK can ask for ---------------------------------------------------------------------------------------------


async def chat(sdk):
    answer = await sdk.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.usage.completion_tokens == 6
    return answer.choices[0].message.content


async def chat_stream(sdk):
    text, usage = "", None
    stream = await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True, stream_options=USAGE)
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert usage.completion_tokens == 6
    return text


async def chat_helper(sdk):
    async with sdk.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        async for _ in stream:
            pass
        return (await stream.get_final_completion()).choices[0].message.content


async def responses(sdk):
    answer = await sdk.responses.create(model="m", input="Hello there")
    assert (answer.status, answer.usage.output_tokens) == ("completed", 6)
    return answer.output_text


async def responses_stream(sdk):
    text = ""
    async with sdk.responses.stream(model="m", input="Hello there") as stream:
        async for event in stream:
            text += event.delta if event.type == "response.output_text.delta" else ""
        final = await stream.get_final_response()
    assert (text, final.status) == (final.output_text, "completed")
    return text


async def embeddings(sdk):
    answer = await sdk.embeddings.create(model="m", input=["one text", "another"])
    assert [item.index for item in answer.data] == [0, 1]
    return "embeddings"


ASKS = [chat, chat_stream, chat_helper, responses, responses_stream, embeddings]


@pytest.mark.parametrize("ask", ASKS)
async def test_whatever_the_sdk_asks_is_answered(library, ask):
    """Every call and stream through either library, and after it nothing is in flight."""
    async with opened(library, a={}) as bench:
        assert await ask(bench.sdk)
        assert (bench.sent, bench.in_flight, bench.received) == (1, 0, {"a": 1})
        assert bench.outcomes() == [("a", Served)]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_by_the_first_account_never_reaches_the_sdk(ask, refusal):
    """The second account answers; each has seen one request, and the SDK has sent one."""
    fault, outcome = REFUSALS[refusal]
    async with opened(a={"faults": always(fault)}, b={}) as bench:
        assert await ask(bench.sdk)
        assert (bench.sent, bench.in_flight, bench.received) == (1, 0, {"a": 1, "b": 1})
        assert bench.outcomes() == [("a", outcome), ("b", Served)]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("ask", [chat, chat_stream, responses_stream])
async def test_when_all_refuse_the_sdk_raises_its_own_error_once(library, ask, refusal):
    """With its retries at their default it sends one request; the backends see what the balancer made of it, and no more."""
    fault, outcome = REFUSALS[refusal]
    error, status = ERRORS[refusal]
    async with opened(library, patience=0.3, a={"faults": always(fault)}, b={"faults": always(fault)}) as bench:
        with pytest.raises(error) as caught:
            await ask(bench.sdk)
        assert caught.value.status_code == status
        assert bench.sent == 1
        assert bench.in_flight == 0
        outcomes = bench.outcomes()
        assert {kind for _, kind in outcomes} == {outcome}
        attempts = {name: [account for account, _ in outcomes].count(name) for name in "ab"}
        assert bench.received == attempts
        # A fault may be tried a third time; what said when to come back, or that nothing will help, is not asked again.
        assert sorted(attempts.values()) == ([1, 2] if outcome is Faulted else [1, 1])
        assert "key-" not in str(caught.value)


async def test_a_fault_of_the_caller_is_his_at_once(library):
    """A request that makes no sense is no account's fault: one request, the SDK's own error, nobody cools."""
    async with opened(library, a={"faults": always({"kind": "status", "status": 400})}, b={}) as bench:
        with pytest.raises(openai.BadRequestError):
            await chat(bench.sdk)
        assert (bench.sent, bench.received) == (1, {"a": 1, "b": 0})
        assert [snapshot.state for snapshot in bench.balancer.statistics().accounts.values()] == ["healthy", "healthy"]


async def test_an_error_at_the_beginning_of_a_stream_goes_to_another_account(library):
    """Nothing had reached the caller, so the second account answers; later in the stream it is the SDK's error."""
    overloaded = {"kind": "stream_error", "events": 0, "status": 503, "code": "server_is_overloaded"}
    async with opened(library, a={"faults": always(overloaded)}, b={}) as bench:
        assert await chat_stream(bench.sdk)
        assert bench.outcomes() == [("a", Overloaded), ("b", Served)]
    later = {"faults": always({**overloaded, "events": 3}), "token_interval": 0.01}
    async with opened(library, a=later, b={}) as bench:
        with pytest.raises(openai.APIError):
            await chat_stream(bench.sdk)
        await bench.settled()
        assert bench.outcomes() == [("a", Overloaded)]


# -- streams that are not read to their end --------------------------------------------------------------------------------


async def test_an_abandoned_stream_gives_its_lease_back(library):
    """Left in the middle without being closed: the lease comes back when the stream is collected, and nobody is blamed."""
    async with opened(library, a={"token_interval": 0.05, "output_tokens": 200}) as bench:
        stream = await bench.sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        assert bench.in_flight == 1
        del stream
        await bench.settled()
        snapshot = bench.balancer.statistics().accounts["a"]
        assert (snapshot.state, snapshot.failed, snapshot.refused) == ("healthy", 0, 0)
        await bench.settled(lambda: bench.backends["a"].counts().gone == 1)


async def test_a_stream_that_is_never_iterated_gives_its_lease_back(library):
    """Not even the SDK closes such a stream."""
    async with opened(library, a={"token_interval": 0.05, "output_tokens": 200}) as bench:
        stream = await bench.sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert bench.in_flight == 1
        del stream
        await bench.settled()
        assert bench.balancer.statistics().accounts["a"].state == "healthy"


async def test_a_closed_stream_gives_its_lease_back_at_once(library):
    """`async with` and `close` wait for no collection."""
    async with opened(library, a={"token_interval": 0.05, "output_tokens": 200}) as bench:
        async with await bench.sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
            async for _ in stream:
                break
            assert bench.in_flight == 1
        assert bench.in_flight == 0


async def test_a_cancelled_call_and_a_cancelled_stream_give_their_lease_back(library):
    """Cancelled before its answer, and in the middle of it."""
    slow = {"token_interval": 0.05, "output_tokens": 200, "latency": 0.1}
    async with opened(library, a=slow) as bench:
        with trio.move_on_after(0.05) as scope:
            await chat(bench.sdk)
        assert (scope.cancelled_caught, bench.in_flight) == (True, 0)
        with trio.move_on_after(0.3) as scope:
            await chat_stream(bench.sdk)
        assert scope.cancelled_caught
        await bench.settled()
        assert bench.balancer.statistics().accounts["a"].failed == 0


@pytest.mark.parametrize("clean", [True, False])
async def test_a_truncated_stream_is_an_error_and_no_answer(library, clean):
    """The SDK alone takes a stream without its end mark for a short answer; here it is an error with its cause."""
    async with opened(library, a={"faults": always({"kind": "truncate", "events": 3, "clean": clean})}) as bench:
        with pytest.raises((openai.APIError, httpx.RemoteProtocolError, httpx2.RemoteProtocolError)) as caught:
            await chat_stream(bench.sdk)
        assert bench.in_flight == 0
        assert bench.outcomes() == [("a", Truncated)]
        causes, error = [], caught.value
        while error is not None:
            causes.append(error)
            error = error.__cause__
        assert any(isinstance(cause, StreamTruncated) and cause.received > 0 for cause in causes)


@pytest.mark.parametrize(("clean", "outcome"), [(True, Truncated), (False, Faulted)])
async def test_a_truncated_answer_goes_to_another_account(library, clean, outcome):
    """One that is not streamed has not reached the caller before it is whole."""
    cut = always({"kind": "truncate", "events": 30, "clean": clean})
    async with opened(library, a={"faults": cut}, b={}) as bench:
        assert await chat(bench.sdk)
        assert bench.outcomes() == [("a", outcome), ("b", Served)]


# -- usage and traffic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [chat, chat_stream, responses, responses_stream])
async def test_usage_reaches_the_ledger(library, ask):
    """What an answer took replaces what was reserved for it."""
    limits = {"tokens": {"amount": 100_000, "per": 86_400.0}}
    async with opened(library, limits=limits, a={"headers": "none"}) as bench:
        await ask(bench.sdk)
        received = bench.backends["a"].record[0]
        took = received.input_tokens + received.output_tokens
        assert received.output_tokens == 6
        assert bench.used("a", "tokens") == pytest.approx(took, abs=0.5)


async def test_a_stream_without_usage_is_charged_as_reserved(library):
    """Asked without `include_usage` the estimate stands, and the caller's stream has no chunk that was not asked for."""
    limits = {"tokens": {"amount": 100_000, "per": 86_400.0}}
    async with opened(library, limits=limits, a={"headers": "none"}) as bench:
        stream = await bench.sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True, max_completion_tokens=50)
        chunks = [chunk async for chunk in stream]
        assert all(chunk.usage is None for chunk in chunks)
        assert bench.in_flight == 0
        assert bench.used("a", "tokens") >= 50


async def test_mixed_traffic_over_unlike_accounts(library):
    """A hundred calls of all kinds at once, some left early, over accounts that fail now and then: all end, nothing is left."""
    flaky = {"faults": [{"probability": 0.1, "kind": "status", "status": 500}, {"probability": 0.1, "kind": "drop"}]}
    failures = [0]

    async def left_early(sdk):
        stream = await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        async for _ in stream:
            break

    async def one(ask, sdk):
        try:
            await ask(sdk)
        except openai.APIStatusError:
            failures[0] += 1

    async with opened(library, a={**flaky, "latency": 0.005}, b={"latency": 0.01}, c=flaky) as bench:
        asks = random.Random(1).choices([*ASKS, left_early], k=100)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for ask in asks:
                    nursery.start_soon(one, ask, bench.sdk)
        await bench.settled()
        assert bench.sent == 100
        assert failures[0] <= 5
        # A reused connection that ends before one byte was lost by nobody's fault, and its request is sent once more.
        attempts = sum(len(decision.attempts) for decision in bench.decisions)
        dropped = sum(entry.fault == "drop" for backend in bench.backends.values() for entry in backend.record)
        assert attempts <= sum(bench.received.values()) <= attempts + dropped
