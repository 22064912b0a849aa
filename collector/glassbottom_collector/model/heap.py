"""The sampled heap, as columns.

Values are Horvitz-Thompson estimates (Poisson sampling by bytes; see agent/glassbottom/native/sampler.c), so they
are real numbers with variances, not counts. Live values are absolute, allocated values cumulative in an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .code import Frame, Stack

U64 = NDArray[np.uint64]
F64 = NDArray[np.float64]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class SiteColumns:
    """One row per call path; all arrays have length n."""

    stack: U64
    live_bytes: F64
    live_bytes_variance: F64
    live_objects: F64
    live_objects_variance: F64
    alloc_bytes: F64
    alloc_objects: F64
    samples: U32
    birth_oldest_ms: I64
    birth_mean_ms: I64
    birth_minutes: U32

    def __len__(self) -> int:
        return len(self.stack)


@dataclass(frozen=True)
class TypeColumns:
    """One row per call path and type; all arrays have length n."""

    stack: U64
    type: U64
    live_bytes: F64
    live_objects: F64
    samples: U32

    def __len__(self) -> int:
        return len(self.stack)


@dataclass(frozen=True)
class Definitions:
    """Code and types that rows refer to."""

    frames: Mapping[int, Frame]
    stacks: Mapping[int, Stack]
    types: Mapping[int, str]


@dataclass(frozen=True)
class SnapshotHeader:
    """One reading of one process's sampler.

    complete: every stack with live bytes is listed and others hold nothing; otherwise others are unchanged.
    """

    instance_id: str
    epoch: int
    at_ns: int
    complete: bool
    interval_bytes: float
    window_share: float
    live_bytes: float
    live_bytes_variance: float


@dataclass(frozen=True)
class HeapSnapshot:
    """A reading as it arrives: only what changed, unless the header says complete."""

    header: SnapshotHeader
    sites: SiteColumns
    types: TypeColumns
    definitions: Definitions
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledSnapshot:
    """A name that an application or an operator gave to a moment of one process."""

    label: str
    header: SnapshotHeader


@dataclass(frozen=True)
class HeapState:
    """The whole heap of one process at one moment, put together from snapshots: every stack with live bytes or
    allocations, with the values in force at `header.at_ns`."""

    header: SnapshotHeader
    sites: SiteColumns
    types: TypeColumns


@dataclass(frozen=True)
class HeapSeries:
    """How the heap of one process moved through one epoch.

    Values between snapshots are carried forward, so every cell is the value in force at that snapshot; a stack has
    zeros before it is first seen. Shapes: headers (T), stacks (N), matrices (T, N).
    """

    instance_id: str
    epoch: int
    headers: tuple[SnapshotHeader, ...]
    stacks: U64
    live_bytes: F64
    live_bytes_variance: F64
    live_objects: F64
    live_objects_variance: F64
    alloc_bytes: F64
    birth_mean_ms: I64
    birth_minutes: U32
    samples: U32

    @property
    def at_ns(self) -> I64:
        """Times of the snapshots, shape (T,)."""
        return np.array([header.at_ns for header in self.headers], dtype=np.int64)


@dataclass(frozen=True)
class MetricPoint:
    """One reading of one process-wide number; attributes are sorted (key, value) pairs."""

    at_ns: int
    name: str
    value: float
    attributes: tuple[tuple[str, str], ...] = ()
