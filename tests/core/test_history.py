"""What was sent, and what of it a provider may have counted."""

from __future__ import annotations

import math

from balancer.core.call import Demand, Usage
from balancer.core.history import REMEMBERED, History
from balancer.core.line import Line
from balancer.core.reservation import Reservation
from balancer.core.sliding import SlidingWindow


def sent(history, at, *, tokens=100, model="m", usage=None, ended=True):
    """One attempt that was sent at a time."""
    reservation = Reservation(Demand(tokens), model, at, (), [], [])
    if ended:
        reservation.ended, reservation.usage = True, usage
        history.recent.append(reservation)
    else:
        history.open[reservation] = None
    return reservation


def test_a_new_line_is_charged_with_all_that_it_covers() -> None:
    """What has ended by what it took, what is in flight by what it demands, so that its end corrects it."""
    history = History()
    sent(history, 0.0, usage=Usage(30))
    sent(history, 1.0, model="n")
    flying = sent(history, 2.0, ended=False)
    line = Line("tokens", "tokens", SlidingWindow(1000.0, 60.0), models=frozenset(("m",)))
    history.charge(line)
    assert line.counter.level(3.0)[0] == 130
    assert flying.lines == (line,)
    assert line.counter.open == 100


def test_what_models_took() -> None:
    """Since a time, or with all that is still in flight."""
    history = History()
    sent(history, 0.0, usage=Usage(30))
    sent(history, 5.0, usage=Usage(7))
    sent(history, 1.0, ended=False)
    sent(history, 6.0, model="n")
    assert history.taken({"m"}, "tokens", 5.0) == 7
    assert history.taken({"m"}, "tokens", 5.0, flying=True) == 107
    assert history.ours("requests") == 4


def test_the_oldest_charge_that_can_still_be_held() -> None:
    """What was counted last is held longest; what ours do not explain may be older than any."""
    history = History()
    for at in (0.0, 10.0, 20.0):
        answered = sent(history, at, usage=Usage(50))
    assert history.oldest_for("tokens", 60.0, answered, 30.0) == 20.0
    assert history.oldest_for("tokens", 150.0, answered, 30.0) == 30.0
    assert history.oldest_for("tokens", 151.0, answered, 30.0) == math.inf
    refused = sent(History(), 0.0)
    assert History().oldest_for("tokens", 0.0, refused, 30.0) == math.inf


def test_what_was_surely_counted() -> None:
    """The answered one by its usage, an estimate by half; of a refusal the last one before it."""
    history = History()
    assert history.counted("tokens", sent(history, 3.0, ended=False), 9.0, 5.0) == (50.0, 2.0)
    refused = Reservation(Demand(10), "n", 4.0, (), [], [])
    refused.refunded = True
    assert history.counted("tokens", refused, 9.0, 5.0) == (0.0, 0.0)


def test_what_was_served_before_was_counted_as_well() -> None:
    """So it counts where that tells more of a bucket's period, but not what was sent later, nor what nobody knows to have been served."""
    history = History()
    for at in (0.0, 1.0, 2.0, 4.0):
        sent(history, at, usage=Usage(100) if at != 1.0 else None)
    answered = sent(history, 3.0, ended=False)
    assert history.counted("requests", answered, 60.0, 5.0) == (3.0, 5.0)
    assert history.counted("requests", answered, 0.5, 5.0) == (2.0, 3.0)
    assert history.counted("tokens", answered, 0.0, 5.0) == (150.0, 3.0)


def test_what_was_sent_at_the_same_moment_is_not_surely_counted() -> None:
    """The provider may have counted it after the request that it answers, and written the answer's limits in between."""
    history = History()
    sent(history, 0.0, usage=Usage(100))
    for at in (2.9, 3.0):
        sent(history, at, usage=Usage(100))
    assert history.counted("requests", sent(history, 3.0, ended=False), 60.0, 5.0) == (2.0, 5.0)


def test_what_has_ended_is_forgotten_in_time() -> None:
    """Memory is bounded."""
    history = History()
    for number in range(REMEMBERED + 5):
        sent(history, float(number))
    assert len(list(history)) == REMEMBERED


def test_what_was_counted_when_a_request_was_refused() -> None:
    """What was served and sent well before that, be it even without its usage; of what was sent later nobody knows."""
    history = History()
    for at in (0.0, 0.1, 0.2):
        sent(history, at).served = True
    sent(history, 0.1)  # it may have failed before it was counted
    refused = Reservation(Demand(), "m", 3.0, (), [], [])
    refused.ended = refused.refunded = True
    assert history.counted("requests", refused, 60.0, 3.1) == (3.0, 3.1)
