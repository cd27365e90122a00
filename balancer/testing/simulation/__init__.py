"""Simulated traffic: backends that count limits as providers count them, seeded arrivals, and a driver in virtual time."""

from __future__ import annotations

from balancer.testing.simulation.arrivals import (
    Arrivals,
    CallClass,
    CallMix,
    backlog,
    bursts,
    constant,
    log_uniform,
    off_by,
    piecewise,
    poisson,
)
from balancer.testing.simulation.backends import Outage, SimulatedAttempt, SimulatedBackend, SimulatedRefusal
from balancer.testing.simulation.driver import Report, SimulatedCall, simulate
from balancer.testing.simulation.limits import Overrun, SimulatedLimit
from balancer.testing.simulation.transport import SimulatedTransport

__all__ = [
    "Arrivals",
    "CallClass",
    "CallMix",
    "Outage",
    "Overrun",
    "Report",
    "SimulatedAttempt",
    "SimulatedBackend",
    "SimulatedCall",
    "SimulatedLimit",
    "SimulatedRefusal",
    "SimulatedTransport",
    "backlog",
    "bursts",
    "constant",
    "log_uniform",
    "off_by",
    "piecewise",
    "poisson",
    "simulate",
]
