"""A service's memory over time, on evenly spaced moments. Pure functions over what the reader gave.

Each point is what was known just before the end of its step: the last reading of each process, as long as that
process was still sending. A process that fell silent leaves the sums after three of its usual intervals, so a crash
shows as a drop and not as a plateau; where no process was sending, the value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np
from glassbottom.wire.v1 import query_pb2
from numpy.typing import NDArray

from ..model.code import Frame
from ..model.heap import F64, I64, HeapSeries, MetricPoint, SnapshotHeader
from ..model.process import Span
from .heap_views import frame_message

POINTS = 60
POINTS_MAX = 10_000
SITES_MAX = 50
_SILENT_INTERVALS = 3
_SILENT_NS_MIN = 30 * 10**9


def ends_of(within: Span, points: int) -> I64:
    """Ends of evenly spaced steps over a range."""
    steps = np.arange(1, points + 1) * ((within.to_ns - within.from_ns) / points)
    ends: I64 = within.from_ns + steps.astype(np.int64)
    return ends


def starts_of(within: Span, points: int) -> list[int]:
    """Starts of the same steps."""
    return [within.from_ns + (within.to_ns - within.from_ns) * point // points for point in range(points)]


def live_and_instances(headers: Sequence[SnapshotHeader], ends: I64) -> tuple[F64, F64]:
    """Sum of live bytes over processes, and how many there are, at each end."""
    live, instances = np.full(len(ends), math.nan), np.zeros(len(ends))
    for _, group in groupby(headers, key=lambda header: header.instance_id):
        mine = list(group)
        at_ns = np.array([header.at_ns for header in mine], dtype=np.int64)
        _add(live, instances, at_ns, np.array([header.live_bytes for header in mine]), ends)
    instances[np.isnan(live)] = math.nan
    return live, instances


def resident(points: Mapping[str, Sequence[MetricPoint]], ends: I64) -> F64:
    """Sum of `process.memory.usage` over processes at each end."""
    total, count = np.full(len(ends), math.nan), np.zeros(len(ends))
    for mine in points.values():
        at_ns = np.array([point.at_ns for point in mine], dtype=np.int64)
        _add(total, count, at_ns, np.array([point.value for point in mine]), ends)
    return total


def sites(all_series: Iterable[HeapSeries], stacks_of: Mapping[Frame, set[int]], ends: I64) -> list[tuple[Frame, F64]]:
    """Live bytes of some sites (their frames, and the call paths that belong to each) at each end."""
    lines = {frame: np.full(len(ends), math.nan) for frame in stacks_of}
    for series in all_series:
        at_ns = series.at_ns
        for frame, stacks in stacks_of.items():
            columns = np.flatnonzero(np.isin(series.stacks, np.fromiter(stacks, dtype=np.uint64, count=len(stacks))))
            _add(lines[frame], np.zeros(len(ends)), at_ns, series.live_bytes[:, columns].sum(axis=1), ends)
    return list(lines.items())


def message(name: str, values: F64, frame: Frame | None = None) -> query_pb2.Series:
    """One line of the chart."""
    return query_pb2.Series(name=name, frame=None if frame is None else frame_message(frame), values=values.tolist())


def _add(total: F64, count: F64, at_ns: I64, values: F64, ends: I64) -> None:
    """Adds one process's readings, in order of time, to the sums at each end."""
    if not len(at_ns):
        return
    step = int(ends[1] - ends[0]) if len(ends) > 1 else 0
    usual = int(np.median(np.diff(at_ns))) if len(at_ns) > 1 else 0
    silent = max(_SILENT_INTERVALS * usual, step, _SILENT_NS_MIN)
    last: NDArray[np.intp] = np.searchsorted(at_ns, ends, side="left") - 1
    known = (last >= 0) & (ends - at_ns[np.maximum(last, 0)] <= silent)
    total[known] = np.where(np.isnan(total[known]), 0.0, total[known]) + values[last[known]]
    count[known] += 1
