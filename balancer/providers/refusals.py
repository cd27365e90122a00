"""What a refusal tells of the limit it ran into: its dimension, its amount and its period, from texts and quota violations.

So one refusal teaches a limit even where no header shows any. The texts are those of OpenAI, Azure, Groq, Anthropic and
Bedrock, the violations are Gemini's; every pattern is bounded, and what does not match says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from balancer.core.limits import PERIODS
from balancer.core.outcome import LimitSeen
from balancer.providers.values import ValueInvalid, amount

_DIMENSIONS = {
    "input_tokens": re.compile(r"\binput tokens? per\b|\(ITP[SMHD]\)", re.IGNORECASE),
    "output_tokens": re.compile(r"\boutput tokens? per\b|\(OTP[SMHD]\)", re.IGNORECASE),
    "tokens": re.compile(
        r"\btokens? per\b|\btoken rate limit\b|\brequest tokens\b|\btoo many tokens\b|\(TP[SMHD]\)", re.IGNORECASE
    ),
    # "Too many requests" alone is the name of the status and says nothing.
    "requests": re.compile(
        r"\brequests? per\b|\bcall rate limit\b|\bnumber of requests\b|\btoo many requests, please wait\b|\(RP[SMHD]\)",
        re.IGNORECASE,
    ),
    "images": re.compile(r"\bimages? per\b|\(IP[SMHD]\)", re.IGNORECASE),
}

_WORDS = {"min": "minute", "sec": "second", "m": "minute", "s": "second", "h": "hour", "d": "day"}
_LETTERS = {"r": "requests", "t": "tokens", "it": "input_tokens", "ot": "output_tokens", "i": "images"}
_WHAT = r"((?:input |output )?tokens?|requests?|images?) per (second|sec|minute|min|hour|day|month)\b"
_PERIOD = re.compile(r"\bper[ -](second|sec|minute|min|hour|day|month)\b", re.IGNORECASE)
_NUMBER = r"([0-9]{1,3}(?:,[0-9]{3}){1,4}(?!,?[0-9])|[0-9]{1,15}(?:\.[0-9]{1,9})?(?![,.]?[0-9]))"
_STATED = re.compile(
    rf"(?:\b{_WHAT}(?: \([A-Z]{{2,5}}\))?|\(([RTI]|IT|OT)P([SMHD])\))[:.]? Limit:? {_NUMBER}"
    rf"(?: ?/ ?[a-z]{{1,6}}\.?)?(?:[,.]? (?:Used|Current):? {_NUMBER})?",
    re.IGNORECASE | re.ASCII,
)
"""`on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000`; what is used is left out where nothing could help."""
_STATED_FIRST = re.compile(rf"\bof {_NUMBER} {_WHAT}", re.IGNORECASE | re.ASCII)
"""`would exceed your organization's rate limit of 40,000 input tokens per minute`."""

_QUOTAS = (
    ("input_tokens", re.compile(r"input_?token", re.IGNORECASE)),
    ("output_tokens", re.compile(r"output_?token", re.IGNORECASE)),
    ("tokens", re.compile(r"token", re.IGNORECASE)),
    ("requests", re.compile(r"request", re.IGNORECASE)),
    ("images", re.compile(r"image", re.IGNORECASE)),
)
_QUOTA_PERIOD = re.compile(r"Per(Second|Minute|Hour|Day|Month)(?![a-z])")
LONGEST_QUOTA = 200
"""Characters of the longest name of a quota that is read; real ones have less than a hundred."""


def dimension_in(text: str) -> str | None:
    """The dimension that a refusal's text names."""
    return next((dimension for dimension, pattern in _DIMENSIONS.items() if pattern.search(text)), None)


def period_in(text: str) -> str | None:
    """The period that a refusal's text names first, a key of `PERIODS`; what follows may be advice."""
    match = _PERIOD.search(text)
    return None if match is None else _WORDS.get(match[1].lower(), match[1].lower())


def limit_in_text(text: str) -> LimitSeen | None:
    """The limit that a refusal's text states: with its period, and with what was left of it if the text says what is used."""
    used = None
    if match := _STATED.search(text):
        what, per, letters, letter, limit, used = match.groups()
    elif match := _STATED_FIRST.search(text):
        (limit, what, per), letters, letter = match.groups(), "", ""
    else:
        return None
    dimension = what.lower().rstrip("s").replace(" ", "_") + "s" if what else _LETTERS[letters.lower()]
    period = (per or letter).lower()
    try:
        return _told(dimension, _WORDS.get(period, period), amount(limit), None if used is None else amount(used))
    except ValueInvalid:
        return None


def named_in_text(text: str) -> LimitSeen | None:
    """The limit that a refusal's text names without a number: what it counts, and its period."""
    dimension, period = dimension_in(text), period_in(text)
    if dimension is None or period is None:
        return None
    return LimitSeen(dimension, f"{dimension}-{period}", period=PERIODS[period])


def limits_in_quotas(violations: Iterable[Mapping[str, Any]]) -> tuple[LimitSeen, ...]:
    """The limits that Gemini's `QuotaFailure` names: `quotaId` has the period, `quotaMetric` what is counted, `quotaValue` how
    much; of a limit of requests nothing is left when one is refused."""
    told: list[LimitSeen] = []
    for violation in violations:
        quota, metric, value = (_text(violation.get(key)) for key in ("quotaId", "quotaMetric", "quotaValue"))
        dimension = next((name for text in (metric, quota) for name, pattern in _QUOTAS if pattern.search(text)), None)
        period = _QUOTA_PERIOD.search(quota)
        if dimension is None or period is None:
            continue
        try:
            limit = amount(value)
        except ValueInvalid:
            limit = 0.0  # the limit is not said; that nothing is left still is
        if (seen := _told(dimension, period[1].lower(), limit, None)) is not None:
            told.append(seen)
    return tuple(told)


def of_period(limits: Iterable[LimitSeen], text: str) -> tuple[LimitSeen, ...]:
    """Limits that only refusals show, under one name for every period, told apart by the period that the text names."""
    period = period_in(text)
    if period is None:
        return tuple(limits)
    return tuple(attrs.evolve(limit, name=f"{limit.dimension}-{period}", period=PERIODS[period]) for limit in limits)


def joined(shown: tuple[LimitSeen, ...], told: Sequence[LimitSeen]) -> tuple[LimitSeen, ...]:
    """What headers have `shown` and what a body has `told`: told of a shown limit, it adds the period; else it is another."""
    limits = list(shown)
    for new in told:
        for place, old in enumerate(limits):
            same = (old.dimension, old.limit) == (new.dimension, new.limit) and old.period in (None, new.period)
            if same:
                remaining = new.remaining if old.remaining is None else old.remaining
                limits[place] = attrs.evolve(old, remaining=remaining, period=new.period)
            if same or (old.dimension, old.name) == (new.dimension, new.name):
                break
        else:
            limits.append(new)
    return tuple(limits)


def _told(dimension: str, period: str, limit: float, used: float | None) -> LimitSeen | None:
    """A limit as a body tells it. A refused request shows that not even one is left."""
    remaining = 0.0 if dimension == "requests" else None
    if used is not None and limit:
        remaining = max(0.0, limit - used)
    if not limit and remaining is None:
        return None
    return LimitSeen(dimension, f"{dimension}-{period}", limit or None, remaining, period=PERIODS[period])


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**15:
        return str(value)
    return value if isinstance(value, str) and len(value) <= LONGEST_QUOTA else ""
