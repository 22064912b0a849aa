"""Closes a sample over its references: child to parent, until no row refers to one that is not there.

Children are not followed: a parent's other children lead through the whole database. A row whose parent cannot be had
(out of bounds, not readable, left out) gives up the reference where it may be NULL, and its place otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..incident.parts import CollectingError
from .rows import Identity, LeftOutError, Row, Rows
from .schema import ForeignKey, Schema, Table

ROUNDS_MAX = 1_000  # a chain of managers may be that long; each round goes one step up


@dataclass
class Held:
    """The rows of one table. chosen: how many were there before any parent was added."""

    table: Table
    how: str
    rows: dict[Identity, Row]
    chosen: int = 0
    added: int = 0
    beyond: int = 0  # parents that were not added: too many
    cut: int = 0  # references that became NULL
    dropped: int = 0  # rows that could not stay
    places: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chosen = len(self.rows)
        self.places = {column.name: number for number, column in enumerate(self.table.columns)}

    def key(self, row: Row, columns: Iterable[str]) -> tuple[str, ...] | None:
        """The values of these columns; None when one of them is NULL, and so refers to nothing."""
        values = [row[self.places[column]] for column in columns]
        return None if None in values else tuple(value for value in values if value is not None)


class Closure:
    """held: by SCHEMA.TABLE; grows. added_max: parents a table may gain."""

    def __init__(
        self,
        schema: Schema,
        held: dict[str, Held],
        rows: Rows,
        *,
        added_max: int,
        note: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self._schema = schema
        self._held = held
        self._rows = rows
        self._added_max = added_max
        self._note = note
        # Of each reference: child key to the parent row that answers, None for none that could be had.
        self._found: dict[ForeignKey, dict[tuple[str, ...], Identity | None]] = {
            reference: {} for reference in schema.foreign_keys
        }
        self._seen: dict[ForeignKey, int] = dict.fromkeys(schema.foreign_keys, 0)

    def close(self) -> None:
        """To the fixed point."""
        for _ in range(ROUNDS_MAX):
            grew = [self._step(reference) for reference in self._schema.foreign_keys]
            if not any(grew):
                return
        self._note(f"References were followed {ROUNDS_MAX} steps up, no further.")

    def _step(self, reference: ForeignKey) -> bool:
        """Adds the parents of children that have come in since the last step; whether any was new."""
        child, parent = self._held.get(reference.child), self._held.get(reference.parent)
        if child is None or parent is None:
            return False
        found = self._found[reference]
        new = list(child.rows.values())[self._seen[reference] :]
        self._seen[reference] = len(child.rows)
        keys = dict.fromkeys(key for row in new if (key := child.key(row, reference.child_columns)) is not None)
        wanted = [key for key in keys if key not in found and _fits(key, reference, parent.table)]
        if not wanted:
            return False
        # What is there already need not be asked for, when it reads the same.
        there = {parent.key(row, reference.parent_columns): identity for identity, row in parent.rows.items()}
        found.update({key: there[key] for key in wanted if key in there})
        wanted = [key for key in wanted if key not in there]
        room = max(self._added_max - parent.added, 0)
        if len(wanted) > room:
            parent.beyond += len(wanted) - room
            wanted = wanted[:room]
        try:
            answers = self._rows.parents(reference, parent.table, wanted) if wanted else {}
        except LeftOutError as error:
            self._note(f"{reference.parent} {error}, so rows that refer to it by {reference.name} are not complete.")
            return False
        before = len(parent.rows)
        for place, (identity, row) in answers.items():
            parent.rows.setdefault(identity, row)
            found[wanted[place]] = identity
        parent.added += len(parent.rows) - before
        return len(parent.rows) > before

    def mend(self, unwanted: Mapping[str, set[Identity]] | None = None) -> None:
        """Takes rows out, and then every reference to a row that is not there: the reference where it may be NULL,
        else the row that refers, and so on."""
        gone = {name: set(rows) for name, rows in (unwanted or {}).items()}
        for name, rows in gone.items():
            self._drop(self._held[name], rows)
        again = True
        while again:
            again = False
            for reference in self._schema.foreign_keys:
                child = self._held.get(reference.child)
                if child is not None and reference.valid:
                    again |= self._mend(reference, child)

    def _mend(self, reference: ForeignKey, child: Held) -> bool:
        parent, found = self._held.get(reference.parent), self._found[reference]
        dangling = [
            identity
            for identity, row in child.rows.items()
            if (key := child.key(row, reference.child_columns)) is not None
            and (parent is None or found.get(key) not in parent.rows)
        ]
        if not dangling:
            return False
        cuttable = [name for name in reference.child_columns if _may_be_null(child.table, name)]
        # MATCH FULL wants all of them to be NULL together.
        full = "MATCH FULL" in reference.definition
        if not cuttable or (full and len(cuttable) < len(reference.child_columns)):
            self._drop(child, set(dangling))
            return True
        places = {child.places[name] for name in (cuttable if full else cuttable[:1])}
        for identity in dangling:
            row = child.rows[identity]
            child.rows[identity] = tuple(None if place in places else value for place, value in enumerate(row))
        child.cut += len(dangling)
        return False

    @staticmethod
    def _drop(held: Held, rows: set[Identity]) -> None:
        for identity in rows & held.rows.keys():
            del held.rows[identity]
            held.dropped += 1


def _may_be_null(table: Table, name: str) -> bool:
    column = table.column(name)
    in_key = any(index.primary and name in index.columns for index in table.indexes)
    return not column.not_null and not in_key and not column.generated


def _fits(key: tuple[str, ...], reference: ForeignKey, parent: Table) -> bool:
    """Whether an undeclared reference can be asked for: a text that is no number cannot be looked for among numbers."""
    if reference.declared:
        return True
    for value, name in zip(key, reference.parent_columns, strict=True):
        base = parent.column(name).base
        if base in ("int2", "int4", "int8", "numeric") and not value.lstrip("-").isdigit():
            return False
        if base == "uuid" and len(value.replace("-", "").strip("{}")) != 32:
            return False
    return True


def start(schema: Schema, rows: Rows, count: int, note: Callable[[str], None]) -> dict[str, Held]:
    """The newest rows of each table. Raises CollectingError when the connection is lost."""
    held: dict[str, Held] = {}
    for name, table in schema.tables.items():
        try:
            taken = rows.newest(table, count)
        except LeftOutError as error:
            note(f"{name} {error}.")
        else:
            held[name] = Held(table, taken.how, taken.rows)
    if schema.tables and not held:
        raise CollectingError("No table of the database could be read; the notes say why.")
    return held
