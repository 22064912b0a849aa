"""How much memory this process has, and how much more it may take before something ends it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..probes.runtime_memory import ControlGroup

PROC = Path("/proc")


def resident_bytes(proc: Path = PROC) -> float:
    """Resident memory of this process; 0 where it is not told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return float(int((proc / "self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return 0.0


def left_ratio(proc: Path = PROC) -> float:
    """Share of memory that is still free: of the control group's limit or of the host, whichever is nearer its end.

    1.0 where neither is known.
    """
    return max(0.0, min((free / total for free, total in _limits(proc)), default=1.0))


def left_bytes(proc: Path = PROC) -> tuple[float, float]:
    """(bytes still free, of how many), of whichever of the two has fewer left; infinite where neither is known."""
    return min(_limits(proc), default=(float("inf"), float("inf")))


def _limits(proc: Path) -> list[tuple[float, float]]:
    """Free and in all: of the host, and of the control group if it has a limit."""
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
        kib = {fields[0].rstrip(":"): int(fields[1]) for fields in lines if len(fields) > 1}
        if kib["MemTotal"] > 0:
            found.append((kib["MemAvailable"] * 1024.0, kib["MemTotal"] * 1024.0))
    with contextlib.suppress(OSError, ValueError, KeyError):
        group = {name: value for name, value, _ in ControlGroup(proc / "self").read()}
        used = group.get("container.memory.working_set", group["container.memory.usage"])
        if group["container.memory.limit"] > 0:
            found.append((group["container.memory.limit"] - used, group["container.memory.limit"]))
    return found
