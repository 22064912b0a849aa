"""A sample as files: CSV as COPY reads it, the references, and what was done to every column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .rows import Row
from .schema import ForeignKey

_QUOTED = frozenset(',"\n\r\\ \t')


def csv_of(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """With a header; NULL is empty and an empty text is `""`, as `COPY ... (FORMAT csv, HEADER)` has it. In the order
    of the lines: where a row stood in its table is not told."""
    lines = sorted(",".join(["" if value is None else field(value) for value in row]) for row in rows)
    return "\n".join([",".join(map(field, columns)), *lines]) + "\n"


def field(text: str) -> str:
    """One value of a line."""
    if text and not _QUOTED & set(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def references(foreign_keys: Iterable[ForeignKey]) -> list[dict[str, Any]]:
    """fk.json."""
    return [
        {
            "name": one.name,
            "table": one.child,
            "columns": list(one.child_columns),
            "references": one.parent,
            "referenced_columns": list(one.parent_columns),
            "declared": one.declared,
        }
        for one in foreign_keys
    ]
