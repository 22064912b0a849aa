"""What is said before a capture about a real PostgreSQL and a real Redis: each check a sentence, with what to do."""

from __future__ import annotations

import pytest
from glassbottom_collector.database.cache import CacheTarget
from glassbottom_collector.database.connection import Guards, Target
from glassbottom_collector.database.doctor import Checked, examine_postgres, examine_redis

from tests.support.postgres import Cluster
from tests.support.redis_server import redis_server

pytestmark = pytest.mark.once


def by_name(found: list[Checked]) -> dict[str, tuple[str, str]]:
    assert len({each.name for each in found}) == len(found)
    assert all(each.sentence.endswith(".") for each in found)
    return {each.name: (each.state, each.sentence) for each in found}


def test_a_database_as_it_should_be_is_well(postgres: Cluster) -> None:
    with postgres.database("CREATE EXTENSION pg_stat_statements") as name, postgres.reader(name) as role:
        target = Target("orders", postgres.standby.conninfo(name, role), postgres.primary.conninfo(name, role))
        found = by_name(examine_postgres(target))
    assert {check for check, (state, _) in found.items() if state != "ok"} == {"I/O times"}
    assert found["lag"][1] == "Streaming, 0.0 s behind."
    assert found["pg_dump"][1].endswith(f"can read PostgreSQL {postgres.version}.")


def test_what_a_replica_alone_cannot_tell_is_said(postgres: Cluster) -> None:
    with postgres.database() as name, postgres.role(database=name) as role:
        found = by_name(examine_postgres(Target("orders", postgres.standby.conninfo(name, role))))
    assert found["primary"][0] == "warning"
    assert found["replica pg_monitor"] == (
        "warning", f"{role} does not see what others do: run GRANT pg_monitor TO {role} on the primary.",
    )  # fmt: skip
    assert found["slow statements"][1].startswith("pg_stat_statements is not in this database")


def test_what_would_be_refused_has_failed_beforehand(postgres: Cluster) -> None:
    with postgres.database() as name:
        target = Target("orders", postgres.standby.conninfo(name, "postgres"))
        found = by_name(examine_postgres(target, Guards(free_connections_min=1000)))
        swapped = by_name(examine_postgres(Target("orders", postgres.primary.conninfo(name, "postgres"))))
    assert found["replica role"][0] == "failed"
    assert "postgres is a superuser" in found["replica role"][1]
    assert found["replica connections"][0] == "failed"
    assert swapped["replica"][1].startswith("The replica of orders is a primary")


def test_a_replica_that_is_cut_off_is_said(postgres: Cluster) -> None:
    with postgres.database() as name, postgres.reader(name) as role, postgres.receiver_stopped():
        found = by_name(examine_postgres(Target("orders", postgres.standby.conninfo(name, role))))
        assert found["lag"][0] == "warning"
        assert found["lag"][1].startswith("Disconnected: this replica hears from no primary")


def test_a_pg_dump_that_is_too_old_is_said_with_what_installs_it(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glassbottom_collector.database import programs

    monkeypatch.setattr(programs, "versions", lambda _program: iter([(11, None)]))
    with postgres.database() as name, postgres.reader(name) as role:
        found = by_name(examine_postgres(Target("orders", postgres.standby.conninfo(name, role))))
    assert found["pg_dump"] == (
        "failed",
        (
            f"pg_dump must be of PostgreSQL {postgres.version} or newer, and the newest here is 11: "
            f"`apt-get install -y postgresql-client-{postgres.version}`."
        ),
    )


def test_a_node_that_is_not_there_is_a_sentence(postgres: Cluster) -> None:
    found = by_name(examine_postgres(Target("orders", "host=127.0.0.1 port=1 dbname=orders user=reader")))
    assert found["replica"][0] == "failed"
    assert found["replica"][1].startswith("The standby of orders cannot be reached")


def test_a_cache_says_what_it_lets_us_see() -> None:
    with redis_server() as server:
        server.client.execute_command("ACL", "SETUSER", "default", "-slowlog")
        found = by_name(examine_redis(CacheTarget("sessions", server.url)))
    assert found["cache"][0] == "ok"
    assert found["slowlog"][0] == "warning"
    assert found["latency"][0] == "ok"
