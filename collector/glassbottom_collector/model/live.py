"""Processes that are connected now, as the ingest side knows them and the query side may ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .process import Process


@dataclass(frozen=True)
class InstanceLive:
    """A process that is connected, or was within the last hour.

    sampler_state is "running", "refused", "paused", "stopped" or "unknown" (no heartbeat yet); statistics are the
    agent's own counters from its last heartbeat (docs/status.md); clock_skew_s is collector clock minus agent clock.
    """

    process: Process
    agent_version: str
    connected: bool
    last_seen_ns: int
    sampler_state: str
    sampler_reason: str
    statistics: Mapping[str, float]
    clock_skew_s: float


@dataclass(frozen=True)
class CommandAnswer:
    """How a command ended in one process; outcome is "done", "refused" or "failed", reason is empty when done."""

    instance_id: str
    outcome: str
    reason: str


class LiveInstances(Protocol):
    """What is connected, and a way to ask it for something. Methods are called from the event loop's thread."""

    def instances(self) -> Sequence[InstanceLive]:
        """Connected processes and those lost within the last hour, by service and start."""
        ...

    async def take_snapshot(
        self, instance_ids: Sequence[str], timeout_s: float, label: str = ""
    ) -> Sequence[CommandAnswer]:
        """Asks connected processes for a heap snapshot under a name, which may be empty; returns when it is durable, or
        the deadline has passed."""
        ...
