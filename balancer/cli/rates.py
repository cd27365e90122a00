"""Limits as people and programs read them: a rate in a few words, how it is counted, and a table that can be read back."""

from __future__ import annotations

from typing import Any

import attrs

from balancer.core.limits import MONTH, PERIODS, Counting, Limits, Rate, Terms
from balancer.errors import ConfigError

_SHORT = {"second": "s", "minute": "min", "hour": "h", "day": "day", "month": "month"}
_NAMES = {seconds: name for name, seconds in PERIODS.items()}
_CHARGED = {
    "start": "by estimate",
    "adjusted": "by estimate, then usage",
    "produced": "as produced",
    "max_tokens": "by max_tokens",
}
_TOKENS = ("tokens", "input_tokens", "output_tokens")


def per_text(seconds: float) -> str:
    """A period: `min`, `2.5 s`."""
    return _SHORT[_NAMES[seconds]] if seconds in _NAMES else f"{seconds:g} s"


def rate_name(dimension: str, per: float) -> str:
    """What is counted per which period: `input tokens/min`."""
    return f"{dimension.replace('_', ' ')}/{per_text(per)}"


def rate_text(terms: Terms) -> str:
    """A rate: `30,000 input tokens/min`."""
    return f"{terms.amount:,.12g} {rate_name(terms.dimension, terms.per)}"


def counting_text(terms: Terms) -> str:
    """How a rate is counted, as far as it matters for its dimension."""
    match terms.window:
        case "bucket":
            words = ["bucket" if terms.burst == terms.amount else f"bucket, burst {terms.burst:,.12g}"]
        case "sliding":
            words = ["sliding window"]
        case "calendar":
            words = [f"calendar {'month' if terms.per == MONTH else 'day'} in {terms.zone}"]
    if terms.dimension in _TOKENS:
        words.append(_CHARGED[terms.charged])
        if terms.cached_free and terms.dimension != "output_tokens":
            words.append("cached ones free")
    if terms.failed_charged:
        words.append("refused ones counted")
    return ", ".join(words)


def limits_table(limits: Limits) -> dict[str, Any]:
    """What of the limits is said, as a table of a configuration: `Limits.parse` makes the same limits of it."""
    table: dict[str, Any] = {}
    for dimension, rate in limits.rates():
        table.setdefault(dimension, []).append(_form(rate))
    table = {dimension: forms[0] if len(forms) == 1 else forms for dimension, forms in table.items()}
    if limits.concurrency is not None:
        table["concurrency"] = limits.concurrency
    said = {field.name: getattr(limits, field.name) for field in attrs.fields(Counting)}
    if said["window"] == attrs.fields(Limits).window.default:
        del said["window"]
    table |= {name: value for name, value in said.items() if value is not None}
    if limits.models:
        table["models"] = {model: limits_table(own) for model, own in limits.models.items()}
    if limits.shared:
        table["shared"] = list(limits.shared)
    return table


def _form(rate: Rate) -> str | dict[str, Any]:
    text = f"{rate.amount:.15g}/{per_text(rate.per)}"
    try:
        if Rate.parse(text) == rate:
            return text
    except ConfigError:
        pass  # a period without a name, or an amount of more digits than the short form has
    said = {name: value for name, value in attrs.asdict(rate.counting).items() if value is not None}
    return {"amount": rate.amount, "per": _NAMES.get(rate.per, rate.per), **said}
