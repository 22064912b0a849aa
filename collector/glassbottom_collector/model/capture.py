"""A deep capture, from the first word to the last: what was asked, by whom, and what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

KINDS = ("dump_heap", "dump_memray", "dump_stacks", "dump_cpu", "gc_collect", "malloc_trim", "state")
"""By the names an agent allows them under."""

ORDERED = "ordered"
RUNNING = "running"
UPLOADING = "uploading"
STORED = "stored"
REFUSED = "refused"
FAILED = "failed"
ENDS = frozenset((STORED, REFUSED, FAILED))


@dataclass(frozen=True)
class CaptureRow:
    """The record of one capture; it is kept longer than the file.

    id: 32 hexadecimal digits. kind: one of KINDS. instance_id: empty when the order reached no process. state: as
    above; an end is final. reason: one sentence, when refused or failed. asked_by: a name, as told, and an address.
    seconds, bytes_max, options: as ordered; seconds 0 leaves it to the agent. lease_until_ns: on the collector's clock.
    file_bytes: 0 without a file, or before it is known. stored_bytes: durable here. deleted_at_ns: when the file went
    for its age or to make room. numbers, texts: what the capture tells, with units in the names.
    """

    id: str
    kind: str
    service: str
    instance_id: str
    state: str
    asked_at_ns: int
    asked_by: str
    lease_until_ns: int
    seconds: float = 0.0
    bytes_max: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    ended_at_ns: int = 0
    file_bytes: int = 0
    stored_bytes: int = 0
    deleted_at_ns: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @property
    def has_file(self) -> bool:
        """Whether its file can be read here."""
        return self.state == STORED and self.file_bytes > 0 and self.deleted_at_ns == 0


class CaptureOrders(Protocol):
    """The way to the agents. Called from the event loop's thread."""

    async def order(self, row: CaptureRow) -> CaptureRow:
        """Passes an order on; what became of it so far. Whatever that is, it is recorded. Raises StorageError when it
        cannot be recorded, and then nothing is asked of the agent."""
        ...

    async def refuse(self, row: CaptureRow, reason: str) -> CaptureRow:
        """Records an attempt that is not passed on."""
        ...

    def watch(self, capture_id: str) -> AsyncIterator[CaptureRow]:
        """The row now and whenever it has changed, until it has ended."""
        ...

    async def cancel(self, capture_id: str, reason: str) -> CaptureRow:
        """Calls a capture off that has not ended; what became of it. Raises NotFound."""
        ...
