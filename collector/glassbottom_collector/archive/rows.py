"""The store's own rows of an incident: into the archive, and out of it into a store that answers as the live one did.

So everything that can be asked of a running collector can be asked of an archive, offline and anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from ..config import StorageConfig
from ..errors import ArchiveError, StorageError
from ..incident.parts import CollectingError, Planned, Sink
from ..model.process import Span
from ..storage import Reader
from .opened import Opened

DIRECTORY = "state/rows"
TEXTS = f"{DIRECTORY}/texts.json"
RETENTION_DAYS = 36_500
"""An archive is read as it is, however old."""


class TakenOut(Protocol):
    """As storage.embedded.Rows."""

    @property
    def texts(self) -> tuple[str, ...]: ...

    @property
    def tables(self) -> Mapping[str, bytes]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


@dataclass
class RowsCollector:
    """Brings the rows of a service and window. take_out: as EmbeddedStore.take_out."""

    service: str
    within: Span
    take_out: Callable[[str, Span], TakenOut]
    name: str = "collector.rows"
    budget_s: float = 15.0

    def plan(self) -> Sequence[Planned]:
        seconds = (self.within.to_ns - self.within.from_ns) / 1e9
        return [Planned(f"rows of {self.service}, {seconds:.0f} s and 15 minutes before", "store", "collector")]

    def collect(self, sink: Sink, deadline_s: float) -> None:  # noqa: ARG002 - the store is quick, or fails
        try:
            rows = self.take_out(self.service, self.within)
        except StorageError as error:
            raise CollectingError(str(error)) from None
        sink.json(TEXTS, list(rows.texts), node="store", role="collector")
        for path, data in sorted(rows.tables.items()):
            sink.numbers(f"{DIRECTORY}/{path}", data, node="store", role="collector")
        for note in rows.notes:
            sink.note(note)


@dataclass(frozen=True)
class ArchivedRows:
    """What bring_in() of a store wants."""

    texts: tuple[str, ...]
    tables: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


class Filled(Protocol):
    """A store that was made for this."""

    @property
    def reader(self) -> Reader: ...

    def close(self) -> None: ...


def rows_of(archive: Opened) -> ArchivedRows:
    """The rows in an archive. Raises ArchiveError when there are none."""
    texts = archive.json(TEXTS)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ArchiveError(f"{TEXTS} in the archive is no list of texts.")
    tables = {path: data for path, data in archive.below(DIRECTORY).items() if path.endswith(".parquet")}
    return ArchivedRows(tuple(texts), tables)


def last_moment_ns(archive: Opened) -> int:
    """When it was captured: what `now` means to whoever asks it."""
    at_ns = archive.manifest.get("to_ns")
    if not isinstance(at_ns, int) or isinstance(at_ns, bool) or at_ns <= 0:
        raise ArchiveError("The manifest does not say when the archive was captured.")
    return at_ns


@contextmanager
def store_of(
    archive: Opened, make: Callable[[StorageConfig, Callable[[], int], ArchivedRows], Filled]
) -> Iterator[tuple[Filled, Path]]:
    """A store with the rows of an archive, for as long as the block runs, and the directory it lies in. make: opens an
    empty store and fills it; only a composition root knows which kind."""
    rows, at_ns = rows_of(archive), last_moment_ns(archive)
    with TemporaryDirectory(prefix="glassbottom-archive-") as directory:
        store = make(StorageConfig(path=Path(directory), retention_days=RETENTION_DAYS), lambda: at_ns, rows)
        try:
            yield store, Path(directory)
        finally:
            store.close()
