"""What memory is in use, read from the allocators themselves: to the byte, with what was there before.

Allocators know what is in use now, whoever allocated it and whenever, so a cache that replaces its oldest entry does
not seem to grow, as it would to a tool that sees only what is allocated after its start. The readings are kept in
arrays made beforehand: what measures must not grow with the number of measurements.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

COLUMNS = ("small", "malloc", "elsewhere")
READINGS_MAX = 1024
SMALL_BLOCK_BYTES = 64
"""Where pymalloc does not tell, its blocks are counted; most are about this long."""
_IN_BLOCKS = re.compile(r"# bytes in allocated blocks\s*=\s*([\d,]+)")
_IN_ARENAS = re.compile(r"arenas \* \d+ bytes/arena\s*=\s*([\d,]+)")


def collect() -> None:
    """Frees what only waits for the garbage collector, unless the program has turned that off: then it waits on."""
    if not gc_is_on():
        return
    for _ in range(3):
        # What finalizers let go of falls to the next round.
        if not gc.collect():
            return


def gc_is_on() -> bool:
    """Whether collections come by themselves."""
    return gc.isenabled() and gc.get_threshold()[0] > 0


class Meters:
    """Readings of what is in use, over calls made. Memory: 4 arrays of READINGS_MAX; the rest is thinned."""

    def __init__(self) -> None:
        self._calls = array("d", bytes(8 * READINGS_MAX))
        self._columns = {name: array("d", bytes(8 * READINGS_MAX)) for name in COLUMNS}
        self._count = 0
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._statm = Path("/proc/self/statm")

    def __len__(self) -> int:
        return self._count

    def read(self, calls: int) -> None:
        """Adds a reading. The garbage collector has run before, if it is on."""
        if self._count == READINGS_MAX:
            self._thin()
        small, arenas = _pymalloc()
        in_use, from_system = _malloc()
        at = self._count
        self._calls[at] = calls
        self._columns["small"][at] = small
        self._columns["malloc"][at] = in_use
        self._columns["elsewhere"][at] = self._resident() - arenas - from_system
        self._count += 1

    def since(self, calls: float) -> tuple[Sequence[float], dict[str, Sequence[float]]]:
        """(calls, values by column) of the readings from that many calls on."""
        first = next((i for i in range(self._count) if self._calls[i] >= calls), self._count)
        return self._calls[first : self._count], {
            name: column[first : self._count] for name, column in self._columns.items()
        }

    def in_use(self) -> float:
        """Bytes in use of both allocators at the last reading."""
        at = self._count - 1
        return self._columns["small"][at] + self._columns["malloc"][at]

    def _thin(self) -> None:
        for column in (self._calls, *self._columns.values()):
            for i in range(READINGS_MAX // 2):
                column[i] = column[2 * i]
        self._count = READINGS_MAX // 2

    def _resident(self) -> int:
        try:
            return int(self._statm.read_bytes().split()[1]) * self._page_bytes
        except (OSError, IndexError, ValueError):
            return 0


def _pymalloc() -> tuple[int, int]:
    """(bytes in blocks in use, bytes of arenas)."""
    report = _native_answer("memory_pymalloc")
    if isinstance(report, str):
        blocks, arenas = _IN_BLOCKS.search(report), _IN_ARENAS.search(report)
        if blocks is not None and arenas is not None:
            return int(blocks[1].replace(",", "")), int(arenas[1].replace(",", ""))
    counted = sys.getallocatedblocks() * SMALL_BLOCK_BYTES
    return counted, counted


def _malloc() -> tuple[int, int]:
    """(bytes in use, bytes it has from the system); zeros where malloc is not glibc's."""
    numbers = _native_answer("memory_malloc")
    return (int(numbers[0]), int(numbers[0]) + int(numbers[1])) if isinstance(numbers, tuple) else (0, 0)


def _native_answer(name: str) -> object:
    try:
        from .. import _native
    except ImportError:
        return None
    function = getattr(_native, name, None)
    return function() if function is not None else None
