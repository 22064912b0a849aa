"""Rows of one service and window, out of a store and into an empty one: how an archive becomes a store again.

Numbers and texts part ways. Tables travel as Parquet whose every text is an index, and the texts as one list, so that
whoever makes an archive harmless has all of them before him, and cannot break a number. Ids of stacks, frames and types
are hashes of content that stays behind as it was: where a text was changed, they are numbers and no more.

The same rows are the same bytes: everything is sorted, and written by one thread.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ...errors import ArchiveError, StorageError
from ...model.process import Span
from .files import META, Files, days_between

EARLIER_NS = 900 * 10**9
"""How far before the window rows are taken too: the last complete snapshot lies there."""
ROWS_MAX = 3_000_000
"""Of one table and day. More is no window of one service, and would not fit into an archive."""
TEXTS_MAX = 500_000

DAY_TABLES = (
    "process",
    "batch",
    "heap_snapshot",
    "heap_label",
    "heap_site",
    "heap_type",
    "metric",
    "operation_interval",
    "operation",
    "task_snapshot",
    "task_loop",
    "task_group",
    "task_edge",
    "profile_interval",
    "profile_sample",
    "observation",
)
META_TABLES = ("frame", "stack", "type")
STACKS_OF = (("heap_site", "stack"), ("heap_type", "stack"), ("profile_sample", "stack"), ("observation", "stack"))
FRAMES_OF = (("operation", "frame"), ("observation", "frame"))


@dataclass(frozen=True)
class Rows:
    """texts: every text there is, once, in order. tables: Parquet by path, such as `2026-11-25/heap_site.parquet` or
    `frame.parquet`; in a column that was text there is the index of one. notes: what was left out."""

    texts: tuple[str, ...]
    tables: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


def take_out(files: Files, service: str, within: Span) -> Rows:
    """Everything of a service in a window and shortly before it. Raises StorageError."""
    try:
        with files.cursor() as cursor, tempfile.TemporaryDirectory() as directory:
            return _Outward(files, cursor, Path(directory)).take(service, within)
    except duckdb.Error as error:
        raise StorageError(f"Rows of {service} cannot be read: {str(error).splitlines()[0]}") from None


def bring_in(files: Files, rows: Rows) -> None:
    """Puts them into an empty store. Raises ArchiveError for rows that are not what take_out() makes."""
    try:
        with files.cursor() as cursor, tempfile.TemporaryDirectory() as directory:
            _Inward(files, cursor, Path(directory), rows).bring()
    except (duckdb.Error, StorageError) as error:
        raise ArchiveError(f"The rows of the archive cannot be read: {str(error).splitlines()[0]}") from None


class _Outward:
    def __init__(self, files: Files, cursor: duckdb.DuckDBPyConnection, directory: Path) -> None:
        self._files = files
        self._cursor = cursor
        self._directory = directory
        self._notes: list[str] = []

    def take(self, service: str, within: Span) -> Rows:
        self._cursor.execute("SET threads = 1")
        first, last = days_between(within.from_ns - EARLIER_NS, within.to_ns)
        days = [day for day in self._files.days() if first <= day <= last]
        chosen = {day: self._choose(day, service, within) for day in days}
        self._choose_meta([day for day in days if chosen[day]])
        texts = self._texts([day for day in days if chosen[day]])
        self._cursor.execute("CREATE TEMP TABLE texts (id UINTEGER, text VARCHAR)")
        if texts:
            self._cursor.execute(
                "INSERT INTO texts SELECT * FROM (SELECT unnest(?), unnest(?))", [[*range(len(texts))], texts]
            )
        tables = {}
        for day in days:
            if chosen[day]:
                for table in DAY_TABLES:
                    tables[f"{day}/{table}.parquet"] = self._written(f"out_{_plain(day)}_{table}")
        for table in META_TABLES:
            tables[f"{table}.parquet"] = self._written(f"out_{table}")
        return Rows(tuple(texts), tables, tuple(self._notes))

    def _choose(self, day: str, service: str, within: Span) -> bool:
        """Copies what is wanted of a day into tables of its own; False when there is nothing."""
        with self._files.day(day) as alias:
            if alias is None:
                return False
            self._cursor.execute(
                f"CREATE TEMP TABLE out_{_plain(day)}_batch AS SELECT * FROM {alias}.batch "
                f"WHERE at_ns >= ? AND at_ns < ? "
                f"AND instance_id IN (SELECT instance_id FROM {alias}.process WHERE service = ?)",
                [within.from_ns - EARLIER_NS, within.to_ns, service],
            )
            for table in DAY_TABLES:
                if table != "batch":
                    key = "instance_id" if table == "process" else "batch"
                    self._cursor.execute(
                        f"CREATE TEMP TABLE out_{_plain(day)}_{table} AS SELECT * FROM {alias}.{table} "
                        f"WHERE {key} IN (SELECT {key} FROM out_{_plain(day)}_batch) LIMIT {ROWS_MAX}"
                    )
                    if self._count(f"out_{_plain(day)}_{table}") == ROWS_MAX:
                        self._notes.append(f"Of {table} on {day} only {ROWS_MAX} rows were taken.")
        return self._count(f"out_{_plain(day)}_batch") > 0

    def _choose_meta(self, days: Sequence[str]) -> None:
        """Definitions of what the rows name."""
        stacks = " UNION ".join(f"SELECT {c} AS id FROM out_{_plain(d)}_{t}" for d in days for t, c in STACKS_OF)
        types = " UNION ".join(f"SELECT type AS id FROM out_{_plain(day)}_heap_type" for day in days)
        nothing = "SELECT 0::UBIGINT AS id WHERE false"
        self._cursor.execute(
            f"CREATE TEMP TABLE out_stack AS SELECT * FROM {META}.stack WHERE id IN ({stacks or nothing})"
        )
        self._cursor.execute(
            f"CREATE TEMP TABLE out_type AS SELECT * FROM {META}.type WHERE id IN ({types or nothing})"
        )
        wanted: set[int] = set()
        packed = ["SELECT frames FROM out_stack", *(f"SELECT path FROM out_{_plain(day)}_task_group" for day in days)]
        for query in packed:
            for (words,) in self._cursor.execute(query).fetchall():
                wanted.update(struct.unpack(f"<{len(words) // 8}Q", words[: len(words) // 8 * 8]))
        for day in days:
            for table, column in FRAMES_OF:
                wanted.update(
                    row[0]
                    for row in self._cursor.execute(
                        f"SELECT DISTINCT {column} FROM out_{_plain(day)}_{table}"
                    ).fetchall()
                )
        self._cursor.execute(
            f"CREATE TEMP TABLE out_frame AS SELECT * FROM {META}.frame WHERE id IN (SELECT unnest(?::UBIGINT[]))",
            [sorted(wanted)],
        )

    def _texts(self, days: Sequence[str]) -> list[str]:
        found: set[str] = set()
        tables = [f"out_{_plain(day)}_{table}" for day in days for table in DAY_TABLES]
        for table in [*tables, *(f"out_{table}" for table in META_TABLES)]:
            for column, kind in self._columns(table):
                if kind == "VARCHAR":
                    rows = self._cursor.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
                    found.update(text for (text,) in rows if text is not None)
        if len(found) > TEXTS_MAX:
            raise StorageError(
                f"The window has {len(found)} different texts, and {TEXTS_MAX} are allowed; take a shorter one."
            )
        return sorted(found)

    def _written(self, table: str) -> bytes:
        columns, joins = [], []
        for number, (column, kind) in enumerate(self._columns(table)):
            if kind == "VARCHAR":
                columns.append(f"t{number}.id AS {column}")
                joins.append(f"LEFT JOIN texts t{number} ON t{number}.text = r.{column}")
            else:
                columns.append(f"r.{column}")
        path = self._directory / f"{table}.parquet"
        self._cursor.execute(
            f"COPY (SELECT {', '.join(columns)} FROM {table} r {' '.join(joins)} ORDER BY ALL) "
            f"TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )
        return path.read_bytes()

    def _columns(self, table: str) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self._cursor.execute(f"DESCRIBE {table}").fetchall()]

    def _count(self, table: str) -> int:
        return int(self._cursor.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


class _Inward:
    def __init__(self, files: Files, cursor: duckdb.DuckDBPyConnection, directory: Path, rows: Rows) -> None:
        self._files = files
        self._cursor = cursor
        self._directory = directory
        self._rows = rows

    def bring(self) -> None:
        self._cursor.execute("CREATE TEMP TABLE texts (id UINTEGER, text VARCHAR)")
        if self._rows.texts:
            self._cursor.execute(
                "INSERT INTO texts SELECT * FROM (SELECT unnest(?), unnest(?))",
                [[*range(len(self._rows.texts))], list(self._rows.texts)],
            )
        for path, data in sorted(self._rows.tables.items()):
            *day, name = path.split("/")
            table = name.removesuffix(".parquet")
            if len(day) == 1 and table in DAY_TABLES and _is_day(day[0]):
                with self._files.day(day[0], create=True) as alias:
                    self._insert(f"{alias}.{table}", data)
            elif not day and table in META_TABLES:
                self._insert(f"{META}.{table}", data)
            else:
                raise ArchiveError(f"The archive holds rows of {path}, which this glassbottom does not know.")

    def _insert(self, table: str, data: bytes) -> None:
        path = self._directory / "rows.parquet"
        path.write_bytes(data)
        # By what the file says of itself, before anything is unpacked: a few bytes can stand for any number of rows.
        [[count]] = self._cursor.execute(f"SELECT num_rows FROM parquet_file_metadata('{path}')").fetchall()
        if not 0 <= count <= ROWS_MAX:
            raise ArchiveError(f"{table} in the archive has {count} rows, and at most {ROWS_MAX} are taken.")
        columns, joins = [], []
        for number, row in enumerate(self._cursor.execute(f"DESCRIBE {table}").fetchall()):
            if row[1] == "VARCHAR":
                columns.append(f"t{number}.text")
                joins.append(f"LEFT JOIN texts t{number} ON t{number}.id = r.{row[0]}")
            else:
                columns.append(f"r.{row[0]}")
        self._cursor.execute(
            f"INSERT INTO {table} SELECT {', '.join(columns)} FROM read_parquet('{path}') r {' '.join(joins)}"
        )


def _plain(day: str) -> str:
    return day.replace("-", "")


def _is_day(text: str) -> bool:
    parts: list[Any] = text.split("-")
    return len(text) == 10 and len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)
