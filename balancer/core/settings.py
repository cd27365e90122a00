"""Accounts, their limits and the pools they form, as plain frozen data.

The classes take in code what a TOML file takes: `Limits(requests_per_minute=500)`, `Limits(tokens="30000/min")`,
`Account(limits={"requests": {"amount": 5, "per": 2.0}})`. A wrong value raises `ConfigError` naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, cast

import attrs

from balancer.core.call import DIMENSIONS
from balancer.core.secret import Secret
from balancer.core.setting import RANGE, Range, check_range, setting, shown
from balancer.errors import ConfigError, Fault

PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, **PERIODS}
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)/([a-z]+)", re.ASCII)
RATE_FORMS = '"500/min" (second, min, hour, day), { amount = 5, per = 2.0 }, or a list of them'
AMOUNT = Range(float, low=0.0, above=True, high=1e15)
PERIOD = Range(float, low=0.0, above=True, high=86400.0 * 366)
TEXT = Range(str)

V = TypeVar("V")


@attrs.frozen
class Rate:
    """So much per so long.

    Args:
        amount: how much of the dimension, > 0.
        per: the period in seconds, > 0.
    """

    amount: float = attrs.field(validator=check_range, metadata={RANGE: AMOUNT})
    per: float = attrs.field(validator=check_range, metadata={RANGE: PERIOD})

    @classmethod
    def parse(cls, given: object) -> Rate:
        """A rate from `"500/min"` or `{amount, per}`. Raises `ConfigError`."""
        if isinstance(given, Rate):
            return given
        if isinstance(given, str) and (match := _RATE.fullmatch(given)) and match[2] in _UNITS and float(match[1]) > 0:
            return cls(float(match[1]), _UNITS[match[2]])
        if isinstance(given, Mapping):
            table = cast("Mapping[object, object]", given)
            unknown = [key for key in table if key not in ("amount", "per")]
            faults = [Fault(str(key), "unknown key", "amount, per") for key in unknown]
            faults += [
                Fault(key, shown(table[key]) if key in table else "missing", allowed.allowed)
                for key, allowed in (("amount", AMOUNT), ("per", PERIOD))
                if key not in table or not allowed.admits(table[key])
            ]
            if faults:
                raise ConfigError(faults)
            return cls(cast("float", table["amount"]), cast("float", table["per"]))
        raise ConfigError([Fault("", shown(given), RATE_FORMS)])


def parse_rates(given: object) -> tuple[Rate, ...]:
    """Rates from one form or a list of forms; `None` is no rate. Raises `ConfigError` with every fault."""
    if given is None:
        return ()
    return _each(cast("Iterable[object]", given), Rate.parse) if isinstance(given, list | tuple) else (Rate.parse(given),)


def _each(given: Iterable[object], parse: Callable[[object], V]) -> tuple[V, ...]:
    """Every item parsed. Raises `ConfigError` with every fault, each at its item's place."""
    values: list[V] = []
    faults: list[Fault] = []
    for place, item in enumerate(given):
        try:
            values.append(parse(item))
        except ConfigError as error:
            faults += [fault.below(f"[{place}]") for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return tuple(values)


SHORT_FORMS = {
    f"{dimension}_per_{period}": (dimension, seconds) for dimension in DIMENSIONS for period, seconds in PERIODS.items()
}
"""`requests_per_minute` and the like: key -> (dimension, period in seconds)."""


@attrs.frozen(init=False)
class Limits:
    """What one account may take: rates per dimension, and calls at once.

    Args:
        requests, tokens, input_tokens, output_tokens: a rate or a list of rates (`Rate.parse` names the forms).
        concurrency: attempts at once, >= 1; `None` for no limit.
        window: how the provider counts: `"bucket"` (refills continuously) or `"sliding"` (at most so many in any period).
        burst: for buckets, how much of a full bucket may go at once, >= 1 and at most the amount; `None`: all of it.
        short: `requests_per_minute=500` and the like, for every dimension and second, minute, hour, day.
    """

    requests: tuple[Rate, ...]
    tokens: tuple[Rate, ...]
    input_tokens: tuple[Rate, ...]
    output_tokens: tuple[Rate, ...]
    concurrency: int | None = setting(None, kind=int, low=1, high=1_000_000, optional=True)
    window: Literal["bucket", "sliding"] = setting("bucket", kind=str, choices=("bucket", "sliding"))
    burst: float | None = setting(None, kind=float, low=1, high=1e15, optional=True)

    def __init__(
        self,
        /,
        requests: object = None,
        tokens: object = None,
        input_tokens: object = None,
        output_tokens: object = None,
        concurrency: int | None = None,
        window: str = "bucket",
        burst: float | None = None,
        **short: float,
    ) -> None:
        given = {"requests": requests, "tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        rates: dict[str, list[Rate]] = {dimension: [] for dimension in given}
        faults: list[Fault] = []
        for dimension, forms in given.items():
            try:
                rates[dimension] += parse_rates(forms)
            except ConfigError as error:
                faults += [fault.below(dimension) for fault in error.faults]
        for key, amount in short.items():
            if key not in SHORT_FORMS:
                faults.append(Fault(key, "unknown key", "known: " + ", ".join(self.keys())))
            elif not AMOUNT.admits(amount):
                faults.append(Fault(key, shown(amount), AMOUNT.allowed))
            else:
                dimension, per = SHORT_FORMS[key]
                rates[dimension].append(Rate(amount, per))
        plain = {"concurrency": concurrency, "window": window, "burst": burst}
        for field in attrs.fields(Limits):
            allowed: Range | None = field.metadata.get(RANGE)
            if allowed is not None and not allowed.admits(plain[field.name]):
                faults.append(Fault(field.name, shown(plain[field.name]), allowed.allowed))
        if not faults and burst is not None:
            faults += [
                Fault("burst", f"{burst:g}", f"at most {rate.amount:g}, the amount of {dimension} per {rate.per:g} s")
                for dimension in rates
                for rate in rates[dimension]
                if burst > rate.amount
            ]
        if faults:
            raise ConfigError(faults)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            *(tuple(rates[dimension]) for dimension in given), concurrency, window, burst
        )

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Every key that a limits table may hold."""
        return (*(field.name for field in attrs.fields(cls)), *SHORT_FORMS)

    @classmethod
    def parse(cls, given: object) -> Limits:
        """Limits from a mapping, or as they are. Raises `ConfigError` with every fault."""
        if isinstance(given, Limits):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError([Fault("", shown(given), "a table of limits")])
        table = cast("Mapping[object, Any]", given)
        if strange := [Fault(shown(key), "unknown key", "texts as keys") for key in table if not isinstance(key, str)]:
            raise ConfigError(strange)
        return cls(**cast("Mapping[str, Any]", table))

    def rates(self) -> Iterable[tuple[str, Rate]]:
        """Every rate with its dimension."""
        for dimension in DIMENSIONS:
            for rate in getattr(self, dimension):
                yield dimension, rate


def _under(path: str, parse: Callable[[Any], V]) -> Callable[[Any], V]:
    """A converter whose faults carry the field's name."""

    def convert(given: Any) -> V:
        try:
            return parse(given)
        except ConfigError as error:
            raise ConfigError(fault.below(path) for fault in error.faults) from None

    return convert


def _names(given: object) -> Mapping[str, str] | None:
    """`models`: a mapping from the application's names to the account's, or a list of names that stay as they are."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        table = cast("Mapping[object, object]", given)
        if all(isinstance(key, str) and isinstance(value, str) and key and value for key, value in table.items()):
            return dict(cast("Mapping[str, str]", table))
    elif isinstance(given, list | tuple | set | frozenset):
        names = list(cast("Iterable[object]", given))
        if all(isinstance(name, str) and name for name in names):
            return {cast("str", name): cast("str", name) for name in names}
    allowed = "a list of model names, or a table from name to the account's own name"
    raise ConfigError([Fault("", shown(cast("object", given)), allowed)])


def _secret(given: object) -> Secret | None:
    if given is None or isinstance(given, Secret):
        return given
    if isinstance(given, str) and given and given.isascii() and given.isprintable():
        return Secret(given)
    raise ConfigError([Fault("", "a value that cannot be sent", "a text of printable ASCII characters")])


def _auth(given: object) -> str | Mapping[str, str]:
    if isinstance(given, str) and given in ("", "bearer"):
        return given
    if isinstance(given, Mapping):
        table = cast("Mapping[object, object]", given)
        name = table.get("header")
        if set(table) == {"header"} and isinstance(name, str) and _HEADER_NAME.fullmatch(name):
            return {"header": name}
    # A credential written here is a likely slip; a word of letters is none.
    hidden = isinstance(given, str) and not (len(given) <= 20 and given.isalpha())
    problem = "a text that names no way" if hidden else shown(cast("object", given))
    raise ConfigError([Fault("", problem, '"bearer", or { header = "X-Api-Key" }')])


_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)


def _headers(given: object) -> Mapping[str, str]:
    if isinstance(given, Mapping):
        table = cast("Mapping[object, object]", given)
        if all(
            isinstance(key, str) and _HEADER_NAME.fullmatch(key) and isinstance(value, str) and _HEADER_VALUE.fullmatch(value)
            for key, value in table.items()
        ):
            return dict(cast("Mapping[str, str]", table))
    raise ConfigError([Fault("", "a table with a name or value that no header may have", "a table from header name to text")])


def _texts(given: object) -> tuple[str, ...]:
    if isinstance(given, list | tuple | set | frozenset):
        texts = tuple(cast("Iterable[object]", given))
        if all(isinstance(text, str) for text in texts):
            return cast("tuple[str, ...]", texts)
    raise ConfigError([Fault("", shown(cast("object", given)), "a list of texts")])


def _tiers(given: object) -> tuple[tuple[str, ...], ...]:
    if isinstance(given, list | tuple):
        return _each(cast("Iterable[object]", given), _texts)
    raise ConfigError([Fault("", shown(given), "a list of tiers, each a list of names")])


def _keys(table: Mapping[str, str]) -> str:
    """The names in a table whose values may be credentials."""
    return f"<{', '.join(table)}>"


@attrs.frozen
class Account:
    """One quota owner at one backend.

    Args:
        name: unique in the configuration.
        provider: `"openai"`, `"anthropic"`, `"http"`, or `"mock"` for a backend that is started beside the program.
        base_url: where it is; by default the provider's own address, required for `"http"`.
        key: the credential itself; prefer `key_env` or `key_file` in files.
        key_env: the environment variable that holds it.
        key_file: the file that holds it.
        models: the model names it offers, mapped to its own; absent: every model under its own name.
        weight: share of the traffic against other accounts, >= 0; 0: only when no other can.
        limits: what it may take.
        headers: sent with every request; the values may be credentials and are never shown.
        params: added to the query of every request; never shown either.
        auth: how the credential is sent: `""` as the provider does, `"bearer"`, or `{"header": name}`.
        host: the name to send as `Host` and to verify in TLS, where it differs from the address in `base_url`.
        tags: marks for routers.
        allow_headers: names of further request headers to pass on in LLM calls.
        transport: code only: an `httpx.AsyncBaseTransport` that answers instead of the network.
        mock: for `"mock"`: what the started backend does.
    """

    name: str = attrs.field(validator=check_range, metadata={RANGE: TEXT})
    provider: str = setting("openai", kind=str)
    base_url: str | None = setting(None, kind=str, optional=True)
    key: Secret | None = attrs.field(default=None, converter=_under("key", _secret))
    key_env: str | None = setting(None, kind=str, optional=True)
    key_file: str | None = setting(None, kind=str, optional=True)
    models: Mapping[str, str] | None = attrs.field(hash=False, default=None, converter=_under("models", _names))
    weight: float = setting(1.0, kind=float, low=0.0, high=1e9)
    limits: Limits = attrs.field(factory=Limits, converter=_under("limits", Limits.parse))
    headers: Mapping[str, str] = attrs.field(
        hash=False, factory=dict[str, str], converter=_under("headers", _headers), repr=_keys
    )
    params: Mapping[str, str] = attrs.field(
        hash=False, factory=dict[str, str], converter=_under("params", _headers), repr=_keys
    )
    auth: str | Mapping[str, str] = attrs.field(hash=False, default="", converter=_under("auth", _auth))
    host: str | None = setting(None, kind=str, optional=True)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_under("tags", _texts))
    allow_headers: tuple[str, ...] = attrs.field(default=(), converter=_under("allow_headers", _texts))
    transport: Any = attrs.field(default=None, repr=False, hash=False)
    mock: Mapping[str, Any] | None = attrs.field(default=None, repr=False, hash=False)

    def model_name(self, model: str | None) -> str | None:
        """The account's own name of `model`; `None` if it does not offer it."""
        return model if self.models is None or model is None else self.models.get(model)


@attrs.frozen
class Pool:
    """Accounts, or pools, that can stand in for each other, in order of preference.

    Args:
        name: unique in the configuration.
        tiers: lists of account names; `@name` stands for another pool. A tier is used when none before it can take the call now.
    """

    name: str = attrs.field(validator=check_range, metadata={RANGE: TEXT})
    tiers: tuple[tuple[str, ...], ...] = attrs.field(converter=_under("tiers", _tiers))
