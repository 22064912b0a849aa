"""Files of captures as they arrive, and for as long as they are kept.

    captures/audit.jsonl                 the record of every attempt
    captures/<id>.<kind>.part            what has arrived of a file
    captures/<id>.<kind>                 a file that is complete

A file is written from its beginning, each piece synced before it is acknowledged, so that after any crash what was
acknowledged is there. The oldest files go first when all together are too large or too old; their rows stay. Everything
may be called from any thread; one capture is written by one caller at a time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import CapturesConfig
from ..errors import BadRequest, NotFound, StorageError, StorageFull
from ..model.capture import FAILED, STORED, UPLOADING, CaptureRow
from .audit import Audit, sync_directory

PIECE_BYTES_MAX = 256 * 1024
FREE_BYTES_MIN = 128 * 1024 * 1024
"""Left on the file system for the data of every day, which is worth more."""
DAY_NS = 86_400 * 10**9
PART = ".part"


class CaptureStore:
    """A directory of captures, made where there is none. Raises StorageError when it cannot be used."""

    def __init__(self, directory: Path, limits: CapturesConfig, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.limits = limits
        self.directory = directory
        self._clock_ns = clock_ns
        self._lock = threading.RLock()
        self._files_deleted = 0
        self._bytes_received = 0
        self._rows_failed = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._audit = Audit(directory, limits.records_max)
            self._clear_left_overs()
        except OSError as error:
            raise StorageError(f"The directory of captures {directory} cannot be used: {error.strerror}.") from error
        self.retire()

    # Rows

    def open(self, row: CaptureRow) -> CaptureRow:
        """Records a new row. Raises StorageError."""
        with self._lock:
            self._put(row)
            return row

    def change(self, capture_id: str, **changes: Any) -> CaptureRow:
        """Records a change of a row that has not ended; the row as it then is. Raises NotFound, StorageError.

        A capture that came to nothing has ended also when that cannot be recorded: a start finds it without an end,
        and its lease over.
        """
        with self._lock:
            row = self._row(capture_id)
            if row.ended:
                return row
            changed = replace(row, **changes)
            if not changed.ended:
                self._put(changed)
                return changed
            changed = replace(changed, ended_at_ns=self._clock_ns())
            if changed.state == STORED:
                self._put(changed)
                return changed
            self._unlink(self._part(changed))
            with contextlib.suppress(StorageError):
                self._put(changed)
            self._audit.rows[changed.id] = changed
        return changed

    def get(self, capture_id: str) -> CaptureRow:
        """The row of an id, or of a prefix that only one has. Raises NotFound, BadRequest."""
        with self._lock:
            if capture_id in self._audit.rows:
                return self._audit.rows[capture_id]
            found = [row for row in self._audit.rows.values() if capture_id and row.id.startswith(capture_id)]
        if len(found) == 1:
            return found[0]
        if found:
            raise BadRequest(f"{len(found)} captures have an id that begins with {capture_id}; give more of it.")
        raise NotFound(
            f"There is no capture {capture_id or 'without an id'}; `glassbottom captures` lists what was asked for."
        )

    def find(self, capture_id: str) -> CaptureRow | None:
        """The row of exactly that id."""
        with self._lock:
            return self._audit.rows.get(capture_id)

    def list(self, service: str = "", limit: int = 100) -> list[CaptureRow]:
        """The latest first; of one service, or of all."""
        with self._lock:
            rows = [row for row in self._audit.rows.values() if not service or row.service == service]
        rows.sort(key=lambda row: (row.asked_at_ns, row.id), reverse=True)
        return rows[:limit]

    def unended(self) -> tuple[CaptureRow, ...]:
        """Captures whose last word has not been heard."""
        with self._lock:
            return tuple(row for row in self._audit.rows.values() if not row.ended)

    def path_of(self, capture_id: str) -> Path:
        """The file of a stored capture. Raises NotFound with what became of it, BadRequest."""
        row = self.get(capture_id)
        if not row.has_file:
            raise NotFound(_no_file(row))
        return self._path(row)

    # Files

    def begin(self, capture_id: str, file_bytes: int) -> CaptureRow:
        """Makes room for a file; the row says how much of it is here already. Raises StorageFull, StorageError."""
        with self._lock:
            row = self._row(capture_id)
            if row.state != UPLOADING:
                self._make_room(file_bytes)
                row = self.change(capture_id, state=UPLOADING, file_bytes=file_bytes, stored_bytes=0)
            return row

    def write(self, capture_id: str, offset: int, data: bytes) -> CaptureRow:
        """Stores the next piece durably; the row says how far it is. Raises StorageError; StorageFull without room."""
        with self._lock:
            row = self._row(capture_id)
        if row.ended:
            return row
        try:
            descriptor = os.open(self._part(row), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(descriptor, data[written:], offset + written)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if offset == 0:
                sync_directory(self.directory)
        except OSError as error:
            raise _storage_error(error) from error
        with self._lock:
            row = self._row(capture_id)
            if row.ended:
                self._unlink(self._part(row))
                return row
            self._bytes_received += len(data)
            # Not in the record: after a restart the length of the file says it.
            row = replace(row, stored_bytes=max(row.stored_bytes, offset + len(data)))
            self._audit.rows[row.id] = row
        return row

    def complete(self, capture_id: str) -> CaptureRow:
        """All of the file is here. Raises StorageError."""
        with self._lock:
            row = self._row(capture_id)
            if row.ended:
                return row
            try:
                self._part(row).replace(self._path(row))
                sync_directory(self.directory)
            except OSError as error:
                raise _storage_error(error) from error
            row = self.change(capture_id, state=STORED)
            self.retire()
        return row

    def retire(self) -> None:
        """Deletes files beyond the limits, the oldest first, and forgets rows beyond their number."""
        now_ns = self._clock_ns()
        with self._lock:
            kept = [row for row in self.list(limit=len(self._audit.rows)) if row.has_file]
            held = 0
            for at, row in enumerate(kept):
                held += row.file_bytes
                too_old = now_ns - row.ended_at_ns > self.limits.retention_days * DAY_NS
                # The newest stays even where it alone is too large: somebody has just waited for it.
                if too_old or (held > self.limits.bytes_max and at > 0):
                    self._delete(row)
                    held -= row.file_bytes
            beyond = self.list(limit=len(self._audit.rows))[self.limits.records_max :]
            for row in beyond:
                if row.has_file:
                    self._delete(row)
            self._audit.forget(row.id for row in beyond if row.ended)

    def statistics(self) -> Mapping[str, float]:
        """Counters and gauges, all named `captures_…`."""
        with self._lock:
            rows = list(self._audit.rows.values())
            return {
                "captures_rows": float(len(rows)),
                "captures_rows_max": float(self.limits.records_max),
                "captures_rows_unreadable_total": float(self._audit.unreadable),
                "captures_rows_unwritten_total": float(self._rows_failed),
                "captures_under_way": float(sum(not row.ended for row in rows)),
                "captures_files": float(sum(row.has_file for row in rows)),
                "captures_bytes": float(sum(row.file_bytes for row in rows if row.has_file)),
                "captures_bytes_max": float(self.limits.bytes_max),
                "captures_bytes_received_total": float(self._bytes_received),
                "captures_files_deleted_total": float(self._files_deleted),
            }

    def close(self) -> None:
        with self._lock:
            self._audit.close()

    # Below, the lock is held.

    def _row(self, capture_id: str) -> CaptureRow:
        row = self._audit.rows.get(capture_id)
        if row is None:
            raise NotFound(f"There is no capture {capture_id}.")
        return row

    def _put(self, row: CaptureRow) -> None:
        try:
            self._audit.put(row)
        except OSError as error:
            self._rows_failed += 1
            raise _storage_error(error) from error

    def _make_room(self, file_bytes: int) -> None:
        status = os.statvfs(self.directory)
        free = status.f_bavail * status.f_frsize
        for row in reversed(self.list(limit=len(self._audit.rows))):
            held = sum(each.file_bytes for each in self._audit.rows.values() if each.has_file)
            if held + file_bytes <= self.limits.bytes_max and free - file_bytes >= FREE_BYTES_MIN:
                return
            if row.has_file:
                self._delete(row)
                free += row.file_bytes
        if free - file_bytes < FREE_BYTES_MIN:
            raise StorageFull(
                f"The collector has {free >> 20} MiB left on the disk of its captures, which is too little for a file "
                f"of {file_bytes >> 20} MiB; make room there."
            )

    def _delete(self, row: CaptureRow) -> None:
        self._unlink(self._path(row))
        self._files_deleted += 1
        with contextlib.suppress(StorageError):  # the file is gone all the same, and a start finds that out
            self._put(replace(row, deleted_at_ns=self._clock_ns()))

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def _path(self, row: CaptureRow) -> Path:
        return self.directory / f"{row.id}.{row.kind}"

    def _part(self, row: CaptureRow) -> Path:
        return self.directory / f"{row.id}.{row.kind}{PART}"

    def _clear_left_overs(self) -> None:
        """At a start: parts of captures nobody waits for, files whose row was lost, rows whose file is gone."""
        for row in list(self._audit.rows.values()):
            if row.state == UPLOADING:
                self._resume(row)
            elif row.has_file and not self._path(row).exists():
                self._audit.put(replace(row, deleted_at_ns=self._clock_ns()))
        wanted = {self._part(row) for row in self._audit.rows.values() if row.state == UPLOADING}
        wanted |= {self._path(row) for row in self._audit.rows.values() if row.has_file}
        for path in self.directory.iterdir():
            if path not in wanted and not path.name.startswith("audit."):
                self._unlink(path)

    def _resume(self, row: CaptureRow) -> None:
        if self._path(row).exists() and self._path(row).stat().st_size == row.file_bytes:
            # Between the renaming and the row.
            self._audit.put(replace(row, state=STORED, stored_bytes=row.file_bytes, ended_at_ns=self._clock_ns()))
            return
        try:
            there = self._part(row).stat().st_size
        except FileNotFoundError:
            there = 0
        # The last piece may not have reached the disk when the power failed; those before it were synced.
        durable = max(0, min(there, row.file_bytes) - PIECE_BYTES_MAX)
        self._audit.rows[row.id] = replace(row, stored_bytes=durable)


def _storage_error(error: OSError) -> StorageError:
    kind = StorageFull if error.errno in (27, 28, 122) else StorageError  # too large, no space, quota
    return kind(f"The collector cannot write to its directory of captures: {error.strerror}.")


def _no_file(row: CaptureRow) -> str:
    if row.deleted_at_ns:
        return f"The file of capture {row.id} was deleted for its age or to make room; order it again."
    if row.state == STORED:
        return f"Capture {row.id} has no file; `glassbottom captures` shows what it told."
    if row.state == FAILED or row.reason:
        return f"Capture {row.id} has no file: {row.reason or 'it failed.'}"
    return f"Capture {row.id} is not complete yet; it is {row.state}."
