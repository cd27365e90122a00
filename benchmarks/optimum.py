"""The most calls that accounts could have served of those that came: a linear program, solved exactly.

Maximise sum x_ic subject to sum_c a_cd x_ic <= capacity_id and sum_i x_ic <= arrived_c, for accounts i, classes of calls c and
dimensions d. What really arrived is known and nothing has to be served in order, so that no balancer can do better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from balancer.core.call import Demand

TINY = 1e-9


def most_calls(
    capacities: Sequence[Mapping[str, float]], demands: Sequence[Demand], arrived: Sequence[float]
) -> tuple[float, ...]:
    """How many calls of each class an optimum serves; of several optima the one with most calls of the later classes.

    Args:
        capacities: of each account: dimension -> the units that it can admit in all.
        demands: of each class.
        arrived: calls of each class.
    """
    classes, places = range(len(demands)), len(capacities) * len(demands)
    rows: list[list[float]] = []
    for account, capacity in enumerate(capacities):
        for dimension, units in capacity.items():
            row = [0.0] * places
            for kind in classes:
                row[account * len(demands) + kind] = getattr(demands[kind], dimension) / units
            rows.append([*row, 1.0])
    for kind in classes:
        row = [float(place % len(demands) == kind) for place in range(places)]
        rows.append([*row, float(arrived[kind])])
    worth = [1.0 + 1e-6 * (place % len(demands)) for place in range(places)]
    served = _maximum(worth, rows)
    return tuple(sum(served[kind :: len(demands)]) for kind in classes)


def _maximum(worth: Sequence[float], rows: Sequence[Sequence[float]]) -> list[float]:
    """The x >= 0 of the largest worth with `row[:-1] x <= row[-1]`, all `row[-1]` >= 0: the simplex method by Bland's rule."""
    count, places = len(rows), len(worth)
    table = [[*row[:-1], *(float(number == slack) for slack in range(count)), row[-1]] for number, row in enumerate(rows)]
    goal = [*(-value for value in worth), *([0.0] * (count + 1))]
    basis = list(range(places, places + count))
    while (enters := next((place for place, value in enumerate(goal[:-1]) if value < -TINY), None)) is not None:
        ratios = [(row[-1] / row[enters], basis[number], number) for number, row in enumerate(table) if row[enters] > TINY]
        leaves = min(ratios)[2]
        pivot = [value / table[leaves][enters] for value in table[leaves]]
        table = [pivot if number == leaves else _minus(row, row[enters], pivot) for number, row in enumerate(table)]
        goal = _minus(goal, goal[enters], pivot)
        basis[leaves] = enters
    found = dict(zip(basis, (row[-1] for row in table), strict=True))
    return [found.get(place, 0.0) for place in range(places)]


def _minus(row: Sequence[float], times: float, pivot: Sequence[float]) -> list[float]:
    return [value - times * other for value, other in zip(row, pivot, strict=True)]
