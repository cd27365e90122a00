"""The standard limit fields: a row per form of every draft, and that bad fields are as good as none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.core.outcome import LimitSeen
from balancer.providers.standard import LONGEST_NAME, standard_limits
from balancer.providers.values import LONGEST_RESET, Headers

DATE = ("Date", "Sun, 27 Sep 2026 12:30:00 GMT")


def seen(*pairs):
    return standard_limits(Headers([(name.encode(), value.encode("latin-1")) for name, value in pairs]))


def limit(name, amount=None, remaining=None, reset_after=None, period=None, *, next_unit=False):
    return LimitSeen("requests", name, amount, remaining, reset_after, 1.0, period, next_unit)


def named(*shown):
    """As `limit`, of a form whose time says when there is some more."""
    return limit(*shown, next_unit=True)


OLD = (("RateLimit-Limit", "100"), ("RateLimit-Remaining", "50"), ("RateLimit-Reset", "30"))
FORMS = [
    # up to -06: three fields, with the policies behind the limit at first and in a field of their own later
    (OLD, [limit("requests", 100, 50, 30)]),
    ((*OLD, ("RateLimit-Policy", "100;w=60")), [limit("requests-60s", 100, 50, 30, 60)]),
    ((*OLD, ("RateLimit-Policy", '100;w=60;comment="a, b", 5000;w=86400')),
     [limit("requests-60s", 100, 50, 30, 60), limit("requests-86400s", 5000, period=86400)]),
    ((("RateLimit-Limit", "10, 10;w=1, 50;w=60"), ("RateLimit-Remaining", "9"), ("RateLimit-Reset", "1")),
     [limit("requests-1s", 10, 9, 1, 1), limit("requests-60s", 50, period=60)]),
    ((("RateLimit-Limit", "100"),), [limit("requests", 100)]),
    ((("RateLimit-Remaining", "0"),), [limit("requests", None, 0)]),
    ((("RateLimit-Limit", "30,000"), ("RateLimit-Remaining", "5")), [limit("requests", 30000, 5)]),
    ((("RateLimit-Remaining", "5"), ("RateLimit-Reset", "1790512230"), DATE), [limit("requests", None, 5, 30)]),
    ((("RateLimit-Limit", "-1"), ("RateLimit-Remaining", "-1"), ("RateLimit-Reset", "0")), []),
    ((("RateLimit-Limit", "0"),), []),
    # -07: one dictionary
    ((("RateLimit", "limit=10, remaining=5, reset=3"),), [limit("requests", 10, 5, 3)]),
    ((("RateLimit", "limit=10, remaining=5, reset=3"), ("RateLimit-Policy", "10;w=60")), [limit("requests-60s", 10, 5, 3, 60)]),
    ((("RateLimit", "limit=10,remaining=0,reset=3,x=y"), ("RateLimit-Policy", "20;w=60")),
     [limit("requests", 10, 0, 3), limit("requests-60s", 20, period=60)]),
    # from -08 on: lists of names
    ((("RateLimit", '"default";r=50;t=30'), ("RateLimit-Policy", '"default";q=100;w=60')), [named("default", 100, 50, 30, 60)]),
    ((("RateLimit", "burst;r=50;t=30"), ("RateLimit-Policy", "burst;q=100;w=60")), [named("burst", 100, 50, 30, 60)]),
    ((("RateLimit", '"5-in-1min"; r=4; t=60'), ("RateLimit-Policy", '"5-in-1min"; q=5; w=60; pk=:ZDI5:')),
     [named("5-in-1min@bee1fbde", 5, 4, 60, 60)]),
    ((("RateLimit", '"default";r=50'),), [limit("default", None, 50)]),
    ((("RateLimit-Policy", '"burst";q=100;w=60,"daily";q=1000;w=86400'),),
     [limit("burst", 100, period=60), limit("daily", 1000, period=86400)]),
    ((("RateLimit", '"burst";r=1;t=2'), ("RateLimit", '"daily";r=3'), ("RateLimit-Policy", '"burst";q=100;w=60'),
      ("ratelimit-policy", '"daily";q=1000;w=86400')),
     [named("burst", 100, 1, 2, 60), limit("daily", 1000, 3, None, 86400)]),
    ((("RateLimit", '"a";r=1;t=2;new=?1;when=@17'), ("RateLimit-Policy", '"a";q=9;w=60;qu="requests";new=x')),
     [named("a", 9, 1, 2, 60)]),
    ((("RateLimit", '"a";r=1, "b";r=2, "c";r=3'),
      ("RateLimit-Policy", '"a";q=9;qu="content-bytes", "b";q=9;qu="concurrent-requests", "c";q=9, "d";q=7;qu="tokens"')),
     [limit("c", 9, 3)]),
    ((("RateLimit-Policy", "100;w=60, 1000;w=3600"),), [limit("requests-60s", 100, period=60), limit("requests-3600s", 1000, period=3600)]),
    ((("RateLimit-Policy", "100"),), []),
    ((("RateLimit-Policy", '"a";q=0;w=60'),), []),
    ((("RateLimit", '"a";r=0;t=9'), ("RateLimit-Policy", '"a";q=0;w=60')), [named("a", None, 0, 9, 60)]),
    # the newest form wins
    ((("RateLimit", '"a";r=1'), *OLD), [limit("a", None, 1)]),
    ((("RateLimit", ""), *OLD), []),
]  # fmt: skip


@pytest.mark.parametrize(("pairs", "limits"), FORMS)
def test_every_draft_is_read(pairs, limits):
    """Limit, remaining, reset and period, wherever the draft has put them."""
    assert list(seen(*pairs)) == limits


@pytest.mark.parametrize(
    "field",
    [
        '"a";r=-1', '"a";r=1.5', '"a";r="1"', '"a";t=3', '"a";r=?1', '"a";r', '"a";r=1,', '"a";r=1;t=-1', '"a";r=1, 5', '"a";r=1;pk="x"',
        '"a";r=@5', '"a";r=1234567890123456', "limit=10, remaining=-1", "limit=x", "reset=3", "a", "5", '("a" "b");r=1', '"\xfc";r=1',
        '"a";r=1' + ";x" * 20, ",".join(['"a";r=1'] * 40), "x" * 5000,
    ],
)  # fmt: skip
def test_a_malformed_state_is_ignored_whole(field):
    """No part of it is believed; the older fields beside it and the policies are still read."""
    assert seen(("RateLimit", field)) == ()
    assert seen(("RateLimit", field), *OLD) == (limit("requests", 100, 50, 30),)
    assert seen(("RateLimit", field), ("RateLimit-Policy", '"b";q=3;w=2')) == (limit("b", 3, period=2),)


@pytest.mark.parametrize(
    "field",
    ['"a"', '"a";q=-1', '"a";q=1.5', '"a";q=9;w=0', '"a";q=9;w=-5', '"a";q=9;w=99999999999', '"a";q=9;qu=3', '"a";q=9;pk="x"', '"a";q=9, (1)', ":YQ==:;q=1",
     "-5;w=60", "5.5;w=60", '"a";q=9;w="60"'],
)  # fmt: skip
def test_a_malformed_policy_field_is_ignored_whole(field):
    """So is a policy, and the state beside it stands alone."""
    assert seen(("RateLimit-Policy", field)) == ()
    assert seen(("RateLimit", '"a";r=1;t=2'), ("RateLimit-Policy", field + ', "a";q=9;w=60')) == (named("a", None, 1, 2),)


def test_partition_keys_keep_limits_apart():
    """A quota is one partition's; the name of a limit tells which, without showing the key."""
    policy = ("RateLimit-Policy", '"a";q=9;w=60;pk=:YQ==:, "a";q=5;w=60;pk=:Yg==:')
    first, second = seen(("RateLimit", '"a";r=1;pk=:YQ==:'), policy)
    assert (first.limit, first.remaining, second.limit, second.remaining) == (9, 1, 5, None)
    assert first.name != second.name
    assert first.name.startswith("a@")
    both = seen(("RateLimit", '"a";r=1;pk=:YQ==:, "a";r=2;pk=:Yg==:'), ("RateLimit-Policy", '"a";q=9;w=60'))
    assert [(one.limit, one.remaining, one.period) for one in both] == [(9, 1, 60), (9, 2, 60)]
    assert both[0].name != both[1].name
    ambiguous = seen(("RateLimit", '"a";r=1'), policy)
    assert (ambiguous[0].name, ambiguous[0].limit) == ("a", None)


def test_a_long_name_is_not_shown():
    """What a server echoes in a name may be a credential."""
    secret = "sk-very-secret-0123456789-0123456789"
    (one,) = seen(("RateLimit", f'"{secret}";r=1'))
    assert "secret" not in one.name
    assert len(one.name) <= LONGEST_NAME
    assert one == seen(("RateLimit", f'"{secret}";r=1'))[0]


def test_a_reset_beyond_belief_is_absent():
    """A limit without its reset is still one."""
    assert seen(("RateLimit", f'"a";r=1;t={LONGEST_RESET + 1:.0f}')) == (limit("a", None, 1),)


NAMES = st.sampled_from(
    [b"RateLimit", b"RateLimit-Policy", b"RateLimit-Limit", b"RateLimit-Remaining", b"RateLimit-Reset", b"Date"]
)
PARTS = st.sampled_from(
    [b'"a"', b"b", b"5", b";r=1", b";t=2", b";q=3", b";w=60", b";pk=:YQ==:", b';qu="x"', b", ", b"limit=3", b"remaining=2", b"-1", b"=", b";", b"9" * 15]
)  # fmt: skip
VALUES = st.one_of(st.binary(max_size=40), st.lists(PARTS, max_size=10).map(b"".join))


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_any_fields_are_read(raw):
    """Whatever the fields hold, what is seen is finite, not negative and within the caps; nothing is raised."""
    for one in standard_limits(Headers(raw)):
        assert one.dimension == "requests"
        assert 0 < len(one.name) <= LONGEST_NAME + 9
        numbers = (one.limit, one.remaining, one.reset_after, one.period)
        assert all(number is None or (math.isfinite(number) and 0 <= number <= 1e15) for number in numbers)
        assert one.limit != 0
        assert one.period != 0
        assert one.reset_after is None or one.reset_after <= LONGEST_RESET
