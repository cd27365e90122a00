"""The settings of hedging."""

from __future__ import annotations

import math

import pytest

from balancer.core.hedging import HedgeSettings
from balancer.errors import ConfigError


def test_hedging_is_off_by_default():
    """A hedge pays twice; only an owner of accounts can want that."""
    assert HedgeSettings() == HedgeSettings(enabled=False, delay=2.0, max_extra_ratio=0.05)


@pytest.mark.parametrize(
    "wrong", [{"enabled": 1}, {"enabled": "true"}, {"delay": -1}, {"delay": math.nan}, {"max_extra_ratio": 1.01}]
)
def test_settings_out_of_range(wrong):
    """A wrong setting is refused by its name; nothing is coerced."""
    with pytest.raises(ConfigError) as caught:
        HedgeSettings(**wrong)
    assert [fault.path for fault in caught.value.faults] == list(wrong)
