"""Estimates of what a request will take, learned per account and model from what earlier ones took, and how wrong they are.

Input tokens are the request's characters times a ratio. Output tokens are as many as earlier answers had, within the request's own
bound. The ledger reserves the estimate and corrects it at the end; until then the
known error of the estimates says how much room to keep free for attempts in flight.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import attrs

from balancer.core.call import Demand, Usage

MOST_MODELS = 256
"""Models per account whose estimates are kept: their names are the callers' to choose. The longest unused is forgotten."""

CHARACTERS_PER_TOKEN = 4
"""Of English text, on the average of the common vocabularies: what first estimates assume."""

BELIEVED = 1_000.0
"""Tokens of the first assumption: one short request does not overturn it, a few thousand tokens do."""

KEPT_RATIO = 0.98
"""What each new usage leaves of the weight of those before it: some fifty count."""

LONGEST_ANSWER = 100_000
"""Tokens of the longest answer that is believed where the request sets no bound: no report of a usage is to close an account."""

LEAST_WEIGHT = 1 / 64
"""Weight of one more ratio of truth to estimate, once there are as many."""

MOST_SAMPLES = 127
"""As many make a plain mean as exact as one in which each has that weight."""

KNOWN = 8
"""Ratios from which on an error of estimates is known well enough to act upon."""

MOST_OFF = 100.0
"""The largest ratio of truth to estimate that is learned from; more is no error of an estimate."""

HEAVIEST = 2.0
"""By how much more than one of the mean size a large estimate counts at most: one alone does not make all others be forgotten, and what
it was wrong by would be kept free for many calls."""

Z = 3.3
"""Standard deviations of the sum that is in flight to keep free: with ratios log-uniform in [1/2, 2] nearly none is refused, at a
hundredth of the limit that 2.8, with which up to .8 % are, would use more where answers take 20 s."""

BOLD_Z, LEAST_Z = 2.2, 1.0
"""The same at a trust of 1, and of 2: the fewer are refused, the longer answers take, since what is in flight changes less often."""

SURE = 0.06
"""Share of a limit that is kept free, where so much is asked for, however few are refused: less is not worth a refusal."""

FIRST_SHARE = 0.05
"""The trust that is tried first: where it is wrong, one or two are refused."""

FASTER = 5.0
"""By how much the next is larger than one that has been served, until one is refused."""

SHARE_EACH, SHARE_LOST = 0.004, 0.5
"""What trust gains by each attempt that is served by it, and what it loses by a refusal: of 125 one is refused at most."""

FIRST_WARY, MOST_WARY = 4.0, 64.0
"""Periods without another try once it was refused: at first, and at most; each time twice as many."""


@attrs.define(eq=False)
class EstimateError:
    """How far truths lie from their estimates, as decayed mean and deviation of truth / estimate.

    Each counts by the size of its estimate, since it is the sum of what is in flight that has to be right: where one output is expected
    of all, large calls take more than that and small ones less, and a plain mean of the ratios is too small.

    Attributes:
        samples: ratios seen, as far as they make the mean more exact.
        bias: their mean; 1 without any.
        spread: their standard deviation; 0 without any.
    """

    samples: int = attrs.field(init=False, default=0)
    bias: float = attrs.field(init=False, default=1.0)
    _variance: float = attrs.field(init=False, default=0.0)
    _size: float = attrs.field(init=False, default=0.0)
    """Decayed mean of the estimates."""

    def add(self, estimate: float, truth: float) -> None:
        """An attempt took `truth` where `estimate`, > 0, was reserved."""
        weight, size, bias = LEAST_WEIGHT, self._size or estimate, self.bias
        part = estimate / size
        if part > HEAVIEST:  # noqa: PLR1730 - asked at every end, and a call of `min` costs as much as the rest
            part = HEAVIEST
        if self.samples < MOST_SAMPLES:
            self.samples += 1
            weight = max(weight, 1.0 / self.samples)
        part *= weight
        grown = part - weight
        self._size = size + grown * size
        part /= 1.0 + grown
        off = truth / estimate - bias
        if off > MOST_OFF:  # noqa: PLR1730 - as above
            off = MOST_OFF
        change = part * off
        self.bias = bias + change
        self._variance = (1.0 - part) * (self._variance + change * off)

    @property
    def spread(self) -> float:
        """Standard deviation of the ratios."""
        return math.sqrt(self._variance)

    def excess(self, reserved: float, squares: float, amount: float = 0.0) -> float:
        """Units that attempts in flight, and one more of `amount`, may take beyond what is reserved for them: what is to be expected of
        the bias, and `Z` standard deviations of their sum. Negative where they will take less; the one more is not trusted to.

        Args:
            reserved: units reserved for those in flight in all.
            squares: sum of the squares of what is reserved for each.
            amount: units demanded by one more.
        """
        squares += amount * amount
        if self.bias > 1.0:
            reserved += amount
        squares += reserved * reserved / self.samples
        return (self.bias - 1.0) * reserved + Z * math.sqrt(self._variance * squares)

    def kept_back(self, reserved: float, squares: float, amount: float, share: float, limit: float) -> float:
        """Units to keep free where an estimate may count whole until it is corrected: none are gained by what will take less, but as far
        as that is trusted.

        Args:
            reserved, squares, amount: as of `excess`.
            share: the trust, as `Trust.share`.
            limit: of the rate.
        """
        most = self.excess(reserved, squares, amount)
        wary = max(0.0, most)
        if not share:
            return wary
        expected = (self.bias - 1.0) * (reserved + amount if self.bias > 1.0 else reserved)
        worse = most - expected
        if share < 1.0:
            return wary - share * max(0.0, wary - expected - max(worse * BOLD_Z / Z, SURE * limit))
        z = BOLD_Z - (share - 1.0) * (BOLD_Z - LEAST_Z)
        return expected + min(worse, max(worse * z / Z, SURE * limit))


@attrs.define(eq=False)
class Trust:
    """How much less to keep free for attempts in flight than whatever a provider may count of them.

    Where estimates are too large, it counts them until it corrects them at the end, or from the start what attempts really take.
    Where they are anything, the worst is seldom true. Where answers do not show which it is, to try is the only way to know: a
    little at first, then more once attempts have been served for which there was room only so. After a refusal it rises slowly;
    after one of the first try it is given up for a while.

    Attributes:
        share: 0: none; 1: what is to be expected is believed, but for a little; 2: even less is kept free for worse.
    """

    share: float = attrs.field(init=False, default=0.0)
    _refused_at: float = attrs.field(init=False, default=-math.inf)
    _wary_for: float = attrs.field(init=False, default=0.0)
    _wary_until: float = attrs.field(init=False, default=-math.inf)

    def served(self, tried: float, now: float) -> None:
        """An attempt was served for which there was room only with that share; 0: without any."""
        if not self.share:
            if now >= self._wary_until:
                self.share = FIRST_SHARE
        elif self._refused_at == -math.inf and self.share < 1.0:
            if tried >= self.share:
                self.share = min(1.0, FASTER * tried)
        elif tried:
            self.share = min(2.0, self.share + SHARE_EACH)

    def refused(self, sent_at: float, period: float, now: float) -> None:
        """An attempt was refused; those that were out then are the same news."""
        if not self.share or sent_at < self._refused_at:
            return
        if self.share > FIRST_SHARE:
            self._refused_at = now
        self.share -= SHARE_LOST
        if self.share < FIRST_SHARE:
            self.share = 0.0
            self._wary_for = min(MOST_WARY * period, max(FIRST_WARY * period, 2.0 * self._wary_for))
            self._wary_until = now + self._wary_for

    def shown(self, as_estimated: bool, period: float, now: float) -> None:
        """An answer shows what is counted of attempts in flight, where that differs: their estimates, or what they will take."""
        if as_estimated:
            self.share, self._wary_until = 0.0, max(self._wary_until, now + FIRST_WARY * period)
        else:
            self.share = max(self.share, 1.0)


@attrs.define(eq=False)
class ShownExcess:
    """What attempts in flight take beyond what is reserved for them, as an answer has shown it.

    Args:
        number: of the last charge that the answer shows.
        excess: units that those which it shows take beyond that, but for what has been charged since.
        reserved, squares: units reserved for those of them that still count and have not ended, and the sum of their squares.
        gone_ever: units of estimates that had left the window by then.
    """

    number: int
    excess: float
    reserved: float
    squares: float
    gone_ever: float = 0.0

    def left(self, gone_ever: float) -> bool:
        """So much has left the window by now, the oldest first; returns whether none is left that was shown. What these took less than
        was reserved is gone with them; what they took more may be the others'."""
        stays = max(0.0, 1.0 - (gone_ever - self.gone_ever) / self.reserved)
        self.gone_ever = gone_ever
        self.excess *= stays if self.excess < 0.0 else 1.0
        self.reserved *= stays
        self.squares *= stays
        return self.reserved < 1.0

    def ended(self, number: int, amount: float, excess: float) -> bool:
        """An attempt has ended, and what it took beyond `amount` is charged; returns whether none is left that was shown."""
        if number <= self.number:
            self.excess -= excess
            self.reserved -= amount
            self.squares -= amount * amount
        return self.reserved < 1.0


@attrs.define(eq=False)
class Estimator:
    """The estimates of one model on one account, made of first ones: those that count four characters for a token."""

    _taken: float = attrs.field(init=False, default=BELIEVED)
    _guessed: float = attrs.field(init=False, default=BELIEVED)
    _answers: float = attrs.field(init=False, default=0.0)
    _output: float = attrs.field(init=False, default=0.0)

    def demand(self, first: Demand) -> Demand:
        """What is expected of a request of which the first estimate is this."""
        bound, output = first.max_output_tokens, first.output_tokens
        if output and self._answers:
            output = max(1, round(self._output / self._answers))
            output = output if bound is None else min(output, bound)
        tokens = max(1, round(first.input_tokens * self._taken / self._guessed))
        return Demand(tokens, output, first.requests, first.images, bound)

    def learn(self, first: Demand, usage: Usage) -> None:
        """A request of which the first estimate was this has taken that."""
        if first.input_tokens > 0 and usage.input_tokens > 0:
            # A token is a character at least: what is reported beyond is not of the text.
            self._taken = self._taken * KEPT_RATIO + min(usage.input_tokens, first.input_tokens * CHARACTERS_PER_TOKEN)
            self._guessed = self._guessed * KEPT_RATIO + first.input_tokens
        if usage.output_tokens > 0:
            self._answers = self._answers * KEPT_RATIO + 1.0
            self._output = self._output * KEPT_RATIO + min(usage.output_tokens, LONGEST_ANSWER)


@attrs.define(eq=False)
class Estimators:
    """Those of one account, by model; `None` without one."""

    _by_model: OrderedDict[str | None, Estimator] = attrs.field(init=False, factory=OrderedDict[str | None, Estimator])

    def demand(self, model: str | None, first: Demand) -> Demand:
        """What is expected of a request; the first estimate itself while nothing has been learned of its model."""
        estimator = self._by_model.get(model)
        return first if estimator is None else estimator.demand(first)

    def learn(self, model: str | None, first: Demand, usage: Usage) -> None:
        """A request has taken this."""
        estimator = self._by_model.get(model)
        if estimator is None:
            estimator = self._by_model[model] = Estimator()
            if len(self._by_model) > MOST_MODELS:
                self._by_model.popitem(last=False)
        else:
            self._by_model.move_to_end(model)
        estimator.learn(first, usage)
