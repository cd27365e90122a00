"""A simulated backend: one account's provider, which counts its limits in its own way and keeps a record of every attempt.

Its latency is `trio.sleep`, so virtual time runs through it. Answers are headers and bodies as the provider writes them, read
by the real parsers: tests judge the balancer by what the backend recorded, not by what the balancer counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import httpx
import msgspec
import trio

from balancer.actors.lease import Lease
from balancer.core.call import Call, Demand, Usage
from balancer.providers.provider import get_provider
from balancer.providers.values import Headers
from balancer.testing.mock.counters import Counter, Taken
from balancer.testing.mock.latency import Constant, Latency, parse_latency
from balancer.testing.mock.signals import error_body
from balancer.testing.simulation.arrivals import as_demanded
from balancer.testing.simulation.limits import Overrun, SimulatedLimit, find_overruns, make_counter
from balancer.testing.simulation.signals import LimitState, Speaks, limit_headers, refusal

OK = 200
REFUSED = 429
REFUSED_AFTER = 0.05
"""Seconds from the counting to a refusal, at most: it costs its provider no work."""


@attrs.frozen
class Outage:
    """A time in which a backend fails: it answers an error and counts nothing.

    Args:
        from_at, until: trio times of its begin and end.
        status: of its answers.
        ratio: share of the attempts that fail, 0 to 1.
    """

    from_at: float
    until: float
    status: int = 500
    ratio: float = 1.0


@attrs.frozen
class SimulatedAttempt:
    """One attempt as its backend saw it.

    Attributes:
        number: of its call in the simulation, from 0; -1 outside of one.
        account: on which account.
        model: the account's own model name.
        tenant: of its call.
        demand: what was demanded.
        truth: what it really takes.
        at: trio time at which it was counted; `nan` until then.
        refused_by: the limit that refused it; `None` if it was admitted or met an outage.
        status: of the answer; 0 until it was counted.
        answered_at: trio time of the answer; `None` while there is none, which is for ever if it was cancelled.
        ended_at: trio time of its end, by an answer or because who asked hung up; `None` until then.
    """

    number: int
    account: str
    model: str | None
    tenant: str
    demand: Demand
    truth: Usage
    at: float = math.nan
    refused_by: SimulatedLimit | None = None
    status: int = 0
    answered_at: float | None = None
    ended_at: float | None = None

    @property
    def admitted(self) -> bool:
        """Whether its limits have counted it and it was worked on."""
        return self.status == OK


@attrs.frozen
class Answer:
    """What a backend says: `headers` and `body` as its provider writes them; of a success the body is empty."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: Mapping[str, Any]


@attrs.define(eq=False)
class _Counted:
    """What became of a request: what each limit has counted, or the limit that refused, its room, the amount and the wait."""

    status: int
    charges: Sequence[tuple[SimulatedLimit, Counter, Taken]] = ()
    refused: tuple[SimulatedLimit, float, float, float] | None = None
    place: int = 0


class SimulatedRefusal(Exception):
    """An answer that is no success; the balancer reads its `response` as it reads any other's."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


@attrs.define(eq=False)
class SimulatedBackend:
    """The provider of one account. `attempt` is for `BalancerNursery.run`.

    Args:
        limits: what it counts; the first without room is what a refusal names.
        latency: seconds from the send to the answer: a number, or one of `balancer.testing.mock.latency`.
        jitter: seconds; the instant of counting lies uniformly in [0, jitter] after the send, and never after the answer.
        headers: how its answers show its limits: `"honest"`, `"absent"`, `"rounded"` or `"lying"`; with `"absent"` the text of a
            refusal names the dimension, but neither the limit nor what is used.
        provider: whose header names and formats it uses.
        retry_after: whether a refusal says when to come back.
        names_dimension: whether its text says over what it is.
        truth: what a call really takes, where this backend alone knows; `None`: what was drawn with the call, or its demand.
        outages: when it fails.
        rng: of its latencies, instants and lies; `simulate` gives each account one of its own.

    Attributes:
        record: every attempt, in the order of counting.
    """

    limits: Sequence[SimulatedLimit] = ()
    latency: Latency = attrs.field(default=Constant(1.0), converter=parse_latency)
    jitter: float = 0.02
    headers: Literal["honest", "absent", "rounded", "lying"] = "honest"
    provider: Speaks = "openai"
    retry_after: bool = True
    names_dimension: bool = True
    truth: Callable[[Call], Usage] | None = None
    outages: Sequence[Outage] = ()
    rng: random.Random = attrs.field(factory=lambda: random.Random(0))
    record: list[SimulatedAttempt] = attrs.field(factory=list[SimulatedAttempt], init=False)
    _counters: list[tuple[SimulatedLimit, Counter]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._counters = [(limit, make_counter(limit)) for limit in self.limits]

    async def attempt(self, lease: Lease, number: int = -1, truth: Usage | None = None) -> Usage:
        """One attempt under a lease. Returns what it took.

        Args:
            lease: given by the balancer.
            number: of the call, for the record.
            truth: what the call really takes, if that was drawn with it.

        Raises:
            SimulatedRefusal: the answer is no success.
        """
        call = lease.call
        if self.truth is not None:
            truth = self.truth(call)
        elif truth is None:
            truth = as_demanded(call.demand)
        sent = SimulatedAttempt(number, lease.account.name, lease.model, call.tenant, call.demand, truth)
        answer = await self.answer(sent)
        if answer.status != OK:
            raise SimulatedRefusal(
                httpx.Response(answer.status, headers=answer.headers, content=msgspec.json.encode(answer.body))
            )
        lease.observe(get_provider(lease.account.provider).limits_seen(Headers(answer.headers)))
        lease.report(usage=truth)
        return truth

    async def answer(self, sent: SimulatedAttempt) -> Answer:
        """Count one request and answer it. Who hangs up before the counting is counted all the same."""
        sent_at, latency = trio.current_time(), self.latency.draw(self.rng)
        counted_after = min(self.rng.uniform(0.0, self.jitter), latency)
        counted: _Counted | None = None
        answered_at = None
        try:
            await trio.sleep(counted_after)
            counted = self._count(sent)
            await trio.sleep_until(sent_at + (latency if counted.status == OK else min(latency, counted_after + REFUSED_AFTER)))
            answered_at = trio.current_time()
        finally:
            counted = counted or self._count(sent)
            self._end(sent, counted, answered_at)
        return self._say(sent, counted)

    def _count(self, sent: SimulatedAttempt) -> _Counted:
        now = trio.current_time()
        counted = self._admit(sent, now)
        counted.place = len(self.record)
        refused_by = counted.refused[0] if counted.refused else None
        self.record.append(attrs.evolve(sent, at=now, refused_by=refused_by, status=counted.status))
        return counted

    def _admit(self, sent: SimulatedAttempt, now: float) -> _Counted:
        for outage in self.outages:
            if outage.from_at <= now < outage.until and self.rng.random() < outage.ratio:
                return _Counted(outage.status)
        counters = self._counters_of(sent.model)
        refused = None
        for limit, counter in counters:
            amount = limit.needed(sent.demand, sent.truth)
            if (wait := counter.wait_for(amount, now)) > 0.0:
                refused = (limit, counter.capacity - counter.used(now), amount, wait)
                break
        charged = [each for each in counters if refused is None or each[0].refused_charged]
        charges = [
            (limit, counter, counter.take(limit.at_admission(sent.demand, sent.truth), now)) for limit, counter in charged
        ]
        return _Counted(OK if refused is None else REFUSED, charges, refused)

    def _end(self, sent: SimulatedAttempt, counted: _Counted, answered_at: float | None) -> None:
        now = trio.current_time()
        for limit, counter, taken in counted.charges:
            amount = 0.0 if limit.dimension == "concurrency" else limit.in_the_end(sent.demand, sent.truth)
            if limit.counts_late:
                counter.take(amount, now)  # not at the instant of the admission: then it was not there
            elif amount != taken.amount:
                counter.correct(taken, amount, now)
        self.record[counted.place] = attrs.evolve(self.record[counted.place], answered_at=answered_at, ended_at=now)

    def _counters_of(self, model: str | None) -> list[tuple[SimulatedLimit, Counter]]:
        return [each for each in self._counters if each[0].counts(model)]

    def _say(self, sent: SimulatedAttempt, counted: _Counted) -> Answer:
        now = trio.current_time()
        counters = self._counters_of(sent.model)
        states = [
            LimitState(limit, counter.capacity - counter.used(now), counter.reset_after(now)) for limit, counter in counters
        ]
        headers = limit_headers(self.provider, self.headers, states, now, self.rng)
        if counted.status == OK:
            return Answer(OK, headers, {})
        if counted.refused is None:
            return Answer(counted.status, headers, error_body(self.provider, counted.status))
        more, body = refusal(self.provider, *counted.refused, tells_wait=self.retry_after, numbers=self.headers != "absent")
        if not self.names_dimension:
            body = error_body(self.provider, counted.status)
        return Answer(counted.status, headers + more, body)

    # -- judged by -----------------------------------------------------------------------------------------------------------

    def overruns(self, limit: SimulatedLimit) -> list[Overrun]:
        """Spans at whose end more was admitted than `limit` allows, by the record. Of rates only.

        A request is judged by what it needed at its admission, beside what others were counted as at theirs. Corrections are not
        looked at. Where the limit counts late, others are what they have produced by then, which is not judged itself.
        """
        admitted, late = self._admitted(limit), limit.counts_late
        needs = [(seen.at, limit.needed(seen.demand, seen.truth)) for seen in admitted]
        ends = [(seen.ended_at, limit.in_the_end(seen.demand, seen.truth)) for seen in admitted if seen.ended_at is not None]
        return find_overruns(limit, needs, sorted(ends) if late else ())

    def used_ratio(self, limit: SimulatedLimit, from_at: float, until: float) -> float:
        """Share of what `limit` allows in [from_at, until) that was admitted then, as it was counted in the end.

        A bucket may show more than 1: what it held at `from_at` comes on top of what flows in.
        """
        used = sum(limit.in_the_end(seen.demand, seen.truth) for seen in self._admitted(limit) if from_at <= seen.at < until)
        return used / (limit.amount * (until - from_at) / limit.per)

    def _admitted(self, limit: SimulatedLimit) -> list[SimulatedAttempt]:
        return [seen for seen in self.record if seen.admitted and limit.counts(seen.model)]
