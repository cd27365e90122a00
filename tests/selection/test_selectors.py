"""The selectors: shares by weight, ties by seed, figures of the laws."""

from __future__ import annotations

import copy
import random
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.core.account import AccountState
from balancer.core.call import Demand
from balancer.core.dimension import DimensionSnapshot
from balancer.core.health import HealthSettings
from balancer.core.outcome import Evidence, Served
from balancer.core.settings import Account
from balancer.errors import ConfigError
from balancer.selection import SELECTORS, make_selector
from balancer.selection.selectors import (
    SmoothRoundRobin,
    least_in_flight,
    least_pressure,
    peak_ewma,
    power_of_two,
    random_choice,
)

ONE = Demand()
PURE = {name: make for name, make in SELECTORS.items() if name not in ("weighted", "round_robin")}


def quota(used, *, limit=100.0, dimension="requests"):
    """A rate of which `used` units are in use."""
    forever = float("inf")
    return DimensionSnapshot(
        dimension, dimension, 60.0, limit, limit, False, 0.0, 0.0, used, forever, forever, 1.0, 0.0, None, frozenset()
    )


BLANK = AccountState(Account(name="blank"), HealthSettings()).snapshot(0.0)


def view(name, *, weight=1.0, in_flight=0, mean=None, peak=None, used=()):
    """A snapshot of an account; `used`: shares of its limit of requests, in percent."""
    rates = tuple(quota(share) for share in used)
    return BLANK._replace(name=name, weight=weight, in_flight=in_flight, mean=mean, peak=peak, dimensions=rates)


def share(selector, candidates, *, picks=4000, demand=ONE, seed=1):
    """How often each account is chosen, state unchanged."""
    rng = random.Random(seed)
    chosen = Counter(selector(candidates, demand, 0.0, rng).name for _ in range(picks))
    return {name: count / picks for name, count in chosen.items()}


def placed(selector, candidates, calls, *, seed=1):
    """How many calls each account gets when nothing ends."""
    rng = random.Random(seed)
    now = list(candidates)
    for _ in range(calls):
        chosen = selector(now, ONE, 0.0, rng)
        now[now.index(chosen)] = chosen._replace(in_flight=chosen.in_flight + 1)
    return {snapshot.name: snapshot.in_flight for snapshot in now}


# -- every selector -------------------------------------------------------------------------------------------------------

LATENCY = st.none() | st.floats(0.0, 100.0)
WEIGHT = st.sampled_from([0.0, 1e-9, 0.5, 1.0, 3.0, 91.0, 1e9])
CANDIDATES = st.lists(
    st.builds(
        lambda weight, in_flight, mean, peak, used: {
            "weight": weight,
            "in_flight": in_flight,
            "mean": mean,
            "peak": peak,
            "used": used,
        },
        WEIGHT,
        st.integers(0, 50),
        LATENCY,
        LATENCY,
        st.lists(st.floats(0.0, 150.0), max_size=3),
    ),
    min_size=1,
    max_size=12,
).map(lambda many: [view(f"a{place}", **one) for place, one in enumerate(many)])


@settings(max_examples=150, deadline=None)
@given(candidates=CANDIDATES, seed=st.integers(0, 2**32), now=st.floats(0.0, 1e6), name=st.sampled_from(list(SELECTORS)))
def test_the_choice_is_a_candidate_and_repeatable(candidates, seed, now, name):
    """Same candidates, demand, time and seed: the same choice, and nothing but one of them."""
    demand = Demand(seed % 90, 5)
    selector = make_selector(name)
    again = copy.deepcopy(selector) if isinstance(selector, SmoothRoundRobin) else selector
    for offset in range(3):
        chosen = selector(candidates, demand, now, random.Random(seed + offset))
        assert any(chosen is candidate for candidate in candidates)
        assert again(tuple(candidates), demand, now, random.Random(seed + offset)) is chosen


@pytest.mark.parametrize("name", SELECTORS)
def test_weights_of_nothing_count_as_equal(name):
    """They arrive only when no other account can take the call."""
    shares = share(make_selector(name), [view("a", weight=0.0), view("b", weight=0.0)])
    assert shares["a"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", SELECTORS)
def test_one_candidate_is_chosen(name):
    """Whatever its state."""
    assert share(make_selector(name), [view("a", weight=0.0, in_flight=9, used=(150.0,))], picks=3) == {"a": 1.0}


@pytest.mark.parametrize("name", ["least_pressure", "least_in_flight", "peak_ewma", "weighted", "round_robin"])
def test_ten_calls_on_two_idle_equal_accounts(name):
    """Five and five, whatever the seed."""
    for seed in range(20):
        assert placed(make_selector(name), [view("a"), view("b")], 10, seed=seed) == {"a": 5, "b": 5}


@pytest.mark.parametrize("name", SELECTORS)
def test_weights_scale_every_selector(name):
    """An account of three times the weight holds three times the calls, where nothing ends; drawn ones nearly."""
    held = placed(make_selector(name), [view("a", weight=3.0), view("b")], 400)
    exact = name not in ("random", "power_of_two")
    assert held["a"] == pytest.approx(300, abs=2 if exact else 110)
    assert held["a"] > 200 or name == "power_of_two"


@pytest.mark.parametrize("name", ["least_pressure", "least_in_flight", "peak_ewma", "power_of_two"])
def test_ties_are_broken_by_the_seed(name):
    """Equal accounts get equal shares, not the first all of them."""
    shares = share(make_selector(name), [view(letter) for letter in "abcd"])
    assert shares == pytest.approx(dict.fromkeys("abcd", 0.25), abs=0.03)


# -- each of them ---------------------------------------------------------------------------------------------------------


def test_smooth_round_robin():
    """{5, 1, 1} gives a a b a c a a."""
    selector = make_selector("round_robin")
    candidates = [view("a", weight=5.0), view("b"), view("c")]
    turns = "".join(selector(candidates, ONE, 0.0, random.Random(0)).name for _ in range(14))
    assert turns == "aabacaa" * 2


def test_each_balancer_takes_its_own_turns():
    """A selector with a memory is made anew."""
    assert make_selector("weighted") is not make_selector("weighted")
    assert make_selector("least_pressure") is make_selector("least_pressure")


def test_shares_of_91_and_nine_ones():
    """91 % of 10,000 calls."""
    candidates = [view("big", weight=91.0), *(view(f"small-{place}") for place in range(9))]
    shares = share(make_selector("weighted"), candidates, picks=10_000)
    assert shares["big"] == pytest.approx(0.91, abs=0.01)
    assert set(shares.values()) == {0.91, 0.01}
    assert share(random_choice, candidates, picks=10_000)["big"] == pytest.approx(0.91, abs=0.01)


def test_turns_go_on_while_accounts_come_and_go():
    """An account that was away is neither punished nor owed all it missed."""
    selector = SmoothRoundRobin()
    everybody = [view("a"), view("b"), view("c")]
    share(selector, everybody[:2], picks=100)
    assert share(selector, everybody, picks=300) == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=0.01)


def test_power_of_two_takes_the_emptier_of_two_distinct_ones():
    """Of three the fullest is never chosen, since it is never drawn against itself."""
    candidates = [view("a", in_flight=1), view("b", in_flight=2), view("c", in_flight=3)]
    assert share(power_of_two, candidates) == pytest.approx({"a": 2 / 3, "b": 1 / 3}, abs=0.03)


def test_power_of_two_draws_by_weight():
    """Two of three: the heavy one is nearly always among them."""
    candidates = [view("heavy", weight=98.0), view("b", in_flight=5), view("c", in_flight=5)]
    assert share(power_of_two, candidates)["heavy"] > 0.97


def test_least_in_flight_counts_the_call_itself():
    """(1 + 1) / 1 against (3 + 1) / 3."""
    assert share(least_in_flight, [view("a", in_flight=1), view("b", in_flight=3, weight=3.0)]) == {"b": 1.0}


def test_peak_ewma_weighs_latency_by_what_is_pending():
    """.15055 x 2 against .2 x 1, and the unknown one is tried as the average."""
    assert share(peak_ewma, [view("a", peak=0.15055, in_flight=1), view("b", peak=0.2)]) == {"b": 1.0}
    assert share(peak_ewma, [view("a", peak=0.15055), view("b", peak=0.2)]) == {"a": 1.0}
    assert share(peak_ewma, [view("a", peak=0.1, in_flight=2), view("b", peak=0.3, in_flight=1), view("new")]) == {"new": 1.0}


def test_least_pressure_expects_the_first_to_finish():
    """Latency times what is in flight, among accounts without limits."""
    assert share(least_pressure, [view("slow", mean=1.0), view("fast", mean=0.2, in_flight=3)]) == {"fast": 1.0}
    assert share(least_pressure, [view("slow", mean=1.0), view("fast", mean=0.2, in_flight=5)]) == {"slow": 1.0}


def test_least_pressure_tries_the_unknown_as_the_average():
    """Neither first nor never."""
    candidates = [view("fast", mean=0.2), view("slow", mean=0.6), view("new")]
    assert share(least_pressure, candidates) == {"fast": 1.0}
    candidates = [view("fast", mean=0.2, in_flight=2), view("slow", mean=0.6), view("new")]
    assert share(least_pressure, candidates) == {"new": 1.0}


def test_few_candidates_are_hot_above_a_share():
    """.84 after placement: the faster one is spared then."""
    cold, warm = view("slow", mean=1.0, used=(10.0,)), view("fast", mean=0.1, used=(82.9,))
    assert share(least_pressure, [cold, warm]) == {"fast": 1.0}
    hot = view("fast", mean=0.1, used=(83.1,))
    assert share(least_pressure, [cold, hot]) == {"slow": 1.0}


def test_the_dominant_share_decides_what_is_hot():
    """The fullest of its rates counts, whichever this call would fill."""
    rates = (quota(10.0), quota(900.0, limit=1000.0, dimension="tokens"))
    fast = view("fast", mean=0.1)._replace(dimensions=rates)
    assert share(least_pressure, [fast, view("slow", mean=1.0, used=(50.0,))]) == {"slow": 1.0}


def test_many_candidates_are_hot_above_the_quantile():
    """Of seven the fullest is hot, though nearly empty itself."""
    others = [view(f"slow-{place}", mean=1.0, used=(float(place),)) for place in range(6)]
    assert "fast" not in share(least_pressure, [*others, view("fast", mean=0.01, used=(7.0,))])
    assert share(least_pressure, [*others, view("fast", mean=0.01, used=(5.0,))]) == {"fast": 1.0}


def test_where_all_are_hot_the_least_used_is_taken():
    """By its weight; how fast it is does not count any more."""
    candidates = [view("fast", mean=0.01, used=(98.0,)), view("slow", mean=9.0, used=(90.0,))]
    assert share(least_pressure, candidates) == {"slow": 1.0}
    candidates = [view("heavy", weight=2.0, used=(98.0,)), view("light", used=(90.0,))]
    assert share(least_pressure, candidates) == {"heavy": 1.0}
    assert share(least_pressure, [view("a", used=(90.0,)), view("b", used=(90.0,))])["a"] == pytest.approx(0.5, abs=0.03)


def served_per_minute(selector, *, minutes=20, seed=1):
    """100 small and 25 large calls a minute (100 and 2,000 tokens) over A (100 RPM, 10k TPM) and B (20 RPM, 50k TPM)."""
    rng = random.Random(seed)
    states = {
        name: AccountState(Account(name=name, limits={"requests_per_minute": rpm, "tokens_per_minute": tpm}), HealthSettings())
        for name, rpm, tpm in (("a", 100, 10_000), ("b", 20, 50_000))
    }
    flying = deque()
    now, served = 0.0, 0
    while now < minutes * 60.0:
        now += rng.expovariate(125 / 60)
        while flying and flying[0][0] <= now:
            ended_at, state, admission = flying.popleft()
            state.settle(admission, Evidence(Served()), ended_at, rng, latency=1.0)
        demand = Demand(100) if rng.random() < 0.8 else Demand(2000)
        views = [state.snapshot(now) for state in states.values()]
        able = [view for view in views if not view.passed_over(None, demand, now)]
        if able:
            state = states[selector(able, demand, now, rng).name]
            flying.append((now + 1.0, state, state.admit(None, demand, now)))
            served += now > minutes * 15.0  # the full buckets of the beginning are used up by then
    return served / (minutes * 0.75)


def test_unequal_quotas_are_used_well():
    """Linear programming allows 120 calls a minute; without any queue nine tenths are served, more than by calls in flight."""
    by_pressure = served_per_minute(least_pressure)
    assert 108 <= by_pressure <= 121
    assert by_pressure > served_per_minute(least_in_flight) + 3


# -- by name --------------------------------------------------------------------------------------------------------------


def first(candidates, demand, now, rng):
    return candidates[0]


def test_names_and_functions():
    """A name of ours, a function, or where to find one."""
    assert make_selector(first) is first
    assert make_selector("random") is random_choice
    assert make_selector("balancer.selection.selectors:peak_ewma") is peak_ewma


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("leest_pressure", "selector: 'leest_pressure'; allowed: one of \"least_pressure\""),
        ("nowhere_at_all:f", "selector: 'nowhere_at_all:f' cannot be imported"),
        ("math:nothing", "selector: 'math:nothing' cannot be imported"),
        (".relative:f", "selector: '.relative:f' cannot be imported"),
        (":f", "selector: ':f' cannot be imported"),
        ("math:", "selector: 'math:' cannot be imported"),
        ("math:pi", "selector: 'math:pi' is no function"),
    ],
)
def test_a_wrong_name(name, text):
    """The fault says what was given and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        make_selector(name)
    assert str(caught.value).startswith(text)
