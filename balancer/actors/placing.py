"""Where a ticket can go: which accounts can take it now, which of them the selector chooses, and when the others could."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from balancer.actors.claims import SAME, Claims
from balancer.actors.lease import Lease
from balancer.actors.messages import Ticket
from balancer.actors.refusals import Tiers
from balancer.actors.supervisor import Supervisor
from balancer.core.call import Demand
from balancer.core.decision import Scan
from balancer.core.snapshot import COLD, FULL, PROBING, AccountSnapshot
from balancer.selection import Selector, learn_of, price_of

AWAITED = ("", FULL, COLD, PROBING)
"""What an account says whose attempts have to end first. What else it says while its ledger names no later time, time will change:
the two differ by the last digit of a float."""


NEVER = -math.inf

TROUGH = 60.0
"""Seconds for which an account that has used up its windows still serves its share: most windows are a minute long."""
IN_TIME = 2.5
"""Mean latencies after which nearly every answer has come: nine of ten of exponential ones."""
DEVIATIONS = 4.0
"""Deviations from the mean after which the same is so where latencies differ less, however few have told them."""
LAST = 1.2
"""How many times what an attempt needs before its end a ticket's last moment is: none is left out of the queue for that."""


SPARED = 0.03
"""Share of a price that a wait must spare: learned prices of equal accounts differ by a few hundredths, and who waits for those leaves
an account idle that has room."""


class SelectorFailed(Exception):
    """The user's selector raised or chose a stranger; its cause says what."""


@attrs.frozen(eq=False)
class Outlook:
    """When accounts could take a ticket that none takes now.

    Attributes:
        earliest: trio time at which one could; `inf`: never.
        hopeful: whether one that the ticket does not avoid is in a state to be hoped for: not ejected and not disabled.
        refilled_at: trio time at which time alone lets `refilled` take it; `inf` without one.
        refilled: the earliest of those that wait for time, by the selector's price.
        awaited: one that waits for attempts to end, not for time.
        look_at: when time alone changes anything for the ticket; `inf` if nothing.
    """

    earliest: float
    hopeful: bool
    refilled_at: float
    refilled: Supervisor | None
    awaited: Supervisor | None
    look_at: float


@attrs.frozen(eq=False)
class Hold:
    """A ticket had better wait for this account than take one that could take it now.

    Attributes:
        supervisor: the account to wait for.
        at: trio time at which it could take the ticket.
    """

    supervisor: Supervisor
    at: float


Priced = Callable[[AccountSnapshot, Demand], float]


@attrs.define(eq=False)
class Placer:
    """The pools as they are now, and the choice among their accounts.

    Args:
        selector: the choice among the accounts that can take a call.
        rng: for the selector.
        pools: pool name -> its accounts, tier by tier. Replaced whole by `use`.
    """

    selector: Selector
    rng: random.Random
    pools: Mapping[str, Tiers] = attrs.field(factory=dict[str, Tiers])
    _limited: bool = attrs.field(default=False, init=False)
    """Whether any account has shown a quota: without one there is nothing that a selector could learn."""
    _dear: dict[str, tuple[Demand, float]] = attrs.field(factory=dict[str, tuple[Demand, float]], init=False)
    """By pool the least demand that met a price lately, and when it did."""

    def use(self, pools: Mapping[str, Tiers], now: float) -> None:
        """Place on these from now on."""
        self.pools = pools
        accounts = [supervisor for tiers in pools.values() for tier in tiers for supervisor in tier]
        self._limited = any(supervisor.snapshot(now).dimensions for supervisor in accounts)

    def try_place(self, ticket: Ticket, claims: Claims | None, now: float, crowded: bool = False) -> Lease | Hold | None:
        """Ask the accounts tier by tier; a tier is used when none before it can take the call now. Raises `SelectorFailed`.

        Args:
            ticket: what is to be placed.
            claims: those of tickets before it.
            now: trio time.
            crowded: whether other tickets wait.
        """
        call, model, avoid, dialect = ticket.call, ticket.model, ticket.avoid, ticket.dialect
        demand, estimated = call.demand, call.estimated
        cold = ticket.shows_limits
        scanned: list[tuple[AccountSnapshot, ...]] = []
        for tier in self.pools.get(ticket.pool, ()):
            able: list[AccountSnapshot] = []
            owners: list[Supervisor] = []
            snapshots: list[AccountSnapshot] = []
            usual = True
            for supervisor in tier:
                snapshot = supervisor.snapshot(now)
                snapshots.append(snapshot)
                if snapshot.restricted:
                    self._limited = self._limited or bool(snapshot.dimensions)
                    wanted = supervisor.demand(call, model) if estimated and snapshot.dimensions else demand
                    if snapshot.passed_over(model, wanted, now, cold):
                        continue
                    snapshot = snapshot.of_model(model)
                else:
                    wanted = demand
                if (
                    snapshot.name not in avoid
                    and (dialect is None or dialect in snapshot.dialects)
                    and not (claims and not claims.allow(supervisor, model, wanted, now))
                ):
                    able.append(snapshot)
                    owners.append(supervisor)
                    usual = usual and snapshot.ejected_until == NEVER and snapshot.weight > 0.0
            scanned.append(tuple(snapshots))
            while able:
                place = self._choose(able, ticket, now, usual=usual)
                if able[place].dimensions and len(tier) > 1:
                    better = self._better(owners[place], owners, tier, ticket, now, crowded=crowded)
                    if isinstance(better, Hold):
                        return better
                    place = owners.index(better)
                scan = Scan(tuple(scanned), model, demand, now, cold, avoid, dialect, able[place].name)
                lease = owners[place].try_lease(ticket, now, scan)
                if lease is not None:
                    ticket.decision.attempts = (*ticket.decision.attempts, lease.record)
                    return lease
                del able[place], owners[place]
        return None

    def _choose(self, candidates: list[AccountSnapshot], ticket: Ticket, now: float, *, usual: bool) -> int:
        """Which of the accounts that can take the ticket is to; `usual`: all of them are healthy and have a weight."""
        choices = candidates
        if not usual:
            choices = [snapshot for snapshot in candidates if snapshot.ejected_until == NEVER and snapshot.weight > 0.0]
            healthy = [snapshot for snapshot in candidates if not snapshot.probe_due(now)]
            # A probe is an ordinary call with failover behind it; if none ever went first, a slow account would never return.
            covered = ticket.call.replayable and not ticket.now_or_never
            if len(healthy) < len(candidates) and (covered or not healthy):
                return next(place for place, snapshot in enumerate(candidates) if snapshot.probe_due(now))
            choices = choices or healthy
        try:
            chosen = self.selector(choices, ticket.call.demand, now, self.rng)
            for place, candidate in enumerate(candidates):
                if candidate is chosen and (choices is candidates or chosen in choices):
                    return place
            raise ValueError(f"a selector returns one of its candidates, not a {type(chosen).__name__} that is none of them")
        except Exception as error:
            raise SelectorFailed from error

    def _better(
        self,
        owner: Supervisor,
        able: Sequence[Supervisor],
        tier: Sequence[Supervisor],
        ticket: Ticket,
        now: float,
        *,
        crowded: bool,
    ) -> Supervisor | Hold:
        """Where the time until the ticket can go there and the selector's price are least together: if nowhere less, the owner's.

        Alone, a ticket waits for what it can have in time. While others wait it is not worth more than what it takes where that is
        least: rather than cost them more, it is not served. That holds as well where it has no time left to wait (`_too_late`).
        """
        call, model, price, chosen = ticket.call, ticket.model, self._priced(ticket, now), owner.snapshot(now)
        if price is None or chosen.ejected_until > -math.inf or not (least := price(chosen, owner.demand(call, model))):
            return owner
        best: Supervisor | Hold = owner
        smallest = self._smallest(ticket, now)
        for supervisor in tier:
            snapshot = supervisor.snapshot(now)
            if supervisor is owner or snapshot.ejected_until > -math.inf or not snapshot.weight:
                continue
            demand = supervisor.demand(call, model)
            if supervisor in able:
                found, at = supervisor, now
            elif self._may_use(supervisor, ticket):
                at = supervisor.earliest(model, demand, now)
                if not now < at < math.inf:  # where attempts have to end first nobody knows the time
                    continue
                found = Hold(supervisor, at)
                if at > ticket.give_up_at:
                    trough = at <= now + TROUGH and snapshot.state == "healthy"
                    if not (trough and least > price(chosen, smallest) + SAME):
                        continue
                    found, at = self._too_late(found, chosen, ticket, now, crowded=crowded), now
            else:
                continue
            if found is None:
                continue
            total, spares = at - now + price(snapshot, demand), SAME if found is supervisor else max(SAME, SPARED * least)
            if total < least - spares:
                least, best = total, found
        return best

    def _too_late(self, hold: Hold, chosen: AccountSnapshot, ticket: Ticket, now: float, *, crowded: bool) -> Hold | None:
        """What becomes of a ticket that takes less of an account which is used up for a moment, longer than the ticket has time.

        While others wait it is held in vain: who takes more than the smallest call lately would costs others more than one call. Alone
        it may go where it is dear, but of a window, which loses nothing until then, at its last moment: who needs that more goes first.
        """
        if crowded:
            return hold
        if not all(view.full_at == math.inf for view in chosen.dimensions):
            return None
        last = ticket.give_up_at - LAST * self.needed_for(ticket, now)
        return Hold(hold.supervisor, last) if now < last < ticket.give_up_at else None

    def _smallest(self, ticket: Ticket, now: float) -> Demand:
        """The least demand of those that were to go to a dear account of the pool lately, this one among them."""
        demand = ticket.call.demand
        seen = self._dear.get(ticket.pool)
        if seen is None or demand.tokens <= seen[0].tokens or seen[1] <= now - TROUGH:
            self._dear[ticket.pool] = demand, now
            return demand
        return seen[0]

    def _priced(self, ticket: Ticket, now: float) -> Priced | None:
        """The selector's price of an account for the ticket's model; `None` where it has none."""
        price, model = price_of(self.selector), ticket.model
        if price is None:
            return None

        def priced(account: AccountSnapshot, demand: Demand) -> float:
            try:
                return price(account.of_model(model), demand, now)
            except Exception as error:
                raise SelectorFailed from error

        return priced

    @property
    def learns(self) -> bool:
        """Whether the selector is to be told of every ticket that comes."""
        return self._limited and learn_of(self.selector) is not None

    def learn(self, ticket: Ticket, now: float) -> None:
        """Tell the selector of a ticket that has come, where quotas are limited. Raises `SelectorFailed`."""
        learn, call, model = learn_of(self.selector), ticket.call, ticket.model
        if learn is None:
            return
        for tier in self.pools.get(ticket.pool, ()):
            snapshots = [supervisor.snapshot(now) for supervisor in tier]
            if not any(snapshot.dimensions for snapshot in snapshots):
                if any(self._may_use(supervisor, ticket) for supervisor in tier):
                    return
                continue
            fit = [
                snapshot.of_model(model)
                for supervisor, snapshot in zip(tier, snapshots, strict=True)
                if self._may_use(supervisor, ticket) and snapshot.ever_takes(model, supervisor.demand(call, model))
            ]
            try:
                if fit and learn(fit, call.demand, now):
                    return
            except Exception as error:
                raise SelectorFailed from error

    def _may_use(self, supervisor: Supervisor, ticket: Ticket) -> bool:
        if supervisor.name in ticket.avoid or (ticket.dialect is not None and ticket.dialect not in supervisor.dialects):
            return False
        return ticket.model is None or supervisor.account.model_name(ticket.model) is not None

    def accounts(self, ticket: Ticket) -> Iterator[Supervisor]:
        """The accounts of its pool that it may use. A router may name a pool that there is not, or not any more."""
        for tier in self.pools.get(ticket.pool, ()):
            for supervisor in tier:
                if self._may_use(supervisor, ticket):
                    yield supervisor

    def names(self, pool: str, now: float) -> set[str | None]:
        """The models that an account of the pool offers by name, or that a rate or a pause of one is about: all others are alike."""
        names: set[str | None] = set()
        for tier in self.pools.get(pool, ()):
            for supervisor in tier:
                snapshot = supervisor.snapshot(now)
                names.update(snapshot.models or ())
                names.update(pause.model for pause in snapshot.pauses)
                for view in snapshot.dimensions:
                    names.update(view.models or (), view.other_models)
        return names

    def compete(self, ticket: Ticket, other: Ticket) -> bool:
        """Whether there is an account that both may use."""
        return any(self._may_use(supervisor, other) for supervisor in self.accounts(ticket))

    def may_hold(self, ticket: Ticket) -> bool:
        """Whether tickets like this one may wait though an account could take them."""
        return price_of(self.selector) is not None and any(len(tier) > 1 for tier in self.pools.get(ticket.pool, ()))

    def needed_for(self, ticket: Ticket, now: float) -> float:
        """Seconds within which the quickest of the accounts that could ever take it has most likely answered; 0 while one of them
        has no sample."""
        needed, model = math.inf, ticket.model
        for supervisor in self.accounts(ticket):
            if supervisor.earliest(model, supervisor.demand(ticket.call, model), now) < math.inf:
                snapshot = supervisor.snapshot(now)
                mean = snapshot.mean or 0.0
                needed = min(needed, IN_TIME * mean, mean + DEVIATIONS * math.sqrt(snapshot.variance))
        return needed if needed < math.inf else 0.0

    def outlook(self, ticket: Ticket, now: float) -> Outlook:
        """When accounts could take a ticket that none takes now."""
        earliest, hopeful, refilled_at, refilled, awaited, look_at = math.inf, False, math.inf, None, None, math.inf
        price, least = self._priced(ticket, now), math.inf
        for supervisor in self.accounts(ticket):
            demand = supervisor.demand(ticket.call, ticket.model)
            at = supervisor.earliest(ticket.model, demand, now)
            earliest = min(earliest, at)
            snapshot = supervisor.snapshot(now)
            if now < at < math.inf:
                look_at = min(look_at, at)
                if (total := at if price is None else at + price(snapshot, demand)) < least:
                    least, refilled_at, refilled = total, at, supervisor
            elif at <= now:
                awaited = awaited or supervisor
                if snapshot.passed_over(ticket.model, demand, now, ticket.shows_limits) not in AWAITED:
                    look_at = min(look_at, snapshot.valid_until)
            hopeful = hopeful or (at < math.inf and snapshot.ejected_until <= now)
        return Outlook(earliest, hopeful, refilled_at, refilled, awaited, look_at)

    def room_at(self, ticket: Ticket, least: Demand, claims: Claims, now: float) -> float:
        """When an account could take at least this demand of one that asks for the same as the ticket: `now` if one could at once,
        `inf` if time alone lets none."""
        room_at, model, call = math.inf, ticket.model, attrs.evolve(ticket.call, demand=least)
        for supervisor in self.accounts(ticket):
            demand = supervisor.demand(call, model)
            at = supervisor.earliest(model, demand, now)
            if at > now:
                room_at = min(room_at, at)
            elif not supervisor.snapshot(now).passed_over(model, demand, now, ticket.shows_limits):
                if claims.allow(supervisor, model, demand, now):
                    return now
        return room_at
