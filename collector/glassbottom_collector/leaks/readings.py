"""Process-wide numbers as the leak analysis needs them: a time series per name, read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..model.heap import F64, I64, MetricPoint
from ..model.process import Span
from ..storage import Reader

RESIDENT = "process.memory.usage"
VIRTUAL = "process.memory.virtual"
BEHIND = "glassbottom.memory.resident"
PYMALLOC = "glassbottom.pymalloc.memory"
MALLOC = "glassbottom.malloc.memory"
STACKS = "glassbottom.memory.stacks"
LARGE = "glassbottom.heap.large"
LARGE_VARIANCE = "glassbottom.heap.large_variance"
GC_ENABLED = "glassbottom.gc.enabled"
GC_COLLECTIONS = "cpython.gc.collections"
CPU = "process.cpu.time"
CONTAINER_USAGE = "container.memory.usage"
CONTAINER_WORKING_SET = "container.memory.working_set"
CONTAINER_LIMIT = "container.memory.limit"
OWN_LIMIT = "glassbottom.memory.limit"
HOST_AVAILABLE = "system.linux.memory.available"

NAMES = (
    RESIDENT,
    VIRTUAL,
    BEHIND,
    PYMALLOC,
    MALLOC,
    STACKS,
    LARGE,
    LARGE_VARIANCE,
    GC_ENABLED,
    GC_COLLECTIONS,
    CPU,
    CONTAINER_USAGE,
    CONTAINER_WORKING_SET,
    CONTAINER_LIMIT,
    OWN_LIMIT,
    HOST_AVAILABLE,
)


@dataclass(frozen=True)
class Series:
    """One number over time: ascending times and values, both (T,)."""

    at_ns: I64
    values: F64

    def at(self, at_ns: I64) -> F64:
        """Values at other times: straight lines between readings, and the nearest one beyond them."""
        result: F64 = np.interp(at_ns.astype(float), self.at_ns.astype(float), self.values)
        return result


@dataclass(frozen=True)
class Readings:
    """All of one process, by name and the value of its one attribute ("" without)."""

    instance_id: str
    by_name: Mapping[tuple[str, str], Series]

    def get(self, name: str, attribute: str = "") -> Series | None:
        """None when it was never told."""
        return self.by_name.get((name, attribute))

    def last(self, name: str, attribute: str = "") -> float | None:
        """The newest value."""
        series = self.get(name, attribute)
        return None if series is None else float(series.values[-1])


def read(reader: Reader, service: str, within: Span, instance_id: str | None) -> dict[str, Readings]:
    """By instance id. Raises what the reader raises."""
    found = reader.metrics(service, within, NAMES, instance_id)
    return {instance: Readings(instance, _by_name(points)) for instance, points in found.items() if points}


def _by_name(points: Sequence[MetricPoint]) -> dict[tuple[str, str], Series]:
    grouped: dict[tuple[str, str], list[MetricPoint]] = {}
    for point in points:
        attribute = point.attributes[0][1] if point.attributes else ""
        grouped.setdefault((point.name, attribute), []).append(point)
    return {key: _series(some) for key, some in grouped.items()}


def _series(points: Iterable[MetricPoint]) -> Series:
    at_ns = np.array([point.at_ns for point in points], dtype=np.int64)
    values = np.array([point.value for point in points])
    at_ns, first = np.unique(at_ns, return_index=True)
    return Series(at_ns, values[first])
