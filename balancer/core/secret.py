"""A credential that shows itself only to who asks for it by name."""

from __future__ import annotations

from typing import NoReturn, final


@final
class Secret:
    """A credential's text. It never appears in `repr`, `str`, `format`, `attrs.asdict`, a pickle or a copy of locals.

    It is no string and no attrs class on purpose: every tool that walks values (log renderers, tracebacks with locals,
    `asdict`) stops here. `reveal()` gives the text, where it is written to the wire.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it only where the text is sent."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self
