"""Where archives are kept: one file each and a record beside it, which outlives it.

A record is written after its archive is durable, and replaced by renaming, so whatever has a record is whole. What is
left over from a crash has none and goes at the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..errors import NotFound, StorageError
from ..model.incident import FAILED, PARTIAL, STORED, IncidentRow
from .assemble import Archive, Subject

DAY_NS = 86_400 * 1_000_000_000
PIECE_BYTES_MAX = 256 << 10

_log = logging.getLogger(__name__)
_FIELDS = {field.name for field in fields(IncidentRow)}


@dataclass(frozen=True)
class Limits:
    """bytes_max: all archives together; the oldest goes first. records_max: of the list. retention_days: age of an
    archive."""

    bytes_max: int
    records_max: int
    retention_days: int


class IncidentStore:
    """One directory, owned by one collector. Any thread; those that only ask never wait for a disk."""

    def __init__(self, directory: Path, limits: Limits, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Raises StorageError when the directory cannot be used."""
        self._directory = directory
        self._limits = limits
        self._clock_ns = clock_ns
        self._lock = threading.Lock()  # of the rows in memory; nothing is written under it
        self._reserved_ids: set[str] = set()
        self.unreadable = 0
        self.deleted_total = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._rows = {row.id: row for row in self._read_all()}
            self._sweep()
        except OSError as error:
            raise StorageError(f"Incidents cannot be kept in {directory}: {error.strerror}.") from error
        self.retire()

    def put(self, subject: Subject, archive: Archive) -> IncidentRow:
        """Keeps an archive. Raises StorageError when there is no room; then nothing is left of it."""
        row = IncidentRow(
            id=self._reserved(archive.id),
            issue=subject.issue,
            service=subject.service,
            at_ns=subject.to_ns,
            asked_by=subject.asked_by,
            trigger=subject.trigger,
            state=STORED if archive.complete else PARTIAL,
            file_bytes=len(archive.data),
            sha256=hashlib.sha256(archive.data).hexdigest(),
        )
        try:
            self._write(self._archive(row.id), archive.data)
            self._record(row)
        except StorageError:
            self._archive(row.id).unlink(missing_ok=True)
            self._let_go(row.id)
            raise
        self.retire()
        return row

    def put_failed(self, subject: Subject, identity: str, reason: str) -> IncidentRow:
        """Remembers that there is no archive, and why. Raises StorageError."""
        row = IncidentRow(
            id=self._reserved(identity),
            issue=subject.issue,
            service=subject.service,
            at_ns=subject.to_ns,
            asked_by=subject.asked_by,
            trigger=subject.trigger,
            state=FAILED,
            reason=reason,
        )
        try:
            self._record(row)
        except StorageError:
            self._let_go(row.id)
            raise
        return row

    def list(self, service: str, limit: int) -> list[IncidentRow]:
        """The latest first; of all services when service is empty."""
        with self._lock:
            rows = [row for row in self._rows.values() if not service or row.service == service]
        return sorted(rows, key=lambda row: (row.at_ns, row.id), reverse=True)[:limit]

    def get(self, name: str) -> IncidentRow:
        """By id, or the latest of an issue. Raises NotFound."""
        with self._lock:
            row = self._rows.get(name)
            of_issue = [row for row in self._rows.values() if row.issue == name]
        if row is None and of_issue:
            row = max(of_issue, key=lambda row: (row.at_ns, row.id))
        if row is None:
            raise NotFound(f"No incident is called {name}; `glassbottom capture --list` shows those that are kept.")
        return row

    def path_of(self, identity: str) -> Path:
        """The archive. Raises NotFound when it is not there any more, or never was."""
        row = self.get(identity)
        if row.state == FAILED:
            raise NotFound(f"Incident {row.id} has no archive: {row.reason}")
        if not row.has_file:
            raise NotFound(f"The archive of incident {row.id} was deleted for its age, or to make room.")
        return self._archive(row.id)

    def retire(self) -> None:
        """Deletes archives that are too old or too many, the oldest first, and then records."""
        now_ns = self._clock_ns()
        with self._lock:
            rows = sorted(self._rows.values(), key=lambda row: row.at_ns)
        total = sum(row.file_bytes for row in rows if row.has_file)
        for row in [row for row in rows if row.has_file]:
            if total <= self._limits.bytes_max and now_ns - row.at_ns <= self._limits.retention_days * DAY_NS:
                break
            self._archive(row.id).unlink(missing_ok=True)
            total -= row.file_bytes
            self.deleted_total += 1
            with contextlib.suppress(StorageError):  # its file is gone, which is seen when it is asked for
                self._record(replace(row, deleted_at_ns=now_ns))
        for row in rows[: max(0, len(rows) - self._limits.records_max)]:
            self._archive(row.id).unlink(missing_ok=True)
            self._about(row.id).unlink(missing_ok=True)
            with self._lock:
                self._rows.pop(row.id, None)

    def statistics(self) -> dict[str, float]:
        """Gauges and counters by name."""
        with self._lock:
            kept = [row for row in self._rows.values() if row.has_file]
        return {
            "incidents_kept": float(len(self._rows)),
            "incidents_max": float(self._limits.records_max),
            "incident_bytes": float(sum(row.file_bytes for row in kept)),
            "incident_bytes_max": float(self._limits.bytes_max),
            "incidents_deleted_total": float(self.deleted_total),
            "incidents_unreadable": float(self.unreadable),
        }

    # Files

    def _archive(self, identity: str) -> Path:
        return self._directory / f"{identity}.tar.gz"

    def _about(self, identity: str) -> Path:
        return self._directory / f"{identity}.json"

    def _reserved(self, wanted: str) -> str:
        """An id that nobody has, and nobody will get."""
        with self._lock:
            number = 1
            found = wanted
            while found in self._rows or found in self._reserved_ids:
                number += 1
                found = f"{wanted}_{number}"
            self._reserved_ids.add(found)
        return found

    def _record(self, row: IncidentRow) -> None:
        self._write(self._about(row.id), (json.dumps(asdict(row), sort_keys=True) + "\n").encode())
        with self._lock:
            self._rows[row.id] = row
            self._reserved_ids.discard(row.id)

    def _let_go(self, identity: str) -> None:
        with self._lock:
            self._reserved_ids.discard(identity)

    def _write(self, path: Path, data: bytes) -> None:
        beside = path.with_name(f"{path.name}.part")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise StorageError(f"An incident cannot be kept in {self._directory}: {error.strerror}.") from error

    def _read_all(self) -> Iterator[IncidentRow]:
        for path in sorted(self._directory.glob("debug_*.json")):
            row = _row_in(path)
            if row is None:
                self.unreadable += 1
                _log.warning("the record %s cannot be read and is passed over", path)
            else:
                yield row

    def _sweep(self) -> None:
        for path in self._directory.glob("debug_*.tar.gz*"):
            if path.name.removesuffix(".tar.gz") not in self._rows:
                path.unlink(missing_ok=True)
        for path in self._directory.glob("*.part"):
            path.unlink(missing_ok=True)


def _row_in(path: Path) -> IncidentRow | None:
    try:
        row = IncidentRow(**{name: value for name, value in json.loads(path.read_bytes()).items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError, OSError):
        return None
    return row if row.id == path.name.removesuffix(".json") else None
