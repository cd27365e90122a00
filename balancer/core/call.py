"""What an application asks for: a `Call`, the `Demand` it puts on a quota, the `Usage` it turned out to be."""

from __future__ import annotations

import attrs

DIMENSIONS = ("requests", "tokens", "input_tokens", "output_tokens")
"""What a quota counts per period. `tokens` is input and output together."""


@attrs.frozen
class Demand:
    """What an attempt will take from a quota, as estimated before it is sent.

    Args:
        input_tokens: tokens of the prompt, >= 0.
        output_tokens: tokens of the answer, >= 0.
        requests: requests counted, >= 0; one attempt is one request.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 1

    def __attrs_post_init__(self) -> None:
        if not (self.input_tokens >= 0 and self.output_tokens >= 0 and self.requests >= 0):
            raise ValueError("a Demand holds no negative amount")

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@attrs.frozen
class Usage:
    """What an attempt really took, as its answer reported it; corrects the reservation.

    Args:
        input_tokens: tokens of the prompt that count against the quota, >= 0, cached ones as the provider counts them.
        output_tokens: tokens of the answer, >= 0.
        requests: requests counted, >= 0.
        cached_tokens: tokens of the prompt that were read from a cache, >= 0; for the record.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 1
    cached_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@attrs.frozen
class Call:
    """What the application asked for, once.

    Args:
        model: the name the application uses, mapped per account; `None` for a call without a model.
        demand: the estimate to reserve; by default one request and no tokens.
        tenant: for whom; for the record and for queues that share between tenants.
        priority: higher goes first.
        tags: marks for routers and for the record.
        replayable: whether a second attempt may follow one that may have reached a backend.
        hedgeable: whether two attempts may run at once.
    """

    model: str | None = None
    demand: Demand = Demand()
    tenant: str = ""
    priority: int = 0
    tags: tuple[str, ...] = ()
    replayable: bool = True
    hedgeable: bool = False
