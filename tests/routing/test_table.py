"""The routing table: which pool serves which model, and the models to fall back to."""

from __future__ import annotations

import pytest

from balancer import Call, ConfigError, Route, RouteSettings, RoutingContext
from balancer.routing.table import TableRouter

TABLE = TableRouter(
    [
        RouteSettings(model="big", pool="fast", fallback_models=["middle", "small", "unlisted"]),
        RouteSettings(model="middle", fallback_models=["big"]),
        RouteSettings(model="small", pool="cheap"),
    ]
)


def followed(model, router=TABLE):
    """Every route that the router gives a call for `model`, one after the other."""
    routes = ()
    while (route := router(RoutingContext(Call(model=model), (), routes, 0.0))) is not None:
        routes = (*routes, route)
    return [(route.pool, route.model, route.after) for route in routes]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("big", [("fast", "big", 0.0), ("default", "middle", 0.0), ("cheap", "small", 0.0), ("default", "unlisted", 0.0)]),
        ("middle", [("default", "middle", 0.0), ("fast", "big", 0.0)]),
        ("small", [("cheap", "small", 0.0)]),
        ("unlisted", [("default", "unlisted", 0.0)]),
        (None, [("default", None, 0.0)]),
    ],
)
def test_routes_in_order(model, expected):
    """A fallback model goes to its own pool; its own fallbacks are not followed, so that no table runs in a circle."""
    assert followed(model) == expected


def test_an_empty_table_sends_every_call_once():
    """To all accounts, under its own model."""
    assert followed("m", TableRouter([])) == [("default", "m", 0.0)]


@pytest.mark.parametrize("given", ["small", [""], [7], {"small": 1}, None])
def test_fallback_models_are_a_list_of_names(given):
    """A wrong value names the field."""
    with pytest.raises(ConfigError) as caught:
        RouteSettings(model="m", fallback_models=given)
    assert [fault.path for fault in caught.value.faults] == ["fallback_models"]


def test_a_route_is_a_value():
    """Routers may compare them."""
    assert Route("p", "m") == Route("p", "m", after=0.0)


def test_the_routes_that_are_kept_are_bounded():
    """Calls for one model share a route; a caller that invents models gets right ones all the same."""
    router = TableRouter([RouteSettings(model="big", pool="fast")])
    for number in range(1000):
        context = RoutingContext(Call(model=f"m{number}"), (), (), 0.0)
        assert router(context) == Route("default", f"m{number}")
    context = RoutingContext(Call(model="m0"), (), (), 0.0)
    assert router(context) is router(context)
    assert len(router._known) < 1000
