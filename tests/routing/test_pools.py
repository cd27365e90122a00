"""Nested pools: the cycles are found, the rest is made plain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.core.settings import Pool
from balancer.routing.pools import cyclic, entries, flattened


def pools_of(**tiers):
    return [Pool(name=name, tiers=given) for name, given in tiers.items()]


def test_entries_have_paths():
    """Every name is given with its path."""
    assert list(entries(Pool(name="p", tiers=[["a"], ["b", "@q"]]))) == [
        ("tiers[0][0]", "a"),
        ("tiers[1][0]", "b"),
        ("tiers[1][1]", "@q"),
    ]


def test_flattened():
    """The k-th tier of a nested pool joins the k-th from the tier that names it; an account counts where it comes first."""
    pools = pools_of(
        all=[["a", "@near", "@far"], ["f", "b"]],
        near=[["b"], ["c"], ["d"]],
        far=[["b", "e"], ["a", "c"]],
    )
    assert flattened(pools) == {
        "all": (("a", "b", "e"), ("c",), ("d",), ("f",)),
        "near": (("b",), ("c",), ("d",)),
        "far": (("b", "e"), ("a", "c")),
    }


def test_a_long_chain():
    """Neither depth nor repetition of pools costs more than their number."""
    chain = {f"p{n}": [[f"@p{n - 1}"], [f"@p{n - 1}"]] for n in range(1, 3000)}
    pools = pools_of(p0=[["a"]], **chain)
    assert flattened(pools)["p2999"] == (("a",),)
    assert cyclic(pools) == set()


graphs = st.dictionaries(st.sampled_from("pqrst"), st.sets(st.sampled_from("pqrst")), max_size=5)


@given(graph=graphs)
def test_cyclic_holds_every_cycle(graph):
    """A pool from which it comes back to itself is always found, and where there is none, nothing is."""
    graph = {name: nested & set(graph) for name, nested in graph.items()}
    reach = dict(graph)
    for _ in graph:
        reach = {name: nested.union(*(graph[other] for other in nested)) for name, nested in reach.items()}
    circling = {name for name in graph if name in reach[name]}
    found = cyclic([Pool(name=name, tiers=[["a", *("@" + other for other in nested)]]) for name, nested in graph.items()])
    assert circling <= found
    assert bool(circling) == bool(found)
