"""The latest start: how long before its end a ticket's turn has to come."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager

import pytest
import trio

from balancer import Call, Demand
from balancer.actors.claims import Claims
from balancer.actors.messages import Ticket
from balancer.actors.ranking import GATHERINGS, PATIENCE, latest_start
from balancer.core.decision import Decision
from balancer.core.outcome import Withdrawn

END = 1000.0


def ticket(tokens=300, requests=1, give_up_at=END, model=None):
    call = Call(model=model, demand=Demand(input_tokens=tokens, requests=requests))
    return Ticket(call, Decision(call), model, "default", give_up_at=give_up_at)


async def nothing(lease):
    pass


@asynccontextmanager
async def leads(balancing, *limits, used=0, **more):
    """For accounts with these limits, of each of which so many tokens were used just now: how long before its end a ticket's turn has
    to come; the supervisors and claims that it is asked by."""
    accounts = [{"name": f"a{number}", "limits": own} for number, own in enumerate(limits)]
    async with balancing(*accounts, selector="round_robin", max_wait_for=None, **more) as balancer:
        for _ in limits if used else ():
            await balancer.run(Call(demand=Demand(input_tokens=used)), nothing)
        placer, claims = balancer._dispatcher.placer, Claims()

        def lead(one):
            now = trio.current_time()
            return END - latest_start(one, placer.accounts(one), claims, now)

        yield lead, list(placer.accounts(ticket())), claims


def tokens(amount, per=60.0, **more):
    return {"tokens": {"amount": amount, "per": per}, **more}


@pytest.mark.parametrize("limits", [{}, {"concurrency": 1}, {"requests_per_minute": 1}])
async def test_where_small_ones_take_as_much_the_end_decides(limits, balancing_once, autojump_clock):
    """Nothing is gathered of what is not limited, of places, and of requests, of which every call takes one."""
    async with leads(balancing_once, limits, used=1) as (lead, _, _):
        assert lead(ticket()) == 0.0


async def test_its_room_flows_in_before(balancing_once, autojump_clock):
    """By what it demands, at the account where that is least of those that ever take it; of a rate that is short."""
    async with leads(balancing_once, tokens(600, requests_per_minute=60), used=600) as (lead, _, _):
        assert lead(ticket(300)) == pytest.approx(GATHERINGS * 30.0)
        assert lead(ticket(540)) == pytest.approx(GATHERINGS * 54.0)
        assert lead(ticket(0, requests=61)) == 0.0  # never
    async with leads(balancing_once, tokens(600), tokens(1200), tokens(9000, burst=600), used=600) as (lead, _, _):
        assert lead(ticket(900)) == pytest.approx(GATHERINGS * 45.0)
    async with leads(balancing_once, tokens(600), tokens(60_000), used=600) as (lead, _, _):
        assert lead(ticket(300)) == 0.0  # there is room


async def test_what_is_free_is_not_if_others_claim_it(balancing_once, autojump_clock):
    """What the account still holds is gathered for who came before, as long as that waits."""
    async with leads(balancing_once, tokens(600), used=200) as (lead, (account,), claims):
        assert lead(ticket(300)) == 0.0
        other = ticket(500)
        claims.add(other, account, 10.0)
        assert lead(ticket(300)) == 0.0
        other.waiting = True
        assert lead(ticket(300)) == pytest.approx(GATHERINGS * 30.0)


async def test_a_day_counts_only_when_it_is_short(balancing_once, autojump_clock):
    """Of which much is left holds up nobody, whatever else is short."""
    day = {"amount": 86_400, "per": 86_400.0}
    both = {"tokens": [{"amount": 600, "per": 60.0}, day]}
    async with leads(balancing_once, both, used=600) as (lead, _, _):
        assert lead(ticket(300)) == pytest.approx(GATHERINGS * 30.0)
    async with leads(balancing_once, {"tokens": day}, used=86_400) as (lead, _, _):
        assert lead(ticket(300)) == pytest.approx(GATHERINGS * 300.0)


async def test_behind_a_running_attempt_all_may_be_short(balancing_once, autojump_clock):
    """But days and months: which rates are when the attempt has ended nobody knows."""
    limits = {"tokens": [{"amount": 600, "per": 60.0}, {"amount": 86_400, "per": 86_400.0}], "concurrency": 1}
    async with leads(balancing_once, limits) as (lead, (account,), _), trio.open_nursery() as nursery:
        assert lead(ticket(300)) == 0.0
        one = ticket(0)
        lease = account.try_lease(one, trio.current_time(), None)
        assert lead(ticket(300)) == pytest.approx(GATHERINGS * 30.0)
        lease.settle(Withdrawn(sent=False))
        nursery.cancel_scope.cancel()


async def test_who_waits_for_ever_has_its_turn_as_well(balancing_once, autojump_clock):
    """After the patience that calls have by default, whatever it demands."""
    async with leads(balancing_once, tokens(600), used=600) as (lead, _, _):
        now = trio.current_time()
        assert lead(ticket(300, give_up_at=math.inf)) == lead(ticket(1, give_up_at=math.inf)) == END - now - PATIENCE


async def test_equal_demands_go_by_their_end(balancing, autojump_clock):
    """Whatever was short when they came."""
    account = {"name": "a", "limits": tokens(600, concurrency=1)}
    began = []
    async with balancing(account, max_wait_for=None) as balancer, trio.open_nursery() as nursery:

        async def one(name, within):
            async def attempt(lease):
                began.append(name)
                await trio.sleep(5.0)

            with trio.move_on_after(within):
                await balancer.run(Call(demand=Demand(input_tokens=100)), attempt)

        await balancer.run(Call(demand=Demand(input_tokens=550)), nothing)
        for within in (300.0, 280.0, 290.0, 260.0, 310.0):
            nursery.start_soon(one, trio.current_time() + within, within)
            await trio.sleep(4.0)
    assert began[1:] == sorted(began[1:])
