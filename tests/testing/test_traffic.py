"""Open-loop traffic and what a client got from it."""

from __future__ import annotations

import random

import pytest
import trio

from balancer.testing.traffic import Arrival, Kind, Tally, draw_arrivals, offer, percentile

KINDS = [Kind("chat", "m"), Kind("messages", "n")]


def test_the_seed_decides_the_traffic():
    """Two clients can be offered the very same calls."""
    assert draw_arrivals(50, KINDS, 20.0, random.Random(1)) == draw_arrivals(50, KINDS, 20.0, random.Random(1))
    assert draw_arrivals(50, KINDS, 20.0, random.Random(1)) != draw_arrivals(50, KINDS, 20.0, random.Random(2))


def test_the_rate_holds_on_average_and_bursts():
    """Twenty thousand calls take as long as the rate says; one second in five has two and a half times as many."""
    arrivals = draw_arrivals(20_000, KINDS, 20.0, random.Random(1))
    assert arrivals[-1].at == pytest.approx(1000.0, rel=0.05)
    bursting = sum(arrival.at % 5.0 >= 4.0 for arrival in arrivals)
    assert bursting / 20_000 == pytest.approx(0.5, abs=0.03)


async def test_arrivals_wait_for_no_answer(autojump_clock):
    """A client that hangs is offered the next call all the same; what it leaves undone has failed after `patience`."""
    tally = Tally()
    begun: list[float] = []

    async def serve(arrival: Arrival) -> str | None:
        begun.append(trio.current_time())
        if arrival.at == 0.0:
            await trio.sleep_forever()
        await trio.sleep(0.5)
        return "a"

    arrivals = [Arrival(float(at), KINDS[0], 1, 1) for at in range(3)]
    started_at = trio.current_time()
    await offer(arrivals, serve, tally, patience=8.0)
    assert [at - started_at for at in begun] == [0.0, 1.0, 2.0]
    assert (tally.arrived, tally.served, tally.failed) == (3, 2, 1)
    assert tally.latencies == {"a": [0.5, 0.5]}
    assert trio.current_time() - started_at == 8.0


def test_percentiles_are_values_that_occurred():
    """The nearest rank; none of nothing."""
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, ratio) for ratio in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.5) is None
