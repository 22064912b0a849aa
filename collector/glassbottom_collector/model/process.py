"""Who sent the data, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Span:
    """Half-open range of time, nanoseconds since the Unix epoch."""

    from_ns: int
    to_ns: int

    def __post_init__(self) -> None:
        if self.to_ns <= self.from_ns:
            raise ValueError(f"The range ends ({self.to_ns}) before it begins ({self.from_ns}).")

    @property
    def seconds(self) -> float:
        """Length."""
        return (self.to_ns - self.from_ns) / 1e9


@dataclass(frozen=True)
class Process:
    """One incarnation of one process; `instance_id` is 32 hexadecimal digits."""

    service: str
    instance_id: str
    pid: int
    started_at_ns: int
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProcessSeen:
    """A process, and when its data begins and ends."""

    process: Process
    agent_version: str
    first_seen_ns: int
    last_seen_ns: int
