"""Batches of one commit as columns for the tables of day.sql and meta.sql. Pure: no I/O, no clock.

Everything goes into the engine as a dict of numpy arrays, because that is what it takes fastest without pyarrow
or pandas.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...model.code import Frame, Stack
from ...model.heap import Definitions, HeapSnapshot, MetricPoint, SiteColumns, TypeColumns
from ...model.process import Process
from ...model.timing import Observations, Operations, Tasks, ThreadProfile
from .. import BatchKey, Content, bytes_held, definitions_in, rows_in
from . import columns_time
from .arrays import Columns, ids, packed_ids, text

SITE = tuple(SiteColumns.__dataclass_fields__)
TYPE = tuple(TypeColumns.__dataclass_fields__)


@dataclass(frozen=True)
class Arrival:
    """A batch to be stored. at_ns: its time, which decides the file it goes to; the end of an interval."""

    key: BatchKey
    process: Process
    at_ns: int
    content: Content

    @classmethod
    def of(cls, key: BatchKey, process: Process, content: Content, now_ns: int) -> Arrival:
        """With the time of its content; readings of one batch are of one moment, and without any it is now_ns."""
        match content:
            case HeapSnapshot():
                at_ns = content.header.at_ns
            case Operations() | ThreadProfile():
                at_ns = content.to_ns
            case Tasks() | Observations():
                at_ns = content.at_ns
            case _:
                at_ns = content[0].at_ns if content else now_ns
        return cls(key, process, at_ns, content)

    @property
    def rows(self) -> int:
        """Rows in the large tables."""
        return rows_in(self.content)

    @property
    def bytes(self) -> int:
        """Roughly what it holds in memory."""
        return bytes_held(self.content)


def day_tables(arrivals: Sequence[Arrival], batches: Sequence[int]) -> dict[str, Columns]:
    """Table name to columns, tables without rows left out; batches are the numbers of the arrivals."""
    tables = {
        "batch": {
            "batch": np.array(batches, dtype=np.int64),
            "session_id": text(one.key.session_id for one in arrivals),
            "stream": np.array([one.key.stream for one in arrivals], dtype=np.uint8),
            "seq": np.array([one.key.seq for one in arrivals], dtype=np.uint64),
            "instance_id": text(one.process.instance_id for one in arrivals),
            "at_ns": np.array([one.at_ns for one in arrivals], dtype=np.int64),
        }
    }
    alike: dict[Callable[[Any], dict[str, Columns]], list[tuple[int, str, Any]]] = {}
    for batch, one in zip(batches, arrivals, strict=True):
        alike.setdefault(_tables_of(one.content), []).append((batch, one.process.instance_id, one.content))
    for make, some in alike.items():
        tables.update(make(some))
    return {name: columns for name, columns in tables.items() if len(columns["batch"])}


def _tables_of(content: Content) -> Callable[[Any], dict[str, Columns]]:
    match content:
        case HeapSnapshot():
            return _heap
        case Operations():
            return columns_time.operations
        case Tasks():
            return columns_time.tasks
        case ThreadProfile():
            return columns_time.profiles
        case Observations():
            return columns_time.observations
        case _:
            return _metrics


def process_columns(processes: Sequence[tuple[Process, str]]) -> Columns:
    """Rows of `process` for processes and their agents' versions."""
    return {
        "instance_id": text(process.instance_id for process, _ in processes),
        "service": text(process.service for process, _ in processes),
        "pid": np.array([process.pid for process, _ in processes], dtype=np.uint32),
        "started_at_ns": np.array([process.started_at_ns for process, _ in processes], dtype=np.int64),
        "attributes": text(json.dumps(dict(process.attributes), sort_keys=True) for process, _ in processes),
        "agent_version": text(version for _, version in processes),
    }


def meta_tables(definitions: Definitions) -> dict[str, Columns]:
    """Table name to columns, tables without rows left out."""
    tables = {
        "frame": _frames(definitions.frames),
        "stack": _stacks(definitions.stacks),
        "type": {"id": ids(definitions.types), "name": text(definitions.types.values())},
    }
    return {name: columns for name, columns in tables.items() if len(columns["id"])}


SELECTED = {
    "stack": "* REPLACE (unhex(frames) AS frames)",
    "operation": "* REPLACE (unhex(buckets) AS buckets)",
    "task_loop": "* REPLACE (unhex(buckets) AS buckets)",
    "task_group": "* REPLACE (unhex(path) AS path)",
}
"""What to select from the columns of a table, where it is not all of them as they are: engines before 2.0 take bytes
in numpy columns for text."""


def definitions_of(arrivals: Sequence[Arrival], known: Container[int]) -> Definitions:
    """What the arrivals define and is not known yet, each once."""
    defined = [part for one in arrivals if (part := definitions_in(one.content)) is not None]
    return Definitions(
        frames={key: frame for part in defined for key, frame in part.frames.items() if key not in known},
        stacks={key: stack for part in defined for key, stack in part.stacks.items() if key not in known},
        types={key: name for part in defined for key, name in part.types.items() if key not in known},
    )


def _heap(heaps: Sequence[tuple[int, str, HeapSnapshot]]) -> dict[str, Columns]:
    return {
        "heap_snapshot": _snapshots(heaps),
        "heap_label": _labels(heaps),
        "heap_site": _stacked(heaps, "sites", SITE),
        "heap_type": _stacked(heaps, "types", TYPE),
    }


def _metrics(batches: Sequence[tuple[int, str, Sequence[MetricPoint]]]) -> dict[str, Columns]:
    points = [(batch, point) for batch, _, some in batches for point in some]
    return {
        "metric": {
            "batch": np.array([batch for batch, _ in points], dtype=np.int64),
            "name": text(point.name for _, point in points),
            "attributes": text(json.dumps(dict(point.attributes)) for _, point in points),
            "value": np.array([point.value for _, point in points], dtype=np.float64),
        }
    }


def _snapshots(heaps: Sequence[tuple[int, str, HeapSnapshot]]) -> Columns:
    headers = [heap.header for _, _, heap in heaps]
    return {
        "batch": np.array([batch for batch, _, _ in heaps], dtype=np.int64),
        "instance_id": text(header.instance_id for header in headers),
        "at_ns": np.array([header.at_ns for header in headers], dtype=np.int64),
        "epoch": np.array([header.epoch for header in headers], dtype=np.uint32),
        "complete": np.array([header.complete for header in headers], dtype=np.bool_),
        "interval_bytes": np.array([header.interval_bytes for header in headers], dtype=np.float64),
        "window_share": np.array([header.window_share for header in headers], dtype=np.float64),
        "live_bytes": np.array([header.live_bytes for header in headers], dtype=np.float64),
        "live_bytes_variance": np.array([header.live_bytes_variance for header in headers], dtype=np.float64),
        "site_rows": np.array([len(heap.sites) for _, _, heap in heaps], dtype=np.uint32),
        "type_rows": np.array([len(heap.types) for _, _, heap in heaps], dtype=np.uint32),
    }


def _labels(heaps: Sequence[tuple[int, str, HeapSnapshot]]) -> Columns:
    labels = [(batch, label) for batch, _, heap in heaps for label in heap.labels]
    return {
        "batch": np.array([batch for batch, _ in labels], dtype=np.int64),
        "label": text(label for _, label in labels),
    }


def _stacked(heaps: Sequence[tuple[int, str, HeapSnapshot]], part: str, names: tuple[str, ...]) -> Columns:
    parts = [getattr(heap, part) for _, _, heap in heaps]
    lengths = [len(columns) for columns in parts]
    stacked: Columns = {"batch": np.repeat(np.array([batch for batch, _, _ in heaps], dtype=np.int64), lengths)}
    for name in names:
        stacked[name] = np.concatenate([getattr(columns, name) for columns in parts])
    return stacked


def _frames(frames: Mapping[int, Frame]) -> Columns:
    return {
        "id": ids(frames),
        "function": text(frame.function for frame in frames.values()),
        "file": text(frame.file for frame in frames.values()),
        "line": np.array([frame.line for frame in frames.values()], dtype=np.uint32),
    }


def _stacks(stacks: Mapping[int, Stack]) -> Columns:
    return {
        "id": ids(stacks),
        "frames": text(packed_ids(stack.frames) for stack in stacks.values()),
        "truncated": np.array([stack.truncated for stack in stacks.values()], dtype=np.bool_),
        "label": text(stack.label for stack in stacks.values()),
    }
