"""A wheel holds the package and its own metadata, nothing else: no test, no tool, no `.pth` that runs at every start."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def faults(wheel: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with the file list of `wheel`, built from the tree at `root`."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    name, version = wheel.name.split("-")[:2]
    metadata = f"{name}-{version}.dist-info/"
    source = {path.relative_to(root).as_posix() for path in (root / "balancer").rglob("*") if path.suffix in {".py", ".typed"}}
    package = {path for path in held if not path.startswith(metadata)}
    return [
        *(f"missing: {path}" for path in sorted(source - package)),
        *(f"does not belong: {path}" for path in sorted(package - source)),
        *(f"missing: {metadata}{part}" for part in ("METADATA", "entry_points.txt") if metadata + part not in held),
    ]


if __name__ == "__main__":
    found = [f"{argument}: {fault}" for argument in sys.argv[1:] for fault in faults(Path(argument))]
    sys.exit("\n".join(found) or None)
