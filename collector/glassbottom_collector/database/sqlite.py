"""What a SQLite file says about itself: its settings, tables and schema, never a row.

Opened read-only. A file in WAL mode whose log is absent is in use by nobody and is opened as immutable, because SQLite
would create files beside it otherwise.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..incident.parts import CollectingError, Planned, Sink

PRAGMAS = ("page_size", "page_count", "freelist_count", "journal_mode", "auto_vacuum", "encoding", "user_version")
PAGES_READ_MAX_BYTES = 256 * 2**20
"""dbstat reads every page of the file: of a larger one, sizes by table are left out."""
BUSY_TIMEOUT_S = 0.5
SCHEMA = (
    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
    "ORDER BY 3, 1, 2"
)
SIZES = "SELECT name, sum(pgsize) AS bytes, count(*) AS pages FROM dbstat GROUP BY name ORDER BY bytes DESC LIMIT 200"


@dataclass
class Sqlite:
    """Implements Collector. path: of the file; label: the database's name in the configuration."""

    label: str
    path: Path
    budget_s: float = 8.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"sqlite.{self.label}"

    def plan(self) -> Sequence[Planned]:
        """The statements."""
        statements = (*(f"PRAGMA {name}" for name in PRAGMAS), SCHEMA)
        planned = [Planned(each, str(self.path), "file", "cheap", self.budget_s) for each in statements]
        return [*planned, Planned(SIZES, str(self.path), "file", "heavy", self.budget_s)]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """See Collector. Writes db/LABEL/settings.json, sizes.json and schema.sql."""
        end_s = min(deadline_s, time.monotonic() + self.budget_s)
        folder, node = f"db/{self.label}", str(self.path)
        try:
            with contextlib.closing(open_read_only(self.path)) as connection:
                # SQLite asks every thousand steps whether it should give up.
                connection.set_progress_handler(lambda: int(time.monotonic() > end_s), 1000)
                settings = {name: _one(connection, f"PRAGMA {name}") for name in PRAGMAS}
                settings["sqlite_version"] = sqlite3.sqlite_version
                sink.json(f"{folder}/settings.json", {"node": node, "role": "file", **settings}, node=node, role="file")
                objects = connection.execute(SCHEMA).fetchall()
                text = "".join(f"{row[3]};\n" for row in objects)
                sink.text(f"{folder}/schema.sql", text, node=node, role="file")
                sizes = self._sizes(connection, settings, sink)
                document = {"node": node, "role": "file", "bytes": self.path.stat().st_size, "tables": sizes}
                sink.json(f"{folder}/sizes.json", document, node=node, role="file")
        except (sqlite3.Error, OSError) as error:
            raise CollectingError(f"{self.path} cannot be read as SQLite: {error}.") from None

    def _sizes(
        self, connection: sqlite3.Connection, settings: dict[str, Any], sink: Sink
    ) -> list[dict[str, Any]] | None:
        if settings["page_size"] * settings["page_count"] > PAGES_READ_MAX_BYTES:
            sink.note(f"Sizes by table of {self.path} are left out: they take a reading of the whole file.")
            return None
        try:
            rows = connection.execute(SIZES).fetchall()
        except sqlite3.OperationalError as error:
            sink.note(f"Sizes by table of {self.path} are missing: {error}.")
            return None
        return [{"name": name, "bytes": size, "pages": pages} for name, size, pages in rows]


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that can change neither the file nor what lies beside it. Raises sqlite3.Error, OSError."""
    with path.open("rb") as file:
        header = file.read(20)
    in_wal_mode = header[18:20] == b"\x02\x02"
    unused = in_wal_mode and not Path(f"{path}-wal").exists()
    uri = f"{path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if unused else "")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _one(connection: sqlite3.Connection, statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    return row[0] if row else None
