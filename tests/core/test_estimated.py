"""One rate of what is estimated: what of it counts and when, and what is kept free since estimates may be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from balancer.core.call import Demand, Usage
from balancer.core.estimated import TOLD_WITHIN
from balancer.core.estimating import KNOWN
from balancer.core.ledger import SURPRISES, Ledger
from balancer.core.limits import Limits
from balancer.core.outcome import LimitSeen
from balancer.core.quota import COUNTED_WITHIN
from balancer.core.reservation import Reservation

DEMAND = Demand(input_tokens=100, output_tokens=50, max_output_tokens=400)
USAGE = Usage(input_tokens=120, output_tokens=30, cached_tokens=80)


def used(ledger: Ledger, dimension: str, now: float = 0.0) -> float:
    return next(view.used(now) for view in ledger.views(now) if view.dimension == dimension)


def tokens(amount: float = 1000, **counting: Any) -> Limits:
    return Limits(tokens={"amount": amount, "per": 60.0, "window": "sliding", **counting})


@pytest.mark.parametrize(
    ("counting", "reserved", "settled"),
    [
        ({}, 150, 150),
        ({"charged": "adjusted"}, 150, 150),
        ({"charged": "start"}, 150, 150),
        ({"charged": "produced"}, 150, 150),
        ({"charged": "max_tokens"}, 500, 520),
        ({"cached_free": True}, 150, 70),
        ({"charged": "max_tokens", "cached_free": True}, 500, 520),
    ],
)
def test_what_is_counted(counting: dict[str, Any], reserved: float, settled: float) -> None:
    """The estimate or the bound at the start, corrected by the usage or not, cached tokens or none. Beside a bound only the input was
    estimated, and whether it is cached nobody knows then."""
    ledger = Ledger(tokens(**counting))
    reservation = ledger.reserve(DEMAND, 0.0)
    assert used(ledger, "tokens") == reserved
    ledger.settle(reservation, USAGE, 0.0)
    assert used(ledger, "tokens") == settled


@pytest.mark.parametrize(("dimension", "reserved", "settled"), [("input_tokens", 100, 120), ("output_tokens", 400, 400)])
def test_of_bounds_nothing_was_estimated(dimension: str, reserved: float, settled: float) -> None:
    """Only the input is corrected."""
    ledger = Ledger(Limits(charged="max_tokens", cached_free=True, **{dimension: "1000/min"}))
    reservation = ledger.reserve(DEMAND, 0.0)
    assert used(ledger, dimension) == reserved
    ledger.settle(reservation, USAGE, 0.0)
    assert used(ledger, dimension) == pytest.approx(settled)
    later = Ledger(Limits())
    later.settle(later.reserve(DEMAND, 0.0), USAGE, 0.0)
    later.replace(Limits(charged="max_tokens", **{dimension: "1000/min"}), 0.0)
    assert used(later, dimension) == pytest.approx(settled)


def test_the_estimate_stays_where_the_provider_does_not_adjust() -> None:
    """Counted at the start means that no usage moves it."""
    ledger = Ledger(tokens(charged="start"))
    ledger.settle(ledger.reserve(DEMAND, 0.0), Usage(900, 900), 0.0)
    assert used(ledger, "tokens") == 150


def test_what_is_produced_is_counted_when_it_has_been() -> None:
    """Until then its estimate is kept free, however long that takes; then the usage is charged."""
    ledger = Ledger(Limits(output_tokens={"amount": 100, "per": 60.0, "charged": "produced", "burst": 60}))
    reservation = ledger.reserve(DEMAND, 0.0)
    assert used(ledger, "output_tokens", 300.0) == 50
    assert not ledger.admits(DEMAND, 300.0)
    assert ledger.earliest(DEMAND, 300.0) == 300.0  # as soon as the attempt has ended
    ledger.settle(reservation, USAGE, 300.0)
    assert used(ledger, "output_tokens", 300.0) == pytest.approx(30)
    refunded = ledger.reserve(Demand(1, 20), 300.0)
    ledger.refund(refunded, 300.0)
    assert used(ledger, "output_tokens", 300.0) == pytest.approx(30)


def teach(ledger: Ledger, demand: Demand, usage: Usage, now: float) -> None:
    """As many answers as make the error of estimates known."""
    for _ in range(KNOWN):
        ledger.settle(ledger.reserve(demand, now), usage, now)


def test_of_what_will_be_produced_is_held_what_is_expected() -> None:
    """The provider sees no estimate, so none is held that answers have shown to be too large; the next demand is taken at its word."""
    ledger = Ledger(Limits(output_tokens={"amount": 100, "per": 60.0, "charged": "produced"}))
    teach(ledger, Demand(1, 40), Usage(1, 20), 0.0)
    for _ in range(3):
        ledger.reserve(Demand(1, 40), 300.0)
    assert used(ledger, "output_tokens", 300.0) == pytest.approx(60)
    assert ledger.admits(Demand(1, 40), 300.0)
    assert not ledger.admits(Demand(1, 41), 300.0)


def test_what_a_provider_may_count_as_estimated_is_held_as_estimated() -> None:
    """However much less it will be in the end."""
    ledger = Ledger(tokens())
    teach(ledger, Demand(100), Usage(50), 0.0)
    ledger.reserve(Demand(800), 100.0)
    assert used(ledger, "tokens", 100.0) == 800


def observed(remaining: float, limit: float = 10, dimension: str = "requests") -> tuple[LimitSeen, ...]:
    return (LimitSeen(dimension, dimension, limit, remaining),)


@pytest.mark.parametrize(("remaining", "somebody_else"), [(200, 0), (100, 100)])
def test_what_an_attempt_took_beyond_its_estimate_is_nobody_elses(remaining: float, somebody_else: float) -> None:
    """The provider counted it from the start: an answer of that time, come late, shows it, and what it shows beyond that others took."""
    ledger = Ledger(tokens())
    ledger.settle(ledger.reserve(Demand(400), -50.0), None, -50.0)
    exceeds, answered = ledger.reserve(Demand(100), 0.0), ledger.reserve(Demand(100), 0.0)
    ledger.settle(exceeds, Usage(300), 12.0)
    assert used(ledger, "tokens", 12.0) == 400
    ledger.observe(observed(remaining, 1000, "tokens"), 13.0, answered)
    assert used(ledger, "tokens", 13.0) == 400 + somebody_else


@pytest.mark.parametrize(("remaining", "somebody_else"), [(600, 0), (500, 100)])
def test_what_attempts_in_flight_are_expected_to_take_is_nobody_elses(remaining: float, somebody_else: float) -> None:
    """It is kept free already; once they have ended nothing is counted twice."""
    ledger = Ledger(tokens())
    teach(ledger, Demand(10), Usage(20), 0.0)
    flying, answered = ledger.reserve(Demand(100), 100.0), ledger.reserve(Demand(100), 100.0)
    ledger.observe(observed(remaining, 1000, "tokens"), 101.0, answered)
    assert used(ledger, "tokens", 101.0) == 400 + somebody_else
    for reservation in (flying, answered):
        ledger.settle(reservation, Usage(200), 102.0)
    assert used(ledger, "tokens", 102.0) == 400 + somebody_else


def unsure(**counting: Any) -> Ledger:
    """A ledger whose estimates are right in the mean and wrong by a half each, with two attempts of 100 in flight from 100 s on."""
    ledger = Ledger(tokens(**counting))
    for taken in (50, 150) * KNOWN:
        ledger.settle(ledger.reserve(Demand(100), 0.0), Usage(taken), 0.0)
    for _ in range(2):
        ledger.reserve(Demand(100), 100.0)
    return ledger


def flying(ledger: Ledger) -> tuple[Reservation, ...]:
    return ledger.outstanding()


def kept_back(ledger: Ledger, now: float) -> float:
    return next(view.kept_back for view in ledger.views(now))


@pytest.mark.parametrize("window", ["bucket", "sliding"])
def test_an_answer_shows_what_attempts_in_flight_take(window: str) -> None:
    """Then no more than that is kept back for them, until they end; for what is booked since, what it may take."""
    ledger = unsure(window=window)
    first, second = flying(ledger)
    assert kept_back(ledger, 101.0) > 200
    ledger.observe(observed(760, 1000, "tokens"), 101.0, second)
    assert used(ledger, "tokens", 101.0) == pytest.approx(241)  # what is shown may be one too small
    third = ledger.reserve(Demand(100), 101.0)
    alone = kept_back(ledger, 101.0) - 41
    assert 100 < alone < 200
    ledger.settle(first, Usage(160), 102.0)
    assert kept_back(ledger, 102.0) == pytest.approx(alone - 19, abs=10)  # one more ratio is known
    ledger.refund(third, 102.0)
    ledger.settle(second, Usage(80), 102.0)
    assert kept_back(ledger, 102.0) == 0


def test_what_the_provider_may_not_have_counted_yet_shows_nothing() -> None:
    """Nor does an answer while something has left its count that is in ours, nor one that shows more than can be; more excess counts
    at once, as far as it can be expected."""
    ledger = unsure()
    first, second = flying(ledger)
    ledger.settle(ledger.reserve(Demand(300), 100.2), None, 100.2)
    before = kept_back(ledger, 100.2)
    ledger.observe(observed(501, 1000, "tokens"), 100.4, first)
    ledger.observe(observed(1000, 1000, "tokens"), 101.0, first)
    assert kept_back(ledger, 101.0) == pytest.approx(before)
    ledger.observe(observed(501, 1000, "tokens"), 102.0, second)
    assert kept_back(ledger, 102.0) == 0
    ledger.reserve(Demand(100), 110.0)
    alone = kept_back(ledger, 110.0)
    ledger.observe(observed(400 - alone - 5, 1000, "tokens"), 110.1, second)
    assert kept_back(ledger, 110.1) == pytest.approx(alone + 6)
    ledger.observe(observed(401, 1000, "tokens"), 159.9, second)
    assert kept_back(ledger, 159.9) == pytest.approx(alone + 6)


def test_an_answer_that_outlasts_its_window_took_nothing_of_what_was_shown() -> None:
    """It had left before."""
    ledger = unsure()
    first, second = flying(ledger)
    ledger.reserve(Demand(100), 150.0)
    ledger.observe(observed(881, 1000, "tokens"), 161.0, second)
    assert kept_back(ledger, 161.0) == 20
    ledger.settle(first, Usage(200), 162.0)
    assert kept_back(ledger, 162.0) == 20


def test_after_a_refusal_that_it_contradicts_no_answer_is_believed_for_a_while() -> None:
    """What was kept back then is kept until those in flight have ended, or it is known better; each time for longer."""
    ledger = unsure()
    ledger.observe(observed(800, 1000, "tokens"), 101.0, flying(ledger)[0])
    ledger.reserve(Demand(500), 101.0)

    def refuse(now: float) -> None:
        refused = ledger.reserve(Demand(1), now)
        ledger.refuse(refused, now)
        assert ledger.refused(refused, "tokens", now + 0.01, now)

    def shown(remaining: float, now: float) -> float:
        ledger.observe(observed(remaining + 1, 1000, "tokens"), now, flying(ledger)[0])
        return kept_back(ledger, now)

    assert kept_back(ledger, 101.0) > 200
    refuse(102.0)
    for reservation in flying(ledger):
        ledger.settle(reservation, None, 102.0)
    assert kept_back(ledger, 102.0) == 0
    ledger.settle(ledger.reserve(Demand(599), 170.0), None, 170.0)
    ledger.reserve(Demand(400), 170.0)
    assert shown(1, 172.0) == 0
    refuse(173.0)
    assert shown(1, 174.0) > 100
    assert shown(1, 229.0) > 100
    ledger.reserve(Demand(400), 250.0)
    assert shown(600, 292.0) > 100
    assert shown(600, 294.0) == 0


def test_a_refusal_that_the_excess_in_flight_explains_charges_nobody_else() -> None:
    """Three hundred that are kept free for it are not charged beside."""
    ledger = Ledger(tokens())
    teach(ledger, Demand(10), Usage(20), 0.0)
    ledger.reserve(Demand(300), 100.0)
    refused = ledger.reserve(Demand(100), 100.0)
    ledger.refuse(refused, 100.1)
    assert ledger.refused(refused, "tokens", None, 100.1)
    assert used(ledger, "tokens", 100.1) == 1000
    assert ledger.lines[0].mirror.foreign() == 400


def halving() -> Ledger:
    """Of a window of a thousand, 900 that are estimated are in flight; estimates have been twice the truth."""
    ledger = Ledger(tokens())
    teach(ledger, Demand(20), Usage(10), 0.0)
    ledger.reserve(Demand(900), 100.0)
    return ledger


def test_an_answer_shows_that_what_attempts_take_is_counted_from_the_start() -> None:
    """Then what they do not take is free, until they end or leave the window."""
    ledger = halving()
    (first,) = flying(ledger)
    assert not ledger.admits(Demand(101), 101.0)
    ledger.observe(observed(550, 1000, "tokens"), 101.0, first)
    assert kept_back(ledger, 101.0) == -449  # what is shown may be one too small
    assert ledger.admits(Demand(549), 101.0)
    assert not ledger.admits(Demand(550), 101.0)
    ledger.reserve(Demand(400), 110.0)
    assert kept_back(ledger, 110.0) == pytest.approx(-649)  # the same share of what was sent since
    assert kept_back(ledger, 165.0) == pytest.approx(-200)
    ledger.settle(first, Usage(450), 166.0)
    assert used(ledger, "tokens", 166.0) == pytest.approx(200)


def test_an_answer_shows_that_estimates_are_counted_until_they_are_corrected() -> None:
    """Then nothing else is tried; what ends leaves what is known of the others."""
    ledger = halving()
    second = ledger.reserve(Demand(60), 100.0)
    ledger.observe(observed(40, 1000, "tokens"), 101.0, flying(ledger)[0])
    ledger.served(second, 102.0)
    assert ledger.admits(Demand(40), 102.0)
    assert not ledger.admits(Demand(41), 102.0)
    ledger.settle(second, Usage(30), 102.0)
    assert kept_back(ledger, 102.0) == 0


def test_without_headers_it_is_tried_whether_estimates_are_counted() -> None:
    """With a little first, all at once when that was served; a refusal ends it."""
    ledger = halving()
    first, *_ = flying(ledger)
    served = ledger.reserve(Demand(10), 100.0)
    ledger.served(served, 101.0)
    ledger.settle(served, Usage(5), 101.0)
    room = -kept_back(ledger, 101.0)
    assert 0 < room < 50
    tried = ledger.earliest(Demand(96), 101.0)
    assert tried == 101.0
    assert ledger.admits(Demand(96), 101.0)
    reservation = ledger.reserve(Demand(96), 101.0)
    ledger.restamp(reservation, 101.1)
    ledger.served(reservation, 102.0)
    assert -kept_back(ledger, 102.0) > 4 * room
    refused = ledger.reserve(Demand(10), 103.0)
    ledger.refuse(refused, 103.1)
    assert ledger.refused(refused, "tokens", None, 103.1)
    assert kept_back(ledger, 103.1) >= 0
    ledger.settle(first, Usage(450), 104.0)


def test_what_is_asked_for_and_not_sent_tries_nothing() -> None:
    """Only what is booked is told by its answer whether the trust in it was right."""
    ledger = halving()
    served = ledger.reserve(Demand(10), 100.0)
    ledger.served(served, 101.0)
    ledger.settle(served, Usage(5), 101.0)
    room = -kept_back(ledger, 101.0)
    assert room > 0
    assert ledger.admits(Demand(96), 101.0)
    small = ledger.reserve(Demand(1), 101.0)
    ledger.served(small, 102.0)
    assert -kept_back(ledger, 102.0) == pytest.approx(room, abs=1)


def test_while_the_worst_is_not_believed_attempts_are_sent_one_after_the_other() -> None:
    """What is in flight is not known any better by the second, until the first has not been refused."""
    ledger = unsure()
    most = next(amount for amount in range(800, 0, -1) if ledger.admits(Demand(amount), 101.0))
    ledger.lines[0]._trust.share = 1.0
    assert ledger.admits(Demand(most + 10), 101.0)
    ledger.reserve(Demand(most + 10), 101.0)
    assert not ledger.admits(Demand(1), 101.0)
    assert ledger.earliest(Demand(1), 101.0) == 101.0 + COUNTED_WITHIN
    assert ledger.admits(Demand(1), 101.0 + COUNTED_WITHIN)


def test_nothing_is_kept_free_for_what_has_left_the_window() -> None:
    """Though its answer is still to come."""
    ledger = unsure()
    assert kept_back(ledger, 159.0) > 200
    assert kept_back(ledger, 161.0) == 0
    for reservation in flying(ledger):
        ledger.settle(reservation, Usage(50), 162.0)
    assert ledger.lines[0]._window is not None
    assert ledger.lines[0]._window.gone == 0


def test_before_any_answer_a_refusal_tells_how_wrong_estimates_are() -> None:
    """Those to come are as wrong as those in flight, and nobody else is charged; not if it is more than estimates can be wrong."""
    ledger = Ledger(tokens())
    ledger.reserve(Demand(400), 0.0)
    refused = ledger.reserve(Demand(300), 0.0)
    ledger.refuse(refused, 0.1)
    assert ledger.refused(refused, "tokens", 60.0, 0.1)
    assert ledger.lines[0].mirror.foreign() == 0
    assert ledger.admits(Demand(150), 0.2)
    assert not ledger.admits(Demand(170), 0.2)
    ledger.reserve(Demand(400), 70.0)
    assert ledger.admits(Demand(150), 70.0)
    assert not ledger.admits(Demand(170), 70.0)
    other = Ledger(tokens())
    other.reserve(Demand(100), 0.0)
    refused = other.reserve(Demand(300), 0.0)
    other.refuse(refused, 0.1)
    assert other.refused(refused, "tokens", 60.0, 0.1)
    assert other.lines[0].mirror.foreign() > 0


def test_refusals_while_nothing_is_known_of_the_estimates_tell_of_these_first() -> None:
    """For a while no pace is learned from them beside the rate; then they are what they are without usages."""
    ledger = Ledger(tokens())
    ledger.settle(ledger.reserve(Demand(10), 0.0), None, 0.0)

    def refuse(now: float) -> int:
        for number in range(SURPRISES):
            reservation = ledger.reserve(Demand(10), now + number)
            ledger.refuse(reservation, now + number)
            ledger.refused(reservation, "tokens", None, now + number)
        return len(ledger.lines)

    assert refuse(1.0) == 1
    assert refuse(1.0 + TOLD_WITHIN) == 2
