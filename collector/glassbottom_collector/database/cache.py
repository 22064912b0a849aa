"""What Redis says about itself: hits, memory, clients, latencies, and its slow commands without their values.

Three kinds of commands are sent: INFO, SLOWLOG GET and LATENCY LATEST. Never KEYS, SCAN, MONITOR or DEBUG, which cost
the server time that grows with what it holds. Keys and arguments are other people's data: a key is told by what stands
before its first colon, an argument by its number.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..incident.parts import CollectingError, Planned, Sink

SLOW_MAX = 50
TIMEOUT_S = 2.0
COMMANDS = ("INFO", "INFO COMMANDSTATS", "INFO LATENCYSTATS", f"SLOWLOG GET {SLOW_MAX}", "LATENCY LATEST")
# The rest of INFO has paths, addresses and names of the machine.
FIELDS = frozenset(
    [
        "redis_version",
        "uptime_in_seconds",
        "role",
        "connected_clients",
        "blocked_clients",
        "maxclients",
        "used_memory",
        "used_memory_rss",
        "used_memory_peak",
        "maxmemory",
        "maxmemory_policy",
        "mem_fragmentation_ratio",
        "rdb_last_bgsave_status",
        "aof_enabled",
        "rdb_changes_since_last_save",
        "total_connections_received",
        "total_commands_processed",
        "instantaneous_ops_per_sec",
        "rejected_connections",
        "expired_keys",
        "evicted_keys",
        "keyspace_hits",
        "keyspace_misses",
        "latest_fork_usec",
        "total_error_replies",
        "connected_slaves",
        "master_link_status",
        "master_last_io_seconds_ago",
        "master_sync_in_progress",
        "used_cpu_sys",
        "used_cpu_user",
        "cluster_enabled",
    ]
)
RedactText = Callable[[str, str], str]


@dataclass(frozen=True)
class CacheTarget:
    """A Redis of the configuration. url: redis://HOST:PORT/DB or rediss://, without a password."""

    name: str
    url: str
    password_file: Path | None = None


@dataclass
class Redis:
    """Implements Collector. INFO is read twice, sample_s apart: the ratio of hits is of that time."""

    target: CacheTarget
    issue: str
    redact_text: RedactText
    pause: Callable[[float], None] = time.sleep
    sample_s: float = 2.0
    budget_s: float = 10.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"redis.{self.target.name}"

    def plan(self) -> Sequence[Planned]:
        """The commands."""
        return [Planned(command, _node(self.target.url), "cache", "cheap", TIMEOUT_S) for command in COMMANDS]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        """See Collector. Writes cache/NAME.json; a command that this server refuses is a sentence in it."""
        deadline_s = min(deadline_s, time.monotonic() + self.budget_s)
        client = open_redis(self.target, self.issue)
        import redis

        try:
            before = client.info()
            self.pause(min(self.sample_s, max(deadline_s - time.monotonic() - 5 * TIMEOUT_S / 4, 0.0)))
            after = client.info()
            document: dict[str, Any] = {
                "node": _node(self.target.url),
                "role": "cache",
                "redis_role": "replica" if after.get("role") == "slave" else "primary",
                "info": allowed(after),
                "keyspace": {key: value for key, value in after.items() if re.fullmatch(r"db\d+", key)},
                "since_start": hits(after),
                f"over_{self.sample_s:g}_s": hits(after, before),
            }
            for key, ask in (
                ("commands", lambda: client.info("commandstats")),
                ("latency_us", lambda: client.info("latencystats")),
                ("slow", lambda: [self._slow(entry) for entry in client.slowlog_get(SLOW_MAX)]),
                ("latency_events", lambda: [_event(each) for each in client.execute_command("LATENCY LATEST")]),
            ):
                if time.monotonic() > deadline_s:
                    raise CollectingError(f"The time for {_node(self.target.url)} was over; {key} was not asked.")
                try:
                    document[key] = ask()
                except redis.ResponseError as error:
                    document[key] = {"failed": f"This server refuses it: {str(error)[:200]}."}
                    sink.note(f"{key} of {_node(self.target.url)} is missing: the server refuses it to this user.")
        except redis.RedisError as error:
            raise CollectingError(f"Redis {self.target.name} did not answer: {str(error)[:200]}.") from None
        finally:
            client.close()
        sink.json(f"cache/{self.target.name}.json", document, node=_node(self.target.url), role="cache")

    def _slow(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        words = entry["command"]
        text = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
        return {
            "at_s": entry["start_time"],
            "us": entry["duration"],
            "command": self.redact_text(command(text), f"cache/{self.target.name}.json"),
        }


def open_redis(target: CacheTarget, issue: str) -> Any:
    """A client that gives up early and tries nothing twice. Raises CollectingError."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise CollectingError(
            "redis is not installed: install it with `pip install 'glassbottom[databases]'`."
        ) from None
    password = None
    if target.password_file is not None:
        try:
            password = target.password_file.read_text().splitlines()[0]
        except (OSError, IndexError) as error:
            raise CollectingError(
                f"The password of {target.name} cannot be read from {target.password_file}: {error}."
            ) from None
    try:
        return redis.Redis.from_url(
            target.url,
            **({"password": password} if password else {}),
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            client_name=re.sub(r"[^!-~]", "_", f"glassbottom:{issue}"),
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            encoding_errors="replace",
            single_connection_client=True,
        )
    except redis.RedisError as error:
        raise CollectingError(f"Redis {target.name} cannot be reached: {str(error)[:200]}.") from None
    except ValueError as error:
        raise CollectingError(f"The address of {target.name} is not a redis:// URL: {error}.") from None


def allowed(info: Mapping[str, Any]) -> dict[str, Any]:
    """Of INFO what says nothing about anybody."""
    return {key: value for key, value in info.items() if key in FIELDS}


def hits(after: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Hits, misses and their ratio: since the server's start, or between two readings. ratio None: nothing was read."""
    keys = ("keyspace_hits", "keyspace_misses", "evicted_keys", "expired_keys", "rejected_connections")
    grown = {key: int(after.get(key, 0)) - (int(before.get(key, 0)) if before else 0) for key in keys}
    asked = grown["keyspace_hits"] + grown["keyspace_misses"]
    return {**grown, "hit_ratio": round(grown["keyspace_hits"] / asked, 4) if asked > 0 else None}


def command(text: str) -> str:
    """`SET session:?  + 1 argument` of SET session:4711 s3cret: the command, the first part of its key, a count."""
    words = text.split(" ")
    name = words[0].upper()
    if not re.fullmatch(r"[A-Z][A-Z._]{0,30}", name):
        return "?"
    rest = words[1:]
    # The first word of these is a script, a password or a setting, not a key.
    if not rest or name in {"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "AUTH", "HELLO", "CONFIG", "ACL"}:
        return f"{name} ({len(rest)} words)" if rest else name
    prefix = re.match(r"([A-Za-z][A-Za-z_-]{0,23}):", rest[0])
    key = f"{prefix[1]}:?" if prefix else "?"
    return f"{name} {key}" + (f" ({len(rest) - 1} more words)" if len(rest) > 1 else "")


def _event(entry: Sequence[Any]) -> dict[str, Any]:
    return {"event": str(entry[0]), "at_s": int(entry[1]), "latest_ms": int(entry[2]), "max_ms": int(entry[3])}


def _node(url: str) -> str:
    """HOST:PORT/DB of a URL, without the user."""
    found = re.match(r"\w+://(?:[^@/]*@)?([^?]*)", url)
    return found[1] if found else "unknown"
