"""How one attempt of a call can end, as its call sees it."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

from balancer.core.outcome import Outcome

T = TypeVar("T")


@attrs.define(eq=False)
class Won(Generic[T]):
    """The attempt is committed."""

    outcome: Outcome
    value: T


@attrs.frozen(eq=False)
class Lost:
    """The attempt failed or was refused."""

    account: str
    outcome: Outcome
    error: Exception


@attrs.frozen(eq=False)
class Raised:
    """The attempt raised what is the caller's own."""

    error: Exception


class Aborted:
    """The attempt was ended from outside: its race is decided, or the balancer is closing."""


ABORTED = Aborted()
End = Won[T] | Lost | Raised | Aborted
