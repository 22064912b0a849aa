"""Memory and CPU limits: of the process from /proc, of its control group from wherever that is mounted.

Both versions of control groups are read. The group's own files are found by /proc/self/cgroup and /proc/self/mountinfo,
once: in a container the mount shows only a part of the tree, and what the kernel names is not where it lies. Limits may
be set on any group above; the smallest holds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")
Reading = tuple[str, float, Mapping[str, str]]

PSS_INTERVAL_S = 60.0
PSS_COST_RATIO = 0.0005
"""Share of time that reading PSS may take: the kernel walks every page for it, and holds up mmap() meanwhile."""
PSS_RESIDENT_BYTES_MAX = 4 << 30
"""Above so much resident memory it is not read: more than 50 ms at a time."""
NO_LIMIT = 1 << 60
"""Version 1 says "none" by a number of this size."""


def memory(proc: Path = PROC) -> Iterator[Reading]:
    """Resident and virtual memory from one short line of /proc, which costs the kernel no walk over pages."""
    with contextlib.suppress(OSError, ValueError):
        size_pages, resident_pages = (int(field) for field in (proc / "statm").read_bytes().split()[:2])
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        yield "process.memory.usage", resident_pages * page_bytes, {}
        yield "process.memory.virtual", size_pages * page_bytes, {}


class Pss:
    """Resident memory with each shared page divided by who shares it: what a forked worker really costs.

    Read once a minute, seldomer where that takes long, and not at all where it would take very long. Between two
    readings nothing is told.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._due_s = 0.0
        self.seconds_max = 0.0

    def read(self, now_s: float, resident_bytes: float) -> Iterator[Reading]:
        """now_s: monotonic."""
        if now_s < self._due_s or resident_bytes > PSS_RESIDENT_BYTES_MAX:
            return
        began_s = time.perf_counter()
        try:
            lines = (self._proc / "smaps_rollup").read_bytes().splitlines()
        except OSError:
            self._due_s = float("inf")  # an old kernel, or one that does not let us
            return
        took_s = time.perf_counter() - began_s
        self.seconds_max = max(self.seconds_max, took_s)
        self._due_s = now_s + max(PSS_INTERVAL_S, took_s / PSS_COST_RATIO)
        for line in lines:
            if line.startswith(b"Pss:"):
                yield "glassbottom.memory.pss", int(line.split()[1]) * 1024, {}


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy of control groups is mounted, and which of its groups is on top there."""

    at: Path
    root: str
    version: int
    controllers: frozenset[str]


def mounts(mountinfo: str) -> list[Mount]:
    """Of /proc/self/mountinfo; the format is that of proc(5)."""
    found = []
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not dash or len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        at = Path(fields[4].encode().decode("unicode_escape"))  # blanks are written as \040
        found.append(Mount(at, fields[3], version, frozenset(kind[2].split(",")) if version == 1 else frozenset()))
    return found


def groups(cgroup: str) -> dict[str, str]:
    """Path by controller, of /proc/self/cgroup; that of version 2 under ""."""
    found = {}
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            found.update(dict.fromkeys(controllers.split(","), path))
    return found


class ControlGroup:
    """Limits of the group this process is in, and how near it is to them."""

    def __init__(self, proc: Path = PROC) -> None:
        self._memory: tuple[list[Path], int] = ([], 2)
        self._cpu: tuple[list[Path], int] = ([], 2)
        with contextlib.suppress(OSError, ValueError):
            found = mounts((proc / "mountinfo").read_text(errors="replace"))
            mine = groups((proc / "cgroup").read_text(errors="replace"))
            self._memory = _directories("memory", "memory.current", "memory.usage_in_bytes", found, mine)
            self._cpu = _directories("cpu", "cpu.stat", "cpu.stat", found, mine)

    def read(self) -> Iterator[Reading]:
        yield from self._read_memory()
        yield from self._read_cpu()

    def _read_memory(self) -> Iterator[Reading]:
        directories, version = self._memory
        if not directories:
            return
        here = directories[0]
        usage = _number(here / ("memory.current" if version == 2 else "memory.usage_in_bytes"))
        if usage is None:
            return
        yield "container.memory.usage", usage, {}
        numbers = _table(here / "memory.stat")
        cached = numbers.get("inactive_file" if version == 2 else "total_inactive_file")
        if cached is not None:
            # What the kernel would have to find room for: files it can drop at once do not count.
            yield "container.memory.working_set", max(0.0, usage - cached), {}
        if version == 2:
            limits = [_number(directory / "memory.max") for directory in directories]
        else:
            limits = [numbers.get("hierarchical_memory_limit"), _number(here / "memory.limit_in_bytes")]
        limit = min((limit for limit in limits if limit is not None), default=NO_LIMIT)
        if limit < NO_LIMIT:
            yield "container.memory.limit", limit, {}

    def _read_cpu(self) -> Iterator[Reading]:
        directories, version = self._cpu
        limits = [_cpus(directory, version) for directory in directories]
        limit = min((limit for limit in limits if limit is not None), default=None)
        if limit is None:
            return
        yield "container.cpu.limit", limit, {}
        # Of the group whose limit it is: one above may be throttled while this one is not limited at all.
        numbers = _table(directories[limits.index(limit)] / "cpu.stat")
        if "nr_periods" in numbers:
            yield "container.cpu.periods", numbers["nr_periods"], {}
            yield "container.cpu.throttled_periods", numbers.get("nr_throttled", 0.0), {}
            throttled_s = numbers["throttled_usec"] / 1e6 if version == 2 else numbers.get("throttled_time", 0.0) / 1e9
            yield "container.cpu.throttled_time", throttled_s, {}


def _directories(
    controller: str, file_2: str, file_1: str, found: list[Mount], mine: Mapping[str, str]
) -> tuple[list[Path], int]:
    """The group's directory and those above it, up to the top of the mount; and the version. A controller is in one of
    the two hierarchies; the file tells which."""
    for mount in sorted(found, key=lambda mount: -mount.version):
        path = mine.get("" if mount.version == 2 else controller)
        if path is None or (mount.version == 1 and controller not in mount.controllers):
            continue
        below = path.removeprefix(mount.root) if mount.root != "/" and path.startswith(mount.root) else path
        parts = [part for part in below.split("/") if part not in ("", "..")]
        # Where the path is one that this mount does not show, as in a container, its top is the nearest there is.
        for names in (parts, []):
            directories = [mount.at.joinpath(*names[:depth]) for depth in range(len(names), -1, -1)]
            if (directories[0] / (file_2 if mount.version == 2 else file_1)).is_file():
                return directories, mount.version
    return [], 2


def _cpus(directory: Path, version: int) -> float | None:
    """The limit of one group in CPUs; None: it has none."""
    with contextlib.suppress(OSError, ValueError):
        if version == 2:
            quota, period = (directory / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int((directory / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((directory / "cpu.cfs_period_us").read_text())
    return None


def _number(path: Path) -> float | None:
    """None: no such file, or no number, as "max"."""
    with contextlib.suppress(OSError, ValueError):
        return float(int(path.read_bytes()))
    return None


def _table(path: Path) -> dict[str, float]:
    """Lines of a name and a number."""
    with contextlib.suppress(OSError, ValueError):
        return {name: float(value) for name, value in map(str.split, path.read_text().splitlines())}
    return {}
