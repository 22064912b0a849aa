"""A sample as files: CSV as COPY reads it, the references, and what was done to every column."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .rows import Row
from .schema import ForeignKey

NAME_CHARACTERS_MAX = 90
_OTHERS = re.compile(r"[^A-Za-z0-9_-]+")
_QUOTED = frozenset(',"\n\r\\ \t')


def csv_of(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """With a header; NULL is empty and an empty text is `""`, as `COPY ... (FORMAT csv, HEADER)` has it. In the order
    of the lines: where a row stood in its table is not told."""
    lines = sorted(",".join(["" if value is None else field(value) for value in row]) for row in rows)
    return "\n".join([",".join(map(field, columns)), *lines]) + "\n"


def file_name(table: str) -> str:
    """Of the CSV of SCHEMA.TABLE, as an archive takes it: what is no letter, digit, - or _ of ASCII is `=XX`, and what
    is too long ends in a hash. sample.json tells which file is whose."""
    schema, _, rest = table.partition(".")
    parts = [
        _OTHERS.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), one) for one in (schema, rest)
    ]
    name = ".".join(parts)
    if len(name) > NAME_CHARACTERS_MAX:
        name = f"{name[: NAME_CHARACTERS_MAX - 17]}-{hashlib.sha256(table.encode()).hexdigest()[:16]}"
    return f"{name}.csv"


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
