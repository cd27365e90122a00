"""One table of a document becomes one settings object, or one `ConfigError` with every fault of the table.

cattrs walks the fields of the settings class; each field's hook is strict: the `Range` in its metadata or its own converter
decides, and nothing is coerced. What no single class of the core can know (the providers that exist, what an address or a
header may be) is checked here as well, so that classes and mappings are held to the same.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import attrs
import cattrs
import httpx
from cattrs.gen import make_dict_structure_fn, override

from balancer.core.limits import Limits
from balancer.core.setting import RANGE, Range, each, looks_like_key, shown
from balancer.core.settings import HEADER_NAME, HEADER_VALUE, Account, Pool, read_secret, revealed
from balancer.errors import ConfigError, Fault
from balancer.providers.provider import PROVIDERS
from balancer.transports.rewriting import MADE_HERE, address_problems, is_host

T = TypeVar("T")

PROVIDER_NAMES = (*PROVIDERS, "mock")
NAME_FORM = 'a text of 1 to 100 printable characters that does not begin with "@"'

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)


@contextmanager
def gathered(faults: list[Fault], path: str = "") -> Generator[None]:
    """Collects the faults of the block, seen from `path`, instead of letting the `ConfigError` out."""
    try:
        yield
    except ConfigError as error:
        faults += [fault.below(path) for fault in error.faults]


def kind_of(value: object) -> str:
    """What a value is, for texts that must not show it."""
    match value:
        case bool():
            return "true or false"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return "nothing" if value is None else f"a {type(value).__name__}"


def told(value: object) -> str:
    """A value in an error text: a plain one as it is, of a table or list only the kind, since a key may lie inside."""
    return shown(value) if isinstance(value, str | int | float) else kind_of(value)


def step(key: object) -> str:
    """A key as one step of a path."""
    if isinstance(key, str) and _BARE_KEY.fullmatch(key) and not looks_like_key(key):
        return key
    return f"[{shown(key)}]"


def hint(name: object, known: Collection[str]) -> str:
    """` (did you mean "x"?)` where a known name is near, else nothing; nothing too where looking would take long."""
    if not isinstance(name, str) or len(name) > 100 or len(known) > 200:
        return ""
    near = difflib.get_close_matches(name, known, n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


NOT_CARRIED = ("http2", "proxy", "proxies")
"""Keys that other clients have and that are refused by name."""


def unknown_key(key: object, known: Collection[str]) -> Fault:
    """The fault of a key that nothing reads."""
    if key in NOT_CARRIED:
        return Fault(step(key), f"{key} is not carried yet", "HTTP/1.1, straight to the account's base_url")
    return Fault(step(key), "unknown key" + hint(key, known), ", ".join(known))


def table_of(given: object) -> Mapping[object, Any]:
    """`given` as a table. Raises `ConfigError`; its text says what was given, never the value, which may hold keys."""
    if isinstance(given, Mapping):
        return cast("Mapping[object, Any]", given)
    raise ConfigError([Fault("", kind_of(given), "a table")])


def items_of(given: object) -> Sequence[object]:
    """The items of a list or tuple; nothing of anything else."""
    return cast("Sequence[object]", given) if isinstance(given, list | tuple) else ()


def structure(cls: type[T], given: object) -> T:
    """A settings object from a mapping, or from one made in code, which is checked again. Raises `ConfigError`."""
    table = _fields_of(cls, given)
    faults = list(_relations(table)) if cls is Account else []
    try:
        value = _CONVERTER.structure(table, cls)
    except cattrs.ClassValidationError as error:
        faults = [*_flattened(error, table), *faults]
    else:
        if not faults:
            return value
    raise ConfigError(faults)


def as_far_as_right(cls: type[T], given: object, faults: Iterable[Fault]) -> T | None:
    """What stands without the fields at fault, so that what joins it to other parts is checked in the same run; `None` if nothing."""
    wrong = {re.split(r"[.\[]", fault.path)[0] for fault in faults}
    known = {field.name for field in attrs.fields(cast("type[Any]", cls))} - wrong
    try:
        return _CONVERTER.structure({key: value for key, value in _fields_of(cls, given).items() if key in known}, cls)
    except (ConfigError, cattrs.ClassValidationError):
        return None


def _fields_of(cls: type[Any], given: object) -> Mapping[object, Any]:
    if isinstance(given, cls):
        return {field.name: getattr(given, field.name) for field in attrs.fields(cls)}
    return table_of(given)


def check_field(field: attrs.Attribute[Any], given: object) -> None:
    """Hold one value against its field. Raises `ConfigError` that names the field."""
    allowed: Range | None = field.metadata.get(RANGE)
    if allowed is not None and not allowed.admits(given):
        raise ConfigError([Fault(field.name, told(given), allowed.allowed)])


def _strict(cls: type[Any], converter: cattrs.Converter) -> Any:
    overrides: Any = {field.name: override(struct_hook=_hook(cls, field)) for field in attrs.fields(cls)}
    return make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **overrides)


def _hook(cls: type[Any], field: attrs.Attribute[Any]) -> Callable[[Any, object], Any]:
    check = _CHECKS.get((cls, field.name))
    convert = cast("Callable[[Any], Any] | None", field.converter)  # pyright: ignore[reportUnknownMemberType]

    def hook(given: Any, _type: object) -> Any:
        check_field(field, given)
        if check is not None and given is not None:
            faults: list[Fault] = []
            with gathered(faults, field.name):
                check(given)
            if faults:
                raise ConfigError(faults)
        return given if convert is None else convert(given)

    return hook


def _flattened(error: cattrs.ClassValidationError, table: Mapping[object, Any]) -> Iterator[Fault]:
    fields = {field.name: field for field in attrs.fields(error.cl)}
    for fault in error.exceptions:
        match fault:
            case ConfigError():
                yield from fault.faults
            case cattrs.ForbiddenExtraKeysError():
                yield from (unknown_key(key, fields) for key in table if key in fault.extra_fields)
            case KeyError():
                name = str(fault.args[0])
                allowed: Range | None = fields[name].metadata.get(RANGE)
                yield Fault(name, "missing", allowed.allowed if allowed else "a value")
            case _:
                raise fault


def _relations(table: Mapping[object, Any]) -> Iterator[Fault]:
    sources = [name for name in ("key", "key_env", "key_file") if table.get(name) is not None]
    if len(sources) > 1:
        yield Fault(sources[1], " and ".join(sources) + " together", "only one of key, key_env, key_file")
    provider = table.get("provider")
    if isinstance(provider, str) and provider in PROVIDERS and table.get("base_url") is None:
        if PROVIDERS[provider].base_url is None:
            yield Fault("base_url", "missing", f'an address: provider "{provider}" has none of its own')
    if isinstance(table.get("mock"), Mapping) and table.get("provider") != "mock":
        yield Fault("mock", "settings of a mock backend", 'only with provider = "mock"')
    if table.get("base_url") is not None and table.get("provider") == "mock":
        yield Fault("base_url", "an address", "none: the backend that is started has its own")


def check_name(given: object) -> None:
    """The name of an account or a pool."""
    if not (isinstance(given, str) and 0 < len(given) <= 100 and given.isprintable() and given[0] != "@" and given.strip()):
        raise ConfigError([Fault("", shown(given), NAME_FORM)])


def _provider(given: str) -> None:
    if given not in PROVIDER_NAMES:
        raise ConfigError([Fault("", shown(given) + hint(given, PROVIDER_NAMES), ", ".join(PROVIDER_NAMES))])


def _base_url(given: str) -> None:
    if problems := ", ".join(address_problems(given)):
        # An address with userinfo or a query may hold a credential.
        text = problems if "@" in given or "?" in given else f"{shown(given)}: {problems}"
        raise ConfigError([Fault("", text, "http:// or https://, a host and a path: https://host.example/v1")])


def _host(given: str) -> None:
    if not is_host(given):
        raise ConfigError([Fault("", shown(given), "a host name, with a port where it needs one")])


def _key(given: object) -> None:
    text = revealed(given)
    if isinstance(text, str) and text != text.strip():
        raise ConfigError([Fault("", "a value with space around it, or nothing but space", "the key alone")])
    read_secret(given)


def _key_file(given: object) -> None:
    if not (isinstance(given, str) and given):
        raise ConfigError([Fault("", shown(given) if given == "" else kind_of(given), "the path of a file")])


def _key_env(given: object) -> None:
    # A credential written where its variable's name belongs is the commonest slip: never shown.
    if not (isinstance(given, str) and VARIABLE.fullmatch(given)):
        text = "a text that names no variable" if isinstance(given, str) else kind_of(given)
        raise ConfigError([Fault("", text, "the name of an environment variable")])


def _or_several(check: Callable[[object], None]) -> Callable[[object], None]:
    """The check of a field that holds one or a list."""

    def check_all(given: object) -> None:
        if isinstance(given, list | tuple):
            each(items_of(cast("object", given)), check)
        else:
            check(given)

    return check_all


def _made_here(name: object) -> bool:
    """Whether a header says something about the connection, so that one sent from a table would contradict the real one."""
    return isinstance(name, str) and name.lower().encode("ascii", "replace") in MADE_HERE


def _headers(given: object) -> None:
    faults = [
        Fault(step(name), "a name that cannot be set", "any other header: the transport sets this one")
        for name in table_of(given)
        if _made_here(name)
    ]
    with gathered(faults):
        _sent(given)
    if faults:
        raise ConfigError(faults)


def _sent(given: object) -> None:
    faults: list[Fault] = []
    for name, value in table_of(given).items():
        text = revealed(value)
        if not (isinstance(name, str) and HEADER_NAME.fullmatch(name)):
            faults.append(Fault(step(name), "a name that cannot be sent", "letters, digits, - and _"))
        if not (isinstance(text, str) and HEADER_VALUE.fullmatch(text)):
            text = "a value that cannot be sent" if isinstance(text, str) else kind_of(text)
            faults.append(Fault(step(name), text, "a text of printable ASCII characters, no space around it"))
    if faults:
        raise ConfigError(faults)


def _models(given: object) -> None:
    if isinstance(given, Mapping):
        places = [(step(key), value) for key, value in table_of(cast("object", given)).items()]
    else:
        places = [(f"[{place}]", value) for place, value in enumerate(items_of(given))]
    _each(places, lambda name: isinstance(name, str) and bool(name), "the name of a model")


def _auth(given: object) -> None:
    if isinstance(given, str):
        return  # the field's converter knows the words
    table = table_of(given)
    faults = [unknown_key(key, ("header",)) for key in table if key != "header"]
    if _made_here(table.get("header")):
        faults.append(Fault("header", told(table["header"]), "the name of a header that the transport does not set"))
    if faults:
        raise ConfigError(faults)


def _allow_headers(given: object) -> None:
    places = [(f"[{place}]", name) for place, name in enumerate(items_of(given))]
    _each(places, lambda name: isinstance(name, str) and bool(HEADER_NAME.fullmatch(name)), "the name of a header")


def _each(places: Iterable[tuple[str, object]], good: Callable[[object], bool], allowed: str) -> None:
    if faults := [Fault(path, told(value), allowed) for path, value in places if not good(value)]:
        raise ConfigError(faults)


def _transport(given: object) -> None:
    if not isinstance(given, httpx.AsyncBaseTransport):
        raise ConfigError([Fault("", kind_of(given), "an httpx.AsyncBaseTransport, made in code")])


def _limits(given: object) -> None:
    if not isinstance(given, Mapping):
        return  # the field's converter says what it must be
    table = cast("Mapping[object, Any]", given)
    known = Limits.keys()
    faults = [unknown_key(key, known) for key in table if key not in known]
    with gathered(faults):
        Limits.parse({key: value for key, value in table.items() if key in known})
    if faults:
        raise ConfigError(faults)


def _tiers(given: object) -> None:
    form = 'a list of tiers, each a list of account names or "@" and a pool\'s name: [["a", "b"], ["@spare"]]'
    if not items_of(given):
        raise ConfigError([Fault("", told(given) if given else "nothing in it", form)])
    faults: list[Fault] = []
    for place, tier in enumerate(items_of(given)):
        with gathered(faults, f"[{place}]"):
            if not items_of(tier):
                raise ConfigError([Fault("", told(tier) if tier else "nothing in it", form)])
            places = [(f"[{position}]", entry) for position, entry in enumerate(items_of(tier))]
            _each(places, lambda entry: isinstance(entry, str), "a name")
    if faults:
        raise ConfigError(faults)


_CHECKS: Mapping[tuple[type[Any], str], Callable[[Any], object]] = {
    (Account, "name"): check_name,
    (Account, "provider"): _provider,
    (Account, "base_url"): _base_url,
    (Account, "host"): _host,
    (Account, "key"): _or_several(_key),
    (Account, "key_env"): _or_several(_key_env),
    (Account, "key_file"): _or_several(_key_file),
    (Account, "models"): _models,
    (Account, "headers"): _headers,
    (Account, "params"): _sent,
    (Account, "auth"): _auth,
    (Account, "allow_headers"): _allow_headers,
    (Account, "limits"): _limits,
    (Account, "transport"): _transport,
    (Account, "mock"): table_of,
    (Pool, "name"): check_name,
    (Pool, "tiers"): _tiers,
}
_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
_CONVERTER.register_structure_hook_factory(attrs.has, _strict)
