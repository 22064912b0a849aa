"""Asks the server whether masked rows keep what the schema demands: CHECK constraints, of tables and of domains.

A constraint is an expression in SQL, and only the server knows what it means. It is given the masked rows as
parameters of a SELECT, and answers which of them it would refuse; nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .rows import Row, set_for_reading
from .schema import PARAMETER, Check, Column, Table, quoted, with_parameters

if TYPE_CHECKING:
    import psycopg

ROWS_PER_STATEMENT = 2_000
PLACE = '"place of the row"'  # like no column
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\bVALUE\b")


def checks_of(table: Table) -> list[Check]:
    """Those of the table and of the domains its columns are of."""
    found = list(table.checks)
    for column in table.columns:
        for number, expression in enumerate(column.domain_checks):
            with_column = _about(column.name, expression)
            found.append(Check(f"{column.name} of type {column.type} ({number})", (column.name,), with_column))
    return found


def _about(name: str, expression: str) -> str:
    """The constraint of a domain, about a column instead of VALUE."""
    return _TOKEN.sub(lambda token: quoted(name) if token[0] == "VALUE" else token[0], expression)


def refused(
    connection: psycopg.Connection[Any],
    table: Table,
    checks: Sequence[Check],
    rows: Sequence[Row],
    note: Callable[[str], None],
) -> list[tuple[int, Check]]:
    """(place of the row, the check it would fail). rows: values as text in the order of the table's columns."""
    found: list[tuple[int, Check]] = []
    if not checks or not rows:
        return found
    try:
        return _refused(connection, table, checks, rows)
    except _Unable as error:
        if len(checks) == 1:
            note(f"Whether {table.name} keeps its constraint {checks[0].name} is not known: {error}")
            return []
    for check in checks:
        found += refused(connection, table, [check], rows, note)
    return found


class _Unable(Exception):  # noqa: N818 - leads to another question
    """The server would not say."""


def _refused(
    connection: psycopg.Connection[Any], table: Table, checks: Sequence[Check], rows: Sequence[Row]
) -> list[tuple[int, Check]]:
    import psycopg

    given = [(place, column) for place, column in enumerate(table.columns) if not column.generated]
    arrays = ", ".join(f"{PARAMETER}::text[]" for _ in given)
    aliases = ", ".join(f"c{place}" for place, _ in given)
    casts = ", ".join(f"c{place}::{_cast(column)} AS {quoted(column.name)}" for place, column in given)
    computed = ", ".join(f"({column.default}) AS {quoted(column.name)}" for column in table.columns if column.generated)
    tests = ", ".join(f"({check.expression}) IS FALSE" for check in checks)
    name = quoted(table.table)
    statement = f"SELECT {PLACE}, {casts} FROM unnest({arrays}) WITH ORDINALITY x({aliases}, {PLACE})"
    if computed:
        statement = f"SELECT {name}.*, {computed} FROM ({statement}) AS {name}"
    statement = with_parameters(f"SELECT {PLACE}, ARRAY[{tests}] FROM ({statement}) AS {name}")
    found = []
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        part = rows[start : start + ROWS_PER_STATEMENT]
        parameters = [[row[place] for row in part] for place, _ in given]
        try:
            with connection.transaction():
                set_for_reading(connection)
                answers = connection.execute(statement, parameters).fetchall()
        except (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.InternalError) as error:
            raise _Unable(" ".join(str(error).split())[:200]) from None
        except psycopg.errors.QueryCanceled:
            raise _Unable("the server did not answer in time") from None
        found += [
            (start + place - 1, check)
            for place, failed in answers
            for check, fails in zip(checks, failed, strict=True)
            if fails
        ]
    return found


def _cast(column: Column) -> str:
    """Below its domain, whose constraints are asked about by themselves; else with its length and scale."""
    return column.base_sql if column.is_domain else column.type
