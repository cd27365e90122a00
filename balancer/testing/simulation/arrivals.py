"""When calls come and what they ask for, drawn from seeded generators: a process of instants, and a mix of classes.

Open loop: calls arrive when they arrive, whether earlier ones are answered or not.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

import attrs

from balancer.core.call import Demand, Usage

Process = Callable[[random.Random], Iterator[float]]
"""Instants in seconds from the start, in order; without an end, or as many as there are."""

Draw = Callable[[random.Random], float]
"""A number from a distribution."""

ONE_REQUEST = Demand()


def poisson(per_minute: float) -> Process:
    """Independent arrivals at `per_minute` on average."""
    return piecewise((math.inf, per_minute))


def constant(per_minute: float) -> Process:
    """One arrival every `60 / per_minute` seconds, the first after one such while."""
    return lambda rng: (number * 60.0 / per_minute for number in itertools.count(1))


def bursts(count: int, every: float) -> Process:
    """`count` arrivals at once at 0, `every` seconds later again, and so on."""
    return lambda rng: (number * every for number in itertools.count() for _ in range(count))


def backlog(count: int) -> Process:
    """`count` arrivals at the start, none after."""
    return lambda rng: itertools.repeat(0.0, count)


def piecewise(*pieces: tuple[float, float]) -> Process:
    """Independent arrivals at a rate that changes: `(seconds, per_minute)` after `(seconds, per_minute)`, then none."""

    def arrive(rng: random.Random) -> Iterator[float]:
        begin = 0.0
        for seconds, per_minute in pieces:
            at = begin
            while per_minute > 0.0 and (at := at + rng.expovariate(per_minute / 60.0)) < begin + seconds:
                yield at
            begin += seconds

    return arrive


def log_uniform(low: float, high: float) -> Draw:
    """Anything from `low` to `high`, with equal chances for equal ratios."""
    return lambda rng: math.exp(rng.uniform(math.log(low), math.log(high)))


def off_by(factor: Draw | float) -> Callable[[Demand, random.Random], Usage]:
    """The truth of calls whose token demand is wrong by a factor: one for all, or one drawn for each."""

    def truth(demand: Demand, rng: random.Random) -> Usage:
        times = factor(rng) if callable(factor) else factor
        read, written = round(demand.input_tokens * times), round(demand.output_tokens * times)
        return Usage(read, written, demand.requests, images=demand.images)

    return truth


def as_demanded(demand: Demand) -> Usage:
    """The usage of a call that takes exactly what it demanded."""
    return Usage(demand.input_tokens, demand.output_tokens, demand.requests, images=demand.images)


@attrs.frozen
class CallClass:
    """Calls of one kind.

    Args:
        name: what reports call them.
        demand: what each demands, or what draws it.
        weight: its share of the mix against the others', > 0.
        truth: draws what a call really takes; `None`: exactly its demand.
        model, tenant, priority: of its calls.
        deadline_after: seconds from the arrival to the deadline; `inf`: it has none.
    """

    name: str
    demand: Demand | Callable[[random.Random], Demand] = ONE_REQUEST
    weight: float = 1.0
    truth: Callable[[Demand, random.Random], Usage] | None = None
    model: str | None = None
    tenant: str = ""
    priority: int = 0
    deadline_after: float = math.inf


@attrs.frozen(init=False)
class CallMix:
    """Classes of calls, each drawn as often as its weight says."""

    classes: tuple[CallClass, ...]
    _until: tuple[float, ...] = attrs.field(repr=False)

    def __init__(self, *classes: CallClass) -> None:
        if not classes or any(not 0.0 < each.weight < math.inf for each in classes):
            raise ValueError("a mix is of at least one class, and weights are finite and above 0")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            classes, tuple(itertools.accumulate(each.weight for each in classes))
        )

    def draw(self, rng: random.Random) -> CallClass:
        """One class."""
        return rng.choices(self.classes, cum_weights=self._until)[0]


@attrs.frozen
class Arrivals:
    """A stream of calls.

    Args:
        process: when they come.
        mix: what they are; one class alone is a mix too.
    """

    process: Process
    mix: CallMix = attrs.field(converter=lambda given: CallMix(given) if isinstance(given, CallClass) else given)


@attrs.frozen
class DrawnCall:
    """One call of the traffic.

    Attributes:
        at: its arrival, in seconds from the start.
        kind: its class.
        demand: what it demands.
        truth: what it really takes.
    """

    at: float
    kind: CallClass
    demand: Demand
    truth: Usage


def draw_calls(arrivals: Arrivals, rng: random.Random) -> Iterator[DrawnCall]:
    """The calls of one stream, in order; one generator gives one stream."""
    for at in arrivals.process(rng):
        kind = arrivals.mix.draw(rng)
        demand = kind.demand if isinstance(kind.demand, Demand) else kind.demand(rng)
        truth = as_demanded(demand) if kind.truth is None else kind.truth(demand, rng)
        yield DrawnCall(at, kind, demand, truth)
