"""When a call may start a second attempt beside one that is still running.

The delay is the configured one; with a budget of extra attempts it must be long enough that few calls reach it, else the
budget is spent at random.
"""

from __future__ import annotations

import attrs

from balancer.core.setting import setting


@attrs.frozen
class HedgeSettings:
    """Hedging of calls that allow it.

    Args:
        enabled: off by default: a hedge pays twice, which only the owner of the accounts can want.
        delay: seconds to the first token after which a second attempt starts, >= 0.
        max_extra_ratio: hedges per call at most, 0 to 1; 5 % keeps the cost of the slowest calls' rescue near what it saves.
    """

    enabled: bool = setting(False, kind=bool)
    delay: float = setting(2.0, kind=float, low=0.0, high=3600.0)
    max_extra_ratio: float = setting(0.05, kind=float, low=0.0, high=1.0)
