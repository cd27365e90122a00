"""What a simulation showed, judged by its backends' records: refusals, overruns, use while calls wait, and references to hold it to.

Only instants and amounts that backends recorded, and when calls came and were placed, enter: nothing of the balancer's own counts.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from balancer.testing.simulation import Report, SimulatedCall, SimulatedLimit
from balancer.testing.simulation.limits import make_counter

LOOKED_AT = 64
"""Waiting calls behind the first that a packer may look at."""


def figures(report: Report, from_at: float) -> dict[str, float]:
    """The figures that every simulation has.

    Args:
        report: the simulation.
        from_at: shares are of what happened from this instant on; counts are of all of it.

    Returns:
        `refusals`; `refused_ratio`, of attempts; `overruns`; `used`, by the account that used its quota least, of its fullest
        limit, by model where limits are by model; `waiting_ratio`, of the time, in which calls waited; `unexpected`, calls that
        ended neither served nor with the simulation nor at their deadline.
    """
    attempts = sum(seen.at >= from_at for seen in report.attempts())
    ends = Counter(call.outcome for call in report.calls)
    return {
        "refusals": len(report.refusals()),
        "refused_ratio": len(report.refusals(from_at=from_at)) / max(1, attempts),
        "overruns": len(report.overruns()),
        "used": min((used(report, name, from_at) for name in report.backends), default=math.nan),
        "waiting_ratio": waiting_ratio(report.calls, from_at, report.for_seconds),
        "unexpected": ends.total() - ends["served"] - ends["unfinished"] - ends["expired"],
    }


def used(report: Report, account: str, from_at: float) -> float:
    """Share of the account's fullest limit that was used from `from_at` on; of several models, that of the least used one."""
    backend = report.backends[account]
    fullest: dict[str | None, float] = {}
    for limit in backend.limits:
        if limit.dimension != "concurrency":
            ratio = backend.used_ratio(limit, from_at, report.for_seconds)
            fullest[limit.model] = max(fullest.get(limit.model, 0.0), ratio)
    return min(fullest.values(), default=math.nan)


def refusals_each(report: Report) -> int:
    """Refusals by the account, dimension and, where limits are by model, model that had most of them."""
    refused = [(seen.account, seen.refused_by) for seen in report.refusals() if seen.refused_by is not None]
    by = Counter((account, limit.dimension, limit.model) for account, limit in refused)
    return max(by.values(), default=0)


def waiting_ratio(calls: Iterable[SimulatedCall], from_at: float, until: float) -> float:
    """Share of [from_at, until) in which at least one call had come and was not placed yet."""
    waited, reached = 0.0, from_at
    for begin, end in sorted((call.arrived_at, call.arrived_at + call.waited_for) for call in calls):
        begin, end = max(begin, reached), min(end, until)
        if end > begin:
            waited += end - begin
            reached = end
    return waited / (until - from_at)


def packed_in_order(arrivals: Iterable[tuple[float, float]], limit: SimulatedLimit, until: float) -> list[tuple[float, float]]:
    """What a packer admits that counts as exactly as the provider, knows every amount, and works without latency.

    It takes calls in their order; one behind the first may go before it where that does not make the first wait longer, and only
    of the next `LOOKED_AT`. Nothing that keeps this order can be expected to use more.

    Args:
        arrivals: instants and amounts, in order.
        limit: of one account.
        until: when it ends.

    Returns:
        Instants and amounts of what it admitted.
    """
    counter, coming = make_counter(limit), sorted(arrivals, key=lambda each: each[0], reverse=True)
    waiting: list[float] = []
    admitted: list[tuple[float, float]] = []
    now = 0.0
    while now < until:
        while coming and coming[-1][0] <= now:
            waiting.append(coming.pop()[1])
        place = 0
        while place < min(len(waiting), 1 + LOOKED_AT):
            amount = waiting[place]
            if counter.wait_for(amount, now) > 0.0:
                place += 1
                continue
            first_waits = counter.wait_for(waiting[0], now)
            taken = counter.take(amount, now)
            if place and counter.wait_for(waiting[0], now) > first_waits + 1e-9:
                counter.correct(taken, 0.0, now)
                place += 1
                continue
            admitted.append((now, amount))
            del waiting[place]
        steps = [wait for amount in waiting[: 1 + LOOKED_AT] if 1e-9 < (wait := counter.wait_for(amount, now)) < math.inf]
        now = min(now + min(steps, default=math.inf), coming[-1][0] if coming else math.inf)
    return admitted


def largest_lead(calls: Sequence[SimulatedCall], tenants: tuple[str, str], amounts: Mapping[int, float]) -> float:
    """The most by which two tenants differ in what they were given, over any span in which both wait.

    Args:
        calls: all of them.
        tenants: the two.
        amounts: number of a call -> what it was given.
    """
    until = min(max(_placed_at(call) for call in calls if call.tenant == tenant) for tenant in tenants)
    from_at = max(min(call.arrived_at for call in calls if call.tenant == tenant) for tenant in tenants)
    given: dict[float, float] = {}
    for call in calls:
        at = _placed_at(call)
        if from_at < at < until and call.tenant in tenants:
            given[at] = given.get(at, 0.0) + amounts[call.number] * (1 if call.tenant == tenants[0] else -1)
    leads = list(itertools.accumulate((given[at] for at in sorted(given)), initial=0.0))
    return max(leads) - min(leads)


def _placed_at(call: SimulatedCall) -> float:
    return math.inf if call.placed_at is None else call.placed_at
