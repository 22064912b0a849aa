"""Every setting of the agent: frozen values, validated on construction, with what each means.

What a setting is called, and where it is read from, is in _options.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ._errors import ConfigError

DEFAULT_ENDPOINT = "127.0.0.1:7411"
UNKNOWN_SERVICE = "unknown_service:python"  # what OpenTelemetry prescribes where nobody said
COMMANDS = ("snapshot", "dump_heap", "dump_memray", "dump_stacks", "dump_cpu", "gc_collect", "malloc_trim", "state")
"""Everything a collector can ask for, by the names of `commands`."""
COMMANDS_DEFAULT = ("snapshot", "dump_heap", "dump_stacks", "gc_collect", "state")
"""Without those that slow the process down for as long as they run, or change what its allocator keeps."""
INCIDENT_SIGNALS = ("", "SIGUSR1", "SIGUSR2")
"""Those that have no meaning of their own."""


@dataclass(frozen=True, kw_only=True)
class HeapConfig:
    """How closely to watch the heap.

    enabled: False leaves the allocators alone.
    snapshot_interval_s: Seconds between two readings sent to the collector.
    interval_bytes: On average one sample per this many bytes allocated. Halving it doubles detail and cost.
    window_share: Share of time in which small blocks are watched, or "auto" to follow the cost budget.
    complete_every: Each so many readings one is complete, the others list only what changed.
    """

    enabled: bool = True
    snapshot_interval_s: float = 10.0
    interval_bytes: int = 512 * 1024
    window_share: float | Literal["auto"] = "auto"
    complete_every: int = 20

    def __post_init__(self) -> None:
        _within("snapshot_interval_s", self.snapshot_interval_s, 0.1, 3600, "seconds")
        _within("interval_bytes", self.interval_bytes, 4096, 1 << 30, "bytes: below 4096 sampling costs too much")
        if self.window_share != "auto":
            _within("window_share", self.window_share, 0.001, 1.0, 'a share of time, or the word "auto"')
        _within("complete_every", self.complete_every, 1, 1000, "readings")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Process-wide numbers: resident memory, CPU time, threads, descriptors, garbage collector.

    enabled: False reads none of them.
    interval_s: Seconds between two readings.
    """

    enabled: bool = True
    interval_s: float = 10.0

    def __post_init__(self) -> None:
        _within("runtime_interval_s", self.interval_s, 0.1, 3600, "seconds")


@dataclass(frozen=True, kw_only=True)
class AsyncioConfig:
    """Event loops and their tasks.

    enabled: False leaves the coroutine type alone.
    interval_s: Seconds between two looks at all tasks.
    blocked_ms: A step that holds its loop longer is reported, with its stack.
    stuck_s: A task that nobody seems able to wake is reported after so long.
    scan_tasks_max: So many tasks are looked at each time; of more, a sample.
    """

    enabled: bool = True
    interval_s: float = 10.0
    blocked_ms: float = 100.0
    stuck_s: float = 60.0
    scan_tasks_max: int = 5000

    def __post_init__(self) -> None:
        _within("asyncio_interval_s", self.interval_s, 0.1, 3600, "seconds")
        _within("blocked_ms", self.blocked_ms, 5, 60_000, "milliseconds")
        _within("stuck_s", self.stuck_s, 0.5, 86_400, "seconds")
        _within("scan_tasks_max", self.scan_tasks_max, 10, 1_000_000, "tasks")


SPAN_ATTRIBUTES = (
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "url.scheme",
    "server.address",
    "server.port",
    "network.protocol.version",
    "db.system.name",
    "db.system",
    "db.namespace",
    "db.collection.name",
    "db.operation.name",
    "messaging.system",
    "messaging.destination.name",
    "messaging.operation.type",
    "rpc.system",
    "rpc.service",
    "rpc.method",
    "rpc.grpc.status_code",
    "error.type",
    "code.function.name",
    "celery.task_name",
)
"""Attributes that may leave the process: names of things, never values of theirs. No statement, no query, no path."""


@dataclass(frozen=True, kw_only=True)
class SpansConfig:
    """Requests and other spans, and functions under `glassbottom.profile`.

    enabled: False adds nothing to OpenTelemetry and no middleware.
    interval_s: Seconds between two readings.
    slow_ms: A span that takes longer is told with its attributes; so is one above the 99th percentile of its name
        that takes at least a tenth of this.
    attributes: Names of the span attributes that may leave the process.
    http: Watch requests of ASGI and WSGI applications that have no OpenTelemetry.
    open_s: A span that has not ended after so long is reported.
    debug: Log the start and end of every span. For laptops and mirrors; marks the process with
        `deployment.environment.name=debug`.
    otlp_endpoint: Also send spans there, with opentelemetry-exporter-otlp; "" sends none.
    """

    enabled: bool = True
    interval_s: float = 10.0
    slow_ms: float = 1000.0
    attributes: tuple[str, ...] = SPAN_ATTRIBUTES
    http: bool = True
    open_s: float = 300.0
    debug: bool = False
    otlp_endpoint: str = ""

    def __post_init__(self) -> None:
        _within("spans_interval_s", self.interval_s, 0.1, 3600, "seconds")
        _within("slow_span_ms", self.slow_ms, 1, 3_600_000, "milliseconds")
        _within("open_span_s", self.open_s, 0.5, 86_400, "seconds")
        if len(self.attributes) > 64:
            raise ConfigError(f"span_attributes names {len(self.attributes)}; at most 64 are let out.")


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Where threads spend their time.

    enabled: False takes no samples of threads.
    interval_s: Seconds between two readings.
    sample_hz: Samples a second, lowered when they cost more than 0.2 % of the time.
    """

    enabled: bool = True
    interval_s: float = 10.0
    sample_hz: float = 19.0

    def __post_init__(self) -> None:
        _within("profile_interval_s", self.interval_s, 0.1, 3600, "seconds")
        _within("profile_hz", self.sample_hz, 0.1, 100, "samples a second")


STATE_ENV = (
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "TZ",
    "LANG",
    "LC_ALL",
    "PYTHON*",
    "WEB_CONCURRENCY",
    "GUNICORN_WORKERS",
    "UVICORN_WORKERS",
    "LOG_LEVEL",
    "DJANGO_SETTINGS_MODULE",
    "FLASK_ENV",
    "FLASK_APP",
    "ENVIRONMENT",
    "MALLOC_ARENA_MAX",
    "OMP_NUM_THREADS",
    "KUBERNETES_NAMESPACE",
    "POD_NAME",
    "NODE_NAME",
)
"""Variables of the environment that the state of a process may tell. Always a list of what may, never of what may not:
nobody knows the names of all secrets."""


@dataclass(frozen=True, kw_only=True)
class CapturesConfig:
    """Deep captures, which somebody asks for through the collector; `commands` says which are allowed.

    directory: Where their files lie until the collector has them. By default the first of TMPDIR, /tmp and /var/tmp
        that is on a disk.
    bytes_max: Of one file.
    seconds_max: A capture watches no longer, whatever was asked for.
    log_records: So many of the last records of `logging` are kept in memory for the state of the process, fewer when
        they are longer than 1 KiB; 0 keeps none.
    state_env: Names of the variables of the environment that the state may tell; one that ends in * stands for all
        that begin so.
    incident_signal: Where nobody else uses this signal, it asks the collector to capture the incident; "" leaves
        signals alone.
    """

    directory: Path | None = None
    bytes_max: int = 1024 * 1024 * 1024
    seconds_max: float = 300.0
    log_records: int = 1000
    state_env: tuple[str, ...] = STATE_ENV
    incident_signal: str = "SIGUSR2"

    def __post_init__(self) -> None:
        _within("capture_bytes_max", self.bytes_max, 1024, 1 << 40, "bytes")
        _within("capture_seconds_max", self.seconds_max, 1, 3600, "seconds")
        _within("log_records", self.log_records, 0, 100_000, "records")
        if "*" in self.state_env:
            raise ConfigError("state_env holds *, which is the whole environment, secrets included; name what may go.")
        if self.incident_signal not in INCIDENT_SIGNALS:
            raise ConfigError(
                f"incident_signal={self.incident_signal!r} cannot be taken; it may be SIGUSR1, SIGUSR2 or empty."
            )


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """Encryption on the way to the collector. Files are PEM and read again at each connection, so they may rotate.

    enabled: Use TLS; implied by any of the files.
    ca_file: Certificates to trust instead of the system's.
    cert_file, key_file: Show this certificate to a collector that asks for one; both or neither.
    server_name: Expect this name in the collector's certificate instead of the endpoint's host.
    """

    enabled: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("tls_cert_file and tls_key_file belong together: give both or neither.")
        for name, path in (("ca", self.ca_file), ("cert", self.cert_file), ("key", self.key_file)):
            if path is not None and not path.is_file():
                raise ConfigError(f"tls_{name}_file names {path}, which is no file; give the path of a PEM file.")

    @property
    def in_use(self) -> bool:
        return self.enabled or self.ca_file is not None or self.cert_file is not None


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    """The way to the collector.

    queue_bytes_max: Readings kept while the collector is away, compressed; the oldest go first.
    heartbeat_interval_s: Seconds between two signs of life.
    connect_delay_s: No connection is opened until the process, or the fork, is this old. A parent that forks its
        workers and ends, or a child that at once executes something else, then never has one.
    backoff_s_min, backoff_s_max: Bounds of the growing, jittered pause between attempts to connect.
    shutdown_timeout_s: How long the exit of the process may wait for the last readings to be stored.
    """

    queue_bytes_max: int = 8 * 1024 * 1024
    heartbeat_interval_s: float = 5.0
    connect_delay_s: float = 0.25
    backoff_s_min: float = 0.5
    backoff_s_max: float = 60.0
    shutdown_timeout_s: float = 1.0
    tls: TlsConfig = field(default_factory=TlsConfig)

    def __post_init__(self) -> None:
        _within("queue_bytes_max", self.queue_bytes_max, 64 * 1024, 1 << 30, "bytes")
        _within("heartbeat_interval_s", self.heartbeat_interval_s, 0.1, 300, "seconds")
        _within("connect_delay_s", self.connect_delay_s, 0, 60, "seconds")
        _within("backoff_s_min", self.backoff_s_min, 0.01, 60, "seconds")
        _within("backoff_s_max", self.backoff_s_max, self.backoff_s_min, 3600, "seconds, not below backoff_s_min")
        _within("shutdown_timeout_s", self.shutdown_timeout_s, 0, 60, "seconds")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the agent needs to know.

    service: OpenTelemetry `service.name`.
    endpoint: The collector, "HOST:PORT", "[IPV6]:PORT" or "unix:/path".
    attributes: Further resource attributes, such as {"service.version": "1.4.2"}.
    commands: What the collector may ask of this process; a subset of COMMANDS. There is no remote code, ever.
    disable: The kill switch: init() then does nothing at all.
    """

    service: str = UNKNOWN_SERVICE
    endpoint: str = DEFAULT_ENDPOINT
    attributes: Mapping[str, str] = field(default_factory=dict)
    commands: frozenset[str] = frozenset(COMMANDS_DEFAULT)
    disable: bool = False
    heap: HeapConfig = field(default_factory=HeapConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    asyncio: AsyncioConfig = field(default_factory=AsyncioConfig)
    spans: SpansConfig = field(default_factory=SpansConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    captures: CapturesConfig = field(default_factory=CapturesConfig)
    transport: TransportConfig = field(default_factory=TransportConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.service, str) or not self.service.strip() or len(self.service) > 255:
            raise ConfigError("service must be a name of 1 to 255 characters, such as checkout.")
        _check_endpoint(self.endpoint)
        if len(self.attributes) > 64:
            raise ConfigError(f"attributes has {len(self.attributes)} entries; at most 64 are sent.")
        unknown = set(self.commands) - set(COMMANDS)
        if unknown:
            raise ConfigError(
                f"commands names {', '.join(sorted(unknown))}; there is {', '.join(COMMANDS)}, or none to refuse all."
            )

    @property
    def resource_attributes(self) -> Mapping[str, str]:
        """`attributes`, with the mark of a process that logs its spans: whoever compares it must know."""
        return {**self.attributes, "deployment.environment.name": "debug"} if self.spans.debug else self.attributes


def _within(name: str, value: float, low: float, high: float, unit: str) -> None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not numeric or not low <= value <= high:
        raise ConfigError(f"{name}={value!r} is out of range; it must lie between {low:g} and {high:g} {unit}.")


def _check_endpoint(endpoint: str) -> None:
    if isinstance(endpoint, str):
        if endpoint.startswith("unix:") and len(endpoint) > len("unix:"):
            return
        host, _, port = endpoint.rpartition(":")
        if host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536:
            return
    raise ConfigError(
        f"endpoint={endpoint!r} is no address; give HOST:PORT, such as {DEFAULT_ENDPOINT}, without http://."
    )
