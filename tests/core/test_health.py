"""Ejection by consecutive faults, one probe, growing and decaying ejections."""

from __future__ import annotations

import math
import random

import pytest

from balancer.core.health import Health, HealthSettings, HealthState
from balancer.errors import ConfigError

PLAIN = HealthSettings(jitter_ratio=0.0)


def fail(health, now, *, times=1, probe=False, seed=0):
    for _ in range(times):
        health.failed(now, "server error", random.Random(seed), probe=probe)


def ejected_for(health, now):
    """Seconds of the ejection that five faults bring now."""
    fail(health, now, times=5)
    assert health.state is Health.EJECTED
    return health.ejected_until - now


def probed(health, *, served):
    """Ends the ejection with a probe; returns when."""
    now = health.ejected_until
    assert health.begin(now)
    if served:
        health.succeeded(now, probe=True)
    else:
        fail(health, now, probe=True)
    return now


def test_consecutive_faults_eject():
    """Four are not enough, a served attempt starts the count again, the fifth in a row ejects."""
    health = HealthState(PLAIN)
    fail(health, 0.0, times=4)
    health.succeeded(0.0, probe=False)
    fail(health, 1.0, times=4)
    assert health.state is Health.HEALTHY
    fail(health, 2.0)
    assert (health.state, health.ejected_until, health.reason) == (Health.EJECTED, 32.0, "server error")


def test_one_probe_once_the_ejection_is_over():
    """No attempt before, one after, and no second beside it."""
    health = HealthState(PLAIN)
    fail(health, 0.0, times=5)
    assert not health.due(29.999)
    assert not health.begin(29.999)
    assert health.due(30.0)
    assert health.begin(30.0)
    assert health.state is Health.PROBING
    assert not health.due(1000.0)
    assert not health.begin(1000.0)


def test_a_served_probe_heals_and_a_failed_one_ejects_longer():
    """One fault of a probe is enough."""
    health = HealthState(PLAIN)
    fail(health, 0.0, times=5)
    probed(health, served=False)
    assert (health.state, health.ejected_until) == (Health.EJECTED, 90.0)
    probed(health, served=True)
    assert (health.state, health.reason) == (Health.HEALTHY, "")
    fail(health, 91.0, times=4)
    assert health.state is Health.HEALTHY


def test_a_withdrawn_probe_gives_its_place_back():
    """The next attempt is the probe, at once."""
    health = HealthState(PLAIN)
    fail(health, 0.0, times=5)
    assert health.begin(30.0)
    health.withdrawn(probe=True)
    assert health.due(30.0)
    health.withdrawn(probe=False)
    assert health.begin(30.5)


def test_late_ends_of_ordinary_attempts_do_not_move_an_ejection():
    """What began before the ejection neither heals nor ejects again."""
    health = HealthState(PLAIN)
    fail(health, 0.0, times=5)
    health.succeeded(1.0, probe=False)
    fail(health, 2.0, times=9)
    assert (health.state, health.ejected_until) == (Health.EJECTED, 30.0)
    assert health.begin(30.0)
    health.succeeded(31.0, probe=False)
    fail(health, 31.0, times=9)
    health.withdrawn(probe=False)
    assert health.state is Health.PROBING


def test_ejections_grow_to_their_cap():
    """30 s times the times ejected, at most 300 s."""
    health = HealthState(PLAIN)
    lengths = [ejected_for(health, 0.0)]
    for _ in range(11):
        now = probed(health, served=False)
        lengths.append(health.ejected_until - now)
    assert lengths == pytest.approx([*range(30, 301, 30), 300, 300])


def test_the_multiplier_falls_by_one_per_healthy_interval():
    """After three ejections and one healthy minute the next is the second one again."""
    health = HealthState(PLAIN)
    ejected_for(health, 0.0)
    probed(health, served=False)
    probed(health, served=False)
    healed_at = probed(health, served=True)
    assert ejected_for(health, healed_at + 61.0) == pytest.approx(60.0)


def test_a_long_outage_is_forgotten_as_fast_as_a_capped_one():
    """The multiplier stops where the cap is reached: ten healthy intervals forget a whole day."""
    health = HealthState(PLAIN)
    ejected_for(health, 0.0)
    for _ in range(300):
        probed(health, served=False)
    healed_at = probed(health, served=True)
    assert ejected_for(health, healed_at + 301.0) == pytest.approx(30.0)


def test_jitter_only_lengthens():
    """An ejection lasts what it must, and up to a fifth more."""
    lengths = []
    for seed in range(50):
        health = HealthState(HealthSettings())
        fail(health, 0.0, times=5, seed=seed)
        lengths.append(health.ejected_until)
    assert 30.0 <= min(lengths) < 31.0
    assert 35.0 < max(lengths) <= 36.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_faults": 0},
        {"consecutive_faults": 2.0},
        {"consecutive_faults": True},
        {"ejection_time": 0},
        {"ejection_time": math.nan},
        {"max_ejection_time": math.inf},
        {"jitter_ratio": 1.5},
        {"jitter_ratio": "0.1"},
    ],
)
def test_settings_out_of_range(wrong):
    """A wrong setting is refused by its name."""
    with pytest.raises(ConfigError) as caught:
        HealthSettings(**wrong)
    assert [fault.path for fault in caught.value.faults] == list(wrong)
