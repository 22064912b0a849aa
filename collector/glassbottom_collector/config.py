"""What an operator may decide, as frozen values checked once.

YAML in, dataclasses out. A key that does not exist is an error that names the nearest one that does: a misspelt
limit that is silently ignored is found during the incident it was meant for. Nothing here is read again later, so
a change needs a restart. docs/collector.md shows every option with its default.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import ConfigError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

PORT_DEFAULT = 7411
MESSAGE_BYTES_MAX = 16 * MIB
"""Largest gRPC message accepted; a batch and its envelope must fit."""

_UNITS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024 * GIB}


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """Files of the server's certificate.

    certificate: PEM file with the certificate chain. key: PEM file with its private key. Both or neither.
    client_ca: PEM file of an authority; when given, only agents and command lines whose certificate it has signed
    are served.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("listen.tls needs both certificate and key; give the one that is missing.")
        if self.client_ca is not None and self.certificate is None:
            raise ConfigError("listen.tls.client_ca needs listen.tls.certificate and listen.tls.key.")

    @property
    def enabled(self) -> bool:
        """True when both files are given."""
        return self.certificate is not None


@dataclass(frozen=True, kw_only=True)
class ListenConfig:
    """Where to listen.

    host: address or name; anything but loopback needs TLS. port: 0 takes a free one, and the ready line tells which.
    insecure: allows plain text off loopback, for a network that protects itself (a service mesh, a pod).
    """

    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    insecure: bool = False
    tls: TlsConfig = field(default_factory=TlsConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"listen.port must be between 0 and 65535, not {self.port}.")
        if not self.host:
            raise ConfigError("listen.host is empty; give an address such as 127.0.0.1 or 0.0.0.0.")
        if not (is_loopback(self.host) or self.tls.enabled or self.insecure):
            raise ConfigError(
                f"listen.host is {self.host}, which other machines can reach, and there is no TLS: "
                "set listen.tls.certificate and listen.tls.key, or listen.insecure to allow plain text."
            )


@dataclass(frozen=True, kw_only=True)
class CommitConfig:
    """When a group of batches is committed: at the first of these limits.

    rows_max: rows gathered. bytes_max: bytes gathered. wait_ms_max: age of the oldest batch; it is also what an
    acknowledgement waits for at most, besides the commit itself.
    """

    rows_max: int = 20_000
    bytes_max: int = 4 * MIB
    wait_ms_max: int = 100

    def __post_init__(self) -> None:
        _at_least("storage.commit.rows_max", self.rows_max, 1)
        _at_least("storage.commit.bytes_max", self.bytes_max, 1)
        _at_least("storage.commit.wait_ms_max", self.wait_ms_max, 0)


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Where data lives, and how much of it.

    path: the data directory; owned by one collector at a time. retention_days: whole UTC days kept besides today.
    bytes_max: all files together; the oldest day goes first. free_bytes_min: room left on the file system, below
    which nothing is accepted. memory_bytes_max: what the database engine may use for buffers.
    queue_bytes_max: batches waiting for the writer. attached_files_max: day files open at once.
    """

    path: Path = field(default_factory=lambda: default_data_directory(os.environ))
    retention_days: int = 14
    bytes_max: int = 10 * GIB
    free_bytes_min: int = 128 * MIB
    memory_bytes_max: int = 256 * MIB
    queue_bytes_max: int = 64 * MIB
    attached_files_max: int = 8
    commit: CommitConfig = field(default_factory=CommitConfig)

    def __post_init__(self) -> None:
        _at_least("storage.retention_days", self.retention_days, 1)
        _at_least("storage.bytes_max", self.bytes_max, 16 * MIB)
        _at_least("storage.free_bytes_min", self.free_bytes_min, 0)
        _at_least("storage.memory_bytes_max", self.memory_bytes_max, 64 * MIB)
        _at_least("storage.queue_bytes_max", self.queue_bytes_max, MIB)
        _at_least("storage.attached_files_max", self.attached_files_max, 2)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What agents may send.

    sessions_max: connected agents. batch_bytes_max: one batch as sent. body_bytes_max: one batch decompressed.
    rows_per_batch_max, definitions_per_batch_max: of one batch. rows_per_second_max: of one agent, averaged over
    ten seconds; a faster one is read more slowly. credit_bytes: unacknowledged bytes of one agent.
    pending_bytes_max: decompressed bytes of all agents between receipt and commit. silence_s_max: a connection that
    says nothing for so long is closed.
    """

    sessions_max: int = 2_000
    batch_bytes_max: int = 4 * MIB
    body_bytes_max: int = 8 * MIB
    rows_per_batch_max: int = 50_000
    definitions_per_batch_max: int = 50_000
    rows_per_second_max: int = 20_000
    credit_bytes: int = 2 * MIB
    pending_bytes_max: int = 48 * MIB
    silence_s_max: int = 120

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):
            _at_least(f"ingest.{name}", getattr(self, name), 1)
        if self.batch_bytes_max > MESSAGE_BYTES_MAX - 64 * KIB:
            raise ConfigError(
                f"ingest.batch_bytes_max must be at most {MESSAGE_BYTES_MAX - 64 * KIB}: "
                f"a batch travels in one message of at most {MESSAGE_BYTES_MAX} bytes."
            )
        if self.pending_bytes_max < self.body_bytes_max:
            raise ConfigError(
                "ingest.pending_bytes_max must be at least ingest.body_bytes_max, or no large batch fits."
            )


@dataclass(frozen=True, kw_only=True)
class CapturesConfig:
    """Deep captures: what may be asked of an agent, which has limits of its own, and what is kept.

    bytes_max: all files together; the oldest goes first. file_bytes_max: one file. retention_days: age of a file.
    records_max: rows of the record, which outlive the files. lease_s_max: how long one may take altogether.
    """

    bytes_max: int = 4 * GIB
    file_bytes_max: int = GIB
    retention_days: int = 14
    records_max: int = 10_000
    lease_s_max: int = 3600

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):
            _at_least(f"captures.{name}", getattr(self, name), 1)
        if self.file_bytes_max > self.bytes_max:
            raise ConfigError("captures.bytes_max must be at least captures.file_bytes_max.")
        if self.lease_s_max > 3600:
            raise ConfigError(f"captures.lease_s_max must be at most 3600, not {self.lease_s_max}.")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Rows of a database in the archive of an incident: masked, and closed over foreign keys.

    rows_per_table: the newest of each table; 0 takes none. allow: columns that are copied as they are, as
    SCHEMA.TABLE.COLUMN or TABLE.COLUMN. mask: columns that are masked whatever they look like. leave_out: tables.
    references: foreign keys that the schema does not declare, as TABLE.COLUMN -> TABLE.COLUMN.
    """

    rows_per_table: int = 1_000
    allow: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _at_least("databases.sample.rows_per_table", self.rows_per_table, 0)


@dataclass(frozen=True, kw_only=True)
class DatabaseConfig:
    """A database, cache or file that is looked at when an incident is captured.

    name: what it is called here. service: whose it is; empty for every service's. kind: postgresql, mysql, redis or
    sqlite. replica: where to read, as a libpq connection string or a URL; a path for sqlite. primary: the node that
    takes writes, asked only for its activity and only with --activity. password_file: its first line is the password;
    none stands in a connection string. probe: also ask it every minute for connections and cache hits. log_file: the
    log of a PostgreSQL, if the collector can read it: slow statements stand in it.
    """

    name: str = ""
    service: str = ""
    kind: str = "postgresql"
    replica: str = ""
    primary: str = ""
    password_file: Path | None = None
    log_file: Path | None = None
    probe: bool = False
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,50}", self.name) is None:
            raise ConfigError(
                f"databases.name must be 1 to 50 letters, digits, - or _, such as orders; not {self.name!r}."
            )
        if self.kind not in DATABASE_KINDS:
            raise ConfigError(f"databases.kind of {self.name} must be one of {', '.join(DATABASE_KINDS)}.")
        if not (self.replica or self.primary):
            raise ConfigError(f"databases.replica of {self.name} is empty; say where to read.")
        if self.probe and self.kind not in ("postgresql", "redis"):
            raise ConfigError(f"databases.probe of {self.name} is for postgresql and redis only.")
        if self.log_file is not None and self.kind != "postgresql":
            raise ConfigError(f"databases.log_file of {self.name} is for postgresql only.")
        for key, text in (("replica", self.replica), ("primary", self.primary)):
            if re.search(r"password\s*=|://[^/@\s]*:[^/@\s]+@", text, re.IGNORECASE):
                raise ConfigError(
                    f"databases.{key} of {self.name} holds a password; put it into password_file or PGPASSFILE."
                )


DATABASE_KINDS = ("postgresql", "mysql", "redis", "sqlite")


@dataclass(frozen=True, kw_only=True)
class IncidentsConfig:
    """Captured incidents: what is kept, and what sets a capture off by itself.

    bytes_max, retention_days, records_max: as of captures. budget_s: how long one may take. key_file: 32 bytes or more
    from which masks and tokens are made, so that those of two archives agree; without it each archive has a key of its
    own. log_files: files whose last lines are captured. map_addresses: IP addresses are replaced too, keeping their
    subnets. on_leak: a confirmed leak sets a capture off. on_slo_p95_ms, on_slo_error_ratio: so does a service whose
    requests were slower, or failed more often, for five minutes; 0 for never. on_signal: so does SIGUSR2 at a process.
    pause_s: at least so long between two of a service that nobody typed. check_every_s: how often verdicts are looked
    at.
    """

    bytes_max: int = 2 * GIB
    retention_days: int = 30
    records_max: int = 1_000
    budget_s: int = 30
    key_file: Path | None = None
    log_files: tuple[str, ...] = ()
    map_addresses: bool = True
    on_leak: bool = False
    on_slo_p95_ms: int = 0
    on_slo_error_ratio: float = 0.0
    on_signal: bool = True
    pause_s: int = 3600
    check_every_s: int = 300

    def __post_init__(self) -> None:
        for name in ("bytes_max", "retention_days", "records_max", "budget_s", "pause_s", "check_every_s"):
            _at_least(f"incidents.{name}", getattr(self, name), 1)
        _at_least("incidents.on_slo_p95_ms", self.on_slo_p95_ms, 0)
        if not 0.0 <= self.on_slo_error_ratio <= 1.0:
            raise ConfigError("incidents.on_slo_error_ratio must be between 0 and 1, such as 0.05.")


@dataclass(frozen=True, kw_only=True)
class CollectorConfig:
    """Everything."""

    listen: ListenConfig = field(default_factory=ListenConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    captures: CapturesConfig = field(default_factory=CapturesConfig)
    incidents: IncidentsConfig = field(default_factory=IncidentsConfig)
    databases: tuple[DatabaseConfig, ...] = ()

    def __post_init__(self) -> None:
        names = [database.name for database in self.databases]
        if len(set(names)) < len(names):
            raise ConfigError("databases has one name twice; each needs a name of its own.")
        if self.storage.queue_bytes_max < self.ingest.pending_bytes_max:
            raise ConfigError("storage.queue_bytes_max must be at least ingest.pending_bytes_max.")


def load(path: Path | None, overrides: Mapping[str, object] | None = None) -> CollectorConfig:
    """The configuration of a YAML file (or none), then overrides by dotted key such as "listen.port".

    Raises ConfigError: unreadable file, unknown key, wrong kind of value, value out of bounds.
    """
    document = {} if path is None else _read(path)
    for key, value in (overrides or {}).items():
        at = document
        *parents, last = key.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise ConfigError(f"{parent} in {path} must hold further keys.")
        at[last] = value
    return _build(CollectorConfig, document, "")


def default_data_directory(environment: Mapping[str, str]) -> Path:
    """`$XDG_DATA_HOME/glassbottom`, or `~/.local/share/glassbottom`."""
    base = environment.get("XDG_DATA_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "share") / "glassbottom"


def is_loopback(host: str) -> bool:
    """True when only this machine can reach the address."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


Section = TypeVar("Section")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}.") from None
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration {path} is not YAML: {' '.join(str(error).split())}.") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"The configuration {path} must hold keys such as listen, storage and ingest.")
    return document


def _build(section: type[Section], document: Mapping[Any, object], prefix: str) -> Section:
    kinds = typing.get_type_hints(section)
    known = set(_keys(CollectorConfig, ""))
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in kinds:
            raise ConfigError(_unknown_key(f"{prefix}{key}", known))
        kind = kinds[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping | None):
                raise ConfigError(f"{prefix}{key} must hold further keys, not {value!r}.")
            values[key] = _build(typing.cast("type[Any]", kind), value or {}, f"{prefix}{key}.")
        else:
            values[key] = _value(f"{prefix}{key}", kind, value)
    return section(**values)


def _unknown_key(key: str, known: set[str]) -> str:
    # The last part counts most: people remember a limit's name and forget its section.
    last = {name.rsplit(".", 1)[-1]: name for name in sorted(known)}
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6) or [
        last[name] for name in difflib.get_close_matches(key.rsplit(".", 1)[-1], sorted(last), n=1, cutoff=0.6)
    ]
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}."
    return f"Unknown configuration key {key}: {hint}"


def _keys(section: type[Any], prefix: str) -> Iterator[str]:
    for key, declared in typing.get_type_hints(section).items():
        yield f"{prefix}{key}"
        kind = typing.get_args(declared)[0] if typing.get_origin(declared) is tuple else declared
        if dataclasses.is_dataclass(kind):
            yield from _keys(typing.cast("type[Any]", kind), f"{prefix}{key}.")


def _value(key: str, kind: Any, value: object) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{key} must be true or false, not {value!r}.")
    if kind is int:
        if isinstance(value, str) and "bytes" in key:
            return parse_bytes(key, value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ConfigError(f"{key} must be a whole number, not {value!r}.")
    if kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise ConfigError(f"{key} must be a number, not {value!r}.")
    if typing.get_origin(kind) is tuple:
        return _items(key, typing.get_args(kind)[0], value)
    if kind is str:
        if isinstance(value, str):
            return value
        raise ConfigError(f"{key} must be text, not {value!r}.")
    if kind is Path or kind == (Path | None):
        if value is None and isinstance(kind, types.UnionType):
            return None
        if isinstance(value, str | Path) and str(value):
            return Path(value).expanduser()
        raise ConfigError(f"{key} must be a path, not {value!r}.")
    raise AssertionError(f"no rule for {key}: {kind}")


def _items(key: str, kind: Any, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{key} must be a list, not {value!r}.")
    if not dataclasses.is_dataclass(kind):
        return tuple(_value(f"{key}[{number}]", kind, item) for number, item in enumerate(value))
    for item in value:
        if not isinstance(item, Mapping):
            raise ConfigError(f"each of {key} must hold keys such as name, not {item!r}.")
    return tuple(_build(typing.cast("type[Any]", kind), item, f"{key}.") for item in value)


def parse_bytes(key: str, text: str) -> int:
    """Bytes of "10GiB", "512 MiB" or "4096". Raises ConfigError naming the key."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].lower() not in _UNITS:
        raise ConfigError(f"{key} must be a size such as 4096, 512MiB or 10GiB, not {text!r}.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} must be at least {least}, not {value}.")
