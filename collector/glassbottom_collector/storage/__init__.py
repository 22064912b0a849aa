"""Storage is two small protocols, so that a second back end, or an archive file, can stand in for the first.

Analysis and queries know only `Reader`; ingest knows only `Writer`; `server.py` alone names a concrete store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..model.code import Frame, Stack
from ..model.heap import (
    Definitions,
    HeapSeries,
    HeapSnapshot,
    HeapState,
    LabelledSnapshot,
    MetricPoint,
    SnapshotHeader,
)
from ..model.process import Process, ProcessSeen, Span
from ..model.timing import (
    Ended,
    Observation,
    Observations,
    OperationKind,
    Operations,
    Tasks,
    ThreadProfile,
    ThreadTime,
)

Content = HeapSnapshot | Sequence[MetricPoint] | Operations | Tasks | ThreadProfile | Observations
"""What one batch may carry, decoded."""

LATE_S_MAX = 48 * 3600
"""How far the time of a batch may lie behind the clock of the store. Ingest takes nothing older, so a store need not
look further back for the mark a repeated batch has left."""

EARLY_S_MAX = 3600
"""How far the time of a batch may lie ahead of the clock of the store."""

INTERVAL_S_MAX = 2 * 3600
"""Longest interval that one batch may sum up. Agents may be told to send once an hour, and be late."""

TOLD_LATE_S_MAX = 3600
"""How long after a range an observation that began in it may have been told, and still belong to it."""


@dataclass(frozen=True)
class BatchKey:
    """What makes a batch unique: a repeated key is acknowledged and not stored again."""

    session_id: str
    stream: int
    seq: int


@dataclass(frozen=True)
class StoreStatistics:
    """Counters and gauges of a store by name, and one sentence per problem a person should know of."""

    values: Mapping[str, float]
    problems: tuple[str, ...]


BYTES_PER_BATCH = 500
_BYTES_PER_SITE = 80
_BYTES_PER_TYPE = 36
_BYTES_PER_POINT = 400
_BYTES_PER_OPERATION = 1000
_BYTES_PER_BUCKET = 8
_BYTES_PER_GROUP = 1000
_BYTES_PER_LOOP = 1000
_BYTES_PER_EDGE = 150
_BYTES_PER_SAMPLE = 36
_BYTES_PER_NAME = 100
_BYTES_PER_OBSERVATION = 1000
_BYTES_PER_DEFINITION = 500


def bytes_held(content: Content) -> int:
    """Roughly what a decoded batch holds in memory: the measure of every bound on batches that wait."""
    match content:
        case HeapSnapshot():
            size = _BYTES_PER_SITE * len(content.sites) + _BYTES_PER_TYPE * len(content.types)
        case Operations():
            buckets = sum(len(row.duration.counts) for row in content.rows)
            size = _BYTES_PER_OPERATION * len(content.rows) + _BYTES_PER_BUCKET * buckets
        case Tasks():
            frames = sum(len(group.path) for group in content.groups)
            buckets = sum(len(loop.lag.counts) for loop in content.loops)
            size = _BYTES_PER_GROUP * len(content.groups) + _BYTES_PER_LOOP * len(content.loops)
            size += _BYTES_PER_EDGE * len(content.edges) + _BYTES_PER_BUCKET * (buckets + 5 * frames)
        case ThreadProfile():
            size = _BYTES_PER_SAMPLE * len(content) + sum(_BYTES_PER_NAME + len(name) for name in content.names)
        case Observations():
            size = _BYTES_PER_OBSERVATION * len(content.rows)
            size += sum(len(value) for row in content.rows for value in row.attributes.values())
        case _:
            size = _BYTES_PER_POINT * len(content)
    defined = definitions_in(content)
    count = 0 if defined is None else len(defined.frames) + len(defined.stacks) + len(defined.types)
    return BYTES_PER_BATCH + size + _BYTES_PER_DEFINITION * count


def rows_in(content: Content) -> int:
    """Rows a decoded batch takes in the store: the measure of what an agent may send in a second."""
    match content:
        case HeapSnapshot():
            return len(content.sites) + len(content.types)
        case Operations() | Observations():
            return len(content.rows)
        case Tasks():
            return len(content.loops) + len(content.groups) + len(content.edges)
        case _:
            return len(content)


def definitions_in(content: Content) -> Definitions | None:
    """What a decoded batch defines; None for readings, which define nothing."""
    return None if isinstance(content, Sequence) else content.definitions


class Writer(Protocol):
    """Takes batches; each awaitable completes once the batch is durable.

    Raises (through the awaitable) StorageFull when there is no room, StorageError when it may be retried.
    Batches of one (session, stream) must be given in order of seq. After a failure the later ones of that session
    and stream fail too, until open_session is called again: a mark above a batch that failed would lose it.
    """

    @property
    def store_id(self) -> str:
        """Identity of the data; changes when the store is emptied."""
        ...

    def open_session(self, session_id: str, process: Process, agent_version: str) -> Awaitable[Mapping[int, int]]:
        """Remembers the process; answers the highest durable seq per stream of that session."""
        ...

    def append(self, key: BatchKey, process: Process, content: Content) -> Awaitable[None]:
        """Stores a batch and its definitions. Raises BadRequest for one that no attempt will store."""
        ...


class Reader(Protocol):
    """Answers from what is durable. Every method may be called from any thread."""

    def services(self, within: Span) -> Sequence[str]:
        """Names of services with data in the range, sorted."""
        ...

    def processes(self, service: str, within: Span) -> Sequence[ProcessSeen]:
        """Processes of a service with data in the range, oldest first; empty when there are none."""
        ...

    def headers(self, service: str, within: Span) -> Sequence[SnapshotHeader]:
        """Snapshots taken in the range, by instance and time."""
        ...

    def labelled(self, service: str, within: Span, instance_id: str | None = None) -> Sequence[LabelledSnapshot]:
        """Snapshots of the range that have a name, by time; one that has several is there once for each."""
        ...

    def heap_at(self, service: str, at_ns: int, instance_id: str | None = None) -> Sequence[HeapState]:
        """The heap of each process alive at that moment (last data no older than ten minutes before it)."""
        ...

    def heap_series(self, service: str, within: Span, instance_id: str | None = None) -> Iterable[HeapSeries]:
        """One series per process and epoch, values carried forward, also into the range from before it."""
        ...

    def first_held(self, service: str, stacks: Iterable[int]) -> Mapping[int, tuple[int, str]]:
        """When each of these call paths was first seen to hold memory, nanoseconds since the Unix epoch, and in which
        instance; without those that never were. Looks through everything that is kept."""
        ...

    def metrics(
        self, service: str, within: Span, names: Sequence[str], instance_id: str | None = None
    ) -> Mapping[str, Sequence[MetricPoint]]:
        """Readings of the named metrics in the range by instance id, each by time."""
        ...

    def operations(
        self, service: str, within: Span, instance_id: str | None = None
    ) -> Mapping[str, Sequence[Operations]]:
        """Intervals that end in the range, by instance id and time. Without definitions.

        For short ranges: a busy process has some hundred rows every ten seconds.
        """
        ...

    def operation_totals(self, service: str, within: Span, instance_id: str | None = None) -> Mapping[str, Operations]:
        """As operations(), with all intervals of an instance summed up into one: a row per kind, name, span kind,
        status, frame, route and target. It reaches from the first moment of the first interval to the last of the last.
        """
        ...

    def ended(
        self, service: str, within: Span, kind: OperationKind, instance_id: str | None = None
    ) -> Mapping[str, Ended]:
        """How many operations of a kind ended in each interval of operations(), by instance id; without those that a
        route covers, so of spans only the requests themselves."""
        ...

    def tasks(self, service: str, within: Span, instance_id: str | None = None) -> Mapping[str, Sequence[Tasks]]:
        """Looks at tasks in the range, by instance id and time. Without definitions."""
        ...

    def thread_time(self, service: str, within: Span, instance_id: str | None = None) -> ThreadTime:
        """Samples of threads in intervals that end in the range, summed by call path, thread and task."""
        ...

    def observations(
        self, service: str, within: Span, kinds: Sequence[str], instance_id: str | None = None
    ) -> Sequence[Observation]:
        """Observations of these kinds (all when empty) in the range, by time.

        In the range is what began before its end and was told in it, or within TOLD_LATE_S_MAX after it: a request of
        an hour that ended just now belongs to the last minute.
        """
        ...

    def stacks(self, ids: Iterable[int]) -> Mapping[int, Stack]:
        """Definitions of the call paths that are known."""
        ...

    def frames(self, ids: Iterable[int]) -> Mapping[int, Frame]:
        """Definitions of the frames that are known."""
        ...

    def types(self, ids: Iterable[int]) -> Mapping[int, str]:
        """Names of the types that are known."""
        ...
