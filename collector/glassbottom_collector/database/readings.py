"""A handful of numbers of a database, asked for once a minute: what incident/history.py keeps from before an incident.

One connection, one cheap query, and away again; a connection that stayed would be one of those a capture counts. Only
what is configured as a replica is asked: what asks by itself, day and night, never asks the node that takes writes. So
the connections of PostgreSQL are those of its replica.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..incident.history import CONNECTIONS, CONNECTIONS_MAX, HIT_RATIO
from .cache import CacheTarget, open_redis
from .connection import Guards, Target, open_session, refuse
from .every import Configured

ISSUE = "history"
TIMEOUT_S = 3.0
GUARDS = Guards(connect_timeout_s=2, statement_timeout_ms=2_000)

NUMBERS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
         AS connections,
       current_setting('max_connections')::int AS connections_max,
       sum(blks_hit)::bigint AS hits, sum(blks_hit + blks_read)::bigint AS asked
  FROM pg_stat_database WHERE datname = current_database()
"""


@dataclass
class Ratio:
    """Hits by what was asked for between two readings of counters that only grow."""

    _before: tuple[int, int] | None = None

    def read(self, hits: int, asked: int) -> dict[str, float]:
        """Empty at first, after a reset, and when nothing was asked for."""
        before, self._before = self._before, (hits, asked)
        if before is None or asked <= before[1] or hits < before[0]:
            return {}
        return {HIT_RATIO: (hits - before[0]) / (asked - before[1])}


@dataclass
class PostgresReadings:
    """A history.Probe. Raises CollectingError."""

    target: Target
    _ratio: Ratio = field(default_factory=Ratio)
    _is_allowed: bool = False

    def __call__(self) -> Mapping[str, float]:
        session = open_session(self.target, "standby", ISSUE, GUARDS)
        try:
            with session.reading(time.monotonic() + TIMEOUT_S) as fetch:
                if not self._is_allowed:
                    # Once: whether a role can write is looked up in every table.
                    refuse(session, fetch)
                    self._is_allowed = True
                [row] = fetch(NUMBERS, timeout_s=2.0)
        finally:
            session.close()
        return {
            CONNECTIONS: float(row["connections"]),
            CONNECTIONS_MAX: float(row["connections_max"]),
            **self._ratio.read(int(row["hits"]), int(row["asked"])),
        }


@dataclass
class RedisReadings:
    """A history.Probe. Raises CollectingError, and what redis raises."""

    target: CacheTarget
    _ratio: Ratio = field(default_factory=Ratio)

    def __call__(self) -> Mapping[str, float]:
        client = open_redis(self.target, ISSUE)
        try:
            said = {**client.info("clients"), **client.info("stats")}
        finally:
            client.close()
        hits = int(said.get("keyspace_hits", 0))
        found = {"connected_clients": CONNECTIONS, "maxclients": CONNECTIONS_MAX}
        return {
            **{name: float(said[key]) for key, name in found.items() if key in said},
            **self._ratio.read(hits, hits + int(said.get("keyspace_misses", 0))),
        }


def readings_of(database: Configured) -> Callable[[], Mapping[str, float]] | None:
    """What to ask a database of the configuration each minute; None for a kind, or a node, that is not asked."""
    if not database.replica:
        return None
    if database.kind == "postgresql":
        return PostgresReadings(Target(database.name, database.replica, "", database.password_file))
    if database.kind == "redis":
        return RedisReadings(CacheTarget(database.name, database.replica, database.password_file))
    return None
