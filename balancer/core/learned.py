"""Limits that answers show and nobody configured: what is known of each, and for which models it holds.

Models that show the same amount share one limit until answers for one of them show time and again more than that could leave: then
it has one of its own. If what they show of that is taken by the models of another of the same amount, the two are one again. The
first one known of a name holds for every model that shows no other.
"""

from __future__ import annotations

import math
from copy import deepcopy

import attrs

from balancer.core.call import DIMENSIONS
from balancer.core.dimension import Models
from balancer.core.learning import Learning
from balancer.core.line import Line
from balancer.core.outcome import LimitSeen
from balancer.core.sliding import SlidingWindow

MOST_LEARNED = 16
"""Learned rates per account: names in headers are the provider's to choose, memory is ours."""

MOST_MODELS = 256
"""Models that are told apart: their names are the callers' to choose."""

MOST_AMOUNT = 1e15

TIMES = 3
"""Answers that must say so before models are told apart, or taken together again."""

HESITATION = 8
"""How many times more answers it takes to tell them apart again once that was found wrong."""

APART = 0.01
LONGEST_APART = 1.0
"""Share of a period, and seconds at most, that must lie between two such answers: what is told at one moment is told once."""

SAME = 0.5
"""Share of what other models took that an answer must lack for it to be the same limit."""

TAKEN = 0.05
"""Share of a limit that other models must have taken before it is looked whether an answer lacks it."""

Key = tuple[str, str]


@attrs.define(eq=False)
class Learned:
    """A limit that answers showed, the models that showed it, and its line once its period is known."""

    learning: Learning = attrs.field(factory=Learning)
    models: set[str | None] = attrs.field(factory=set[str | None])
    line: Line | None = None
    times: int = TIMES
    """By how many more answers must contradict than agree before a model has a limit of its own."""
    refused_at: float = attrs.field(init=False, default=-math.inf)
    """When something was last refused that seemed to have room, where no reset is shown; refusals of what was sent before are the same
    news."""
    since: float = attrs.field(init=False, default=0.0)
    """Trio time from which on it is looked what answers lack."""
    _contradicted: dict[str | None, tuple[int, float]] = attrs.field(init=False, factory=dict[str | None, tuple[int, float]])
    """By how many more answers for a model have than have not, and when the last one that counts came."""
    _lacking: int = attrs.field(init=False, default=0)
    _lowered: float = attrs.field(init=False, default=0.0)
    """`Mirror.lowered` at `since`."""

    def refuted(self, model: str | None, contradicts: bool | None, now: float) -> bool:
        """An answer for one of its models contradicts that they all share this limit, or not, or leaves it open; returns whether that
        has been said often enough for the model to have a limit of its own."""
        if contradicts is None or not (contradicts or model in self._contradicted):
            return False
        count, at = self._contradicted.pop(model, (0, -math.inf))
        if now - at >= self._apart:
            count, at = count + (1 if contradicts else -1), now
        if count > 0:
            self._contradicted[model] = count, at
            if len(self._contradicted) > MOST_MODELS:
                del self._contradicted[next(iter(self._contradicted))]
        return contradicts and count >= self.times

    def recounted(self, line: Line, now: float) -> None:
        """It has another line from now on."""
        self.line = line
        self._lacking, self._lowered, self.since = 0, line.mirror.lowered, now
        self._contradicted.clear()

    def due(self, now: float) -> bool:
        """Whether to look again at what answers lack."""
        return now - self.since >= self._apart

    def confirmed(self, line: Line, taken: float, refused: bool, now: float) -> bool:
        """Models of another limit of this amount have taken so much since `since`, and an answer came, by which this one is used up or
        not; returns whether answers have lacked what others took so often that it is one limit."""
        if not refused and taken < TAKEN * self.learning.limit:
            return False
        if refused or line.mirror.lowered - self._lowered >= SAME * taken:
            self._lacking += 1
        elif not line.mirror.foreign():  # else it may have been lacked before, and be so still
            self._lacking = max(0, self._lacking - 1)
        self._lowered, self.since = line.mirror.lowered, now
        return self._lacking >= TIMES

    @property
    def sure(self) -> bool:
        """Whether it is surely counted as its line counts: a bucket is not taken for one before it is sure to refill."""
        return self.line is not None and not (isinstance(self.line.counter, SlidingWindow) and self.learning.continuous)

    @property
    def _apart(self) -> float:
        return min(LONGEST_APART, APART * self.line.counter.period) if self.line is not None else LONGEST_APART


@attrs.define(eq=False)
class LearnedLimits:
    """Those of one account, by dimension and name."""

    _by_key: dict[Key, list[Learned]] = attrs.field(init=False, factory=dict[Key, list[Learned]])

    def lines(self) -> list[Line]:
        """The line of every limit whose period is known, each told for which models it holds."""
        lines: list[Line] = []
        for groups in self._by_key.values():
            for group in groups:
                if (line := group.line) is not None:
                    line.models, line.other_models = self.scope(groups, group)
                    lines.append(line)
        return lines

    def in_vain(self, line: Line) -> bool:
        """Whether `Learning.in_vain` of the limit that a line counts."""
        return any(group.line is line and group.learning.in_vain for groups in self._by_key.values() for group in groups)

    def scope(self, groups: list[Learned], group: Learned) -> tuple[Models | None, Models]:
        """`Line.models` and `Line.other_models` of a group."""
        if group is not groups[0]:
            return frozenset(group.models), frozenset()
        return None, frozenset[str | None]().union(*(other.models for other in groups[1:]))

    def forget(self, known: set[tuple[str, float]]) -> None:
        """Drop the limits of these dimensions and amounts."""
        for key, groups in list(self._by_key.items()):
            groups[:] = [group for group in groups if (key[0], group.learning.limit) not in known]
            if not groups:
                del self._by_key[key]

    def see(self, seen: LimitSeen, model: str | None) -> tuple[list[Learned], Learned, bool] | None:
        """An answer for a model shows a limit: all groups of its name, the model's, and whether a model has changed its group. A model
        that shows another amount goes to the group of that amount, to one of its own, or takes its group along if it is alone.

        `None` if there is nothing to learn, or too much. A limit of less than one unit would never admit anything: it is a lie.
        """
        key = seen.dimension, seen.name
        groups = self._by_key.get(key)
        limit = float(seen.limit) if seen.limit is not None and 1 <= seen.limit <= MOST_AMOUNT else None
        if groups is None:
            if seen.dimension not in DIMENSIONS or limit is None or self._full():
                return None
            groups = self._by_key[key] = [Learned()]
        group = before = next((one for one in groups if model in one.models), groups[0])
        if limit is not None and limit != group.learning.limit:
            same = next((one for one in groups if one.learning.limit == limit), None)
            if same is not None or group.models - {model}:
                if same is None:
                    if self._full():
                        return None
                    same = Learned()
                    groups.append(same)
                group.models.discard(model)
                if not group.models:
                    groups.remove(group)
                group = same
            group.learning.limit = limit
        moved = group is not before or (group is not groups[0] and model not in group.models)
        group.models.add(model)
        if len(group.models) > MOST_MODELS:
            group.models.discard(next(iter(group.models)))
        return groups, group, moved

    def alike(self, groups: list[Learned], group: Learned) -> list[Learned]:
        """The others of the same name and amount."""
        return [other for other in groups if other is not group and other.learning.limit == group.learning.limit]

    def split(self, groups: list[Learned], group: Learned, model: str | None) -> Learned | None:
        """Give a model a limit of its own, of what is known of its group's; `None` if there are too many."""
        if self._full():
            return None
        own = Learned(deepcopy(group.learning), {model}, times=group.times)
        group.models.discard(model)
        groups.append(own)
        return own

    def join(self, groups: list[Learned], one: Learned, other: Learned) -> Learned:
        """Take two limits as one; the one that has been known longer stays."""
        kept, gone = sorted((one, other), key=groups.index)
        groups.remove(gone)
        kept.models |= gone.models
        kept.times = HESITATION * max(one.times, other.times)
        return kept

    def _full(self) -> bool:
        return sum(map(len, self._by_key.values())) >= MOST_LEARNED
