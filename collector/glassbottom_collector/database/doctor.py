"""Would a capture work, and would it be harmless: looked at beforehand, each check a sentence with what to do.

Changes nothing, and asks no more than a capture does before it begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..incident.parts import CollectingError
from .cache import CacheTarget, open_redis
from .connection import STATE, WRITABLE, Guards, NodeRole, Session, Target, can_write, open_session
from .lag import LAG, read_lag
from .schema import suited
from .slow import INSTALLED

State = Literal["ok", "warning", "failed"]
BUDGET_S = 10.0
DELAY_MS_LEAST = 10_000
"""A replica that waits less than this for readers cancels a capture as soon as a table is altered."""


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at. sentence: what was found, and unless ok what to do."""

    name: str
    state: State
    sentence: str


def examine_postgres(target: Target, guards: Guards | None = None) -> list[Checked]:
    """The replica, and the primary where one is configured. Raises nothing that a capture would meet."""
    found: list[Checked] = []
    guards = guards or Guards()
    if target.replica:
        found += _node(target, "standby", guards, _replica_checks)
    else:
        found.append(Checked("replica", "warning", "No replica is configured: no schema, sizes or rows are captured."))
    if target.primary:
        found += _node(target, "primary", guards, _activity_checks)
    else:
        sentence = "No primary is configured: slow statements, locks and connections are the replica's own only."
        found.append(Checked("primary", "warning", sentence))
        if target.replica and found[0].state != "failed":
            found += _node(target, "standby", guards, _activity_checks, quiet=True)
    return found


def examine_redis(target: CacheTarget) -> list[Checked]:
    """Whether it answers, and lets us see what we want to see."""
    try:
        client = open_redis(target, "doctor")
    except CollectingError as error:
        return [Checked("cache", "failed", str(error))]
    import redis

    found: list[Checked] = []
    try:
        version = client.info().get("redis_version", "unknown")
        found.append(Checked("cache", "ok", f"Redis {version} answers."))
        for words in (("SLOWLOG", "LEN"), ("LATENCY", "LATEST")):
            try:
                client.execute_command(*words)
                found.append(Checked(words[0].lower(), "ok", f"{words[0]} may be read."))
            except redis.ResponseError:
                sentence = f"{words[0]} is refused to this user: allow it with ACL SETUSER ... +{words[0].lower()}."
                found.append(Checked(words[0].lower(), "warning", sentence))
    except redis.RedisError as error:
        found.append(Checked("cache", "failed", f"Redis {target.name} did not answer: {str(error)[:200]}."))
    finally:
        client.close()
    return found


Fetch = Callable[..., list[dict[str, Any]]]


def _node(
    target: Target,
    role: NodeRole,
    guards: Guards,
    checks: Callable[[Session, Fetch], list[Checked]],
    quiet: bool = False,
) -> list[Checked]:
    """Connects, checks what concerns every node, then what concerns this kind. quiet: only the latter."""
    try:
        session = open_session(target, role, "doctor", guards)
    except CollectingError as error:
        return [Checked("replica" if role == "standby" else "primary", "failed", str(error))]
    found: list[Checked] = []
    try:
        with session.reading(time.monotonic() + BUDGET_S) as fetch:
            if not quiet:
                found += _every_node(session, fetch)
            found += checks(session, fetch)
    except CollectingError as error:
        found.append(Checked(role, "failed", str(error)))
    finally:
        session.close()
    return found


def _every_node(session: Session, fetch: Fetch) -> list[Checked]:
    [state] = fetch(STATE)
    found: list[Checked] = []
    name = "replica" if session.role == "standby" else "primary"
    if session.role == "standby" and not state["in_recovery"]:
        found.append(Checked(name, "failed", f"{session.node} takes writes; name a replica in its place."))
    elif session.role == "primary" and state["in_recovery"]:
        found.append(Checked(name, "warning", f"{session.node} is a replica; name the node that takes writes."))
    else:
        pooled = ", through a pooler" if session.pooled else ""
        found.append(Checked(name, "ok", f"{session.node} is a {name} of PostgreSQL {session.version}{pooled}."))
    said = can_write(state, fetch(WRITABLE))
    found.append(
        Checked(f"{name} role", "failed", f"Captures are refused: {said}")
        if said
        else Checked(f"{name} role", "ok", f"{state['role']} can write nothing.")
    )
    if not state["monitor"]:
        sentence = (
            f"{state['role']} does not see what others do: run GRANT pg_monitor TO {state['role']} on the primary."
        )
        found.append(Checked(f"{name} pg_monitor", "warning", sentence))
    free = state["max_connections"] - state["reserved"] - state["used"]
    enough = free >= session.guards.free_connections_min
    sentence = f"{free} of {state['max_connections']} connections are free"
    sentence += (
        "." if enough else f"; a capture leaves {session.guards.free_connections_min} and is refused. Free some."
    )
    found.append(Checked(f"{name} connections", "ok" if enough else "failed", sentence))
    return found


def _replica_checks(session: Session, fetch: Fetch) -> list[Checked]:
    found: list[Checked] = []
    lag = read_lag(fetch(LAG)[0])
    if lag.state == "streaming" and (lag.seconds or 0.0) <= session.guards.lag_growth_s_max:
        found.append(Checked("lag", "ok", lag.says))
    elif lag.state == "streaming":
        found.append(
            Checked("lag", "warning", f"{lag.says} What is captured is as old; find out what holds replay up.")
        )
    elif lag.state != "primary":
        found.append(Checked("lag", "warning", f"{lag.says} What is captured may be old; look at its connection."))
    [settings] = fetch(SETTINGS)
    if settings["feedback"]:
        sentence = (
            "hot_standby_feedback is on: while a capture reads, vacuum on the primary keeps what it could remove."
        )
        found.append(Checked("feedback", "warning", f"{sentence} Captures are short; keep them so."))
    else:
        found.append(
            Checked("feedback", "ok", "hot_standby_feedback is off: reading here holds nothing on the primary.")
        )
    if 0 <= settings["delay_ms"] < DELAY_MS_LEAST:
        sentence = f"max_standby_streaming_delay is {settings['delay_ms']} ms: replay cancels a capture soon."
        found.append(Checked("replay delay", "warning", f"{sentence} Capture again, or raise it."))
    try:
        path = suited(session.version)
        found.append(Checked("pg_dump", "ok", f"{path} can read PostgreSQL {session.version}."))
    except CollectingError as error:
        found.append(Checked("pg_dump", "failed", str(error)))
    return found


def _activity_checks(_session: Session, fetch: Fetch) -> list[Checked]:
    [settings] = fetch(SETTINGS)
    found: list[Checked] = []
    if not fetch(INSTALLED):
        sentence = "pg_stat_statements is not in this database: slow statements are found by looking at what runs."
        found.append(
            Checked("slow statements", "warning", f"{sentence} CREATE EXTENSION on the primary, when it suits you.")
        )
    elif not settings["preloaded"]:
        sentence = "pg_stat_statements is not in shared_preload_libraries, or this role may not see that setting."
        found.append(Checked("slow statements", "warning", f"{sentence} Add it, or grant pg_monitor."))
    else:
        found.append(Checked("slow statements", "ok", "pg_stat_statements counts."))
    if not settings["io_timing"]:
        sentence = (
            "track_io_timing is off: how long statements waited for disks is unknown. Turn it on if it costs little."
        )
        found.append(Checked("I/O times", "warning", sentence))
    return found


SETTINGS = """
SELECT current_setting('hot_standby_feedback')::bool AS feedback,
       (SELECT setting::int FROM pg_settings WHERE name = 'max_standby_streaming_delay') AS delay_ms,
       current_setting('track_io_timing')::bool AS io_timing,
       coalesce((SELECT setting ~ 'pg_stat_statements' FROM pg_settings WHERE name = 'shared_preload_libraries'), false)
         AS preloaded
"""
