"""Where a ticket can go: which accounts can take it now, which of them the selector chooses, and when the others could."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

import attrs

from balancer.actors.claims import Claims
from balancer.actors.lease import Lease
from balancer.actors.messages import Ticket
from balancer.actors.refusals import Tiers
from balancer.actors.supervisor import Supervisor
from balancer.core.call import Demand
from balancer.core.decision import Scan
from balancer.core.snapshot import COLD, FULL, PROBING, AccountSnapshot
from balancer.selection import Selector

AWAITED = ("", FULL, COLD, PROBING)
"""What an account says whose attempts have to end first. What else it says while its ledger names no later time, time will change:
the two differ by the last digit of a float."""


NEVER = -math.inf


class SelectorFailed(Exception):
    """The user's selector raised or chose a stranger; its cause says what."""


@attrs.frozen(eq=False)
class Outlook:
    """When accounts could take a ticket that none takes now.

    Attributes:
        earliest: trio time at which one could; `inf`: never.
        hopeful: whether one that the ticket does not avoid is in a state to be hoped for: not ejected and not disabled.
        refilled_at: the earliest trio time at which time alone lets one take it; `inf` without one.
        refilled: that one.
        awaited: one that waits for attempts to end, not for time.
        look_at: when time alone changes anything for the ticket; `inf` if nothing.
    """

    earliest: float
    hopeful: bool
    refilled_at: float
    refilled: Supervisor | None
    awaited: Supervisor | None
    look_at: float


@attrs.define(eq=False)
class Placer:
    """The pools as they are now, and the choice among their accounts.

    Args:
        selector: the choice among the accounts that can take a call.
        rng: for the selector.
        pools: pool name -> its accounts, tier by tier. Replaced whole by `reconfigure`.
    """

    selector: Selector
    rng: random.Random
    pools: Mapping[str, Tiers] = attrs.field(factory=dict[str, Tiers])

    def try_place(self, ticket: Ticket, claims: Claims | None, now: float) -> Lease | None:
        """Ask the accounts tier by tier; a tier is used when none before it can take the call now. Raises `SelectorFailed`."""
        call, model, avoid, dialect = ticket.call, ticket.model, ticket.avoid, ticket.dialect
        demand, estimated = call.demand, call.estimated
        cold = dialect is not None
        scanned: list[tuple[AccountSnapshot, ...]] = []
        for tier in self.pools.get(ticket.pool, ()):
            able: list[AccountSnapshot] = []
            owners: list[Supervisor] = []
            snapshots: list[AccountSnapshot] = []
            for supervisor in tier:
                snapshot = supervisor.snapshot(now)
                snapshots.append(snapshot)
                wanted = supervisor.demand(call, model) if estimated and snapshot.dimensions else demand
                if (
                    not snapshot.passed_over(model, wanted, now, cold)
                    and snapshot.name not in avoid
                    and (dialect is None or dialect in snapshot.dialects)
                    and not (claims and not claims.allow(supervisor, wanted, now))
                ):
                    able.append(snapshot)
                    owners.append(supervisor)
            scanned.append(tuple(snapshots))
            while able:
                chosen = self._choose(able, ticket, now)
                scan = Scan(tuple(scanned), model, demand, now, cold, avoid, dialect, chosen.name)
                place = able.index(chosen)
                lease = owners[place].try_lease(ticket, now, scan)
                if lease is not None:
                    ticket.decision.attempts = (*ticket.decision.attempts, lease.record)
                    return lease
                del able[place], owners[place]
        return None

    def _choose(self, candidates: list[AccountSnapshot], ticket: Ticket, now: float) -> AccountSnapshot:
        choices = [snapshot for snapshot in candidates if snapshot.ejected_until == NEVER and snapshot.weight > 0.0]
        if len(choices) < len(candidates):
            healthy = [snapshot for snapshot in candidates if not snapshot.probe_due(now)]
            # A probe is an ordinary call with failover behind it; if none ever went first, a slow account would never return.
            covered = ticket.call.replayable and not ticket.now_or_never
            if len(healthy) < len(candidates) and (covered or not healthy):
                return next(snapshot for snapshot in candidates if snapshot.probe_due(now))
            choices = choices or healthy
        try:
            chosen = self.selector(choices, ticket.call.demand, now, self.rng)
            if not [choice for choice in choices if choice is chosen]:
                raise ValueError("the selector chose an account that was not among its candidates")
        except Exception as error:
            raise SelectorFailed from error
        return chosen

    def accounts(self, ticket: Ticket) -> Iterator[Supervisor]:
        """The accounts of its pool that it may use. A router may name a pool that there is not, or not any more."""
        avoid, dialect = ticket.avoid, ticket.dialect
        for tier in self.pools.get(ticket.pool, ()):
            for supervisor in tier:
                if supervisor.name not in avoid and (dialect is None or dialect in supervisor.dialects):
                    yield supervisor

    def quickest(self, ticket: Ticket, now: float) -> float:
        """The least mean latency of its accounts in seconds; 0 while one of them has none."""
        return min((supervisor.snapshot(now).mean or 0.0 for supervisor in self.accounts(ticket)), default=0.0)

    def outlook(self, ticket: Ticket, now: float) -> Outlook:
        """When accounts could take a ticket that none takes now."""
        earliest, hopeful, refilled_at, refilled, awaited, look_at = math.inf, False, math.inf, None, None, math.inf
        for supervisor in self.accounts(ticket):
            demand = supervisor.demand(ticket.call, ticket.model)
            at = supervisor.earliest(ticket.model, demand, now)
            earliest = min(earliest, at)
            snapshot = supervisor.snapshot(now)
            if now < at < refilled_at:
                refilled_at, refilled = at, supervisor
            elif at <= now:
                awaited = awaited or supervisor
                if snapshot.passed_over(ticket.model, demand, now, ticket.dialect is not None) not in AWAITED:
                    look_at = min(look_at, snapshot.valid_until)
            hopeful = hopeful or (at < math.inf and snapshot.ejected_until <= now)
        return Outlook(earliest, hopeful, refilled_at, refilled, awaited, min(look_at, refilled_at))

    def room_at(self, ticket: Ticket, least: Demand, claims: Claims, now: float) -> float:
        """When an account could take at least this demand of one that asks for the same as the ticket: `now` if one could at once,
        `inf` if time alone lets none."""
        room_at = math.inf
        for supervisor in self.accounts(ticket):
            at = supervisor.earliest(ticket.model, least, now)
            if at > now:
                room_at = min(room_at, at)
            elif not supervisor.snapshot(now).passed_over(ticket.model, least, now, ticket.dialect is not None):
                if claims.allow(supervisor, least, now):
                    return now
        return room_at
