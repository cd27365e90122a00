"""The driver: one seed is one trace, in any process, and reports agree with the records they are made from."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from balancer import Demand
from balancer.testing.simulation import (
    Arrivals,
    CallClass,
    CallMix,
    Outage,
    SimulatedBackend,
    SimulatedLimit,
    backlog,
    constant,
    poisson,
    simulate,
)

SCENE = textwrap.dedent("""
    from balancer import Demand
    from balancer.testing.mock.latency import Lognormal
    from balancer.testing.simulation import *

    def scene(seed):
        config = {"balancer": {"max_waiting": 500}, "accounts": [
            {"name": name, "limits": {"requests_per_minute": 60, "tokens_per_minute": 30000}} for name in "ab"]}
        limits = [SimulatedLimit("requests", 60), SimulatedLimit("tokens", 30000, charged="adjusted")]
        backend = SimulatedBackend(limits, latency=Lognormal(1.0), headers="rounded", outages=[Outage(20.0, 25.0)])
        small = CallClass("small", Demand(100, 50), 3.0, off_by(log_uniform(0.5, 2.0)), tenant="s", deadline_after=20.0)
        large = CallClass("large", lambda rng: Demand(rng.randint(500, 2000)), tenant="l", priority=1, deadline_after=40.0)
        arrivals = [Arrivals(poisson(200.0), CallMix(small, large)), Arrivals(bursts(10, 15.0), small)]
        return simulate(config, {"a": backend, "b": backend}, arrivals, seed=seed, for_seconds=60.0)
""")
EXEC = {}
exec(SCENE, EXEC)  # the same text runs in another process
scene = EXEC["scene"]


def accounts(*names, **limits):
    return {"balancer": {"max_waiting": 100_000}, "accounts": [{"name": name, "limits": limits} for name in names]}


def test_one_seed_is_one_trace():
    """Twice in one process, with objects elsewhere in memory; another seed is another trace."""
    first = scene(1)
    again, other = scene(1), scene(2)
    assert first.trace == again.trace
    assert first.trace_hash == again.trace_hash != other.trace_hash
    assert len(first.calls) > 150


def test_one_seed_is_one_trace_in_any_process():
    """Whatever its hashes of texts are."""
    expected = scene(3).trace_hash
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", SCENE + "print(scene(3).trace_hash)"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == expected


def test_the_report_agrees_with_the_record():
    """Every arrival has one end, every served call one admitted attempt, and templates stay as they were."""
    report = scene(1)
    assert [call.number for call in report.calls] == list(range(len(report.calls)))
    assert sum(call.attempts for call in report.calls) == len(report.attempts())
    admitted = {seen.number for seen in report.attempts() if seen.admitted}
    assert {call.number for call in report.served()} <= admitted
    assert len(report.served(tenant="s")) + len(report.served(name="large")) == len(report.served())
    assert len(report.waits(tenant="l")) == len(report.served(tenant="l"))
    assert all(0.0 <= call.waited_for <= call.ended_at - call.arrived_at <= 40.0 + 1e-9 for call in report.calls)
    assert {call.outcome for call in report.calls} >= {"served", "unfinished"}
    assert report.statistics.totals.calls == len(report.calls)
    assert [event[0] for event in report.trace] == sorted(event[0] for event in report.trace)
    assert report.overruns() == []
    assert not report.refusals(from_at=60.0)


def test_a_deadline_ends_a_call():
    """Whether it waits or runs; what cannot be in time is refused by the balancer itself."""
    backend = SimulatedBackend([SimulatedLimit("requests", 60, burst=1)], latency=3.0)
    slow = CallClass("slow", deadline_after=2.0)
    report = simulate(
        accounts("a", requests_per_minute=60, burst=1), {"a": backend}, Arrivals(constant(120.0), slow), seed=1, for_seconds=20
    )
    outcomes = {call.outcome for call in report.calls}
    assert outcomes >= {"expired"}
    assert "served" not in outcomes
    assert all(call.ended_at - call.arrived_at <= 2.0 + 1e-9 for call in report.ended("expired"))


def test_accounts_and_backends_must_match():
    """A name that is in one only is a mistake."""
    arrivals = Arrivals(backlog(1), CallClass("x"))
    with pytest.raises(ValueError, match="b, c"):
        simulate(accounts("a", "b"), {"a": SimulatedBackend(), "c": SimulatedBackend()}, arrivals, seed=1, for_seconds=1)


def test_an_error_of_the_backend_is_the_call_s_outcome():
    """By its name, once the balancer has tried what it may."""
    backend = SimulatedBackend(latency=0.1, outages=[Outage(0.0, 100.0)])
    report = simulate(accounts("a"), {"a": backend}, Arrivals(backlog(1), CallClass("x")), seed=1, for_seconds=60)
    assert [call.outcome for call in report.calls] == ["AttemptsFailed"]
    assert report.calls[0].attempts == len(report.attempts("a")) > 1


@pytest.mark.parametrize(("window", "burst"), [("bucket", 1), ("bucket", 60), ("sliding", None)])
@pytest.mark.parametrize("seed", [1, 2])
def test_known_limits_are_never_overrun(window, burst, seed, record_property):
    """Two accounts of 60 requests per minute at three times that: nothing is refused, and the quota is used."""
    limits = {"requests_per_minute": 60, "window": window} | ({} if burst is None else {"burst": burst})
    backend = SimulatedBackend([SimulatedLimit("requests", 60, 60.0, window, burst)])
    report = simulate(
        accounts("a", "b", **limits),
        {"a": backend, "b": backend},
        Arrivals(poisson(360.0), CallMix(CallClass("x", Demand(), deadline_after=30.0))),
        seed=seed,
        for_seconds=240.0,
    )
    ratios = [report.used_ratio(name, "requests", 60.0) for name in "ab"]
    record_property("used_ratio", ratios)
    assert report.refusals() == []
    assert report.overruns() == []
    assert min(ratios) > 0.9
