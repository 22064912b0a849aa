"""Asks the C library to give its free memory back, and says how much that was: is resident memory held, or only kept?

What comes back was free all along: fragmentation, or slack after a peak. What stays is held by somebody. What is taken
again within the time watched was in use after all, so a trim would not help for long.
"""

from __future__ import annotations

import time
from pathlib import Path

from .. import _threads
from .._errors import CaptureError
from . import Made, Order, room

FREE_BYTES_MAX = 16 << 30
"""Giving back takes the locks of malloc's arenas for about a tenth of a second per GiB: threads that allocate wait."""
OTHERS = ("jemalloc", "tcmalloc", "mimalloc", "libhoard", "snmalloc")
MAPS = Path("/proc/self/maps")
MAPS_BYTES_MAX = 8 << 20


class TrimCapture:
    """`malloc_trim`: no file, only facts."""

    kind = "malloc_trim"

    def refusal(self, order: Order) -> str | None:  # noqa: ARG002 - it is the same for every order
        try:
            from .. import _native
        except ImportError as error:
            return f"This needs the native part of the agent, which cannot be loaded: {error}."
        if not _native.memory_can_trim():
            return "This process does not use glibc's malloc, and only that can be asked to give memory back."
        other = _other_allocator()
        if other is not None:
            return (
                f"{other} has taken malloc's place in this process, so what glibc keeps free says nothing; ask {other} "
                "for its own figures."
            )
        told = _native.memory_malloc()
        if told is not None and told[1] > FREE_BYTES_MAX:
            return (
                f"malloc keeps {told[1] / 2**30:.0f} GiB free, and giving that back would hold its locks for more than "
                "a second; restart the process instead, at a time that suits you."
            )
        return None

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:  # noqa: ARG002 - there is no file
        """Trims, then watches for order.seconds how much is taken again."""
        from .. import _native

        free_before = _free_bytes()
        before = room.resident_bytes()
        began_s = time.perf_counter()
        released = _native.memory_trim()
        took_s = time.perf_counter() - began_s
        if released is None:
            raise CaptureError("This process does not use glibc's malloc any more; nothing was given back.")
        after = room.resident_bytes()
        began_s = time.perf_counter()
        ending.wait(order.seconds)
        watched_s = time.perf_counter() - began_s
        later = room.resident_bytes()
        returned = max(0.0, before - after)
        facts: dict[str, float | str] = {
            "resident_before_bytes": before,
            "resident_after_bytes": after,
            "returned_bytes": returned,
            "returned_ratio": returned / before if before else 0.0,
            "trim_ms": took_s * 1000,
            "watched_s": watched_s,
            "taken_again_bytes": max(0.0, later - after),
        }
        if free_before is not None:
            facts["malloc_free_before_bytes"] = free_before
            facts["malloc_free_after_bytes"] = _free_bytes() or 0.0
        facts["reading"] = _reading(before, returned, max(0.0, later - after))
        return Made(None, facts)


def _reading(before: float, returned: float, taken_again: float) -> str:
    """What the numbers mean, in one sentence."""
    if returned < max(0.02 * before, 8 << 20):
        return "Next to nothing was free: what is resident is held, or kept by another allocator."
    if taken_again > 0.5 * returned:
        return "What came back was taken again at once: it is the room the process works in, not waste."
    return "malloc kept this memory although nobody used it: slack after a peak, or fragmentation."


def _free_bytes() -> float | None:
    from .. import _native

    told = _native.memory_malloc()
    return None if told is None else float(told[1])


def _other_allocator() -> str | None:
    """The name of a library that stands in for malloc, by what is mapped."""
    try:
        with MAPS.open("rb") as file:
            mapped = file.read(MAPS_BYTES_MAX).decode(errors="replace")
    except OSError:
        return None
    names = {line.rpartition("/")[2] for line in mapped.splitlines() if "/" in line}
    return next((other.removeprefix("lib") for other in OTHERS for name in names if other in name), None)
