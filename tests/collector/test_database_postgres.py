"""What a capture reads of a real PostgreSQL primary and its replica, and what it leaves alone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.database.connection import Guards, Target
from glassbottom_collector.database.postgres import Postgres
from glassbottom_collector.database.postgres import postgres as collectors_of
from glassbottom_collector.incident.parts import CollectingError, Collector, RefusedError

from tests.support.collecting import Kept, collected, without_literals
from tests.support.postgres import Cluster, pooled

pytestmark = pytest.mark.once

SHOP = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text)",
    "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total int)",
    "INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 50) n",
    "INSERT INTO orders SELECT n, 1 + n % 50, n FROM generate_series(1, 500) n",
    "CREATE EXTENSION pg_stat_statements",
    "ANALYZE",
)


@pytest.fixture(scope="module")
def shop(postgres: Cluster) -> Iterator[tuple[str, str]]:
    """(a database with customers and orders, a role that reads it)."""
    with postgres.database(*SHOP) as name, postgres.reader(name, "GRANT SELECT ON orders, customers TO {role}") as role:
        yield name, role


@contextlib.contextmanager
def capturing(cluster: Cluster, shop: tuple[str, str], issue: str = "7", **more: Any) -> Iterator[Postgres]:
    name, role = shop
    target = Target("orders", cluster.standby.conninfo(name, role), cluster.primary.conninfo(name, role))
    found = collectors_of(target, issue, without_literals, **more)
    try:
        yield found
    finally:
        found.close()


def named(found: Postgres, what: str) -> Collector:
    [collector] = [each for each in found.collectors() if each.name == f"postgres.orders.{what}"]
    return collector


def test_without_activity_the_primary_is_not_asked_a_single_thing(postgres: Cluster, shop: tuple[str, str]) -> None:
    """The primary's own log of every statement is the witness, and the replica's shows that the log would tell."""
    since = postgres.primary.log_bytes()
    kept = Kept()
    with capturing(postgres, shop, "untouched", sample_s=0.0) as found:
        for collector in found.collectors():
            collector.collect(kept, time.monotonic() + 30)

    assert postgres.primary.statements("glassbottom:untouched", since) == []
    assert "glassbottom:untouched" not in postgres.primary.log(since)
    assert len(postgres.standby.statements("glassbottom:untouched")) > 20
    assert {role for _, role in kept.origin.values()} == {"standby"}
    assert sorted(kept.files) == [
        "db/orders/activity.json",
        "db/orders/indexes.json",
        "db/orders/locks.json",
        "db/orders/replication.json",
        "db/orders/schema-post-data.sql",
        "db/orders/schema-pre-data.sql",
        "db/orders/schema.sql",
        "db/orders/settings.json",
        "db/orders/sizes.json",
        "db/orders/slow.json",
        "db/orders/statistics.json",
    ]


def test_advice_that_a_replica_cannot_support_is_refused_and_the_rest_is_labelled(
    postgres: Cluster, shop: tuple[str, str]
) -> None:
    with capturing(postgres, shop) as found:
        kept = collected(named(found, "statistics"))
    answers = kept.read("db/orders/statistics.json")["answers"]

    for advice in ("sequential_scans", "unused_indexes", "vacuum"):
        assert answers[advice]["refused"].startswith("Not asked of a standby")
    assert answers["database_statistics"]["says"].startswith("The replica's own work only")
    assert kept.read("db/orders/statistics.json")["role"] == "standby"


def test_the_catalog_tells_sizes_and_foreign_keys_without_an_index_on_the_replica(
    postgres: Cluster, shop: tuple[str, str]
) -> None:
    with capturing(postgres, shop) as found:
        sizes = collected(named(found, "sizes")).read("db/orders/sizes.json")
        indexes = collected(named(found, "indexes")).read("db/orders/indexes.json")

    tables = {row["table"]: row for row in sizes["answers"]["sizes"]["rows"]}
    assert tables["orders"]["rows_estimated"] == 500
    assert tables["orders"]["total_bytes"] > tables["orders"]["heap_bytes"] > 0
    [missing] = indexes["answers"]["fk_without_index"]["rows"]
    assert (missing["table"], missing["columns"]) == ("orders", ["customer"])


def test_a_table_that_is_locked_exclusively_is_skipped_and_said_and_nothing_waits_for_it(
    postgres: Cluster, shop: tuple[str, str]
) -> None:
    name, _ = shop
    with postgres.primary.connect(name) as connection, connection.transaction(force_rollback=True):
        connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        # The lock reaches the replica with the next flush of the log.
        postgres.primary.run("SELECT pg_switch_wal()")
        postgres.standby.wait_until(
            "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND locktype = 'relation'"
        )
        begun = time.monotonic()
        with capturing(postgres, shop) as found:
            sizes = collected(named(found, "sizes")).read("db/orders/sizes.json")
            schema = collected(named(found, "schema"))
        took_s = time.monotonic() - begun
    postgres.standby.wait_until("SELECT count(*) = 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock'")

    answers = sizes["answers"]
    assert [row["table"] for row in answers["sizes"]["rows"]] == ["customers"]
    assert [(row["table"], row["skipped"][:18]) for row in answers["sizes_locked"]["rows"]] == [
        ("orders", "locked exclusively")
    ]
    assert "public.orders is locked exclusively; its definition is left out." in schema.notes
    assert "CREATE TABLE public.customers" in schema.files["db/orders/schema.sql"]
    assert "CREATE TABLE public.orders" not in schema.files["db/orders/schema.sql"]
    assert took_s < 15.0


def test_the_schema_comes_without_a_row(postgres: Cluster, shop: tuple[str, str]) -> None:
    with capturing(postgres, shop) as found:
        files = collected(named(found, "schema")).files
    assert "REFERENCES public.customers" in files["db/orders/schema.sql"]
    assert "CREATE TABLE public.orders" in files["db/orders/schema-pre-data.sql"]
    assert "FOREIGN KEY" not in files["db/orders/schema-pre-data.sql"]
    assert "FOREIGN KEY" in files["db/orders/schema-post-data.sql"]
    assert "customer 1" not in "".join(files.values())


def test_a_table_that_may_not_be_read_is_left_out_of_the_schema_and_named(postgres: Cluster) -> None:
    with (
        postgres.database("CREATE TABLE open (i int)", "CREATE TABLE shut (i int)") as name,
        postgres.reader(name, "GRANT SELECT ON open TO {role}") as role,
        capturing(postgres, (name, role)) as found,
    ):
        kept = collected(named(found, "schema"))
    assert "CREATE TABLE public.open" in kept.files["db/orders/schema.sql"]
    assert "shut" not in kept.files["db/orders/schema.sql"]
    [note] = kept.notes
    assert note.startswith("1 tables are left out of the schema, because pg_dump needs SELECT on them: public.shut.")


def test_an_idle_primary_has_a_replica_that_is_not_behind(postgres: Cluster, shop: tuple[str, str]) -> None:
    """The age of its newest transaction grows meanwhile, which is what a careless reading would tell."""
    with capturing(postgres, shop) as found:
        document = collected(named(found, "replication")).read("db/orders/replication.json")["standby"]
    assert document["lag_before"]["seconds"] == document["lag_after"]["seconds"] == 0.0
    assert document["lag_after"]["state"] == "streaming"
    assert document["lag_after"]["behind_bytes"] == 0


def test_a_replica_that_hears_from_no_primary_is_disconnected_and_not_up_to_date(
    postgres: Cluster, shop: tuple[str, str]
) -> None:
    with postgres.receiver_stopped(), capturing(postgres, shop) as found:
        kept = collected(named(found, "replication"))
    after = kept.read("db/orders/replication.json")["standby"]["lag_after"]
    assert (after["state"], after["seconds"]) == ("disconnected", None)
    assert any(note.startswith("Disconnected: this replica hears from no primary") for note in kept.notes)


def test_a_capture_stops_when_the_replica_falls_behind(postgres: Cluster, shop: tuple[str, str]) -> None:
    name, _ = shop
    with capturing(postgres, shop, guards=Guards(lag_growth_bytes_max=1000)) as found:
        collected(named(found, "settings"))
        with postgres.replay_paused():
            with postgres.primary.connect(name) as connection:
                connection.execute("SET synchronous_commit = remote_write")
                connection.execute("CREATE TABLE late AS SELECT generate_series(1, 1000) i")
                connection.execute("DROP TABLE late")
            with pytest.raises(RefusedError, match=r"fallen behind from 0 to [0-9]+ bytes; nothing more is read"):
                collected(named(found, "sizes"))
        with pytest.raises(RefusedError, match="nothing more is read"):
            collected(named(found, "indexes"))
        told = collected(named(found, "replication")).read("db/orders/replication.json")["standby"]
    assert "fallen behind" in told["failed"]
    assert [lag["behind_bytes"] > 1000 for _, lag in told["lag_while_capturing"]] == [False, True]


@pytest.mark.parametrize(
    ("options", "grant", "said"),
    [
        ("LOGIN SUPERUSER", "SELECT 1", "is a superuser, or can become one"),
        ("LOGIN IN ROLE postgres", "SELECT 1", "is a superuser, or can become one"),
        ("LOGIN NOINHERIT IN ROLE pg_write_all_data", "SELECT 1", "is a member of pg_write_all_data"),
        ("LOGIN CREATEDB", "SELECT 1", "has the right to createdb"),
        ("LOGIN", "GRANT UPDATE (total) ON orders TO {role}", "can write to public.orders"),
        ("LOGIN", "GRANT DELETE ON customers TO {role}", "can write to public.customers"),
        ("LOGIN", "CREATE SCHEMA AUTHORIZATION {role}", "can write to schema role_"),
    ],
)
def test_a_role_that_can_write_is_refused_before_anything_is_read(
    postgres: Cluster, shop: tuple[str, str], options: str, grant: str, said: str
) -> None:
    name, _ = shop
    with postgres.role(options, grant, database=name) as role, capturing(postgres, (name, role)) as found:
        with pytest.raises(RefusedError, match=said):
            collected(named(found, "sizes"))
        with pytest.raises(RefusedError, match=said):
            collected(named(found, "settings"))


def test_a_primary_in_the_place_of_the_replica_is_refused(postgres: Cluster, shop: tuple[str, str]) -> None:
    name, role = shop
    found = collectors_of(Target("orders", postgres.primary.conninfo(name, role)), "7", without_literals)
    with pytest.raises(RefusedError, match="The replica of orders is a primary"):
        collected(named(found, "sizes"))


def test_a_server_that_is_short_of_connections_is_left_alone(postgres: Cluster, shop: tuple[str, str]) -> None:
    with (
        capturing(postgres, shop, guards=Guards(free_connections_min=39)) as found,
        pytest.raises(RefusedError, match="connections left, and a capture leaves 39"),
    ):
        collected(named(found, "sizes"))


def test_a_third_connection_of_ours_is_refused(postgres: Cluster, shop: tuple[str, str]) -> None:
    with capturing(postgres, shop, "one") as one, capturing(postgres, shop, "two") as two:
        collected(named(one, "settings"))
        collected(named(two, "settings"))
        with (
            capturing(postgres, shop, "three") as three,
            pytest.raises(RefusedError, match="has 3 connections of glassbottom already"),
        ):
            collected(named(three, "settings"))


def test_a_slow_statement_is_found_on_the_primary_by_the_difference_of_two_samples(
    postgres: Cluster, shop: tuple[str, str]
) -> None:
    """What was slow before the first sample is not slow now."""
    name, _ = shop
    postgres.primary.run("SELECT pg_sleep(0.3), 'earlier'", database=name)

    def work(_seconds: float) -> None:
        postgres.primary.run("SELECT count(*), pg_sleep(0.1) FROM orders WHERE total > 4711", database=name)

    with capturing(postgres, shop, activity=True, pause=work) as found:
        kept = collected(named(found, "slow"))
    document = kept.read("db/orders/slow.json")
    assert (document["role"], document["method"]) == ("primary", "statements")
    first = document["rows"][0]
    assert first["query"].startswith("SELECT count(*), pg_sleep")
    assert "4711" not in kept.files["db/orders/slow.json"]
    assert first["calls"] == 1
    assert first["mean_ms"] >= 100.0
    assert "earlier" not in kept.files["db/orders/slow.json"]
    assert not any("glassbottom" in row["query"] for row in document["rows"])


def test_without_pg_stat_statements_what_runs_is_looked_at_instead(postgres: Cluster) -> None:
    with (
        postgres.database() as name,
        postgres.reader(name) as role,
        postgres.primary.connect(name) as running,
        capturing(postgres, (name, role), activity=True, pause=lambda _seconds: None) as found,
    ):
        thread = threading.Thread(target=_sleep_until_cancelled, args=[running])
        thread.start()
        postgres.primary.wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        kept = collected(named(found, "slow"))
        running.cancel_safe()
        thread.join()
    document = kept.read("db/orders/slow.json")
    assert document["method"] == "activity"
    assert [(row["query"], row["seen"]) for row in document["rows"]] == [("SELECT pg_sleep(?)", 10)]
    assert any("The extension is not in this database." in note for note in kept.notes)


def _sleep_until_cancelled(connection: Any) -> None:
    with contextlib.suppress(Exception):
        connection.execute("SELECT pg_sleep(60)")


def test_three_sessions_that_block_each_other_are_a_chain_from_the_root(
    postgres: Cluster, shop: tuple[str, str]
) -> None:
    name, _ = shop
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(postgres.primary.connect(name)) for _ in range(3)]
        pids = [session.info.backend_pid for session in sessions]
        threads = []
        for place, session in enumerate(sessions):
            session.execute("BEGIN")
            session.execute(f"UPDATE orders SET total = 815 WHERE id = {place + 1}".encode())
        for place in (1, 2):
            statement = f"UPDATE orders SET total = 815 WHERE id = {place}".encode()
            thread = threading.Thread(target=sessions[place].execute, args=[statement])
            thread.start()
            threads.append(thread)
            postgres.primary.wait_until(f"SELECT cardinality(pg_blocking_pids({pids[place]})) = 1")
        with capturing(postgres, shop, activity=True) as found:
            kept = collected(named(found, "locks"))
        for place in range(3):
            sessions[place].execute("ROLLBACK")
            if place < 2:
                threads[place].join()

    document = kept.read("db/orders/locks.json")
    assert document["role"] == "primary"
    rows = document["answers"]["locks"]["rows"]
    assert [(row["level"], row["path"]) for row in rows] == [(0, pids[:1]), (1, pids[:2]), (2, pids[:3])]
    assert rows[2]["query"] == "UPDATE orders SET total = ? WHERE id = ?"
    assert "815" not in kept.files["db/orders/locks.json"]


def test_a_server_that_stops_answering_does_not_hold_the_capture(postgres: Cluster, shop: tuple[str, str]) -> None:
    with capturing(postgres, shop) as found:
        collected(named(found, "settings"))
        assert found.standby is not None
        with found.standby.use("the test", time.monotonic() + 20) as session:
            pid = session.connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(CollectingError):
                collected(named(found, "sizes"), within_s=0.5)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_the_plan_names_every_statement_and_reads_nothing(postgres: Cluster, shop: tuple[str, str]) -> None:
    since = postgres.standby.log_bytes()
    with capturing(postgres, shop, "plan") as found:
        planned = [each for collector in found.collectors() for each in collector.plan()]
    assert "glassbottom:plan" not in postgres.standby.log(since)
    assert {each.role for each in planned} == {"standby"}
    assert any(each.what.startswith("pg_dump --schema-only") for each in planned)
    assert all(each.timeout_s <= 15.0 for each in planned)


def test_behind_a_pooler_that_refuses_settings_every_transaction_sets_them(
    postgres: Cluster, shop: tuple[str, str]
) -> None:
    name, role = shop
    with pooled(postgres.standby, role) as conninfo:
        found = collectors_of(Target("orders", f"{conninfo} dbname={name} user={role}"), "pooled", without_literals)
        try:
            sizes = collected(named(found, "sizes")).read("db/orders/sizes.json")
            schema = collected(named(found, "schema")).files["db/orders/schema.sql"]
            assert found.standby is not None
            with found.standby.use("the test", time.monotonic() + 20) as session:
                assert session.pooled
                with session.reading(time.monotonic() + 20) as fetch:
                    bound = fetch("SELECT name, setting FROM pg_settings WHERE name IN ('lock_timeout', 'search_path')")
        finally:
            found.close()
    assert {row["name"]: row["setting"] for row in bound} == {"lock_timeout": "500", "search_path": "pg_catalog"}
    assert {row["table"] for row in sizes["answers"]["sizes"]["rows"]} == {"customers", "orders"}
    assert "CREATE TABLE public.orders" in schema


def test_a_password_comes_from_its_file_and_is_in_no_sentence(postgres: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("right-canary\n")
    options = "LOGIN PASSWORD 'right-canary' IN ROLE pg_monitor, with_password"
    with (
        postgres.database("CREATE TABLE a (i int)") as name,
        postgres.role(options, "GRANT SELECT ON a TO {role}", database=name) as role,
    ):
        target = Target("orders", postgres.standby.conninfo(name, role, tcp=True), password_file=file)
        found = collectors_of(target, "7", without_literals)
        assert "CREATE TABLE public.a" in collected(named(found, "schema")).files["db/orders/schema.sql"]
        found.close()

        file.write_text("wrong-canary\n")
        with pytest.raises(CollectingError, match="password authentication failed") as caught:
            collected(named(found, "sizes"))
    assert "canary" not in str(caught.value)


def test_a_password_in_a_connection_string_is_refused() -> None:
    found = collectors_of(Target("orders", "host=127.0.0.1 password=canary"), "7", without_literals)
    with pytest.raises(RefusedError, match="holds a password; put it into password_file") as caught:
        collected(named(found, "sizes"))
    assert "canary" not in str(caught.value)
