"""`MockSettings`: the truth of one mock backend, the `[accounts.mock]` table of a configuration.

`limits` here is what the backend enforces; the account's own `limits` is what the balancer is told. A test makes them differ.
"""

from __future__ import annotations

from typing import Literal

import attrs

from balancer.core.limits import Limits
from balancer.core.secret import Secret
from balancer.core.setting import setting, shown
from balancer.errors import ConfigError, Fault
from balancer.structuring import structure
from balancer.testing.mock.faults import Source, parse_sources
from balancer.testing.mock.latency import Constant, Latency, parse_latency
from balancer.testing.mock.table import below, read_list


def _key(given: object) -> Secret:
    if isinstance(given, Secret):
        return given
    if isinstance(given, str) and given and given.isascii() and given.isprintable():
        return Secret(given)
    raise ConfigError([Fault("", "a value that cannot be sent", "a text of printable ASCII characters")])


def _keys(given: object) -> tuple[Secret, ...] | None:
    return None if given is None else read_list(given, _key, "a list of keys")


def _limits(given: object) -> Limits:
    limits = Limits.parse(given)
    if limits.shared:
        raise ConfigError([Fault("shared", shown(list(limits.shared)), "nothing: a mock backend counts its own limits only")])
    return limits


@attrs.frozen
class MockSettings:
    """What a mock backend does.

    Args:
        speaks: whose headers and plain-path errors it sends; the body's shape always follows the path.
        latency: seconds to the first byte, as a number or a distribution.
        token_interval: seconds between streamed tokens; with 0 the whole stream is written at once.
        output_tokens: tokens of an answer, unless the request allows fewer.
        limits: per key, and per key and model; counted as they say, else as the provider does whose headers it sends. A limit
            that several backends share it cannot count. Its answers read nothing from a cache.
        charge_refused: whether every limit of requests counts a refused one too.
        headers: `"honest"` shows the limits on every answer, `"none"` never.
        retry_after: whether a refusal says when to come back.
        faults: what goes wrong with admitted requests.
        keys: the credentials that are accepted; `None`: any, or none at all.
        seed: of the latencies and of the faults by chance.
        record_limit: how many requests the record keeps, about 2 kB each; `None`: all.
        record_bodies: whether the record keeps the bodies.
    """

    speaks: Literal["openai", "anthropic"] = setting("openai", kind=str, choices=("openai", "anthropic"))
    latency: Latency = attrs.field(default=Constant(0.0), converter=below("latency", parse_latency))
    token_interval: float = setting(0.0, kind=float, low=0.0, high=3600.0)
    output_tokens: int = setting(16, kind=int, low=0, high=1_000_000)
    limits: Limits = attrs.field(factory=Limits, converter=below("limits", _limits))
    charge_refused: bool = setting(False, kind=bool)
    headers: Literal["honest", "none"] = setting("honest", kind=str, choices=("honest", "none"))
    retry_after: bool = setting(True, kind=bool)
    faults: tuple[Source, ...] = attrs.field(default=(), converter=below("faults", parse_sources))
    keys: tuple[Secret, ...] | None = attrs.field(default=None, converter=below("keys", _keys))
    seed: int = setting(0, kind=int)
    record_limit: int | None = setting(10_000, kind=int, low=1, high=10**9, optional=True)
    record_bodies: bool = setting(False, kind=bool)

    @classmethod
    def parse(cls, given: object) -> MockSettings:
        """Settings from a table, or as they are. Raises `ConfigError` with every fault, its path relative to the table."""
        return given if isinstance(given, MockSettings) else structure(cls, given)
