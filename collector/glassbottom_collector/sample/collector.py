"""The sample as a part of a captured incident."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..incident.parts import Planned, RefusedError, Sink
from . import schema
from .sampler import SampleSettings, take

if TYPE_CHECKING:
    import psycopg

BUDGET_S = 20.0


class SampleCollector:
    """Implements incident.parts.Collector: masked rows of one database into db/NAME/data, fk.json and sample.json.

    connect: a connection to the replica with its guards (timeouts, read-only), closed by its context. key: of the
    bundle. node: as Planned has it.
    """

    def __init__(
        self,
        database: str,
        connect: Callable[[], AbstractContextManager[psycopg.Connection[Any]]],
        settings: SampleSettings,
        key: bytes,
        *,
        node: str,
        budget_s: float = BUDGET_S,
    ) -> None:
        self.name = f"sample.{database}"
        self.budget_s = budget_s
        self._database = database
        self._connect = connect
        self._settings = settings
        self._key = key
        self._node = node

    def plan(self) -> Sequence[Planned]:
        """The questions about the schema as they are; those for rows by their form, since tables are not known yet."""
        count = self._settings.rows_per_table
        if not count:
            return []
        reads = (
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            *(" ".join(text.split()) for text in schema.statements()),
            f"EXPLAIN, then: SELECT columns FROM each table ORDER BY its index of newest rows DESC LIMIT {count}",
            f"SELECT columns FROM each large table without TABLESAMPLE SYSTEM (share) REPEATABLE (key) LIMIT {count}",
            "SELECT columns FROM each table that is referred to JOIN the keys of rows that refer to it, 1000 at a time",
            "SELECT the CHECK constraints of each table FROM its masked rows, given as parameters",
        )
        return [Planned(what, self._node, "standby", "medium") for what in reads]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """Raises RefusedError on a node that takes writes, CollectingError as take() does."""
        if not self._settings.rows_per_table:
            return
        with self._connect() as connection:
            [[standby]] = connection.execute("SELECT pg_is_in_recovery()").fetchall()
            if not standby:
                raise RefusedError(f"{self._node} takes writes; rows are sampled on a replica only.")
            # Its own transaction: if the question above began one, the snapshot would be taken in it.
            connection.rollback()
            # Masking and looking through what was masked come after reading.
            left_s = deadline_s - time.monotonic()
            sample = take(connection, self._settings, self._key, deadline_s=deadline_s - left_s / 2)
        for path, text in sample.members(self._database).items():
            sink.anonymised(path, text, node=self._node, role="standby")
        for sentence in sample.notes:
            sink.note(f"{self._database}: {sentence}")
