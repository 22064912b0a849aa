"""Reads rows: the newest of a table, and those that other rows refer to.

Nothing large is sorted. Where an index tells what is new, its end is read; where none does and the table is large, a
sample of its pages is taken, the same ones under the same key. The planner is asked before every such statement
whether it would sort.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..incident.parts import CollectingError
from .classify import DATES, INTEGERS, TEXTS, words
from .schema import PARAMETER, Column, ForeignKey, Table, quoted, with_parameters

if TYPE_CHECKING:
    import psycopg

Identity = tuple[int, str]  # tableoid and ctid: which row it is within one snapshot, with or without a primary key
Row = tuple[str | None, ...]

SORTED_BYTES_MAX = 16 << 20
VALUE_BYTES_MAX = 65_536
TEXT_CHARACTERS = 4_096
KEYS_PER_STATEMENT = 1_000
PAGE_BYTES = 8_192
_CREATED = frozenset(
    {"created", "inserted", "added", "registered", "received", "occurred", "ordered", "placed", "sent"}
)


@dataclass(frozen=True)
class Taken:
    """Rows and how they were chosen."""

    rows: dict[Identity, Row]
    how: str


class LeftOutError(Exception):
    """A table cannot be read. The text ends a sentence that begins with its name."""


def set_for_reading(connection: psycopg.Connection[Any]) -> None:
    """How values are written as text, and that the same statement over the same snapshot reads the same rows."""
    connection.execute(
        "SET LOCAL search_path = ''; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD';"
        "SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex';"
        "SET LOCAL xmloption = 'content'; SET LOCAL synchronize_seqscans = off;"
        "SET LOCAL max_parallel_workers_per_gather = 0"
    )


class Rows:
    """Reads within one transaction of a connection. deadline_s: a time of time.monotonic()."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        seed: int,
        sorted_bytes_max: int = SORTED_BYTES_MAX,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._seed = seed
        self._sorted_bytes_max = sorted_bytes_max
        self._deadline_s = deadline_s
        self._clock = clock

    def newest(self, table: Table, count: int) -> Taken:
        """At most so many. Raises LeftOutError, CollectingError."""
        with self._safely():
            size_bytes = self._size_bytes(table)
            for index in _by_recency(table):
                names = [quoted(column) for column in index.columns]
                first = table.column(index.columns[0])
                where = "" if first.not_null else f" WHERE t.{names[0]} IS NOT NULL"
                order = ", ".join(f"t.{name} DESC" for name in names)
                statement = f"{_select(table)}{where} ORDER BY {order} LIMIT {count:d}"
                if size_bytes <= self._sorted_bytes_max or not self._sorts(statement):
                    by = ", ".join(index.columns)
                    return Taken(self._rows(statement), f"the newest by {by} (index {index.name})")
            if size_bytes <= self._sorted_bytes_max:
                column = next((one.name for one in table.columns if is_creation(one)), None)
                order = f"t.{quoted(column)} DESC NULLS LAST, " if column else ""
                order += "t.tableoid DESC, t.ctid DESC" if table.whole else "2 DESC"
                statement = f"{_select(table)} ORDER BY {order} LIMIT {count:d}"
                return Taken(
                    self._rows(statement), f"the newest by {column}" if column else "the last ones in the file"
                )
            share = self._share(table, size_bytes, count)
            sampled = f"TABLESAMPLE SYSTEM ({share:.6f}) REPEATABLE ({self._seed:d})"
            statement = f"{_select(table, sampled)} LIMIT {count:d}"
            return Taken(self._rows(statement), f"pages chosen by chance ({share:.3g} %): no index tells what is new")

    def parents(
        self, reference: ForeignKey, parent: Table, keys: Sequence[tuple[str, ...]]
    ) -> dict[int, tuple[Identity, Row]]:
        """Rows that are referred to, by the place of their key in `keys`. Raises LeftOutError, CollectingError."""
        found: dict[int, tuple[Identity, Row]] = {}
        columns = [parent.column(name) for name in reference.parent_columns]
        if not reference.declared and not any(
            index.plain and index.columns[:1] and index.columns[0] in reference.parent_columns
            for index in parent.indexes
        ):
            with self._safely():
                if self._size_bytes(parent) > self._sorted_bytes_max:
                    raise LeftOutError(f"is referred to by {reference.name}, for which it has no index")
        for start in range(0, len(keys), KEYS_PER_STATEMENT):
            part = keys[start : start + KEYS_PER_STATEMENT]
            wanted = ", ".join(f"{PARAMETER}::text[]::{column.base_sql}[]" for column in columns)
            aliases = ", ".join(f"k{number}" for number in range(len(columns)))
            on = " AND ".join(
                f"t.{quoted(column.name)} {column.equal} w.k{number}" for number, column in enumerate(columns)
            )
            statement = with_parameters(
                f"SELECT w.place, {_identity(parent)}, {_columns(parent)} "
                f"FROM unnest({wanted}) WITH ORDINALITY w({aliases}, place) "
                f"JOIN {parent.sql} t ON {on} ORDER BY w.place"
            )
            with self._safely():
                for place, oid, ctid, *values in self._ask(statement, [list(one) for one in zip(*part, strict=True)]):
                    # Of an undeclared reference several rows may answer: the first is enough to join with.
                    found.setdefault(start + place - 1, ((oid, ctid), tuple(values)))
        return found

    def plan(self, statement: str) -> list[str]:
        """The kinds of nodes of the plan of a statement, without running it."""
        [[told]] = self._ask(f"EXPLAIN (FORMAT JSON) {statement}")
        found: list[str] = []

        def gather(node: dict[str, Any]) -> None:
            found.append(node["Node Type"])
            for child in node.get("Plans", ()):
                gather(child)

        for one in told:
            gather(one["Plan"])
        return found

    def _sorts(self, statement: str) -> bool:
        # An incremental sort goes along the index and sorts what is equal in it.
        return bool({"Sort", "Seq Scan"} & set(self.plan(statement)))

    def _size_bytes(self, table: Table) -> int:
        [[size]] = self._ask(
            "SELECT coalesce(sum(pg_relation_size(relid)), 0)::int8 FROM pg_partition_tree(%s::oid)"
            if table.partitioned
            else "SELECT coalesce(pg_relation_size(%s::oid), 0)",
            [table.oid],
        )
        return int(size)

    def _share(self, table: Table, size_bytes: int, count: int) -> float:
        """Percent of pages that hold about twice as many rows as are wanted."""
        pages = max(size_bytes // PAGE_BYTES, 1)
        per_page = max(table.rows_estimated / pages, 1.0)
        return min(100.0, 100.0 * max(2.0 * count / per_page, 50.0) / pages)

    def _rows(self, statement: str) -> dict[Identity, Row]:
        return {(oid, ctid): tuple(values) for oid, ctid, *values in self._ask(statement)}

    def _ask(self, statement: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        if self._deadline_s is not None and self._clock() > self._deadline_s:
            raise LeftOutError("was left out: there was no time left")
        # Names in it are quoted, and values are parameters.
        return self._connection.execute(statement, parameters).fetchall()

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """What a table refuses ends with that table; the transaction, and so the snapshot, goes on."""
        import psycopg

        try:
            with self._connection.transaction():
                yield
        except psycopg.errors.SerializationFailure:
            raise CollectingError(
                "The replica cancelled the snapshot of the sample because it had to apply changes; try again."
            ) from None
        except psycopg.errors.InsufficientPrivilege:
            raise LeftOutError("was left out: the role may not read it") from None
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            raise LeftOutError("was left out: it was locked, or did not answer in time") from None
        except psycopg.OperationalError as error:
            raise CollectingError(f"The connection to the replica failed: {' '.join(str(error).split())}") from None


def is_creation(column: Column) -> bool:
    """Whether it says when a row came to be."""
    return column.readable and column.base in DATES and bool(_CREATED & set(words(column.name)))


def _by_recency(table: Table) -> list[Any]:
    """Indexes whose end holds what is new, the surest first."""

    def rank(index: Any) -> int:
        first = table.column(index.columns[0])
        if is_creation(first):
            return 0
        if index.primary and len(index.columns) == 1 and first.base in INTEGERS | DATES:
            return 1
        if first.base in DATES:
            return 2
        return 3

    usable = [
        index
        for index in table.indexes
        if index.plain
        and index.columns
        and all(table.column(name).readable for name in index.columns)
        and (rank(index) < 3 or index.primary)
    ]
    return sorted(usable, key=lambda index: (rank(index), index.name))


def _select(table: Table, sampled: str = "") -> str:
    return f"SELECT {_identity(table)}, {_columns(table)} FROM {table.sql} t {sampled}".rstrip()


def _identity(table: Table) -> str:
    """Which row it is: where it lies, or its primary key, or everything of it that can be read."""
    if table.whole:
        return "t.tableoid::int8, t.ctid::text"
    readable = [column.name for column in table.columns if column.readable]
    primary = next((index.columns for index in table.indexes if index.primary), ())
    names = primary if primary and set(primary) <= set(readable) else readable
    return f"0::int8, ROW({', '.join(f't.{quoted(name)}' for name in names)})::text"


def _columns(table: Table) -> str:
    return ", ".join(_expression(column) for column in table.columns) or "NULL"


def _expression(column: Column) -> str:
    """A column as text, a large value only in part: it is masked anyway."""
    if not column.readable:
        return "NULL"
    name = f"t.{quoted(column.name)}"
    instead = {
        "bytea": f"substring({name} FROM 1 FOR 1024)::text",
        "json": "'{}'",
        "jsonb": "'{}'",
        "xml": f"md5({name}::text)",
    }.get(column.base, "'{}'" if column.category == "A" else f"left({name}::text, {TEXT_CHARACTERS})")
    large = column.base in TEXTS | {"bytea", "json", "jsonb", "xml", "hstore", "tsvector"} or column.category == "A"
    if not large:
        return f"{name}::text"
    return f"CASE WHEN pg_column_size({name}) > {VALUE_BYTES_MAX} THEN {instead} ELSE {name}::text END"
