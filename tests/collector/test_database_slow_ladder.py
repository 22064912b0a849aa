"""Slow statements where the server's own statistics do not say enough: from its log, and from the service's spans."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.config import CommitConfig, ConfigError, DatabaseConfig, StorageConfig
from glassbottom_collector.database import every
from glassbottom_collector.database.connection import Target
from glassbottom_collector.database.postgres import Node
from glassbottom_collector.database.slow import Beside, Slow
from glassbottom_collector.database.slow_log import BYTES_MAX, UNTIMED_MAX, read_log, time_of
from glassbottom_collector.incident.database_spans import database_spans
from glassbottom_collector.incident.parts import CollectingError
from glassbottom_collector.model.process import Span
from glassbottom_collector.redaction import Redactor
from glassbottom_collector.storage.embedded import EmbeddedStore

from tests.support.collecting import Kept, collected
from tests.support.postgres import Cluster
from tests.support.store_agent import NOON, OPERATIONS, StoreAgent, TestClock, operation
from tests.support.store_time import interval

pytestmark = pytest.mark.once

PLACE = "db/orders/slow.json"
SQL = Redactor(b"k" * 32).sql
DAY_NS = 86_400 * 10**9
AT_NS = 1_790_856_000 * 10**9  # 2026-10-01 12:00:00 UTC
HOUR = Span(AT_NS - 3600 * 10**9, AT_NS)


def read(path: Path, text: str, within: Span | None = HOUR) -> tuple[dict[str, Any], list[str]]:
    path.write_text(text)
    return read_log(path, within, SQL, PLACE, time.monotonic() + 30)


def test_a_server_without_the_extension_tells_its_slow_statements_by_its_log(postgres: Cluster, tmp_path: Path) -> None:
    """The log is PostgreSQL's own, of a database whose settings are those of production."""
    settings = ("log_statement = 'none'", "log_min_duration_statement = 0")
    with postgres.database("CREATE TABLE orders AS SELECT 1 AS id") as name, postgres.reader(name) as role:
        postgres.primary.run(*(f"ALTER DATABASE {name} SET {one}" for one in settings))
        since = postgres.primary.log_bytes()
        for secret in (4711, 4712):
            postgres.primary.run(f"SELECT pg_sleep(0.05),\n  id FROM orders WHERE id <> {secret}", database=name)
        with postgres.primary.connect(name) as connection:
            connection.execute("SELECT id, %s::text FROM orders", ["hunter2-of-anna"], prepare=True)
        path = tmp_path / "primary.log"
        path.write_text(postgres.primary.log(since))
        node = Node(Target("orders", postgres.standby.conninfo(name, role)), "standby", "7")
        try:
            slow = Slow("slow", PLACE, node, SQL, lambda _s: None, beside=Beside(HOUR, path))
            kept = collected(slow)
        finally:
            node.close()
    document = kept.read(PLACE)

    assert (document["method"], document["rungs"]) == ("activity", ["activity", "log"])
    first = document["log"]["rows"][0]
    assert first["query"] == "SELECT pg_sleep(?), id FROM orders WHERE id <> ?"
    assert (first["calls"], first["mean_ms"] >= 50.0) == (2, True)
    assert "SELECT id, $1::text FROM orders" in [row["query"] for row in document["log"]["rows"]]
    assert not [secret for secret in ("4711", "4712", "hunter2") if secret in kept.files[PLACE]]
    assert any("no time that can be read" in note for note in kept.notes), "this server's prefix has no time"
    assert str(path) in [one.what for one in slow.plan()]


def test_auto_explain_of_a_real_server_gives_the_statement_and_its_plan(postgres: Cluster, tmp_path: Path) -> None:
    with postgres.database("CREATE TABLE orders AS SELECT 1 AS id") as name:
        since = postgres.primary.log_bytes()
        postgres.primary.run(
            "LOAD 'auto_explain'",
            "SET auto_explain.log_min_duration = 0",
            "SELECT id\nFROM orders WHERE id = 4711 AND 'it''s\n x (cost=1' <> ''",
            database=name,
        )
        found, _ = read(tmp_path / "log", postgres.primary.log(since), None)
    [row] = [row for row in found["rows"] if "plan" in row]

    assert row["query"] == "SELECT id FROM orders WHERE id = ? AND ? <> ?"
    assert row["plan"].startswith("Seq Scan on orders")
    assert "4711" not in json.dumps(found) and "it's" not in json.dumps(found)


def test_only_the_window_is_told_and_one_statement_logged_with_its_plan_ran_once(tmp_path: Path) -> None:
    lines = [
        "2026-10-01 10:59:59.999 UTC [7] LOG:  duration: 9000.000 ms  statement: SELECT 'before'",
        "2026-10-01 11:30:00 UTC [7] LOG:  duration: 30.000 ms  plan:",
        "\tQuery Text: SELECT a FROM t WHERE b = 'x'",
        "\tSeq Scan on t  (cost=0.00..8.50 rows=1 width=4)",
        "\t  Filter: (b = 'x'::text)",
        "2026-10-01 13:30:00.5 +02 [7] LOG:  duration: 31.000 ms  execute s1: SELECT a FROM t WHERE b = 'y'",
        "2026-10-01 11:30:00 UTC [7] DETAIL:  parameters: $1 = 'hunter2'",
        "2026-10-01 11:30:01 UTC [7] LOG:  duration: 5.000 ms  bind s1: SELECT a FROM t WHERE b = 'y'",
        "2026-10-01 11:30:02 UTC [7] LOG:  duration: 5.000 ms",
        "2026-10-01 11:30:02 UTC [7] ERROR:  duration: none",
        "2026-10-01 12:00:00 UTC [7] LOG:  duration: 9000.000 ms  statement: SELECT 'after'",
    ]
    found, notes = read(tmp_path / "log", "\n".join(lines) + "\n")

    assert (found["timed"], found["statements"]) == (True, 2)
    [row] = found["rows"]
    assert (row["query"], row["calls"], row["total_ms"]) == ("SELECT a FROM t WHERE b = ?", 1, 31.0)
    assert row["plan"] == "Seq Scan on t Filter: (b = ?::text)"
    assert notes == ["1 durations in the log have no statement beside them: log_statement or log_duration is set."]


@pytest.mark.parametrize(
    ("before", "at_ns"),
    [
        ("2026-10-01 12:00:00.250 UTC [1] ", AT_NS + 250_000_000),
        ("[1] 2026-10-01 17:30:00 +0530 ", AT_NS),
        ("2026-10-01 09:00:00 -03 ", AT_NS),
        ("1790856000.125 [1] ", AT_NS + 125_000_000),
        ("2026-10-01 12:00:00 XYZT ", None),
        ("2026-13-01 12:00:00 UTC ", None),
        ("app|user|", None),
    ],
)
def test_the_time_is_found_wherever_the_prefix_has_it(before: str, at_ns: int | None) -> None:
    assert time_of(before) == at_ns


def test_of_a_log_without_times_the_last_are_told_and_of_a_long_one_its_end(tmp_path: Path) -> None:
    line = "LOG:  duration: 1.000 ms  statement: SELECT 1 FROM t"
    found, notes = read(tmp_path / "a", f"{line}\n" * (UNTIMED_MAX + 5))
    assert found["rows"][0]["calls"] == UNTIMED_MAX
    assert "whenever they ran" in notes[0]

    first = "2026-10-01 11:30:00 UTC LOG:  duration: 9.0 ms  statement: SELECT first FROM t\n"
    last = first.replace("first", "last")
    found, notes = read(tmp_path / "b", first + f"{'x' * 1023}\n" * (BYTES_MAX >> 10) + last)
    assert [row["query"] for row in found["rows"]] == ["SELECT last FROM t"]
    assert "earlier part is missing" in notes[0]


def test_a_log_that_is_gone_or_tells_nothing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CollectingError, match="cannot be read: No such file"):
        read_log(tmp_path / "none", HOUR, SQL, PLACE, time.monotonic() + 30)
    with pytest.raises(CollectingError, match="cannot be read"):
        read_log(tmp_path, HOUR, SQL, PLACE, time.monotonic() + 30)
    assert read(tmp_path / "log", "hello\n")[1] == [
        "The log has no durations: set log_min_duration_statement, or load auto_explain."
    ]
    with pytest.raises(ConfigError, match="log_file of a is for postgresql only"):
        DatabaseConfig(name="a", kind="redis", replica="redis://x", log_file=tmp_path)


def test_a_server_that_is_away_leaves_what_the_service_saw_of_it_by_route(tmp_path: Path) -> None:
    """The store is a real one; the server's port is closed."""
    store = EmbeddedStore(
        StorageConfig(path=tmp_path / "data", commit=CommitConfig(wait_ms_max=2)), TestClock(NOON + 1)
    )
    try:
        client = {"span_kind": "CLIENT", "target": "postgresql"}
        StoreAgent().append(
            store.writer,
            OPERATIONS,
            interval(
                NOON,
                operation("SELECT orders", 0.1, 0.3, route="POST /cart", self_s=0.4, **client),
                operation("SELECT orders", 0.5, route="POST /cart", status="error", self_s=0.5, **client),
                operation("SELECT orders", 0.2, route="GET /", self_s=0.2, **client),
                operation("SELECT a WHERE b = 'anna'", 0.01, **client),
                operation("GET", 9.0, span_kind="CLIENT", target="payments:443"),
                operation("POST /cart", 9.0, span_kind="SERVER"),
            ),
        )
        within = Span(NOON - DAY_NS // 24, NOON + 1)
        database = DatabaseConfig(name="orders", replica="host=127.0.0.1 port=1 dbname=orders user=reader")
        found, close = every.collectors(
            database,
            "7",
            SQL,
            within=within,
            spans=lambda place: database_spans(store.reader, "checkout", within, "postgresql", SQL, place),
        )
        [slow] = [one for one in found if one.name == "postgres.orders.slow"]
        kept = Kept()
        with pytest.raises(CollectingError):
            slow.collect(kept, time.monotonic() + 30)
        close()
    finally:
        store.close()
    document = kept.read(PLACE)

    assert (document["method"], document["rungs"], document["rows"]) == (None, ["spans"], [])
    assert document["failed"]
    cart, home, other = document["spans"]["rows"]
    assert (cart["name"], cart["route"], cart["calls"], cart["errors"]) == ("SELECT orders", "POST /cart", 3, 1)
    assert (cart["mean_ms"], cart["self_ms"], cart["target"]) == (300.0, 900.0, "postgresql")
    assert 300.0 < cart["p95_ms"] <= 500.0
    assert (home["route"], home["total_ms"]) == ("GET /", 200.0)
    assert other["name"] == "SELECT a WHERE b = ?"
