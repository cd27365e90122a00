"""Quota that is shared: between tenants, models, accounts and days."""

from __future__ import annotations

import pytest

from benchmarks.scenarios import calendar, models, shared, tenants_share, tenants_wait


@pytest.mark.parametrize("seed", [1, 2])
def test_a_small_tenant_waits_as_if_it_had_half(seed):
    """Beside a tenant that sends ten times as much it waits no longer than alone on half of every limit."""
    assert tenants_wait(load=2.2, seconds=120).missed(seed) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tenants_that_both_wait_are_given_the_same(seed):
    """Over any span, up to two of the largest demands."""
    assert tenants_share(seconds=90).missed(seed) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_limits_of_single_models(seed):
    """Each model's calls use up the model's own limit."""
    assert models(load=1.3, seconds=120).missed(seed) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_limit_that_accounts_share(seed):
    """Together they use it, and together they keep to it."""
    assert shared(seconds=240).missed(seed) == []


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles"])
def test_limits_of_a_day(zone):
    """Each civil day of the provider's zone is used up, and none is exceeded at a midnight."""
    assert calendar(zone).missed(1) == []
