"""What an application asks for: a `Call`, the `Demand` it puts on a quota, the `Usage` it turned out to be."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import attrs

DIMENSIONS = ("requests", "tokens", "input_tokens", "output_tokens", "images")
"""What a quota counts per period. `tokens` is input and output together."""

ESTIMATED = ("tokens", "input_tokens", "output_tokens")
"""Those of which a demand can only be estimated."""

MOST = 10**15
"""The largest amount: a sum of such is still exact enough as a float."""


_new: Any = tuple.__new__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _amounts_only(what: str) -> ValueError:
    """Nothing but such numbers may enter a ledger."""
    return ValueError(f"a {what} holds numbers from 0 to {MOST:.0e}")


class _Demand(NamedTuple):
    input_tokens: int
    output_tokens: int
    requests: int
    images: int
    max_output_tokens: int | None


class Demand(_Demand):  # two values are made for every call, and checked: as tuples they cost half
    """What an attempt will take from a quota, as estimated before it is sent.

    Args:
        input_tokens: tokens of the prompt, >= 0.
        output_tokens: tokens of the answer, >= 0.
        requests: requests counted, >= 0; one attempt is one request.
        images: images made, >= 0.
        max_output_tokens: tokens that the answer may have at most, >= 0, which is what some providers count; `None`: as many as
            `output_tokens`.
    """

    __slots__ = ()

    def __new__(
        cls,
        input_tokens: int = 0,
        output_tokens: int = 0,
        requests: int = 1,
        images: int = 0,
        max_output_tokens: int | None = None,
    ) -> Self:
        """Raises `ValueError` for anything but such numbers."""
        try:
            if (
                0 <= input_tokens <= MOST
                and 0 <= output_tokens <= MOST
                and 0 <= requests <= MOST
                and 0 <= images <= MOST
                and (max_output_tokens is None or 0 <= max_output_tokens <= MOST)
            ):
                return _new(cls, (input_tokens, output_tokens, requests, images, max_output_tokens))
        except TypeError:
            pass
        raise _amounts_only("Demand")

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    @property
    def output_bound(self) -> int:
        """Tokens that the answer may have at most."""
        return self.output_tokens if self.max_output_tokens is None else self.max_output_tokens

    @property
    def bound(self) -> int:
        """Input and the bound of the output together."""
        return self.input_tokens + self.output_bound


class _Usage(NamedTuple):
    input_tokens: int
    output_tokens: int
    requests: int
    cached_tokens: int
    images: int


class Usage(_Usage):
    """What an attempt really took, as its answer reported it; corrects the reservation.

    Args:
        input_tokens: tokens of the prompt, >= 0, those read from a cache among them.
        output_tokens: tokens of the answer, >= 0.
        requests: requests counted, >= 0.
        cached_tokens: tokens of the prompt that were read from a cache, >= 0; some providers do not count them.
        images: images made, >= 0.
    """

    __slots__ = ()

    def __new__(
        cls, input_tokens: int = 0, output_tokens: int = 0, requests: int = 1, cached_tokens: int = 0, images: int = 0
    ) -> Self:
        """Raises `ValueError` for anything but such numbers."""
        try:
            if (
                0 <= input_tokens <= MOST
                and 0 <= output_tokens <= MOST
                and 0 <= requests <= MOST
                and 0 <= cached_tokens <= MOST
                and 0 <= images <= MOST
            ):
                return _new(cls, (input_tokens, output_tokens, requests, cached_tokens, images))
        except TypeError:
            pass
        raise _amounts_only("Usage")

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


_ONE_REQUEST = Demand()


def _demand(given: Demand | None) -> Demand:
    return _ONE_REQUEST if given is None else given


_USUAL = (str, Demand, str, int, tuple)


@attrs.frozen
class Call:
    """What the application asked for, once.

    Args:
        model: the name the application uses, mapped per account; `None` for a call without a model.
        demand: the estimate to reserve; `None`: one request and no tokens.
        tenant: for whom; for the record and for queues that share between tenants.
        priority: higher goes first.
        tags: marks for routers and for the record.
        replayable: whether a second attempt may follow one that may have reached a backend.
        hedgeable: whether two attempts may run at once.
        estimated: whether the demand was read from the request: then each account puts what it has learned in its place. A demand of
            the caller's own is taken as it is.
    """

    model: str | None = None
    demand: Demand = attrs.field(default=None, converter=_demand)
    tenant: str = ""
    priority: int = 0
    tags: tuple[str, ...] = ()
    replayable: bool = True
    hedgeable: bool = False
    estimated: bool = False

    def __attrs_post_init__(self) -> None:
        # Of what actors compute with: a wrong type would be noticed only inside one, and be taken for its own failure.
        kinds = type(self.model), type(self.demand), type(self.tenant), type(self.priority), type(self.tags)
        if kinds == _USUAL:
            return
        if self.model is not None and not isinstance(self.model, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("the model of a Call is a text or None")
        if not isinstance(self.demand, Demand):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("the demand of a Call is a Demand")
        if not isinstance(self.tenant, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("the tenant of a Call is a text")
        if not isinstance(self.priority, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("the priority of a Call is a whole number")
        if not isinstance(self.tags, (tuple, list)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("the tags of a Call are a tuple of texts")  # of one text each letter would be a tag
