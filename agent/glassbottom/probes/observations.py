"""Single things worth telling, from any probe and any thread, bounded: docs/observations.md lists the kinds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType

from .._clock import Clock
from ..transport.queue import BatchQueue
from ..wire.v1 import ingest_pb2, observations_pb2
from . import ProbeState
from .definitions import Definer
from .heap_symbols import presentable

STREAM = int(ingest_pb2.STREAM_OBSERVATIONS)
WAITING_MAX = 1000
ATTRIBUTES_MAX = 32
ATTRIBUTE_CHARACTERS_MAX = 1024
NAME_CHARACTERS_MAX = 255


@dataclass(frozen=True)
class Observation:
    """One thing, or several alike.

    at_ns: Unix epoch. kind: such as "loop.blocked". value: in the unit of the kind. place: (function, file, line).
    path: code objects with byte offsets, innermost first. label: the route that was served.
    """

    at_ns: int
    kind: str
    name: str
    value: float = 0.0
    count: int = 1
    place: tuple[str, str, int] | None = None
    path: Sequence[tuple[CodeType, int]] = ()
    label: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


class ObservationsProbe:
    """Sends what was observed, every interval_s."""

    name = "observations"

    def __init__(self, interval_s: float, queue: BatchQueue, clock: Clock) -> None:
        self.interval_s = interval_s
        self._queue = queue
        self._clock = clock
        self._definer = Definer()
        self._waiting: deque[Observation] = deque()
        self._dropped = 0

    def observe(self, observation: Observation) -> None:
        """Keeps it for the next reading. Any thread; never blocks; beyond WAITING_MAX it is counted and dropped."""
        if len(self._waiting) >= WAITING_MAX:
            self._dropped += 1
        else:
            self._waiting.append(observation)

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self, timeout_s: float) -> None:
        """Nothing to end."""

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        self._definer.welcomed(store_id, store_changed)

    def read(self) -> None:
        rows = []
        while self._waiting:
            rows.append(self._message(self._waiting.popleft()))
        if rows:
            message = observations_pb2.ObservationsSnapshot(
                at_ns=self._clock.time_ns(), observations=rows, dropped=self._dropped
            )
            self._definer.put(self._queue, STREAM, message, rows=len(rows))

    def state(self) -> ProbeState:
        return ProbeState("running")

    def statistics(self) -> Mapping[str, float]:
        return {
            "observations_waiting": len(self._waiting),
            "observations_waiting_max": WAITING_MAX,
            "observations_dropped_total": self._dropped,
        }

    def _message(self, seen: Observation) -> observations_pb2.Observation:
        attributes = list(seen.attributes.items())[:ATTRIBUTES_MAX]
        return observations_pb2.Observation(
            at_ns=seen.at_ns,
            kind=seen.kind,
            name=presentable(seen.name)[:NAME_CHARACTERS_MAX],
            frame=0 if seen.place is None else self._definer.frame(*seen.place),
            stack=self._definer.path(seen.path, label=seen.label) if seen.path else 0,
            value=seen.value,
            count=max(1, seen.count),
            attributes={
                presentable(name)[:NAME_CHARACTERS_MAX]: presentable(value)[:ATTRIBUTE_CHARACTERS_MAX]
                for name, value in attributes
            },
        )
