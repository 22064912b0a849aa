"""What is asked of real databases once a minute, for the hour before an incident."""

from __future__ import annotations

import pytest
import redis
from glassbottom_collector.config import DatabaseConfig
from glassbottom_collector.database.readings import Ratio, readings_of
from glassbottom_collector.incident.history import CONNECTIONS, CONNECTIONS_MAX, HIT_RATIO, UNITS, History

from tests.support.postgres import Cluster
from tests.support.redis_server import redis_server

pytestmark = pytest.mark.once


def test_a_replica_is_asked_for_connections_and_its_cache(postgres: Cluster) -> None:
    with (
        postgres.database("CREATE TABLE a AS SELECT generate_series(1, 10) AS i") as name,
        postgres.reader(name, "GRANT SELECT ON a TO {role}") as role,
    ):
        replica = postgres.standby.conninfo(name, role)
        probe = readings_of(DatabaseConfig(name="orders", service="shop", kind="postgresql", replica=replica))
        assert probe is not None
        history = History({"orders": probe})
        with postgres.standby.connect(name, role) as other:
            history.poll()
            other.execute("SELECT count(*) FROM a")
            history.poll()
    assert history.problems() == {}
    first, second = history.readings("orders")
    assert (first.values[CONNECTIONS] >= 1, HIT_RATIO in first.values) == (True, False)
    assert second.values[CONNECTIONS_MAX] >= 10
    assert 0 <= second.values.get(HIT_RATIO, 1.0) <= 1
    assert set(second.values) <= set(UNITS)


def test_a_primary_given_as_a_replica_is_not_asked(postgres: Cluster) -> None:
    replica = postgres.primary.conninfo()
    probe = readings_of(DatabaseConfig(name="orders", service="shop", kind="postgresql", replica=replica))
    assert probe is not None
    history = History({"orders": probe})
    history.poll()
    assert history.readings("orders") == ()
    assert "The replica of orders is a primary" in history.problems()["orders"]


def test_a_cache_is_asked_for_clients_and_for_the_hits_of_the_minute() -> None:
    with redis_server() as server:
        probe = readings_of(DatabaseConfig(name="sessions", service="shop", kind="redis", replica=server.url))
        assert probe is not None
        history = History({"sessions": probe})
        with redis.Redis.from_url(server.url) as client:
            client.set("a", 1)
            client.get("missing before")
            history.poll()
            for _ in range(3):
                client.get("a")
            client.get("missing")
            history.poll()
    first, second = history.readings("sessions")
    assert HIT_RATIO not in first.values
    assert second.values[HIT_RATIO] == 0.75
    assert second.values[CONNECTIONS] >= 2, "the client of this test, and ours"


def test_a_node_that_takes_writes_is_never_asked_by_itself() -> None:
    assert readings_of(DatabaseConfig(name="a", service="", kind="postgresql", replica="", primary="host=x")) is None


def test_a_ratio_needs_two_readings_between_which_something_was_asked() -> None:
    ratio = Ratio()
    assert [ratio.read(*each) for each in ((5, 10), (5, 10), (8, 14), (0, 2), (1, 3))] == [
        {},
        {},
        {HIT_RATIO: 0.75},
        {},  # the counters were reset
        {HIT_RATIO: 1.0},
    ]
