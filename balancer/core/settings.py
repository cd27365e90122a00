"""Accounts and the pools they form, as plain frozen data.

The classes take in code what a TOML file takes: `Account(name="a", limits={"requests": {"amount": 5, "per": 2.0}})`. A wrong
value raises `ConfigError` naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import attrs

from balancer.core.limits import Limits
from balancer.core.secret import Secret
from balancer.core.setting import RANGE, Range, check_range, each, setting, shown
from balancer.errors import ConfigError, Fault

TEXT = Range(str)

V = TypeVar("V")


def _under(path: str, parse: Callable[[Any], V]) -> Callable[[Any], V]:
    """A converter whose faults carry the field's name."""

    def convert(given: Any) -> V:
        try:
            return parse(given)
        except ConfigError as error:
            raise ConfigError(fault.below(path) for fault in error.faults) from None

    return convert


def _names(given: object) -> Mapping[str, str] | None:
    """`models`: a mapping from the application's names to the account's, or a list of names that stay as they are."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        table = cast("Mapping[object, object]", given)
        if all(isinstance(key, str) and isinstance(value, str) and key and value for key, value in table.items()):
            return dict(cast("Mapping[str, str]", table))
    elif isinstance(given, list | tuple | set | frozenset):
        names = list(cast("Iterable[object]", given))
        if all(isinstance(name, str) and name for name in names):
            return {cast("str", name): cast("str", name) for name in names}
    allowed = "a list of model names, or a table from name to the account's own name"
    raise ConfigError([Fault("", shown(cast("object", given)), allowed)])


def revealed(given: object) -> object:
    """The text of a `Secret`, anything else as it is: a credential is held to the same in either form."""
    return given.reveal() if isinstance(given, Secret) else given


def read_secret(given: object) -> Secret:
    """One credential. Raises `ConfigError`, which does not show it."""
    text = revealed(given)
    if isinstance(text, str) and text and text.isascii() and text.isprintable():
        return given if isinstance(given, Secret) else Secret(text)
    raise ConfigError([Fault("", "a value that cannot be sent", "a text of printable ASCII characters")])


def _source(given: object) -> str:
    if isinstance(given, str):
        return given
    # A credential written here is a likely slip, so only the kind is said.
    raise ConfigError([Fault("", f"a value of type {type(given).__name__}", "a text, or a list of texts")])


def _one_or_several(parse: Callable[[object], V]) -> Callable[[object], V | tuple[V, ...] | None]:
    """What an account may have one of, several of, or none."""

    def convert(given: object) -> V | tuple[V, ...] | None:
        if given is None:
            return None
        if not isinstance(given, list | tuple):
            return parse(given)
        if not given:
            raise ConfigError([Fault("", "an empty list", "at least one, or no list")])
        return each(cast("Iterable[object]", given), parse)

    return convert


def _auth(given: object) -> str | Mapping[str, str]:
    if isinstance(given, str) and given in ("", "bearer"):
        return given
    if isinstance(given, Mapping):
        table = cast("Mapping[object, object]", given)
        name = table.get("header")
        if set(table) == {"header"} and isinstance(name, str) and HEADER_NAME.fullmatch(name):
            return {"header": name}
    # A credential written here is a likely slip; a word of letters is none.
    hidden = isinstance(given, str) and not (len(given) <= 20 and given.isalpha())
    problem = "a text that names no way" if hidden else shown(cast("object", given))
    raise ConfigError([Fault("", problem, '"bearer", or { header = "X-Api-Key" }')])


HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)
HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?", re.ASCII)


def _sent(given: object) -> Mapping[str, Secret]:
    """`headers` and `params`: any of the values may be a credential, so each of them is kept as one."""
    if isinstance(given, Mapping):
        texts = {key: revealed(value) for key, value in cast("Mapping[object, object]", given).items()}
        if all(
            isinstance(key, str) and HEADER_NAME.fullmatch(key) and isinstance(text, str) and HEADER_VALUE.fullmatch(text)
            for key, text in texts.items()
        ):
            return {key: Secret(text) for key, text in cast("Mapping[str, str]", texts).items()}
    raise ConfigError([Fault("", "a table with a name or value that no header may have", "a table from header name to text")])


def _texts(given: object) -> tuple[str, ...]:
    if isinstance(given, list | tuple | set | frozenset):
        texts = tuple(cast("Iterable[object]", given))
        if all(isinstance(text, str) for text in texts):
            return cast("tuple[str, ...]", texts)
    raise ConfigError([Fault("", shown(cast("object", given)), "a list of texts")])


def _tiers(given: object) -> tuple[tuple[str, ...], ...]:
    if isinstance(given, list | tuple):
        return each(cast("Iterable[object]", given), _texts)
    raise ConfigError([Fault("", shown(given), "a list of tiers, each a list of names")])


@attrs.frozen
class Account:
    """One quota owner at one backend.

    Args:
        name: unique in the configuration.
        provider: `"openai"`, `"anthropic"`, `"http"`, or `"mock"` for a backend that is started beside the program.
        base_url: where it is; by default the provider's own address, required for `"http"`.
        key: the credential itself, or a list of them, which share the account's limits; prefer `key_env` or `key_file` in files.
        key_env: the environment variable that holds it, or a list of them.
        key_file: the file that holds it, or a list of them.
        models: the model names it offers, mapped to its own; absent: every model under its own name.
        weight: share of the traffic against other accounts, >= 0; 0: only when no other can.
        limits: what it may take.
        headers: sent with every request, texts by name; the values may be credentials and are kept like one, never shown.
        params: added to the query of every request; never shown either.
        auth: how the credential is sent: `""` as the provider does, `"bearer"`, or `{"header": name}`.
        host: the name to send as `Host` and to verify in TLS, where it differs from the address in `base_url`.
        tags: marks for routers.
        allow_headers: names of further request headers to pass on in LLM calls.
        transport: code only: an `httpx.AsyncBaseTransport` that answers instead of the network.
        mock: for `"mock"`: what the started backend does.
    """

    name: str = attrs.field(validator=check_range, metadata={RANGE: TEXT})
    provider: str = setting("openai", kind=str)
    base_url: str | None = setting(None, kind=str, optional=True)
    key: Secret | tuple[Secret, ...] | None = attrs.field(default=None, converter=_under("key", _one_or_several(read_secret)))
    key_env: str | tuple[str, ...] | None = attrs.field(default=None, converter=_under("key_env", _one_or_several(_source)))
    key_file: str | tuple[str, ...] | None = attrs.field(default=None, converter=_under("key_file", _one_or_several(_source)))
    models: Mapping[str, str] | None = attrs.field(hash=False, default=None, converter=_under("models", _names))
    weight: float = setting(1.0, kind=float, low=0.0, high=1e9)
    limits: Limits = attrs.field(factory=Limits, converter=_under("limits", Limits.parse))
    headers: Mapping[str, Secret] = attrs.field(hash=False, factory=dict[str, Secret], converter=_under("headers", _sent))
    params: Mapping[str, Secret] = attrs.field(hash=False, factory=dict[str, Secret], converter=_under("params", _sent))
    auth: str | Mapping[str, str] = attrs.field(hash=False, default="", converter=_under("auth", _auth))
    host: str | None = setting(None, kind=str, optional=True)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_under("tags", _texts))
    allow_headers: tuple[str, ...] = attrs.field(default=(), converter=_under("allow_headers", _texts))
    transport: Any = attrs.field(default=None, repr=False, hash=False)
    mock: Mapping[str, Any] | None = attrs.field(default=None, repr=False, hash=False)

    @property
    def keys(self) -> tuple[Secret, ...]:
        """Every credential, in the order given."""
        return self.key if isinstance(self.key, tuple) else () if self.key is None else (self.key,)

    def model_name(self, model: str | None) -> str | None:
        """The account's own name of `model`; `None` if it does not offer it."""
        return model if self.models is None or model is None else self.models.get(model)


@attrs.frozen
class Pool:
    """Accounts, or pools, that can stand in for each other, in order of preference.

    Args:
        name: unique in the configuration.
        tiers: lists of account names; `@name` stands for another pool. A tier is used when none before it can take the call now.
    """

    name: str = attrs.field(validator=check_range, metadata={RANGE: TEXT})
    tiers: tuple[tuple[str, ...], ...] = attrs.field(converter=_under("tiers", _tiers))
