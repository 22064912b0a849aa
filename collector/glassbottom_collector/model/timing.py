"""How long things take, what tasks wait for, where threads are: as an agent tells it for one interval or moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .heap import F64, I64, U32, U64, Definitions


class OperationKind(IntEnum):
    """Numbers are the wire's."""

    SPAN = 1
    COROUTINE = 2
    STEP = 3
    FUNCTION = 4


@dataclass(frozen=True)
class Histogram:
    """OpenTelemetry exponential histogram of seconds. counts[i] holds values in (base^(offset+i), base^(offset+i+1)]
    with base = 2**(2**-scale); shape of counts (n,)."""

    scale: int
    zero_count: int
    offset: int
    counts: U64
    sum_s: float
    min_s: float
    max_s: float

    @property
    def count(self) -> int:
        """Values in it."""
        return self.zero_count + int(self.counts.sum())


EMPTY = Histogram(4, 0, 0, np.zeros(0, dtype=np.uint64), 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Operation:
    """What ended alike in one interval; fields as in operations.proto."""

    kind: OperationKind
    name: str
    span_kind: str
    status: str
    frame: int
    route: str
    target: str
    duration: Histogram
    self_s: float
    cpu_user_s: float
    cpu_system_s: float
    cpu_count: int
    busy_s: float
    alloc_bytes: float
    bare_yields: int


@dataclass(frozen=True)
class Operations:
    """One interval of one process."""

    from_ns: int
    to_ns: int
    rows: Sequence[Operation]
    definitions: Definitions = field(default_factory=lambda: Definitions({}, {}, {}))


@dataclass(frozen=True)
class Ended:
    """How many operations ended in each interval of one process, by time; arrays of length n."""

    from_ns: I64
    to_ns: I64
    count: U64

    def __len__(self) -> int:
        return len(self.count)


@dataclass(frozen=True)
class Loop:
    """An event loop; ready and ready_max are -1 where the loop does not tell."""

    id: int
    thread: str
    implementation: str
    lag: Histogram
    ready: int
    ready_max: int
    tasks: int


@dataclass(frozen=True)
class TaskGroup:
    """Tasks of one loop that run the same coroutine and wait at the same place; path from the innermost await out."""

    loop: int
    path: tuple[int, ...]
    state: str
    awaits: str
    count: int
    age_oldest_s: float
    age_mean_s: float
    wait_longest_s: float
    steps: int
    busy_s: float
    bare_yields: int
    task_name: str


@dataclass(frozen=True)
class Tasks:
    """Every task of one process at one moment. edges: (index of the waiter, of the awaited group, pairs)."""

    at_ns: int
    loops: Sequence[Loop]
    groups: Sequence[TaskGroup]
    edges: Sequence[tuple[int, int, int]]
    tasks: int
    tasks_examined: int
    definitions: Definitions = field(default_factory=lambda: Definitions({}, {}, {}))


@dataclass(frozen=True)
class ThreadProfile:
    """Samples of every Python thread in one interval; columns of length n. thread and task index names."""

    from_ns: int
    to_ns: int
    ticks: int
    dropped: int
    stack: U64
    thread: U32
    task: U32
    samples: U32
    wall_s: F64
    cpu_s: F64
    names: Sequence[str]
    definitions: Definitions = field(default_factory=lambda: Definitions({}, {}, {}))

    def __len__(self) -> int:
        return len(self.stack)


@dataclass(frozen=True)
class ThreadTime:
    """What all samples of a call path in threads and tasks of one name stand for, over processes and intervals."""

    stack: U64
    thread: NDArray[np.object_]
    task: NDArray[np.object_]
    samples: U64
    wall_s: F64
    cpu_s: F64

    def __len__(self) -> int:
        return len(self.stack)


@dataclass(frozen=True)
class Observation:
    """One thing an agent noticed; kinds and units are in docs/observations.md. instance_id is set by the reader."""

    at_ns: int
    kind: str
    name: str
    frame: int
    stack: int
    value: float
    count: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    instance_id: str = ""


@dataclass(frozen=True)
class Observations:
    """What one process noticed since its last batch."""

    at_ns: int
    rows: Sequence[Observation]
    dropped: int
    definitions: Definitions = field(default_factory=lambda: Definitions({}, {}, {}))
