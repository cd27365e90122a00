"""Pools that name other pools, made plain: tiers of account names, which is all that placing a call needs to know."""

from __future__ import annotations

import contextlib
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from balancer.core.settings import Pool

Tiers = tuple[tuple[str, ...], ...]


def entries(pool: Pool) -> Iterator[tuple[str, str]]:
    """Every name in the pool's tiers, with its path."""
    for place, tier in enumerate(pool.tiers):
        for position, entry in enumerate(tier):
            yield f"tiers[{place}][{position}]", entry


def cyclic(pools: Iterable[Pool]) -> set[str]:
    """The pools that lie on a cycle: those left when pools that nest none, then pools that nobody nests, are taken away."""
    graph = _nested(pools)
    left = _peeled(graph)
    nesting: dict[str, set[str]] = {name: set() for name in left}
    for name in left:
        for other in graph[name] & left:
            nesting[other].add(name)
    return _peeled(nesting)


def flattened(pools: Iterable[Pool]) -> Mapping[str, Tiers]:
    """Every pool as tiers of accounts: a nested pool's first tier joins the tier that names it, its k-th the k-th from there.

    An account counts where it comes first; a tier that loses all of its accounts so is left out. The pools form no cycle.
    """
    by_name = {pool.name: pool for pool in pools}
    flat: dict[str, Tiers] = {}
    for name in TopologicalSorter(_nested(by_name.values())).static_order():
        seen: set[str] = set()
        flat[name] = ()
        for level in _levels(by_name[name], flat):
            fresh = tuple(account for account in dict.fromkeys(level) if account not in seen)
            seen.update(fresh)
            flat[name] += (fresh,) if fresh else ()
    return {name: flat[name] for name in by_name}


def _levels(pool: Pool, flat: Mapping[str, Tiers]) -> Iterator[list[str]]:
    for tier in pool.tiers:
        parts = [flat[entry[1:]] if entry.startswith("@") else ((entry,),) for entry in tier]
        for level in range(max(map(len, parts), default=0)):
            yield [account for part in parts if level < len(part) for account in part[level]]


def _nested(pools: Iterable[Pool]) -> dict[str, set[str]]:
    return {pool.name: {entry[1:] for _, entry in entries(pool) if entry.startswith("@")} for pool in pools}


def _peeled(graph: Mapping[str, set[str]]) -> set[str]:
    sorter = TopologicalSorter(graph)
    with contextlib.suppress(CycleError):  # the sorter still gives what is on no cycle
        sorter.prepare()
    left = set(graph)
    while ready := sorter.get_ready():
        left.difference_update(ready)
        sorter.done(*ready)
    return left
