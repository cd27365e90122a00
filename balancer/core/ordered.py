"""Entries kept in order: found, added and removed in a time that hardly grows with their number, and counted without a walk.

A list of short sorted lists. Every step is a bisection and a move of at most `CHUNK` pointers, both done in C, so that with
100,000 entries it takes little longer than with 100; and unlike a heap it lets any entry go, and gives the next one after any.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

E = TypeVar("E", bound=tuple[Any, ...])

CHUNK = 512
"""Entries of one short list, at most: moving so many pointers costs less than one comparison of tuples in Python."""


class Ordered(Generic[E]):
    """Tuples in their order. No two are equal: each holds a number of its own before anything that cannot be compared."""

    __slots__ = ("_chunks", "_lasts")

    def __init__(self) -> None:
        self._chunks: list[list[E]] = []
        self._lasts: list[E] = []

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def __iter__(self) -> Iterator[E]:
        """All of them; nothing may be added or removed meanwhile."""
        for chunk in self._chunks:
            yield from chunk

    def add(self, entry: E) -> None:
        """Put an entry in its place."""
        chunks, lasts = self._chunks, self._lasts
        place = bisect_left(lasts, entry)
        if place < len(lasts):
            insort(chunks[place], entry)
        elif chunks:
            place -= 1
            chunks[place].append(entry)
            lasts[place] = entry
        else:
            chunks.append([entry])
            lasts.append(entry)
        chunk = chunks[place]
        if len(chunk) > CHUNK:
            half = len(chunk) // 2
            chunks.insert(place, chunk[:half])
            lasts.insert(place, chunk[half - 1])
            del chunk[:half]

    def remove(self, entry: E) -> None:
        """Take an entry out that is in it."""
        chunks, lasts = self._chunks, self._lasts
        place = bisect_left(lasts, entry)
        chunk = chunks[place]
        del chunk[bisect_left(chunk, entry)]
        if chunk:
            lasts[place] = chunk[-1]
        else:
            del chunks[place], lasts[place]

    def first(self) -> E | None:
        """The least entry."""
        return self._chunks[0][0] if self._chunks else None

    def after(self, entry: tuple[Any, ...]) -> E | None:
        """The least entry greater than `entry`, whether that is in it or not."""
        place = bisect_right(self._lasts, entry)
        if place == len(self._lasts):
            return None
        chunk = self._chunks[place]
        return chunk[bisect_right(chunk, entry)]

    def count_from(self, entry: tuple[Any, ...]) -> int:
        """How many are not less than `entry`."""
        place = bisect_left(self._lasts, entry)
        if place == len(self._lasts):
            return 0
        chunks = self._chunks
        return len(chunks[place]) - bisect_left(chunks[place], entry) + sum(map(len, chunks[place + 1 :]))
