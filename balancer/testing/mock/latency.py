"""How long a mock backend takes to its first byte: a distribution, drawn from a seeded generator. All values in seconds."""

from __future__ import annotations

import math
import random

import attrs

from balancer.core.setting import setting, shown
from balancer.errors import ConfigError, Fault
from balancer.testing.mock.table import as_table, below, read_kind

LONGEST = 86400.0
ALLOWED = 'a number of seconds, or a table { kind = "constant" | "uniform" | "exponential" | "lognormal" | "mixture", ... }'


def _seconds(default: float | None = None, *, above: bool = False) -> float:
    if default is None:
        return setting(kind=float, low=0.0, high=LONGEST, above=above)
    return setting(default, kind=float, low=0.0, high=LONGEST, above=above)


@attrs.frozen
class Constant:
    """Always the same."""

    value: float = _seconds(0.0)

    def draw(self, _rng: random.Random) -> float:
        """One latency."""
        return self.value


@attrs.frozen
class Uniform:
    """Anything from `low` to `high`, equally likely."""

    low: float = _seconds()
    high: float = _seconds()

    def draw(self, rng: random.Random) -> float:
        """One latency."""
        return rng.uniform(self.low, self.high)


@attrs.frozen
class Exponential:
    """Memoryless, with this mean."""

    mean: float = _seconds(above=True)

    def draw(self, rng: random.Random) -> float:
        """One latency."""
        return rng.expovariate(1.0 / self.mean)


@attrs.frozen
class Lognormal:
    """The usual shape of measured latencies: half are below `median`; `sigma` 0.5 puts p99 at 3.2 medians, 1.0 at 10."""

    median: float = _seconds(above=True)
    sigma: float = setting(0.5, kind=float, low=0.0, high=5.0)

    def draw(self, rng: random.Random) -> float:
        """One latency."""
        return rng.lognormvariate(math.log(self.median), self.sigma)


def parse_latency(given: object) -> Latency:
    """A latency from a number or a table. Raises `ConfigError`."""
    if isinstance(given, Constant | Uniform | Exponential | Lognormal | Mixture):
        return given
    if isinstance(given, int | float) and not isinstance(given, bool):
        if 0.0 <= given <= LONGEST:
            return Constant(given)
        raise ConfigError([Fault("", shown(given), f"a number from 0 to {LONGEST:g}")])
    return read_kind(KINDS, as_table(given, ALLOWED))


@attrs.frozen
class Mixture:
    """Mostly `usual`, and `slow` in a share `slow_ratio` of the requests: a heavy tail, made of two that are understood."""

    usual: Latency = attrs.field(converter=below("usual", parse_latency))
    slow: Latency = attrs.field(converter=below("slow", parse_latency))
    slow_ratio: float = setting(0.05, kind=float, low=0.0, high=1.0)

    def draw(self, rng: random.Random) -> float:
        """One latency."""
        return (self.slow if rng.random() < self.slow_ratio else self.usual).draw(rng)


Latency = Constant | Uniform | Exponential | Lognormal | Mixture

KINDS: dict[str, type[Latency]] = {
    "constant": Constant,
    "uniform": Uniform,
    "exponential": Exponential,
    "lognormal": Lognormal,
    "mixture": Mixture,
}
