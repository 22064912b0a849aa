"""Whose the resident memory is: Python's, malloc's, the stacks of threads, files; and what the allocators keep free.

Growth of resident memory has four causes, which only these parts tell apart: objects, garbage in cycles, memory that a
C library has lost, and free memory that an allocator does not give back. Where an interpreter or a C library does not
tell its part, that part is left out.

Each source is read at most as often as its cost allows: pymalloc walks its pools with the interpreter lock, malloc its
free chunks under its own.
"""

from __future__ import annotations

import contextlib
import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

PROC = Path("/proc/self")
Reading = tuple[str, float, Mapping[str, str]]

COST_RATIO = 0.0005
"""Share of time that one source may take."""
SECONDS_MAX = 0.02
"""A source that once took longer is left alone for RETRY_S: an allocator's lock held for so long is felt."""
RETRY_S = 3600.0
STACKS_EVERY_S = 60.0
MAPS_BYTES_MAX = 4 << 20
GUARD_BYTES_MAX = 64 << 10
"""Below a thread's stack lies a small range that nobody may touch; below a heap of malloc's there is none so small."""

_ARENAS = re.compile(r"^\s*([\d,]+) arenas \* ([\d,]+) bytes/arena", re.MULTILINE)
_ALLOCATED = re.compile(r"^# bytes in allocated blocks\s*=\s*([\d,]+)", re.MULTILINE)
RESIDENT = {b"RssAnon": "anonymous", b"RssFile": "files", b"RssShmem": "shared"}


class Core(Protocol):
    """What is needed of glassbottom._native; see _native.pyi."""

    def memory_pymalloc(self) -> str | None: ...

    def memory_malloc(self) -> tuple[int, int, int] | None: ...

    def memory_resident(self, ranges: Sequence[tuple[int, int]], /) -> int: ...

    def memory_large(self) -> tuple[float, float] | None: ...


def load() -> Core | None:
    """The real one; None where there is no native part."""
    try:
        from .. import _native
    except ImportError:
        return None
    return _native


class Split:
    """The parts, every time they are asked for; what costs much, as of the last time it was read."""

    def __init__(self, core: Core | None, proc: Path = PROC) -> None:
        self._core = core
        self._proc = proc
        self._pymalloc = _Costly(self._read_pymalloc)
        self._malloc = _Costly(self._read_malloc)
        self._stacks = _Costly(self._read_stacks, STACKS_EVERY_S)

    @property
    def seconds_max(self) -> float:
        """The longest that one source took."""
        return max(source.seconds_max for source in (self._pymalloc, self._malloc, self._stacks))

    def read(self, now_s: float) -> Iterator[Reading]:
        """now_s: monotonic."""
        yield from self._resident()
        yield from self._pymalloc.read(now_s)
        yield from self._malloc.read(now_s)
        yield from self._stacks.read(now_s)
        yield from self._large()
        yield from _collector()
        yield from limits()

    def _resident(self) -> Iterator[Reading]:
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in (self._proc / "status").read_bytes().splitlines():
                name, _, rest = line.partition(b":")
                if name in RESIDENT:
                    yield "glassbottom.memory.resident", int(rest.split()[0]) * 1024, {"memory.type": RESIDENT[name]}

    def _read_pymalloc(self) -> list[Reading]:
        report = self._core.memory_pymalloc() if self._core is not None else None
        parts = pymalloc_parts(report or "")
        return [
            ("glassbottom.pymalloc.memory", value, {"memory.state": state}) for state, value in (parts or {}).items()
        ]

    def _read_malloc(self) -> list[Reading]:
        told = self._core.memory_malloc() if self._core is not None else None
        if told is None:
            return []
        used, free, _ = told
        return [
            ("glassbottom.malloc.memory", used, {"memory.state": "used"}),
            ("glassbottom.malloc.memory", free, {"memory.state": "free"}),
        ]

    def _read_stacks(self) -> list[Reading]:
        if self._core is None:
            return []
        with contextlib.suppress(OSError), (self._proc / "maps").open("rb") as file:
            ranges = stacks_in(file.read(MAPS_BYTES_MAX).decode(errors="replace"))
            return [("glassbottom.memory.stacks", self._core.memory_resident(ranges), {})]
        return []

    def _large(self) -> Iterator[Reading]:
        large = self._core.memory_large() if self._core is not None else None
        if large is not None:
            yield "glassbottom.heap.large", large[0], {}
            yield "glassbottom.heap.large_variance", large[1], {}


class _Costly:
    """Reads something at most so often that it takes COST_RATIO of the time; between, tells nothing."""

    def __init__(self, source: Callable[[], list[Reading]], every_s: float = 0.0) -> None:
        self._source = source
        self._every_s = every_s
        self._due_s = float("-inf")
        self.seconds_max = 0.0

    def read(self, now_s: float) -> list[Reading]:
        """now_s: monotonic."""
        if now_s < self._due_s:
            return []
        began_s = time.perf_counter()
        readings = self._source()
        took_s = time.perf_counter() - began_s
        self.seconds_max = max(self.seconds_max, took_s)
        wait_s = RETRY_S if took_s > SECONDS_MAX else max(self._every_s, took_s / COST_RATIO)
        self._due_s = now_s + wait_s * (1 - 1e-6)
        return readings


def pymalloc_parts(report: str) -> dict[str, float] | None:
    """Bytes in use and free in pymalloc's arenas, of CPython's report; None when it does not say."""
    arenas, allocated = _ARENAS.search(report), _ALLOCATED.search(report)
    if arenas is None or allocated is None:
        return None
    total = _whole(arenas[1]) * _whole(arenas[2])
    used = _whole(allocated[1])
    return {"used": used, "free": max(0.0, total - used)}


def _whole(text: str) -> float:
    return float(text.replace(",", ""))


def stacks_in(maps: str) -> list[tuple[int, int]]:
    """The main thread's stack, and what lies directly above a guard as the C library puts one below each stack."""
    found = []
    before_end, before_is_guard = 0, False
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        start_text, dash, end_text = fields[0].partition("-") if len(fields) >= 5 else ("", "", "")
        if not dash:
            continue
        start, end = int(start_text, 16), int(end_text, 16)
        name = fields[5].strip() if len(fields) > 5 else ""
        anonymous = not name or name.startswith("[anon")
        if name == "[stack]" or (
            before_is_guard and start == before_end and anonymous and fields[1].startswith("rw") and fields[4] == "0"
        ):
            found.append((start, end))
        before_end = end
        before_is_guard = anonymous and fields[1].startswith("---") and end - start <= GUARD_BYTES_MAX
    return found


def _collector() -> Iterator[Reading]:
    """Whether garbage in cycles is collected at all."""
    yield "glassbottom.gc.enabled", float(gc.isenabled()), {}
    yield "glassbottom.gc.frozen_objects", gc.get_freeze_count(), {}


def limits(meminfo: Path = Path("/proc/meminfo")) -> Iterator[Reading]:
    """What may end this process besides its control group: limits of its own, and the host."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        for kind, which in (("address_space", resource.RLIMIT_AS), ("data", resource.RLIMIT_DATA)):
            limit = resource.getrlimit(which)[0]
            if limit != resource.RLIM_INFINITY:
                yield "glassbottom.memory.limit", float(limit), {"limit.type": kind}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_bytes().splitlines():
            name, _, rest = line.partition(b":")
            if name == b"MemAvailable":
                yield "system.linux.memory.available", int(rest.split()[0]) * 1024, {}
            elif name == b"MemTotal":
                yield "system.memory.limit", int(rest.split()[0]) * 1024, {}
