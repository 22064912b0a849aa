"""A captured incident: what was asked, by whom, and where its archive is."""

from __future__ import annotations

from dataclasses import dataclass

STORED = "stored"
PARTIAL = "partial"
FAILED = "failed"

COMMAND = "command"
LEAK = "leak"
SLO = "slo"
SIGNAL = "signal"
TRIGGERS = (COMMAND, LEAK, SLO, SIGNAL)


@dataclass(frozen=True)
class IncidentRow:
    """The record of one incident; it is kept longer than the archive.

    id: `debug_YYYYMMDD_HHMMSS` in UTC, with `_2` behind it for a second one. state: stored, partial (some collectors
    did not do their work; the archive says which) or failed (there is no archive; reason says why). trigger: one of
    TRIGGERS. sha256: 64 hexadecimal digits. deleted_at_ns: when the archive went for its age or to make room.
    """

    id: str
    issue: str
    service: str
    at_ns: int
    asked_by: str
    trigger: str
    state: str
    reason: str = ""
    file_bytes: int = 0
    sha256: str = ""
    deleted_at_ns: int = 0

    @property
    def has_file(self) -> bool:
        """Whether its archive can be read here."""
        return self.state != FAILED and self.file_bytes > 0 and self.deleted_at_ns == 0
