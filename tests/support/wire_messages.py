"""What an agent says, as a test makes it up: code with its content hashes, snapshots from plain rows, and batches.

Nothing is checked here: a test may say nonsense.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import zstandard
from glassbottom.wire.v1 import (
    common_pb2,
    heap_pb2,
    ingest_pb2,
    metrics_pb2,
    observations_pb2,
    operations_pb2,
    profile_pb2,
    tasks_pb2,
)
from glassbottom_collector.model import code

HEAP = ingest_pb2.STREAM_HEAP
METRICS = ingest_pb2.STREAM_METRICS
OPERATIONS = ingest_pb2.STREAM_OPERATIONS
TASKS = ingest_pb2.STREAM_TASKS
PROFILE = ingest_pb2.STREAM_PROFILE
OBSERVATIONS = ingest_pb2.STREAM_OBSERVATIONS
STREAMS = (HEAP, METRICS, OPERATIONS, TASKS, PROFILE, OBSERVATIONS)

SITE_COLUMNS = {
    "stack": "<u8",
    "live_bytes": "<f8",
    "live_bytes_variance": "<f8",
    "live_objects": "<f8",
    "live_objects_variance": "<f8",
    "alloc_bytes": "<f8",
    "alloc_objects": "<f8",
    "samples": "<u4",
    "birth_oldest_ms": "<i8",
    "birth_mean_ms": "<i8",
    "birth_minutes": "<u4",
}
TYPE_COLUMNS = {"stack": "<u8", "type": "<u8", "live_bytes": "<f8", "live_objects": "<f8", "samples": "<u4"}
SAMPLE_COLUMNS = {"stack": "<u8", "thread": "<u4", "task": "<u4", "samples": "<u4", "wall_s": "<f8", "cpu_s": "<f8"}


class Code:
    """Code and types that a test invents, with their content hashes.

    frame(), stack() and type() remember what they define; definitions() gives everything remembered so far.
    """

    def __init__(self) -> None:
        self._frames: dict[int, code.Frame] = {}
        self._stacks: dict[int, tuple[tuple[int, ...], str]] = {}
        self._types: dict[int, str] = {}

    def frame(self, function: str, file: str, line: int) -> int:
        """Defines a place; its id."""
        frame = code.Frame(function, file, line)
        self._frames[frame.id] = frame
        return frame.id

    def stack(self, *frames: tuple[str, str, int], label: str = "") -> int:
        """Defines a call path of (function, file, line), innermost first, under a route; its id."""
        path = tuple(self.frame(*frame) for frame in frames)
        identity = code.stack_id(path, label)
        self._stacks[identity] = path, label
        return identity

    def type(self, name: str) -> int:
        """Defines a type; its id."""
        identity = code.type_id(name)
        self._types[identity] = name
        return identity

    def definitions(self) -> common_pb2.Definitions:
        """All of it, as a batch carries it."""
        return common_pb2.Definitions(
            frames=[
                common_pb2.Frame(id=identity, function=frame.function, file=frame.file, line=frame.line)
                for identity, frame in self._frames.items()
            ],
            stacks=[
                common_pb2.Stack(id=identity, frames=path, label=label)
                for identity, (path, label) in self._stacks.items()
            ],
            types=[common_pb2.Type(id=identity, name=name) for identity, name in self._types.items()],
        )


def columns(layout: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, bytes]:
    """Little-endian bytes of each column of a layout; columns not given are zeros."""
    rows = max((len(np.atleast_1d(values)) for values in given.values()), default=0)
    return {
        name: np.ascontiguousarray(given.get(name, np.zeros(rows)), dtype=kind).tobytes()
        for name, kind in layout.items()
    }


def heap_snapshot(
    at_ns: int,
    sites: Mapping[str, Any],
    types: Mapping[str, Any] | None = None,
    definitions: common_pb2.Definitions | None = None,
    *,
    epoch: int = 1,
    complete: bool = True,
    interval_bytes: float = 524288.0,
    window_share: float = 1.0,
    live_bytes: float | None = None,
    live_bytes_variance: float = 0.0,
) -> heap_pb2.HeapSnapshot:
    """A snapshot from columns: {"stack": [...], "live_bytes": [...]}; what is missing is zero.

    live_bytes: of the whole heap; by default the sum of the column.
    """
    if live_bytes is None:
        live_bytes = float(np.sum(sites.get("live_bytes", 0.0)))
    return heap_pb2.HeapSnapshot(
        at_ns=at_ns,
        epoch=epoch,
        complete=complete,
        interval_bytes=interval_bytes,
        window_share=window_share,
        live_bytes=live_bytes,
        live_bytes_variance=live_bytes_variance,
        sites=heap_pb2.HeapSites(**columns(SITE_COLUMNS, sites)),
        types=heap_pb2.HeapTypes(**columns(TYPE_COLUMNS, types or {})),
        definitions=definitions,
    )


def metrics_snapshot(
    at_ns: int, readings: Iterable[tuple[str, float] | tuple[str, float, Mapping[str, str]]]
) -> metrics_pb2.MetricsSnapshot:
    """Readings (name, value) or (name, value, attributes) of one moment."""
    snapshot = metrics_pb2.MetricsSnapshot(at_ns=at_ns)
    for name, value, *attributes in readings:
        snapshot.metrics.add(name=name, value=value, attributes=dict(attributes[0]) if attributes else {})
    return snapshot


def histogram(*values_s: float, scale: int = 4) -> operations_pb2.Histogram:
    """The histogram of some durations."""
    positive = np.array([value for value in values_s if value > 0])
    # Bucket i holds (base^i, base^(i+1)], so an exact power belongs to the one below it.
    buckets = np.ceil(np.log2(positive) * 2.0**scale).astype(np.int64) - 1
    low = int(buckets.min()) if len(buckets) else 0
    return operations_pb2.Histogram(
        scale=scale,
        zero_count=len(values_s) - len(positive),
        offset=low,
        counts=np.bincount(buckets - low).tolist() if len(buckets) else [],
        sum_s=float(sum(values_s)),
        min_s=float(min(values_s, default=0.0)),
        max_s=float(max(values_s, default=0.0)),
    )


def operation(
    name: str, *values_s: float, kind: int = operations_pb2.OPERATION_KIND_SPAN, status: str = "ok", **fields: Any
) -> operations_pb2.Operation:
    """What took so long; fields as in operations.proto."""
    return operations_pb2.Operation(
        kind=operations_pb2.OperationKind.ValueType(kind),
        name=name,
        status=status,
        duration=histogram(*values_s),
        **fields,
    )


def operations_snapshot(
    from_ns: int,
    to_ns: int,
    operations: Iterable[operations_pb2.Operation],
    definitions: common_pb2.Definitions | None = None,
) -> operations_pb2.OperationsSnapshot:
    """What ended in an interval; rows by operation()."""
    return operations_pb2.OperationsSnapshot(
        from_ns=from_ns, to_ns=to_ns, operations=operations, definitions=definitions
    )


def loop(identity: int = 1, lags_s: Sequence[float] = (), **fields: Any) -> tasks_pb2.Loop:
    """An event loop with the lags of its timers; fields as in tasks.proto."""
    given = {"thread": "MainThread", "implementation": "uvloop.Loop", "ready": -1, "ready_max": -1, **fields}
    return tasks_pb2.Loop(id=identity, lag=histogram(*lags_s), **given)


def group(path: Sequence[int], count: int = 1, **fields: Any) -> tasks_pb2.TaskGroup:
    """Tasks that wait at the same place; fields as in tasks.proto."""
    return tasks_pb2.TaskGroup(path=path, count=count, **{"state": "waiting", "awaits": "Future", **fields})


def tasks_snapshot(
    at_ns: int,
    loops: Iterable[tasks_pb2.Loop],
    groups: Sequence[tasks_pb2.TaskGroup],
    edges: Iterable[tuple[int, int, int]] = (),
    definitions: common_pb2.Definitions | None = None,
    **fields: Any,
) -> tasks_pb2.TasksSnapshot:
    """One look at tasks, all of them examined; edges are (waiter, awaited, count)."""
    count = sum(one.count for one in groups)
    return tasks_pb2.TasksSnapshot(
        at_ns=at_ns,
        loops=loops,
        groups=groups,
        edges=[tasks_pb2.TaskEdge(waiter=waiter, awaited=awaited, count=pairs) for waiter, awaited, pairs in edges],
        definitions=definitions,
        **{"tasks": count, "tasks_examined": count, **fields},
    )


def profile_snapshot(
    from_ns: int,
    to_ns: int,
    rows: Sequence[tuple[int, str, str, int, float, float]],
    definitions: common_pb2.Definitions | None = None,
    **fields: Any,
) -> profile_pb2.ProfileSnapshot:
    """Samples of threads from rows of (stack, thread, task, samples, wall seconds, CPU seconds)."""
    names = list(dict.fromkeys(name for row in rows for name in row[1:3]))
    place = {name: index for index, name in enumerate(names)}
    given = {
        "stack": [row[0] for row in rows],
        "thread": [place[row[1]] for row in rows],
        "task": [place[row[2]] for row in rows],
        "samples": [row[3] for row in rows],
        "wall_s": [row[4] for row in rows],
        "cpu_s": [row[5] for row in rows],
    }
    return profile_pb2.ProfileSnapshot(
        from_ns=from_ns,
        to_ns=to_ns,
        names=names,
        definitions=definitions,
        **columns(SAMPLE_COLUMNS, given),
        **{"ticks": sum(row[3] for row in rows), **fields},
    )


def observation(at_ns: int, kind: str, name: str, value: float = 0.0, **fields: Any) -> observations_pb2.Observation:
    """One thing noticed; fields as in observations.proto."""
    return observations_pb2.Observation(at_ns=at_ns, kind=kind, name=name, value=value, **{"count": 1, **fields})


def observations_snapshot(
    at_ns: int,
    observations: Iterable[observations_pb2.Observation],
    definitions: common_pb2.Definitions | None = None,
    dropped: int = 0,
) -> observations_pb2.ObservationsSnapshot:
    """What was noticed until at_ns; rows by observation()."""
    return observations_pb2.ObservationsSnapshot(
        at_ns=at_ns, observations=observations, definitions=definitions, dropped=dropped
    )


def batch(
    stream: int, seq: int, body: Any, *, codec: int = ingest_pb2.CODEC_ZSTD, rows: int = 1, dropped: int = 0
) -> ingest_pb2.Batch:
    """A well-formed batch around a message, or around bytes that are taken as they are."""
    raw = body if isinstance(body, bytes) else body.SerializeToString()
    packed = zstandard.ZstdCompressor(level=1).compress(raw) if codec == ingest_pb2.CODEC_ZSTD else raw
    return ingest_pb2.Batch(
        stream=stream,
        seq=seq,
        codec=codec,
        body_bytes=len(raw),
        body_crc32=zlib.crc32(raw),
        body=packed,
        rows=rows,
        dropped=dropped,
    )
