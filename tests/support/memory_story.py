"""A process that lives one of some stories, and tells after each chapter what the runtime probe would: one JSON line.

    python -m tests.support.memory_story native 60

Every chapter stands for ten seconds. The heap is sampled, as under an agent.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import random
import sys
import threading
from collections.abc import Callable

from glassbottom import _native
from glassbottom.probes.runtime_memory import memory
from glassbottom.probes.runtime_split import Split, load

PER_CHAPTER = 20
KEPT: list[object] = []
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]
RNG = random.Random(1)


def native() -> None:
    """A library that loses 4 000 bytes each time."""
    LIBC.malloc(4000)


def untouched() -> None:
    """A library that loses 40 000 bytes each time, of which it has used a page."""
    ctypes.memset(LIBC.malloc(40_000), 1, 4000)


def objects() -> None:
    """Small objects, and large ones, that something keeps."""
    KEPT.append([{"n": number} for number in range(20)])
    KEPT.append(bytearray(30_000))


def mappings() -> None:
    """Anonymous memory past every allocator."""
    held = mmap.mmap(-1, 64 << 10, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * len(held))
    KEPT.append(held)


def holes() -> None:
    """Ever higher peaks of C blocks, given back all but the topmost one: free memory that malloc keeps."""
    KEPT.append(None)
    if len(KEPT) % PER_CHAPTER:
        return
    peak = [LIBC.malloc(30_000) for _ in range(2 * len(KEPT))]
    for address in peak:
        ctypes.memset(address, 1, 30_000)
    TOPMOST.append(peak.pop())
    for address in [*peak, *TOPMOST[:-1]]:
        LIBC.free(address)
    del TOPMOST[:-1]


TOPMOST: list[int] = []


def temporaries() -> None:
    """Much is allocated and freed, of every size; nothing stays."""
    some = [bytearray(RNG.randrange(100, 40_000)) for _ in range(20)]
    blocks = [LIBC.malloc(RNG.randrange(100, 40_000)) for _ in range(20)]
    for block in blocks:
        LIBC.free(block)
    del some


def idle() -> None:
    """Nothing."""


STORIES: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (native, untouched, objects, mappings, holes, temporaries, idle)
}


def main(story: str, chapters: int) -> None:
    # Densely, since each small block that is sampled is taken from malloc, and must not look like a C library's.
    _native.start(interval_bytes=8192.0, window_share=1.0)
    windows = threading.Thread(target=_native.run_windows, args=(3600.0,))
    windows.start()
    split = Split(load())
    for chapter in range(chapters):
        for _ in range(PER_CHAPTER):
            STORIES[story]()
        _native.snapshot()
        told = [*memory(), *split.read(100.0 * (chapter + 1))]
        print(json.dumps([[name, value, dict(attributes)] for name, value, attributes in told]), flush=True)
    _native.interrupt()
    windows.join()
    _native.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
