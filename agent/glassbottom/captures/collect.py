"""Collects garbage now, completely, and watches what grows afterwards: was it garbage in cycles that filled memory?

What a collection frees was referred to by nobody but itself. If resident memory then grows as before, and the next
collection frees as much again, the process makes cycles faster than the collector comes by; if nothing was freed, what
grows is held. Finalizers and callbacks of what is freed run here, in the capture's thread, as they would in any other
thread that happened to set off a collection.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .. import _threads
from . import Made, Order, room

PAUSE_MS_MAX = 500.0
"""The interpreter is held for the whole of a collection. Another bound is given by the option pause_ms_max."""
NS_PER_BLOCK = 90.0
"""A full collection of small objects, per block of memory in use, on a machine that is neither new nor old."""
READINGS = 20


class CollectCapture:
    """`gc_collect`: no file, only facts."""

    kind = "gc_collect"

    def refusal(self, order: Order) -> str | None:
        try:
            bound_ms = float(order.options.get("pause_ms_max", PAUSE_MS_MAX))
        except ValueError:
            return f"The option pause_ms_max is {order.options['pause_ms_max']!r}, which is no number of milliseconds."
        blocks = sys.getallocatedblocks()
        expected_ms = blocks * NS_PER_BLOCK / 1e6
        if expected_ms > bound_ms:
            return (
                f"This process has {blocks / 1e6:.1f} million blocks in use, so a full collection may hold its "
                f"interpreter for {expected_ms:.0f} ms, and {bound_ms:.0f} ms are allowed; allow more with the option "
                "pause_ms_max."
            )
        return None

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:  # noqa: ARG002 - there is no file
        """Collects, then reads for order.seconds how memory grows."""
        facts: dict[str, float | str] = {
            "gc_enabled": float(gc.isenabled()),
            "gc_frozen_objects": float(gc.get_freeze_count()),
            "gc_waiting_objects": float(sum(gc.get_count())),
        }
        resident, blocks = room.resident_bytes(), sys.getallocatedblocks()
        uncollectable = len(gc.garbage)
        began_s = time.perf_counter()
        found = gc.collect()
        pause_s = time.perf_counter() - began_s
        times, residents, counts = [time.perf_counter()], [room.resident_bytes()], [float(sys.getallocatedblocks())]
        facts |= {
            "pause_ms": pause_s * 1000,
            "collected_objects": float(found),
            "uncollectable_objects": float(len(gc.garbage) - uncollectable),
            "freed_blocks": float(blocks - counts[0]),
            "freed_resident_bytes": resident - residents[0],
            "resident_after_bytes": residents[0],
        }
        collections = _full_collections()
        while times[-1] - times[0] < order.seconds and not ending.wait(order.seconds / READINGS):
            times.append(time.perf_counter())
            residents.append(room.resident_bytes())
            counts.append(float(sys.getallocatedblocks()))
        facts |= {
            "watched_s": times[-1] - times[0],
            "grown_blocks_per_s": slope(times, counts),
            "grown_resident_bytes_per_s": slope(times, residents),
            "full_collections_meanwhile": float(_full_collections() - collections),
        }
        return Made(None, facts)


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Least squares, per second; 0 of fewer than two readings."""
    count = len(times)
    middle = sum(times) / count
    spread = sum((each - middle) ** 2 for each in times)
    if spread <= 0:
        return 0.0
    return sum((at - middle) * value for at, value in zip(times, values, strict=True)) / spread


def _full_collections() -> int:
    return int(gc.get_stats()[-1]["collections"])
