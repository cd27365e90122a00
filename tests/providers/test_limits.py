"""Limit headers by family: what is read, what a provider's own headers leave to the standard fields, and hostile values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.outcome import LimitSeen
from balancer.providers.limits import Family, LimitReader, family
from balancer.providers.provider import PROVIDERS
from balancer.providers.standard import LONGEST_WINDOW
from balancer.providers.values import LONGEST_RESET, Headers, any_wait

READER = LimitReader(
    (
        family("requests", "requests", "-requests"),
        family("tokens", "tokens", "-tokens", period=60.0, renewal=b"x-renewal"),
    ),
    any_wait,
)


def read(*pairs):
    return READER.read(Headers([(name.encode(), value.encode()) for name, value in pairs]))


def test_a_family_by_prefix_and_ending():
    """Three names, and what is known of the limit."""
    assert family("tokens", "t", "-x", "pre", period=5.0) == Family(
        "tokens", "t", b"pre-limit-x", b"pre-remaining-x", b"pre-reset-x", 1.0, 5.0
    )


@pytest.mark.parametrize(
    ("pairs", "seen"),
    [
        ((), ()),
        ((("x-ratelimit-reset-requests", "5"),), ()),
        ((("X-RateLimit-Limit-Requests", "10"),), (LimitSeen("requests", "requests", 10),)),
        (
            (("x-ratelimit-remaining-requests", "3"), ("x-ratelimit-reset-requests", "5")),
            (LimitSeen("requests", "requests", None, 3, 5),),
        ),
        (
            (("x-ratelimit-limit-requests", "10"), ("x-ratelimit-limit-requests", "99")),
            (LimitSeen("requests", "requests", 10),),
        ),
        ((("x-ratelimit-limit-tokens", "10"),), (LimitSeen("tokens", "tokens", 10, period=60),)),
        ((("x-ratelimit-limit-tokens", "10"), ("x-renewal", "10")), (LimitSeen("tokens", "tokens", 10, period=10),)),
        ((("x-ratelimit-limit-tokens", "10"), ("x-renewal", "nan")), (LimitSeen("tokens", "tokens", 10, period=60),)),
        ((("x-ratelimit-limit-tokens", "10"), ("x-renewal", "0")), (LimitSeen("tokens", "tokens", 10, period=60),)),
        ((("x-ratelimit-limit-tokens", "10"), ("x-renewal", "9" * 12)), (LimitSeen("tokens", "tokens", 10, period=60),)),
        ((("x-renewal", "10"),), ()),
    ],
)
def test_families(pairs, seen):
    """A limit or what remains of it makes a limit; the period is the header's, else the family's."""
    assert read(*pairs) == seen


@pytest.mark.parametrize(
    "value", ["", " ", "-1", "+5", "nan", "inf", "1e3", "5.", "1_0", "0x5", "5 5", "9" * 16, "9" * 5000, "\u0665"]
)
def test_a_bad_value_is_as_good_as_none(value):
    """Of limit, remaining and reset alike."""
    assert read(("x-ratelimit-limit-requests", value), ("x-ratelimit-remaining-requests", value)) == ()
    good = (("x-ratelimit-limit-requests", "10"), ("x-ratelimit-remaining-requests", "3"))
    assert read(*good, ("x-ratelimit-reset-requests", value)) == (LimitSeen("requests", "requests", 10, 3),)


def test_the_standard_fields_speak_where_the_own_ones_are_silent():
    """Of requests, that is: the standard counts nothing else."""
    standard = (("RateLimit", '"a";r=1'), ("RateLimit-Policy", '"a";q=9;w=60'))
    told = LimitSeen("requests", "a", 9, 1, period=60)
    assert read(*standard) == (told,)
    assert read(*standard, ("x-ratelimit-limit-tokens", "10")) == (LimitSeen("tokens", "tokens", 10, period=60), told)
    assert read(*standard, ("x-ratelimit-limit-requests", "10")) == (LimitSeen("requests", "requests", 10),)
    assert read(*standard, ("x-ratelimit-limit-requests", "-1")) == (told,)


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_reads_the_standard_fields(name):
    """Each of them, when its own headers are absent."""
    raw = [(b"RateLimit", b"limit=10, remaining=5, reset=3"), (b"RateLimit-Policy", b"10;w=60")]
    assert PROVIDERS[name].limits_seen(Headers(raw)) == (LimitSeen("requests", "requests-60s", 10, 5, 3, period=60),)


NAMES = sorted(
    {
        f"{prefix}-{part}{ending}".encode()
        for prefix in ("x-ratelimit", "x-rate-limit", "ratelimit")
        for part in ("limit", "remaining", "reset", "renewalperiod")
        for ending in ("", "-requests", "-tokens", "-project-tokens", "-req-minute", "-tokens-month", "-day", "-requests-day")
    }
    | {
        f"anthropic-ratelimit-{name}-{part}".encode()
        for name in ("requests", "tokens", "input-tokens", "output-tokens")
        for part in ("limit", "remaining", "reset")
    }
    | {b"date", b"ratelimit", b"ratelimit-policy"}
)
VALUES = st.one_of(
    st.binary(max_size=80),
    st.integers(-10, 10**16).map(lambda number: str(number).encode()),
    st.sampled_from(
        [b"30,000", b"6m0s", b"120ms", b"2m59.56s", b"26.5", b"1790512230", b"1790512230000", b"2026-09-27T12:30:59Z",
         b"Sun, 27 Sep 2026 12:30:00 GMT", b"9" * 15 + b"s", b"999999999h", b'"a";r=5;t=3', b'"a";q=5;w=60', b"limit=3, remaining=2"]
    ),
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=12))
def test_any_headers_are_read(raw):
    """Whatever the headers hold, every limit seen is finite, not negative and within the caps; nothing is raised."""
    headers = Headers(raw)
    for provider in PROVIDERS.values():
        for one in provider.limits_seen(headers):
            numbers = (one.limit, one.remaining, one.reset_after, one.period)
            assert all(number is None or (math.isfinite(number) and 0 <= number <= 1e15) for number in numbers)
            assert one.limit != 0
            assert one.reset_after is None or one.reset_after <= LONGEST_RESET
            assert one.period is None or 0 < one.period <= LONGEST_WINDOW
            assert one.dimension in ("requests", "tokens", "input_tokens", "output_tokens")
