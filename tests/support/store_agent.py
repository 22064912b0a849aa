"""Speaks to a store as ingest does, but one sentence at a time: for tests of the storage protocols."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from glassbottom_collector.model.code import Frame, Stack, stack_id, type_id
from glassbottom_collector.model.heap import (
    Definitions,
    HeapSnapshot,
    HeapState,
    MetricPoint,
    SiteColumns,
    SnapshotHeader,
    TypeColumns,
)
from glassbottom_collector.model.process import Process
from glassbottom_collector.model.timing import Histogram, Operation, OperationKind, ThreadProfile
from glassbottom_collector.storage import BatchKey, Content, Writer

HEAP, METRICS, OPERATIONS, TASKS, PROFILE, OBSERVATIONS = 1, 2, 3, 4, 5, 6
S = 1_000_000_000
MINUTE = 60 * S
DAY = 86_400 * S
NOON = 20_000 * DAY + DAY // 2
"""A noon in UTC, nanoseconds since the Unix epoch."""
MIDNIGHT = NOON + DAY // 2


class TestClock:
    """Says what it is told."""

    __test__ = False

    def __init__(self, now_ns: int = NOON) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


def definitions(frames: Iterable[Frame] = (), types: Iterable[str] = ()) -> Definitions:
    """Each frame, a stack of that frame alone, and the types."""
    frames = list(frames)
    stacks = {stack_id((frame.id,)): Stack(stack_id((frame.id,)), (frame.id,)) for frame in frames}
    return Definitions({frame.id: frame for frame in frames}, stacks, {type_id(name): name for name in types})


def snapshot(
    instance_id: str,
    at_ns: int,
    live: Mapping[int, float],
    *,
    complete: bool = False,
    epoch: int = 1,
    types: Mapping[tuple[int, int], float] | None = None,
    alloc: Mapping[int, float] | None = None,
    defined: Definitions | None = None,
    labels: tuple[str, ...] = (),
) -> HeapSnapshot:
    """A snapshot from {stack: live bytes} and {(stack, type): live bytes}; the other columns follow from live bytes."""
    stacks = np.array(list(live), dtype=np.uint64)
    values = np.array(list(live.values()), dtype=np.float64)
    types = types or {}
    kinds = np.array(list(types), dtype=np.uint64).reshape(-1, 2)
    of_types = np.array(list(types.values()), dtype=np.float64)
    return HeapSnapshot(
        SnapshotHeader(instance_id, epoch, at_ns, complete, 524288.0, 0.5, float(values.sum()), 7.0),
        SiteColumns(
            stack=stacks,
            live_bytes=values,
            live_bytes_variance=values * 2,
            live_objects=values / 10,
            live_objects_variance=values / 5,
            alloc_bytes=values * 3 if alloc is None else np.array([alloc[key] for key in live], dtype=np.float64),
            alloc_objects=values * 4,
            samples=np.ceil(values).astype(np.uint32),
            birth_oldest_ms=np.full(len(values), at_ns // 1_000_000 - 5_000),
            birth_mean_ms=np.full(len(values), at_ns // 1_000_000),
            birth_minutes=np.full(len(values), 3, dtype=np.uint32),
        ),
        TypeColumns(
            stack=kinds[:, 0],
            type=kinds[:, 1],
            live_bytes=of_types,
            live_objects=of_types / 10,
            samples=np.ones(len(of_types), dtype=np.uint32),
        ),
        defined or Definitions({}, {}, {}),
        labels,
    )


def histogram(*values_s: float, scale: int = 4) -> Histogram:
    """The histogram of some durations."""
    positive = np.array([value for value in values_s if value > 0])
    # The bucket i holds (base^i, base^(i+1)], so an exact power belongs to the one below it.
    buckets = np.ceil(np.log2(positive) * 2.0**scale).astype(np.int64) - 1
    low = int(buckets.min()) if len(buckets) else 0
    return Histogram(
        scale=scale,
        zero_count=len(values_s) - len(positive),
        offset=low,
        counts=np.bincount(buckets - low).astype(np.uint64),
        sum_s=float(sum(values_s)),
        min_s=float(min(values_s, default=0.0)),
        max_s=float(max(values_s, default=0.0)),
    )


def operation(name: str, *values_s: float, kind: OperationKind = OperationKind.SPAN, **fields: Any) -> Operation:
    """What took so long; fields as in Operation, empty or zero when they are not given."""
    texts = {"span_kind": "", "status": "ok", "route": "", "target": ""}
    numbers = {"self_s": 0.0, "cpu_user_s": 0.0, "cpu_system_s": 0.0, "busy_s": 0.0, "alloc_bytes": 0.0}
    whole = {"frame": 0, "cpu_count": 0, "bare_yields": 0}
    return Operation(kind=kind, name=name, duration=histogram(*values_s), **{**texts, **numbers, **whole, **fields})


def profile(
    from_ns: int,
    to_ns: int,
    rows: Sequence[tuple[int, str, str, int, float, float]],
    defined: Definitions | None = None,
) -> ThreadProfile:
    """Samples from rows of (stack, thread, task, samples, wall seconds, CPU seconds)."""
    names = list(dict.fromkeys(name for row in rows for name in row[1:3]))
    place = {name: index for index, name in enumerate(names)}
    return ThreadProfile(
        from_ns=from_ns,
        to_ns=to_ns,
        ticks=sum(row[3] for row in rows),
        dropped=0,
        stack=np.array([row[0] for row in rows], dtype=np.uint64),
        thread=np.array([place[row[1]] for row in rows], dtype=np.uint32),
        task=np.array([place[row[2]] for row in rows], dtype=np.uint32),
        samples=np.array([row[3] for row in rows], dtype=np.uint32),
        wall_s=np.array([row[4] for row in rows], dtype=np.float64),
        cpu_s=np.array([row[5] for row in rows], dtype=np.float64),
        names=names,
        definitions=defined or Definitions({}, {}, {}),
    )


class StoreAgent:
    """One session. Every method waits until the store has answered, and raises what it raises."""

    def __init__(self, service: str = "checkout", instance_id: str | None = None, started_at_ns: int = NOON) -> None:
        self.session_id = uuid.uuid4().hex
        self.process = Process(service, instance_id or uuid.uuid4().hex, 42, started_at_ns, {"host.name": "box"})
        self.seq = dict.fromkeys((HEAP, METRICS, OPERATIONS, TASKS, PROFILE, OBSERVATIONS), 0)

    @property
    def instance_id(self) -> str:
        """Of the process."""
        return self.process.instance_id

    def open(self, writer: Writer) -> dict[int, int]:
        """Opens the session; the marks."""
        return dict(wait(lambda: writer.open_session(self.session_id, self.process, "1.2.3")))

    def heap(
        self, writer: Writer, at_ns: int, live: Mapping[int, float], *, seq: int | None = None, **more: object
    ) -> None:
        """Appends a snapshot (arguments as snapshot()) under the next seq, or under the one given."""
        self.append(writer, HEAP, snapshot(self.instance_id, at_ns, live, **more), seq)  # type: ignore[arg-type]

    def metrics(self, writer: Writer, points: list[MetricPoint], seq: int | None = None) -> None:
        """Appends readings."""
        self.append(writer, METRICS, points, seq)

    def append(self, writer: Writer, stream: int, content: Content, seq: int | None = None) -> None:
        """Appends anything under the next seq of its stream, or under the one given."""
        self.seq[stream] = seq or self.seq[stream] + 1
        key = BatchKey(self.session_id, stream, self.seq[stream])
        wait(lambda: writer.append(key, self.process, content))


def wait(call: object) -> object:
    """The answer of an awaitable that has to be made inside an event loop; several, made by one call, in order."""

    async def ask() -> object:
        made = call()  # type: ignore[operator]
        if isinstance(made, list):
            return await asyncio.gather(*made, return_exceptions=True)
        return await made

    return asyncio.run(ask())


def live_bytes(state: HeapState) -> dict[int, float]:
    """{stack: live bytes} of a heap."""
    return dict(zip(state.sites.stack.tolist(), state.sites.live_bytes.tolist(), strict=True))


def type_bytes(state: HeapState) -> dict[tuple[int, int], float]:
    """{(stack, type): live bytes} of a heap."""
    types = state.types
    return {
        (stack, kind): value
        for stack, kind, value in zip(types.stack.tolist(), types.type.tolist(), types.live_bytes.tolist(), strict=True)
    }
