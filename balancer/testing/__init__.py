"""For tests of what uses a balancer, and of the balancer itself: scripted backends, scheduler seeds, task steps.

Simulated providers and traffic in virtual time are in `balancer.testing.simulation`.
"""

from __future__ import annotations

from balancer.testing.backends import mock_backends
from balancer.testing.scripted import Event, HTTPReply, Reply, ScriptedBackend, ScriptedBody, ScriptedTransport
from balancer.testing.seeds import SEEDS, NotSeedable, run_seeded, scheduler_seed
from balancer.testing.steps import CancelAtStep, StepCounter, counted_steps

__all__ = [
    "SEEDS",
    "CancelAtStep",
    "Event",
    "HTTPReply",
    "NotSeedable",
    "Reply",
    "ScriptedBackend",
    "ScriptedBody",
    "ScriptedTransport",
    "StepCounter",
    "counted_steps",
    "mock_backends",
    "run_seeded",
    "scheduler_seed",
]
