"""What an account may take: rates per dimension, and how its provider counts each of them.

How a rate is counted is data (`Counting`): said by the rate itself, else by its table of limits, else by the provider's preset,
else by `DEFAULT`. A wrong value raises `ConfigError` naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import attrs

from balancer.core.calendar import LENGTHS, load_zone
from balancer.core.call import DIMENSIONS
from balancer.core.setting import RANGE, Range, check_range, each, setting, shown
from balancer.errors import ConfigError, Fault

DAY, MONTH = LENGTHS["day"], LENGTHS["month"]
PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": DAY, "month": MONTH}
_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": DAY, **PERIODS}
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)/([a-z]+)", re.ASCII)
RATE_FORMS = '"500/min" (second, min, hour, day, month), { amount = 5, per = 2.0 }, or a list of them'
AMOUNT = Range(float, low=0.0, above=True, high=1e15)
PERIOD = Range(float, low=1e-6, high=DAY * 366)
PERIOD_FORMS = f"{PERIOD.allowed}, or one of " + ", ".join(f'"{period}"' for period in PERIODS)
_SHARED = 'a list of names from [shared_limits]: ["organisation"]'
_MODELS = "a table from model name to a table of limits"

Window = Literal["bucket", "sliding", "calendar"]
Charged = Literal["start", "adjusted", "produced", "max_tokens"]
WINDOWS = ("bucket", "sliding", "calendar")
CHARGED = ("start", "adjusted", "produced", "max_tokens")


def _zone(_instance: object, attribute: attrs.Attribute[Any], name: str | None) -> None:
    if name is not None:
        try:
            load_zone(name)
        except (ValueError, TypeError):
            allowed = 'a name of the IANA time zone database, such as "America/Los_Angeles"'
            raise ConfigError([Fault(attribute.name, shown(name), allowed)]) from None


@attrs.frozen
class Counting:
    """How a provider counts a rate. `None`: not said here.

    Args:
        window: `"bucket"` (refills continuously), `"sliding"` (at most so many in any period) or `"calendar"` (so many per
            civil day or month in `zone`; for rates per day or month).
        burst: for buckets, how much of a full bucket may go at once, >= 1 and at most the amount.
        charged: when and what tokens are counted: `"start"`: the estimate, when the request is sent; `"adjusted"`: the same,
            corrected by the answer's usage, in a window as if that had been known then; `"produced"`: the usage, when the answer
            has been produced; `"max_tokens"`: the input and the request's bound of the output, when it is sent; the input is an
            estimate until its usage is known.
        cached_free: whether tokens read from the provider's cache are not counted.
        failed_charged: whether a request is counted that was refused.
        zone: the IANA name of the provider's time zone, for `"calendar"`.
    """

    window: Window | None = attrs.field(
        default=None, validator=check_range, metadata={RANGE: Range(str, choices=WINDOWS, optional=True)}
    )
    burst: float | None = setting(None, kind=float, low=1, high=1e15, optional=True)
    charged: Charged | None = attrs.field(
        default=None, validator=check_range, metadata={RANGE: Range(str, choices=CHARGED, optional=True)}
    )
    cached_free: bool | None = setting(None, kind=bool, optional=True)
    failed_charged: bool | None = setting(None, kind=bool, optional=True)
    zone: str | None = attrs.field(default=None, validator=[check_range, _zone], metadata={RANGE: Range(str, optional=True)})

    def over(self, other: Counting) -> Counting:
        """This, and what it leaves open as `other` says."""
        if self == _OPEN:
            return other
        named = {name: getattr(self, name) for name in _COUNTING}
        return Counting(**{name: getattr(other, name) if value is None else value for name, value in named.items()})


_COUNTING = tuple(field.name for field in attrs.fields(Counting))
_OPEN = Counting()
DEFAULT = Counting("bucket", None, "adjusted", cached_free=False, failed_charged=False, zone="UTC")

Presets = Mapping[tuple[str, float | None], Counting]
"""How a provider counts: (dimension, period in seconds) -> counting; period `None` for every one that has no entry."""
NO_PRESETS: Presets = {}


@attrs.frozen
class Rate:
    """So much per so long.

    Args:
        amount: how much of the dimension, > 0.
        per: the period in seconds, >= 1e-6: a much shorter one could not be divided by the amount.
        counting: how the provider counts it, as far as it is said here.
    """

    amount: float = attrs.field(validator=check_range, metadata={RANGE: AMOUNT})
    per: float = attrs.field(validator=check_range, metadata={RANGE: PERIOD})
    counting: Counting = _OPEN

    def __attrs_post_init__(self) -> None:
        burst = self.counting.burst
        if burst is not None and burst > self.amount:
            raise ConfigError([Fault("burst", f"{burst:g}", f"at most {self.amount:g}, the amount per {self.per:g} s")])
        if self.counting.window == "calendar" and self.per not in (DAY, MONTH):
            raise ConfigError([Fault("window", "'calendar'", 'a rate per "day" or per "month"')])

    @classmethod
    def parse(cls, given: object) -> Rate:
        """A rate from `"500/min"` or `{amount, per}` and the fields of `Counting`. Raises `ConfigError`."""
        if isinstance(given, Rate):
            return given
        if isinstance(given, str) and (match := _RATE.fullmatch(given)) and match[2] in _UNITS and float(match[1]) > 0:
            return cls(float(match[1]), _UNITS[match[2]])
        if isinstance(given, Mapping):
            return cls._from_table(cast("Mapping[object, Any]", given))
        raise ConfigError([Fault("", shown(given), RATE_FORMS)])

    @classmethod
    def _from_table(cls, table: Mapping[object, Any]) -> Rate:
        known = ("amount", "per", *_COUNTING)
        faults = [Fault(str(key), "unknown key", ", ".join(known)) for key in table if key not in known]
        per = table.get("per")
        per = PERIODS.get(per, per) if isinstance(per, str) else per
        for key, value, allowed, form in (
            ("amount", table.get("amount"), AMOUNT, AMOUNT.allowed),
            ("per", per, PERIOD, PERIOD_FORMS),
        ):
            if key not in table or not allowed.admits(value):
                faults.append(Fault(key, shown(table[key]) if key in table else "missing", form))
        counting = _counting({name: table.get(name) for name in _COUNTING}, faults)
        if faults:
            raise ConfigError(faults)
        return cls(cast("float", table["amount"]), cast("float", per), counting)


def _counting(given: Mapping[str, Any], faults: list[Fault]) -> Counting:
    """What of `given` is right; the rest is added to `faults`."""
    right: dict[str, Any] = {}
    for name, value in given.items():
        try:
            Counting(**{name: value})
        except ConfigError as error:
            faults += error.faults
        else:
            right[name] = value
    return Counting(**right)


def parse_rates(given: object) -> tuple[Rate, ...]:
    """Rates from one form or a list of forms; `None` is no rate. Raises `ConfigError` with every fault."""
    if given is None:
        return ()
    return each(cast("Iterable[object]", given), Rate.parse) if isinstance(given, list | tuple) else (Rate.parse(given),)


SHORT_FORMS = {
    f"{dimension}_per_{period}": (dimension, seconds) for dimension in DIMENSIONS for period, seconds in PERIODS.items()
}
"""`requests_per_minute` and the like: key -> (dimension, period in seconds)."""


@attrs.frozen
class Terms:
    """One rate with all of its counting settled; the fields are those of `Rate` and `Counting`."""

    dimension: str
    amount: float
    per: float
    window: Window
    burst: float
    charged: Charged
    cached_free: bool
    failed_charged: bool
    zone: str


@attrs.frozen(init=False)
class Limits:
    """What one account may take: rates per dimension, and calls at once.

    Args:
        requests, tokens, input_tokens, output_tokens, images: a rate or a list of rates (`Rate.parse` names the forms).
        concurrency: attempts at once, >= 1; `None` for no limit.
        window, burst, charged, cached_free, failed_charged, zone: how the provider counts every rate here that does not say it
            itself (`Counting`). `None`, and `"bucket"`: as the provider's preset says, else a bucket of the whole amount, adjusted
            by the usage. `burst` is of the requests of the shortest period, where requests are limited: so few of a day's, or so
            few tokens, would be next to none.
        models: limits that hold for one model alone, beside these: the application's model name -> limits.
        shared: names of limits in `[shared_limits]` that this account shares with others.
        short: `requests_per_minute=500` and the like, for every dimension and second, minute, hour, day, month.
    """

    requests: tuple[Rate, ...]
    tokens: tuple[Rate, ...]
    input_tokens: tuple[Rate, ...]
    output_tokens: tuple[Rate, ...]
    images: tuple[Rate, ...]
    concurrency: int | None = setting(None, kind=int, low=1, high=1_000_000, optional=True)
    window: Window = "bucket"
    burst: float | None = None
    charged: Charged | None = None
    cached_free: bool | None = None
    failed_charged: bool | None = None
    zone: str | None = None
    models: Mapping[str, Limits] = attrs.field(factory=dict[str, "Limits"], hash=False)
    shared: tuple[str, ...] = ()

    def __init__(
        self,
        /,
        requests: object = None,
        tokens: object = None,
        input_tokens: object = None,
        output_tokens: object = None,
        images: object = None,
        concurrency: int | None = None,
        window: str = "bucket",
        burst: float | None = None,
        charged: str | None = None,
        cached_free: bool | None = None,
        failed_charged: bool | None = None,
        zone: str | None = None,
        models: object = None,
        shared: object = (),
        **short: float,
    ) -> None:
        faults: list[Fault] = []
        given: dict[str, object] = dict(zip(DIMENSIONS, (requests, tokens, input_tokens, output_tokens, images), strict=True))
        rates = _rates(given, short, faults)
        allowed: Range = attrs.fields(Limits).concurrency.metadata[RANGE]
        if not allowed.admits(concurrency):
            faults.append(Fault("concurrency", shown(concurrency), allowed.allowed))
        window = "bucket" if window is None else window  # pyright: ignore[reportUnnecessaryComparison]
        told = dict(zip(_COUNTING, (window, burst, charged, cached_free, failed_charged, zone), strict=True))
        counting = _counting(told, faults)
        if not faults:
            faults += _misfits(rates, counting)
        by_model = _by_model(models, faults)
        names = tuple(cast("Iterable[object]", shared)) if isinstance(shared, list | tuple) else (None,)
        if not all(isinstance(name, str) for name in names):
            faults.append(Fault("shared", shown(cast("object", shared)), _SHARED))
        else:  # named twice it would be charged twice
            faults += [
                Fault(f"shared[{place}]", shown(name), f"a name that shared[{names.index(name)}] does not have")
                for place, name in enumerate(names)
                if names.index(name) < place
            ]
        if faults:
            raise ConfigError(faults)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            *(tuple(rates[dimension]) for dimension in DIMENSIONS),
            concurrency,
            *attrs.astuple(counting),
            by_model,
            names,
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

    def rates(self) -> Iterator[tuple[str, Rate]]:
        """Every rate with its dimension, without those of single models and shared ones."""
        for dimension in DIMENSIONS:
            for rate in getattr(self, dimension):
                yield dimension, rate

    def terms(self, presets: Presets) -> Iterator[Terms]:
        """Every rate of `rates()` with its counting settled, `presets` being the provider's."""
        own = Counting(**{name: getattr(self, name) for name in _COUNTING})
        if own.window == DEFAULT.window:
            own = attrs.evolve(own, window=None)
        others = attrs.evolve(own, burst=None)
        bursting = _bursting(list(self.rates()))
        for dimension, rate in self.rates():
            preset = presets.get((dimension, rate.per)) or presets.get((dimension, None)) or _OPEN
            told = own if (dimension, rate) in bursting else others
            counting = rate.counting.over(told).over(preset).over(DEFAULT)
            burst = rate.amount if counting.burst is None else min(counting.burst, rate.amount)
            window = counting.window
            if window == "calendar" and rate.per not in (DAY, MONTH):
                window = "bucket"  # said of a whole table: it is meant for those rates that have a calendar
            settled = cast("Any", (window, burst, *attrs.astuple(counting)[2:]))
            yield Terms(dimension, rate.amount, rate.per, *settled)


def _rates(given: Mapping[str, object], short: Mapping[str, float], faults: list[Fault]) -> dict[str, list[Rate]]:
    rates: dict[str, list[Rate]] = {dimension: [] for dimension in given}
    for dimension, forms in given.items():
        try:
            rates[dimension] += parse_rates(forms)
        except ConfigError as error:
            faults += [fault.below(dimension) for fault in error.faults]
    for key, amount in short.items():
        if key not in SHORT_FORMS:
            faults.append(Fault(key, "unknown key", "known: " + ", ".join(Limits.keys())))
        elif not AMOUNT.admits(amount):
            faults.append(Fault(key, shown(amount), AMOUNT.allowed))
        else:
            dimension, per = SHORT_FORMS[key]
            rates[dimension].append(Rate(amount, per))
    return rates


def _misfits(rates: Mapping[str, list[Rate]], counting: Counting) -> Iterator[Fault]:
    """What is said of a whole table but fits none, or not all, of its rates."""
    each_rate = [(dimension, rate) for dimension in rates for rate in rates[dimension]]
    if counting.burst is not None:
        for dimension, rate in _bursting(each_rate):
            if rate.counting.burst is None and counting.burst > rate.amount:
                yield Fault(
                    "burst", f"{counting.burst:g}", f"at most {rate.amount:g}, the amount of {dimension} per {rate.per:g} s"
                )
    if counting.window == "calendar" and each_rate and all(rate.per not in (DAY, MONTH) for _, rate in each_rate):
        yield Fault("window", "'calendar'", "a rate per day or per month, which there is none of")


def _bursting(rates: Sequence[tuple[str, Rate]]) -> list[tuple[str, Rate]]:
    """The rates that a table's `burst` is meant for."""
    requests = [each for each in rates if each[0] == "requests"] or rates
    shortest = min((rate.per for _, rate in requests), default=0.0)
    return [(dimension, rate) for dimension, rate in requests if rate.per == shortest]


def _by_model(given: object, faults: list[Fault]) -> dict[str, Limits]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        faults.append(Fault("models", shown(given), _MODELS))
        return {}
    limits: dict[str, Limits] = {}
    for model, table in cast("Mapping[object, object]", given).items():
        if not (isinstance(model, str) and model):
            faults.append(Fault("models", shown(model), "the name of a model"))
            continue
        path = f"models.{model}"
        try:
            limits[model] = Limits.parse(table)
        except ConfigError as error:
            faults += [fault.below(path) for fault in error.faults]
            continue
        if limits[model].models or limits[model].shared or limits[model].concurrency is not None:
            faults.append(Fault(path, "models, shared or concurrency", "rates and how they are counted"))
    return limits
