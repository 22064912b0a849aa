"""A Reader over snapshots kept in memory: what an archive file would be, without the file.

It takes snapshots as agents send them (only what changed, unless complete) and answers what storage/__init__.py
promises, so analysis and queries can be tested without a database. It is not fast and forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
from glassbottom_collector.model.code import Frame, Stack
from glassbottom_collector.model.heap import (
    Definitions,
    HeapSeries,
    HeapSnapshot,
    HeapState,
    LabelledSnapshot,
    MetricPoint,
    SiteColumns,
    SnapshotHeader,
    TypeColumns,
)
from glassbottom_collector.model.process import Process, ProcessSeen, Span
from glassbottom_collector.model.timing import (
    Ended,
    Histogram,
    Observation,
    Observations,
    Operation,
    OperationKind,
    Operations,
    Tasks,
    ThreadProfile,
    ThreadTime,
)
from glassbottom_collector.storage import TOLD_LATE_S_MAX

ALIVE_NS = 600 * 1_000_000_000
NO_DEFINITIONS = Definitions({}, {}, {})
_SUMS = ("self_s", "cpu_user_s", "cpu_system_s", "cpu_count", "busy_s", "alloc_bytes", "bare_yields")
_COLUMNS = [field.name for field in fields(SiteColumns) if field.name != "stack"]

Told = TypeVar("Told", Operations, Tasks, ThreadProfile, Observations)


class MemoryReader:
    """Give it processes, snapshots and metrics in order of time; then read."""

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}
        self._snapshots: dict[str, list[HeapSnapshot]] = {}
        self._metrics: dict[str, list[MetricPoint]] = {}
        self._contents: dict[str, list[Operations | Tasks | ThreadProfile | Observations]] = {}
        self._frames: dict[int, Frame] = {}
        self._stacks: dict[int, Stack] = {}
        self._types: dict[int, str] = {}

    # Writing

    def add_process(self, process: Process) -> None:
        self._processes[process.instance_id] = process

    def add_snapshot(self, snapshot: HeapSnapshot) -> None:
        assert snapshot.header.instance_id in self._processes
        self._snapshots.setdefault(snapshot.header.instance_id, []).append(snapshot)
        self.define(snapshot.definitions)

    def add_metrics(self, instance_id: str, points: Iterable[MetricPoint]) -> None:
        self._metrics.setdefault(instance_id, []).extend(points)

    def add(self, instance_id: str, content: Operations | Tasks | ThreadProfile | Observations) -> None:
        """Anything that tells of time, as an agent sends it."""
        assert instance_id in self._processes
        self._contents.setdefault(instance_id, []).append(content)
        self.define(content.definitions)

    def define(self, definitions: Definitions) -> None:
        self._frames.update(definitions.frames)
        self._stacks.update(definitions.stacks)
        self._types.update(definitions.types)

    # Reader

    def services(self, within: Span) -> Sequence[str]:
        return sorted({p.service for p in self._processes.values() if self.processes(p.service, within)})

    def processes(self, service: str, within: Span) -> Sequence[ProcessSeen]:
        seen = []
        for process in self._processes.values():
            times = self._times(process.instance_id)
            if process.service == service and any(within.from_ns <= at < within.to_ns for at in times):
                seen.append(ProcessSeen(process, "0.1.0", min(times), max(times)))
        return sorted(seen, key=lambda each: each.first_seen_ns)

    def headers(self, service: str, within: Span) -> Sequence[SnapshotHeader]:
        found = [
            snapshot.header
            for instance, snapshots in self._of(service)
            for snapshot in snapshots
            if within.from_ns <= snapshot.header.at_ns < within.to_ns
        ]
        return sorted(found, key=lambda header: (header.instance_id, header.at_ns))

    def labelled(self, service: str, within: Span, instance_id: str | None = None) -> Sequence[LabelledSnapshot]:
        found = [
            LabelledSnapshot(label, snapshot.header)
            for _, snapshots in self._of(service, instance_id)
            for snapshot in snapshots
            for label in snapshot.labels
            if within.from_ns <= snapshot.header.at_ns < within.to_ns
        ]
        return sorted(found, key=lambda each: (each.header.at_ns, each.header.instance_id, each.label))

    def heap_at(self, service: str, at_ns: int, instance_id: str | None = None) -> Sequence[HeapState]:
        states = []
        for instance, snapshots in self._of(service, instance_id):
            times = [at for at in self._times(instance) if at <= at_ns]
            earlier = [snapshot for snapshot in snapshots if snapshot.header.at_ns <= at_ns]
            if not earlier or at_ns - max(times) > ALIVE_NS:
                continue
            newest = earlier[-1].header
            sites: dict[int, tuple[float, ...]] = {}
            types: dict[int, list[tuple[float, ...]]] = {}
            for snapshot in earlier:
                if snapshot.header.epoch == newest.epoch:
                    _apply(snapshot, sites, types)
            rows = [(stack, *values) for stack, values in sites.items()]
            states.append(HeapState(newest, _site_columns(rows), _type_columns(types)))
        return states

    def heap_series(self, service: str, within: Span, instance_id: str | None = None) -> Iterable[HeapSeries]:
        for instance, snapshots in self._of(service, instance_id):
            for epoch in dict.fromkeys(snapshot.header.epoch for snapshot in snapshots):
                series = _series(instance, epoch, snapshots, within)
                if series is not None:
                    yield series

    def first_held(self, service: str, stacks: Iterable[int]) -> Mapping[int, tuple[int, str]]:
        wanted, found = set(stacks), {}
        for instance, snapshots in self._snapshots.items():
            if self._processes[instance].service != service:
                continue
            for snapshot in snapshots:
                held = snapshot.sites.stack[snapshot.sites.live_bytes > 0].tolist()
                for stack in wanted.intersection(held):
                    seen = (snapshot.header.at_ns, instance)
                    found[stack] = min(found.get(stack, seen), seen)
        return found

    def metrics(
        self, service: str, within: Span, names: Sequence[str], instance_id: str | None = None
    ) -> Mapping[str, Sequence[MetricPoint]]:
        return {
            instance: sorted(
                (p for p in points if p.name in names and within.from_ns <= p.at_ns < within.to_ns),
                key=lambda point: point.at_ns,
            )
            for instance, points in self._metrics.items()
            if self._processes[instance].service == service and instance_id in (None, instance)
        }

    def operations(
        self, service: str, within: Span, instance_id: str | None = None
    ) -> Mapping[str, Sequence[Operations]]:
        return {
            instance: sorted(
                (replace(one, definitions=NO_DEFINITIONS) for one in some), key=lambda one: (one.to_ns, one.from_ns)
            )
            for instance, some in self._told(Operations, service, within, instance_id).items()
        }

    def operation_totals(self, service: str, within: Span, instance_id: str | None = None) -> Mapping[str, Operations]:
        return {
            instance: summed(intervals) for instance, intervals in self.operations(service, within, instance_id).items()
        }

    def ended(
        self, service: str, within: Span, kind: OperationKind, instance_id: str | None = None
    ) -> Mapping[str, Ended]:
        return {
            instance: Ended(
                from_ns=np.array([one.from_ns for one in some], dtype=np.int64),
                to_ns=np.array([one.to_ns for one in some], dtype=np.int64),
                count=np.array(
                    [sum(row.duration.count for row in one.rows if row.kind is kind and not row.route) for one in some],
                    dtype=np.uint64,
                ),
            )
            for instance, some in self.operations(service, within, instance_id).items()
        }

    def tasks(self, service: str, within: Span, instance_id: str | None = None) -> Mapping[str, Sequence[Tasks]]:
        return {
            instance: sorted((replace(one, definitions=NO_DEFINITIONS) for one in some), key=lambda one: one.at_ns)
            for instance, some in self._told(Tasks, service, within, instance_id).items()
        }

    def thread_time(self, service: str, within: Span, instance_id: str | None = None) -> ThreadTime:
        rows: dict[tuple[int, str, str], tuple[int, float, float]] = {}
        for some in self._told(ThreadProfile, service, within, instance_id).values():
            for one in some:
                columns = (one.stack, one.thread, one.task, one.samples, one.wall_s, one.cpu_s)
                for stack, thread, task, *values in zip(*(column.tolist() for column in columns), strict=True):
                    key = stack, one.names[thread], one.names[task]
                    rows[key] = tuple(map(sum, zip(rows.get(key, (0, 0.0, 0.0)), values, strict=True)))  # type: ignore[assignment]
        return ThreadTime(
            stack=np.array([key[0] for key in rows], dtype=np.uint64),
            thread=np.array([key[1] for key in rows], dtype=object),
            task=np.array([key[2] for key in rows], dtype=object),
            samples=np.array([values[0] for values in rows.values()], dtype=np.uint64),
            wall_s=np.array([values[1] for values in rows.values()], dtype=np.float64),
            cpu_s=np.array([values[2] for values in rows.values()], dtype=np.float64),
        )

    def observations(
        self, service: str, within: Span, kinds: Sequence[str], instance_id: str | None = None
    ) -> Sequence[Observation]:
        told = Span(within.from_ns, within.to_ns + TOLD_LATE_S_MAX * 1_000_000_000)
        found = [
            replace(row, instance_id=instance)
            for instance, some in self._told(Observations, service, told, instance_id).items()
            for one in some
            for row in one.rows
            if row.at_ns < within.to_ns and (not kinds or row.kind in kinds)
        ]
        return sorted(found, key=lambda one: (one.at_ns, one.instance_id, one.kind, one.name))

    def stacks(self, ids: Iterable[int]) -> Mapping[int, Stack]:
        return {identity: self._stacks[identity] for identity in ids if identity in self._stacks}

    def frames(self, ids: Iterable[int]) -> Mapping[int, Frame]:
        return {identity: self._frames[identity] for identity in ids if identity in self._frames}

    def types(self, ids: Iterable[int]) -> Mapping[int, str]:
        return {identity: self._types[identity] for identity in ids if identity in self._types}

    def _times(self, instance: str) -> list[int]:
        return (
            [snapshot.header.at_ns for snapshot in self._snapshots.get(instance, [])]
            + [point.at_ns for point in self._metrics.get(instance, [])]
            + [_told_at_ns(content) for content in self._contents.get(instance, [])]
        )

    def _told(
        self, kind: type[Told], service: str, within: Span, instance_id: str | None
    ) -> Mapping[str, Sequence[Told]]:
        """Of the processes of a service, what of that kind was told in the range; none left out that told nothing."""
        found: dict[str, list[Told]] = {}
        for instance, contents in sorted(self._contents.items()):
            if self._processes[instance].service == service and instance_id in (None, instance):
                for one in contents:
                    if isinstance(one, kind) and within.from_ns <= _told_at_ns(one) < within.to_ns:
                        found.setdefault(instance, []).append(one)
        return found

    def _of(self, service: str, instance_id: str | None = None) -> Iterable[tuple[str, list[HeapSnapshot]]]:
        for instance in sorted(self._processes):
            if self._processes[instance].service == service and instance_id in (None, instance):
                yield instance, self._snapshots.get(instance, [])


def snapshots_of(series: HeapSeries, definitions: Definitions = NO_DEFINITIONS) -> list[HeapSnapshot]:
    """The snapshots an agent would have sent for a series: complete ones, without types."""
    found = []
    for row, header in enumerate(series.headers):
        count = len(series.stacks)
        sites = SiteColumns(
            stack=series.stacks,
            live_bytes=series.live_bytes[row],
            live_bytes_variance=series.live_bytes_variance[row],
            live_objects=series.live_objects[row],
            live_objects_variance=series.live_objects_variance[row],
            alloc_bytes=series.alloc_bytes[row],
            alloc_objects=np.zeros(count),
            samples=series.samples[row],
            birth_oldest_ms=series.birth_mean_ms[row],
            birth_mean_ms=series.birth_mean_ms[row],
            birth_minutes=series.birth_minutes[row],
        )
        found.append(HeapSnapshot(header, sites, _type_columns({}), definitions if row == 0 else NO_DEFINITIONS))
    return found


def summed(intervals: Sequence[Operations]) -> Operations:
    """Several intervals of one process as one."""
    rows: dict[tuple[object, ...], Operation] = {}
    for one in (row for interval in intervals for row in interval.rows):
        key = one.kind, one.name, one.span_kind, one.status, one.frame, one.route, one.target
        known = rows.get(key)
        if known is None:
            rows[key] = one
        else:
            sums = {name: getattr(known, name) + getattr(one, name) for name in _SUMS}
            rows[key] = replace(known, duration=_both(known.duration, one.duration), **sums)
    from_ns = min(interval.from_ns for interval in intervals)
    return Operations(from_ns, max(interval.to_ns for interval in intervals), list(rows.values()))


def _both(one: Histogram, other: Histogram) -> Histogram:
    assert one.scale == other.scale, "this reader does not change scales"
    if not one.count or not other.count:
        return one if one.count else other
    counts: dict[int, int] = {}
    for part in (one, other):
        for place, count in enumerate(part.counts.tolist()):
            counts[part.offset + place] = counts.get(part.offset + place, 0) + count
    low = min(counts, default=0)
    return Histogram(
        scale=one.scale,
        zero_count=one.zero_count + other.zero_count,
        offset=low,
        counts=np.array([counts.get(low + place, 0) for place in range(max(counts, default=-1) - low + 1)], np.uint64),
        sum_s=one.sum_s + other.sum_s,
        min_s=min(one.min_s, other.min_s),
        max_s=max(one.max_s, other.max_s),
    )


def _told_at_ns(content: Operations | Tasks | ThreadProfile | Observations) -> int:
    return content.to_ns if isinstance(content, Operations | ThreadProfile) else content.at_ns


def _apply(
    snapshot: HeapSnapshot, sites: dict[int, tuple[float, ...]], types: dict[int, list[tuple[float, ...]]]
) -> None:
    columns = snapshot.sites
    listed = set(columns.stack.tolist())
    if snapshot.header.complete:
        allocated = _COLUMNS.index("alloc_bytes"), _COLUMNS.index("alloc_objects")
        for stack, values in sites.items():
            if stack not in listed:
                sites[stack] = tuple(value if k in allocated else 0 for k, value in enumerate(values))
        types.clear()
    for row, stack in enumerate(columns.stack.tolist()):
        sites[stack] = tuple(getattr(columns, name)[row].item() for name in _COLUMNS)
        types.pop(stack, None)
    rows = zip(*(getattr(snapshot.types, field.name).tolist() for field in fields(TypeColumns)), strict=True)
    for stack, *rest in rows:
        types.setdefault(stack, []).append(tuple(rest))


def _series(instance: str, epoch: int, snapshots: Sequence[HeapSnapshot], within: Span) -> HeapSeries | None:
    mine = [each for each in snapshots if each.header.epoch == epoch and each.header.at_ns < within.to_ns]
    headers = tuple(each.header for each in mine if each.header.at_ns >= within.from_ns)
    if not headers:
        return None
    stacks = list(dict.fromkeys(stack for each in mine for stack in each.sites.stack.tolist()))
    position = {stack: column for column, stack in enumerate(stacks)}
    current = {name: np.zeros(len(stacks)) for name in _COLUMNS}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    for snapshot in mine:
        columns = np.array([position[stack] for stack in snapshot.sites.stack.tolist()], dtype=int)
        for name in _COLUMNS:
            if snapshot.header.complete and not name.startswith("alloc"):
                current[name] = np.zeros(len(stacks))
            current[name][columns] = getattr(snapshot.sites, name)
            if snapshot.header.at_ns >= within.from_ns:
                rows[name].append(current[name].copy())
    table = {name: np.array(values) for name, values in rows.items()}
    return HeapSeries(
        instance_id=instance,
        epoch=epoch,
        headers=headers,
        stacks=np.array(stacks, dtype=np.uint64),
        live_bytes=table["live_bytes"],
        live_bytes_variance=table["live_bytes_variance"],
        live_objects=table["live_objects"],
        live_objects_variance=table["live_objects_variance"],
        alloc_bytes=table["alloc_bytes"],
        birth_mean_ms=table["birth_mean_ms"].astype(np.int64),
        birth_minutes=table["birth_minutes"].astype(np.uint32),
        samples=table["samples"].astype(np.uint32),
    )


def _site_columns(rows: Sequence[Sequence[float]]) -> SiteColumns:
    kinds = {"stack": np.uint64, "samples": np.uint32, "birth_minutes": np.uint32}
    kinds |= {"birth_oldest_ms": np.int64, "birth_mean_ms": np.int64}
    columns = list(zip(*rows, strict=True)) or [()] * (len(_COLUMNS) + 1)
    return SiteColumns(
        **{
            field.name: np.array(values, dtype=kinds.get(field.name, np.float64))
            for field, values in zip(fields(SiteColumns), columns, strict=True)
        }
    )


def _type_columns(types: Mapping[int, Sequence[Sequence[float]]]) -> TypeColumns:
    rows = [(stack, *values) for stack, each in types.items() for values in each]
    kinds = {"stack": np.uint64, "type": np.uint64, "samples": np.uint32}
    columns = list(zip(*rows, strict=True)) or [()] * len(fields(TypeColumns))
    return TypeColumns(
        **{
            field.name: np.array(values, dtype=kinds.get(field.name, np.float64))
            for field, values in zip(fields(TypeColumns), columns, strict=True)
        }
    )
