"""Whether what grows can be garbage: objects in cycles live until a full collection comes to them.

What was there before a full collection and is there after it, something refers to. So a leak that went on growing
through one is reachable, and a leak in a process that never collects may be nothing but garbage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..model.leak import Evidence, LeakKind
from ..model.process import Span
from . import readings
from .readings import Readings
from .wording import time_text

FULL = "2"
# A collection this early in the evidence says little about the growth after it.
EARLY_SHARE = 0.25


def kind_of(
    processes: Mapping[str, Readings], instance_ids: Iterable[str], evidence: Span
) -> tuple[LeakKind, Evidence | None]:
    """Reachable or garbage, for what grows in these processes during the evidence; None when nothing is told."""
    last_ns, count, told, off = 0, 0, False, True
    for instance in instance_ids:
        process = processes.get(instance)
        collections = None if process is None else process.get(readings.GC_COLLECTIONS, FULL)
        enabled = None if process is None else process.get(readings.GC_ENABLED)
        if collections is None:
            continue
        told = True
        rises = np.flatnonzero(np.diff(collections.values) > 0) + 1
        # The collection was at some time since the reading before.
        at_ns = collections.at_ns[rises - 1]
        inside = (at_ns >= evidence.from_ns) & (at_ns < evidence.to_ns)
        count += int(np.diff(collections.values)[rises - 1][inside].sum())
        if inside.any():
            last_ns = max(last_ns, int(at_ns[inside].max()))
        off = off and enabled is not None and float(enabled.values[-1]) == 0.0
    if not told:
        return LeakKind.REACHABLE, None
    if count and last_ns - evidence.from_ns >= EARLY_SHARE * (evidence.to_ns - evidence.from_ns):
        return LeakKind.REACHABLE, Evidence(
            "kind",
            True,
            f"{count} full collection{' was' if count == 1 else 's were'} made meanwhile, the last "
            f"{time_text((evidence.to_ns - last_ns) / 1e9)} before the end, and what had grown until then stayed: "
            "something refers to it.",
        )
    if off:
        return LeakKind.GARBAGE, Evidence(
            "kind",
            True,
            "The garbage collector is switched off (gc.disable) and no full collection was made: what is in cycles "
            "stays, also when nothing refers to it. `glassbottom dump gc` collects once; what is still there then is "
            "reachable.",
        )
    return LeakKind.REACHABLE, Evidence(
        "kind",
        False,
        f"{'Only an early' if count else 'No'} full collection was made meanwhile, so a part of it may be garbage in "
        "cycles that waits for one; `glassbottom dump gc` tells.",
    )
