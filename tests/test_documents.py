"""Files: what cannot be read or understood is told with its place, and its content is not."""

from __future__ import annotations

import pytest

from balancer.core.secret import Secret
from balancer.documents import MAX_FILE, MAX_KEY, oversized, read_key, read_toml
from balancer.errors import ConfigError

KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "is not set"),
        ({"K": ""}, "is empty"),
        ({"K": " \n"}, "is empty"),
        ({"K": f"{KEY}\n{KEY}"}, "holds a line break, another character that cannot be sent, or too much"),
        ({"K": KEY + "\xe9"}, "holds a line break, another character that cannot be sent, or too much"),
        ({"K": KEY * MAX_KEY}, "holds a line break, another character that cannot be sent, or too much"),
    ],
)
def test_bad_variable(environ, text):
    """A missing, empty or unsendable variable is named, its value is not."""
    with pytest.raises(ConfigError) as caught:
        read_key("K", None, environ)
    assert str(caught.value) == f"key_env: the variable K {text}; allowed: one that holds the key alone"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n", "is empty"),
        (f"{KEY}\n{KEY}".encode(), "holds a line break"),
        (b"\xff\xfe", "holds a line break, another character"),
        (b"k" * (MAX_KEY + 1), "or too much"),
    ],
)
def test_bad_key_file(tmp_path, content, text):
    """A key file that is missing, empty or unsendable is named, its content is not."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_key(None, str(path), {})
    assert str(caught.value).startswith("key_file: the file ")
    assert text in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key_file", ["nul\0", "/"])
def test_key_file_that_is_none(key_file):
    """What cannot be opened at all is a fault like any other."""
    with pytest.raises(ConfigError, match="key_file: the file '"):
        read_key(None, key_file, {})


def test_key_is_read(tmp_path):
    """White space around a key in a file or variable is no part of it; without either there is none."""
    path = tmp_path / "key"
    path.write_text(f"  {KEY}\r\n")
    assert read_key(None, str(path), {}) == read_key("K", None, {"K": KEY + "\n"}) == Secret(KEY)
    assert read_key(None, None, {}) is None


def test_keys_are_read(tmp_path):
    """A list of variables or files gives their keys in its order."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1\n")
    second.write_text("2\n")
    keys = (Secret("1"), Secret("2"))
    assert read_key(None, [str(first), str(second)], {}) == read_key(["A", "B"], None, {"B": "2", "A": "1"}) == keys


def test_every_key_of_a_list_that_cannot_be_read():
    """Each is named with its place; what names no variable is told elsewhere."""
    with pytest.raises(ConfigError) as caught:
        read_key(["A", "B", KEY, "C", 3], None, {"B": KEY, "C": " "})
    assert [str(fault) for fault in caught.value.faults] == [
        "key_env[0]: the variable A is not set; allowed: one that holds the key alone",
        "key_env[3]: the variable C is empty; allowed: one that holds the key alone",
    ]
    assert read_key([KEY, 3], None, {}) is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[balancer]\nmax_waiting = \n", "at line 2"),
        (b"[balancer]\n\nx = '\xff'\n", "not UTF-8 (at line 3)"),
        (b"x = " + b"9" * 5000, "a number that is none"),
        (b"x = " + b"[" * 50_000, "nested too deeply"),
        (b"#" * (MAX_FILE + 1), "is too long"),
        (b"[[accounts]]\nname = 'a'\n[accounts]\n", "at line 3"),
    ],
)
def test_bad_file(tmp_path, content, text):
    """A file that is no TOML, or a monstrous one, is a fault that says where."""
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert text in str(caught.value)


def test_byte_order_mark(tmp_path):
    """A byte order mark, as some editors write it, is no fault."""
    path = tmp_path / "bom.toml"
    path.write_bytes(b'\xef\xbb\xbf[[accounts]]\nname = "a"\n')
    assert read_toml(path)["accounts"][0]["name"] == "a"


def test_oversized(tmp_path):
    """Numbers and depths that Python itself cannot print or walk are named before anything looks at them."""
    path = tmp_path / "big.toml"
    path.write_text('[[a]]\n"b c" = 0x' + "f" * 5000 + "\nd = " + "[" * 50 + "]" * 50 + "\ne = [1, -9223372036854775809]\n")
    assert [str(fault) for fault in oversized(read_toml(path), "")] == [
        "a[0]['b c']: a whole number beyond 64 bits; allowed: a smaller one",
        "a[0].d" + "[0]" * 30 + ": nested too deeply; allowed: at most 32 levels",
        "a[0].e[1]: a whole number beyond 64 bits; allowed: a smaller one",
    ]
