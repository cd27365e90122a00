"""What the demo runs on: five accounts as unlike as real ones are, and the traffic that they have to share."""

from __future__ import annotations

from typing import Any

PER_SECOND = 30.0
"""Arrivals on average; in a burst 2.5 times as many. Round robin sends a fifth of them to each account."""
PATIENCE = 8.0
"""Seconds after which a caller gives up."""
MODEL = "demo-model"


def demo_config(seed: int) -> dict[str, Any]:
    """The demo's configuration; `seed` is that of everything its backends do by chance."""
    fast = {"requests": {"amount": 60, "per": 5.0}, "tokens": {"amount": 8000, "per": 5.0, "window": "sliding"}}
    tight = {"requests": {"amount": 8, "per": 4.0}, "window": "sliding"}
    accounts: list[dict[str, Any]] = [
        {
            "name": "fast",
            "limits": fast,
            "mock": {"latency": _latency(0.08), "limits": fast},
        },
        {
            "name": "slow",
            "limits": {"concurrency": 16},
            "mock": {"latency": _latency(0.9)},
        },
        {
            "name": "tight",
            "limits": tight,
            "mock": {"latency": _latency(0.12), "limits": tight},
        },
        {
            "name": "unannounced",
            "mock": {
                "latency": _latency(0.12),
                "limits": {"requests": {"amount": 12, "per": 4.0}, "window": "sliding"},
            },
        },
        {
            "name": "flaky",
            "limits": {"requests": {"amount": 40, "per": 5.0}},
            "mock": {
                "latency": _latency(0.15),
                "limits": {"requests": {"amount": 40, "per": 5.0}},
                "faults": [
                    {"kind": "status", "status": 503, "probability": 0.12},
                    {"kind": "drop", "probability": 0.05},
                ],
            },
        },
    ]
    for place, account in enumerate(accounts):
        account["provider"] = "mock"
        account["mock"]["seed"] = seed + place
    return {"accounts": accounts, "balancer": {"seed": seed}}


def _latency(median: float) -> dict[str, Any]:
    return {"kind": "lognormal", "median": median, "sigma": 0.4}
