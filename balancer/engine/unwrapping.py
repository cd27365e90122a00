"""Takes an exception out of the group that a nursery of ours put it in, so that callers see what was raised."""

from __future__ import annotations

from types import TracebackType
from typing import cast

import trio


def single(error: BaseException) -> BaseException:
    """What one nursery's group is about: of its exceptions the first that is no cancellation; a group inside is left whole."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inside = _inside(cast("BaseException", error))
    return next((inner for inner in inside if not _only_cancelled(inner)), None) or single(inside[0])


def _inside(group: BaseException) -> tuple[BaseException, ...]:
    return cast("BaseExceptionGroup[BaseException]", group).exceptions


def _only_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_cancelled(inner) for inner in _inside(cast("BaseException", error)))
    return isinstance(error, trio.Cancelled)


class Unwrapped:
    """A context around a nursery of ours: what leaves it is what was raised inside, with its own cause and context."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is None or (inner := single(error)) is error:
            return
        kept = inner.__cause__, inner.__context__, inner.__suppress_context__
        try:
            raise inner
        finally:
            inner.__cause__, inner.__context__, inner.__suppress_context__ = kept
