"""A collector that has the rows of one archive and nothing else, for as long as somebody asks it.

Part of the composition, as server.py: with the archive's moment for a clock, every question is answered as it would
have been when the archive was captured.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .archive.opened import Opened
from .archive.rows import ArchivedRows, store_of
from .config import CollectorConfig, ListenConfig, StorageConfig
from .server import start
from .storage.embedded import EmbeddedStore, Rows

START_S = 60.0
STOP_S = 30.0


@contextmanager
def answering(archive: Opened) -> Iterator[str]:
    """Its HOST:PORT on the loopback interface. Raises ArchiveError when the archive's rows cannot be read."""
    with store_of(archive, _filled) as (store, directory):
        assert isinstance(store, EmbeddedStore)
        config = CollectorConfig(listen=ListenConfig(port=0), storage=StorageConfig(path=directory))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="glassbottom-archive", daemon=True)
        thread.start()
        try:
            clock = _clock_of(archive)
            collector = asyncio.run_coroutine_threadsafe(start(config, store, clock), loop).result(START_S)
            try:
                yield collector.address
            finally:
                asyncio.run_coroutine_threadsafe(collector.stop(), loop).result(STOP_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_S)


def _clock_of(archive: Opened) -> Callable[[], int]:
    at_ns = int(archive.manifest["to_ns"])
    return lambda: at_ns


def _filled(config: StorageConfig, clock_ns: Callable[[], int], rows: ArchivedRows) -> EmbeddedStore:
    store = EmbeddedStore(config, clock_ns)
    try:
        store.bring_in(Rows(rows.texts, rows.tables))
    except BaseException:
        store.close()
        raise
    return store
