"""Which statements are slow now: by the difference of two samples, because totals since a reset hide this incident.

Where pg_stat_statements is absent, what runs is looked at several times instead, and the answer says that it is a
weaker one. An extension is never created: that would change the database. Beside them stands what needs no connection:
the server's log, where the collector can read it, and the service's own spans. They are told always, for a replica
knows nothing of the primary's statements, and no database knows the route of a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..incident.parts import CollectingError, Planned, RefusedError, Sink
from ..model.process import Span
from . import pack
from .connection import Session
from .postgres import REPLICA_ONLY, Node, RedactSql, ask, head
from .slow_log import read_log

SLOW_MAX = 10
SAMPLES = 10
STORE = "the store of the collector"
COUNTED = ("calls", "total_ms", "rows", "blocks_hit", "blocks_read", "temp_blocks_written", "io_ms")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Beside:
    """What tells of slow statements without the server being asked. within: of which time; None for any.

    log_file: the server's log. spans(place): the service's own calls, rows of JSON without literals.
    """

    within: Span | None = None
    log_file: Path | None = None
    spans: Callable[[str], Rows] | None = None


@dataclass
class Slow:
    """Implements Collector. pause(seconds) waits between samples; nothing is open on the server meanwhile."""

    name: str
    path: str
    node: Node
    redact_sql: RedactSql
    pause: Callable[[float], None] = time.sleep
    sample_s: float = 5.0
    budget_s: float = 20.0
    beside: Beside = Beside()

    @property
    def lane(self) -> str:
        """See Node.lane."""
        return self.node.lane

    def plan(self) -> Sequence[Planned]:
        """The first rung of the ladder, and what is read in its place."""
        found = []
        for identity in ("statements", "statement_texts", "statements_info", "running"):
            if query := pack.pick(pack.load("postgresql"), identity):
                found.append(Planned(query.sql, self.node.label, self.node.role, query.cost, query.timeout_s))
        if self.beside.log_file is not None:
            found.append(Planned(str(self.beside.log_file), str(self.beside.log_file), "file"))
        if self.beside.spans is not None:
            found.append(Planned("spans of the service around calls of a database", STORE, "collector"))
        return found

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """See Collector. Writes the SLOW_MAX slowest of the time between two samples, and by which method.

        `rungs` names every method that answered. A server that cannot be asked hides only its own answer.
        """
        deadline_s = min(deadline_s, time.monotonic() + self.budget_s)
        notes: list[str] = []
        failed: CollectingError | None = None
        try:
            document = self._of_server(deadline_s, notes)
        except CollectingError as error:
            failed = error
            document = {"node": self.node.label, "role": self.node.role, "method": None, "rows": []}
            document["failed"] = str(error)
        beside = self._without_server(deadline_s, notes)
        if failed is not None and not beside:
            raise failed
        rungs = [*([] if failed else [document["method"]]), *beside]
        document |= beside | {"rungs": rungs, "notes": notes}
        sink.json(self.path, document, node=document["node"], role=document["role"])
        for sentence in notes:
            sink.note(sentence)
        if failed is not None:
            raise failed

    def _of_server(self, deadline_s: float, notes: list[str]) -> dict[str, Any]:
        rung = "statements"
        try:
            rows, session = self._by_difference(deadline_s, notes)
        except RefusedError:
            raise
        except CollectingError as error:
            notes.append(f"pg_stat_statements cannot be used: {error} What ran was sampled {SAMPLES} times instead.")
            rung = "activity"
            rows, session = self._by_looking(deadline_s)
        if session.role == "standby":
            notes.append(REPLICA_ONLY)
        return head(session) | {"method": rung, "over_s": self.sample_s, "rows": rows}

    def _without_server(self, deadline_s: float, notes: list[str]) -> dict[str, Any]:
        """`log` and `spans`, as far as there are any."""
        found: dict[str, Any] = {}
        told = self.beside
        if told.log_file is not None:
            try:
                found["log"], said = read_log(told.log_file, told.within, self.redact_sql, self.path, deadline_s)
                notes += said
            except CollectingError as error:
                notes.append(str(error))
        if told.spans is not None:
            try:
                found["spans"] = {"rows": told.spans(self.path)}
            except Exception as error:  # noqa: BLE001 - whatever the store says, what was found until here is kept
                notes.append(f"The service's own spans could not be read: {error}")
        return found

    def _by_difference(self, deadline_s: float, notes: list[str]) -> tuple[Rows, Session]:
        with self.node.use(self.name, deadline_s) as session:
            with session.reading(deadline_s) as fetch:
                found = fetch(INSTALLED, timeout_s=2.0)
            if not found:
                raise CollectingError("The extension is not in this database.")
            extension, schema = _number(found[0]["version"]), found[0]["schema"]
            query = pack.pick(pack.load("postgresql"), "statements", session.version, extension)
            if query is None:
                raise CollectingError("This version of it is not known.")
            before = ask(session, query, deadline_s, self.redact_sql, self.path, schema=schema)
        self.pause(min(self.sample_s, max(deadline_s - time.monotonic() - 2.0, 0.0)))
        with self.node.use(self.name, deadline_s) as session:
            after = ask(session, query, deadline_s, self.redact_sql, self.path, schema=schema)
            worst = difference(before, after)
            # Twice as many as are told: our own are taken out when their texts are known.
            wanted = [row["query_id"] for row in worst[: 2 * SLOW_MAX]]
            texts = self._texts(session, wanted, schema, deadline_s) if wanted else {}
            self._evictions(session, schema, deadline_s, notes)
        if any(text == "<insufficient privilege>" for text in texts.values()):
            notes.append("Texts of other roles' statements are hidden: grant pg_monitor to the role.")
        told = [{**row, "query": texts.get(row["query_id"], "")} for row in worst[: 2 * SLOW_MAX]]
        return [row for row in told if not row["query"].startswith(pack.MARK)][:SLOW_MAX], session

    def _texts(self, session: Session, wanted: list[int], schema: str, deadline_s: float) -> dict[int, str]:
        query = pack.pick(pack.load("postgresql"), "statement_texts", session.version)
        assert query is not None
        rows = ask(session, query, deadline_s, self._outside_mark, self.path, (wanted,), schema=schema)
        return {row["query_id"]: row["query"] for row in rows}

    def _outside_mark(self, statement: str, place: str) -> str:
        """Redacts, and keeps the mark of our own statements, by which they are recognised."""
        return pack.MARK if statement.startswith(pack.MARK) else self.redact_sql(statement, place)

    def _evictions(self, session: Session, schema: str, deadline_s: float, notes: list[str]) -> None:
        query = pack.pick(pack.load("postgresql"), "statements_info", session.version)
        if query is None:
            return
        try:
            [row] = ask(session, query, deadline_s, self.redact_sql, self.path, schema=schema)
        except CollectingError:
            return  # an extension older than 1.9 has no such view: there is nothing to warn of
        if row["evictions"]:
            notes.append(
                f"pg_stat_statements has dropped its rarest statements {row['evictions']} times: raise "
                "pg_stat_statements.max to see those too."
            )

    def _by_looking(self, deadline_s: float) -> tuple[Rows, Session]:
        query = pack.pick(pack.load("postgresql"), "running")
        assert query is not None
        seen: list[Rows] = []
        for sample in range(SAMPLES):
            with self.node.use(self.name, deadline_s) as session:
                seen.append(ask(session, query, deadline_s, self.redact_sql, self.path))
            if sample + 1 < SAMPLES:
                self.pause(min(self.sample_s / SAMPLES, max(deadline_s - time.monotonic() - 1.0, 0.0)))
        return sightings(seen), session


def difference(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Rows:
    """What each statement did between two samples, the most time first; those that did nothing are left out.

    A count that fell was reset or evicted in between: then what it shows now is all from after that.
    """

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["user_id"], row["query_id"], row["top_level"]

    first = {key(row): row for row in before}
    found: Rows = []
    for row in after:
        old = first.get(key(row))
        base = old if old is not None and old["calls"] <= row["calls"] else None
        grown = {name: (row[name] or 0) - ((base[name] or 0) if base else 0) for name in COUNTED}
        if grown["calls"] > 0:
            touched = grown["blocks_hit"] + grown["blocks_read"]
            found.append(
                {
                    "query_id": row["query_id"],
                    **grown,
                    "mean_ms": grown["total_ms"] / grown["calls"],
                    "hit_percent": round(100.0 * grown["blocks_hit"] / touched, 2) if touched else None,
                }
            )
    return sorted(found, key=lambda row: (-row["total_ms"], row["query_id"]))


def sightings(samples: Sequence[Sequence[Mapping[str, Any]]]) -> Rows:
    """Statements by how often they were seen running, then by how long; the SLOW_MAX first."""
    found: dict[str, dict[str, Any]] = {}
    for rows in samples:
        for row in rows:
            entry = found.setdefault(row["query"], {"query": row["query"], "seen": 0, "running_s_max": 0.0})
            entry["seen"] += 1
            entry["running_s_max"] = max(entry["running_s_max"], row["running_s"] or 0.0)
    order = sorted(found.values(), key=lambda row: (-row["seen"], -row["running_s_max"], row["query"]))
    return [{**row, "samples": len(samples)} for row in order[:SLOW_MAX]]


def _number(version: str) -> int:
    """109 for 1.9."""
    major, _, minor = version.partition(".")
    return int(major) * 100 + int(minor or 0)


INSTALLED = """
SELECT e.extversion AS version, n.nspname::text AS schema
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'
"""
