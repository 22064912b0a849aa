"""One collector per data directory.

DuckDB refuses a second process only once a file is open, with a message about a lock; this refuses before anything
is touched, and names who holds it. The kernel releases the lock when the process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ...errors import StorageError

NAME = "collector.lock"


class DirectoryLock:
    """Held from construction to release(). Raises StorageError: held by another process, or no such permission."""

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(
                f"The data directory {directory} cannot be used: {error.strerror}; "
                "choose another with --data, or mend its permissions."
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StorageError(
                f"The data directory {directory} is in use by another collector (pid {holder}): "
                "stop that one, or choose another directory with --data."
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets another collector in. The file stays: removing it would race with one that is just opening it."""
        os.ftruncate(self._file, 0)
        os.close(self._file)
