"""Limits that answers show and nobody configured: what is known of each, and for which models it holds.

Models that show the same amount share one limit. The first one known of a name holds for every model that shows no other.
"""

from __future__ import annotations

import attrs

from balancer.core.call import DIMENSIONS
from balancer.core.dimension import Models
from balancer.core.learning import Learning
from balancer.core.line import Line
from balancer.core.outcome import LimitSeen

MOST_LEARNED = 16
"""Learned rates per account: names in headers are the provider's to choose, memory is ours."""

MOST_MODELS = 256
"""Models that are told apart: their names are the callers' to choose."""

MOST_AMOUNT = 1e15

Key = tuple[str, str]


@attrs.define(eq=False)
class Learned:
    """A limit that answers showed, the models that showed it, and its line once its period is known."""

    learning: Learning = attrs.field(factory=Learning)
    models: set[str | None] = attrs.field(factory=set[str | None])
    line: Line | None = None


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

        `None` if there is nothing to learn, or too much.
        """
        key = seen.dimension, seen.name
        groups = self._by_key.get(key)
        limit = float(seen.limit) if seen.limit is not None and 0 < seen.limit <= MOST_AMOUNT else None
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

    def _full(self) -> bool:
        return sum(map(len, self._by_key.values())) >= MOST_LEARNED
