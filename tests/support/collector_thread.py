"""A real collector inside the test's process: real gRPC, real store, its event loop in a thread.

Faster than a process of its own, and its parts can be looked at. For anything about signals, crashes or the command
line use collector_process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from glassbottom_collector.config import (
    CapturesConfig,
    CollectorConfig,
    CommitConfig,
    IngestConfig,
    ListenConfig,
    StorageConfig,
)
from glassbottom_collector.server import Collector, start
from glassbottom_collector.storage.embedded import EmbeddedStore

Answer = TypeVar("Answer")


class CollectorThread:
    """A collector that listens on `address`; `collector` holds its parts."""

    def __init__(self, config: CollectorConfig, clock_ns: Callable[[], int]) -> None:
        self.store = EmbeddedStore(config.storage, clock_ns)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="collector", daemon=True)
        self._thread.start()
        self.collector: Collector = self.ask(start(config, self.store, clock_ns))
        self.address = self.collector.address

    def ask(self, call: Awaitable[Answer], timeout_s: float = 20.0) -> Answer:
        """Runs it in the collector's event loop."""

        async def wrapped() -> Answer:
            return await call

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(timeout_s)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Returns when condition() holds, asked in the collector's event loop whenever it has had a turn."""

        async def wait() -> None:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await asyncio.sleep(0.005)

        self.ask(wait(), timeout_s + 5.0)

    def statistics(self) -> dict[str, float]:
        """Of ingest, store, captures, heap dumps and incidents."""
        parts = (
            self.store.statistics().values,
            self.collector.ingest.statistics(),
            self.collector.captures.statistics(),
            self.collector.dumps.statistics(),
            self.collector.incidents.statistics(),
            self.collector.triggers.statistics(),
            self.collector.history.statistics(),
        )
        return {name: value for part in parts for name, value in part.items()}

    def stop(self) -> None:
        """Drains and closes."""
        self.ask(self.collector.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.store.close()


@contextlib.contextmanager
def collector_thread(
    path: Path,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
    ingest: dict[str, Any] | None = None,
    storage: dict[str, Any] | None = None,
    captures: dict[str, Any] | None = None,
) -> Iterator[CollectorThread]:
    """A collector with data in path; ingest, storage and captures are options of those sections."""
    config = CollectorConfig(
        listen=ListenConfig(port=0),
        storage=StorageConfig(path=path, commit=CommitConfig(wait_ms_max=5), **(storage or {})),
        ingest=IngestConfig(**(ingest or {})),
        captures=CapturesConfig(**(captures or {})),
    )
    running = CollectorThread(config, clock_ns)
    try:
        yield running
    finally:
        running.stop()
