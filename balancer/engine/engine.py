"""Drives one call: route -> ticket -> lease -> attempt -> settle, again where that can help, in the caller's own task.

The engine owns no state that outlives a call. What an attempt does is given to it (`Job`): a user's function for `run`, one
HTTP exchange for a transport.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from balancer.actors.dispatcher import Dispatcher, OthersOut
from balancer.actors.lease import Lease
from balancer.actors.messages import Ticket
from balancer.core.account import describe
from balancer.core.budget import RetrySettings
from balancer.core.call import Call
from balancer.core.decision import Decision
from balancer.core.hedging import HedgeSettings
from balancer.core.outcome import SERVED, AttemptFailed, Evidence, TimedOut
from balancer.core.plan import CallPlan, Next
from balancer.engine.ends import ABORTED, Aborted, End, Lost, Raised, Won
from balancer.engine.race import Race
from balancer.errors import AttemptsFailed, BalancerError, Closed, DeadlineUnreachable, NoAccount, Saturated
from balancer.routing.router import Route, Router, RoutingContext

T = TypeVar("T")


class Job(Protocol[T]):
    """One call and how to attempt it."""

    @property
    def call(self) -> Call:
        """What was asked."""
        ...

    @property
    def speaks(self) -> str | None:
        """The dialect that an account must speak; `None` for any account."""
        ...

    @property
    def shows_limits(self) -> bool:
        """Whether its answers show limits, where the account's provider does: then one with unknown limits is asked carefully."""
        ...

    @property
    def patience(self) -> float | None:
        """Seconds that the call may wait for accounts, in all; `None`: until its deadline, or if it has none as long as the
        engine lets a call wait."""
        ...

    def perform(self, lease: Lease, /) -> Awaitable[T]:
        """Run one attempt under a lease. It returns once the attempt is committed, with the lease settled or handed to what it
        returns; it raises what went wrong, with the lease unsettled."""
        ...

    def evidence(self, error: Exception, lease: Lease, /) -> Evidence | None:
        """What an exception of `perform` says about the account; `None` if nothing: then it is the caller's."""
        ...

    def discard(self, value: T, /) -> None:
        """End a committed value that came second."""
        ...

    def repeatable(self) -> bool:
        """Whether what is sent is still there to be sent again."""
        ...


@attrs.define(eq=False)
class FunctionJob(Generic[T]):
    """A call that a function of the application attempts, on any account.

    Args:
        call, perform, evidence, shows_limits: see `Job`.
    """

    call: Call
    perform: Callable[[Lease], Awaitable[T]]
    evidence: Callable[[Exception, Lease], Evidence | None]
    shows_limits: bool = False
    speaks: str | None = attrs.field(default=None, init=False)
    patience: float | None = attrs.field(default=None, init=False)

    def discard(self, value: T, /) -> None:
        """A value that came second needs no ending: its attempt has returned."""

    def repeatable(self) -> bool:
        """A function can be called again."""
        return True


@attrs.define(eq=False)
class Engine:
    """What every call needs.

    Args:
        dispatcher: places attempts.
        router: says where they may go.
        retry, hedge: the settings of extra attempts.
        max_attempts: attempts of one call that may end in a failure.
        max_wait_for: seconds that a call without a deadline may wait for accounts.
        rng: for backoff.

    Attributes:
        calls: calls so far.
    """

    dispatcher: Dispatcher
    router: Router
    retry: RetrySettings
    hedge: HedgeSettings
    max_attempts: int
    max_wait_for: float
    rng: random.Random
    calls: int = attrs.field(default=0, init=False)

    async def drive(self, job: Job[T]) -> tuple[T, Decision]:
        """Serve the call; what its attempt committed, and its record.

        Raises a `BalancerError` with the decision, or what `perform` raised as the caller's own."""
        deadline = trio.current_effective_deadline()
        if deadline == -math.inf:
            await trio.lowlevel.checkpoint()
        now = trio.current_time()
        self.calls += 1
        self.dispatcher.retries.earn(now)
        if self.hedge.enabled:
            self.dispatcher.hedges.earn(now)
        drive = _Drive(self, job, deadline)
        return await drive.run(now), drive.decision


class _Drive(Generic[T]):
    """One call on its way; local to its task."""

    __slots__ = ("_deadline", "_engine", "_job", "_patience", "decision", "errors", "over", "plan", "repeats", "routes")

    def __init__(self, engine: Engine, job: Job[T], deadline: float) -> None:
        self._engine = engine
        self._job = job
        patience = job.patience
        if patience is None:
            patience = engine.max_wait_for if deadline == math.inf else math.inf
        self._patience = patience
        self._deadline = deadline
        self.decision = Decision(job.call)
        self.plan = CallPlan(job.call.replayable, engine.max_attempts)
        self.errors: list[Exception] = []
        self.repeats = 0
        self.routes: tuple[Route, ...] = ()
        self.over = False

    async def run(self, now: float) -> T:
        refusal: BalancerError | None = None
        while (route := await self._next_route(now)) is not None:
            try:
                return await self._follow(route)
            except (NoAccount, Saturated, DeadlineUnreachable) as error:
                if self.over:  # the caller's own, from a balancer of its own
                    raise
                refusal = error
                now = trio.current_time()
        if refusal is None:
            refusal = BalancerError("the router named no route", decision=self.decision)
        if self.errors and refusal.__cause__ is None:
            refusal.__cause__ = ExceptionGroup("the attempts of the call", self.errors)
        raise refusal

    async def _next_route(self, now: float) -> Route | None:
        answer = self._engine.router(RoutingContext(self._job.call, self.decision.attempts, self.routes, now))
        if answer is not None and not isinstance(answer, Route):
            answer = await answer
        if answer is not None:
            if self.routes and answer.model != self.routes[-1].model:
                self.plan.readmit()
            self.routes = (*self.routes, answer)
            if answer.after > 0.0:
                await trio.sleep(answer.after)
        return answer

    async def _follow(self, route: Route) -> T:
        """Attempt along one route until the call is served or is over. Where every account of the route has failed it, the
        router's next route goes before a second try of the same account."""
        engine, plan, tried = self._engine, self.plan, False
        while True:
            try:
                lease = await self._place(route)
            except OthersOut:
                if (tried or plan.avoid == plan.excluded) and (
                    following := await self._next_route(trio.current_time())
                ) is not None:
                    route, tried = following, False
                    continue
                if plan.avoid == plan.excluded:
                    failed = self._failed()
                    raise failed from failed.__cause__
                plan.avoid = plan.excluded
                await trio.sleep(engine.retry.pause(self.repeats, engine.rng))
                self.repeats += 1
                continue
            tried = True
            if engine.hedge.enabled and self._job.call.hedgeable:
                ends = await self._race(lease, route)
            else:
                ends = (await self._attempt(lease),)
            won = ends[-1]
            if isinstance(won, Won):
                self.decision.outcome = won.outcome
                return won.value
            if not self._goes_on(ends):
                raise self._failed()

    async def _race(self, lease: Lease, route: Route) -> Sequence[End[T]]:
        """How the attempt under `lease`, and a hedge beside it, ended; what won is last."""

        async def place_hedge() -> Lease | None:
            if not self._engine.dispatcher.hedges.try_spend(trio.current_time()):
                return None
            try:
                return await self._place(route, beside=lease)
            except (trio.WouldBlock, OthersOut, BalancerError):
                return None

        return await Race(self._engine.hedge.delay, self._attempt, place_hedge, self._job.discard).run(lease)

    def _goes_on(self, ends: Sequence[End[T]]) -> bool:
        """Whether another attempt may follow these; raises what ends the call as it is."""
        following: set[Next] = set()
        for end in ends:
            match end:
                case Lost():
                    self.errors.append(end.error)
                    self.decision.outcome = end.outcome
                    following.add(self.plan.after(end.account, end.outcome))
                    if Next.DONE in following and not isinstance(end.error, AttemptFailed):
                        self.over = True
                        raise end.error
                case Raised():
                    self.over = True
                    raise end.error
                case _:
                    raise Closed("the balancer was closed during the call", decision=self.decision)
        if not following <= {Next.REQUEUE, Next.SPEND} or not self._job.repeatable():
            return False
        return Next.SPEND not in following or self._engine.dispatcher.retries.try_spend(trio.current_time())

    def _failed(self) -> BalancerError:
        attempts = self.decision.attempts
        ends = Counter(f"{each.account}: {describe(each.outcome)}" for each in attempts if each.outcome is not None)
        told = ", ".join(end if times == 1 else f"{end} {times} times" for end, times in ends.items())
        return AttemptsFailed(f"every attempt failed ({told})", attempts=attempts, errors=self.errors, decision=self.decision)

    # -- placing ----------------------------------------------------------------------------------------------------------

    async def _place(self, route: Route, *, beside: Lease | None = None) -> Lease:
        job, decision = self._job, self.decision
        now = trio.current_time()
        avoid = self.plan.avoid if beside is None else self.plan.avoid | {beside.account.name}
        ticket = Ticket(
            job.call,
            decision,
            route.model,
            route.pool,
            job.speaks,
            avoid,
            min(self._deadline, now + self._patience - decision.waited_for),
            self._deadline,
            beside is not None,
            job.shows_limits,
        )
        try:
            lease = await self._engine.dispatcher.place(ticket)
        except BaseException:
            decision.waited_for += trio.current_time() - now
            raise
        decision.waited_for += lease.record.started_at - now
        return lease

    # -- attempting -------------------------------------------------------------------------------------------------------

    async def _attempt(self, lease: Lease) -> End[T]:
        if lease.settled:  # the balancer was closed between the grant and this step
            return ABORTED
        try:
            value = await self._job.perform(lease)
        except Exception as error:
            return self._lost(lease, error)
        except BaseException:
            lease.withdraw()
            raise
        return Won(lease.record.outcome or SERVED, value)

    def _lost(self, lease: Lease, error: Exception) -> Lost | Raised | Aborted:
        if lease.settled:
            outcome = lease.record.outcome
            if isinstance(outcome, TimedOut):
                return Lost(lease.account.name, outcome, trio.TooSlowError(describe(outcome)))
            return ABORTED
        try:
            evidence = self._job.evidence(error, lease)
        except BaseException:
            lease.withdraw()
            raise
        if evidence is None:
            lease.withdraw()
            return Raised(error)
        lease.settle(evidence.outcome, usage=evidence.usage, limits=evidence.limits)
        return Lost(lease.account.name, evidence.outcome, error)
