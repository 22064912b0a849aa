"""The basics of a MySQL or MariaDB server: settings, sizes, connections, slow digests, replication.

Read-only by session and by statement time; a user that can write is refused. Statements come from performance_schema as
digests, which hold no values. What a server does not have (performance_schema is off in MariaDB unless asked for) is a
sentence in the answer.
"""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..incident.parts import CollectingError, Planned, RefusedError, Sink
from .doctor import Checked
from .pack import MARK

TIMEOUT_S = 5
WRITES = re.compile(
    r"\b(ALL PRIVILEGES|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|INDEX|TRIGGER|EVENT|FILE|SUPER|SHUTDOWN|GRANT OPTION"
    r"|CREATE USER|RELOAD|LOCK TABLES|EXECUTE)\b"
)
QUESTIONS = {
    "version": "SELECT VERSION() AS version, @@read_only AS read_only",
    "settings": "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('max_connections', 'innodb_buffer_pool_size',"
    " 'innodb_flush_log_at_trx_commit', 'long_query_time', 'performance_schema', 'tx_isolation',"
    " 'transaction_isolation', 'wait_timeout')",
    "status": "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Threads_running', 'Uptime',"
    " 'Aborted_connects', 'Slow_queries', 'Innodb_buffer_pool_read_requests', 'Innodb_buffer_pool_reads',"
    " 'Innodb_row_lock_waits', 'Innodb_deadlocks')",
    "connections": "SELECT USER AS user, DB AS db, COMMAND AS command, STATE AS state, COUNT(*) AS connections,"
    " MAX(TIME) AS longest_s FROM information_schema.PROCESSLIST GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC LIMIT 100",
    "sizes": "SELECT TABLE_NAME AS `table`, ENGINE AS engine, TABLE_ROWS AS rows_estimated, DATA_LENGTH AS data_bytes,"
    " INDEX_LENGTH AS index_bytes FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    " AND TABLE_TYPE = 'BASE TABLE' ORDER BY DATA_LENGTH + INDEX_LENGTH DESC LIMIT 50",
    "transactions": "SELECT trx_mysql_thread_id AS connection, trx_state AS state,"
    " TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS transaction_s, trx_rows_locked AS rows_locked,"
    " trx_rows_modified AS rows_modified FROM information_schema.INNODB_TRX ORDER BY 3 DESC LIMIT 50",
    "slow": "SELECT DIGEST_TEXT AS query, COUNT_STAR AS calls, SUM_TIMER_WAIT / 1e9 AS total_ms,"
    " AVG_TIMER_WAIT / 1e9 AS mean_ms, SUM_ROWS_EXAMINED AS rows_examined"
    " FROM performance_schema.events_statements_summary_by_digest WHERE SCHEMA_NAME = DATABASE()"
    " ORDER BY SUM_TIMER_WAIT DESC LIMIT 10",
    "replication": "SHOW REPLICA STATUS",
}
# Addresses, users and errors with values are left behind.
REPLICATION = ("Replica_IO_Running", "Replica_SQL_Running", "Slave_IO_Running", "Slave_SQL_Running",
               "Seconds_Behind_Source", "Seconds_Behind_Master", "Last_SQL_Errno", "Last_IO_Errno")  # fmt: skip


@dataclass
class Mysql:
    """Implements Collector. url: mysql://USER@HOST:PORT/DATABASE, or with ?unix_socket=PATH."""

    label: str
    url: str
    password_file: Path | None
    redact_sql: Callable[[str, str], str]
    budget_s: float = 12.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"mysql.{self.label}"

    def plan(self) -> Sequence[Planned]:
        """The statements."""
        return [Planned(sql, _node(self.url), "standby", "cheap", TIMEOUT_S) for sql in QUESTIONS.values()]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """See Collector. Writes db/LABEL/mysql.json."""
        deadline_s = min(deadline_s, time.monotonic() + self.budget_s)
        connection = _connect(self.label, self.url, self.password_file)
        import pymysql

        path = f"db/{self.label}/mysql.json"
        answers: dict[str, Any] = {}
        try:
            _guard(connection, self.url)
            for identity, sql in QUESTIONS.items():
                if time.monotonic() > deadline_s:
                    raise CollectingError(f"The time for {_node(self.url)} was over; {identity} was not asked.")
                try:
                    answers[identity] = {"rows": [self._plain(row, path) for row in _ask(connection, sql)]}
                except (pymysql.ProgrammingError, pymysql.OperationalError, pymysql.InternalError) as error:
                    if not connection.open:
                        raise
                    answers[identity] = {"failed": f"The server refuses it: error {error.args[0]}."}
                    sink.note(f"{identity} of {_node(self.url)} is missing: error {error.args[0]}.")
        except pymysql.MySQLError as error:
            raise CollectingError(f"{_node(self.url)} did not answer as expected: error {error.args[0]}.") from None
        finally:
            connection.close()
        [version] = answers["version"].get("rows") or [{}]
        role = "standby" if answers["replication"].get("rows") else "primary"
        if role == "primary":
            sink.note(f"{_node(self.url)} follows no other server: it is no replica.")
        answers["replication"] = {"rows": _lag(answers["replication"].get("rows", []))}
        document = {"node": _node(self.url), "role": role, "version": version.get("version"), "answers": answers}
        sink.json(path, document, node=_node(self.url), role="standby" if role == "standby" else "primary")

    def _plain(self, row: dict[str, Any], place: str) -> dict[str, Any]:
        def value(key: str, each: Any) -> Any:
            if key == "query" and isinstance(each, str):
                return self.redact_sql(each, place)
            if each is None or isinstance(each, int | float | str):
                return each
            return float(each) if type(each).__name__ == "Decimal" else str(each)

        return {key: value(key, each) for key, each in row.items()}


def examine_mysql(label: str, url: str, password_file: Path | None) -> list[Checked]:
    """Whether it answers to a user that can write nothing, and is a replica."""
    try:
        connection = _connect(label, url, password_file)
    except CollectingError as error:
        return [Checked("replica", "failed", str(error))]
    import pymysql

    found: list[Checked] = []
    try:
        _guard(connection, url)
        found.append(Checked("replica role", "ok", "The user can write nothing."))
        [row] = _ask(connection, QUESTIONS["version"])
        found.append(Checked("replica", "ok", f"{_node(url)} is {row['version']}."))
    except CollectingError as error:
        found.append(Checked("replica role", "failed", str(error)))
    except pymysql.MySQLError as error:
        found.append(Checked("replica", "failed", f"{_node(url)} did not answer as expected: error {error.args[0]}."))
    finally:
        connection.close()
    return found


def can_write(grants: Sequence[str]) -> str:
    """The first right to change something among lines of SHOW GRANTS; empty when there is none."""
    for grant in grants:
        rights = grant.partition(" ON ")[0].removeprefix("GRANT ")
        if found := WRITES.search(rights.upper()):
            return found[1]
        if "WITH GRANT OPTION" in grant.upper():
            return "GRANT OPTION"
    return ""


def _guard(connection: Any, url: str) -> None:
    """Binds the session, and raises RefusedError for a user that can write."""
    import pymysql

    grants = [str(next(iter(row.values()))) for row in _ask(connection, "SHOW GRANTS")]
    if right := can_write(grants):
        raise RefusedError(
            f"{_node(url)}: the user has the right to {right}; make one with SELECT, PROCESS and REPLICATION CLIENT "
            "only."
        )
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.execute("SET SESSION lock_wait_timeout = 1")
        for limit in (f"max_execution_time = {TIMEOUT_S * 1000}", f"max_statement_time = {TIMEOUT_S}"):
            try:
                cursor.execute(f"SET SESSION {limit}")  # the first is MySQL's, the second MariaDB's
            except pymysql.MySQLError:
                continue


def _ask(connection: Any, statement: str) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(f"{MARK} {statement}")
        return list(cursor.fetchmany(1000))


def _lag(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of SHOW REPLICA STATUS what says how it follows. No number of seconds means that it does not."""
    found = []
    for row in rows:
        kept = {key: row[key] for key in REPLICATION if key in row}
        seconds = row.get("Seconds_Behind_Source", row.get("Seconds_Behind_Master"))
        kept["says"] = "Replication is stopped." if seconds is None else f"{seconds} s behind."
        found.append(kept)
    return found


def _connect(label: str, url: str, password_file: Path | None) -> Any:
    try:
        import pymysql
    except ImportError:
        raise CollectingError("pymysql is not installed: `pip install 'glassbottom[databases]'`.") from None
    try:
        parts = urllib.parse.urlsplit(url)
        socket = dict(urllib.parse.parse_qsl(parts.query)).get("unix_socket")
        password = password_file.read_text().splitlines()[0] if password_file else ""
        return pymysql.connect(
            host=parts.hostname or "localhost",
            port=parts.port or 3306,
            user=urllib.parse.unquote(parts.username or ""),
            password=password,
            database=parts.path.strip("/") or None,
            unix_socket=socket,
            connect_timeout=3,
            read_timeout=TIMEOUT_S + 1,
            write_timeout=TIMEOUT_S,
            autocommit=True,
            cursorclass=pymysql.cursors.DictCursor,
        )
    except (pymysql.MySQLError, OSError, ValueError, IndexError) as error:
        said = str(error.args[-1] if error.args else error)[:200].rstrip(".")
        raise CollectingError(f"MySQL {label} cannot be reached: {said}.") from None


def _node(url: str) -> str:
    """HOST:PORT/DATABASE of a URL."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 3306}{parts.path}"
