"""Loads a sample into an empty PostgreSQL and says how true it is to where it came from.

The order is that of a restore: tables, rows, then what is demanded of them (keys, references, triggers), so that
constraints are checked once over everything and cyclic references need no order. Every object is made by itself: one
that cannot be made is told, and the others are.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .schema import SYSTEM, quoted

if TYPE_CHECKING:
    import psycopg

# pg_dump tells before every object what it is.
_ENTRY = re.compile(r"^--\n-- Name: (?P<name>.*?); Type: (?P<type>[A-Z ]+); Schema: .*\n--\n", re.MULTILINE)
_CHUNK_CHARACTERS = 1 << 16


@dataclass(frozen=True)
class Failed:
    """what: the kind and name of an object, such as `FK CONSTRAINT orders orders_customer_fkey`."""

    what: str
    why: str


@dataclass
class LoadReport:
    """rows: by SCHEMA.TABLE. constraints: all that there are now; invalid: those that do not hold, by name. dangling:
    rows without their parent, by `SCHEMA.TABLE NAME`, counted anew and not taken from the server's word."""

    objects: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    constraints: int = 0
    invalid: list[str] = field(default_factory=list)
    dangling: dict[str, int] = field(default_factory=dict)
    sequences: int = 0
    failed: list[Failed] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything was made and every constraint holds."""
        return not (self.failed or self.invalid or any(self.dangling.values()))


def load(
    connection: psycopg.Connection[Any],
    pre_data: str,
    post_data: str,
    files: Mapping[str, str],
    references: Sequence[Mapping[str, Any]] = (),
) -> LoadReport:
    """Fills the database of a connection in autocommit mode.

    pre_data, post_data: as pg_dump writes these sections. files: CSV by SCHEMA.TABLE; references: those of fk.json.
    """
    report = LoadReport()
    _make(connection, pre_data, report)
    for name, text in sorted(files.items()):
        _copy(connection, name, text, report)
    _make(connection, post_data, report)
    connection.execute("RESET ALL")
    _set_sequences(connection, report)
    _try(connection, "ANALYZE", "ANALYZE", report)
    _validate(connection, references, report)
    return report


def load_members(
    connection: psycopg.Connection[Any], name: str, members: Mapping[str, str], pre_data: str, post_data: str
) -> LoadReport:
    """The same from the members of an archive: `db/NAME/sample.json`, `db/NAME/fk.json`, `db/NAME/data/*.csv`."""
    tables = json.loads(members[f"db/{name}/sample.json"])["tables"]
    files = {one["table"]: members[f"db/{name}/data/{one['file']}"] for one in tables}
    return load(connection, pre_data, post_data, files, json.loads(members.get(f"db/{name}/fk.json", "[]")))


def entries(dump: str) -> list[tuple[str, str]]:
    """(what, statements) of each object of a section of pg_dump; first what it sets beforehand, as `settings`."""
    # Commands to psql: recent versions begin with \\restrict.
    dump = re.sub(r"^\\(?:un)?restrict .*$", "", dump, flags=re.MULTILINE)
    found, start, what = [], 0, "settings"
    for entry in _ENTRY.finditer(dump):
        found.append((what, dump[start : entry.start()]))
        start, what = entry.end(), f"{entry['type']} {entry['name']}"
    found.append((what, dump[start:]))
    return [(what, text) for what, text in found if _says_something(text)]


def _says_something(text: str) -> bool:
    return any(line.strip() and not line.startswith("--") for line in text.splitlines())


def _make(connection: psycopg.Connection[Any], dump: str, report: LoadReport) -> None:
    for what, statements in entries(dump):
        if what == "SCHEMA public":
            continue
        report.objects += _try(connection, what, statements, report)


def _try(connection: psycopg.Connection[Any], what: str, statements: str, report: LoadReport) -> bool:
    import psycopg

    try:
        connection.execute(statements)
    except psycopg.Error as error:
        report.failed.append(Failed(what, " ".join(str(error).split())))
        return False
    return True


def _copy(connection: psycopg.Connection[Any], name: str, text: str, report: LoadReport) -> None:
    import psycopg

    schema, _, table = name.partition(".")
    columns = next(csv.reader(io.StringIO(text)))
    names = ", ".join(quoted(column) for column in columns)
    statement = f"COPY {quoted(schema)}.{quoted(table)} ({names}) FROM STDIN (FORMAT csv, HEADER)"
    try:
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                for start in range(0, len(text), _CHUNK_CHARACTERS):
                    copy.write(text[start : start + _CHUNK_CHARACTERS])
            report.rows[name] = cursor.rowcount
    except psycopg.Error as error:
        report.failed.append(Failed(f"rows of {name}", " ".join(str(error).split())))


# Sequences that a column owns, or that its default calls.
_SEQUENCES = """
SELECT DISTINCT s.oid::regclass::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(a.attname)
FROM pg_class s JOIN pg_depend d ON d.refobjid = s.oid OR d.objid = s.oid
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
JOIN pg_attribute a ON (a.attrelid = f.adrelid AND a.attnum = f.adnum)
  OR (d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype IN ('a', 'i') AND a.attrelid = d.refobjid
      AND a.attnum = d.refobjsubid)
JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE s.relkind = 'S' AND NOT c.relispartition ORDER BY 1, 2, 3"""


def _set_sequences(connection: psycopg.Connection[Any], report: LoadReport) -> None:
    """After the largest number that the masks have made, so that a new row is not refused."""
    for sequence, table, column in connection.execute(_SEQUENCES.encode()).fetchall():
        statement = (
            f"SELECT setval('{sequence.replace(chr(39), chr(39) * 2)}', m) FROM "
            f"(SELECT max({column})::int8 AS m FROM {table}) x WHERE m > 0"
        )
        report.sequences += _try(connection, f"SEQUENCE {sequence}", statement, report)


def _validate(connection: psycopg.Connection[Any], references: Sequence[Mapping[str, Any]], report: LoadReport) -> None:
    import psycopg

    found = connection.execute(
        f"""SELECT c.conname, c.convalidated FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
        WHERE c.contype IN ('c', 'f', 'p', 'u', 'x') AND {SYSTEM} ORDER BY 1""".encode()
    ).fetchall()
    indexes = connection.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid").fetchall()
    report.constraints = len(found)
    report.invalid = [name for name, valid in found if not valid] + [name for (name,) in indexes]
    for reference in references:
        if not (reference["declared"] and reference["referenced_columns"]):
            continue  # one that the schema does not know may join what cannot be compared, and need not hold
        pairs = list(zip(reference["columns"], reference["referenced_columns"], strict=True))
        child, parent = (
            ".".join(quoted(part) for part in reference[side].split(".", 1)) for side in ("table", "references")
        )
        filled = " AND ".join(f"c.{quoted(own)} IS NOT NULL" for own, _ in pairs)
        same = " AND ".join(f"p.{quoted(other)} = c.{quoted(own)}" for own, other in pairs)
        statement = (
            f"SELECT count(*) FROM {child} c WHERE {filled} AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE {same})"
        )
        name = f"{reference['table']} {reference['name']}"
        try:
            [[report.dangling[name]]] = connection.execute(statement).fetchall()
        except psycopg.Error as error:  # a table is missing, which has been told
            report.failed.append(Failed(f"reference {name}", " ".join(str(error).split())))
