"""Simulated backends: they refuse exactly when they should, and their headers, read by the real parsers, are as honest as asked."""

from __future__ import annotations

import math

import attrs
import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.core.call import Demand, Usage
from balancer.core.outcome import Faulted, RateLimited, Served, TooLarge
from balancer.engine.failures import evidence_of
from balancer.providers.provider import get_provider
from balancer.providers.values import Headers
from balancer.testing import run_seeded
from balancer.testing.mock.latency import Uniform
from balancer.testing.simulation import (
    Outage,
    SimulatedAttempt,
    SimulatedBackend,
    SimulatedLimit,
    SimulatedRefusal,
    SimulatedTransport,
)

RPM = SimulatedLimit("requests", 60, 60.0)


def asking(tokens=0, truth=None, **more):
    demand = Demand(tokens, **more)
    return SimulatedAttempt(-1, "a", "m", "", demand, Usage(tokens, demand.output_tokens) if truth is None else truth)


def seen_in(answer, provider="openai"):
    return {limit.dimension: limit for limit in get_provider(provider).limits_seen(Headers(answer.headers))}


def evidence(answer, provider="openai", now=0.0):
    response = httpx.Response(answer.status, headers=answer.headers, json=dict(answer.body))
    return evidence_of(SimulatedRefusal(response), get_provider(provider), now)


async def send(backend, at, sent):
    """The answer to what is sent at `at`."""
    await trio.sleep_until(at)
    return await backend.answer(sent)


async def test_a_naive_client_is_refused_exactly_when_it_should_be(autojump_clock):
    """Twice the quota of a bucket: the burst, then every second one; of a window: all of a period, then none of it."""
    for window, expected in (("bucket", [True] * 7 + [False, True] * 11 + [False]), ("sliding", [True] * 4 + [False] * 4)):
        begin = trio.current_time()
        backend = SimulatedBackend([SimulatedLimit("requests", 4, 8.0, window)], latency=0.5, jitter=0.0)
        async with trio.open_nursery() as nursery:
            for number in range(len(expected)):
                nursery.start_soon(send, backend, begin + number, asking())
        assert [seen.admitted for seen in backend.record] == expected
        assert [seen.at - begin for seen in backend.record] == pytest.approx(range(len(expected)))
        assert backend.overruns(backend.limits[0]) == []


async def test_it_counts_between_the_send_and_the_answer(autojump_clock):
    """At an instant of [0, jitter] after the send; the answer comes when its latency has passed."""
    backend = SimulatedBackend([RPM], latency=Uniform(0.01, 0.3), jitter=0.02)
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(send, backend, begin + number, asking())
    delays = [seen.at - begin - number for number, seen in enumerate(backend.record)]
    assert 0.0 <= min(delays) < 0.002
    assert 0.017 < max(delays) <= 0.02 + 1e-9
    assert all(0.009 < seen.answered_at - begin - number <= 0.3 for number, seen in enumerate(backend.record))
    assert all(seen.at <= seen.answered_at for seen in backend.record)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("window", ["bucket", "sliding", "fixed"])
@settings(max_examples=25, deadline=None)
@given(gaps=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=12), burst=st.sampled_from([1, 4, 10]))
def test_honest_headers_are_true(provider, window, gaps, burst):
    """As many more fit as remain and not one more; and after a bucket's reset a whole burst does."""
    limit = SimulatedLimit("requests", 10, 20.0, window, burst)

    async def main():
        backend = SimulatedBackend([limit], latency=0.0, jitter=0.0, provider=provider)
        for gap in gaps:
            await trio.sleep(gap)
            answer = await backend.answer(asking())
            await trio.sleep_until(trio.current_time())
        if answer.status == 200:
            shown = seen_in(answer, provider)["requests"]
            assert shown.limit == 10
            more = [(await backend.answer(asking())).status for _ in range(int(shown.remaining) + 1)]
            assert more == [200] * int(shown.remaining) + [429]

    async def reset():
        backend = SimulatedBackend([limit], latency=0.0, jitter=0.0, provider=provider)
        for gap in gaps:
            await trio.sleep(gap)
            answer = await backend.answer(asking())
        await trio.sleep(seen_in(answer, provider)["requests"].reset_after)
        again = await backend.answer(asking())
        assert again.status == 200
        if window == "bucket":
            assert seen_in(again, provider)["requests"].remaining == burst - 1

    run_seeded(main, 1)
    run_seeded(reset, 1)


async def test_headers_may_be_absent_rounded_or_lie(autojump_clock):
    """Each in its own way, and never what a parser fails on."""
    limits = [RPM, SimulatedLimit("tokens", 30_000, 60.0)]

    def backend(style, provider="openai"):
        return SimulatedBackend(limits, latency=0.0, jitter=0.0, headers=style, provider=provider)

    assert seen_in(await backend("absent").answer(asking(1))) == {}
    rounded = seen_in(await backend("rounded", "anthropic").answer(asking(1400)), "anthropic")
    assert (rounded["tokens"].remaining, rounded["requests"].remaining) == (29_000, 59)
    assert rounded["tokens"].reset_after == 3
    liar, remaining = backend("lying"), set()
    for _ in range(50):
        await trio.sleep(1.0)
        remaining.add(seen_in(await liar.answer(asking()))["requests"].remaining)
    assert remaining == {None, 60, 180}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("style", ["honest", "absent"])
async def test_a_refusal_is_read_as_one(provider, tells, style, autojump_clock):
    """The judge sees the dimension, and when to come back if the answer says so; what never fits is too large."""
    limits = [RPM, SimulatedLimit("tokens", 6000, 60.0)]
    backend = SimulatedBackend(limits, latency=0.0, jitter=0.0, headers=style, provider=provider, retry_after=tells)
    await backend.answer(asking(5000))
    answer = await backend.answer(asking(2000))
    assert backend.record[-1].refused_by is limits[1]
    outcome = evidence(answer, provider, now=100.0).outcome
    assert isinstance(outcome, RateLimited)
    assert outcome.dimension == "tokens"
    if tells:
        assert 110.0 <= outcome.until <= 111.0
    elif style == "absent":
        assert outcome.until is None
    if provider == "openai":
        assert isinstance(evidence(await backend.answer(asking(7000)), provider).outcome, TooLarge)


async def test_refused_calls_are_charged_where_they_are(autojump_clock):
    """Blind retries then keep the window full for ever; else it frees itself."""
    for charged, expected in ((False, 200), (True, 429)):
        limit = SimulatedLimit("requests", 2, 10.0, "sliding", refused_charged=charged)
        backend, begin = SimulatedBackend([limit], latency=0.0, jitter=0.0), trio.current_time()
        statuses = [(await send(backend, begin + second, asking())).status for second in range(11)]
        assert statuses == [200, 200] + [429] * 8 + [expected]


async def test_a_correction_comes_with_the_answer(autojump_clock):
    """The demand until then, the truth from then on; produced tokens only then."""
    for charged, before, after in (("start", 3000, 3000), ("adjusted", 1000, 3000), ("produced", 0, 3000)):
        limit = SimulatedLimit("tokens", 10_000, 600.0, "sliding", charged=charged)
        backend = SimulatedBackend([limit], latency=10.0, jitter=0.0)
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.answer, asking(1000, Usage(3000)))
            for at, used in ((5.0, before), (11.0, after)):
                await trio.sleep_until(begin + at)
                assert backend._counters[0][1].used(trio.current_time()) == used
        assert backend.used_ratio(limit, begin, begin + 600.0) == pytest.approx(0.3)


@pytest.mark.parametrize("latency", [8.0, 12.0])
async def test_what_is_produced_counts_for_a_period_from_its_answer(latency, autojump_clock):
    """Also where a period has passed since its admission; while it leaves no room nothing is admitted."""
    limit = SimulatedLimit("output_tokens", 100, 10.0, "sliding", charged="produced")
    backend, begin = SimulatedBackend([limit], latency=latency, jitter=0.0), trio.current_time()
    expected = {0.0: True, latency / 2: True, latency + 0.5: False, 1.5 * latency + 9.9: False, 1.5 * latency + 10.1: True}
    async with trio.open_nursery() as nursery:
        for after in expected:
            nursery.start_soon(send, backend, begin + after, asking(1, output_tokens=100))
    assert [seen.admitted for seen in backend.record] == list(expected.values())
    assert backend.overruns(limit) == []


async def test_who_is_let_in_while_too_much_has_been_produced_is_an_overrun(autojump_clock):
    """Judged by the record, also of those who hung up; that calls which run at once produce more than the limit is none."""
    limit = SimulatedLimit("output_tokens", 100, 10.0, "sliding", charged="produced")
    backend, begin = SimulatedBackend([], latency=3.0, jitter=0.0), trio.current_time()

    async def hang_up():
        with trio.move_on_after(2.0):
            await backend.answer(asking(1, output_tokens=150))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up)
        for after in (1.0, 1.5, 2.5, 13.9, 14.6):
            nursery.start_soon(send, backend, begin + after, asking(1, output_tokens=60))
    found = [(over.until - begin, over.amount) for over in backend.overruns(limit)]
    assert found == [(pytest.approx(2.5), 151), (pytest.approx(13.9), 181)]


async def test_who_hangs_up_is_counted_all_the_same(autojump_clock):
    """Before the counting too; its slot is free again, and there was no answer."""
    limits = [RPM, SimulatedLimit("concurrency", 1)]
    backend = SimulatedBackend(limits, latency=5.0, jitter=1.0)
    for after in (0.0, 3.0):
        with trio.move_on_after(after):
            await backend.answer(asking())
    assert [(seen.admitted, seen.answered_at) for seen in backend.record] == [(True, None)] * 2
    assert (await backend.answer(asking())).status == 200


async def test_concurrency_refuses_what_is_too_many_at_once(autojump_clock):
    """And names no time to come back."""
    backend = SimulatedBackend([SimulatedLimit("concurrency", 2)], latency=1.0, jitter=0.0)
    answers = []

    async def one():
        answers.append(await backend.answer(asking()))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
    assert sorted(answer.status for answer in answers) == [200, 200, 429]
    refused = next(answer for answer in answers if answer.status == 429)
    assert evidence(refused).outcome.until is None


async def test_a_limit_may_be_of_one_model(autojump_clock):
    """Others neither count nor see it, and the record is judged by it alone."""
    limits = [SimulatedLimit("requests", 1, 60.0, model="m"), SimulatedLimit("requests", 2, 60.0)]
    backend = SimulatedBackend(limits, latency=0.0, jitter=0.0)
    other = attrs.evolve(asking(), model="n")
    answers = [await backend.answer(sent) for sent in (asking(), asking(), other, other)]
    assert [answer.status for answer in answers] == [200, 429, 200, 429]
    assert [seen.refused_by for seen in backend.record] == [None, limits[0], None, limits[1]]
    assert [seen_in(answer)["requests"].limit for answer in answers] == [1, 1, 2, 2]
    assert [backend.used_ratio(limit, 0.0, 60.0) for limit in limits] == [1.0, 1.0]


async def test_an_outage_answers_errors_and_counts_nothing(autojump_clock):
    """For its time, and in its share."""
    begin = trio.current_time()
    backend = SimulatedBackend([RPM], latency=0.0, jitter=0.0, outages=[Outage(begin + 1.0, begin + 2.0, 503, 0.5)])
    statuses = [(await backend.answer(asking())).status for _ in range(20)]
    await trio.sleep(1.0)
    during = [(await backend.answer(asking())) for _ in range(100)]
    assert statuses == [200] * 20
    failed = [answer for answer in during if answer.status == 503]
    assert 30 < len(failed) < 70
    assert not isinstance(evidence(failed[0]).outcome, Served | RateLimited)
    assert all(seen.refused_by is None for seen in backend.record if seen.status == 503)
    error = attrs.evolve(backend, outages=[Outage(0.0, math.inf)])
    assert isinstance(evidence(await error.answer(asking())).outcome, Faulted)


async def test_a_transport_counts_and_answers_in_the_dialect(autojump_clock):
    """Usage is the truth of the backend, refusals and bad requests are the provider's own."""
    limit = SimulatedLimit("tokens", 400, 60.0)
    backend = SimulatedBackend([limit], latency=1.0, truth=lambda call: Usage(2 * call.demand.input_tokens, 20))
    async with httpx.AsyncClient(transport=SimulatedTransport(backend, "a"), base_url="http://sim/v1") as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 50}
        answer = await client.post("/chat/completions", json=body)
        refused = await client.post("/chat/completions", json=body)
        bad = await client.post("/chat/completions", json={"model": "m", "max_tokens": -1})
    assert answer.json()["usage"]["prompt_tokens"] == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == "186"
    assert (refused.status_code, bad.status_code) == (429, 400)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert [(seen.account, seen.model, seen.demand.output_tokens) for seen in backend.record] == [("a", "m", 50)] * 2
