"""What we can see of the process; one file each. PROBES is the whole list.

A probe reads when the agent's thread asks it to, puts what it read into the queue, and never touches the network. One
that fails again and again is turned off by the guard, the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .._clock import Clock
from .._config import Config
from .._guard import Guard
from ..transport.queue import BatchQueue


@dataclass(frozen=True)
class ProbeState:
    """state: "running", "paused", "refused" or "stopped"; reason: why it is not running, one sentence, else ""."""

    state: str
    reason: str = ""


class Probe(Protocol):
    """One source of readings. All methods but start() and stop() run in the agent's thread."""

    name: str
    interval_s: float

    def start(self) -> None:
        """Begins to watch. Called in the application's thread, so quick; refuses by its state, not by raising."""
        ...

    def stop(self, timeout_s: float) -> None:
        """Ends watching and any thread of its own, within timeout_s."""
        ...

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        """There is a connection to a store, which is perhaps new and knows no definitions."""
        ...

    def read(self) -> None:
        """Reads and queues."""
        ...

    def state(self) -> ProbeState: ...

    def statistics(self) -> Mapping[str, float]:
        """By the names in docs/status.md."""
        ...


def build(config: Config, queue: BatchQueue, clock: Clock, guard: Guard) -> list[Probe]:
    """The probes this configuration asks for."""
    from .heap import HeapProbe
    from .observations import ObservationsProbe
    from .operations import OperationsProbe
    from .runtime import RuntimeProbe
    from .tasks import TasksProbe
    from .threads import ProfileProbe

    operations = OperationsProbe(config.spans.interval_s, queue, clock)
    observations = ObservationsProbe(config.spans.interval_s, queue, clock)
    probes: list[Probe] = []
    if config.heap.enabled:
        probes.append(HeapProbe(config.heap, queue, clock, guard))
    if config.runtime.enabled:
        probes.append(RuntimeProbe(config.runtime, queue, clock, observations.observe))
    if config.profile.enabled or config.asyncio.enabled:
        probes.append(ProfileProbe(config.profile, config.asyncio, queue, clock, guard))
    if config.asyncio.enabled:
        probes.append(TasksProbe(config.asyncio, queue, clock, guard, operations, observations.observe))
    if config.spans.enabled:
        from ..spans.probe import SpansProbe

        probes.append(SpansProbe(config.spans, clock, guard, operations.recorder, observations.observe))
    # Last, so that what the others have added in the same round goes with it.
    return [*probes, operations, observations]
