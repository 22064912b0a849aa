"""The statements that a database is asked, as data: files of SQL and one index with the cost of each.

So that a person can read what a capture asks without reading this program, and so that a statement for another version
of a server is a file and a line.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from ..incident.parts import Cost

MARK = "/* glassbottom */"
"""Begins every statement of ours: by it they are left out of what the server found slow."""


@dataclass(frozen=True)
class Query:
    """One question. since: the oldest major version of the server; extension: of pg_stat_statements, 109 for 1.9.
    role: any, primary or standby. texts: columns that hold statements of others."""

    id: str
    sql: str
    plane: str
    role: str
    since: int
    cost: Cost
    timeout_s: float
    rows_max: int
    extension: int = 0
    texts: tuple[str, ...] = ()


@functools.cache
def load(kind: str) -> tuple[Query, ...]:
    """Every question for a kind of database, in the order of its index."""
    folder = resources.files(__package__) / "packs"
    document = tomllib.loads((folder / f"{kind}.toml").read_text())
    found = []
    for entry in document["query"]:
        file = entry.pop("file", entry["id"])
        sql = (folder / f"{file}.sql").read_text().strip()
        found.append(Query(**{**entry, "texts": tuple(entry.get("texts", ()))}, sql=f"{MARK} {sql}"))
    return tuple(found)


def pick(queries: Sequence[Query], identity: str, version: int = 10_000, extension: int = 10_000) -> Query | None:
    """The variant for a server, of the highest versions that it has reached; None for a server that is too old."""
    fitting = [
        query for query in queries if query.id == identity and query.since <= version and query.extension <= extension
    ]
    return max(fitting, key=lambda query: (query.extension, query.since), default=None)
