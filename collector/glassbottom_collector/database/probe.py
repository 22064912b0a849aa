"""One cheap question a minute: how many connections there are and may be, and how much of what is read is cached.

Asked of the node that takes writes where the configuration names one, since connections to it are seen nowhere else;
of the replica otherwise. Each reading is a connection of its own, so that nothing is held open in between, with the
guards that every capture has. A hit ratio is of the time since the last reading: a total since the server started says
nothing of an incident.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..incident.parts import CollectingError
from .cache import CacheTarget, open_redis
from .connection import Guards, Target, connect

CONNECTIONS = "glassbottom.db.connections"
CONNECTIONS_MAX = "glassbottom.db.connections_max"
HIT_RATIO = "glassbottom.db.cache_hit_ratio"
WAIT_S = 5.0
QUESTION = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       (SELECT setting::int FROM pg_settings WHERE name = 'max_connections') AS connections_max,
       (SELECT blks_hit FROM pg_stat_database WHERE datname = current_database()) AS hits,
       (SELECT blks_read FROM pg_stat_database WHERE datname = current_database()) AS misses
"""


@dataclass
class _Ratio:
    """Of hits since the last reading; nothing for the first, and when nobody read."""

    before: tuple[float, float] | None = None

    def of(self, hits: float, misses: float) -> dict[str, float]:
        before, self.before = self.before, (hits, misses)
        if before is None or hits < before[0] or misses < before[1]:  # the first, or the server began anew
            return {}
        asked = hits - before[0] + misses - before[1]
        return {HIT_RATIO: (hits - before[0]) / asked} if asked > 0 else {}


@dataclass
class PostgresProbe:
    """A callable for incident.history.History. Raises CollectingError."""

    target: Target
    _ratio: _Ratio = field(default_factory=_Ratio)

    def __call__(self) -> Mapping[str, float]:
        deadline_s = time.monotonic() + WAIT_S
        role = "primary" if self.target.primary else "standby"
        session = connect(self.target, role, "probe", Guards(), deadline_s)
        try:
            with session.reading(deadline_s) as fetch:
                [row] = fetch(QUESTION)
        finally:
            session.close()
        return {
            # Ours is among them.
            CONNECTIONS: float(row["connections"]) - 1,
            CONNECTIONS_MAX: float(row["connections_max"]),
            **self._ratio.of(float(row["hits"] or 0), float(row["misses"] or 0)),
        }


@dataclass
class RedisProbe:
    """The same of Redis."""

    target: CacheTarget
    _ratio: _Ratio = field(default_factory=_Ratio)

    def __call__(self) -> Mapping[str, float]:
        client = open_redis(self.target, "probe")
        try:
            told = client.info()
        except Exception as error:  # noqa: BLE001 - whatever its library raises
            raise CollectingError(f"{self.target.name} did not tell how it is: {type(error).__name__}.") from None
        finally:
            client.close()
        return {
            CONNECTIONS: float(told["connected_clients"]) - 1,
            CONNECTIONS_MAX: float(told.get("maxclients", 0)),
            **self._ratio.of(float(told["keyspace_hits"]), float(told["keyspace_misses"])),
        }
