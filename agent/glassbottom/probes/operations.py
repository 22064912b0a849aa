"""Durations of spans, coroutines and functions, as histograms sent for every interval.

Whoever times something asks `Recorder` for a slot once per name and records into it; that is cheap and works in any
thread. Before the agent starts, and where the native part is missing, recording does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .. import _profile
from .._clock import Clock
from ..transport.queue import BatchQueue
from ..wire.v1 import ingest_pb2, operations_pb2
from . import ProbeState
from .definitions import Definer
from .native import operation_table

if TYPE_CHECKING:
    from .._native import OperationRow, OperationTable

STREAM = int(ingest_pb2.STREAM_OPERATIONS)
SLOTS_MAX = 1024
SCALE = 4
SPAN, COROUTINE, STEP, FUNCTION = 1, 2, 3, 4
"""Kinds, as the wire's OperationKind."""
OTHER = "<more names than the agent keeps>"
NAME_CHARACTERS_MAX = 255
_OTHERS_MAX = 64
"""Slots kept for what does not fit: one per kind, span kind and status."""


class Key(NamedTuple):
    """What a row stands for. place: (function, file, line) where it is defined, or None."""

    kind: int
    name: str
    span_kind: str = ""
    status: str = "ok"
    place: tuple[str, str, int] | None = None
    route: str = ""
    target: str = ""


@dataclass(frozen=True)
class Sums:
    """A row that somebody else has counted; see OperationRow for the histogram."""

    count: int
    duration_ns: int
    min_ns: int
    max_ns: int
    offset: int
    counts: bytes
    self_ns: int = 0
    busy_ns: int = 0
    bare_yields: int = 0


class Recorder:
    """Slots by key, bounded; what does not fit is counted under OTHER. Any thread."""

    def __init__(self, table: OperationTable | None, slots_max: int = SLOTS_MAX) -> None:
        self._table = table
        self._slots_max = slots_max
        self._slots: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self.overflowed = 0

    def slot(self, key: Key) -> int:
        """The slot of a key; -1 when nothing is recorded. Keep it: looking it up takes longer than recording."""
        found = self._slots.get(key)
        return found if found is not None else self._new(key)

    @property
    def table(self) -> OperationTable | None:
        """What record() is called on, with a slot of ours; None where there is no native part."""
        return self._table

    def take(self) -> list[tuple[Key, OperationRow]]:
        """What was recorded since the last take()."""
        if self._table is None:
            return []
        return [(self._keys[row[0]], row) for row in self._table.take()]

    def __len__(self) -> int:
        return len(self._keys)

    def _new(self, key: Key) -> int:
        if self._table is None:
            return -1
        key = key._replace(name=key.name[:NAME_CHARACTERS_MAX], route=key.route[:NAME_CHARACTERS_MAX])
        found = self._slots.get(key)
        if found is not None:
            return found
        if len(self._keys) >= self._slots_max - _OTHERS_MAX and key.name != OTHER:
            self.overflowed += 1
            key = Key(key.kind, OTHER, key.span_kind, key.status)
            found = self._slots.get(key)
            if found is not None:
                return found
        # Without a lock: a finalizer or a signal handler that is timed may run in the middle of this and would wait for
        # itself, and in a forked child it might be held for ever. Of two that come at once with one key, the slot of
        # the second stays empty.
        slot = self._table.add()
        if slot < 0:
            return slot
        self._keys[slot] = key
        return self._slots.setdefault(key, slot)


class OperationsProbe:
    """Sends what was recorded, every interval_s."""

    name = "operations"

    def __init__(self, interval_s: float, queue: BatchQueue, clock: Clock) -> None:
        self.interval_s = interval_s
        self.recorder = Recorder(operation_table(SLOTS_MAX))
        self._queue = queue
        self._clock = clock
        self._definer = Definer()
        self._added: list[tuple[Key, Sums]] = []
        self._from_ns = clock.time_ns()

    def start(self) -> None:
        """From now on functions under `glassbottom.profile` are recorded."""
        self._from_ns = self._clock.time_ns()
        _profile.attach(self.recorder)

    def stop(self, timeout_s: float) -> None:  # noqa: ARG002 - there is nothing to wait for
        _profile.detach()

    def add(self, key: Key, sums: Sums) -> None:
        """Adds a row to the next reading. In the agent's thread."""
        self._added.append((key, sums))

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        self._definer.welcomed(store_id, store_changed)

    def read(self) -> None:
        from_ns, to_ns = self._from_ns, self._clock.time_ns()
        if to_ns <= from_ns:  # the clock was set back; the interval must still have a length
            from_ns, to_ns = to_ns, to_ns + 1
        self._from_ns = to_ns
        added, self._added = self._added, []
        rows = [self._recorded(key, row) for key, row in self.recorder.take()]
        rows += [self._counted(key, sums) for key, sums in added]
        if rows:
            message = operations_pb2.OperationsSnapshot(from_ns=from_ns, to_ns=to_ns, operations=rows)
            self._definer.put(self._queue, STREAM, message, rows=len(rows))

    def state(self) -> ProbeState:
        return ProbeState("running")

    def statistics(self) -> Mapping[str, float]:
        return {
            "operations": len(self.recorder),
            "operations_max": SLOTS_MAX,
            "operations_overflowed_total": self.recorder.overflowed,
        }

    def _recorded(self, key: Key, row: OperationRow) -> operations_pb2.Operation:
        _, _, duration, own, user, system, cpu_count, busy, allocated, least, most, offset, counts = row
        found = self._described(key, duration, least, most, offset, counts)
        found.self_s, found.busy_s, found.alloc_bytes = own / 1e9, busy / 1e9, allocated
        found.cpu_user_s, found.cpu_system_s, found.cpu_count = user / 1e9, system / 1e9, cpu_count
        return found

    def _counted(self, key: Key, sums: Sums) -> operations_pb2.Operation:
        found = self._described(key, sums.duration_ns, sums.min_ns, sums.max_ns, sums.offset, sums.counts)
        found.self_s, found.busy_s, found.bare_yields = sums.self_ns / 1e9, sums.busy_ns / 1e9, sums.bare_yields
        return found

    def _described(
        self, key: Key, duration_ns: int, min_ns: int, max_ns: int, offset: int, counts: bytes
    ) -> operations_pb2.Operation:
        return operations_pb2.Operation(
            kind=operations_pb2.OperationKind.ValueType(key.kind),
            name=key.name,
            span_kind=key.span_kind,
            status=key.status,
            frame=0 if key.place is None else self._definer.frame(*key.place),
            route=key.route,
            target=key.target,
            duration=histogram(duration_ns, min_ns, max_ns, offset, counts),
        )


def histogram(sum_ns: int, min_ns: int, max_ns: int, offset: int, counts: bytes) -> operations_pb2.Histogram:
    """From native columns: counts are little-endian uint32 per bucket of scale 4."""
    return operations_pb2.Histogram(
        scale=SCALE,
        offset=offset,
        counts=memoryview(counts).cast("I").tolist(),
        sum_s=sum_ns / 1e9,
        min_s=min_ns / 1e9,
        max_s=max_ns / 1e9,
    )
