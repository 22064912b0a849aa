"""One connection to PostgreSQL that cannot hurt: what it refuses, and what binds it, before it reads anything.

A replica is asked for by libpq itself (`target_session_attrs=standby`), and again by the server. Reads are REPEATABLE
READ, READ ONLY; statements, waits for locks and idle transactions have an end. None of that is a permission: a role
that can write is refused. The search path is pg_catalog alone, so that no function of a user's schema can stand in.

Where a pooler refuses settings at the start of a connection, each transaction sets them for itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..incident.parts import CollectingError, RefusedError
from .lag import LAG, Lag, read_lag

if TYPE_CHECKING:
    import psycopg

NodeRole = Literal["primary", "standby"]
ROWS_MAX = 10_000
"""Of one answer; what is beyond is left out and said."""


@dataclass(frozen=True)
class Target:
    """A database of the configuration. replica, primary: libpq connection strings or URLs, without a password."""

    name: str
    replica: str = ""
    primary: str = ""
    password_file: Path | None = None

    def password(self) -> str | None:
        """The first line of its file. None: libpq looks for one itself (PGPASSFILE, PGSERVICE).

        Raises CollectingError when the file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text().splitlines()[0]
        except (OSError, IndexError) as error:
            raise CollectingError(
                f"The password of {self.name} cannot be read from {self.password_file}: {error}."
            ) from None


@dataclass(frozen=True)
class Guards:
    """How much a capture may ask of a server. lag_growth_*: beyond what the replica lagged at the beginning."""

    connect_timeout_s: int = 3
    statement_timeout_ms: int = 5_000
    lock_timeout_ms: int = 500
    idle_in_transaction_ms: int = 10_000
    own_connections_max: int = 2
    free_connections_min: int = 10
    lag_growth_s_max: float = 5.0
    lag_growth_bytes_max: int = 64 * 2**20

    def settings(self) -> dict[str, str]:
        """What the server is told about every statement of ours."""
        return {
            "statement_timeout": str(self.statement_timeout_ms),
            "lock_timeout": str(self.lock_timeout_ms),
            "idle_in_transaction_session_timeout": str(self.idle_in_transaction_ms),
            "default_transaction_read_only": "on",
            "search_path": "pg_catalog",
        }


@dataclass
class Session:
    """An open connection to one node. node: HOST:PORT/DATABASE; version: the server's major version."""

    connection: psycopg.Connection[Any]
    node: str
    role: NodeRole
    version: int
    guards: Guards
    pooled: bool = False
    lag_before: Lag | None = None
    lags: list[tuple[str, Lag]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def reading(self, deadline_s: float) -> Iterator[Callable[..., list[dict[str, Any]]]]:
        """One read-only transaction, rolled back at the end; what it yields runs a statement.

        fetch(statement, parameters=(), timeout_s=5.0, rows_max=ROWS_MAX) gives rows as dicts. deadline_s: a time of
        time.monotonic(); no statement runs longer, and a server that does not answer at all is left then.

        Raises CollectingError.
        """
        cursor: psycopg.Cursor[dict[str, Any]]
        import psycopg
        from psycopg.rows import dict_row

        def fetch(
            statement: str, parameters: Sequence[Any] = (), timeout_s: float = 5.0, rows_max: int = ROWS_MAX
        ) -> list[dict[str, Any]]:
            left_ms = int(min(timeout_s, deadline_s - time.monotonic()) * 1e3)
            if left_ms <= 0:
                raise CollectingError(f"The time for {self.node} was over; the rest was not asked.")
            cursor.execute(f"SET LOCAL statement_timeout = {left_ms}".encode())
            cursor.execute(statement, parameters or None)
            return cursor.fetchmany(rows_max) if cursor.description else []

        with self._watched(deadline_s), self._understood():
            try:
                cursor = self.connection.cursor(row_factory=dict_row)
                cursor.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                if self.pooled:
                    for name, value in self.guards.settings().items():
                        if name != "default_transaction_read_only":
                            cursor.execute(f"SET LOCAL {name} = '{value}'".encode())
                yield fetch
            finally:
                with contextlib.suppress(psycopg.Error):
                    self.connection.execute("ROLLBACK")

    def check_lag(self, who: str, deadline_s: float) -> Lag | None:
        """Reads how far the replica is behind; None on a primary.

        Raises RefusedError when it has fallen further behind since the first time than the guards allow.
        """
        if self.role == "primary":
            return None
        with self.reading(deadline_s) as fetch:
            lag = read_lag(fetch(LAG, timeout_s=2.0)[0])
        if len(self.lags) < 200:
            self.lags.append((who, lag))
        if self.lag_before is None:
            self.lag_before = lag
        elif said := lag.grown(self.lag_before, self.guards.lag_growth_s_max, self.guards.lag_growth_bytes_max):
            raise RefusedError(f"{self.node} {said}; nothing more is read from it in this capture.")
        return lag

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()

    @contextlib.contextmanager
    def _watched(self, deadline_s: float) -> Iterator[None]:
        """Shuts the socket half a second after the deadline: a server that hangs keeps to no timeout of its own."""
        descriptor = os.dup(self.connection.fileno())

        def shut() -> None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as double:
                double.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(deadline_s - time.monotonic(), 0.0) + 0.5, shut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            os.close(descriptor)

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise CollectingError(explain(error, self.node)) from None


def connect(target: Target, role: NodeRole, issue: str, guards: Guards, deadline_s: float) -> Session:
    """Connects to a replica, or to the node under investigation, and makes sure that it may be read.

    Raises RefusedError for the wrong role of a server, a role that can write, or a server that is short of
    connections; CollectingError when it cannot be reached, or psycopg is not installed.
    """
    session = open_session(target, role, issue, guards)
    try:
        with session.reading(deadline_s) as fetch:
            refuse(session, fetch)
        session.check_lag("the beginning", deadline_s)
    except BaseException:
        session.close()
        raise
    return session


def open_session(target: Target, role: NodeRole, issue: str, guards: Guards) -> Session:
    """Connects, and asks nothing yet. Raises CollectingError."""
    psycopg = driver()
    parameters = arguments(target, role, issue, guards)
    pooled = False
    try:
        try:
            connection = psycopg.connect(autocommit=True, prepare_threshold=None, **parameters)
        except psycopg.OperationalError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            # A pooler: it passes on no settings, so every transaction brings its own.
            pooled = True
            without = {**parameters, "options": ""}
            connection = psycopg.connect(autocommit=True, prepare_threshold=None, **without)
    except psycopg.Error as error:
        raise _unreachable(error, target, role) from None
    info = connection.info
    node = f"{info.host}:{info.port}/{info.dbname}"
    return Session(connection, node, role, info.server_version // 10_000, guards, pooled)


def arguments(target: Target, role: NodeRole, issue: str, guards: Guards) -> dict[str, Any]:
    """What psycopg.connect() is given; without `password`, what pg_dump may have on its command line."""
    psycopg = driver()
    text = target.replica if role == "standby" else target.primary
    try:
        named = psycopg.conninfo.conninfo_to_dict(text)
    except psycopg.Error as error:
        raise CollectingError(f"The connection string of {target.name} is not one: {_line(error)}.") from None
    if named.get("password"):
        raise RefusedError(
            f"The connection string of {target.name} holds a password; put it into password_file or PGPASSFILE."
        )
    options = " ".join(f"-c {name}={value}" for name, value in guards.settings().items())
    named |= {
        "application_name": f"glassbottom:{issue}",
        "connect_timeout": guards.connect_timeout_s,
        "options": options,
        "target_session_attrs": "standby" if role == "standby" else "any",
        "tcp_user_timeout": 10_000,
    }
    if password := target.password():
        named["password"] = password
    return dict(named)


def driver() -> Any:
    """psycopg, when it is installed. Raises CollectingError."""
    try:
        import psycopg
    except ImportError:
        raise CollectingError(
            "psycopg is not installed: install it with `pip install 'glassbottom[databases]'`."
        ) from None
    return psycopg


def refuse(session: Session, fetch: Callable[..., list[dict[str, Any]]]) -> None:
    """Raises RefusedError when this server, role or moment is not one to read in."""
    [state] = fetch(STATE)
    if session.role == "standby" and not state["in_recovery"]:
        raise RefusedError(f"{session.node} is no replica; rows and schemas are read from replicas only.")
    if said := can_write(state, fetch(WRITABLE)):
        raise RefusedError(f"{session.node}: {said}")
    if session.role == "primary" and state["in_recovery"]:
        session.warnings.append(f"{session.node} is given as the primary and is a replica.")
        session.role = "standby"
    if state["own"] > session.guards.own_connections_max:
        raise RefusedError(
            f"{session.node} has {state['own']} connections of glassbottom already, and at most "
            f"{session.guards.own_connections_max} are right; wait for the other captures."
        )
    free = state["max_connections"] - state["reserved"] - state["used"]
    if free < session.guards.free_connections_min:
        raise RefusedError(
            f"{session.node} has {free} of {state['max_connections']} connections left, and a capture leaves "
            f"{session.guards.free_connections_min}; free some first."
        )
    if not state["monitor"]:
        session.warnings.append(
            f"{state['role']} is no member of pg_monitor on {session.node}: what others do is hidden. "
            f"Run GRANT pg_monitor TO {state['role']} on the primary."
        )


def can_write(state: Mapping[str, Any], writable: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about what a role could change, and what to do; empty for one that can change nothing."""
    role = state["role"]
    make = "make one with CREATE ROLE ... LOGIN IN ROLE pg_monitor"
    if state["superuser"]:
        return f"{role} is a superuser, or can become one; {make}."
    if powers := [name for name in ("createrole", "createdb", "bypassrls") if state[name]]:
        return f"{role} has the right to {' and '.join(powers)}; {make}."
    if state["groups"]:
        return f"{role} is a member of {', '.join(state['groups'])}; {make}."
    if writable:
        named = ", ".join(str(row["what"]) for row in writable[:3])
        more = "" if len(writable) <= 3 else " and others"
        return f"{role} can write to {named}{more}; {make}, or revoke that."
    return ""


def explain(error: Exception, node: str) -> str:
    """One sentence from what the driver raised: what the server said, and what that means here."""
    state = getattr(error, "sqlstate", None)
    said = _line(error)
    meaning = {
        "57014": "a statement took longer than it may; the rest of this part is missing",
        "55P03": "a lock was in the way for longer than we wait; the relation is being changed",
        "40001": "the replica had to cancel our transaction to go on replaying; capture again",
        "42501": "the role may not read that; grant pg_monitor, or SELECT on it",
        "25006": "a transaction of ours tried to write, which is a mistake of ours",
    }.get(state or "", "")
    if state is None and getattr(error, "diag", None) is not None and not said:
        said = "no answer"
    return f"{node}: {meaning} ({said})." if meaning else f"{node} did not answer as expected: {said}."


def _unreachable(error: Exception, target: Target, role: NodeRole) -> CollectingError:
    said = _line(error)
    if "not in hot standby mode" in str(error):
        return RefusedError(f"The replica of {target.name} is a primary: {said}. Name a replica in its place.")
    return CollectingError(f"The {role} of {target.name} cannot be reached: {said}.")


def _line(error: Exception) -> str:
    """The end of the driver's text: the last address it tried, and no line of the statement or of its values."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return str(primary or (lines[0] if lines else type(error).__name__)).rstrip(".")[:300]


STATE = """
SELECT pg_is_in_recovery() AS in_recovery, current_user::text AS role,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolsuper AND pg_has_role(current_user, r.oid, 'MEMBER')) AS superuser,
       me.rolcreaterole AS createrole, me.rolcreatedb AS createdb, me.rolbypassrls AS bypassrls,
       ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE pg_has_role(current_user, r.oid, 'MEMBER')
             AND r.rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program',
                               'pg_maintain', 'pg_signal_backend', 'pg_checkpoint')) AS groups,
       pg_has_role(current_user, 'pg_monitor', 'USAGE') AS monitor,
       (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'glassbottom:%') AS own,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL) AS used,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int AS reserved
  FROM pg_roles me WHERE me.rolname = current_user
"""
# By oid from the catalog's cache: asks for no lock on any table.
WRITABLE = """
SELECT n.nspname || '.' || c.relname AS what FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f', 'v') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND n.nspname !~ '^pg_(toast|temp)'
   AND (has_any_column_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'UPDATE')
        OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE')
        OR pg_has_role(current_user, c.relowner, 'MEMBER'))
UNION ALL
-- CREATE on public was everybody's before PostgreSQL 15, and is no grant to this role.
SELECT 'schema ' || n.nspname FROM pg_namespace n
 WHERE n.nspname !~ '^pg_' AND has_schema_privilege(n.oid, 'CREATE') AND n.nspname <> 'public'
UNION ALL
SELECT 'database ' || current_database() WHERE has_database_privilege(current_database(), 'CREATE')
 LIMIT 4
"""
