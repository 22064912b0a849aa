"""What resident memory consists of: the parts that the agent tells, made to add up.

    resident = python + pymalloc free + C heap + malloc free + stacks + mapped + files + shared

python: what pymalloc has in use, and the blocks above 512 bytes, which it has from malloc (estimated by the sampler).
C heap: what else malloc has in use. mapped: the anonymous rest. Allocators also count pages that nobody has touched
yet, so the rest may come out below nothing; it is shown as nothing then, and its growth judged with a bound to match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..model.heap import F64, I64
from ..model.leak import MemoryPart
from . import readings, trend
from .readings import Readings

PYTHON, PYMALLOC_FREE, C_HEAP, MALLOC_FREE = "python", "pymalloc free", "C heap", "malloc free"
STACKS, MAPPED, FILES, SHARED = "stacks", "mapped", "files", "shared"
NAMES = (PYTHON, PYMALLOC_FREE, C_HEAP, MALLOC_FREE, STACKS, MAPPED, FILES, SHARED)
POINTS_MAX = 60


@dataclass(frozen=True)
class Parts:
    """One process. at_ns, resident and each of `values`: (T,). large_variance: of Python's part of malloc, (T,).

    is_malloc_told, is_large_told: False where C heap cannot be told from what is free in it, or from Python's blocks.
    """

    instance_id: str
    at_ns: I64
    resident: F64
    values: Mapping[str, F64]
    large: F64
    large_variance: F64
    is_malloc_told: bool
    is_large_told: bool


def of(process: Readings, at_ns: I64 | None = None) -> Parts | None:
    """None when the agent does not tell parts. at_ns: when; None for every reading."""
    anonymous, used = process.get(readings.BEHIND, "anonymous"), process.get(readings.PYMALLOC, "used")
    resident = process.get(readings.RESIDENT)
    if anonymous is None or used is None or resident is None:
        return None
    times = anonymous.at_ns if at_ns is None else at_ns
    if not len(times):
        return None

    def at(name: str, attribute: str = "") -> F64:
        series = process.get(name, attribute)
        return np.zeros(len(times)) if series is None else series.at(times)

    malloc_used, large = at(readings.MALLOC, "used"), at(readings.LARGE)
    is_malloc_told = process.get(readings.MALLOC, "used") is not None
    if is_malloc_told:
        large = np.minimum(large, malloc_used)
    values = {
        PYTHON: at(readings.PYMALLOC, "used") + large,
        PYMALLOC_FREE: at(readings.PYMALLOC, "free"),
        C_HEAP: np.maximum(malloc_used - large, 0.0),
        MALLOC_FREE: at(readings.MALLOC, "free"),
        STACKS: at(readings.STACKS),
    }
    values[MAPPED] = anonymous.at(times) - sum(values.values(), np.zeros(len(times)))
    values[FILES], values[SHARED] = at(readings.BEHIND, "files"), at(readings.BEHIND, "shared")
    return Parts(
        process.instance_id,
        times,
        resident.at(times),
        values,
        large,
        at(readings.LARGE_VARIANCE),
        is_malloc_told,
        process.get(readings.LARGE) is not None,
    )


def summed(processes: Iterable[Parts]) -> tuple[MemoryPart, ...]:
    """Of a service, largest at the end first."""
    first, last, rate = (dict.fromkeys(NAMES, 0.0) for _ in range(3))
    some = False
    for process in processes:
        if len(process.at_ns) < 2:
            continue
        some = True
        picked = np.unique(np.linspace(0, len(process.at_ns) - 1, POINTS_MAX).round().astype(int))
        seconds = (process.at_ns[picked] - process.at_ns[0]) / 1e9
        for name, values in process.values.items():
            shown = np.maximum(values, 0.0)
            first[name] += float(shown[0])
            last[name] += float(shown[-1])
            rate[name] += float(trend.theil_sen(seconds, shown[picked][:, None])[0])
    if not some:
        return ()
    found = [MemoryPart(name, first[name], last[name], rate[name]) for name in NAMES if first[name] or last[name]]
    return tuple(sorted(found, key=lambda part: -part.last_bytes))
