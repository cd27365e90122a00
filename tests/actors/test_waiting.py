"""The order of waiting tickets, lane by lane, and the memory that they take."""

from __future__ import annotations

import math
import random

from balancer.actors.messages import Ticket
from balancer.actors.waiting import WaitingTickets
from balancer.core.call import Call
from balancer.core.decision import Decision


def ticket(model=None, priority=0, give_up_at=math.inf, deadline=math.inf):
    call = Call(model=model, priority=priority)
    return Ticket(call, Decision(call), model, "default", give_up_at=give_up_at, deadline=deadline)


def served(waiting):
    """Answers every head until none is left; the order in which they came."""
    order = []
    for head in waiting.heads():
        waiting.left(head)
        order.append(head)
    return order


def test_order_is_priority_deadline_arrival():
    """Lanes do not change the order among tickets that could all be placed."""
    rng = random.Random(7)
    waiting = WaitingTickets()
    tickets = [ticket(rng.choice("abc"), rng.randrange(3), rng.choice((5.0, 9.0, math.inf))) for _ in range(60)]
    for one in tickets:
        waiting.add(one)
    expected = sorted(tickets, key=lambda one: (-one.call.priority, one.give_up_at, tickets.index(one)))
    assert served(waiting) == expected
    assert waiting.count == 0


def test_a_blocked_head_blocks_its_lane_only():
    """A head that still waits when the next is asked for is left out of the round, with all behind it."""
    waiting = WaitingTickets()
    blocked, behind, other = ticket("a", priority=1), ticket("a"), ticket("b")
    for one in (blocked, behind, other):
        waiting.add(one)
    seen = []
    for head in waiting.heads():
        seen.append(head)
        if head is not blocked:
            waiting.left(head)
    assert seen == [blocked, other]
    assert waiting.blocks(ticket("a"))
    assert not waiting.blocks(ticket("b"))


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
    """Withdrawn tickets deep in the queue are swept: as many lie around as wait, and some."""
    waiting = WaitingTickets()
    stays = [ticket(give_up_at=float(number)) for number in range(10)]
    for one in stays:
        waiting.add(one)
    for number in range(10_000):
        one = ticket("m", give_up_at=1000.0 + number)
        waiting.add(one)
        waiting.left(one)
    assert waiting.count == 10
    kept = sum(map(len, waiting._lanes.values())) + len(waiting._ends)
    assert kept < 4 * (10 + 64)
    assert served(waiting) == stays


def test_leaving_twice_counts_once():
    """A ticket that was answered may be withdrawn in the same pass."""
    waiting = WaitingTickets()
    one = ticket()
    waiting.add(one)
    waiting.left(one)
    waiting.left(one)
    assert waiting.count == 0
    assert list(waiting.heads()) == []
