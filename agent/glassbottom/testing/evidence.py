"""Where what stays was allocated, of which types, and who keeps it: asked once an operation is known to leak.

The operation is called some more under tracemalloc, in some stretches of equal length. A place counts when what it
holds grew in each of them. What the allocators grow by beyond that was allocated by C code, which tracemalloc cannot
see.
"""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import types
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from .holders import Holder, Reached, is_ours, type_name
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
NAMES_MAX = 256
_ATOMS = {types.NoneType, bool}
_CODE = {
    type,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.ModuleType,
    types.WrapperDescriptorType,
}
_RUNNING = {types.FrameType, types.GeneratorType, types.CoroutineType}
_OURS = str(Path(__file__).parent)

Answer = TypeVar("Answer")
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
    with Tracing() as tracing:
        yield from call(max(STRETCH_CALLS_MIN, count // 4))
        tracing.read(0)
        for stretch in range(1, STRETCHES + 1):
            yield from call(count)
            tracing.read(stretch * count)
        return tracing.conclude(per_call)


class Tracing:
    """Stretches under tracemalloc, which may be on already and then stays on."""

    def __init__(self) -> None:
        self._was_on = tracemalloc.is_tracing()
        self._readings: list[tuple[float, Sizes]] = []
        if not self._was_on:
            tracemalloc.start(FRAMES)

    def __enter__(self) -> Tracing:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __len__(self) -> int:
        return len(self._readings)

    def length(self) -> float:
        """The progress of all stretches."""
        return self._readings[-1][0] - self._readings[0][0]

    def read(self, progress: float) -> None:
        """A stretch begins, the one before ends."""
        collect()
        statistics = tracemalloc.take_snapshot().statistics("traceback")
        sizes = {
            each.traceback: (each.size, each.count)
            for each in statistics
            if not each.traceback[-1].filename.startswith((_OURS, tracemalloc.__file__))
        }
        self._readings.append((progress, sizes))

    def conclude(self, rate: float) -> Growth:
        """Where it stays, and stops tracing. rate: bytes by which everything grows in one unit of progress."""
        growing = dict(_even_growth(self._readings))
        sites = _sites(growing)[:SITES_MAX]
        survivors = _shallow(lambda: _survivors({site.lines[0] for site in sites}))
        progress = self.length()
        self.stop()
        seen, holders = _with_holders(sites, survivors, progress)
        traced = sum(size for size, _ in growing.values())
        blocks = sum(number for _, number in growing.values())
        is_native = rate - traced - OVERHEAD_BYTES * blocks > rate / 2
        sentences = []
        if is_native:
            share = min(1.0, traced / rate)
            sentences.append(f"Python's allocators account for {share:.0%} of it; the rest was allocated by C code")
        # Only when all that has a holder is explained; a leak beside a cache is a leak.
        known = [holder for holder in holders if holder.text and not is_native]
        bounded = known[0].bounded if known and all(each.bounded for each in known) else ""
        pending = known[0].pending if known and all(each.pending for each in known) else ""
        return Growth(tuple(seen), is_native, tuple(sentences), bounded, pending)

    def stop(self) -> None:
        self._readings = []
        if not self._was_on:
            tracemalloc.stop()


def _even_growth(
    readings: list[tuple[float, Sizes]],
) -> Iterator[tuple[tracemalloc.Traceback, tuple[float, float]]]:
    """(call path, (bytes, blocks) per unit of progress) of those that grew in every stretch."""
    nothing = (0, 0)
    lengths = [after - before for (before, _), (after, _) in pairwise(readings)]
    for path in readings[-1][1]:
        seen = [sizes.get(path, nothing) for _, sizes in readings]
        rates = [(after - before) / by for ((before, _), (after, _)), by in zip(pairwise(seen), lengths, strict=True)]
        usual = median(rates)
        if usual > 0 and min(rates) >= EVEN_MIN * usual:
            numbers = zip(pairwise(seen), lengths, strict=True)
            yield path, (usual, median((after - before) / by for ((_, before), (_, after)), by in numbers))


def _sites(growing: dict[tracemalloc.Traceback, tuple[float, float]]) -> list[Site]:
    """By line that allocated, largest first."""
    sums: dict[Line, list[float]] = {}
    largest: dict[Line, tuple[float, tracemalloc.Traceback]] = {}
    for path, (size, number) in growing.items():
        line = (path[-1].filename, path[-1].lineno)
        total = sums.setdefault(line, [0.0, 0.0])
        total[0] += size
        total[1] += number
        if size > largest.get(line, (0.0, path))[0]:
            largest[line] = (size, path)
    found = []
    for line, (size, number) in sorted(sums.items(), key=lambda each: -each[1][0]):
        frames = [(frame.filename, frame.lineno) for frame in reversed(largest[line][1])]
        caller = caller_in_application(frames, _OURS)
        found.append(
            Site(
                describe(*line),
                size,
                number,
                called_from=describe(*caller) if caller is not None else "",
                lines=(line, caller) if caller is not None else (line,),
            )
        )
    return found


def _shallow(function: Callable[[], Answer]) -> Answer:
    """Its answer, from a thread: while tracemalloc runs, every object costs time by the depth of the stack that makes
    it. At the end of a program, when there are no more threads, from this one."""
    answers: list[Answer] = []

    def run() -> None:
        sys.settrace(None)  # somebody's, by threading.settrace()
        answers.append(function())

    thread = threading.Thread(target=run, name="glassbottom-evidence")
    try:
        thread.start()
        thread.join()
    except RuntimeError:
        return function()
    return answers[0] if answers else function()


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
    """Every object that the garbage collector knows, what these refer to, and what is in dicts it does not know; some
    more than once. Leaves out what is usually code. Makes few objects: each costs time while tracemalloc runs."""
    is_tracked = gc.is_tracked
    for each in gc.get_objects():
        yield each
        kind = type(each)
        if kind in _CODE or (kind in _RUNNING and is_ours(each)):
            continue
        # The keys of small dicts are names.
        held_by_it = each.values() if kind is dict and len(each) <= NAMES_MAX else gc.get_referents(each)
        for held in held_by_it:
            kind = type(held)
            if kind in _CODE or kind in _ATOMS or is_tracked(held):
                continue
            yield held
            if kind is dict or kind is tuple:
                yield from gc.get_referents(held)


def _with_holders(
    sites: list[Site], survivors: dict[Line, Survivors], progress: float
) -> tuple[list[Site], list[Holder]]:
    reached = Reached([survivors, *(each.examples for each in survivors.values())])
    seen, holders = [], []
    for site in sites:
        of_line = survivors[site.lines[0]]
        common = of_line.sizes.most_common(TYPES_MAX)
        holder = reached.holder_of(of_line.examples[common[0][0]]) if common else Holder("")
        holders.append(holder)
        shares = tuple((name, size / progress) for name, size in common)
        seen.append(replace(site, types=shares, holder=holder.text))
    reached.forget()
    return seen, holders
