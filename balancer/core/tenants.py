"""Who has been served how much: the virtual counters by which tenants share what is scarce.

A counter is the tokens that a tenant was served, over its weight, while anybody waited. Of the tenants that wait the one with the
least counter goes next; one that returns starts at the least counter of those that wait, so that idleness earns no credit. Over
any span in which two tenants wait, what they were served per weight then differs by at most the sum of their largest demands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import attrs

from balancer.core.call import Demand, Usage
from balancer.core.setting import RANGE, Range, check_range, setting
from balancer.errors import ConfigError, Fault

MOST_IDLE = 1024
"""Tenants that do not wait and whose counters are remembered: their names are the callers' to choose, memory is ours."""

MOST_NAME = 200
"""Characters of a tenant's name in a configuration or a header."""


def _check_name(instance: object, attribute: attrs.Attribute[str], name: str) -> None:
    check_range(instance, attribute, name)
    if not name.isprintable() or len(name) > MOST_NAME:
        allowed = f"a text of at most {MOST_NAME} printable characters"
        raise ConfigError([Fault(attribute.name, "a text of another form", allowed)])


@attrs.frozen
class TenantSettings:
    """One tenant that differs from the others; one that is not listed has weight 1.

    Args:
        name: as calls give it; `""` is that of calls without a tenant.
        weight: share of what is scarce against other tenants, from 1e-6 to 1e6.
        max_waiting: calls of it that may wait at once, >= 0; `None`: as many as of any tenant.
    """

    name: str = attrs.field(validator=_check_name, metadata={RANGE: Range(str)})
    weight: float = setting(1.0, kind=float, low=1e-6, high=1e6)
    max_waiting: int | None = setting(None, kind=int, low=0, high=10_000_000, optional=True)


def amount_of(taken: Demand | Usage) -> float:
    """What an attempt counts for its tenant: its tokens, or its requests where it takes none; at least 1."""
    return float(max(1, taken.tokens or taken.requests))


@attrs.define(eq=False)
class Tenant:
    """One tenant that waits, or has waited.

    Attributes:
        name: its name.
        weight: its weight.
        max_waiting: calls that may wait at once; `inf` if no limit is its own.
        counter: units served per weight.
        waiting: calls that wait.
    """

    name: str
    weight: float
    max_waiting: float
    counter: float = 0.0
    waiting: int = 0


class Tenants:
    """The tenants of one queue. Those that are idle are forgotten, the longest idle first, and all when nobody waits.

    Args:
        settings: the tenants that differ.
        max_waiting: calls of any other tenant that may wait; `None`: no limit.
    """

    __slots__ = ("_idle", "_known", "_max_waiting", "_settings")

    def __init__(self, settings: Iterable[TenantSettings] = (), max_waiting: int | None = None) -> None:
        self._known: dict[str, Tenant] = {}
        self._idle: dict[str, None] = {}
        self.configure(settings, max_waiting)

    def __len__(self) -> int:
        return len(self._known)

    def configure(self, settings: Iterable[TenantSettings], max_waiting: int | None) -> None:
        """Use other settings from now on; what was served stays."""
        self._settings = {one.name: one for one in settings}
        self._max_waiting = math.inf if max_waiting is None else float(max_waiting)
        for tenant in self._known.values():
            tenant.weight, tenant.max_waiting = self._terms(tenant.name)

    def known(self, name: str) -> Tenant | None:
        """The tenant, if it waits or is remembered."""
        return self._known.get(name)

    def enter(self, name: str, least: float) -> Tenant:
        """A call of this tenant begins to wait, where the least counter of those that wait is `least`."""
        tenant = self._found(name, least)
        if not tenant.waiting:
            tenant.counter = max(tenant.counter, least)
            self._idle.pop(name, None)
        tenant.waiting += 1
        return tenant

    def leave(self, tenant: Tenant) -> None:
        """A call of this tenant waits no longer."""
        tenant.waiting -= 1
        if not tenant.waiting:
            self._rest(tenant)

    def passing(self, name: str, least: Callable[[], float]) -> Tenant:
        """The tenant of a call that is served while others wait, whether it has waited or not. `least`: as in `enter`, asked only for
        a tenant that is not remembered."""
        tenant = self._known.get(name) or self._found(name, least())
        if not tenant.waiting:
            self._rest(tenant)
        return tenant

    def forget(self) -> None:
        """Nobody waits: what was served is no longer compared."""
        self._known.clear()
        self._idle.clear()

    def _found(self, name: str, least: float) -> Tenant:
        tenant = self._known.get(name)
        if tenant is None:
            tenant = self._known[name] = Tenant(name, *self._terms(name), counter=least)
        return tenant

    def _rest(self, tenant: Tenant) -> None:
        idle = self._idle
        idle.pop(tenant.name, None)
        idle[tenant.name] = None
        if len(idle) > MOST_IDLE:
            longest = next(iter(idle))
            del idle[longest], self._known[longest]

    def _terms(self, name: str) -> tuple[float, float]:
        listed = self._settings.get(name)
        if listed is None:
            return 1.0, self._max_waiting
        return listed.weight, self._max_waiting if listed.max_waiting is None else float(listed.max_waiting)
