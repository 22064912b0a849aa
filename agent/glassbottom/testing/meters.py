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
    """Readings of what is in use, over progress: calls made, or whatever rises. Memory: 4 arrays, made at once."""

    def __init__(self, readings_max: int = READINGS_MAX) -> None:
        self._max = readings_max
        self._progress = array("d", bytes(8 * readings_max))
        self._columns = {name: array("d", bytes(8 * readings_max)) for name in COLUMNS}
        self._count = 0
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._statm = Path("/proc/self/statm")

    def __len__(self) -> int:
        return self._count

    def read(self, progress: float) -> None:
        """Adds a reading. The garbage collector has run before, if it is on. When full, thins first."""
        if self._count == self._max:
            self.thin()
        small, arenas = _pymalloc()
        in_use, from_system = _malloc()
        at = self._count
        self._progress[at] = progress
        self._columns["small"][at] = small
        self._columns["malloc"][at] = in_use
        self._columns["elsewhere"][at] = self._resident() - arenas - from_system
        self._count += 1

    def thin(self) -> None:
        """Keeps every second reading."""
        kept = self._count // 2
        for column in (self._progress, *self._columns.values()):
            for i in range(kept):
                column[i] = column[2 * i]
        self._count = kept

    def since(self, progress: float) -> tuple[Sequence[float], dict[str, Sequence[float]]]:
        """(progress, values by column and "both", the sum of both allocators) of the readings from there on."""
        first = next((i for i in range(self._count) if self._progress[i] >= progress), self._count)
        columns: dict[str, Sequence[float]] = {
            name: column[first : self._count] for name, column in self._columns.items()
        }
        columns["both"] = [small + malloc for small, malloc in zip(columns["small"], columns["malloc"], strict=True)]
        return self._progress[first : self._count], columns

    def last_progress(self) -> float:
        """That of the last reading; 0.0 without one."""
        return self._progress[self._count - 1] if self._count else 0.0

    def in_use(self) -> float:
        """Bytes in use of both allocators at the last reading; 0.0 without one."""
        at = self._count - 1
        return self._columns["small"][at] + self._columns["malloc"][at] if self._count else 0.0

    def grown(self) -> float:
        """How much more than at the first reading."""
        return max(0.0, self.in_use() - self._columns["small"][0] - self._columns["malloc"][0])

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


def malloc_in_use() -> int:
    """Bytes in use of glibc's malloc; 0 where it is another one."""
    return _malloc()[0]


def _native_answer(name: str) -> object:
    try:
        from .. import _native
    except ImportError:
        return None
    function = getattr(_native, name, None)
    return function() if function is not None else None
