"""A bounded queue that would rather lose data than delay the application.

put() never blocks: what cannot be admitted at once, because the lock is held (perhaps by this very thread, interrupted
by a garbage-collection callback), waits in a deque and is admitted by whoever holds the lock. A batch stays until the
collector has acknowledged it, so a lost connection loses nothing; what does not fit is dropped and counted.

What goes first: heap readings are absolute, so the newest is worth most and the oldest goes. A reading that lists only
changes is worth nothing without the complete one it builds on, so they go together, and the next must be complete.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .encode import Encoded


@dataclass(slots=True, eq=False)
class Batch:
    """One batch, numbered.

    stream: number of the wire's Stream. seq: 1, 2, 3, … per stream; a gap tells of dropped batches.
    is_key: does not build on an earlier batch of its stream. store_id: the store whose acknowledged definitions it
    relies on, "" when it relies on none. on_stored, on_lost: called at most one of them, once, in the sender's thread.
    """

    stream: int
    seq: int
    content: Encoded
    rows: int
    is_key: bool
    store_id: str
    on_stored: Callable[[], None] | None
    on_lost: Callable[[str], None] | None
    in_flight: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.content.body) + OVERHEAD_BYTES


OVERHEAD_BYTES = 256
"""What a queued batch costs beside its body: the objects around it, roughly."""


@dataclass(frozen=True)
class QueueStatistics:
    """bytes_held: now, bodies and overhead. dropped: batches lost for want of room or of use, by stream."""

    bytes_held: int
    bytes_max: int
    batches: int
    in_flight_bytes: int
    dropped: dict[int, int]


class BatchQueue:
    """Batches not yet acknowledged, in order. put() from any thread; everything else from the sender's thread."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._arrived: deque[Batch] = deque()
        self._held: deque[Batch] = deque()
        self._bytes_held = 0
        self._in_flight_bytes = 0
        self._last_seq: dict[int, int] = {}
        self._dropped: dict[int, int] = {}
        self._needs_key: set[int] = set()
        self._lost: deque[tuple[Batch, str]] = deque()

    def put(
        self,
        stream: int,
        content: Encoded,
        *,
        rows: int,
        is_key: bool = True,
        store_id: str = "",
        on_stored: Callable[[], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Queues a batch, if need be at the cost of older ones. Never blocks."""
        self._arrived.append(Batch(stream, 0, content, rows, is_key, store_id, on_stored, on_lost))
        if self._lock.acquire(blocking=False):
            try:
                self._admit()
            finally:
                self._lock.release()

    def needs_key(self, stream: int) -> bool:
        """Whether the next batch of this stream must not build on earlier ones."""
        return stream in self._needs_key

    def require_key(self, stream: int) -> None:
        """Makes needs_key() true until a key batch is put."""
        with self._lock:
            self._needs_key.add(stream)

    def next_unsent(self, credit_bytes: int) -> Batch | None:
        """The oldest batch not in flight, if it fits the credit; one alone always fits, or it would wait for ever."""
        with self._lock:
            self._admit()
            for batch in self._held:
                if batch.in_flight:
                    continue
                fits = self._in_flight_bytes == 0 or self._in_flight_bytes + len(batch.content.body) <= credit_bytes
                if not fits:
                    return None
                batch.in_flight = True
                self._in_flight_bytes += len(batch.content.body)
                return batch
        return None

    def acknowledge(self, stream: int, seq: int, store_id: str) -> int:
        """Lets go of all batches of the stream up to seq, which that store has; returns how many there were."""
        with self._lock:
            self._admit()
            stored = [batch for batch in self._held if batch.stream == stream and batch.seq <= seq]
            for batch in stored:
                self._remove(batch)
            for batch in self._held if stored else ():
                if batch.stream != stream:
                    continue
                if batch.is_key:
                    break
                batch.store_id = store_id  # what it builds on is there and nowhere else
        for batch in stored:
            if batch.on_stored is not None:
                batch.on_stored()
        return len(stored)

    def reject(self, stream: int, seq: int, reason: str) -> bool:
        """Lets go of one batch that will never be accepted, and of those that build on it."""
        with self._lock:
            self._admit()
            found = next((batch for batch in self._held if batch.stream == stream and batch.seq == seq), None)
            if found is not None:
                self._drop_from(found, reason, count=False)
        self.report_lost()
        return found is not None

    def rewind(self) -> None:
        """The connection is gone: what was in flight must be sent again."""
        with self._lock:
            self._admit()
            for batch in self._held:
                batch.in_flight = False
            self._in_flight_bytes = 0

    def forget_other_stores(self, store_id: str) -> None:
        """Drops what relies on definitions that only another store knows."""
        with self._lock:
            self._admit()
            while True:
                stranger = next((batch for batch in self._held if batch.store_id not in ("", store_id)), None)
                if stranger is None:
                    break
                self._drop_from(stranger, "the collector's store is a new one", count=True)
        self.report_lost()

    def is_empty(self) -> bool:
        return not self._held and not self._arrived

    def dropped(self, stream: int) -> int:
        return self._dropped.get(stream, 0)

    def statistics(self) -> QueueStatistics:
        with self._lock:
            self._admit()
            return QueueStatistics(
                self._bytes_held, self._bytes_max, len(self._held), self._in_flight_bytes, dict(self._dropped)
            )

    def report_lost(self) -> None:
        """Tells the owners of dropped batches. Apart from dropping, since owners may do anything."""
        while self._lost:
            batch, reason = self._lost.popleft()
            if batch.on_lost is not None:
                batch.on_lost(reason)

    def _admit(self) -> None:
        while self._arrived:
            batch = self._arrived.popleft()
            batch.seq = self._last_seq.get(batch.stream, 0) + 1
            self._last_seq[batch.stream] = batch.seq
            if batch.is_key:
                self._needs_key.discard(batch.stream)
            elif batch.stream in self._needs_key:
                self._count_dropped(batch, "it builds on a reading that was dropped")
                continue
            self._held.append(batch)
            self._bytes_held += batch.size_bytes
            while self._bytes_held > self._bytes_max:
                self._drop_from(self._least_valuable(), "the queue is full", count=True)

    def _least_valuable(self) -> Batch:
        """The oldest of the stream that holds most, sparing what is in flight as long as there is anything else."""
        bytes_by_stream: dict[int, int] = {}
        for batch in self._held:
            bytes_by_stream[batch.stream] = bytes_by_stream.get(batch.stream, 0) + batch.size_bytes
        for stream in sorted(bytes_by_stream, key=lambda stream: -bytes_by_stream[stream]):
            for batch in self._held:
                if batch.stream == stream and not batch.in_flight:
                    return batch
        return self._held[0]

    def _drop_from(self, first: Batch, reason: str, *, count: bool) -> None:
        """Drops a batch and those that build on it; rejected batches are counted elsewhere (count=False)."""
        broken = [first, *self._dependents(first)]
        for batch in broken:
            self._remove(batch)
            if count or batch is not first:
                self._count_dropped(batch, reason)
            else:
                self._lost.append((batch, reason))

    def _dependents(self, first: Batch) -> Iterator[Batch]:
        later = [batch for batch in self._held if batch.stream == first.stream and batch.seq > first.seq]
        for batch in later:
            if batch.is_key:
                return
            yield batch
        # No complete reading follows: whatever is read next would build on what is gone.
        self._needs_key.add(first.stream)

    def _count_dropped(self, batch: Batch, reason: str) -> None:
        self._dropped[batch.stream] = self._dropped.get(batch.stream, 0) + 1
        self._lost.append((batch, reason))

    def _remove(self, batch: Batch) -> None:
        self._held.remove(batch)
        self._bytes_held -= batch.size_bytes
        if batch.in_flight:
            self._in_flight_bytes -= len(batch.content.body)
