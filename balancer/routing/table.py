"""The router of the configuration: model name -> pool, and the models to fall back to, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import attrs

from balancer.core.setting import setting, shown
from balancer.errors import ConfigError, Fault
from balancer.routing.router import Route, RoutingContext

DEFAULT_POOL = "default"
"""The pool of all accounts, where no route says otherwise."""
_REMEMBERED = 256  # models whose route is kept; a caller that invents models costs time, not memory


def _models(given: object) -> tuple[str, ...]:
    if isinstance(given, list | tuple):
        names = tuple(cast("Iterable[object]", given))
        if all(isinstance(name, str) and name for name in names):
            return cast("tuple[str, ...]", names)
    raise ConfigError([Fault("fallback_models", shown(cast("object", given)), "a list of model names")])


@attrs.frozen
class RouteSettings:
    """One row of the routing table.

    Args:
        model: the application's model name.
        pool: where its calls go; `None`: all accounts.
        fallback_models: models to try next, in order, when this one cannot serve a call.
    """

    model: str = setting(kind=str)
    pool: str | None = setting(None, kind=str, optional=True)
    fallback_models: tuple[str, ...] = attrs.field(default=(), converter=_models)


@attrs.define(eq=False)
class TableRouter:
    """Follows the table: the route of the call's model, then those of its fallback models.

    Args:
        routes: the rows of the table.
    """

    routes: Sequence[RouteSettings]
    _rows: Mapping[str | None, RouteSettings] = attrs.field(init=False)
    _known: dict[str | None, Route] = attrs.field(factory=dict[str | None, Route], init=False)

    def __attrs_post_init__(self) -> None:
        self._rows = {row.model: row for row in self.routes}

    def __call__(self, context: RoutingContext) -> Route | None:
        """The next row of the table that the call has not followed yet."""
        model, step = context.call.model, len(context.routes)
        if step == 0:
            return self._known.get(model) or self._route(model)
        row = self._rows.get(model)
        if row is None or step > len(row.fallback_models):
            return None
        return self._route(row.fallback_models[step - 1])

    def _route(self, model: str | None) -> Route:
        row = self._rows.get(model)
        route = Route((row.pool if row else None) or DEFAULT_POOL, model)
        if len(self._known) < _REMEMBERED:
            self._known[model] = route
        return route
