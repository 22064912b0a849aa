"""How rows are read: what the server is asked, what is left out, and what is refused. A real primary and replica."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
from glassbottom_collector.incident.parts import CollectingError, RefusedError, Role
from glassbottom_collector.sample import Sample, SampleCollector, SampleSettings, take
from glassbottom_collector.sample.load import load_members

from tests.support.postgres import Cluster, Node
from tests.support.sampled import KEY, dump, loaded, sample

pytestmark = pytest.mark.once

LOGS = "CREATE TABLE logs (at timestamp, line text); CREATE TABLE jobs (id int PRIMARY KEY, line text);"
FILL = """
INSERT INTO logs SELECT '2026-01-01'::timestamp + i * interval '1 s', repeat('x', 200) FROM generate_series(1, 9000) i;
INSERT INTO jobs SELECT i, repeat('x', 200) FROM generate_series(1, 9000) i; ANALYZE;"""
SMALL = SampleSettings(rows_per_table=50, sorted_bytes_max=65_536)


def told(taken: Sample, table: str) -> dict[str, Any]:
    return next(one for one in taken.report if one["table"] == f"public.{table}")


def asked(node: Node, database: str, settings: SampleSettings) -> tuple[Sample, list[str]]:
    """A sample, and the statements that the server says it was given for it."""
    since = node.log_bytes()
    with node.connect(database, application_name="sampling") as connection:
        taken = take(connection, settings, KEY)
    return taken, node.statements("sampling", since)


def test_a_large_table_without_an_index_is_sampled_by_pages_and_not_sorted(postgres: Cluster) -> None:
    with postgres.database(LOGS, FILL) as name:
        taken, statements = asked(postgres.standby, name, SMALL)
        again, _ = asked(postgres.standby, name, SMALL)
        about_logs = [text for text in statements if '"logs"' in text]
        assert [text for text in about_logs if "TABLESAMPLE SYSTEM" in text and "REPEATABLE" in text]
        assert [text for text in about_logs if "ORDER BY" in text] == []
        # The index of the other one is read from its end: the planner was asked first, and it does not sort.
        [ordered] = [text for text in statements if '"jobs"' in text and text.startswith("SELECT")]
        assert f"EXPLAIN (FORMAT JSON) {ordered}" in statements
        plan = postgres.standby.run(f"SET search_path = ''; EXPLAIN {ordered}", database=name)
        assert not [line for (line,) in plan if "Sort" in line or "Seq Scan" in line]
    assert told(taken, "logs")["rows"] == told(taken, "jobs")["rows"] == 50
    assert told(taken, "logs")["how"].startswith("pages chosen by chance")
    assert again.files == taken.files


def test_a_small_table_without_an_index_gives_its_newest_rows(postgres: Cluster) -> None:
    with postgres.database("CREATE TABLE a (created_at date, n int)") as name:
        postgres.primary.run(
            "INSERT INTO a SELECT '2026-01-01'::date - i, i FROM generate_series(1, 90) i", database=name
        )
        taken = sample(postgres.standby, name, SampleSettings(rows_per_table=10))
    assert sorted(int(line.split(",")[1]) for line in taken.files["public.a"].split()[1:]) == list(range(1, 11))


def test_names_that_are_awkward_in_sql_and_in_paths_go_through(postgres: Cluster) -> None:
    long = "x" * 63
    table, column = '"my %s ""schema"" "."a table/é"', '"say ""%s"" "'
    schema = f"""
    CREATE SCHEMA "my %s ""schema"" ";
    CREATE TABLE {table} ("the id%" int PRIMARY KEY, {column} text CHECK ({column} LIKE '%'));
    CREATE TABLE {long} (id int REFERENCES {table});
    INSERT INTO {table} SELECT i, 'a' || i FROM generate_series(1, 30) i;
    INSERT INTO {long} VALUES (1);"""
    with postgres.database(schema) as name:
        taken = sample(postgres.standby, name, SampleSettings(rows_per_table=5))
        members = taken.members("shop")
        assert min(members) == "db/shop/data/my=20=25s=20=22schema=22=20.a=20table=2F=C3=A9.csv"
        parts = [dump(postgres.standby, name, section) for section in ("pre-data", "post-data")]
        with postgres.database() as other, postgres.primary.connect(other) as connection:
            report = load_members(connection, "shop", members, *parts)
    assert report.complete and sorted(report.rows.values()) == [1, 6]


def test_the_primary_is_asked_nothing(postgres: Cluster) -> None:
    with postgres.database(LOGS) as name:
        since = postgres.primary.log_bytes()
        _, statements = asked(postgres.standby, name, SMALL)
        assert statements
        assert postgres.primary.statements("sampling", since) == []


def test_a_table_that_is_locked_or_not_readable_is_left_out_and_references_to_it_are_cut(postgres: Cluster) -> None:
    schema = """
    CREATE TABLE locked (id int PRIMARY KEY);
    CREATE TABLE hidden (id int PRIMARY KEY);
    CREATE TABLE a (id int PRIMARY KEY, locked_id int REFERENCES locked, hidden_id int NOT NULL REFERENCES hidden);
    CREATE TABLE b (id int PRIMARY KEY, locked_id int REFERENCES locked, a_id int REFERENCES a);
    CREATE TABLE c (b_id int NOT NULL REFERENCES b);
    INSERT INTO locked VALUES (1); INSERT INTO hidden VALUES (1); INSERT INTO a VALUES (1, NULL, 1);
    INSERT INTO b VALUES (1, 1, NULL), (2, NULL, 1); INSERT INTO c VALUES (1), (2);"""
    grants = "GRANT SELECT ON locked, a, b, c TO {role}"
    with (
        postgres.database(schema) as name,
        postgres.reader(name, grants) as role,
        closing(psycopg.connect(postgres.primary.conninfo(name))) as holder,
    ):
        holder.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        holder.execute("SELECT pg_switch_wal()")  # the lock is in the log that the replica applies
        postgres.standby.wait_until(
            "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation > 16384"
        )
        with postgres.standby.connect(name, role, options="-c lock_timeout=500") as connection:
            taken = take(connection, SampleSettings(), KEY)
        holder.rollback()
        with loaded(postgres, name, taken) as (_, report):
            assert report.complete and report.rows == {"public.a": 0, "public.b": 2, "public.c": 2}
    assert set(taken.files) == {"public.a", "public.b", "public.c"}
    assert told(taken, "a")["rows_dropped"] == 1  # its reference to hidden may not be NULL
    assert told(taken, "b")["references_cut"] == 2
    assert sum("ACCESS EXCLUSIVE" in note or "no SELECT" in note for note in taken.notes) == 2


def test_a_role_that_may_read_some_columns_gets_these(postgres: Cluster) -> None:
    schema = """
    CREATE TABLE a (id int PRIMARY KEY, at date NOT NULL DEFAULT '2026-01-01', secret text, name text);
    CREATE TABLE b (id int REFERENCES a, secret text);
    INSERT INTO a SELECT i, '2026-05-05', 'hidden', 'name ' || i FROM generate_series(1, 20) i;
    INSERT INTO b VALUES (1, 'hidden'), (2, 'hidden'), (NULL, 'hidden');"""
    grants = "GRANT SELECT (id, name) ON a TO {role}", "GRANT SELECT (id) ON b TO {role}"
    with postgres.database(schema) as name, postgres.reader(name, *grants) as role:
        with postgres.standby.connect(name, role) as connection:
            taken = take(connection, SampleSettings(rows_per_table=5), KEY)
        with loaded(postgres, name, taken) as (_, report):
            assert report.complete and report.rows == {"public.a": 7, "public.b": 3}
    assert taken.files["public.a"].startswith("id,secret,name\n")  # the server fills what must not be NULL
    assert not any("hidden" in text for text in taken.files.values())


def test_parents_beyond_the_limit_are_counted_and_the_sample_still_imports(postgres: Cluster) -> None:
    schema = """CREATE TABLE a (id int PRIMARY KEY, next int REFERENCES a);
    INSERT INTO a SELECT i, nullif(i - 1, 0) FROM generate_series(1, 100) i;"""
    with postgres.database(schema) as name:
        taken = sample(postgres.standby, name, SampleSettings(rows_per_table=5, added_per_table_max=20))
        with loaded(postgres, name, taken) as (_, report):
            assert report.complete
    one = told(taken, "a")
    assert (one["chosen"], one["parents_added"], one["references_cut"]) == (5, 20, 1)
    assert one["parents_beyond_limit"] > 0


def test_what_no_mask_can_satisfy_is_dropped_and_told(postgres: Cluster) -> None:
    schema = """CREATE TABLE a (id int PRIMARY KEY, sum text CHECK (md5(sum) LIKE '%7%e%' AND length(sum) % 2 = 1));
    CREATE TABLE b (born date CHECK (born > '2026-01-01'), at date CHECK (at > '2026-01-01'), ok int);
    INSERT INTO a SELECT i, i::text FROM generate_series(1, 9999) i
      WHERE md5(i::text) LIKE '%7%e%' AND length(i::text) % 2 = 1 LIMIT 50;
    INSERT INTO b VALUES ('2026-01-02', '2026-01-02', 1), (NULL, '2026-01-02', 2);"""
    with postgres.database(schema) as name:
        taken = sample(postgres.standby, name, SampleSettings())
        with loaded(postgres, name, taken) as (_, report):
            assert report.complete
    assert told(taken, "a")["rows"] == 50  # the next mask, and the next, until the server would take it
    assert taken.files["public.b"] == "born,at,ok\n,2026-01-02,2\n"
    assert [note for note in taken.notes if "1 rows could not be masked as b_born_check demands" in note]


def test_a_column_that_is_named_in_the_configuration_is_kept_or_masked(postgres: Cluster) -> None:
    with postgres.database("CREATE TABLE a (x text, y int); INSERT INTO a VALUES ('kept', 12345)") as name:
        settings = SampleSettings(allow=["a.x"], mask=["public.a.y"])
        assert sample(postgres.standby, name, settings).files["public.a"].startswith("x,y\nkept,")
        assert "12345" not in sample(postgres.standby, name, settings).files["public.a"]
        with pytest.raises(CollectingError, match=r"There is no column a\.z in this database"):
            sample(postgres.standby, name, SampleSettings(allow=["a.z"]))
        with pytest.raises(CollectingError, match=r"must read TABLE\.COLUMN -> TABLE\.COLUMN"):
            sample(postgres.standby, name, SampleSettings(references=["a.x"]))


def test_rows_are_read_in_one_snapshot_that_ends_before_the_masks_are_tried(postgres: Cluster) -> None:
    with postgres.database("CREATE TABLE a (x text CHECK (x <> ''))", "INSERT INTO a VALUES ('b')") as name:
        _, statements = asked(postgres.standby, name, SMALL)
    [begin, *others] = [number for number, text in enumerate(statements) if text.startswith("BEGIN")]
    assert statements[begin] == "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    end = statements.index("ROLLBACK")
    reads = [number for number, text in enumerate(statements) if 'FROM ONLY "public"."a"' in text]
    tries = [number for number, text in enumerate(statements) if "IS FALSE" in text]
    assert begin < min(reads) <= max(reads) < end < min(tries) and others


def test_a_transaction_that_is_no_snapshot_is_refused_and_one_that_is_goes_on(postgres: Cluster) -> None:
    with postgres.database("CREATE TABLE a (x int)") as name, postgres.standby.connect(name) as connection:
        connection.autocommit = False
        connection.execute("SELECT 1")
        with pytest.raises(RefusedError, match="needs a REPEATABLE READ, READ ONLY transaction"):
            take(connection, SampleSettings(), KEY)
        connection.rollback()
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        assert set(take(connection, SampleSettings(), KEY).files) == {"public.a"}
        assert connection.execute("SHOW search_path").fetchone() != ("",)


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, str, Role]] = {}
        self.notes: list[str] = []

    def text(self, path: str, text: str, *, node: str, role: Role) -> None:
        raise AssertionError("everything of a sample is masked already")

    def json(self, path: str, value: Any, *, node: str, role: Role) -> None:
        raise AssertionError("everything of a sample is masked already")

    def anonymised(self, path: str, text: str, *, node: str, role: Role) -> None:
        self.files[path] = text, node, role

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def test_as_a_collector_it_leaves_files_labelled_with_their_node_and_refuses_a_primary(postgres: Cluster) -> None:
    with postgres.database("CREATE TABLE a (x text); INSERT INTO a VALUES ('secret')") as name:
        sink = Kept()
        collector = SampleCollector(
            "shop", lambda: postgres.standby.connect(name), SMALL, KEY, node="replica:5432/shop"
        )
        assert collector.name == "sample.shop" and len(collector.plan()) > 5
        assert all(one.node == "replica:5432/shop" and one.role == "standby" for one in collector.plan())
        collector.collect(sink, time.monotonic() + 20)
        assert set(sink.files) == {"db/shop/data/public.a.csv", "db/shop/fk.json", "db/shop/sample.json"}
        assert {one[1:] for one in sink.files.values()} == {("replica:5432/shop", "standby")}
        primary = SampleCollector("shop", lambda: postgres.primary.connect(name), SMALL, KEY, node="primary:5432/shop")
        with pytest.raises(RefusedError, match="takes writes; rows are sampled on a replica only"):
            primary.collect(sink, time.monotonic() + 20)


def test_when_there_is_no_time_left_tables_are_left_out_and_told(postgres: Cluster) -> None:
    with postgres.database(LOGS) as name, postgres.standby.connect(name) as connection:
        clock = iter([0.0, 0.0, *[9.0] * 99])
        taken = take(connection, SMALL, KEY, deadline_s=5.0, clock=lambda: next(clock))
    assert set(taken.files) == {"public.jobs"}
    assert taken.notes == ["public.logs was left out: there was no time left."]
