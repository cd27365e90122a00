"""The standard limit fields, `RateLimit` and `RateLimit-Policy`, in the form of every draft there has been.

Law: draft-ietf-httpapi-ratelimit-headers. Up to -06 three fields of one number each, -07 one dictionary
(`limit=10, remaining=5, reset=3`), both with policies like `10;w=60`; from -08 on lists of names with parameters:
`"default";r=50;t=30` and `"default";q=100;w=60;qu="requests";pk=:cGs=:`. A malformed field is ignored whole, unknown parameters
are passed over, quotas of another unit than requests are none of ours. The older forms say when the quota is reset, `t` when there is
some more of it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping

import attrs

from balancer.core.outcome import LimitSeen
from balancer.providers.structured import Bare, Item, parse_dictionary, parse_list
from balancer.providers.values import Headers, ValueInvalid, amount, any_wait, believed

STANDARD_NAMES = frozenset((b"ratelimit", b"ratelimit-policy", b"ratelimit-limit", b"ratelimit-remaining"))
"""Where none of these is, there is nothing to read here."""

LONGEST_WINDOW = 366 * 86400
"""Seconds of the longest window that is believed."""

LONGEST_NAME = 24
"""Characters of a policy's name that is shown as it is. Longer ones may hold what was sent, a credential even."""

_LIMIT, _REMAINING, _RESET = b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset"


@attrs.frozen
class Policy:
    """One member of `RateLimit-Policy`.

    Args:
        name: of the policy; `None` up to -07.
        partition: what part of the clients the quota is for; `None` if all are one.
        quota: requests per window, >= 0.
        window: seconds, if known.
        counts_requests: whether its unit is requests.
    """

    name: str | None
    partition: bytes | None
    quota: float
    window: float | None
    counts_requests: bool


@attrs.frozen
class State:
    """What is left: one member of `RateLimit`, or the whole of an older form."""

    limit: float | None
    remaining: float | None
    reset_after: float | None
    next_unit: bool = False
    """Whether that is when there is any more of it."""


def standard_limits(headers: Headers) -> tuple[LimitSeen, ...]:
    """The limits of requests that the standard fields of a response show; of the forms present, the newest."""
    policies = _policies(headers)
    first = headers.by_name()
    if b"ratelimit" in first:
        field = _whole(headers, b"ratelimit")
        try:
            return _named(parse_list(field), policies)
        except ValueInvalid:
            pass  # not the list form
        try:
            return _unnamed(_from_dictionary(parse_dictionary(field)), policies)
        except ValueInvalid:
            pass  # nor the dictionary: as if it were absent
    if _LIMIT in first or _REMAINING in first:
        state, older = _from_fields(headers)
        return _unnamed(state, policies or older)
    return _named((), policies) or _unnamed(State(None, None, None), policies)


def _whole(headers: Headers, name: bytes) -> bytes:
    """A field that may be split over several lines."""
    return b", ".join([value.strip(b" \t") for given, value in headers.raw if given.lower() == name])


def _policies(headers: Headers) -> tuple[Policy, ...]:
    if b"ratelimit-policy" not in headers.by_name():
        return ()
    try:
        return tuple([_policy(item) for item in parse_list(_whole(headers, b"ratelimit-policy"))])
    except ValueInvalid:
        return ()


def _policy(item: Item) -> Policy:
    given = item.parameters
    window = _count(given.get("w"))
    if window is not None and not 0 < window <= LONGEST_WINDOW:
        raise ValueInvalid("no such window")
    if isinstance(item.value, str):
        quota = _count(given.get("q"))
        if quota is None:
            raise ValueInvalid("a policy without its quota")
        unit = given.get("qu", "requests")
        if not isinstance(unit, str):
            raise ValueInvalid("a unit is a text")
        return Policy(item.value, _partition(given), quota, window, unit == "requests")
    quota = _count(item.value)
    if quota is None:
        raise ValueInvalid("a policy is a name or a quota")
    return Policy(None, None, quota, window, counts_requests=True)


def _named(items: tuple[Item, ...], policies: tuple[Policy, ...]) -> tuple[LimitSeen, ...]:
    """The list form: states and policies meet by name and partition."""
    seen: list[LimitSeen] = []
    met: list[Policy] = []
    for item in items:
        if not isinstance(item.value, str):
            raise ValueInvalid("a state has a name")
        remaining, reset_after = _count(item.parameters.get("r")), _count(item.parameters.get("t"))
        if remaining is None:
            raise ValueInvalid("a state without what remains")
        partition = _partition(item.parameters)
        policy = _policy_of(item.value, partition, policies)
        state = State(None if policy is None else policy.quota, remaining, reset_after, next_unit=reset_after is not None)
        if policy is not None:
            met.append(policy)
            if not policy.counts_requests:
                continue
            partition = policy.partition if partition is None else partition
        seen.append(_seen(_label(item.value, partition), state, None if policy is None else policy.window))
    for policy in policies:
        if policy.name is not None and policy.counts_requests and policy.quota and policy not in met:
            state = State(policy.quota, None, None)
            seen.append(_seen(_label(policy.name, policy.partition), state, policy.window))
    return tuple(seen)


def _policy_of(name: str, partition: bytes | None, policies: tuple[Policy, ...]) -> Policy | None:
    """The policy of a state. Servers leave out the partition on one side or the other: then the name has to be enough."""
    of_name = [policy for policy in policies if policy.name == name]
    exact = [policy for policy in of_name if policy.partition == partition]
    if exact:
        return exact[-1]
    unsaid = [policy for policy in of_name if partition is None or policy.partition is None]
    return unsaid[0] if len(unsaid) == 1 else None


def _unnamed(state: State, policies: tuple[Policy, ...]) -> tuple[LimitSeen, ...]:
    """The older forms: the one state belongs to the policy of its limit; the others are known by their windows."""
    seen: list[LimitSeen] = []
    own = next((policy for policy in policies if policy.name is None and policy.quota == state.limit), None)
    if state.limit or state.remaining is not None:
        window = None if own is None else own.window
        seen.append(_seen(_by_window(window), state, window))
    for policy in policies:
        if policy.name is None and policy.window is not None and policy.quota and policy is not own:
            seen.append(_seen(_by_window(policy.window), State(policy.quota, None, None), policy.window))
    return tuple(seen)


def _from_dictionary(members: Mapping[str, Item]) -> State:
    keys = "limit", "remaining", "reset"
    limit, remaining, reset_after = [_count(members[key].value) if key in members else None for key in keys]
    if limit is None and remaining is None:
        raise ValueInvalid("neither limit nor remaining")
    return State(limit, remaining, reset_after)


def _from_fields(headers: Headers) -> tuple[State, tuple[Policy, ...]]:
    """The three fields, each bad one as if absent; the earliest drafts wrote the policies behind the limit."""
    limit, older = None, ()
    given = headers.get(_LIMIT)
    if given is not None:
        try:
            limit = amount(given)
        except ValueInvalid:
            try:
                items = parse_list(given)
                limit = _count(items[0].value) if items else None
                older = tuple([_policy(item) for item in items[1:]])
            except ValueInvalid:
                pass
    remaining = reset_after = None
    with contextlib.suppress(ValueInvalid):
        remaining = amount(headers.get(_REMAINING) or b"")
    with contextlib.suppress(ValueInvalid):
        reset_after = any_wait(headers.get(_RESET) or b"", headers)
    return State(limit, remaining, reset_after), older


def _seen(name: str, state: State, window: float | None) -> LimitSeen:
    reset_after = believed(state.reset_after)
    next_unit = state.next_unit and reset_after is not None
    return LimitSeen("requests", name, state.limit or None, state.remaining, reset_after, period=window, next_unit=next_unit)


def _by_window(window: float | None) -> str:
    return "requests" if window is None else f"requests-{window:.0f}s"


def _label(name: str, partition: bytes | None) -> str:
    """A policy's name, told from the same policy for another partition; bounded, whatever was sent."""
    if len(name) > LONGEST_NAME:
        name = name[:4] + "~" + _digest(name.encode("ascii"))
    name = name or "requests"
    return name if partition is None else f"{name}@{_digest(partition)}"


def _digest(given: bytes) -> str:
    return hashlib.sha256(given).hexdigest()[:8]


def _partition(parameters: Mapping[str, Bare]) -> bytes | None:
    partition = parameters.get("pk")
    if partition is not None and not isinstance(partition, bytes):
        raise ValueInvalid("a partition key is bytes")
    return partition


def _count(value: Bare) -> float | None:
    """A non-negative Integer; `None` if there is none. Raises `ValueInvalid` for any other."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueInvalid("not a non-negative integer")
    return float(value)
