"""Takes an exception out of the group that a nursery of ours put it in, so that callers see what was raised."""

from __future__ import annotations

from types import TracebackType

import trio


def single(error: BaseException) -> BaseException:
    """What one nursery's group is about: of its exceptions the first that is no cancellation; a group inside is left whole."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    _, others = error.split(trio.Cancelled)
    if others is not None:
        return next(inner for inner in error.exceptions if not _only_cancelled(inner))
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _only_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
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
