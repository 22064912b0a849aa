"""Answers about operations, tasks, threads and observations from the day files.

An hour of a service of twenty processes has more than a million rows of operations. The engine sums up all of them but
the buckets, which numpy adds up in portions; only then does anything become an object of Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from ...model.process import Span
from ...model.timing import (
    Ended,
    Histogram,
    Loop,
    Observation,
    Operation,
    OperationKind,
    Operations,
    TaskGroup,
    Tasks,
    ThreadTime,
)
from .. import TOLD_LATE_S_MAX
from .arrays import Columns, text, unpacked_ids
from .histograms import Sums, merged, unpack
from .queries import Queries

_ROWS_AT_ONCE = 125_000

_KEY = ("kind", "name", "span_kind", "status", "frame", "route", "target")
_SUMS = ("self_s", "cpu_user_s", "cpu_system_s", "cpu_count", "busy_s", "alloc_bytes", "bare_yields")
_HISTOGRAM = ("zero_count", "sum_s", "min_s", "max_s")
_GROUP = (
    "state",
    "awaits",
    "count",
    "age_oldest_s",
    "age_mean_s",
    "wait_longest_s",
    "steps",
    "busy_s",
    "bare_yields",
    "task_name",
)
_KINDS = {int(kind): kind for kind in OperationKind}


class TimeReader(Queries):
    """The part of the embedded `Reader` that tells of time."""

    def operations(
        self, service: str, within: Span, instance_id: str | None = None
    ) -> Mapping[str, Sequence[Operations]]:
        """Intervals that end in the range, by instance id and time. Without definitions."""
        found: dict[str, list[Operations]] = {}
        for day, heads in self._intervals("operation_interval", service, within, instance_id):
            for some in _portions(heads):
                rows = self._rows_of(day, "operation", some, (*_KEY, "scale", "buckets", *_HISTOGRAM, *_SUMS))
                listed = _by_batch(rows["batch"], _operations(rows, unpack(rows["buckets"].tolist())))
                for batch, instance, from_ns, to_ns in _zipped(some, "batch", "instance_id", "from_ns", "to_ns"):
                    found.setdefault(instance, []).append(Operations(from_ns, to_ns, listed.get(batch, [])))
        return {
            instance: sorted(some, key=lambda one: (one.to_ns, one.from_ns)) for instance, some in sorted(found.items())
        }

    def operation_totals(self, service: str, within: Span, instance_id: str | None = None) -> Mapping[str, Operations]:
        """As operations(), with all intervals of an instance summed up into one."""
        totals: dict[str, dict[tuple[object, ...], Operation]] = {}
        spans: dict[str, tuple[int, int]] = {}
        for day, heads in self._intervals("operation_interval", service, within, instance_id):
            for instance, from_ns, to_ns in _zipped(heads, "instance_id", "from_ns", "to_ns"):
                known = spans.get(instance, (from_ns, to_ns))
                spans[instance] = min(known[0], from_ns), max(known[1], to_ns)
            for instance, operation in self._summed(day, heads):
                mine = totals.setdefault(instance, {})
                key = tuple(getattr(operation, name) for name in _KEY)
                other = mine.get(key)
                mine[key] = operation if other is None else _added(other, operation)
        return {
            instance: Operations(*spans[instance], list(totals.get(instance, {}).values()))
            for instance in sorted(spans)
        }

    def ended(
        self, service: str, within: Span, kind: OperationKind, instance_id: str | None = None
    ) -> Mapping[str, Ended]:
        """How many operations of a kind, outside any route, ended in each interval, by instance id."""
        parts = [
            rows
            for _, rows in self._each_day(
                within,
                "SELECT instance_id, from_ns, to_ns, coalesce(ended, 0) AS ended FROM {day}.operation_interval i "
                "LEFT JOIN (SELECT batch, sum(count)::UBIGINT AS ended FROM {day}.operation "
                "WHERE kind = ? AND route = '' GROUP BY batch) USING (batch) WHERE to_ns >= ? AND to_ns < ? AND "
                + _whose("i"),
                [int(kind), within.from_ns, within.to_ns, service, instance_id, instance_id],
            )
        ]
        if not parts:
            return {}
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        instances, place = np.unique(rows["instance_id"].astype(str), return_inverse=True)
        order = np.lexsort((rows["from_ns"], rows["to_ns"], place))
        edges = np.searchsorted(place[order], np.arange(len(instances) + 1)).tolist()
        return {
            instance: Ended(*(rows[name][order[start:end]] for name in ("from_ns", "to_ns", "ended")))
            for instance, (start, end) in zip(instances.tolist(), pairwise(edges), strict=True)
        }

    def tasks(self, service: str, within: Span, instance_id: str | None = None) -> Mapping[str, Sequence[Tasks]]:
        """Looks at tasks in the range, by instance id and time. Without definitions."""
        found: dict[str, list[Tasks]] = {}
        for day, heads in self._each_day(
            within,
            f"SELECT * FROM {{day}}.task_snapshot t WHERE at_ns >= ? AND at_ns < ? AND {_whose('t')}",
            [within.from_ns, within.to_ns, service, instance_id, instance_id],
        ):
            loops, groups, edges = self._looks(day, heads)
            for batch, instance, at_ns, tasks, examined in _zipped(
                heads, "batch", "instance_id", "at_ns", "tasks", "tasks_examined"
            ):
                look = Tasks(at_ns, loops.get(batch, []), groups.get(batch, []), edges.get(batch, []), tasks, examined)
                found.setdefault(instance, []).append(look)
        return {instance: sorted(some, key=lambda one: one.at_ns) for instance, some in sorted(found.items())}

    def thread_time(self, service: str, within: Span, instance_id: str | None = None) -> ThreadTime:
        """Samples of threads in intervals that end in the range, summed by call path, thread and task."""
        summed = "sum(samples)::UBIGINT AS samples, sum(wall_s) AS wall_s, sum(cpu_s) AS cpu_s"
        parts = [
            rows
            for _, rows in self._each_day(
                within,
                f"SELECT stack, thread, task, {summed} FROM {{day}}.profile_sample WHERE batch IN (SELECT batch "
                "FROM {day}.profile_interval p WHERE to_ns >= ? AND to_ns < ? AND "
                f"{_whose('p')}) GROUP BY ALL",
                [within.from_ns, within.to_ns, service, instance_id, instance_id],
            )
        ]
        if not parts:
            nothing = np.zeros(0)
            names = np.zeros(0, dtype=object)
            whole = nothing.astype(np.uint64)
            return ThreadTime(whole, names, names, whole, nothing, nothing)
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if len(parts) > 1:
            rows = self._fetch(f"SELECT stack, thread, task, {summed} FROM wanted GROUP BY ALL", [], rows)
        return ThreadTime(**rows)

    def observations(
        self, service: str, within: Span, kinds: Sequence[str], instance_id: str | None = None
    ) -> Sequence[Observation]:
        """Observations of these kinds (all when empty) in the range, by time."""
        told = Span(within.from_ns, within.to_ns + TOLD_LATE_S_MAX * 10**9)
        found: list[Observation] = []
        for _, rows in self._each_day(
            told,
            "SELECT o.*, b.instance_id FROM {day}.observation o JOIN {day}.batch b USING (batch) "
            "WHERE b.at_ns >= ? AND b.at_ns < ? AND o.at_ns < ? "
            f"AND (? OR o.kind IN (SELECT kind FROM wanted)) AND {_whose('b')}",
            [told.from_ns, told.to_ns, within.to_ns, not kinds, service, instance_id, instance_id],
            wanted={"kind": text(kinds)},
        ):
            names = ("at_ns", "kind", "name", "frame", "stack", "value", "count", "attributes", "instance_id")
            for at_ns, kind, name, frame, stack, value, count, attributes, instance in _zipped(rows, *names):
                found.append(
                    Observation(at_ns, kind, name, frame, stack, value, count, json.loads(attributes), instance)
                )
        return sorted(found, key=lambda one: (one.at_ns, one.instance_id, one.kind, one.name))

    def _intervals(
        self, table: str, service: str, within: Span, instance_id: str | None
    ) -> Iterator[tuple[str, Columns]]:
        yield from self._each_day(
            within,
            f"SELECT * FROM {{day}}.{table} i WHERE to_ns >= ? AND to_ns < ? AND {_whose('i')} ORDER BY batch",
            [within.from_ns, within.to_ns, service, instance_id, instance_id],
        )

    def _rows_of(self, day: str, table: str, heads: Columns, names: Sequence[str], order: str = "batch") -> Columns:
        """Rows of the batches of heads, in order; empty when the day has gone meanwhile."""
        found = None
        if len(heads["batch"]):
            found = self._query(
                day,
                f"SELECT batch, {', '.join(names)} FROM {{day}}.{table} "
                f"WHERE batch BETWEEN ? AND ? AND batch IN (SELECT batch FROM wanted) ORDER BY {order}",
                _bounds(heads),
                wanted=_picked(heads, "batch"),
            )
        return found or {name: np.zeros(0, dtype=object) for name in ("batch", *names)}

    def _summed(self, day: str, heads: Columns) -> Iterator[tuple[str, Operation]]:
        """Rows of the batches of heads, summed up by instance and key (and by scale, which sums do not mix)."""
        if not len(heads["batch"]):
            return
        instances, place = np.unique(heads["instance_id"].astype(str), return_inverse=True)
        heads["instance"] = place.astype(np.uint32)
        keys = f"w.instance, {', '.join(_KEY)}, scale"
        rows_of = "FROM {day}.operation JOIN wanted w USING (batch) WHERE batch BETWEEN ? AND ?"
        found = self._query(
            day,
            f"SELECT {keys}, hash({keys}) AS hash, sum(zero_count)::DOUBLE AS zero_count, sum(sum_s) AS sum_s, "
            "coalesce(min(min_s) FILTER (count > 0), 0) AS min_s, max(max_s) AS max_s, "
            f"{', '.join(f'sum({name})::DOUBLE AS {name}' for name in _SUMS)} {rows_of} GROUP BY ALL ORDER BY hash",
            _bounds(heads),
            wanted=_picked(heads, "batch", "instance"),
        )
        if found is None:
            return
        for name in ("zero_count", "cpu_count", "bare_yields"):
            found[name] = found[name].astype(np.uint64)
        sums = Sums()
        for some in _portions(heads):
            rows = self._query(
                day,
                f"SELECT hash({keys}) AS hash, buckets {rows_of}",
                _bounds(some),
                wanted=_picked(some, "batch", "instance"),
            )
            if rows is not None:
                sums.add(np.searchsorted(found["hash"], rows["hash"]), rows["buckets"].tolist())
        made = _operations(found, sums.take(len(found["hash"])))
        yield from zip(instances[found["instance"]].tolist(), made, strict=True)

    def _looks(
        self, day: str, heads: Columns
    ) -> tuple[dict[int, Sequence[Loop]], dict[int, Sequence[TaskGroup]], dict[int, Sequence[tuple[int, int, int]]]]:
        """Loops, groups and edges by batch."""
        about = ("id", "thread", "implementation", "ready", "ready_max", "tasks")
        rows = self._rows_of(day, "task_loop", heads, (*about, "scale", "buckets", *_HISTOGRAM), "batch, place")
        loops = [
            Loop(identity, thread, implementation, lag, ready, ready_max, tasks)
            for lag, (identity, thread, implementation, ready, ready_max, tasks) in zip(
                _durations(rows, unpack(rows["buckets"].tolist())), _zipped(rows, *about), strict=True
            )
        ]
        looked = self._rows_of(day, "task_group", heads, ("loop", "path", *_GROUP), "batch, place")
        groups = [
            TaskGroup(loop, _path(bytes(path)), *rest) for loop, path, *rest in _zipped(looked, "loop", "path", *_GROUP)
        ]
        waits = self._rows_of(day, "task_edge", heads, ("waiter", "awaited", "count"), "batch, waiter, awaited")
        return (
            _by_batch(rows["batch"], loops),
            _by_batch(looked["batch"], groups),
            _by_batch(waits["batch"], list(_zipped(waits, "waiter", "awaited", "count"))),
        )


def _whose(table: str) -> str:
    """The condition of every question: the service's processes, or one of them. Takes service, instance, instance."""
    return (
        f"{table}.instance_id IN (SELECT instance_id FROM {{day}}.process WHERE service = ?) "
        f"AND (? IS NULL OR {table}.instance_id = ?)"
    )


def _bounds(heads: Columns) -> list[object]:
    """First and last batch: files are in order of batch, so most of one is not even looked at."""
    return [int(heads["batch"].min()), int(heads["batch"].max())]


def _picked(columns: Columns, *names: str) -> Columns:
    return {name: columns[name] for name in names}


def _portions(heads: Columns) -> Iterator[Columns]:
    """Heads in portions of which each is loaded with one query and fits in memory."""
    cut = (np.cumsum(heads["rows"].astype(np.int64)) // _ROWS_AT_ONCE).tolist()
    edges = [0, *(np.flatnonzero(np.diff(cut)) + 1).tolist(), len(cut)]
    for start, end in pairwise(edges):
        if start < end:
            yield {name: column[start:end] for name, column in heads.items()}


def _zipped(columns: Columns, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(columns[name].tolist() for name in names), strict=True)


def _by_batch(batches: np.ndarray[Any, Any], rows: Sequence[Any]) -> dict[int, Sequence[Any]]:
    """{batch: its rows}; they come in order of batch."""
    if not len(batches):
        return {}
    edges = [0, *(np.flatnonzero(batches[1:] != batches[:-1]) + 1).tolist(), len(batches)]
    return {
        batch: rows[start:end]
        for batch, (start, end) in zip(batches[edges[:-1]].tolist(), pairwise(edges), strict=True)
    }


def _durations(rows: Columns, buckets: Sequence[tuple[int, np.ndarray[Any, Any]]]) -> Iterator[Histogram]:
    for (scale, zero_count, sum_s, min_s, max_s), (offset, counts) in zip(
        _zipped(rows, "scale", *_HISTOGRAM), buckets, strict=True
    ):
        yield Histogram(scale, zero_count, offset, counts, sum_s, min_s, max_s)


def _operations(rows: Columns, buckets: Sequence[tuple[int, np.ndarray[Any, Any]]]) -> list[Operation]:
    return [
        Operation(_KINDS[kind], name, span_kind, status, frame, route, target, duration, *sums)
        for duration, (kind, name, span_kind, status, frame, route, target), sums in zip(
            _durations(rows, buckets), _zipped(rows, *_KEY), _zipped(rows, *_SUMS), strict=True
        )
    ]


def _added(one: Operation, other: Operation) -> Operation:
    sums = {name: getattr(one, name) + getattr(other, name) for name in _SUMS}
    return replace(one, duration=merged(one.duration, other.duration), **sums)


@lru_cache(maxsize=8192)
def _path(packed: bytes) -> tuple[int, ...]:
    return unpacked_ids(packed)
