"""Where what stays was allocated, of which types, and who keeps it: asked once an operation is known to leak.

The operation is called some more under tracemalloc, in some stretches of equal length. A place counts when what it
holds grew in each of them. What the allocators grow by beyond that was allocated by C code, which tracemalloc cannot
see.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
import types
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from .holders import Holder, Reached, is_ours, referents, type_name
from .meters import collect
from .places import caller_in_application, describe
from .verdict import Site

if TYPE_CHECKING:
    from .rounds import Calls, Pause

FRAMES = 16
STRETCHES = 5
STRETCH_S = 0.15
STRETCH_CALLS_MIN = 20
STRETCH_CALLS_MAX = 500
SITES_MAX = 5
TYPES_MAX = 3
EVEN_MIN = 0.5
"""Of its usual growth, what a place must have grown by in every stretch. The usual one is the median: a table that is
made anew in one stretch, twice as large, says nothing about a call."""
OVERHEAD_BYTES = 24
"""What an allocator adds to a block at most, by rounding and its own header."""
EXAMPLES = (1, 10, 100)
"""Which objects of a type are asked who keeps them, by when they are met."""
_UNINTERESTING = {types.NoneType, bool, type, types.CodeType, types.FunctionType, types.ModuleType}
_RUNNING = {types.FrameType, types.GeneratorType, types.CoroutineType}
_OURS = str(Path(__file__).parent)

Caller = Callable[[int], "Generator[Calls | Pause, None, None]"]
Line = tuple[str, int]
Sizes = dict[tracemalloc.Traceback, tuple[int, int]]


@dataclass(frozen=True)
class Growth:
    """What stays. bounded, pending: what explains it without a leak, else ""; see Holder."""

    sites: tuple[Site, ...]
    is_native: bool
    sentences: tuple[str, ...] = ()
    bounded: str = ""
    pending: str = ""


def find(per_call: float, seconds_per_call: float, call: Caller) -> Generator[Calls | Pause, None, Growth]:
    """Calls the operation some more, by call(count), and looks where the per_call bytes of each call stay."""
    count = max(STRETCH_CALLS_MIN, min(STRETCH_CALLS_MAX, int(STRETCH_S / max(seconds_per_call, 1e-6))))
    was_on = tracemalloc.is_tracing()
    if not was_on:
        tracemalloc.start(FRAMES)
    try:
        yield from call(max(STRETCH_CALLS_MIN, count // 4))
        readings = [_read()]
        for _ in range(STRETCHES):
            yield from call(count)
            readings.append(_read())
        growing = dict(_even_growth(readings, count))
        sites = _sites(growing)[:SITES_MAX]
        traced = sum(size for size, _ in growing.values())
        blocks = sum(number for _, number in growing.values())
        unseen = per_call - traced - OVERHEAD_BYTES * blocks
        is_native = unseen > per_call / 2
        # In a thread: while tracemalloc runs, every object costs time by the depth of the stack that makes it.
        with ThreadPoolExecutor(1) as pool:
            survivors = pool.submit(_survivors, {line for _, line in sites}).result()
    finally:
        if not was_on:
            tracemalloc.stop()
    seen, holders = _with_holders(sites, survivors, count * STRETCHES)
    sentences = []
    if is_native:
        sentences.append(
            f"Python's allocators account for {traced:.0f} of {per_call:.0f} bytes per call; the rest was allocated "
            f"by C code"
        )
    # Only when all that has a holder is explained; a leak beside a cache is a leak.
    known = [holder for holder in holders if holder.text]
    bounded = known[0].bounded if known and not is_native and all(each.bounded for each in known) else ""
    pending = known[0].pending if known and not is_native and all(each.pending for each in known) else ""
    return Growth(tuple(seen), is_native, tuple(sentences), bounded, pending)


def _read() -> Sizes:
    collect()
    statistics = tracemalloc.take_snapshot().statistics("traceback")
    return {
        each.traceback: (each.size, each.count)
        for each in statistics
        if not each.traceback[-1].filename.startswith((_OURS, tracemalloc.__file__))
    }


def _even_growth(readings: list[Sizes], count: int) -> Iterator[tuple[tracemalloc.Traceback, tuple[float, float]]]:
    """(call path, (bytes, blocks) per call) of those that grew in every stretch."""
    nothing = (0, 0)
    for path in readings[-1]:
        seen = [reading.get(path, nothing) for reading in readings]
        sizes = [after - before for (before, _), (after, _) in pairwise(seen)]
        usual = median(sizes)
        if usual > 0 and min(sizes) >= EVEN_MIN * usual:
            blocks = median(after - before for (_, before), (_, after) in pairwise(seen))
            yield path, (usual / count, blocks / count)


def _sites(growing: dict[tracemalloc.Traceback, tuple[float, float]]) -> list[tuple[Site, Line]]:
    """By line that allocated, largest first, with the line."""
    sums: dict[tuple[str, int], list[float]] = {}
    largest: dict[tuple[str, int], tuple[float, tracemalloc.Traceback]] = {}
    for path, (size, number) in growing.items():
        line = (path[-1].filename, path[-1].lineno)
        total = sums.setdefault(line, [0.0, 0.0])
        total[0] += size
        total[1] += number
        if size > largest.get(line, (0.0, path))[0]:
            largest[line] = (size, path)
    found = []
    for line, (size, number) in sorted(sums.items(), key=lambda each: -each[1][0]):
        site = Site(describe(*line), size, number)
        if line in largest:
            frames = [(frame.filename, frame.lineno) for frame in reversed(largest[line][1])]
            site = replace(site, called_from=caller_in_application(frames, _OURS))
        found.append((site, line))
    return found


@dataclass(frozen=True)
class Survivors:
    """Objects that are still there, of one line. sizes: bytes by type. examples: some of each type."""

    sizes: Counter[str]
    numbers: Counter[str]
    examples: dict[str, object]


def _survivors(lines: set[Line]) -> dict[Line, Survivors]:
    """What is still there of what these lines have allocated since tracing began."""
    found = {line: Survivors(Counter(), Counter(), {}) for line in lines}
    met: set[int] = set()
    born_at = tracemalloc.get_object_traceback
    for each in _objects():
        born = born_at(each)
        if born is None or (born[-1].filename, born[-1].lineno) not in lines or id(each) in met:
            continue
        met.add(id(each))
        of_line, name = found[born[-1].filename, born[-1].lineno], type_name(type(each))
        of_line.sizes[name] += sys.getsizeof(each, 0)
        of_line.numbers[name] += 1
        # Neither the first, which may belong to warm-up, nor the last, which may be still in use.
        if of_line.numbers[name] in EXAMPLES:
            of_line.examples[name] = each
    return found


def _objects() -> Iterator[object]:
    """Every object that the garbage collector knows, what these refer to, and what is in dicts it does not know;
    some more than once. Makes as few objects as possible: each costs time while tracemalloc runs."""
    for each in gc.get_objects():
        yield each
        if type(each) in _RUNNING and is_ours(each):
            continue
        for held in referents(each):
            kind = type(held)
            if kind in _UNINTERESTING or gc.is_tracked(held):
                continue
            yield held
            if kind is dict or kind is tuple:
                yield from gc.get_referents(held)


def _with_holders(
    sites: list[tuple[Site, Line]], survivors: dict[Line, Survivors], calls: int
) -> tuple[list[Site], list[Holder]]:
    reached = Reached([survivors, *(each.examples for each in survivors.values())])
    seen, holders = [], []
    for site, line in sites:
        common = survivors[line].sizes.most_common(TYPES_MAX)
        examples = survivors[line].examples
        holder = reached.holder_of(examples[common[0][0]]) if common else Holder("")
        holders.append(holder)
        shares = tuple((name, size / calls) for name, size in common)
        seen.append(replace(site, types=shares, holder=holder.text))
    return seen, holders
