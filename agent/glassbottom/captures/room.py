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
    ratios = [1.0]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
        kib = {fields[0].rstrip(":"): int(fields[1]) for fields in lines if len(fields) > 1}
        ratios.append(kib["MemAvailable"] / kib["MemTotal"])
    with contextlib.suppress(OSError, ValueError, KeyError, ZeroDivisionError):
        group = {name: value for name, value, _ in ControlGroup(proc / "self").read()}
        used = group.get("container.memory.working_set", group["container.memory.usage"])
        ratios.append(1.0 - used / group["container.memory.limit"])
    return max(0.0, min(ratios))
