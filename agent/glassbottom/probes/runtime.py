"""Process-wide numbers, read cheaply from the kernel and the garbage collector. Never forces a collection.

Names are OpenTelemetry's where it has them; docs/runtime.md lists all. What the platform does not tell is left out
rather than guessed. Each source is a file of its own: runtime_memory, _split, _gc, _descriptors, _threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .._clock import Clock
from .._config import RuntimeConfig
from .._identity import started_at_ns
from ..transport.encode import encode
from ..transport.queue import BatchQueue
from ..wire.v1 import ingest_pb2, metrics_pb2
from . import ProbeState
from .observations import Observation
from .runtime_descriptors import Descriptors
from .runtime_gc import Collections
from .runtime_memory import ControlGroup, Pss, memory
from .runtime_openers import Openers
from .runtime_split import Split, load
from .runtime_threads import Threads, interpreter_lock

STREAM = int(ingest_pb2.STREAM_METRICS)

Reading = tuple[str, float, Mapping[str, str]]


class RuntimeProbe:
    """Memory, CPU, threads, descriptors and garbage collections, every interval_s.

    observe: told of what is worth telling beside the numbers: where collections begin, who opens descriptors.
    """

    name = "runtime"

    def __init__(
        self,
        config: RuntimeConfig,
        queue: BatchQueue,
        clock: Clock,
        observe: Callable[[Observation], None] = lambda _observation: None,
    ) -> None:
        self.interval_s = config.interval_s
        self._queue = queue
        self._clock = clock
        self._observe = observe
        self._started_at_ns = started_at_ns()
        self._pss = Pss()
        self._split = Split(load())
        self._group = ControlGroup()
        self._collections = Collections()
        self._threads = Threads()
        self._descriptors = Descriptors()
        self._openers = Openers()
        self._read_ms_max = 0.0

    def start(self) -> None:
        self._collections.start()
        self._openers.start()

    def stop(self, timeout_s: float) -> None:  # noqa: ARG002 - there is nothing to wait for
        self._collections.stop()
        self._openers.disarm()

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        """Readings refer to no definitions."""

    def read(self) -> None:
        began_s = time.perf_counter()
        readings = list(self._readings())
        message = metrics_pb2.MetricsSnapshot(
            at_ns=self._clock.time_ns(),
            metrics=[
                metrics_pb2.Metric(name=name, value=value, attributes=attributes)
                for name, value, attributes in readings
            ],
        )
        self._queue.put(STREAM, encode(message.SerializeToString()), rows=len(readings))
        self._read_ms_max = max(self._read_ms_max, (time.perf_counter() - began_s) * 1e3)

    def state(self) -> ProbeState:
        return ProbeState("running")

    def statistics(self) -> Mapping[str, float]:
        return {
            "runtime_read_ms_max": self._read_ms_max,
            "runtime_pss_ms_max": self._pss.seconds_max * 1e3,
            "runtime_split_ms_max": self._split.seconds_max * 1e3,
            "gc_callback_losses_total": self._collections.lost,
            "gc_intervals_unheard_total": self._collections.unheard,
            "descriptor_openers_armed": float(self._openers.armed),
            "descriptor_openers_overflowed_total": self._openers.overflowed,
        }

    def _readings(self) -> Iterator[Reading]:
        now_s, at_ns = self._clock.monotonic_s(), self._clock.time_ns()
        resident_bytes = 0.0
        for reading in memory():
            if reading[0] == "process.memory.usage":
                resident_bytes = reading[1]
            yield reading
        yield from self._pss.read(now_s, resident_bytes)
        yield from self._split.read(now_s)
        yield from self._group.read()
        yield from _process()
        yield "process.uptime", max(0.0, (time.time_ns() - self._started_at_ns) / 1e9), {}
        yield from self._told(*self._collections.read(at_ns))
        yield from self._told(*self._threads.read(at_ns))
        yield from interpreter_lock()
        yield from self._descriptors.read(now_s)
        self._openers.observe(self._descriptors.count)
        if self._openers.armed and self._descriptors.looked:
            yield from self._told([], self._openers.read(at_ns, self._descriptors.links))

    def _told(self, readings: list[Reading], observations: list[Observation]) -> list[Reading]:
        for observation in observations:
            self._observe(observation)
        return readings


def _process() -> Iterator[Reading]:
    """CPU time, context switches and page faults of all threads, and how many there are of every kind."""
    times = os.times()
    yield "process.cpu.time", times.user, {"cpu.mode": "user"}
    yield "process.cpu.time", times.system, {"cpu.mode": "system"}
    try:
        import resource
    except ImportError:
        pass
    else:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield "process.context_switches", usage.ru_nvcsw, {"process.context_switch.type": "voluntary"}
        yield "process.context_switches", usage.ru_nivcsw, {"process.context_switch.type": "involuntary"}
        yield "process.paging.faults", usage.ru_majflt, {"system.paging.fault.type": "major"}
        yield "process.paging.faults", usage.ru_minflt, {"system.paging.fault.type": "minor"}
    try:
        yield "process.thread.count", int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[17]), {}
    except (OSError, ValueError, IndexError):
        return
