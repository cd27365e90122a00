"""The order of waiting tickets against an obvious slow model, what a look leaves out, and the memory that it takes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balancer.actors.lanes import LOOK_BEHIND
from balancer.actors.messages import Ticket
from balancer.actors.waiting import WaitingTickets
from balancer.core import tenants as tenants_module
from balancer.core.call import Call, Demand, Usage
from balancer.core.decision import Decision
from balancer.core.outcome import RateLimited, Served, Withdrawn
from balancer.core.tenants import Tenants, TenantSettings

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}


def ticket(model=None, priority=0, give_up_at=math.inf, deadline=math.inf, tenant="", tokens=0, lead=0.0):
    call = Call(model=model, priority=priority, tenant=tenant, demand=Demand(input_tokens=tokens))
    one = Ticket(call, Decision(call), model, "default", give_up_at=give_up_at, deadline=deadline)
    one.latest_start_at = give_up_at - lead
    return one


def serve(waiting, one):
    """Grants a ticket as the dispatcher does."""
    share = waiting.serve(one)
    waiting.left(one)
    return share


def served(waiting):
    """Serves every ticket that a round gives; the order in which they came."""
    order = []
    for _, one in waiting.round():
        serve(waiting, one)
        order.append(one)
    return order


def looked_at(waiting):
    """Every ticket that a round gives when none can be placed."""
    return [one for _, one in waiting.round()]


class Model:
    """All tickets in one list, sorted anew whenever it is asked."""

    def __init__(self):
        self.tickets, self.counters, self.numbers, self.arrivals = [], {}, {}, 0

    def add(self, one):
        call = one.call
        self.arrivals += 1
        group = (one.model, call.priority)
        others = [other for other in self.tickets if (other.model, other.call.priority) == group] or self.tickets
        least = min((self.counters[other.call.tenant] for other in others), default=0.0)
        if call.tenant not in {other.call.tenant for other in self.tickets}:
            self.counters[call.tenant] = max(self.counters.get(call.tenant, -math.inf), least)
        key = (*group, call.tenant)
        if key not in {(other.model, other.call.priority, other.call.tenant) for other in self.tickets}:
            self.numbers[key] = self.arrivals
        one.arrival = self.arrivals
        self.tickets.append(one)

    def charge(self, tenant, amount):
        self.counters[tenant] += amount / WEIGHTS[tenant]

    def remove(self, one):
        self.tickets.remove(one)
        if not self.tickets:
            self.counters.clear()

    def first(self):
        """The first of each lane by priority, counter, how long the tenant waits, latest start, end, arrival; of those the best."""

        def in_lane(one):
            call = one.call
            number = self.numbers[one.model, call.priority, call.tenant]
            return (-call.priority, self.counters[call.tenant], number, one.latest_start_at, one.give_up_at, one.arrival)

        heads = {}
        for one in sorted(self.tickets, key=in_lane):
            heads.setdefault(one.model, one)

        def among_lanes(one):
            return (-one.call.priority, self.counters[one.call.tenant], one.latest_start_at, one.give_up_at, one.arrival)

        return min(heads.values(), key=among_lanes) if heads else None


class Known(Ticket):
    """A ticket that remembers its arrival for the model."""

    __slots__ = ("arrival",)


class QueueMachine(RuleBasedStateMachine):
    """Tickets come, leave, are served and turn out to have taken something else."""

    def __init__(self):
        super().__init__()
        self.waiting = WaitingTickets(Tenants([TenantSettings(name, weight) for name, weight in WEIGHTS.items()]))
        self.model, self.shares = Model(), []

    @rule(
        model=st.sampled_from(["m", "n"]),
        priority=st.integers(-1, 1),
        tenant=st.sampled_from(sorted(WEIGHTS)),
        end=st.sampled_from([5.0, 9.0, math.inf]),
        tokens=st.sampled_from([0, 8, 64]),
        lead=st.sampled_from([0.0, 4.0, 6.0]),
    )
    def add(self, model, priority, tenant, end, tokens, lead):
        call = Call(model=model, priority=priority, tenant=tenant, demand=Demand(input_tokens=tokens))
        one = Known(call, Decision(call), model, "default", give_up_at=end)
        one.latest_start_at = min(end, 90.0) - lead
        self.waiting.add(one)
        self.model.add(one)

    @precondition(lambda self: self.model.tickets)
    @rule(choice=st.randoms(use_true_random=False))
    def withdraw(self, choice):
        one = choice.choice(self.model.tickets)
        self.waiting.left(one)
        self.model.remove(one)

    @rule(count=st.integers(1, 6))
    def serve_several(self, count):
        for _, one in self.waiting.round():
            assert one is self.model.first()
            self.shares.append(serve(self.waiting, one))
            self.model.charge(one.call.tenant, max(1, one.call.demand.tokens))
            self.model.remove(one)
            count -= 1
            if not count:
                return
        assert not self.model.tickets

    @precondition(lambda self: self.shares)
    @rule(tokens=st.sampled_from([0, 8, 64]))
    def settle(self, tokens):
        share = self.shares.pop(0)
        if share.tenant is self.waiting.tenants.known(share.tenant.name):  # else all was forgotten meanwhile
            self.model.charge(share.tenant.name, max(1, tokens) - share.amount)
        share.settle(Served(), Usage(input_tokens=tokens))

    @invariant()
    def it_agrees(self):
        waiting, tickets = self.waiting, self.model.tickets
        assert waiting.count == len(tickets)
        assert set(waiting.all()) == set(tickets)
        assert waiting.next_end() == min((one.give_up_at for one in tickets), default=math.inf)
        first = next(waiting.round(), None)
        assert (None if first is None else first[1]) is self.model.first()
        for name in {one.call.tenant for one in tickets}:
            tenant = waiting.tenants.known(name)
            assert tenant.waiting == sum(one.call.tenant == name for one in tickets)
            assert tenant.counter == pytest.approx(self.model.counters[name])


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase


def test_order_is_priority_latest_start_end_arrival_for_one_tenant():
    """Lanes do not change the order among tickets that could all be placed."""
    rng = random.Random(7)
    waiting = WaitingTickets()
    tickets = [
        ticket(rng.choice("abc"), rng.randrange(3), rng.choice((5.0, 9.0, math.inf)), lead=rng.choice((0.0, 4.0)))
        for _ in range(60)
    ]
    for one in tickets:
        waiting.add(one)

    def rank(one):
        return (-one.call.priority, one.latest_start_at, one.give_up_at, tickets.index(one))

    expected = sorted(tickets, key=rank)
    assert served(waiting) == expected
    assert waiting.count == 0


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.5, 1.0)])
def test_tenants_share_by_tokens(weights):
    """Over any span in which both wait, what two tenants were served per weight differs by at most the sum of their largest
    demands per weight, though one sends ten times the tokens of the other."""
    rng = random.Random(3)
    waiting = WaitingTickets(Tenants([TenantSettings(name, weight) for name, weight in zip("ab", weights, strict=True)]))
    largest = {"a": 1000, "b": 300}
    for _ in range(2000):
        waiting.add(ticket(tenant="a", tokens=rng.randrange(1, 1001)))
    for _ in range(300):
        waiting.add(ticket(tenant="b", tokens=rng.randrange(1, 301)))
    gaps, per_weight = [0.0], dict(zip("ab", weights, strict=True))
    for _, one in waiting.round():
        name = one.call.tenant
        gaps.append(gaps[-1] + (1 if name == "a" else -1) * one.call.demand.tokens / per_weight[name])
        serve(waiting, one)
        if not waiting.tenants.known("a").waiting or not waiting.tenants.known("b").waiting:
            break
    assert len(gaps) > 300  # they have waited together for long
    bound = sum(largest[name] / per_weight[name] for name in "ab")
    assert max(gaps) - min(gaps) <= bound


def test_who_comes_late_gets_no_credit():
    """A tenant that begins to wait after another was served a lot shares from then on; it is not served alone."""
    waiting = WaitingTickets()
    for _ in range(100):
        waiting.add(ticket(tenant="a", tokens=10))
    for _, (_, one) in zip(range(50), waiting.round(), strict=False):
        serve(waiting, one)
    for _ in range(50):
        waiting.add(ticket(tenant="b", tokens=10))
    order = [one.call.tenant for one in served(waiting)]
    assert abs(order[:20].count("a") - order[:20].count("b")) <= 1


def test_usage_corrects_what_was_served():
    """A tenant whose calls take half of what they were estimated at gets twice the calls; what was never served does not count."""
    waiting = WaitingTickets()
    for name in "ab":
        for _ in range(100):
            waiting.add(ticket(tenant=name, tokens=100))
    counts = {"a": 0, "b": 0}
    for _ in range(90):
        _, one = next(waiting.round())
        share = serve(waiting, one)
        counts[one.call.tenant] += 1
        share.settle(Served(), Usage(input_tokens=50) if one.call.tenant == "a" else None)
    assert counts == {"a": 60, "b": 30}
    before = waiting.tenants.known("a").counter
    for outcome in (RateLimited(), Withdrawn(sent=False)):
        serve(waiting, next(waiting.round())[1]).settle(outcome, None)
    assert waiting.tenants.known("a").counter == before


def test_a_blocked_ticket_holds_up_those_that_demand_as_much():
    """In its lane only smaller ones are looked at; other lanes as ever."""
    waiting = WaitingTickets()
    large, as_large, larger = ticket("m", tokens=100), ticket("m", tokens=100), ticket("m", tokens=101)
    small, other = ticket("m", tokens=99), ticket("n", tokens=200)
    for one in (large, as_large, larger, small, other):
        waiting.add(one)
    assert looked_at(waiting) == [large, small, other] or looked_at(waiting) == [large, other, small]
    lane = waiting.lane(ticket("m"))
    assert lane.sure_blocked(Call(demand=Demand(input_tokens=99)))
    assert not lane.sure_blocked(Call(demand=Demand(input_tokens=98)))
    assert not lane.sure_blocked(Call(demand=Demand(input_tokens=98, output_tokens=10**6)))


def test_lanes_that_all_accounts_treat_alike_are_looked_at_as_one():
    """What is blocked for one model is for every other that nothing names: of those only smaller demands are looked at."""
    waiting = WaitingTickets()
    tickets = [ticket(model, tokens=10, give_up_at=number) for number, model in enumerate(["m", "n", "named", "o", None])]
    elsewhere, learned, small = ticket("o", tokens=10), ticket("p", tokens=10), ticket("q", tokens=9)
    elsewhere.avoid = frozenset("a")
    learned.call = Call(demand=Demand(10), estimated=True)
    for one in [*tickets, elsewhere, learned, small, ticket("q", tokens=9), ticket("n", tokens=11)]:
        waiting.add(one)
    seen = [one for _, one in waiting.round(lambda pool: {"named"})]
    assert seen == [tickets[0], tickets[2], tickets[4], elsewhere, learned, small]


def test_a_lane_that_accounts_learn_of_is_looked_at_alone():
    """From the moment on when a call joins whose demand depends on the model."""
    waiting = WaitingTickets()
    for model in "mn":
        waiting.add(ticket(model, tokens=10))
    assert len(list(waiting.round(lambda pool: ()))) == 1
    learned = Call(demand=Demand(10), estimated=True)
    waiting.add(Ticket(learned, Decision(learned), "n", "default"))
    waiting.lane(ticket("m")).stays(ticket("m", tokens=1))
    assert waiting.lane(ticket("m")).sure_blocked(Call(demand=Demand(1)))
    assert not waiting.lane(ticket("n")).sure_blocked(Call(demand=Demand(1)))


def test_at_most_64_behind_a_blocked_one_are_looked_at():
    """However many wait; and that others were left out is known."""
    waiting = WaitingTickets()
    for number in range(1000):
        waiting.add(ticket(tokens=1000 - number))
    assert len(looked_at(waiting)) == 1 + LOOK_BEHIND
    assert waiting.lane(ticket()).cut
    waiting = WaitingTickets()
    for number in range(1 + LOOK_BEHIND):
        waiting.add(ticket(tokens=1000 - number))
    assert len(looked_at(waiting)) == 1 + LOOK_BEHIND
    assert not waiting.lane(ticket()).cut


def test_tenants_take_turns_behind_a_blocked_one():
    """The 64 are not all of one tenant while others wait as well."""
    waiting = WaitingTickets()
    for number in range(200):
        for name in ("a", "b"):
            waiting.add(ticket(tenant=name, tokens=1000 - number))
    names = [one.call.tenant for _, one in waiting.round()]
    assert 20 <= names.count("a") <= 45


def test_nothing_is_looked_at_behind_the_least():
    """Where not even the least demand of a lane can be taken, the look ends."""
    waiting = WaitingTickets()
    for number in range(50):
        waiting.add(ticket(tokens=100 + number % 7))
    seen = []
    for lane, one in waiting.round():
        seen.append(one)
        lane.exhaust()
    assert len(seen) == 1


def test_a_look_takes_nothing_out():
    """A round that placed nothing leaves the order as it was."""
    rng = random.Random(1)
    waiting = WaitingTickets()
    for number in range(300):
        waiting.add(ticket(rng.choice("mn"), rng.randrange(2), tenant=rng.choice("abc"), tokens=1000 - number))
    before = looked_at(waiting)
    assert looked_at(waiting) == before
    assert waiting.count == 300


def test_certainly_before():
    """Those that rank before and wait as long, if none demands more: of higher priority all, of the own one the tenant's own."""
    waiting = WaitingTickets()
    for _ in range(3):
        waiting.add(ticket(priority=1, tenant="x", tokens=10))
    waiting.add(ticket(priority=1, tenant="x", tokens=10, give_up_at=40.0))
    waiting.add(ticket(tenant="a", tokens=10, give_up_at=50.0))
    waiting.add(ticket(tenant="b", tokens=10, give_up_at=50.0))

    def before(late_for=0.0, **more):
        return waiting.certainly_before(
            ticket(**{"tenant": "a", "tokens": 10, "give_up_at": 50.0, **more}), late_for, held=False
        )

    assert before() == 3 + 1
    assert before(give_up_at=40.0) == 4
    assert before(give_up_at=60.0) == 3
    assert before(priority=2) == 0
    assert before(tokens=9) == 0
    assert before(tokens=11) == 4
    assert before(tenant="c") == 3
    last = ticket(tenant="a", tokens=10, give_up_at=50.0)
    waiting.add(last)
    assert waiting.certainly_before(last, 0.0, held=False) == 4


def test_only_who_ranks_before_is_certainly_before():
    """Whose latest start is later goes after, though its patience ends at the same time; whose end is earlier may be gone by then."""
    waiting = WaitingTickets()
    for lead in (0.0, 4.0, 4.0):
        waiting.add(ticket(tokens=10, give_up_at=50.0, lead=lead))
    waiting.add(ticket(tokens=10, give_up_at=46.0))
    for lead, before in ((0.0, 1), (4.0, 2), (6.0, 0)):
        assert waiting.certainly_before(ticket(tokens=20, give_up_at=50.0, lead=lead), 0.0, held=False) == before
    waiting.add(ticket(priority=1, tokens=10, give_up_at=50.0))
    assert waiting.certainly_before(ticket(tokens=20, give_up_at=50.0, lead=60.0), 0.0, held=False) == 1


def test_where_tickets_are_held_back_only_their_like_is_certainly_before():
    """One that asks for something else may go where they had better not; of the same, all are held back alike."""
    waiting = WaitingTickets()
    for _ in range(3):
        waiting.add(ticket(priority=1, tokens=10))
    asking = ticket(tokens=10, give_up_at=50.0)
    assert waiting.certainly_before(asking, 0.0, held=True) == 3
    assert waiting.certainly_before(ticket(tokens=11, give_up_at=50.0), 0.0, held=True) == 0
    waiting.add(ticket(priority=1, tokens=9))
    assert waiting.certainly_before(asking, 0.0, held=True) == 0
    assert waiting.certainly_before(asking, 0.0, held=False) == 4


def test_who_may_be_refused_as_too_late_is_not_certainly_before():
    """Not one whose deadline is less than `late_for` behind the end in question; one of the same end if the asking one may be, too."""
    waiting = WaitingTickets()
    for end in (100.0, 60.0):
        waiting.add(ticket(priority=1, give_up_at=end, deadline=end))
    for _ in range(2):
        waiting.add(ticket(give_up_at=50.0, deadline=50.0))

    def before(late_for, came_at=0.0, deadline=50.0):
        one = ticket(give_up_at=50.0, deadline=deadline)
        one.came_at = came_at
        return waiting.certainly_before(one, late_for, held=False)

    assert before(5.0) == 2 + 2
    assert before(20.0) == 1 + 2
    assert before(30.0) == 1
    assert before(20.0, came_at=20.0) == 1
    assert before(60.0) == 0
    assert before(5.0, deadline=55.0) == 2
    waiting = WaitingTickets()
    waiting.add(ticket(priority=1, give_up_at=50.0))
    waiting.add(ticket(give_up_at=50.0))
    assert before(60.0, deadline=math.inf) == 2


@pytest.mark.parametrize(
    ("blocked", "behind", "skipped"),
    [
        (Call(estimated=True, demand=Demand(1, 1000)), Call(estimated=True, demand=Demand(1, 1001)), True),
        (Call(estimated=True, demand=Demand(1, 1000)), Call(estimated=True, demand=Demand(1, 2000, 1, 0, 2000)), False),
        (Call(estimated=True, demand=Demand(1, 1000)), Call(demand=Demand(1, 1000)), False),
        (Call(demand=Demand(1, 1000)), Call(estimated=True, demand=Demand(1, 1000)), False),
        (Call(demand=Demand(1, 1000)), Call(demand=Demand(1, 1000, 1, 0, 2000)), True),
    ],
)
def test_only_what_is_known_in_the_same_way_is_compared(blocked, behind, skipped):
    """Accounts may have learned that the one of the larger first estimate takes less."""
    waiting = WaitingTickets()
    for call in (blocked, behind):
        waiting.add(Ticket(call, Decision(call), None, "default"))
    lane = waiting.lane(ticket())
    assert len(looked_at(waiting)) == (1 if skipped else 2)
    assert lane.sure_blocked(behind)


def test_others_of_the_pool():
    """One of every lane in which another waits, its own first; none of another pool."""
    waiting = WaitingTickets()
    alone, elsewhere = ticket("m"), ticket("n")
    elsewhere.pool = "elsewhere"
    for one in (alone, elsewhere):
        waiting.add(one)
    assert list(waiting.others(alone)) == []
    assert list(waiting.others(ticket("m"))) == list(waiting.others(ticket("n"))) == [alone]
    other, mate = ticket("n"), ticket("m")
    waiting.add(other)
    assert list(waiting.others(alone)) == [other]
    waiting.add(mate)
    assert list(waiting.others(mate)) == [alone, other]
    assert list(waiting.others(other)) == [alone]
    for one in (alone, other, mate):
        waiting.left(one)
    assert list(waiting.others(alone)) == []
    assert list(waiting.others(elsewhere)) == []


def test_a_tenant_that_is_served_while_idle_is_remembered(monkeypatch):
    """Being served counts as being seen: the longest idle one is forgotten."""
    monkeypatch.setattr(tenants_module, "MOST_IDLE", 2)
    waiting = WaitingTickets()
    waiting.add(ticket(tenant="waits"))
    for name in ("often", "b", "often", "c", "often", "d"):
        waiting.serve(ticket(tenant=name, tokens=10))
    assert waiting.tenants.known("often").counter == 30.0
    assert waiting.tenants.known("b") is None


def test_patience_ends_in_order_whatever_the_lane():
    """Only tickets that end by themselves are listed: at its deadline the caller's own cancel withdraws one."""
    waiting = WaitingTickets()
    late, soon, by_deadline = ticket("a", give_up_at=9.0), ticket("b", give_up_at=5.0), ticket(give_up_at=1.0, deadline=1.0)
    for one in (late, soon, by_deadline):
        waiting.add(one)
    assert waiting.next_end() == 5.0
    ended = []
    for one in waiting.ended(9.0):
        waiting.left(one)
        ended.append(one)
    assert ended == [soon, late]
    assert (waiting.next_end(), waiting.count) == (math.inf, 1)


def test_tickets_that_left_take_no_memory():
    """Nothing of a withdrawn ticket stays, however deep in the queue it was."""
    waiting = WaitingTickets()
    stays = [ticket(give_up_at=float(number)) for number in range(10)]
    for one in stays:
        waiting.add(one)
    for number in range(3000):
        one = ticket(f"m{number % 7}", number % 3, give_up_at=1000.0 + number, tenant=f"t{number}")
        waiting.add(one)
        waiting.left(one)
        assert one.spot is None
    assert (waiting.count, len(waiting._lanes), len(waiting._ends), len(waiting._backlogs)) == (10, 1, 10, 1)
    assert served(waiting) == stays
    assert (len(waiting._lanes), len(waiting._ends), len(waiting._backlogs), len(waiting.tenants)) == (0, 0, 0, 0)
    assert waiting._pools == {}


def test_leaving_twice_counts_once():
    """A ticket that was answered may be withdrawn in the same pass."""
    waiting = WaitingTickets()
    one = ticket()
    waiting.add(one)
    waiting.left(one)
    waiting.left(one)
    assert waiting.count == 0
    assert looked_at(waiting) == []
