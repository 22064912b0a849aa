"""A store of every back end, behind one small interface, so that one suite holds for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from glassbottom_collector.config import CommitConfig, StorageConfig
from glassbottom_collector.storage import Reader, StoreStatistics, Writer
from glassbottom_collector.storage.embedded import EmbeddedStore

from tests.support.store_agent import TestClock


class Store(Protocol):
    """What a back end gives to server.py."""

    writer: Writer
    reader: Reader

    def full(self) -> str: ...

    def statistics(self) -> StoreStatistics: ...

    def close(self) -> None: ...


class Bench:
    """One place for data, and a store on it that can be closed and opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = TestClock()
        self.config: dict[str, Any] = {}
        self._open: Store | None = None

    @property
    def store(self) -> Store:
        """The open store."""
        if self._open is None:
            commit = CommitConfig(wait_ms_max=2)
            self._open = EmbeddedStore(StorageConfig(path=self.path, commit=commit, **self.config), self.clock)
        return self._open

    @property
    def writer(self) -> Writer:
        """Of the open store."""
        return self.store.writer

    @property
    def reader(self) -> Reader:
        """Of the open store."""
        return self.store.reader

    def close(self) -> None:
        """Closes it in order."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def reopen(self, **config: Any) -> None:
        """Closes it, and opens it again, perhaps with other limits."""
        self.close()
        self.config.update(config)
        assert self.store


@pytest.fixture(params=["embedded"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A back end. A second one joins by its name here."""
    made = Bench(tmp_path / "data")
    yield made
    made.close()
