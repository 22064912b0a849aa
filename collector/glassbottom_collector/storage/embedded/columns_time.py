"""Operations, tasks, samples of threads and observations as columns for the tables of day.sql. Pure, as columns is."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from ...model.timing import Histogram, Observations, Operations, Tasks, ThreadProfile
from .arrays import Columns, ids, packed_ids, text
from .histograms import pack, stored_scale


def operations(batches: Sequence[tuple[int, str, Operations]]) -> dict[str, Columns]:
    """Tables of (batch, instance id, content)."""
    rows = [row for _, _, content in batches for row in content.rows]
    return {
        "operation_interval": {
            "batch": _batches(batches),
            "instance_id": text(instance_id for _, instance_id, _ in batches),
            "from_ns": np.array([content.from_ns for _, _, content in batches], dtype=np.int64),
            "to_ns": np.array([content.to_ns for _, _, content in batches], dtype=np.int64),
            "rows": np.array([len(content.rows) for _, _, content in batches], dtype=np.uint32),
        },
        "operation": {
            "batch": np.repeat(_batches(batches), [len(content.rows) for _, _, content in batches]),
            "kind": np.array([row.kind for row in rows], dtype=np.uint8),
            "name": text(row.name for row in rows),
            "span_kind": text(row.span_kind for row in rows),
            "status": text(row.status for row in rows),
            "frame": ids(row.frame for row in rows),
            "route": text(row.route for row in rows),
            "target": text(row.target for row in rows),
            "count": np.array([row.duration.count for row in rows], dtype=np.uint64),
            **_histograms([row.duration for row in rows]),
            "self_s": np.array([row.self_s for row in rows], dtype=np.float64),
            "cpu_user_s": np.array([row.cpu_user_s for row in rows], dtype=np.float64),
            "cpu_system_s": np.array([row.cpu_system_s for row in rows], dtype=np.float64),
            "cpu_count": np.array([row.cpu_count for row in rows], dtype=np.uint64),
            "busy_s": np.array([row.busy_s for row in rows], dtype=np.float64),
            "alloc_bytes": np.array([row.alloc_bytes for row in rows], dtype=np.float64),
            "bare_yields": np.array([row.bare_yields for row in rows], dtype=np.uint64),
        },
    }


def tasks(batches: Sequence[tuple[int, str, Tasks]]) -> dict[str, Columns]:
    """Tables of (batch, instance id, content)."""
    loops = [(batch, place, loop) for batch, _, content in batches for place, loop in enumerate(content.loops)]
    groups = [(batch, place, group) for batch, _, content in batches for place, group in enumerate(content.groups)]
    edges = [(batch, *edge) for batch, _, content in batches for edge in content.edges]
    edge_columns = np.array(edges, dtype=np.int64).reshape(-1, 4).T
    return {
        "task_snapshot": {
            "batch": _batches(batches),
            "instance_id": text(instance_id for _, instance_id, _ in batches),
            "at_ns": np.array([content.at_ns for _, _, content in batches], dtype=np.int64),
            "tasks": np.array([content.tasks for _, _, content in batches], dtype=np.uint32),
            "tasks_examined": np.array([content.tasks_examined for _, _, content in batches], dtype=np.uint32),
        },
        "task_loop": {
            "batch": np.array([batch for batch, _, _ in loops], dtype=np.int64),
            "place": np.array([place for _, place, _ in loops], dtype=np.uint32),
            "id": ids(loop.id for _, _, loop in loops),
            "thread": text(loop.thread for _, _, loop in loops),
            "implementation": text(loop.implementation for _, _, loop in loops),
            **_histograms([loop.lag for _, _, loop in loops]),
            "ready": np.array([loop.ready for _, _, loop in loops], dtype=np.int32),
            "ready_max": np.array([loop.ready_max for _, _, loop in loops], dtype=np.int32),
            "tasks": np.array([loop.tasks for _, _, loop in loops], dtype=np.uint32),
        },
        "task_group": {
            "batch": np.array([batch for batch, _, _ in groups], dtype=np.int64),
            "place": np.array([place for _, place, _ in groups], dtype=np.uint32),
            "loop": np.array([group.loop for _, _, group in groups], dtype=np.uint32),
            "path": text(packed_ids(group.path) for _, _, group in groups),
            "state": text(group.state for _, _, group in groups),
            "awaits": text(group.awaits for _, _, group in groups),
            "count": np.array([group.count for _, _, group in groups], dtype=np.uint32),
            "age_oldest_s": np.array([group.age_oldest_s for _, _, group in groups], dtype=np.float64),
            "age_mean_s": np.array([group.age_mean_s for _, _, group in groups], dtype=np.float64),
            "wait_longest_s": np.array([group.wait_longest_s for _, _, group in groups], dtype=np.float64),
            "steps": np.array([group.steps for _, _, group in groups], dtype=np.uint64),
            "busy_s": np.array([group.busy_s for _, _, group in groups], dtype=np.float64),
            "bare_yields": np.array([group.bare_yields for _, _, group in groups], dtype=np.uint64),
            "task_name": text(group.task_name for _, _, group in groups),
        },
        "task_edge": {
            "batch": edge_columns[0],
            "waiter": edge_columns[1].astype(np.uint32),
            "awaited": edge_columns[2].astype(np.uint32),
            "count": edge_columns[3].astype(np.uint32),
        },
    }


def profiles(batches: Sequence[tuple[int, str, ThreadProfile]]) -> dict[str, Columns]:
    """Tables of (batch, instance id, content)."""
    contents = [content for _, _, content in batches]
    names = [text(content.names) for content in contents]
    return {
        "profile_interval": {
            "batch": _batches(batches),
            "instance_id": text(instance_id for _, instance_id, _ in batches),
            "from_ns": np.array([content.from_ns for content in contents], dtype=np.int64),
            "to_ns": np.array([content.to_ns for content in contents], dtype=np.int64),
            "ticks": np.array([content.ticks for content in contents], dtype=np.uint64),
            "dropped": np.array([content.dropped for content in contents], dtype=np.uint64),
        },
        "profile_sample": {
            "batch": np.repeat(_batches(batches), [len(content) for content in contents]),
            "stack": np.concatenate([content.stack for content in contents]),
            "thread": np.concatenate([known[one.thread] for known, one in zip(names, contents, strict=True)]),
            "task": np.concatenate([known[one.task] for known, one in zip(names, contents, strict=True)]),
            "samples": np.concatenate([content.samples for content in contents]),
            "wall_s": np.concatenate([content.wall_s for content in contents]),
            "cpu_s": np.concatenate([content.cpu_s for content in contents]),
        },
    }


def observations(batches: Sequence[tuple[int, str, Observations]]) -> dict[str, Columns]:
    """Tables of (batch, instance id, content)."""
    rows = [row for _, _, content in batches for row in content.rows]
    return {
        "observation": {
            "batch": np.repeat(_batches(batches), [len(content.rows) for _, _, content in batches]),
            "at_ns": np.array([row.at_ns for row in rows], dtype=np.int64),
            "kind": text(row.kind for row in rows),
            "name": text(row.name for row in rows),
            "frame": ids(row.frame for row in rows),
            "stack": ids(row.stack for row in rows),
            "value": np.array([row.value for row in rows], dtype=np.float64),
            "count": np.array([row.count for row in rows], dtype=np.uint64),
            "attributes": text(json.dumps(dict(row.attributes), sort_keys=True) for row in rows),
        }
    }


def _batches(batches: Sequence[tuple[int, str, object]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([batch for batch, _, _ in batches], dtype=np.int64)


def _histograms(histograms: Sequence[Histogram]) -> Columns:
    return {
        "scale": np.array([stored_scale(one) for one in histograms], dtype=np.int8),
        "zero_count": np.array([one.zero_count for one in histograms], dtype=np.uint64),
        "buckets": text(pack(histograms)),
        "sum_s": np.array([one.sum_s for one in histograms], dtype=np.float64),
        "min_s": np.array([one.min_s for one in histograms], dtype=np.float64),
        "max_s": np.array([one.max_s for one in histograms], dtype=np.float64),
    }
