"""Places LLM and HTTP calls over many backend accounts: exact quotas, failover, hedging, on trio."""

from __future__ import annotations

from balancer.actors.lease import Lease
from balancer.config import BalancerConfig
from balancer.core.budget import RetrySettings
from balancer.core.call import Call, Demand, Usage
from balancer.core.decision import AttemptRecord, Decision
from balancer.core.health import HealthSettings
from balancer.core.hedging import HedgeSettings
from balancer.core.limits import Limits, Rate
from balancer.core.outcome import (
    AttemptFailed,
    Billing,
    CallerFault,
    Faulted,
    ModelMissing,
    Outcome,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Served,
    TimedOut,
    TooLarge,
    Truncated,
    Unauthorized,
    Withdrawn,
)
from balancer.core.secret import Secret
from balancer.core.settings import Account, Pool
from balancer.core.snapshot import AccountSnapshot
from balancer.core.tenants import TenantSettings
from balancer.engine.mapping import Result
from balancer.errors import (
    AttemptsFailed,
    BalancerError,
    Closed,
    ConfigError,
    DeadlineUnreachable,
    Fault,
    NoAccount,
    Saturated,
    StreamTruncated,
)
from balancer.nursery import BalancerNursery, Statistics, Totals, open_balancer
from balancer.routing.router import Route, Router, RoutingContext
from balancer.routing.table import RouteSettings
from balancer.selection import Selector

__all__ = [
    "Account",
    "AccountSnapshot",
    "AttemptFailed",
    "AttemptRecord",
    "AttemptsFailed",
    "BalancerConfig",
    "BalancerError",
    "BalancerNursery",
    "Billing",
    "Call",
    "CallerFault",
    "Closed",
    "ConfigError",
    "DeadlineUnreachable",
    "Decision",
    "Demand",
    "Fault",
    "Faulted",
    "HealthSettings",
    "HedgeSettings",
    "Lease",
    "Limits",
    "ModelMissing",
    "NoAccount",
    "Outcome",
    "Overloaded",
    "Pool",
    "QuotaExhausted",
    "Ramp",
    "Rate",
    "RateLimited",
    "Result",
    "RetrySettings",
    "Route",
    "RouteSettings",
    "Router",
    "RoutingContext",
    "Saturated",
    "Secret",
    "Selector",
    "Served",
    "Statistics",
    "StreamTruncated",
    "TenantSettings",
    "TimedOut",
    "TooLarge",
    "Totals",
    "Truncated",
    "Unauthorized",
    "Usage",
    "Withdrawn",
    "open_balancer",
]
