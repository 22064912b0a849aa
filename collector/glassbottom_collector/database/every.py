"""Which collectors look at a database of the configuration, by its kind, and which checks beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..incident.parts import CollectingError, Collector
from ..model.process import Span
from .cache import CacheTarget, Redis
from .connection import Target
from .doctor import Checked, examine_postgres, examine_redis
from .mysql import Mysql, examine_mysql
from .postgres import Node, RedactSql, postgres
from .slow import Beside, Rows
from .sqlite import Sqlite, open_read_only


class Configured(Protocol):
    """A database of the configuration; config.DatabaseConfig is one."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def replica(self) -> str: ...
    @property
    def primary(self) -> str: ...
    @property
    def password_file(self) -> Path | None: ...
    @property
    def log_file(self) -> Path | None: ...


def collectors(
    database: Configured,
    issue: str,
    redact_sql: RedactSql,
    *,
    activity: bool = False,
    within: Span | None = None,
    spans: Callable[[str], Rows] | None = None,
    sample: Callable[[Node], Collector] | None = None,
) -> tuple[list[Collector], Callable[[], None]]:
    """(what looks at it, in order; what ends its connections). activity: the node that takes writes may be asked.
    within, spans: see Beside. sample: makes what takes rows from a replica of PostgreSQL, over the connection that the
    others share; None takes none.

    Raises CollectingError for one that cannot be asked at all.
    """
    if database.kind == "postgresql":
        found = postgres(
            _target(database), issue, redact_sql, activity=activity, beside=Beside(within, database.log_file, spans)
        )
        if sample is not None and found.standby is not None:
            found.before_last.append(sample(found.standby))
        return found.collectors(), found.close
    url = database.replica or (database.primary if activity else "")
    if not url:
        raise CollectingError(f"{database.name} has no replica, and its primary is asked with --activity only.")
    if database.kind == "redis":
        return [Redis(CacheTarget(database.name, url, database.password_file), issue, redact_sql)], _nothing
    if database.kind == "mysql":
        return [Mysql(database.name, url, database.password_file, redact_sql)], _nothing
    return [Sqlite(database.name, Path(url))], _nothing


def examine(database: Configured) -> list[Checked]:
    """Whether a capture of it would work; changes nothing."""
    url = database.replica or database.primary
    if database.kind == "postgresql":
        return examine_postgres(_target(database))
    if database.kind == "redis":
        return examine_redis(CacheTarget(database.name, url, database.password_file))
    if database.kind == "mysql":
        return examine_mysql(database.name, url, database.password_file)
    try:
        with_file = open_read_only(Path(url))
        with_file.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        with_file.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what a capture would meet
        return [Checked("file", "failed", f"{url} cannot be read as SQLite: {error}.")]
    return [Checked("file", "ok", f"{url} can be read.")]


def _target(database: Configured) -> Target:
    return Target(database.name, database.replica, database.primary, database.password_file)


def _nothing() -> None:
    """Their connections last as long as their one question."""
