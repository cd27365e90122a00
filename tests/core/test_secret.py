"""A credential that shows itself only to who asks for it by name."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import attrs
import pytest
import structlog

from balancer.core.secret import Secret
from balancer.core.settings import Account

TEXT = "sk-canary-0123456789"
SECRET = Secret(TEXT)
ACCOUNT = Account(name="a", key=TEXT, headers={"X-Token": TEXT}, params={"key": TEXT}, mock={"keys": [TEXT]}, transport=TEXT)


def log_lines(value):
    """What structlog's renderers make of a value."""
    event = {"event": "e", "value": value, "nested": {"list": [value]}}
    yield structlog.processors.JSONRenderer()(None, "info", dict(event))
    yield structlog.processors.KeyValueRenderer()(None, "info", dict(event))
    yield structlog.dev.ConsoleRenderer(colors=False)(None, "info", dict(event))


def traceback_with_locals(value):
    """A traceback that shows the values of its frames."""
    try:
        secret = value
        raise ValueError(secret)
    except ValueError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


SHOWN = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value} {value!s:>40}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031
    "list": lambda value: str([value, {"k": value}]),
    "logging": lambda value: logging.LogRecord("n", 10, "p", 1, "%s %r", (value, value), None).getMessage(),
    "structlog": lambda value: " ".join(log_lines(value)),
    "traceback": traceback_with_locals,
    "copy": lambda value: repr(copy.copy(value)),
    "deepcopy": lambda value: repr(copy.deepcopy(value)),
    "json": lambda value: json.dumps({"k": value}, default=str),
}


@pytest.mark.parametrize("way", SHOWN)
@pytest.mark.parametrize("value", [SECRET, ACCOUNT], ids=["secret", "account"])
def test_it_is_not_shown(value, way):
    """Neither itself, nor an account's key, header, query parameter, mock or transport."""
    text = SHOWN[way](value)
    assert TEXT not in text
    assert "***" in text or "Account(" in text


def test_asdict_keeps_it_wrapped():
    """Tools that walk values stop at it."""
    assert attrs.asdict(ACCOUNT)["key"] is ACCOUNT.key
    assert ACCOUNT.key.reveal() == TEXT
    assert attrs.astuple(ACCOUNT)[3] is ACCOUNT.key


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled(protocol):
    """Nor is what holds it."""
    for value in (SECRET, [SECRET], Account(name="a", key=TEXT)):
        with pytest.raises(TypeError, match=r"a Secret is not pickled or copied"):
            pickle.dumps(value, protocol)


def test_copies_are_the_same_secret():
    """So that settings can be copied."""
    assert copy.copy(SECRET) is copy.deepcopy(SECRET) is SECRET
    assert copy.deepcopy({"a": [ACCOUNT]})["a"][0].key is ACCOUNT.key


def test_no_attribute_dictionary():
    """What lists attributes finds none."""
    with pytest.raises(TypeError):
        vars(SECRET)
    with pytest.raises(AttributeError):
        SECRET.other = 1


def test_equal_texts_are_equal_secrets():
    """A changed key is noticed; a text is never equal to one."""
    assert Secret(TEXT) == SECRET
    assert hash(SECRET) == hash(Secret(TEXT))
    assert Secret("x") != SECRET
    assert SECRET != TEXT
