"""What a ticket is told that no account can take, or not in time."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from balancer.actors.messages import Ticket
from balancer.actors.supervisor import Supervisor
from balancer.core.setting import shown
from balancer.core.tenants import Tenant
from balancer.errors import DeadlineUnreachable, NoAccount, Saturated

Tiers = Sequence[Sequence[Supervisor]]


def too_late(earliest: float, now: float) -> DeadlineUnreachable:
    """The ticket's time is up before any account can take it."""
    retry_at = max(earliest, now)
    message = f"no account can take the call before its time is up; the earliest could in {retry_at - now:.3f} s"
    return DeadlineUnreachable(message, retry_at=retry_at)


def full(waiting: int, tenant: Tenant | None, retry_at: float) -> Saturated:
    """So many others wait already: in all, or of the tenant."""
    whose = "" if tenant is None else f" of the tenant {shown(tenant.name)}"
    return Saturated(f"{waiting} calls{whose} wait already", retry_at=retry_at)


def no_account(ticket: Ticket, pools: Mapping[str, Tiers], now: float) -> NoAccount:
    """No account can ever take it; says why none can."""
    if ticket.pool not in pools:
        return NoAccount(f"there is no pool {ticket.pool!r}")
    supervisors = [supervisor for tier in pools[ticket.pool] for supervisor in tier]
    offered = {name for supervisor in supervisors for name in supervisor.account.models or ()}
    unlimited = any(supervisor.account.models is None for supervisor in supervisors)
    if ticket.model is not None and ticket.model not in offered and not unlimited:
        near = difflib.get_close_matches(ticket.model, offered, n=3, cutoff=0.5)
        hint = f"; near names: {', '.join(near)}" if near else ""
        message = f"no account of pool {ticket.pool!r} offers the model {ticket.model!r}{hint}"
        return NoAccount(message, unknown_model=True)
    if ticket.dialect is not None and not any(ticket.dialect in supervisor.dialects for supervisor in supervisors):
        return NoAccount(f"no account of pool {ticket.pool!r} speaks {ticket.dialect}")
    why = "; ".join(f"{supervisor.name}: {_why(supervisor, ticket, now)}" for supervisor in supervisors)
    return NoAccount(f"no account of pool {ticket.pool!r} can ever take the call ({why})")


def _why(supervisor: Supervisor, ticket: Ticket, now: float) -> str:
    if supervisor.name in ticket.avoid:
        return "faulted this call"
    return supervisor.snapshot(now).passed_over(ticket.model, ticket.call.demand, now, cold=False) or "available"
