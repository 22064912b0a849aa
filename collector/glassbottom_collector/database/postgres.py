"""What is collected from PostgreSQL when an incident is captured: a list of collectors, each one look.

The order matters: settings and sizes first, what changes by the second next, replication last, so that it can say how
far the replica had fallen behind before and after. Collectors of one node share its one connection and its `lane`: they
run one after the other.
"""

from __future__ import annotations

import contextlib
import decimal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..incident.parts import CollectingError, Collector, Planned, RefusedError, Sink
from . import pack
from .connection import Guards, NodeRole, Session, Target, connect
from .lag import LAG, Lag

if TYPE_CHECKING:
    from .slow import Beside

RedactSql = Callable[[str, str], str]
"""(statement, place) -> the statement without its literals."""

REPLICA_ONLY = "The replica's own work only: what the primary does is not visible here."
REFUSED = {
    "vacuum": "dead rows and vacuum times are counted on the primary only",
    "sequential_scans": "scans of tables are counted where they happen: a table that looks idle here may not be",
    "unused_indexes": "scans of indexes are counted where they happen: an index that looks unused here may not be",
    "senders": "who follows whom is known to the node that sends",
    "slots": "the slots that hold WAL are the primary's",
}


class Node:
    """One node and the one connection to it, opened by the first collector that needs it.

    close() may be called at any time by the owner of the capture. A refusal is remembered: the others are told the
    same, and the server is not asked again.
    """

    def __init__(self, target: Target, role: NodeRole, issue: str, guards: Guards | None = None) -> None:
        self.target, self.role, self.issue, self.guards = target, role, issue, guards or Guards()
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._refused: CollectingError | None = None
        self.lags: list[tuple[str, Lag]] = []

    @property
    def label(self) -> str:
        """As it is configured, without what only libpq needs to know."""
        return where(self.target.replica if self.role == "standby" else self.target.primary)

    @property
    def lane(self) -> str:
        """Collectors of one lane run one after the other."""
        return f"{self.target.name}.{self.role}"

    @contextlib.contextmanager
    def use(self, who: str, deadline_s: float) -> Iterator[Session]:
        """The open connection, for one collector at a time; the replica's lag is looked at before.

        Raises RefusedError, CollectingError.
        """
        if not self._lock.acquire(timeout=max(deadline_s - time.monotonic(), 0.0)):
            raise CollectingError(f"The connection to {self.label} was in use until the time for {who} was over.")
        try:
            if self._refused is not None:
                raise self._refused
            try:
                if self._session is None or self._session.connection.closed:
                    self._session = connect(self.target, self.role, self.issue, self.guards, deadline_s)
                    self.lags += self._session.lags
                    self._session.lags = self.lags
                else:
                    self._session.check_lag(who, deadline_s)
            except RefusedError as error:
                self._refused = error
                self._close()
                raise
            yield self._session
        finally:
            self._lock.release()

    def close(self) -> None:
        """Ends the connection when no collector uses it any more."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


@dataclass
class Questions:
    """Asks some questions of the pack and writes the answers of all into one file.

    A question that fails is a sentence in the file, and the others are asked: unless time or the server ran out.
    """

    name: str
    path: str
    node: Node
    ids: Sequence[str]
    redact_sql: RedactSql
    budget_s: float = 8.0
    shape: Callable[[dict[str, Any]], dict[str, Any]] = field(default=lambda answers: answers)

    @property
    def lane(self) -> str:
        """See Node.lane."""
        return self.node.lane

    def plan(self) -> Sequence[Planned]:
        """The statements for the newest server; which variant fits is known when it is asked."""
        return [
            Planned(query.sql, self.node.label, self.node.role, query.cost, query.timeout_s)
            for identity in self.ids
            if (query := pack.pick(pack.load("postgresql"), identity)) and query.role in ("any", self.node.role)
        ]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """See Collector. Writes one JSON document: node, role, and `answers` by the question's id."""
        deadline_s = min(deadline_s, time.monotonic() + self.budget_s)
        with self.node.use(self.name, deadline_s) as session:
            for sentence in session.warnings:
                sink.note(sentence)
            session.warnings.clear()
            answers = {identity: self._ask(session, identity, deadline_s) for identity in self.ids}
            document = head(session) | {"answers": self.shape(answers)}
        sink.json(self.path, document, node=session.node, role=session.role)
        for identity, answer in answers.items():
            for key in ("refused", "failed"):
                if key in answer:
                    sink.note(f"{identity}: {answer[key]}")
        if answers and all("failed" in answer for answer in answers.values()):
            raise CollectingError(next(iter(answers.values()))["failed"])

    def _ask(self, session: Session, identity: str, deadline_s: float) -> dict[str, Any]:
        query = pack.pick(pack.load("postgresql"), identity, session.version)
        if query is None:
            return {"refused": f"PostgreSQL {session.version} is older than what this question needs"}
        if query.role not in ("any", session.role):
            return {"refused": f"Not asked of a {session.role}: {REFUSED.get(identity, 'it means nothing there')}."}
        begun = time.monotonic()
        try:
            rows = ask(session, query, deadline_s, self.redact_sql, self.path)
        except CollectingError as error:
            if session.connection.closed:
                raise
            return {"failed": str(error)}
        answer: dict[str, Any] = {"ms": round((time.monotonic() - begun) * 1e3, 2), "rows": rows[: query.rows_max]}
        if len(rows) > query.rows_max:
            answer["left_out"] = f"only the first {query.rows_max} rows are here"
        if query.plane == "activity" and session.role == "standby":
            answer["says"] = REPLICA_ONLY
        return answer


def ask(
    session: Session,
    query: pack.Query,
    deadline_s: float,
    redact_sql: RedactSql,
    place: str,
    parameters: Sequence[Any] = (),
    **names: Any,
) -> list[dict[str, Any]]:
    """One question in a transaction of its own, statements of others without literals; one row more than rows_max when
    there are more. names: identifiers for the places of its SQL. Raises CollectingError."""
    from psycopg import sql

    text: Any = query.sql
    if names:
        text = sql.SQL(text).format(**{key: sql.Identifier(value) for key, value in names.items()})
    with session.reading(deadline_s) as fetch:
        rows = fetch(text, parameters, query.timeout_s, query.rows_max + 1)
    return [
        {
            key: redact_sql(value, place) if key in query.texts and isinstance(value, str) else plain(value)
            for key, value in row.items()
        }
        for row in rows
    ]


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def head(session: Session) -> dict[str, Any]:
    """What every document begins with: which node said it, and what that node is."""
    return {"node": session.node, "role": session.role, "server_version": session.version}


def where(conninfo: str) -> str:
    """HOST:PORT/DATABASE of a connection string; `libpq` for what its environment decides."""
    try:
        from psycopg.conninfo import conninfo_to_dict

        named: Mapping[str, Any] = conninfo_to_dict(conninfo)
    except Exception:  # noqa: BLE001 - for a label only: connecting says what is wrong with it
        return "unknown"
    return f"{named.get('host') or 'libpq'}:{named.get('port') or 5432}/{named.get('dbname') or ''}"


@dataclass
class Replication:
    """How far the replica was behind before the first question and after the last, and what the primary says of it."""

    name: str
    path: str
    standby: Node | None
    primary: Node | None
    redact_sql: RedactSql
    budget_s: float = 5.0

    @property
    def lane(self) -> str:
        """After everything that is read from the replica."""
        return (self.standby or self.primary).lane  # type: ignore[union-attr]

    def plan(self) -> Sequence[Planned]:
        """See Collector."""
        planned = []
        if self.standby is not None:
            planned.append(Planned(LAG.strip(), self.standby.label, "standby", "cheap", 2.0))
        for node, ids in ((self.standby, ("conflicts",)), (self.primary, ("senders", "slots"))):
            if node is not None:
                planned += Questions(self.name, self.path, node, ids, self.redact_sql).plan()
        return planned

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """See Collector. Part by part: a primary that is gone does not hide what the replica says."""
        deadline_s = min(deadline_s, time.monotonic() + self.budget_s)
        document: dict[str, Any] = {}
        failed: CollectingError | None = None
        told: Session | None = None
        for key, node, ids in (
            ("standby", self.standby, ("conflicts",)),
            ("primary", self.primary, ("senders", "slots")),
        ):
            if node is None:
                continue
            try:
                with node.use(self.name, deadline_s) as session:
                    asking = Questions(self.name, self.path, node, ids, self.redact_sql)
                    part = head(session) | {"answers": {each: asking._ask(session, each, deadline_s) for each in ids}}
                    if session.lag_before is not None:
                        after = session.lags[-1][1]
                        part["lag_before"] = session.lag_before.as_dict()
                        part["lag_after"] = after.as_dict()
                        part["lag_while_capturing"] = [[who, lag.as_dict()] for who, lag in session.lags]
                        sink.note(after.says)
                    document[key] = part
                    told = told or session
            except CollectingError as error:
                # How it fell behind is worth most when that is why nothing more was read.
                lags = [[who, lag.as_dict()] for who, lag in node.lags]
                document[key] = {
                    "node": node.label,
                    "role": node.role,
                    "failed": str(error),
                    "lag_while_capturing": lags,
                }
                failed = error
        node = self.standby or self.primary
        assert node is not None
        if told is None and not node.lags:
            raise failed or CollectingError(f"{node.label} was not asked.")
        sink.json(self.path, document, node=told.node if told else node.label, role=told.role if told else node.role)
        if failed is not None:
            sink.note(str(failed))


@dataclass
class Postgres:
    """The collectors of one PostgreSQL database, and the connections they share; see collectors()."""

    standby: Node | None
    primary: Node | None
    before_last: list[Collector]
    last: Collector

    def collectors(self) -> list[Collector]:
        """In the order in which they should run; what else reads the replica belongs before the last."""
        return [*self.before_last, self.last]

    def close(self) -> None:
        """Ends the connections. Servers end them as well when nothing is asked for a while."""
        for node in (self.standby, self.primary):
            if node is not None:
                node.close()


def postgres(
    target: Target,
    issue: str,
    redact_sql: RedactSql,
    *,
    guards: Guards | None = None,
    activity: bool = False,
    pause: Callable[[float], None] = time.sleep,
    sample_s: float = 5.0,
    beside: Beside | None = None,
) -> Postgres:
    """The collectors of a database. activity: also ask target.primary, in the activity plane only.

    Without it the activity questions go to the replica and are labelled as its own work. sample_s: the time between the
    two samples of slow statements, waited by pause(seconds). beside: what tells of them without a connection.
    """
    from .locks import tree
    from .schema import Schema
    from .slow import Beside, Slow

    standby = Node(target, "standby", issue, guards) if target.replica else None
    primary = Node(target, "primary", issue, guards) if activity and target.primary else None
    acting = primary or standby
    if acting is None:
        raise CollectingError(f"{target.name} has no replica, and its primary is asked with --activity only.")
    folder = f"db/{target.name}"

    def questions(what: str, node: Node, *ids: str, **more: Any) -> Questions:
        return Questions(f"postgres.{target.name}.{what}", f"{folder}/{what}.json", node, ids, redact_sql, **more)

    found: list[Collector] = []
    if standby is not None:
        found += [
            questions("settings", standby, "version", "settings", "extensions", "wraparound"),
            questions("sizes", standby, "sizes_locked", "sizes", "database_size"),
            questions("indexes", standby, "fk_without_index", "invalid_indexes"),
            Schema(f"postgres.{target.name}.schema", f"{folder}/schema.sql", standby),
        ]
    found += [
        questions("activity", acting, "connections", "transactions", "xmin_holders"),
        questions("locks", acting, "locks", shape=tree),
        questions("statistics", acting, "database_statistics", "vacuum", "sequential_scans", "unused_indexes"),
        Slow(
            f"postgres.{target.name}.slow",
            f"{folder}/slow.json",
            acting,
            redact_sql,
            pause,
            sample_s,
            beside=beside or Beside(),
        ),
    ]
    last = Replication(
        f"postgres.{target.name}.replication", f"{folder}/replication.json", standby, primary, redact_sql
    )
    return Postgres(standby, primary, found, last)
