"""Mock backends: real HTTP servers that stand in for providers, in tests, benchmarks and the demo."""

from __future__ import annotations

from balancer.testing.mock.faults import Chance, Delay, Drop, Malformed, Script, Stall, Status, StreamError, Truncate
from balancer.testing.mock.latency import Constant, Exponential, Lognormal, Mixture, Uniform
from balancer.testing.mock.record import Counts, Received, fingerprint
from balancer.testing.mock.server import MockBackend, open_mock, open_mocks, serve
from balancer.testing.mock.settings import MockSettings

__all__ = [
    "Chance",
    "Constant",
    "Counts",
    "Delay",
    "Drop",
    "Exponential",
    "Lognormal",
    "Malformed",
    "Mixture",
    "MockBackend",
    "MockSettings",
    "Received",
    "Script",
    "Stall",
    "Status",
    "StreamError",
    "Truncate",
    "Uniform",
    "fingerprint",
    "open_mock",
    "open_mocks",
    "serve",
]
