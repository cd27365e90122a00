"""The official Anthropic SDK over the balancer, on real sockets: it sees answers and its own errors, and never retries beside us."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager

import anthropic
import httpx2
import pytest
import trio
from anthropic import AsyncAnthropic

from balancer import Account, BalancerConfig, StreamTruncated, open_balancer
from balancer.core.outcome import CallerFault, Faulted, Overloaded, RateLimited, Served, Truncated, Unauthorized
from balancer.testing.mock import MockSettings, open_mocks

pytestmark = [
    # The SDK leaves its own generators unfinished behind a stream that was left early, and trio warns of it.
    pytest.mark.filterwarnings("ignore:Async generator 'anthropic:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
]

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 100}
LATER = {"retry-after": "30"}
SLOW = {"token_interval": 0.05, "output_tokens": 90}

REFUSALS = {
    "rate limited": ({"kind": "status", "status": 429, "headers": LATER}, RateLimited, anthropic.RateLimitError, 429),
    "failing": ({"kind": "status", "status": 500}, Faulted, anthropic.InternalServerError, 500),
    "unauthorized": ({"kind": "status", "status": 401}, Unauthorized, anthropic.APIStatusError, 503),
    "overloaded": ({"kind": "status", "status": 529, "headers": LATER}, Overloaded, anthropic.APIStatusError, 529),
    "dropping": ({"kind": "drop"}, Faulted, anthropic.APIStatusError, 503),
}


def always(fault):
    return [{"probability": 1.0, **fault}]


class Bench:
    """A balancer over mock backends, and an SDK client on it that counts what it sends."""

    def __init__(self, balancer, backends, patience):
        self.balancer, self.backends = balancer, backends
        self.sent, self.decisions = 0, []

        async def on_request(_request):
            self.sent += 1

        async def on_response(response):
            self.decisions.append(response.extensions["balancer"])

        http = httpx2.AsyncClient(
            transport=balancer.transport("httpx2"),
            event_hooks={"request": [on_request], "response": [on_response]},
        )
        # Its own retries are left as they are: it is the balancer that keeps it from using them.
        self.sdk = AsyncAnthropic(api_key="-", http_client=http, timeout=httpx2.Timeout(10.0, pool=patience))

    @property
    def received(self):
        return {name: backend.counts().received for name, backend in self.backends.items()}

    @property
    def in_flight(self):
        return self.balancer.statistics().in_flight

    def outcomes(self):
        """Account and outcome of the attempts of the last call."""
        return [(attempt.account, type(attempt.outcome)) for attempt in self.decisions[-1].attempts]

    async def settled(self):
        """Wait until nothing is in flight, collecting garbage on the way."""
        with trio.fail_after(5):
            while self.in_flight:
                gc.collect()
                await trio.sleep(0.01)


@asynccontextmanager
async def opened(*, patience=5.0, limits=None, **mocks):
    """A bench with one account per backend, each a tier of its own in the order given."""
    settings = {name: MockSettings.parse({"speaks": "anthropic", "output_tokens": 6, **mock}) for name, mock in mocks.items()}
    async with open_mocks(settings) as backends:
        accounts = [
            Account(name=name, provider="anthropic", base_url=backend.base_url, key=f"key-{name}", limits=limits or {})
            for name, backend in backends.items()
        ]
        config = BalancerConfig(accounts, pools=[{"name": "all", "tiers": [[name] for name in mocks]}], seed=1)
        async with open_balancer(config) as balancer:
            yield Bench(balancer, backends, patience)
            assert balancer.statistics().waiting == 0


async def message(sdk):
    answer = await sdk.messages.create(**ASK)
    assert (answer.usage.output_tokens, answer.stop_reason) == (6, "end_turn")
    return answer.content[0].text


async def message_stream(sdk):
    async with sdk.messages.stream(**ASK) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert (text, final.usage.output_tokens) == (final.content[0].text, 6)
    return text


async def message_events(sdk):
    kinds = [event.type async for event in await sdk.messages.create(**ASK, stream=True)]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    return kinds


ASKS = [message, message_stream, message_events]


@pytest.mark.parametrize("ask", ASKS)
async def test_whatever_the_sdk_asks_is_answered(ask):
    """Messages, streams and raw events, and after them nothing is in flight."""
    async with opened(a={}) as bench:
        assert await ask(bench.sdk)
        assert (bench.sent, bench.in_flight, bench.received) == (1, 0, {"a": 1})
        assert bench.outcomes() == [("a", Served)]
        assert bench.backends["a"].record[0].headers["anthropic-version"]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_by_the_first_account_never_reaches_the_sdk(ask, refusal):
    """The second account answers; each has seen one request, and the SDK has sent one."""
    fault, outcome, _, _ = REFUSALS[refusal]
    async with opened(a={"faults": always(fault)}, b={}) as bench:
        assert await ask(bench.sdk)
        assert (bench.sent, bench.in_flight, bench.received) == (1, 0, {"a": 1, "b": 1})
        assert bench.outcomes() == [("a", outcome), ("b", Served)]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_when_all_refuse_the_sdk_raises_its_own_error_once(ask, refusal):
    """With its retries at their default it sends one request; the backends see what the balancer made of it, and no more."""
    fault, outcome, error, status = REFUSALS[refusal]
    async with opened(patience=0.3, a={"faults": always(fault)}, b={"faults": always(fault)}) as bench:
        with pytest.raises(error) as caught:
            await ask(bench.sdk)
        assert caught.value.status_code == status
        assert (bench.sent, bench.in_flight) == (1, 0)
        outcomes = bench.outcomes()
        assert {kind for _, kind in outcomes} == {outcome}
        attempts = {name: [account for account, _ in outcomes].count(name) for name in "ab"}
        assert bench.received == attempts
        # A fault may be tried a third time; what said when to come back, or that nothing will help, is not asked again.
        assert sorted(attempts.values()) == ([1, 2] if outcome is Faulted else [1, 1])
        assert "key-" not in str(caught.value)


async def test_a_fault_of_the_caller_is_his_at_once():
    """A request that makes no sense is no account's fault: one request, the SDK's own error, nobody cools."""
    async with opened(a={"faults": always({"kind": "status", "status": 400})}, b={}) as bench:
        with pytest.raises(anthropic.BadRequestError):
            await message(bench.sdk)
        assert (bench.sent, bench.received) == (1, {"a": 1, "b": 0})
        assert bench.outcomes() == [("a", CallerFault)]
        assert [snapshot.state for snapshot in bench.balancer.statistics().accounts.values()] == ["healthy", "healthy"]


async def test_an_overload_at_the_beginning_of_a_stream_goes_to_another_account():
    """Nothing had reached the caller, so the second account answers; later in the stream it is the SDK's error."""
    overloaded = {"kind": "stream_error", "events": 0, "status": 529}
    async with opened(a={"faults": always(overloaded)}, b={}) as bench:
        assert await message_stream(bench.sdk)
        assert bench.outcomes() == [("a", Overloaded), ("b", Served)]
    later = {"faults": always({**overloaded, "events": 6}), "token_interval": 0.01}
    async with opened(a=later, b={}) as bench:
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            await message_stream(bench.sdk)
        await bench.settled()
        assert (bench.sent, bench.outcomes()) == (1, [("a", Overloaded)])


async def test_an_abandoned_stream_gives_its_lease_back():
    """Left in the middle without being closed: the lease comes back when the stream is collected, and nobody is blamed."""
    async with opened(a=SLOW) as bench:
        stream = await bench.sdk.messages.create(**ASK, stream=True)
        async for _ in stream:
            break
        assert bench.in_flight == 1
        del stream
        await bench.settled()
        snapshot = bench.balancer.statistics().accounts["a"]
        assert (snapshot.state, snapshot.failed, snapshot.refused) == ("healthy", 0, 0)


async def test_a_stream_that_is_never_iterated_gives_its_lease_back():
    """Not even the SDK closes such a stream."""
    async with opened(a=SLOW) as bench:
        stream = await bench.sdk.messages.create(**ASK, stream=True)
        assert bench.in_flight == 1
        del stream
        await bench.settled()
        assert bench.balancer.statistics().accounts["a"].state == "healthy"


async def test_a_closed_stream_gives_its_lease_back_at_once():
    """`async with` waits for no collection."""
    async with opened(a=SLOW) as bench:
        async with bench.sdk.messages.stream(**ASK) as stream:
            async for _ in stream:
                break
            assert bench.in_flight == 1
        assert bench.in_flight == 0


@pytest.mark.parametrize("clean", [True, False])
async def test_a_truncated_stream_is_an_error_and_no_answer(clean):
    """The SDK alone takes a stream without its end mark for a short answer; here it is an error with its cause."""
    async with opened(a={"faults": always({"kind": "truncate", "events": 4, "clean": clean}), "token_interval": 0.01}) as bench:
        with pytest.raises((anthropic.APIError, httpx2.RemoteProtocolError)) as caught:
            await message_events(bench.sdk)
        assert bench.in_flight == 0
        assert bench.outcomes() == [("a", Truncated)]
        causes, error = [], caught.value
        while error is not None:
            causes.append(error)
            error = error.__cause__
        assert any(isinstance(cause, StreamTruncated) and cause.received > 0 for cause in causes)


@pytest.mark.parametrize("ask", ASKS)
async def test_usage_reaches_the_ledger(ask):
    """Input and output tokens each replace what was reserved of their own limit."""
    rate = {"amount": 100_000, "per": 86_400.0}
    async with opened(limits={"input_tokens": rate, "output_tokens": rate}, a={"headers": "none"}) as bench:
        await ask(bench.sdk)
        received = bench.backends["a"].record[0]
        views = bench.balancer.statistics().accounts["a"].dimensions
        used = {view.dimension: view.used(trio.current_time()) for view in views}
        assert used == pytest.approx({"input_tokens": received.input_tokens, "output_tokens": 6}, abs=0.5)


async def test_mixed_traffic_over_unlike_accounts():
    """Sixty calls of all kinds at once over accounts that refuse now and then: all end, nothing is left."""
    moody = {
        "faults": [{"probability": 0.1, "kind": "status", "status": 529}, {"probability": 0.1, "kind": "status", "status": 500}]
    }
    async with opened(a={**moody, "latency": 0.005}, b={"latency": 0.01}) as bench:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(ASKS[number % 3], bench.sdk)
        assert (bench.sent, bench.in_flight) == (60, 0)
        assert sum(bench.received.values()) == sum(len(decision.attempts) for decision in bench.decisions)
