"""The record: one JSON document a line, each the whole row after a change, synced before anybody hears of it.

The last line of an id is what counts. A crash may leave half a line at the end, which is passed over and counted. When
there are more lines than rows are kept, the file is written anew beside itself and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from ..model.capture import CaptureRow

NAME = "audit.jsonl"

_FIELDS = {field.name for field in fields(CaptureRow)}


class Audit:
    """One file. Methods raise OSError. Not thread-safe: the store has a lock.

    rows: the last of each id, oldest first. unreadable: lines passed over.
    """

    def __init__(self, directory: Path, rows_max: int) -> None:
        self._path = directory / NAME
        self._rows_max = rows_max
        self._lines = 0
        self.unreadable = 0
        self.rows: dict[str, CaptureRow] = {}
        self._read()
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if not self._ends_well():
            os.write(self._file, b"\n")
        sync_directory(directory)

    def put(self, row: CaptureRow) -> None:
        """Writes a row durably. A failed write changes nothing that is read again."""
        line = _line(row)
        try:
            left = line
            while left:
                left = left[os.write(self._file, left) :]
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.write(self._file, b"\n")  # what was half written ends here
            raise
        self._lines += 1
        self.rows[row.id] = row
        if self._lines > 4 * self._rows_max:
            self._write_anew()

    def forget(self, ids: Iterable[str]) -> None:
        """Drops rows; from the file when it is next written anew, at the latest at a start."""
        for capture_id in ids:
            self.rows.pop(capture_id, None)

    def close(self) -> None:
        os.close(self._file)

    def _read(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.splitlines():
            if not line.strip():
                continue
            self._lines += 1
            try:
                row = _row(line)
            except (ValueError, TypeError, AttributeError):
                self.unreadable += 1
                continue
            self.rows[row.id] = row
        if self._lines > 2 * len(self.rows) + self._rows_max or len(self.rows) > self._rows_max:
            self.forget(list(self.rows)[: max(0, len(self.rows) - self._rows_max)])
            self._replace()

    def _ends_well(self) -> bool:
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _write_anew(self) -> None:
        self._replace()
        os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _replace(self) -> None:
        beside = self._path.with_suffix(".new")
        with beside.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            for row in self.rows.values():
                file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        sync_directory(self._path.parent)
        self._lines = len(self.rows)


def sync_directory(directory: Path) -> None:
    """Makes the names in it durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(row: CaptureRow) -> bytes:
    return json.dumps(asdict(row), separators=(",", ":")).encode() + b"\n"


def _row(line: bytes) -> CaptureRow:
    document = json.loads(line)
    # A field that a newer version has added is passed over.
    return CaptureRow(**{name: value for name, value in document.items() if name in _FIELDS})
