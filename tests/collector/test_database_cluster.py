"""The real PostgreSQL primary and replica that other tests stand on: what they take for granted about it."""

from __future__ import annotations

import pytest

from tests.support.postgres import Cluster

pytestmark = pytest.mark.once


def test_what_the_primary_was_told_can_be_read_on_the_replica_at_once(postgres: Cluster) -> None:
    with (
        postgres.database("CREATE TABLE a (i int)", "INSERT INTO a SELECT generate_series(1, 10)") as name,
        postgres.reader(name, "GRANT SELECT ON a TO {role}") as role,
    ):
        rows = postgres.standby.run("SELECT count(*), pg_is_in_recovery() FROM a", database=name, user=role)
    assert rows == [(10, True)]


def test_a_server_says_itself_which_statements_it_was_given_and_by_whom(postgres: Cluster) -> None:
    since = postgres.primary.log_bytes()
    with postgres.primary.connect(application_name="asking") as connection:
        connection.execute("SELECT 1")
        connection.execute("SELECT %s::int", [2])

    assert postgres.primary.statements("asking", since) == ["SELECT 1", "SELECT $1::int"]
    assert postgres.primary.statements("another", since) == []
    assert postgres.standby.statements("asking") == []


def test_a_receiver_that_is_stopped_comes_back(postgres: Cluster) -> None:
    with postgres.receiver_stopped():
        assert postgres.standby.run("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)]
    with postgres.database("CREATE TABLE a (i int)") as name:
        assert postgres.standby.run("SELECT count(*) FROM a", database=name) == [(0,)]
