"""How long the garbage collector stops the process, by generation, and who makes it run.

gc.callbacks tells of every collection, in the thread that set it off, before and after. What runs there must be quick
and must take no lock: a collection can begin inside any allocation, so also under a lock that its thread already holds.
Counters are therefore plain numbers, which is enough: while one collection runs no other begins.

CPython makes a dictionary and two calls for each collection that somebody wants to hear of, about two microseconds. A
program that makes thousands of small objects a second collects as often. Where that would cost more than a thousandth
of the time, and more than a twentieth of the collections themselves, only intervals drawn at random are heard; what
passed in the others is reckoned from how many collections there were, which CPython counts, and how long each took
when they were heard.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from .observations import Observation

Reading = tuple[str, float, Mapping[str, str]]
Path = tuple[tuple[CodeType, int], ...]

GENERATIONS = 3
RATIO_TOLD = 0.05
"""Share of time in collections from which on it is told where they begin."""
LONG_NS = 2_000_000
"""Where so long a collection began is looked up each time: that takes a two-hundredth of it."""
LOOK_EVERY_NS = 20_000_000
"""Where shorter ones began, at most so often, and only while collections take a large share."""
HEARING_NS = 2_000
"""What hearing of one collection costs: measured 1.5 to 4 us."""
HEARING_RATIO_MAX = 0.001
HEARING_SHARE_MAX = 0.05
"""Of the time, and of the collections' own, that may go into hearing; the larger counts."""
HEARD_SHARE_MIN = 0.02
FRAMES_MAX = 64
PATHS_MAX = 64
PATHS_TOLD = 3


class Collections:
    """Cumulative pauses, and while they are a burden the call paths in which they began."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - chooses what is heard, guards no secret
        self._hears = True
        self._mean_ns = [0.0] * GENERATIONS
        self.unheard = 0
        """Intervals in which pauses were reckoned, not measured."""
        self.pause_ns = [0] * GENERATIONS
        self.pause_ns_max = [0] * GENERATIONS
        self.lost = 0
        """Times another tool emptied gc.callbacks."""
        self._began_ns = 0
        self._armed = False
        self._looked_ns = 0
        self._paths: dict[tuple[int, tuple[tuple[int, int], ...]], _Begun] = {}
        self._told_ns = [0] * GENERATIONS
        self._told_at_ns = time.perf_counter_ns()
        self._told_collections = [0] * GENERATIONS
        self._callback = self._called
        """One object, so that it is found in the list again."""

    def start(self) -> None:
        self._told_at_ns = time.perf_counter_ns()
        self._told_collections = [counts["collections"] for counts in gc.get_stats()]
        for callback in list(gc.callbacks):  # in a forked child there is the parent's
            if isinstance(getattr(callback, "__self__", None), Collections):
                gc.callbacks.remove(callback)
        gc.callbacks.append(self._callback)

    def stop(self) -> None:
        if self._callback in gc.callbacks:
            gc.callbacks.remove(self._callback)

    def _called(self, phase: str, info: Mapping[str, Any]) -> None:
        now_ns = time.perf_counter_ns()
        if phase == "start":
            self._began_ns = now_ns
            return
        began_ns, self._began_ns = self._began_ns, 0
        if not began_ns:  # we came in the middle of it
            return
        pause_ns, generation = now_ns - began_ns, min(info["generation"], GENERATIONS - 1)
        self.pause_ns[generation] += pause_ns
        if pause_ns > self.pause_ns_max[generation]:
            self.pause_ns_max[generation] = pause_ns
        if pause_ns >= LONG_NS or (self._armed and now_ns - self._looked_ns >= LOOK_EVERY_NS):
            self._looked_ns = now_ns
            self._keep(generation, path_of(sys._getframe().f_back), pause_ns)

    def _keep(self, generation: int, path: Path, pause_ns: int) -> None:
        # By the ids of code objects, which stay theirs while the path is kept: to hash one takes a microsecond.
        key = (generation, tuple((id(code), offset) for code, offset in path))
        known = self._paths.get(key)
        if known is not None:
            known.pause_ns += pause_ns
            known.count += 1
        elif len(self._paths) < PATHS_MAX:
            self._paths[key] = _Begun(generation, path, pause_ns)

    def read(self, at_ns: int) -> tuple[list[Reading], list[Observation]]:
        """at_ns: Unix epoch. Metrics, and what there is to tell of the time since the last read()."""
        if self._hears and self._callback not in gc.callbacks:
            self.lost += 1
        now_ns = time.perf_counter_ns()
        elapsed_ns, self._told_at_ns = max(1, now_ns - self._told_at_ns), now_ns
        stats = gc.get_stats()
        collections = [counts["collections"] for counts in stats]
        begun = [now - before for now, before in zip(collections, self._told_collections, strict=True)]
        self._told_collections = collections
        self._reckon(begun)
        paused_ns = list(self.pause_ns)
        spent_ns = [now - before for now, before in zip(paused_ns, self._told_ns, strict=True)]
        self._told_ns = paused_ns
        paths, self._paths = self._paths, {}
        ratio = sum(spent_ns) / elapsed_ns
        self._hear(sum(begun) * HEARING_NS / elapsed_ns, ratio)
        self._armed = ratio > RATIO_TOLD
        told = list(_observations(at_ns, list(paths.values()), spent_ns, begun, ratio)) if self._armed else []
        return list(self._readings(stats, ratio)), told

    def _reckon(self, begun: list[int]) -> None:
        """Keeps how long a collection takes, or, of an interval that was not heard, uses it."""
        for generation, count in enumerate(begun):
            if not self._hears:
                self.pause_ns[generation] += round(count * self._mean_ns[generation])
            elif count > 0:
                spent_ns = self.pause_ns[generation] - self._told_ns[generation]
                self._mean_ns[generation] = spent_ns / count
        self.unheard += not self._hears

    def _hear(self, cost_ratio: float, ratio: float) -> None:
        """Decides whether the next interval is heard. cost_ratio: what that would take if it is like the last."""
        allowed = max(HEARING_RATIO_MAX, HEARING_SHARE_MAX * ratio)
        share = 1.0 if cost_ratio <= allowed else max(HEARD_SHARE_MIN, allowed / cost_ratio)
        self._hears = self._rng.random() < share
        if not self._hears:
            self.stop()
        elif self._callback not in gc.callbacks:
            self._began_ns = 0
            gc.callbacks.append(self._callback)

    def _readings(self, stats: list[dict[str, Any]], ratio: float) -> Iterator[Reading]:
        for generation, counts in enumerate(stats):
            attributes = {"cpython.gc.generation": str(generation)}
            yield "cpython.gc.collections", counts["collections"], attributes
            yield "cpython.gc.collected_objects", counts["collected"], attributes
            yield "cpython.gc.uncollectable_objects", counts["uncollectable"], attributes
            yield "cpython.gc.pause_time", self.pause_ns[generation] / 1e9, attributes
            yield "glassbottom.gc.pause_max", self.pause_ns_max[generation] / 1e9, attributes
            self.pause_ns_max[generation] = 0
        yield "glassbottom.gc.pause_ratio", ratio, {}


@dataclass(slots=True)
class _Begun:
    """Collections that began in one call path, of those that were looked at."""

    generation: int
    path: Path
    pause_ns: int
    count: int = 1


def _observations(
    at_ns: int, paths: list[_Begun], spent_ns: list[int], begun: list[int], ratio: float
) -> Iterator[Observation]:
    """The heaviest paths of each generation, each with the share of the whole that it has of what was looked at."""
    for generation in range(GENERATIONS):
        seen = sorted((each for each in paths if each.generation == generation), key=lambda each: -each.pause_ns)
        looked_ns, looked = sum(each.pause_ns for each in seen), sum(each.count for each in seen)
        for each in seen[:PATHS_TOLD]:
            yield Observation(
                at_ns=at_ns,
                kind="gc.pause",
                name=str(generation),
                value=spent_ns[generation] / 1e9 * each.pause_ns / looked_ns,
                count=max(1, round(begun[generation] * each.count / looked)),
                path=each.path,
                attributes={"gc.pause_ratio": f"{ratio:.3f}"},
            )


def path_of(frame: FrameType | None) -> Path:
    """(code, byte offset) of a frame and those that called it, innermost first."""
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < FRAMES_MAX:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)
