"""What PostgreSQL's catalogs say about the tables that rows are taken from. Reads no table, takes no lock on one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

Connection = "psycopg.Connection[Any]"
_LITERAL = re.compile(r"'((?:[^']|'')*)'")
SYSTEM = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"


PARAMETER = "\0"


def with_parameters(statement: str) -> str:
    """As psycopg has it, where PARAMETER stands: names and expressions may hold its sign, %."""
    return statement.replace("%", "%%").replace(PARAMETER, "%s")


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


class UnknownNameError(Exception):
    """The configuration names what this database has not. The text is one sentence."""


@dataclass(frozen=True)
class Column:
    """type: as declared. base: the name of the type below domains, as in pg_type; element: of an array's elements.
    kind: typtype of the base (b, c, d, e, r, m). category: typcategory of the base. limit: characters, 0 for any."""

    name: str
    type: str
    base: str
    base_sql: str
    kind: str
    category: str
    element: str
    element_kind: str
    delimiter: str
    limit: int
    is_domain: bool
    not_null: bool
    generated: str
    identity: str
    default: str
    readable: bool
    comment: str
    label: str
    domain_checks: tuple[str, ...]
    equal: str  # the operator, with its schema: the search path is empty


@dataclass(frozen=True)
class Index:
    name: str
    columns: tuple[str, ...]
    unique: bool
    primary: bool
    plain: bool  # no predicate, no expression, a valid b-tree
    predicate: str


@dataclass(frozen=True)
class Check:
    name: str
    columns: tuple[str, ...]
    expression: str


@dataclass(frozen=True)
class ForeignKey:
    """From child columns to parent columns, tables as SCHEMA.TABLE; none of a parent that is left out. declared: false
    for one of the configuration. valid: false when the server itself does not promise that every parent is there."""

    name: str
    child: str
    child_columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    declared: bool = True
    valid: bool = True
    definition: str = ""


@dataclass(frozen=True)
class Table:
    oid: int
    schema: str
    table: str
    partitioned: bool
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    checks: tuple[Check, ...]
    partition_key: tuple[str, ...]  # of a table that is partitioned by range or list
    literals: Mapping[str, frozenset[str]] = field(default_factory=dict)
    rows_estimated: int = 0
    whole: bool = True  # false: the role may read some columns, and so none that the server adds, such as ctid

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def sql(self) -> str:
        """For FROM: without the tables that inherit from it, which are sampled themselves."""
        return f"{'' if self.partitioned else 'ONLY '}{quoted(self.schema)}.{quoted(self.table)}"

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Schema:
    """left_out: table to the reason why nothing is taken from it."""

    tables: Mapping[str, Table]
    foreign_keys: tuple[ForeignKey, ...]
    left_out: Mapping[str, str]


_TABLES = f"""
SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.reltuples::int8,
       has_any_column_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
       EXISTS (SELECT 1 FROM pg_locks l WHERE l.relation = c.oid AND l.mode = 'AccessExclusiveLock' AND l.granted
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())),
       (SELECT array_agg(k) FROM unnest(p.partattrs::int2[]) k), p.partstrat::text,
       has_table_privilege(c.oid, 'SELECT')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND {SYSTEM} AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype = 'e')
ORDER BY n.nspname, c.relname"""
# attgenerated came with PostgreSQL 12.
_COLUMNS = """
SELECT a.attrelid::int8, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid::int8, a.atttypmod,
       a.attnotnull, a.attgenerated::text, a.attidentity::text, pg_get_expr(d.adbin, d.adrelid),
       has_column_privilege(a.attrelid, a.attnum, 'SELECT'), col_description(a.attrelid, a.attnum),
       (SELECT string_agg(s.label, ' ') FROM pg_seclabel s WHERE s.objoid = a.attrelid AND s.objsubid = a.attnum
        AND s.classoid = 'pg_class'::regclass AND s.provider = 'anon')
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum"""
_TYPES = """
SELECT t.oid::int8, t.typname, t.typtype::text, t.typcategory::text, t.typbasetype::int8, t.typtypmod,
       CASE WHEN t.typlen = -1 AND t.typcategory = 'A' THEN t.typelem::int8 ELSE 0 END, t.typdelim::text, t.typnotnull,
       format_type(t.oid, -1), n.nspname
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"""
_DOMAIN_CHECKS = """
SELECT contypid::int8, pg_get_expr(conbin, 0) FROM pg_constraint WHERE contypid <> 0 AND contype = 'c'
ORDER BY conname"""
# A foreign key to or of a partitioned table stands there once more for each partition, with a parent.
_CONSTRAINTS = """
SELECT conrelid::int8, conname, contype::text, conkey, confrelid::int8, confkey, convalidated,
       CASE WHEN contype = 'c' THEN pg_get_expr(conbin, conrelid) END, pg_get_constraintdef(oid)
FROM pg_constraint WHERE conrelid = ANY(%s::oid[]) AND contype IN ('c', 'f') AND conparentid = 0
ORDER BY conrelid, conname"""
_INDEXES = """
SELECT i.indrelid::int8, c.relname, i.indkey::int2[], i.indnkeyatts, i.indisunique, i.indisprimary,
       i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree',
       pg_get_expr(i.indpred, i.indrelid), pg_get_expr(i.indexprs, i.indrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY(%s::oid[]) AND i.indislive ORDER BY i.indrelid, c.relname"""
_BOUNDS = """
SELECT h.inhparent::int8, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
WHERE h.inhparent = ANY(%s::oid[]) AND c.relispartition"""

_REASONS = {
    "u": "it is unlogged, and a replica has none of its rows",
    "f": "it is a foreign table: its rows are elsewhere",
    "locked": "somebody holds an ACCESS EXCLUSIVE lock on it",
    "unwanted": "the configuration leaves it out",
    "denied": "the role has no SELECT on it",
}


def statements() -> list[str]:
    """Everything read_schema() asks."""
    return [_TYPES, _DOMAIN_CHECKS, _TABLES, _COLUMNS, _CONSTRAINTS, _INDEXES, _BOUNDS]


def read_schema(
    connection: psycopg.Connection[Any], references: Iterable[str] = (), leave_out: Iterable[str] = ()
) -> Schema:
    """The tables of this database that are no system's or extension's, partitions as the table they belong to.

    references: foreign keys that are not declared, `TABLE.COLUMN -> TABLE.COLUMN`, columns of a composite one joined by
    commas as in `a.x, a.y -> b.x, b.y`. Raises UnknownNameError for one that names no table or column.
    """
    ask = connection.execute
    types = {row[0]: row[1:] for row in ask(_TYPES.encode())}
    of_domain: dict[int, list[str]] = {}
    for oid, expression in ask(_DOMAIN_CHECKS.encode()):
        of_domain.setdefault(oid, []).append(expression)
    left_out: dict[str, str] = {}
    rows, names_left_out = {}, {}
    unwanted = {name if "." in name else f"public.{name}" for name in leave_out}
    for row in ask(_TABLES.encode()):
        why = "u" if row[4] == "u" else "f" if row[3] == "f" else "locked" if row[7] else "" if row[6] else "denied"
        why = "unwanted" if f"{row[1]}.{row[2]}" in unwanted else why
        if why:
            names_left_out[row[0]] = f"{row[1]}.{row[2]}"
            left_out[f"{row[1]}.{row[2]}"] = _REASONS[why]
        else:
            rows[row[0]] = row
    oids = list(rows)
    columns: dict[int, dict[int, Column]] = {oid: {} for oid in oids}
    for oid, number, *rest in ask(_COLUMNS.encode(), [oids]):
        columns[oid][number] = _column(rest, types, of_domain)
    names = {oid: {number: column.name for number, column in of.items()} for oid, of in columns.items()}
    literals: dict[int, dict[str, set[str]]] = {oid: {} for oid in oids}

    def spoken_of(oid: int, of: Iterable[str], text: str | None) -> None:
        for literal in _LITERAL.findall(text or ""):
            for name in of:
                literals[oid].setdefault(name, set()).add(literal.replace("''", "'"))

    for oid, of in columns.items():
        for column in of.values():
            if not column.generated:
                spoken_of(oid, [column.name], column.default)
            for expression in column.domain_checks:
                spoken_of(oid, [column.name], expression)
    checks: dict[int, list[Check]] = {oid: [] for oid in oids}
    foreign_keys = []
    for oid, name, kind, key, parent, parent_key, valid, expression, definition in ask(_CONSTRAINTS.encode(), [oids]):
        own = tuple(names[oid][number] for number in key or () if number in names[oid])
        if kind == "c":
            checks[oid].append(Check(name, own, expression))
            spoken_of(oid, own, expression)
        elif parent in rows:
            child_name, parent_name = (f"{rows[of][1]}.{rows[of][2]}" for of in (oid, parent))
            others = tuple(names[parent][number] for number in parent_key)
            foreign_keys.append(ForeignKey(name, child_name, own, parent_name, others, True, valid, definition))
        elif parent in names_left_out:
            child_name = f"{rows[oid][1]}.{rows[oid][2]}"
            foreign_keys.append(ForeignKey(name, child_name, own, names_left_out[parent], (), True, valid, definition))
    indexes: dict[int, list[Index]] = {oid: [] for oid in oids}
    for oid, name, key, count, unique, primary, plain, predicate, expressions in ask(_INDEXES.encode(), [oids]):
        own = tuple(names[oid][number] for number in key[:count] if number)
        indexes[oid].append(Index(name, own, unique, primary, plain, predicate or ""))
        mentioned = [column for column in names[oid].values() if re.search(rf"\b{re.escape(column)}\b", f"{predicate}")]
        spoken_of(oid, mentioned, predicate)
        mentioned = [
            column for column in names[oid].values() if re.search(rf"\b{re.escape(column)}\b", f"{expressions}")
        ]
        spoken_of(oid, mentioned, expressions)
    partition_keys = {
        oid: tuple(names[oid][number] for number in row[8] or () if number) if row[9] in ("r", "l") else ()
        for oid, row in rows.items()
    }
    for oid, bound in ask(_BOUNDS.encode(), [oids]):
        spoken_of(oid, partition_keys[oid], bound)
    tables = {
        f"{row[1]}.{row[2]}": Table(
            oid,
            row[1],
            row[2],
            row[3] == "p",
            tuple(columns[oid].values()),
            tuple(indexes[oid]),
            tuple(checks[oid]),
            partition_keys[oid],
            {name: frozenset(of) for name, of in literals[oid].items()},
            max(row[5], 0),
            row[10],
        )
        for oid, row in rows.items()
    }
    foreign_keys += [_undeclared(text, tables) for text in references]
    return Schema(tables, tuple(foreign_keys), left_out)


def _column(row: list[Any], types: Mapping[int, Any], of_domain: Mapping[int, list[str]]) -> Column:
    name, declared, oid, modifier, not_null, generated, identity, default, readable, comment, label = row
    checks: list[str] = []
    _, kind, category, base, base_modifier, element, delimiter, type_not_null, sql, schema = types[oid]
    is_domain = kind == "d"
    while kind == "d":
        checks += of_domain.get(oid, [])
        not_null |= type_not_null
        oid, modifier = base, base_modifier if modifier < 0 else modifier
        _, kind, category, base, base_modifier, element, delimiter, type_not_null, sql, schema = types[oid]
    base_name = types[oid][0]
    element_of = types.get(element)
    while element_of and element_of[1] == "d":
        element_of = types.get(element_of[3])
    limit = modifier - 4 if base_name in ("varchar", "bpchar", "_varchar", "_bpchar") and modifier > 4 else 0
    return Column(
        name=name,
        type=declared,
        base=base_name,
        base_sql=sql,
        kind=kind,
        category=category,
        element=element_of[0] if element_of else "",
        element_kind=element_of[1] if element_of else "",
        delimiter=types[element][6] if element_of else delimiter,
        limit=limit,
        is_domain=is_domain,
        not_null=not_null,
        generated=generated,
        identity=identity,
        default=default or "",
        readable=readable,
        comment=comment or "",
        label=label or "",
        domain_checks=tuple(checks),
        equal=f"OPERATOR({quoted(schema if kind == 'b' else 'pg_catalog')}.=)",
    )


def _undeclared(text: str, tables: Mapping[str, Table]) -> ForeignKey:
    sides = [[part.strip() for part in side.split(",")] for side in text.split("->")]
    if len(sides) != 2 or len(sides[0]) != len(sides[1]):
        raise UnknownNameError(f"The reference {text!r} must read TABLE.COLUMN -> TABLE.COLUMN.")
    found = [[find_column(part, tables, text) for part in side] for side in sides]
    if any(len({table for table, _ in side}) != 1 for side in found):
        raise UnknownNameError(f"The reference {text!r} has columns of two tables on one side.")
    child, parent = found
    return ForeignKey(
        text,
        child[0][0],
        tuple(name for _, name in child),
        parent[0][0],
        tuple(name for _, name in parent),
        declared=False,
        valid=False,
    )


def find_column(text: str, tables: Mapping[str, Table], where: str) -> tuple[str, str]:
    """(SCHEMA.TABLE, column) of `SCHEMA.TABLE.COLUMN` or `TABLE.COLUMN`. Raises UnknownNameError when there is none."""
    table, _, column = text.rpartition(".")
    for name in (table, f"public.{table}"):
        if name in tables and any(one.name == column for one in tables[name].columns):
            return name, column
    raise UnknownNameError(f"There is no column {text} in this database, which {where!r} of the configuration names.")
