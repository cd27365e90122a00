from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCKED = ("runtime", "demo", "test", "dev")  # each holds the one before it


def pins(name: str) -> dict[str, str]:
    """Package -> version, as one requirement file pins them."""
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("name", [*LOCKED, "lock"])
def test_requirements_hold_names_versions_and_hashes_only(name):
    """A requirement file names no index, no file and no option."""
    line = re.compile(r"#.*|    #.*|[a-z0-9._-]+==[A-Za-z0-9.]+( ;.*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|")
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert [wrong for wrong in text.splitlines() if not line.fullmatch(wrong)] == []
    assert "://" not in text


@pytest.mark.parametrize("name", [*LOCKED, "lock"])
def test_every_pin_is_hashed(name):
    """Whatever may be installed is named by its content."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert len(re.findall(r"^\S+==.*\\\n    --hash=", text, re.MULTILINE)) == len(pins(name)) > 0


@pytest.mark.parametrize(("smaller", "larger"), [("runtime", "demo"), ("demo", "test"), ("test", "dev")])
def test_each_requirement_file_holds_the_smaller_one(smaller, larger):
    """One environment serves the demo, the tests and the checks."""
    assert pins(smaller).items() <= pins(larger).items()


def test_every_dependency_is_locked():
    """The requirement files follow pyproject.toml."""
    extras = project()["optional-dependencies"]
    assert names(project()["dependencies"]) <= pins("runtime").keys()
    assert names(extras["cli"]) | {"hatchling", "editables"} <= pins("demo").keys()
    assert names(extras["httpx2"] + extras["plots"]) <= pins("test").keys()


def test_the_empty_environment_is_empty():
    """What only an extra or a tool needs is not installed with the library."""
    assert not {"cyclopts", "rich", "httpx2", "matplotlib", "pytest", "hatchling"} & pins("runtime").keys()


def test_ci_runs_the_two_commands_of_a_fresh_machine():
    """What the README tells a newcomer to type is what is checked."""
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert {"make test", "make demo", "make check"} <= set(script.read_text().splitlines())


def find_python(folder: Path, **pythons: str) -> subprocess.CompletedProcess[str]:
    """Runs `tools/find-python` where the PATH holds nothing but the given stubs."""
    folder.mkdir(exist_ok=True)
    for name, script in pythons.items():
        stub = folder / name.replace("_", ".")
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    environment = {"PATH": str(folder)}
    return subprocess.run(["/bin/sh", ROOT / "tools/find-python"], env=environment, capture_output=True, text=True, check=False)


REAL = f'exec "{sys.executable}" "$@"'
OLD = 'case "$2" in *exit*) exit 1;; *) echo 3.9;; esac'
WITHOUT_VENV = 'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.12;; esac'
STUB_OF_A_VERSION_MANAGER = 'echo "command not found" >&2; exit 127'


def test_a_python_that_runs_is_found_behind_ones_that_do_not(tmp_path):
    """A name on PATH proves nothing: a stub that only fails is passed over, and so is an old Python."""
    found = find_python(tmp_path / "bin", python3_13=STUB_OF_A_VERSION_MANAGER, python3_12=OLD, python3=REAL)
    assert (found.returncode, found.stdout.strip()) == (0, str(tmp_path / "bin" / "python3"))


@pytest.mark.parametrize(
    ("pythons", "said"),
    [
        ({}, "Python 3.11 or newer is needed and none runs here"),
        ({"python3": OLD}, "too old: python3 (3.9)"),
        ({"python3": WITHOUT_VENV}, "apt install python3-venv"),
    ],
)
def test_what_is_missing_is_said(tmp_path, pythons, said):
    """A machine without a suitable Python gets one line that says what to do, and a failing exit code."""
    found = find_python(tmp_path / "bin", **pythons)
    assert found.returncode == 1
    assert found.stdout == ""
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def check_wheel():
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "tools/check_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("added", "left_out", "expected"),
    [
        ((), (), []),
        (("balancer.pth", "tests/test_x.py"), (), ["does not belong: balancer.pth", "does not belong: tests/test_x.py"]),
        ((), ("balancer/py.typed",), ["missing: balancer/py.typed"]),
        ((), ("balancer-1.dist-info/METADATA",), ["missing: balancer-1.dist-info/METADATA"]),
    ],
)
def test_a_wheel_is_judged_by_its_file_list(tmp_path, added, left_out, expected):
    """Only the package belongs into the wheel, and all of it."""
    for path in ("balancer/__init__.py", "balancer/py.typed", "tests/test_x.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    held = [
        "balancer/__init__.py",
        "balancer/py.typed",
        "balancer-1.dist-info/METADATA",
        "balancer-1.dist-info/entry_points.txt",
    ]
    with zipfile.ZipFile(tmp_path / "balancer-1-py3-none-any.whl", "w") as wheel:
        for path in [*held, *added]:
            if path not in left_out:
                wheel.writestr(path, "")
    assert check_wheel().faults(tmp_path / "balancer-1-py3-none-any.whl", tmp_path) == expected


@pytest.mark.skipif(shutil.which("ruff", path=Path(sys.executable).parent) is None, reason="ruff belongs to the checks")
@pytest.mark.parametrize(
    ("path", "banned"),
    [
        ("balancer/core/x.py", True),
        ("balancer/providers/x.py", True),
        ("balancer/selection/x.py", True),
        ("balancer/cli/x.py", False),
    ],
)
def test_the_pure_layers_may_not_ask_for_the_time(path, banned):
    """The clock that an import contract cannot see, because `datetime` has other uses, is banned by name."""
    code = "import datetime\n\nNOW = datetime.datetime.now(datetime.UTC)\n"
    ruff = Path(sys.executable).parent / "ruff"
    command = [ruff, "check", "--no-cache", "--output-format=concise", "--select=TID251", f"--stdin-filename={path}", "-"]
    found = subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ("TID251" in found.stdout) == banned
