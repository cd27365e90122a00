"""How an attempt ended, and what that says about whom.

One class per outcome of the table in the provider notes. The *scope* of an outcome is what it is about: a caller's fault is
about the request and touches no account, a bad key is about the credential, an overload about the provider. Refusals and
failures differ: a failure uses up one of the attempts of the call, a refusal does not (the deadline bounds those).
"""

from __future__ import annotations

import enum
import math
from typing import ClassVar, NamedTuple

import attrs

from balancer.core.call import Usage


class Scope(enum.Enum):
    """What an outcome is about."""

    REQUEST = "request"
    CREDENTIAL = "credential"
    ACCOUNT_MODEL = "account x model"
    ACCOUNT = "account"
    HOST = "host"
    PROVIDER = "provider"


def _instant(given: float | None) -> float | None:
    """A stated time; one that is no number says nothing, and would be neither over nor ahead for ever."""
    return None if given is None or math.isnan(given) else given


@attrs.frozen
class Served:
    """The backend answered the call."""

    scope: ClassVar[Scope] = Scope.ACCOUNT


SERVED = Served()
"""The one value of its class, for those who make many."""


@attrs.frozen
class RateLimited:
    """Refused for now: a rate limit of the account is used up.

    Args:
        dimension: which one (`"requests"`, `"tokens"`, ...); `None` if the answer does not say.
        until: trio time before which a new try will be refused; `None` if the answer does not say.
    """

    scope: ClassVar[Scope] = Scope.ACCOUNT_MODEL
    dimension: str | None = None
    until: float | None = attrs.field(default=None, converter=_instant)


@attrs.frozen
class QuotaExhausted:
    """Refused for long: a daily or monthly quota is used up.

    Args:
        until: trio time of the reset; `None` if the answer does not say.
    """

    scope: ClassVar[Scope] = Scope.ACCOUNT_MODEL
    until: float | None = attrs.field(default=None, converter=_instant)


@attrs.frozen
class Overloaded:
    """The provider has no capacity; its other accounts suffer too.

    Args:
        until: trio time before which a new try is unwelcome; `None` if the answer does not say.
    """

    scope: ClassVar[Scope] = Scope.PROVIDER
    until: float | None = attrs.field(default=None, converter=_instant)


@attrs.frozen
class Ramp:
    """Refused because traffic grew too fast.

    Args:
        until: trio time before which a new try will be refused; `None` if the answer does not say.
    """

    scope: ClassVar[Scope] = Scope.ACCOUNT
    until: float | None = attrs.field(default=None, converter=_instant)


@attrs.frozen
class Billing:
    """The account may not spend more: disabled until an operator acts, or until a stated date.

    Args:
        until: trio time from which it may again; `None` if the answer does not say.
    """

    scope: ClassVar[Scope] = Scope.ACCOUNT
    until: float | None = attrs.field(default=None, converter=_instant)


@attrs.frozen
class Unauthorized:
    """The credential is not accepted: disabled until it is changed."""

    scope: ClassVar[Scope] = Scope.CREDENTIAL


@attrs.frozen
class ModelMissing:
    """The account does not offer the model, or may not use it."""

    scope: ClassVar[Scope] = Scope.ACCOUNT_MODEL


@attrs.frozen
class CallerFault:
    """The request itself is wrong: the answer goes to the caller at once and touches no account."""

    scope: ClassVar[Scope] = Scope.REQUEST


@attrs.frozen
class TooLarge:
    """The request is larger than this account's whole bucket; one with a larger bucket may take it."""

    scope: ClassVar[Scope] = Scope.ACCOUNT_MODEL


@attrs.frozen
class Faulted:
    """The backend failed: server error, connect error, protocol error.

    Args:
        detail: what happened, in a few words and without any secret.
        sent: whether a byte of the request may have been written; if not, nothing is charged and any call may go elsewhere.
    """

    scope: ClassVar[Scope] = Scope.ACCOUNT
    detail: str = ""
    sent: bool = True


@attrs.frozen
class TimedOut:
    """The backend did not do its part in time.

    Args:
        phase: `"connect"`, `"write"`, `"headers"`, `"read"`, or `""` if the attempt does not say. `"request"`: the backend says
            that the request did not come in time (408 of RFC 9110), `"pool"`: no connection of the attempt's own client was free;
            it may go elsewhere, and is no evidence of health.
    """

    scope: ClassVar[Scope] = Scope.ACCOUNT
    phase: str = ""

    @property
    def sent(self) -> bool:
        """Whether a byte of the request may have been written."""
        return self.phase not in ("connect", "pool")


@attrs.frozen
class Truncated:
    """The answer broke off before its protocol's end mark.

    Args:
        received: bytes of body that had arrived.
    """

    scope: ClassVar[Scope] = Scope.ACCOUNT
    received: int = 0


@attrs.frozen
class Withdrawn:
    """Cancelled by us or by the caller; says nothing about anybody.

    Args:
        sent: whether a byte of the request may have been written; if so the estimate stays charged.
    """

    scope: ClassVar[Scope] = Scope.REQUEST
    sent: bool = True


Refusal = RateLimited | QuotaExhausted | Overloaded | Ramp | Billing | Unauthorized | ModelMissing | TooLarge
"""The backend did not do the work, and said so: nothing is charged, another account may take the call at once."""

Failure = Faulted | TimedOut | Truncated
"""The backend failed at the work: counts in health and toward `max_attempts`."""

Outcome = Served | Refusal | Failure | CallerFault | Withdrawn


@attrs.frozen
class LimitSeen:
    """One limit as one response showed it. Absent values are `None`.

    Args:
        dimension: what it counts, one of `DIMENSIONS`.
        name: tells several limits of one dimension apart (`"requests"`, `"requests-day"`, ...).
        limit: the amount per period, > 0.
        remaining: what is left of it, >= 0.
        reset_after: seconds from the response to its reset, >= 0.
        rounding: `remaining` may be too small by up to this much.
        period: seconds in which `limit` is renewed, > 0, where the answer or the provider's notes say it outright.
        next_unit: whether the reset is when there is more than `remaining` at all, of a bucket, too; else that may be when it is full.
    """

    dimension: str
    name: str
    limit: float | None = None
    remaining: float | None = None
    reset_after: float | None = None
    rounding: float = 1.0
    period: float | None = None
    next_unit: bool = False


class Evidence(NamedTuple):
    """What the end of one attempt tells about its account.

    Attributes:
        outcome: the class of the end; its `scope` says about whom, its `until` when again.
        usage: what was really taken; `None` if the answer did not say, then the reservation stands.
        limits: the limits that the response's headers showed.
    """

    outcome: Outcome
    usage: Usage | None = None
    limits: tuple[LimitSeen, ...] = ()

    @property
    def scope(self) -> Scope:
        """What the evidence is about."""
        return self.outcome.scope


class AttemptFailed(Exception):
    """Raised by an attempt to say outright how it ended. It takes an outcome itself, not its class, and a `Usage` (`TypeError`).

    Args:
        outcome: the class of the end.
        usage: what it took all the same, if known.
        limits: limits that the answer's headers showed.
        answer: the backend's answer, where it may have to be handed to the caller after all.
    """

    def __init__(
        self, outcome: Outcome, *, usage: Usage | None = None, limits: tuple[LimitSeen, ...] = (), answer: object = None
    ) -> None:
        if not isinstance(outcome, Outcome):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"an outcome is needed, as in RateLimited(): {outcome!r}")
        if usage is not None and not isinstance(usage, Usage):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("a usage is a Usage")
        super().__init__(str(outcome))
        self.outcome = outcome
        self.usage = usage
        self.limits = limits
        self.answer = answer
