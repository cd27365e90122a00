"""The virtual counters: what returns starts where the others are, and what is idle is forgotten."""

from __future__ import annotations

import math

import pytest

from balancer.core import tenants as module
from balancer.core.call import Demand, Usage
from balancer.core.tenants import Tenants, TenantSettings, amount_of
from balancer.errors import ConfigError


@pytest.mark.parametrize(
    ("taken", "amount"),
    [
        (Demand(), 1.0),
        (Demand(requests=0), 1.0),
        (Demand(requests=3), 3.0),
        (Demand(input_tokens=20, output_tokens=5), 25.0),
        (Usage(input_tokens=7, cached_tokens=7), 7.0),
        (Usage(requests=0), 1.0),
    ],
)
def test_what_an_attempt_counts(taken, amount):
    """Its tokens; its requests where it takes none; at least 1."""
    assert amount_of(taken) == amount


def test_a_tenant_that_returns_starts_at_the_least():
    """Idleness earns no credit, and leaving for a moment loses no debt."""
    tenants = Tenants()
    first = tenants.enter("a", 0.0)
    first.counter = 50.0
    tenants.leave(first)
    assert tenants.enter("a", 30.0) is first
    assert first.counter == 50.0
    tenants.leave(first)
    assert tenants.enter("a", 70.0).counter == 70.0
    assert tenants.enter("b", 70.0).counter == 70.0


def test_who_waits_already_is_not_lifted():
    """A second call of a tenant that waits changes nothing of what it is owed."""
    tenants = Tenants()
    tenants.enter("a", 0.0)
    assert tenants.enter("a", 30.0).counter == 0.0
    assert tenants.enter("a", 30.0).waiting == 3


def test_idle_tenants_are_forgotten(monkeypatch):
    """Unknown names take bounded memory: the longest idle goes first; when nobody waits, all."""
    monkeypatch.setattr(module, "MOST_IDLE", 3)
    tenants = Tenants()
    stays = tenants.enter("stays", 0.0)
    for number in range(10):
        tenants.leave(tenants.enter(f"{number}", 1.0))
        tenants.passing(f"p{number}", lambda: 1.0)
    assert len(tenants) == 4
    assert tenants.known("stays") is stays
    assert tenants.known("p9") is not None
    assert tenants.known("0") is None
    tenants.leave(tenants.enter("p8", 2.0))
    tenants.leave(tenants.enter("new", 2.0))
    assert tenants.known("p8") is not None
    tenants.leave(stays)
    tenants.forget()
    assert len(tenants) == 0


def test_settings():
    """Listed tenants have their own weight and waiting room; the others weight 1 and that of any tenant."""
    listed = [TenantSettings("a", weight=2.0), TenantSettings("b", max_waiting=7), TenantSettings("c", max_waiting=0)]
    tenants = Tenants(listed, max_waiting=5)
    found = {name: tenants.enter(name, 0.0) for name in "abcd"}
    assert {name: (one.weight, one.max_waiting) for name, one in found.items()} == {
        "a": (2.0, 5.0), "b": (1.0, 7.0), "c": (1.0, 0.0), "d": (1.0, 5.0),
    }  # fmt: skip
    tenants.configure([TenantSettings("d", weight=0.5)], None)
    assert [(one.weight, one.max_waiting) for one in found.values()] == [(1.0, math.inf)] * 3 + [(0.5, math.inf)]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"name": "a", "weight": 0.0}, "weight"),
        ({"name": "a", "weight": math.inf}, "weight"),
        ({"name": "a", "weight": True}, "weight"),
        ({"name": "a", "max_waiting": -1}, "max_waiting"),
        ({"name": "a", "max_waiting": 1.5}, "max_waiting"),
        ({"name": 3}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a" * 201}, "name"),
    ],
)
def test_wrong_settings_are_named(given, path):
    """One fault with the field's name."""
    with pytest.raises(ConfigError) as caught:
        TenantSettings(**given)
    assert [fault.path for fault in caught.value.faults] == [path]
