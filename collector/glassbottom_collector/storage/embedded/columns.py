"""Batches of one commit as columns for the tables of day.sql and meta.sql. Pure: no I/O, no clock.

Everything goes into the engine as a dict of numpy arrays, because that is what it takes fastest without pyarrow
or pandas.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.code import Frame, Stack
from ...model.heap import Definitions, HeapSnapshot, MetricPoint, SiteColumns, TypeColumns
from ...model.process import Process
from .. import BatchKey, bytes_held

Columns = dict[str, NDArray[Any]]

SITE = tuple(SiteColumns.__dataclass_fields__)
TYPE = tuple(TypeColumns.__dataclass_fields__)


@dataclass(frozen=True)
class Content:
    """What one batch stores: a snapshot, or readings."""

    key: BatchKey
    process: Process
    at_ns: int
    heap: HeapSnapshot | None = None
    points: Sequence[MetricPoint] = ()

    @property
    def rows(self) -> int:
        """Rows in the large tables."""
        heap = 0 if self.heap is None else len(self.heap.sites) + len(self.heap.types)
        return heap + len(self.points)

    @property
    def bytes(self) -> int:
        """Roughly what it holds in memory."""
        return bytes_held(self.points if self.heap is None else self.heap)


def day_tables(contents: Sequence[Content], batches: Sequence[int]) -> dict[str, Columns]:
    """Table name to columns, tables without rows left out; batches are the numbers of the contents."""
    heaps = [(batch, content.heap) for batch, content in zip(batches, contents, strict=True) if content.heap]
    points = [(batch, point) for batch, content in zip(batches, contents, strict=True) for point in content.points]
    tables = {
        "batch": {
            "batch": np.array(batches, dtype=np.int64),
            "session_id": text(content.key.session_id for content in contents),
            "stream": np.array([content.key.stream for content in contents], dtype=np.uint8),
            "seq": np.array([content.key.seq for content in contents], dtype=np.uint64),
            "instance_id": text(content.process.instance_id for content in contents),
            "at_ns": np.array([content.at_ns for content in contents], dtype=np.int64),
        }
    }
    if heaps:
        tables["heap_snapshot"] = _snapshots(heaps)
        tables["heap_site"] = _stacked(heaps, "sites", SITE)
        tables["heap_type"] = _stacked(heaps, "types", TYPE)
    if points:
        tables["metric"] = {
            "batch": np.array([batch for batch, _ in points], dtype=np.int64),
            "name": text(point.name for _, point in points),
            "attributes": text(json.dumps(dict(point.attributes)) for _, point in points),
            "value": np.array([point.value for _, point in points], dtype=np.float64),
        }
    return {name: columns for name, columns in tables.items() if len(columns["batch"])}


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
        "type": {"id": _ids(definitions.types), "name": text(definitions.types.values())},
    }
    return {name: columns for name, columns in tables.items() if len(columns["id"])}


def text(values: Iterable[str]) -> NDArray[Any]:
    """A column of text."""
    listed = list(values)
    column = np.empty(len(listed), dtype=object)
    column[:] = listed
    return column


SELECTED = {"stack": "* REPLACE (unhex(frames) AS frames)"}
"""What to select from the columns of a table, where it is not all of them as they are: engines before 2.0 take bytes
in numpy columns for text."""


def definitions_of(contents: Sequence[Content], known: Container[int]) -> Definitions:
    """What the contents define and is not known yet, each once."""
    defined = [content.heap.definitions for content in contents if content.heap is not None]
    return Definitions(
        frames={key: frame for part in defined for key, frame in part.frames.items() if key not in known},
        stacks={key: stack for part in defined for key, stack in part.stacks.items() if key not in known},
        types={key: name for part in defined for key, name in part.types.items() if key not in known},
    )


def _snapshots(heaps: Sequence[tuple[int, HeapSnapshot]]) -> Columns:
    headers = [heap.header for _, heap in heaps]
    return {
        "batch": np.array([batch for batch, _ in heaps], dtype=np.int64),
        "instance_id": text(header.instance_id for header in headers),
        "at_ns": np.array([header.at_ns for header in headers], dtype=np.int64),
        "epoch": np.array([header.epoch for header in headers], dtype=np.uint32),
        "complete": np.array([header.complete for header in headers], dtype=np.bool_),
        "interval_bytes": np.array([header.interval_bytes for header in headers], dtype=np.float64),
        "window_share": np.array([header.window_share for header in headers], dtype=np.float64),
        "live_bytes": np.array([header.live_bytes for header in headers], dtype=np.float64),
        "live_bytes_variance": np.array([header.live_bytes_variance for header in headers], dtype=np.float64),
        "site_rows": np.array([len(heap.sites) for _, heap in heaps], dtype=np.uint32),
        "type_rows": np.array([len(heap.types) for _, heap in heaps], dtype=np.uint32),
    }


def _stacked(heaps: Sequence[tuple[int, HeapSnapshot]], part: str, names: tuple[str, ...]) -> Columns:
    parts = [getattr(heap, part) for _, heap in heaps]
    lengths = [len(columns) for columns in parts]
    stacked: Columns = {"batch": np.repeat(np.array([batch for batch, _ in heaps], dtype=np.int64), lengths)}
    for name in names:
        stacked[name] = np.concatenate([getattr(columns, name) for columns in parts])
    return stacked


def _frames(frames: Mapping[int, Frame]) -> Columns:
    return {
        "id": _ids(frames),
        "function": text(frame.function for frame in frames.values()),
        "file": text(frame.file for frame in frames.values()),
        "line": np.array([frame.line for frame in frames.values()], dtype=np.uint32),
    }


def _stacks(stacks: Mapping[int, Stack]) -> Columns:
    return {
        "id": _ids(stacks),
        "frames": text(np.array(stack.frames, dtype="<u8").tobytes().hex() for stack in stacks.values()),
        "truncated": np.array([stack.truncated for stack in stacks.values()], dtype=np.bool_),
    }


def _ids(ids: Iterable[int]) -> NDArray[np.uint64]:
    return np.fromiter(ids, dtype=np.uint64)
