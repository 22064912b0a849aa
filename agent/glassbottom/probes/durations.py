"""A histogram of durations for what happens a few times a second, in Python and as the native ones: scale 4, seconds.

OperationTable is for what happens a million times a second and keeps its slots for ever; these come and go with the
event loop or the coroutine function they belong to.
"""

from __future__ import annotations

from array import array
from math import ceil, log2
from typing import NamedTuple

INDEX_MIN, INDEX_MAX = -480, 159
"""As the native ones: one nanosecond to 18 minutes; what lasts longer counts in the last."""


class Taken(NamedTuple):
    """What was recorded; counts as in OperationRow."""

    number: int
    sum_ns: int
    min_ns: int
    max_ns: int
    offset: int
    counts: bytes


class Durations:
    """record() in one thread and take() in another: at worst what is recorded at that moment is lost."""

    __slots__ = ("_count", "_counts", "_max_ns", "_min_ns", "_sum_ns")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._count = 0
        self._sum_ns = 0
        self._min_ns = 0
        self._max_ns = 0

    def record(self, duration_ns: int) -> None:
        if duration_ns < 1:
            duration_ns = 1
        index = ceil(log2(duration_ns / 1e9) * 16) - 1
        if index < INDEX_MIN or index > INDEX_MAX:
            index = INDEX_MIN if index < INDEX_MIN else INDEX_MAX
        counts = self._counts
        counts[index] = counts.get(index, 0) + 1
        self._count += 1
        self._sum_ns += duration_ns
        if duration_ns > self._max_ns:
            self._max_ns = duration_ns
        if duration_ns < self._min_ns or self._count == 1:
            self._min_ns = duration_ns

    def take(self) -> Taken:
        """What was recorded since the last take(), and starts again from nothing."""
        counts, total = self._counts, (self._count, self._sum_ns, self._min_ns, self._max_ns)
        self._counts = {}
        self._count = self._sum_ns = self._min_ns = self._max_ns = 0
        if not counts:
            return Taken(0, 0, 0, 0, 0, b"")
        offset = min(counts)
        return Taken(*total, offset, array("I", [counts.get(i, 0) for i in range(offset, max(counts) + 1)]).tobytes())
