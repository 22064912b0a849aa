"""The default store: DuckDB files in one directory, owned by one collector, nothing to install or run beside it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...config import StorageConfig
from ...model.process import Span
from .. import StoreStatistics
from .files import Files
from .lock import DirectoryLock
from .portable import Rows, bring_in, take_out
from .reader import EmbeddedReader
from .writer import EmbeddedWriter

__all__ = ["EmbeddedStore", "Rows"]


class EmbeddedStore:
    """A data directory, locked and open: `writer` and `reader` of one store.

    Raises StorageError: directory in use by another collector, not writable, or written by a newer version.
    """

    def __init__(self, config: StorageConfig, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._lock = DirectoryLock(config.path)
        self._config = config
        try:
            self._files = Files(config, clock_ns)
            self.retire()
        except BaseException:
            self._lock.release()
            raise
        self.reader = EmbeddedReader(self._files)
        self.writer = EmbeddedWriter(self._files, config, clock_ns)

    def full(self) -> str:
        """Why nothing is accepted now, in one sentence; empty when it is."""
        return self.writer.full

    def statistics(self) -> StoreStatistics:
        """Counters and gauges, all named `store_…`; problems are day files set aside and a lack of room."""
        values = {
            **self.writer.statistics(),
            **self._files.counters,
            "bytes": self._files.bytes_held(),
            "bytes_max": self._config.bytes_max,
            "bytes_free": self._files.bytes_free(),
            "days": len(self._files.days()),
            "days_attached": self._files.attached(),
            "queue_bytes_max": self._config.queue_bytes_max,
        }
        full = self.full()
        problems = (*self._files.problems(), *([full] if full else []))
        return StoreStatistics({f"store_{name}": float(value) for name, value in values.items()}, problems)

    def take_out(self, service: str, within: Span) -> Rows:
        """Everything of a service in a window, to be put into another store. Raises StorageError."""
        return take_out(self._files, service, within)

    def bring_in(self, rows: Rows) -> None:
        """Puts rows of another store into this one, which must be empty. Raises ArchiveError."""
        bring_in(self._files, rows)

    def retire(self) -> None:
        """Deletes what is beyond the limits now; the writer does so by itself every half minute."""
        self._files.retire()

    def hurry(self) -> None:
        """From now on everything is committed as soon as it comes; for a drain, which waits for acknowledgements."""
        self.writer.hurry()

    def close(self) -> None:
        """Commits what has been given, writes everything back, and unlocks the directory."""
        self.writer.close()
        self._files.close()
        self._lock.release()
