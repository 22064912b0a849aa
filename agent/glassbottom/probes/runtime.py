"""Process-wide numbers, read cheaply from the kernel and the garbage collector. Never forces a collection.

Names are OpenTelemetry's where it has them. What the platform does not tell is left out rather than guessed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from .._clock import Clock
from .._config import RuntimeConfig
from .._identity import started_at_ns
from ..transport.encode import encode
from ..transport.queue import BatchQueue
from ..wire.v1 import ingest_pb2, metrics_pb2
from . import ProbeState

STREAM = int(ingest_pb2.STREAM_METRICS)
DESCRIPTORS_COUNTED_MAX = 65_536

Reading = tuple[str, float, Mapping[str, str]]


class RuntimeProbe:
    """Memory, CPU, threads, descriptors and garbage collections, every interval_s."""

    name = "runtime"

    def __init__(self, config: RuntimeConfig, queue: BatchQueue, clock: Clock) -> None:
        self.interval_s = config.interval_s
        self._queue = queue
        self._clock = clock
        self._started_at_ns = started_at_ns()

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self, timeout_s: float) -> None:
        """Nothing to end."""

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        """Readings refer to no definitions."""

    def read(self) -> None:
        readings = list(self._readings())
        message = metrics_pb2.MetricsSnapshot(
            at_ns=self._clock.time_ns(),
            metrics=[
                metrics_pb2.Metric(name=name, value=value, attributes=attributes)
                for name, value, attributes in readings
            ],
        )
        self._queue.put(STREAM, encode(message.SerializeToString()), rows=len(readings))

    def state(self) -> ProbeState:
        return ProbeState("running")

    def statistics(self) -> Mapping[str, float]:
        return {}

    def _readings(self) -> Iterator[Reading]:
        yield from memory()
        times = os.times()
        yield "process.cpu.time", times.user, {"cpu.mode": "user"}
        yield "process.cpu.time", times.system, {"cpu.mode": "system"}
        yield from threads_and_descriptors()
        yield "process.uptime", max(0.0, (time.time_ns() - self._started_at_ns) / 1e9), {}
        for generation, counts in enumerate(gc.get_stats()):
            attributes = {"cpython.gc.generation": str(generation)}
            yield "cpython.gc.collections", counts["collections"], attributes
            yield "cpython.gc.collected_objects", counts["collected"], attributes
            yield "cpython.gc.uncollectable_objects", counts["uncollectable"], attributes


def memory() -> Iterator[Reading]:
    """Resident and virtual memory from one short line of /proc, which costs the kernel no walk over pages."""
    with contextlib.suppress(OSError, ValueError):
        size_pages, resident_pages = (int(field) for field in Path("/proc/self/statm").read_bytes().split()[:2])
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        yield "process.memory.usage", resident_pages * page_bytes, {}
        yield "process.memory.virtual", size_pages * page_bytes, {}


def threads_and_descriptors() -> Iterator[Reading]:
    """Threads of every kind, not only Python's, and open file descriptors."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        yield "process.thread.count", int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[17]), {}
    with contextlib.suppress(OSError):
        # Since Linux 6.2 the size of the directory is the number of descriptors; counting 50 000 takes a while.
        count = Path("/proc/self/fd").stat().st_size
        if count == 0:
            with os.scandir("/proc/self/fd") as entries:
                count = sum(1 for _ in zip(entries, range(DESCRIPTORS_COUNTED_MAX), strict=False)) - 1
        yield "process.unix.file_descriptor.count", count, {}
