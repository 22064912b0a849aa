"""How many objects there are of each type, counted within the process: for where no copy of it can be made.

The collector's list of objects is taken once, which holds the interpreter for some ten milliseconds per million of
them; the rest is done in small steps, with the interpreter free for others between them. Objects are kept alive only
until their step is done. No code of the application's is called: types are asked by `type` itself, and sizes only of
objects whose type is built in.

Text, numbers and whatever else cannot refer to anything is on no list. It is met through one in so many objects that
refer to it. Seen that way, an object that k others refer to is met k times, so it counts as one kth each time: on
average as one. There are no references here, so no retained sizes and no holders.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterable
from types import GetSetDescriptorType

from .. import _threads
from . import Made

STEP_OBJECTS = 5000
REST_S = 0.002
OBJECTS_MAX = 20_000_000
SAMPLED = 20
"""One in so many objects is asked what it refers to."""
REFERENCES_MAX = 1000
"""Of one object, so many are looked at."""
TYPES_SHOWN = 30
TYPES_MAX = 20_000
HEAP_TYPE = 1 << 9
HAS_GC = 1 << 14
OWN_REFERENCES = 3
"""What sys.getrefcount() counts that is ours: its argument, the loop's variable, the list of references."""

Counts = dict[type, list[float]]
"""Objects and bytes."""

_basicsize: GetSetDescriptorType = type.__dict__["__basicsize__"]
_flags: GetSetDescriptorType = type.__dict__["__flags__"]
_module: GetSetDescriptorType = type.__dict__["__module__"]
_qualname: GetSetDescriptorType = type.__dict__["__qualname__"]


def refusal() -> str | None:
    """Why it must not be done now; None when it may."""
    blocks = sys.getallocatedblocks()
    if blocks > 4 * OBJECTS_MAX:
        return (
            f"This process has {blocks / 1e6:.0f} million blocks of memory in use, and listing its objects would "
            "hold its interpreter for too long."
        )
    return None


def count(seconds_max: float, ending: _threads.Event, seed: int | None = None) -> Made:
    """Facts and no file: `objects`, `bytes`, and the largest types as `01 app.Session`: "18204 objects, 1.1 MiB".

    Ends early, and says so, when `ending` is set or the time is over. seconds_max: of counting.
    """
    began_s = time.perf_counter()
    objects = gc.get_objects()
    listed_s = time.perf_counter() - began_s
    listed = len(objects)
    counts: Counts = {}
    draw = random.Random(seed).random  # noqa: S311 - nothing secret
    end = "complete"
    while objects:
        step = objects[-STEP_OBJECTS:]
        del objects[-STEP_OBJECTS:]
        add(counts, step, draw)
        del step
        if ending.wait(REST_S) or time.perf_counter() - began_s > seconds_max:
            end = f"cut off: {len(objects)} objects were not looked at"
            break
    objects.clear()
    facts: dict[str, float | str] = {
        "end": end,
        "pause_ms": listed_s * 1000,
        "seconds": time.perf_counter() - began_s,
        "listed_objects": float(listed),
        "objects": round(sum(number for number, _ in counts.values())),
        "bytes": round(sum(size for _, size in counts.values())),
    }
    largest = sorted(counts.items(), key=lambda item: -item[1][1])[:TYPES_SHOWN]
    for place, (which, (number, size)) in enumerate(largest, 1):
        facts[f"{place:02} {name_of(which)}"] = f"{number:.0f} objects, {size / 1024:.0f} KiB"
    return Made(None, facts)


def add(counts: Counts, step: Iterable[object], draw: Callable[[], float]) -> None:
    """Adds these objects, and what one in SAMPLED of them refers to, drawn by chance: objects of one kind often come in
    turns with those of another."""
    for each in step:
        _one(counts, each, 1.0)
        if draw() * SAMPLED >= 1.0:
            continue
        references = gc.get_referents(each)
        del references[REFERENCES_MAX:]
        for found in references:
            if not gc.is_tracked(found):
                referred = max(1, sys.getrefcount(found) - OWN_REFERENCES)
                _one(counts, found, SAMPLED / referred)


def _one(counts: Counts, each: object, weight: float) -> None:
    which = type(each)
    entry = counts.get(which)
    if entry is None:
        if len(counts) >= TYPES_MAX:
            which = object
        entry = counts.setdefault(which, [0.0, 0.0])
    entry[0] += weight
    entry[1] += weight * _size(each, which)


def _size(each: object, which: type) -> float:
    """What Python says of a type that is built in; of others their fixed part, since __sizeof__ may be theirs."""
    if _flags.__get__(which) & HEAP_TYPE:
        return float(_basicsize.__get__(which) + (16 if _flags.__get__(which) & HAS_GC else 0))
    return float(sys.getsizeof(each))


def name_of(which: type) -> str:
    """module.qualname, asked of `type` itself, since a metaclass may answer differently."""
    try:
        module, qualname = _module.__get__(which), _qualname.__get__(which)
    except (AttributeError, TypeError):
        return "<unnamed>"
    if not isinstance(module, str) or module == "builtins":
        return str(qualname)
    return f"{module}.{qualname}"
