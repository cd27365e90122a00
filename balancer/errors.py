"""Errors that leave the public API. Every one of them is a plain exception: an `ExceptionGroup` subclass would lose its type
and attributes on the way through a nursery or a cancelled scope.

`BalancerError` and its children say why a call was not served; `ConfigError` says what is wrong with a configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from balancer.core.decision import AttemptRecord, Decision


class BalancerError(Exception):
    """A call that the balancer could not serve.

    Attributes:
        decision: the record of the call as far as it went, `None` where no call had begun.
    """

    def __init__(self, message: str, *, decision: Decision | None = None) -> None:
        super().__init__(message)
        self.decision = decision


class Saturated(BalancerError):
    """Refused before queueing: `max_waiting` tickets wait already. It says of a few accounts why they cannot take the call now.

    Attributes:
        retry_at: trio time before which a new attempt cannot work; that of the refusal where only the end of a running attempt is
            awaited, which nobody knows.
    """

    def __init__(self, message: str, *, retry_at: float, decision: Decision | None = None) -> None:
        super().__init__(message, decision=decision)
        self.retry_at = retry_at


class DeadlineUnreachable(BalancerError):
    """No account can take the call before the call has to end. It says of a few accounts why they cannot take it now.

    Attributes:
        retry_at: the earliest trio time at which an account could take it; that of the refusal where only the end of a running
            attempt is awaited, which nobody knows.
    """

    def __init__(self, message: str, *, retry_at: float, decision: Decision | None = None) -> None:
        super().__init__(message, decision=decision)
        self.retry_at = retry_at


class NoAccount(BalancerError):
    """No account of the pool can ever take this call: unknown model, or every account that offers it is disabled.

    Attributes:
        unknown_model: whether no account of the pool offers the model at all.
    """

    def __init__(self, message: str, *, unknown_model: bool = False, decision: Decision | None = None) -> None:
        super().__init__(message, decision=decision)
        self.unknown_model = unknown_model


class AttemptsFailed(BalancerError):
    """Every attempt of the call failed. Its `__cause__` is an `ExceptionGroup` of `errors`.

    Attributes:
        attempts: the attempts in order, as recorded in the decision.
        errors: the exception of each attempt, in the same order.
    """

    def __init__(
        self,
        message: str,
        *,
        attempts: Sequence[AttemptRecord],
        errors: Sequence[Exception],
        decision: Decision | None = None,
    ) -> None:
        super().__init__(message, decision=decision)
        self.attempts = tuple(attempts)
        self.errors = tuple(errors)
        if self.errors:
            self.__cause__ = ExceptionGroup("the attempts of the call", list(self.errors))


class StreamTruncated(BalancerError):
    """A response body ended before its protocol's end mark.

    Attributes:
        received: bytes of body that had arrived.
    """

    def __init__(self, message: str, *, received: int, decision: Decision | None = None) -> None:
        super().__init__(message, decision=decision)
        self.received = received


class Closed(BalancerError):
    """The balancer is closing or closed: it takes no new call and has ended this one."""


@attrs.frozen
class Fault:
    """One thing wrong with a configuration.

    Attributes:
        path: where, as in `accounts[2].limits.concurrency`; empty for the document itself.
        given: what was found there, already without any secret.
        allowed: what may stand there.
    """

    path: str
    given: str
    allowed: str

    def __str__(self) -> str:
        where = self.path or "the configuration"
        return f"{where}: {self.given}; allowed: {self.allowed}" if self.given else f"{where}: {self.allowed}"

    def below(self, prefix: str) -> Fault:
        """The same fault seen from an enclosing table."""
        if not self.path or self.path.startswith("["):
            return attrs.evolve(self, path=prefix + self.path)
        return attrs.evolve(self, path=f"{prefix}.{self.path}" if prefix else self.path)


class ConfigError(Exception):
    """A configuration that cannot be used. It lists every fault that was found, not the first.

    Attributes:
        faults: what is wrong, in the order of the configuration.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))
