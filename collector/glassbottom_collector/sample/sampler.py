"""Takes a sample: reads, closes, masks, asks whether the schema allows the masks, and writes files.

Everything is read in one REPEATABLE READ transaction, so a child and its parent are of one moment. The same key over
the same snapshot gives the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..incident.parts import CollectingError, RefusedError, as_json
from ..redaction.scan import scan
from . import allowed, export
from .close import Closure, Held, start
from .masks import shift_of
from .plan import IMPOSSIBLE, KEPT, NOT_MASKED, NOT_WRITTEN, Domain, Place, Plan, Wishes, make_plan, prepare
from .rows import SORTED_BYTES_MAX, Identity, Row, Rows, set_for_reading
from .schema import Check, Column, Schema, Table, UnknownNameError, read_schema

if TYPE_CHECKING:
    import psycopg

KEY_BYTES_MIN = 16
WALKS_MAX = 64
SCANS_MAX = 4


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """rows_per_table: the newest of each table; 0 takes none. added_per_table_max: parents a table may gain.
    sorted_bytes_max: a table larger than this is never sorted. allow: columns that are copied as they are, as
    SCHEMA.TABLE.COLUMN or TABLE.COLUMN. mask: columns that are masked whatever they look like; stronger than allow.
    leave_out: tables. references: foreign keys that the schema does not declare, TABLE.COLUMN -> TABLE.COLUMN, columns
    of a composite one with commas between.
    """

    rows_per_table: int = 1_000
    added_per_table_max: int = 10_000
    sorted_bytes_max: int = SORTED_BYTES_MAX
    allow: Sequence[str] = ()
    mask: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    references: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("rows_per_table", "added_per_table_max", "sorted_bytes_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} of a sample must be at least 0, not {getattr(self, name)}.")


@dataclass
class Sample:
    """files: by SCHEMA.TABLE, CSV with a header. report: of each table. references: as fk.json. notes: sentences."""

    files: dict[str, str] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def members(self, name: str) -> dict[str, str]:
        """Every file of it by its path in an archive, for the database of this name."""
        top = f"db/{name}"
        return {
            **{f"{top}/data/{export.file_name(table)}": text for table, text in self.files.items()},
            f"{top}/fk.json": as_json(self.references),
            f"{top}/sample.json": as_json({"tables": self.report, "notes": self.notes}),
        }


def take(
    connection: psycopg.Connection[Any],
    settings: SampleSettings,
    key: bytes,
    *,
    deadline_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Sample:
    """Reads over a connection that belongs to the caller and is left as it was, its transaction ended if it had none.

    key: of the bundle, 16 bytes or more; not in the sample. deadline_s: a time of clock(); tables that are not read by
    then are left out. Raises RefusedError when the connection is in a transaction that is no read-only snapshot, and
    CollectingError for a wish that names no column or a snapshot that the replica ended.
    """
    if len(key) < KEY_BYTES_MIN:
        raise ValueError(f"The key of a sample has {len(key)} bytes; it must have at least {KEY_BYTES_MIN}.")
    import psycopg

    taking = _Taking(connection, settings, key, deadline_s, clock)
    try:
        # The snapshot ends before the masking begins: while it lasts, the replica may have to hold back changes, and
        # the server ends transactions that do nothing.
        with _snapshot(connection):
            taking.read()
        return taking.mask()
    except UnknownNameError as error:
        raise CollectingError(str(error)) from None
    except psycopg.Error as error:
        raise CollectingError(f"The replica ended the sample: {' '.join(str(error).split())}") from None


@contextmanager
def _snapshot(connection: psycopg.Connection[Any]) -> Any:
    import psycopg

    if connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
        [[level, read_only]] = connection.execute(
            "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
        ).fetchall()
        if (level, read_only) != ("repeatable read", "on"):
            raise RefusedError(
                f"The sample needs a REPEATABLE READ, READ ONLY transaction; this one is {level.upper()}, "
                f"read-only {read_only}."
            )
        with connection.transaction():
            set_for_reading(connection)
            yield
            raise psycopg.Rollback  # with the settings
        return
    before = connection.isolation_level, connection.read_only
    connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
    try:
        with connection.transaction():
            set_for_reading(connection)
            yield
            raise psycopg.Rollback
    finally:
        if not connection.closed:
            connection.isolation_level, connection.read_only = before


class _Taking:
    """One call of take()."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        settings: SampleSettings,
        key: bytes,
        deadline_s: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._key = key
        seed = int.from_bytes(hmac.digest(key, b"pages", hashlib.sha256)[:3], "big")
        self._rows = Rows(
            connection, seed=seed, sorted_bytes_max=settings.sorted_bytes_max, deadline_s=deadline_s, clock=clock
        )
        self._sample = Sample()
        self._schema = Schema({}, (), {})
        self._held: dict[str, Held] = {}
        self._plan = Plan([])
        self._closure = Closure(self._schema, self._held, self._rows, added_max=0)

    def read(self) -> None:
        """Everything that is read of tables, in the snapshot."""
        settings, note = self._settings, self._sample.notes.append
        self._schema = read_schema(self._connection, settings.references, settings.leave_out)
        for name, why in self._schema.left_out.items():
            note(f"{name} was left out: {why}.")
        self._held = start(self._schema, self._rows, settings.rows_per_table, note)
        self._closure = Closure(self._schema, self._held, self._rows, added_max=settings.added_per_table_max, note=note)
        self._closure.close()

    def mask(self) -> Sample:
        """What comes of it. Asks the server about constraints, of masked rows."""
        closure, note = self._closure, self._sample.notes.append
        self._decide(note)
        closure.mend(self._impossible(note))
        self._obey(closure, note)
        self._look_again(closure, note)
        for name, held in self._held.items():
            columns, rows = self._masked(held)
            self._sample.files[name] = export.csv_of(columns, rows)
            self._sample.report.append(self._told(held))
            if held.beyond or held.dropped or held.cut:
                note(
                    f"{name}: {held.beyond} parents were beyond the limit, {held.cut} references became NULL, "
                    f"{held.dropped} rows were dropped."
                )
        self._sample.references = export.references(self._schema.foreign_keys)
        return self._sample

    def _decide(self, note: Callable[[str], None]) -> None:
        values: dict[Place, list[str]] = {}
        for name, held in self._held.items():
            for column, of_column in zip(held.table.columns, zip(*held.rows.values(), strict=True), strict=False):
                values[name, column.name] = [value for value in of_column if value is not None]
        self._plan = make_plan(self._schema, values, Wishes(self._settings.allow, self._settings.mask))
        days = shift_of(self._key)
        for domain in self._plan.domains:
            for sentence in prepare(domain, self._schema, values, self._key, days):
                note(sentence)

    def _impossible(self, note: Callable[[str], None]) -> dict[str, set[Identity]]:
        """Rows of tables that have a column that can be neither masked nor NULL."""
        found: dict[str, set[Identity]] = {}
        for name, held in self._held.items():
            for column in held.table.columns:
                treatment = self._plan.of[name, column.name].treatment
                if treatment.of == IMPOSSIBLE and held.rows:
                    note(f"{name} is empty: {column.name} may not be NULL and cannot be masked ({treatment.why}).")
                    found[name] = set(held.rows)
        return found

    def _mask(self, table: Table, row: Row) -> Row:
        return tuple(
            None if value is None or domain is None else domain.masked(value)
            for value, domain in zip(row, self._domains(table), strict=True)
        )

    def _domains(self, table: Table) -> list[Domain | None]:
        """None for a column whose values are not written."""
        of = [self._plan.of[table.name, column.name] for column in table.columns]
        return [None if one.treatment.of != KEPT and one.treatment.of in NOT_MASKED else one for one in of]

    def _obey(self, closure: Closure, note: Callable[[str], None]) -> None:
        """Until the server would take every row: other masks for what it refuses, dates as they are where a constraint
        does not let them move, and at last without the row."""
        checks = {name: allowed.checks_of(held.table) for name, held in self._held.items()}
        waiting = {name: list(held.rows) for name, held in self._held.items() if checks[name]}
        failing: dict[str, list[tuple[Identity, Check]]] = {name: [] for name in waiting}
        for walk in range(WALKS_MAX + 1):
            refused: dict[str, list[tuple[Identity, Check]]] = {}
            for name, identities in waiting.items():
                held = self._held[name]
                rows = [self._mask(held.table, held.rows[identity]) for identity in identities]
                tell = note if walk == 0 else lambda _sentence: None
                failed = allowed.refused(self._connection, held.table, checks[name], rows, tell)
                if failed:
                    refused[name] = [(identities[place], check) for place, check in failed]
            changed = self._other_masks(refused) if walk < WALKS_MAX else set()
            waiting = {name: self._holding(self._held[name], changed) for name in failing}
            for name, failures in refused.items():
                # Nothing of such a row can be masked otherwise.
                again = set(waiting[name])
                failing[name] += [one for one in failures if one[0] not in again]
            if not changed:
                break
        for name, failures in failing.items():
            if not failures:
                continue
            constraints = ", ".join(sorted({check.name for _, check in failures}))
            count = len({identity for identity, _ in failures})
            note(f"{name}: {count} rows could not be masked as {constraints} demands.")
        closure.mend({name: {identity for identity, _ in failures} for name, failures in failing.items()})
        closure.mend({name: met for name, held in self._held.items() if (met := self._met(held, note))})

    def _other_masks(self, refused: Mapping[str, Sequence[tuple[Identity, Check]]]) -> set[tuple[str, str | None]]:
        """(domain, value) of what has another mask now; None for all of a domain."""
        changed: set[tuple[str, str | None]] = set()
        for name, failures in refused.items():
            held = self._held[name]
            for identity, check in failures:
                for column in self._base_columns(held.table, check.columns):
                    domain, value = self._plan.of[name, column], held.rows[identity][held.places[column]]
                    if domain.treatment.of == "date":
                        # Walked on, it would move on its own; a date of birth stays private.
                        if not domain.treatment.private:
                            domain.treatment.of, domain.treatment.why = KEPT, "a constraint does not let it move"
                            domain.use(lambda text: text, domain.attempt)
                            changed.add((domain.name, None))
                    elif value is not None and (domain.name, value) not in changed:
                        changed.add((domain.name, value))
                        domain.walk(value)
        return changed

    @staticmethod
    def _base_columns(table: Table, columns: Sequence[str]) -> list[str]:
        """With the columns that a computed one is computed from."""
        found = []
        for name in columns:
            column = table.column(name)
            found += [
                one.name
                for one in table.columns
                if one.name == name
                or (column.generated and re.search(rf"\b{re.escape(one.name)}\b", column.default) is not None)
            ]
        return [name for name in dict.fromkeys(found) if not table.column(name).generated]

    def _holding(self, held: Held, changed: set[tuple[str, str | None]]) -> list[Identity]:
        """Rows with a value whose mask is another one now."""
        names = [None if one is None else one.name for one in self._domains(held.table)]
        return [
            identity
            for identity, row in held.rows.items()
            if any((name, value) in changed or (name, None) in changed for name, value in zip(names, row, strict=True))
        ]

    def _met(self, held: Held, note: Callable[[str], None]) -> set[Identity]:
        """Rows that another row leaves no room for under a unique index: masks that have met in spite of all."""
        found: set[Identity] = set()
        for index in held.table.indexes:
            if not (index.unique and index.plain):
                continue
            seen: set[tuple[str, ...]] = set()
            for identity, row in held.rows.items():
                key = held.key(self._mask(held.table, row), index.columns)
                if key is not None and key in seen:
                    found.add(identity)
                elif key is not None:
                    seen.add(key)
        if found:
            note(f"{held.table.name}: {len(found)} rows were left out, because their keys became those of others.")
        return found

    def _look_again(self, closure: Closure, note: Callable[[str], None]) -> None:
        """As the assembler does with the finished archive: what would fail there goes here."""
        for _ in range(SCANS_MAX):
            unwanted: dict[str, set[Identity]] = {}
            for name, held in self._held.items():
                columns, _rows = self._masked(held)
                if not scan("", export.csv_of(columns, _rows).encode()):
                    continue
                unwanted[name] = {
                    identity
                    for identity, row in held.rows.items()
                    if scan("", export.csv_of(columns, [self._written(held.table, row)]).encode())
                }
                if unwanted[name]:
                    note(f"{name}: {len(unwanted[name])} masked rows looked like secrets or personal data.")
            if not any(unwanted.values()):
                return
            closure.mend(unwanted)

    def _written(self, table: Table, row: Row) -> Row:
        masked = self._mask(table, row)
        return tuple(
            value for value, column in zip(masked, table.columns, strict=True) if self._is_written(table, column)
        )

    def _is_written(self, table: Table, column: Column) -> bool:
        return self._plan.of[table.name, column.name].treatment.of not in NOT_WRITTEN

    def _masked(self, held: Held) -> tuple[list[str], list[Row]]:
        columns = [column.name for column in held.table.columns if self._is_written(held.table, column)]
        return columns, [self._written(held.table, row) for row in held.rows.values()]

    def _told(self, held: Held) -> dict[str, Any]:
        """What stands about a table in sample.json; columns as a list, because a name may promise a secret."""
        return {
            "table": held.table.name,
            "file": export.file_name(held.table.name),
            "rows": len(held.rows),
            "chosen": held.chosen,
            "how": held.how,
            "parents_added": held.added,
            "parents_beyond_limit": held.beyond,
            "references_cut": held.cut,
            "rows_dropped": held.dropped,
            "rows_estimated": held.table.rows_estimated,
            "columns": [
                {
                    "column": column.name,
                    "type": column.type,
                    "treatment": domain.treatment.of,
                    "because": domain.treatment.why,
                    "domain": domain.name,
                }
                for column in held.table.columns
                for domain in [self._plan.of[held.table.name, column.name]]
            ],
        }
