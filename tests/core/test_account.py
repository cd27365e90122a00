"""One account: what the end of each attempt does to its quota, its pauses, its health and its load."""

from __future__ import annotations

import math
import random

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from balancer.core.account import COLD_LIMIT, MAX_BACKOFF, QUOTA_RECHECK, AccountState, describe
from balancer.core.call import Call, Demand, Usage
from balancer.core.cooldown import MAX_TRANSIENT
from balancer.core.health import Health, HealthSettings
from balancer.core.outcome import (
    Billing,
    CallerFault,
    Evidence,
    Faulted,
    LimitSeen,
    ModelMissing,
    Overloaded,
    QuotaExhausted,
    Ramp,
    RateLimited,
    Served,
    TimedOut,
    TooLarge,
    Truncated,
    Unauthorized,
    Withdrawn,
)
from balancer.core.settings import Account
from balancer.core.snapshot import COLD, FULL

ONE = Demand()
TOKENS = Demand(300, 100)
LIMITS = {"requests_per_minute": 60, "tokens_per_minute": 6000, "window": "sliding"}
PLAIN = HealthSettings(jitter_ratio=0.0)

REFUSED = [RateLimited(), QuotaExhausted(), Overloaded(), Ramp(), Billing(), Unauthorized(), ModelMissing(), TooLarge()]
FAILED = [Faulted("server error"), TimedOut("read"), Truncated(7)]
UNSENT = [Faulted("connect error", sent=False), TimedOut("connect"), Withdrawn(sent=False)]
CHARGED = [Served(), CallerFault(), Withdrawn(), *FAILED]
EVERY = [*REFUSED, *UNSENT, *CHARGED]


def account_state(*, shows_limits=False, health=PLAIN, **account):
    account.setdefault("limits", LIMITS)
    return AccountState(Account(name="a", **account), health, frozenset({"chat"}), shows_limits)


def try_admit(state, model, demand, now, *, cold=False):
    """As the dispatcher asks: the snapshot first, then the ledger."""
    if state.snapshot(now).passed_over(model, demand, now, cold=cold):
        return None
    return state.admit(model, demand, now)


def admit(state, now=0.0, *, model="m", demand=ONE, cold=False):
    admission = try_admit(state, model, demand, now, cold=cold)
    assert admission is not None
    return admission


def end(state, admission, outcome, now=0.0, *, usage=None, limits=(), seed=1, latency=0.1):
    state.settle(admission, Evidence(outcome, usage, limits), now, random.Random(seed), latency=latency)


def attempt(state, outcome, now=0.0, **more):
    """One attempt that begins and ends at once."""
    admission = admit(state, now, model=more.pop("model", "m"), demand=more.pop("demand", ONE))
    end(state, admission, outcome, now, **more)


def room(state, now=0.0):
    snapshot = state.snapshot(now)
    return snapshot.room("requests", now), snapshot.room("tokens", now)


def pauses(state):
    return {(pause.model, pause.dimension): pause.until for pause in state.cooldowns.pauses()}


# -- quota ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", CHARGED, ids=repr)
def test_what_was_sent_stays_charged(outcome):
    """As estimated, or as reported."""
    state = account_state()
    first, second = admit(state, demand=TOKENS), admit(state, demand=TOKENS)
    assert room(state) == (58, 5200)
    end(state, first, outcome)
    end(state, second, outcome, usage=Usage(100, 50))
    assert room(state) == (58, 6000 - 400 - 150)


@pytest.mark.parametrize("outcome", [*REFUSED, *UNSENT], ids=repr)
def test_what_was_refused_or_never_sent_is_refunded(outcome):
    """The provider never counted it."""
    state = account_state()
    end(state, admit(state, demand=TOKENS), outcome)
    assert room(state) == (60, 6000)


def test_a_refusal_over_a_rate_says_that_there_is_no_room():
    """In the one that it names."""
    state = account_state()
    end(state, admit(state, demand=TOKENS), RateLimited("requests"))
    assert room(state) == (0, 6000)


def test_the_limit_that_a_refusal_tells_is_the_one_it_is_about():
    """Not another one of the same dimension."""
    state = account_state(limits={"requests": ["60/min", "10000/day"], "window": "sliding"})
    seen = LimitSeen("requests", "requests-minute", 60, 0, period=60.0)
    attempt(state, RateLimited("requests", 1.0), limits=(seen,))
    assert [view.room(0.0) for view in state.snapshot(0.0).dimensions] == [0, 10_000]
    assert state.earliest("m", ONE, 0.0) < 1.1


def test_a_day_that_nobody_configured_opens_when_its_refusal_says():
    """Not a day later: what others took of it comes back then."""
    state = account_state(limits={})
    seen = LimitSeen("requests", "requests-day", 200, 0, period=86_400.0)
    attempt(state, QuotaExhausted(432.0), limits=(seen,))
    assert 432.0 <= state.earliest("m", ONE, 0.0) <= 432.0 + 30.0
    assert state.ledger.earliest(ONE, 0.0) == 432.0


@pytest.mark.parametrize("outcome", EVERY, ids=repr)
def test_an_attempt_ends_once(outcome):
    """A second end changes nothing, whatever it says."""
    state = account_state()
    admission = admit(state, demand=TOKENS)
    assert (state.in_flight, state.snapshot(0.0).in_flight) == (1, 1)
    end(state, admission, outcome)
    before = (state.in_flight, room(state), pauses(state), state.served, state.failed, state.refused, state.health._faults)
    for other in EVERY:
        end(state, admission, other, usage=Usage(10**6))
    after = (state.in_flight, room(state), pauses(state), state.served, state.failed, state.refused, state.health._faults)
    assert before == after
    assert state.in_flight == 0


def test_counts_by_how_attempts_ended():
    """Served, refused, failed; the caller's doing is none of them."""
    state = account_state(limits={}, health=HealthSettings(consecutive_faults=100))
    for outcome in [Served(), *FAILED, *UNSENT, CallerFault(), Withdrawn(), TooLarge(), ModelMissing()]:
        attempt(state, outcome, model=None)
    snapshot = state.snapshot(0.0)
    assert (snapshot.served, snapshot.failed, snapshot.refused) == (1, 5, 2)


def test_debt_blocks_until_it_is_worked_off():
    """What was taken beyond the estimate counts like everything else."""
    state = account_state()
    end(state, admit(state, demand=TOKENS), Served(), usage=Usage(9000))
    assert try_admit(state, "m", TOKENS, 1.0, cold=False) is None
    assert state.earliest("m", TOKENS, 1.0) == pytest.approx(60.03, abs=0.001)
    assert admit(state, 1.0)


def test_a_request_counts_from_when_it_was_written():
    """Waiting for a connection takes no quota."""
    state = account_state(limits={"requests": {"amount": 1, "per": 2.0}, "window": "sliding"})
    admission = admit(state)
    state.written(admission, 0.5)
    end(state, admission, Served(), 0.6)
    assert state.earliest("m", ONE, 0.6) == pytest.approx(2.53, abs=0.001)


def test_no_more_attempts_at_once_than_allowed():
    """Concurrency counts those whose end has not come, and frees at it."""
    state = account_state(limits={"concurrency": 2})
    first, _ = admit(state), admit(state)
    assert try_admit(state, "m", ONE, 0.0, cold=False) is None
    assert state.snapshot(0.0).passed_over("m", ONE, 0.0, cold=False) == FULL
    assert state.earliest("m", ONE, 0.0) == 0.0
    end(state, first, Withdrawn())
    assert admit(state)


# -- unknown limits -------------------------------------------------------------------------------------------------------


def test_a_cold_account_is_asked_by_a_few():
    """Until its first answer has come, where answers show limits."""
    state = account_state(limits={}, shows_limits=True)
    first, *_ = [admit(state, cold=True) for _ in range(COLD_LIMIT)]
    assert state.snapshot(0.0).passed_over("m", ONE, 0.0, cold=True) == COLD
    assert admit(state, cold=False)
    assert state.observe(first, (), 0.1)
    assert not state.observe(first, (), 0.1)
    assert admit(state, 0.1, cold=True)


@pytest.mark.parametrize("outcome", [*UNSENT, *FAILED, Withdrawn()], ids=repr)
def test_what_brought_no_answer_leaves_an_account_cold(outcome):
    """A refused connection shows no limits."""
    state = account_state(limits={}, shows_limits=True)
    attempt(state, outcome)
    assert state.snapshot(0.0).cold_limit == COLD_LIMIT


@pytest.mark.parametrize("outcome", [Served(), CallerFault(), RateLimited()], ids=repr)
def test_any_answer_ends_the_cold(outcome):
    """Also one without limits; and limits end it whatever the outcome."""
    state = account_state(limits={}, shows_limits=True)
    attempt(state, outcome)
    assert state.snapshot(99.0).cold_limit is None
    state = account_state(limits={}, shows_limits=True)
    attempt(state, Faulted(), limits=(LimitSeen("requests", "requests", 5, 4, 1.0),))
    assert state.snapshot(0.0).cold_limit is None


def test_limits_seen_lower_the_mirror():
    """At once, on top of what was refunded."""
    state = account_state()
    attempt(state, RateLimited("requests", 5.0), limits=(LimitSeen("requests", "requests", 60, 0, 5.0),))
    assert room(state)[0] <= 1


# -- pauses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "key", "earliest", "latest"),
    [
        (RateLimited("tokens", 110.0), ("m", "tokens"), 110.0, 110.05),
        (RateLimited(None, 110.0), ("m", None), 110.0, 110.05),
        (RateLimited("images", 110.0), ("m", None), 110.0, 110.05),
        (RateLimited("__class__", 110.0), ("m", None), 110.0, 110.05),
        (RateLimited("requests", 160.0), ("m", "requests"), 160.0, 172.0),
        (RateLimited(None, 9100.0), ("m", None), 9100.0, 9130.0),
        (QuotaExhausted(86400.0), ("m", None), 86400.0, 86430.0),
        (QuotaExhausted(), ("m", None), 100.0 + QUOTA_RECHECK, 100.0 + QUOTA_RECHECK),
        (QuotaExhausted(50.0), ("m", None), 100.0, 101.0),
        (Overloaded(), (None, None), 100.0, 101.0),
        (Overloaded(105.0), (None, None), 105.0, 105.05),
        (Overloaded(1e9), (None, None), 100.0 + MAX_TRANSIENT, 130.0 + MAX_TRANSIENT),
        (Ramp(1e9), (None, None), 100.0 + MAX_TRANSIENT, 130.0 + MAX_TRANSIENT),
        (Ramp(), (None, None), 100.0, 101.0),
        (Billing(), (None, None), math.inf, math.inf),
        (Billing(1e6), (None, None), 1e6, 1e6 + 30.0),
        (Billing(50.0), (None, None), 100.0, 101.0),
        (Unauthorized(), (None, None), math.inf, math.inf),
        (ModelMissing(), ("m", None), math.inf, math.inf),
    ],
    ids=repr,
)
def test_a_refusal_pauses_what_it_is_about(outcome, key, earliest, latest):
    """From the stated time on, or after a backoff; transient ones have a cap."""
    for seed in range(20):
        state = account_state()
        attempt(state, outcome, 100.0, demand=TOKENS, seed=seed)
        ((about, until),) = pauses(state).items()
        assert about == key
        assert earliest <= until <= latest
        assert state.health.state is Health.HEALTHY
        assert state.earliest("m", TOKENS, 100.0) == pytest.approx(max(until, 100.0))
        assert until > 100.0
        assert try_admit(state, "m", TOKENS, min(until - 1e-9, 1e12), cold=False) is None
        if until < math.inf:
            assert admit(state, until, demand=TOKENS)


@pytest.mark.parametrize("until", [None, 100.0, -5.0])
@pytest.mark.parametrize(
    ("limits", "dimension"),
    [({}, None), ({}, "tokens"), ({"requests_per_minute": 60}, "requests"), ({"requests_per_minute": 60}, None)],
)
def test_a_refusal_without_a_time_pauses_nothing(limits, dimension, until):
    """The ledger has less room than it seemed, or has learned a pace: other calls wait for that and not for a pause."""
    state = account_state(limits=limits)
    for second in range(90, 100):
        attempt(state, Served(), float(second), demand=TOKENS)
    attempt(state, RateLimited(dimension, until), 100.0, demand=TOKENS)
    assert pauses(state) == {}
    assert 100.0 < state.earliest("m", TOKENS, 100.0) < 103.0
    assert admit(state, state.earliest("m", TOKENS, 100.0), demand=TOKENS)


def test_the_first_attempts_refused_are_backed_off_from():
    """Where nothing has been admitted there is nothing to make an estimate of."""
    state = account_state(limits={})
    attempt(state, RateLimited(), 100.0)
    assert 100.0 < pauses(state)["m", None] <= 101.0


@pytest.mark.parametrize("outcome", [*CHARGED, *UNSENT, TooLarge()], ids=repr)
def test_what_is_no_refusal_of_the_account_pauses_nothing(outcome):
    """A request too large for this account is about that request."""
    state = account_state()
    attempt(state, outcome)
    assert pauses(state) == {}


def test_a_missing_path_masks_nothing():
    """Without a model a pause would take the whole account out for one wrong path."""
    state = account_state()
    attempt(state, ModelMissing(), model=None)
    assert pauses(state) == {}
    assert admit(state, model=None)
    attempt(state, ModelMissing(), model="m")
    assert try_admit(state, "m", ONE, 0.0, cold=False) is None
    assert state.earliest("m", ONE, 0.0) == math.inf
    assert admit(state, model="n")
    assert admit(state, model=None)


def test_a_refusal_over_what_was_not_estimated_holds_every_call_back():
    """A call that says nothing of its tokens, refused over tokens, would come back at once and be refused again."""
    state = account_state()
    attempt(state, RateLimited("tokens", 5.0))
    assert try_admit(state, "m", ONE, 4.9, cold=False) is None
    state = account_state()
    attempt(state, RateLimited("tokens", 5.0), demand=TOKENS)
    assert admit(state, 0.0)


def test_backoff_grows_with_refusals_in_a_row():
    """Full jitter under 1, 2, 4 ... 20 seconds; a served attempt and a stated time start it again."""
    longest = [0.0] * 8
    for seed in range(100):
        state, now, rng = account_state(limits={}), 0.0, random.Random(seed)
        for step in range(8):
            admission = admit(state, now)
            state.settle(admission, Evidence(Overloaded()), now, rng, latency=0.1)
            wait = pauses(state)[None, None] - now
            assert 0.0 <= wait <= min(MAX_BACKOFF, 2.0**step)
            longest[step] = max(longest[step], wait)
            now += wait + 1.0
    assert longest == pytest.approx([1, 2, 4, 8, 16, 20, 20, 20], rel=0.1)
    for outcome in (Served(), RateLimited(None, 1e4 + 1.0)):
        state = account_state(limits={})
        for now in (0.0, 100.0, 200.0, 300.0):
            attempt(state, Overloaded(), now)
        attempt(state, outcome, 1e4)
        attempt(state, Overloaded(), 2e4)
        assert pauses(state)[None, None] <= 2e4 + 1.0


def test_a_burst_of_refusals_is_one_backoff():
    """Thirty attempts that were out together bring the same news thirty times."""
    state = account_state(limits={})
    rng = random.Random(5)
    admissions = [admit(state) for _ in range(30)]
    for admission in admissions:
        state.settle(admission, Evidence(Overloaded()), 0.2, rng, latency=0.1)
    assert 0.2 < pauses(state)[None, None] <= 1.2
    admission = admit(state, 5.0)
    state.settle(admission, Evidence(Overloaded()), 5.0, rng, latency=0.1)
    assert 5.0 < pauses(state)[None, None] <= 7.0


def test_a_late_refusal_pauses_again():
    """Where the backoff it might belong to is over, it is news."""
    state = account_state(limits={})
    late, first = admit(state), admit(state)
    end(state, first, Overloaded(), 0.1)
    end(state, late, Overloaded(), 50.0)
    assert pauses(state)[None, None] > 50.0


def test_pauses_merge_by_maximum():
    """A shorter wait never ends a longer one."""
    state = account_state()
    first, second, third = admit(state), admit(state), admit(state)
    end(state, first, RateLimited(None, 50.0))
    until = pauses(state)["m", None]
    end(state, second, RateLimited(None, 5.0))
    assert pauses(state)["m", None] == until
    end(state, third, Served())
    assert pauses(state)["m", None] == until


def test_the_state_that_a_pause_shows():
    """Only one that covers every call is the account's state; what needs an operator is called disabled."""
    state = account_state()
    other = admit(state, model="n")
    attempt(state, RateLimited("requests", 50.0))
    assert state.snapshot(0.0).state == "healthy"
    end(state, other, Overloaded(20.0))
    snapshot = state.snapshot(0.0)
    assert (snapshot.state, snapshot.reason) == ("cooling", "overloaded")
    assert snapshot.until == snapshot.valid_until == pauses(state)[None, None]
    state = account_state()
    attempt(state, Unauthorized())
    snapshot = state.snapshot(0.0)
    assert (snapshot.state, snapshot.reason, snapshot.until) == ("disabled", "unauthorized", math.inf)


def test_an_operator_lifts_what_waited_for_one():
    """New settings end what had no end; another key or address ends every pause; what is in flight goes on."""
    state = account_state(key="old")
    flying, *others = [admit(state, model=model) for model in ("m", "n", "o", "p")]
    for admission, outcome in zip(others, [Billing(), ModelMissing(), RateLimited(None, 50.0)], strict=True):
        end(state, admission, outcome)
    assert len(pauses(state)) == 3
    state.change(state.account, HealthSettings(consecutive_faults=2), 1.0)
    assert list(pauses(state)) == [("p", None)]
    state.change(Account(name="a", key="new", limits=LIMITS), HealthSettings(consecutive_faults=2), 1.0)
    assert pauses(state) == {}
    assert state.in_flight == 1
    end(state, flying, Faulted(), 2.0)
    attempt(state, Faulted(), 50.0)  # of what is limited there is some again
    assert state.health.state is Health.EJECTED


def test_new_limits_keep_what_was_charged():
    """A smaller limit is over at once."""
    state = account_state()
    for _ in range(10):
        attempt(state, Served())
    state.change(Account(name="a", limits={"requests_per_minute": 12, "window": "sliding"}), PLAIN, 1.0)
    assert state.snapshot(1.0).room("requests", 1.0) == 2


# -- health and load ------------------------------------------------------------------------------------------------------


def eject(state, now=0.0):
    for _ in range(5):
        attempt(state, Faulted("server error"), now)
    assert state.health.state is Health.EJECTED


@pytest.mark.parametrize("outcome", FAILED, ids=repr)
def test_failures_in_a_row_eject(outcome):
    """Five, and the reason says what happened."""
    state = account_state()
    for _ in range(5):
        assert state.snapshot(0.0).state == "healthy"
        attempt(state, outcome)
    snapshot = state.snapshot(0.0)
    assert (snapshot.state, snapshot.until, snapshot.reason) == ("ejected", 30.0, describe(outcome))
    assert try_admit(state, "m", ONE, 29.9, cold=False) is None
    assert state.earliest("m", ONE, 1.0) == 30.0


@pytest.mark.parametrize(
    "outcome", [*REFUSED, CallerFault(), TimedOut("request"), Withdrawn(), Withdrawn(sent=False)], ids=repr
)
def test_refusals_and_callers_are_no_evidence_of_health(outcome):
    """Neither for it nor against it: four faults stay four."""
    state = account_state(limits={})
    admissions = [admit(state) for _ in range(55)]
    for admission in admissions[:4]:
        end(state, admission, Faulted())
    for admission in admissions[4:54]:
        end(state, admission, outcome)
    assert state.health.state is Health.HEALTHY
    end(state, admissions[54], Faulted())
    assert state.health.state is Health.EJECTED


def test_one_probe_at_a_time():
    """When the ejection is over one attempt may go, and nothing beside it until it has ended."""
    state = account_state()
    eject(state)
    probe = admit(state, 30.0)
    assert probe.probe
    snapshot = state.snapshot(30.0)
    assert (snapshot.state, snapshot.probing) == ("probing", True)
    assert try_admit(state, "m", ONE, 500.0, cold=False) is None
    end(state, probe, Served(), 500.0)
    assert state.snapshot(500.0).state == "healthy"
    assert not admit(state, 500.0).probe


@pytest.mark.parametrize("outcome", [Withdrawn(), CallerFault(), TooLarge()], ids=repr)
def test_a_probe_without_evidence_gives_its_place_back(outcome):
    """The next attempt is the probe."""
    state = account_state()
    eject(state)
    end(state, admit(state, 30.0), outcome, 31.0)
    assert state.snapshot(31.0).probe_due(31.0)
    assert admit(state, 31.0).probe


def test_a_probe_that_is_refused_waits_for_the_pause():
    """Still ejected, still due."""
    state = account_state()
    eject(state)
    end(state, admit(state, 30.0), RateLimited(None, 40.0), 31.0)
    assert try_admit(state, "m", ONE, 39.0, cold=False) is None
    assert admit(state, 41.0).probe


def test_a_failed_probe_ejects_for_longer():
    """Thirty seconds more."""
    state = account_state()
    eject(state)
    end(state, admit(state, 30.0), TimedOut("read"), 31.0)
    snapshot = state.snapshot(31.0)
    assert (snapshot.state, snapshot.until, snapshot.reason) == ("ejected", 91.0, "timed out (read)")


def test_a_usage_that_breaks_the_ledger_does_not_keep_the_probes_place():
    """Whatever goes wrong behind it, health has been told."""
    state = account_state()
    eject(state)
    probe = admit(state, 30.0)
    with pytest.raises(AttributeError):
        end(state, probe, Served(), 31.0, usage="nonsense")
    assert (state.in_flight, state.health.state) == (0, Health.HEALTHY)


@pytest.mark.parametrize("outcome", EVERY, ids=repr)
def test_only_served_attempts_are_samples_of_latency(outcome):
    """A failing account's time to fail must not attract traffic."""
    state = account_state()
    attempt(state, outcome, latency=0.01)
    expected = 0.01 if outcome == Served() else None
    assert (state.load.peak, state.load.mean) == (expected, expected)


def test_a_snapshot_is_replaced_whole_and_only_when_something_changed():
    """The same object until then."""
    state = account_state()
    snapshot = state.snapshot(0.0)
    assert state.snapshot(1.0) is snapshot
    admission = admit(state, 1.0)
    assert state.snapshot(1.0) is not snapshot
    assert snapshot.in_flight == 0
    after = state.snapshot(1.0)
    end(state, admission, RateLimited(None, 5.0), 1.0)
    assert state.snapshot(1.0) is not after


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Faulted("server error"), "server error"),
        (Faulted(), "Faulted"),
        (TimedOut("connect"), "timed out (connect)"),
        (TimedOut(), "TimedOut"),
        (RateLimited("tokens"), "RateLimited"),
        (Truncated(), "the answer ended without its end mark"),
        (Truncated(17), "the answer broke off after 17 bytes"),
    ],
)
def test_outcomes_in_a_few_words(outcome, text):
    """For a reason or a log."""
    assert describe(outcome) == text


# -- everything together --------------------------------------------------------------------------------------------------

MODELS = st.sampled_from([None, "m", "n"])
DEMANDS = st.sampled_from([ONE, Demand(5, 5), Demand(40, 10)])
WAIT = st.sampled_from([None, -3.0, 0.0, 0.01, 2.0, 40.0, 1e4])


class AccountMachine(RuleBasedStateMachine):
    """An account beside a slow, obvious record of what it was told."""

    @initialize(window=st.sampled_from(["bucket", "sliding"]), concurrency=st.sampled_from([None, 1, 3]), shows=st.booleans())
    def begin(self, window, concurrency, shows):
        limits = {"requests": {"amount": 8, "per": 5.0}, "tokens": {"amount": 150, "per": 9.0}}
        self.limits = limits | {"window": window, "concurrency": concurrency}
        self.window = window
        self.rng = random.Random(4)
        self.health = HealthSettings(consecutive_faults=3, ejection_time=5.0)
        self.state = account_state(limits=self.limits, shows_limits=shows, health=self.health)
        self.now = 1e5
        self.flying: list = []
        self.ended: list = []
        self.admitted: list[list] = []  # [at, requests, tokens, admission]; what a refund or usage gives back is taken out
        self.floors: dict[tuple, float] = {}  # (model, dimension) -> no start before, as stated
        self.untils: dict[tuple, float] = {}

    @rule(gap=st.sampled_from([0.001, 0.3, 1.0, 5.04, 9.04, 30.0, 4000.0]))
    def tick(self, gap):
        self.now += gap

    @rule(model=MODELS, demand=DEMANDS, cold=st.booleans())
    def submit(self, model, demand, cold):
        state, now = self.state, self.now
        health = state.health.state
        due = health is Health.EJECTED and state.health.ejected_until <= now
        earliest = state.earliest(model, demand, now)
        admission = try_admit(state, model, demand, now, cold=cold)
        if admission is None:
            return
        assert earliest <= now
        assert health is Health.HEALTHY or due
        assert admission.probe == due
        for (about, dimension), floor in self.floors.items():
            if about in (None, model) and (dimension is None or getattr(demand, dimension)):
                assert now >= floor
        self.flying.append(admission)
        self.admitted.append([now, demand.requests, demand.tokens, admission])

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def write(self, data):
        """The connection took a while, but not as long as a period: by then the charge would have left the window."""
        admission = data.draw(st.sampled_from(self.flying))
        if self.now - admission.began_at < 5.0:
            self.state.written(admission, self.now)
            for entry in self.admitted:
                if entry[3] is admission:
                    entry[0] = self.now

    @precondition(lambda self: self.flying)
    @rule(
        data=st.data(), outcome=st.sampled_from([*FAILED, *UNSENT, Served(), CallerFault(), Withdrawn()]), usage=st.booleans()
    )
    def answer(self, data, outcome, usage):
        admission = self.take(data)
        used = None
        if usage and outcome not in UNSENT:
            used = Usage(data.draw(st.integers(0, 80)))
            for entry in self.admitted:
                if entry[3] is admission:
                    entry[2] = min(entry[2], used.tokens)
        before = self.told()
        end(self.state, admission, outcome, self.now, usage=used, seed=self.rng.random())
        if outcome in UNSENT:
            self.admitted = [entry for entry in self.admitted if entry[3] is not admission]
        if isinstance(outcome, CallerFault | Withdrawn):
            assert self.told()[1:] == before[1:]
            assert (before[0], self.told()[0]) in {
                (Health.PROBING, Health.EJECTED),
                *((health, health) for health in Health),
            }
        self.ended.append(admission)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), kind=st.sampled_from([RateLimited, QuotaExhausted, Overloaded, Ramp]), wait=WAIT)
    def refuse(self, data, kind, wait):
        admission = self.take(data)
        until = None if wait is None else self.now + wait
        outcome = RateLimited(data.draw(st.sampled_from([None, "tokens"])), until) if kind is RateLimited else kind(until)
        before = self.state.health.state
        end(self.state, admission, outcome, self.now, seed=self.rng.random())
        self.admitted = [entry for entry in self.admitted if entry[3] is not admission]
        self.ended.append(admission)
        after = self.state.health.state
        assert after is (Health.EJECTED if admission.probe else before)
        if until is not None and until > self.now:
            key = (admission.model, None) if kind in (RateLimited, QuotaExhausted) else (None, None)
            if kind is RateLimited and outcome.dimension and admission.reservation.demand.tokens:
                key = (admission.model, "tokens")
            floor = min(until, self.now + MAX_TRANSIENT) if kind in (Overloaded, Ramp) else until
            self.floors[key] = max(floor, self.floors.get(key, -math.inf))
            assert pauses(self.state)[key] >= self.floors[key]

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), outcome=st.sampled_from(EVERY))
    def end_again(self, data, outcome):
        before = (self.told(), self.state.in_flight, pauses(self.state), room(self.state, self.now))
        end(self.state, data.draw(st.sampled_from(self.ended)), outcome, self.now, usage=Usage(10**6))
        assert (self.told(), self.state.in_flight, pauses(self.state), room(self.state, self.now)) == before

    @rule()
    def reload(self):
        self.state.change(Account(name="a", limits=self.limits), self.health, self.now)

    def take(self, data):
        return self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))

    def told(self):
        state = self.state
        return (state.health.state, state.health._faults, state.load.peak, state.served, state.failed, state.refused)

    @invariant()
    def in_flight_is_what_has_not_ended(self):
        if not hasattr(self, "state"):
            return
        state, snapshot = self.state, self.state.snapshot(self.now)
        assert state.in_flight == snapshot.in_flight == len(self.flying) >= 0
        assert self.limits["concurrency"] is None or state.in_flight <= self.limits["concurrency"]
        probes = sum(admission.probe for admission in self.flying)
        assert probes <= 1
        assert snapshot.probing == (probes == 1)
        for view in snapshot.dimensions:
            reserved = sum(
                getattr(admission.reservation.demand, view.dimension)
                for admission in self.flying
                if view.covers(admission.model)
            )
            assert view.reserved == pytest.approx(reserved)
            assert math.isfinite(view.used(self.now))

    @invariant()
    def pauses_never_move_earlier(self):
        if not hasattr(self, "state"):
            return
        current = pauses(self.state)
        for key, until in self.untils.items():
            assert until <= self.now or current[key] >= until
        self.untils = current

    @invariant()
    def the_windows_hold(self):
        """What was admitted and not refunded, in any span; only late corrections may exceed it."""
        if not hasattr(self, "state") or self.window != "sliding":
            return
        for field, limit, period in ((1, 8, 5.0), (2, 150, 9.0)):
            recent = sum(entry[field] for entry in self.admitted if entry[0] > self.now - period)
            assert recent <= limit


TestAccount = AccountMachine.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# -- estimates ------------------------------------------------------------------------------------------------------------


GUESS = Call("m", Demand(1000, 500, max_output_tokens=500), estimated=True)


def test_estimates_are_learned_per_model_from_what_was_served():
    """Of requests that say nothing themselves, where tokens are counted; a caller's own demand is taken as it is."""
    state = account_state()
    for second in range(60):
        demand = state.demand(GUESS, "m")
        admission = state.admit("m", demand, 60.0 * second, GUESS.demand)
        end(state, admission, Served(), 60.0 * second + 1, usage=Usage(1500, 100))
    assert state.demand(GUESS, "m").input_tokens == pytest.approx(1500, rel=0.05)
    assert state.demand(GUESS, "m").output_tokens == pytest.approx(100, rel=0.05)
    assert state.demand(GUESS, "m").output_bound == 500
    assert state.demand(GUESS, "other") == GUESS.demand
    assert state.demand(attrs.evolve(GUESS, estimated=False), "m") == GUESS.demand
    tokens = state.snapshot(4000.0).dimensions[1]
    assert tokens.bias == pytest.approx(1.0, abs=0.1)
    assert account_state(limits={"requests_per_minute": 5}).demand(GUESS, "m") == GUESS.demand


def test_an_estimate_larger_than_a_limit_is_tried_all_the_same():
    """It may be wrong; what a caller says himself is believed."""
    state = account_state()
    huge = Call("m", Demand(90_000, 500, max_output_tokens=500), estimated=True)
    assert state.demand(huge, "m").tokens <= 6000
    assert state.earliest("m", state.demand(huge, "m"), 0.0) == 0.0
    assert state.earliest("m", huge.demand, 0.0) == math.inf


@pytest.mark.parametrize("dimension", ["tokens", "input_tokens", "output_tokens"])
def test_an_estimate_is_never_cut_to_nothing(dimension):
    """Of a limit that is shown used up no more is known than that a unit fits. Nothing would pass it, its pause and the other limits."""
    state = account_state(limits={"tokens_per_minute": 6000})
    attempt(state, RateLimited(dimension, 30.0), demand=TOKENS, limits=(LimitSeen(dimension, dimension, 500, 0, 30.0),))
    demand = state.demand(GUESS, "m")
    assert getattr(demand, dimension) == 1
    assert try_admit(state, "m", demand, 1.0) is None
    assert 30.0 <= state.earliest("m", demand, 1.0) < 40.0


def test_estimates_that_were_wrong_keep_room_free_while_attempts_run():
    """Twice what was estimated so far: half as much goes at once."""
    state = account_state(limits={"tokens_per_minute": 6000})
    for second in range(20):
        end(state, admit(state, 100.0 * second, demand=Demand(50)), Served(), 100.0 * second + 1, usage=Usage(100))
    sent = 0
    while try_admit(state, "m", Demand(50), 5000.0):
        sent += 50
    assert sent == 3000
    view = state.snapshot(5000.0).dimensions[0]
    assert (view.reserved, view.bias) == (3000, pytest.approx(2.0))
    assert view.kept_back == pytest.approx(3000)
