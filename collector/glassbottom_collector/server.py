"""The composition root: the only file that knows every part, and the only one that names a concrete store.

One process, one event loop for the network, one thread for writing, a few for reading. On SIGTERM or SIGINT it takes
nothing more in, commits and acknowledges what it has, and exits 0; on anything worse agents keep what was not
acknowledged and send it again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from glassbottom.wire.v1 import (
    control_pb2_grpc,
    heapdump_pb2_grpc,
    incident_pb2_grpc,
    ingest_pb2_grpc,
    query_pb2_grpc,
    recordings_pb2_grpc,
    snapshots_pb2_grpc,
)
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from . import __version__
from .api.captures import CaptureAnswers
from .api.control import Control
from .api.heapdump import HeapDumps
from .api.heapdump_cache import StoredDumps
from .api.incidents import IncidentCaptures
from .api.query import Query
from .api.recordings import Recordings
from .api.snapshots import Snapshots
from .captures import CaptureStore
from .config import MESSAGE_BYTES_MAX, CollectorConfig, ListenConfig, is_loopback, load
from .errors import CollectorError, ConfigError
from .incident.capture import Incidents
from .incident.history import History
from .incident.store import IncidentStore, Limits
from .incident.triggers import Conditions, Triggers
from .ingest.captures import CaptureRelay
from .ingest.limits import IngestCounters
from .ingest.service import Ingest
from .ingest.sessions import Registry
from .redaction import Redactor
from .redaction.scan import scan
from .sources import LiveElsewhere, ServiceSources, StateOrders, history_of, known_secrets, new_key, read_key
from .storage import StoreStatistics
from .storage.embedded import EmbeddedStore

DRAIN_S = 10.0
"""How long sessions have, on SIGTERM, to receive their last acknowledgements."""
STOP_S = 2.0
"""How long questions under way have after that."""
HEALTH_EVERY_S = 0.5

INGEST_SERVICE = "glassbottom.wire.v1.IngestService"
QUERY_SERVICE = "glassbottom.wire.v1.QueryService"
CONTROL_SERVICE = "glassbottom.wire.v1.ControlService"

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Two collectors on one port would each get half of the agents; with this the second one says so and exits.
    ("grpc.so_reuseport", 0),
    # A peer that vanished without a word is noticed after 80 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Agents may ping every 20 s; more often is abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collector:
    """A collector that listens. address is HOST:PORT as bound."""

    address: str
    server: grpc.aio.Server
    store: EmbeddedStore
    ingest: Ingest
    registry: Registry
    captures: CaptureStore
    relay: CaptureRelay
    dumps: StoredDumps
    incidents: Incidents
    triggers: Triggers
    history: History
    health: Any  # grpc_health.v1.health.aio.HealthServicer, which its stubs do not know

    async def stop(self) -> None:
        """Takes nothing more in, commits, acknowledges, closes. The store is closed by its owner."""
        await self.health.enter_graceful_shutdown()
        self.store.hurry()
        self.relay.stop()
        self.triggers.stop()
        await asyncio.to_thread(self.history.stop)
        await self.ingest.drain(DRAIN_S)
        await self.server.stop(STOP_S)
        self.captures.close()

    async def watch_health(self) -> None:
        """Keeps health up to date. Runs until cancelled."""
        while True:
            await self.tell_health()
            await asyncio.sleep(HEALTH_EVERY_S)

    async def tell_health(self) -> None:
        """Says NOT_SERVING for ingest while the store takes nothing."""
        await self.health.set(INGEST_SERVICE, _serving(not self.store.full()))


async def start(config: CollectorConfig, store: EmbeddedStore, clock_ns: Callable[[], int] = time.time_ns) -> Collector:
    """Puts the parts together and listens. Raises ConfigError when it cannot."""
    counters = IngestCounters()
    registry = Registry(counters, clock_ns)
    captures = CaptureStore(config.storage.path / "captures", config.captures, clock_ns)
    relay = CaptureRelay(captures, registry, counters, clock_ns)
    dumps = StoredDumps(captures)
    live = LiveElsewhere(registry, asyncio.get_running_loop())
    history = history_of(config.databases, clock_ns)
    incidents = _incidents(config, store, live, captures, relay, history, clock_ns)
    triggers = Triggers(incidents, store.reader, live.instances, _conditions(config), clock_ns)
    ingest = Ingest(store.writer, registry, config.ingest, counters, relay, store.full, triggers.call, clock_ns)

    def statistics() -> StoreStatistics:
        stored = store.statistics()
        values = {**stored.values, **ingest.statistics(), **captures.statistics(), **dumps.statistics()}
        values |= incidents.statistics() | triggers.statistics() | history.statistics()
        return StoreStatistics(values, stored.problems)

    server = grpc.aio.server(options=_OPTIONS)
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(ingest, server)
    control_pb2_grpc.add_ControlServiceServicer_to_server(
        Control(registry, store.reader, CaptureAnswers(registry, relay, captures, clock_ns), clock_ns), server
    )
    query_pb2_grpc.add_QueryServiceServicer_to_server(
        Query(store.reader, registry, statistics, clock_ns(), clock_ns, dumps), server
    )
    recordings_pb2_grpc.add_RecordingServiceServicer_to_server(Recordings(captures), server)
    snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(Snapshots(store.reader, clock_ns), server)
    heapdump_pb2_grpc.add_HeapDumpServiceServicer_to_server(HeapDumps(dumps), server)
    incident_pb2_grpc.add_IncidentServiceServicer_to_server(IncidentCaptures(incidents), server)
    health_servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    address = _listen(server, config.listen)
    for service in ("", INGEST_SERVICE, QUERY_SERVICE, CONTROL_SERVICE):
        await health_servicer.set(service, _serving(True))
    relay.start()
    triggers.start()
    if any(database.probe for database in config.databases):
        history.start()
    await server.start()
    return Collector(
        address, server, store, ingest, registry, captures, relay, dumps, incidents, triggers, history, health_servicer
    )


def _conditions(config: CollectorConfig) -> Conditions:
    chosen = config.incidents
    return Conditions(
        on_leak=chosen.on_leak,
        p95_ms=chosen.on_slo_p95_ms,
        error_ratio=chosen.on_slo_error_ratio,
        on_signal=chosen.on_signal,
        check_every_s=chosen.check_every_s,
    )


def _incidents(
    config: CollectorConfig,
    store: EmbeddedStore,
    live: LiveElsewhere,
    captures: CaptureStore,
    relay: CaptureRelay,
    history: History,
    clock_ns: Callable[[], int],
) -> Incidents:
    """Raises ConfigError and StorageError."""
    chosen = config.incidents
    limits = Limits(chosen.bytes_max, chosen.records_max, chosen.retention_days)
    kept = IncidentStore(config.storage.path / "incidents", limits, clock_ns)
    key = read_key(chosen.key_file)
    states = StateOrders(relay, captures, asyncio.get_running_loop(), clock_ns)
    sources = ServiceSources(config, store.reader, live, states, store.take_out, key, history)

    def redactor() -> Redactor:
        return Redactor(key or new_key(), map_addresses=chosen.map_addresses, known=known_secrets(config))

    return Incidents(
        kept,
        sources,
        redactor,
        scan,
        version=__version__,
        budget_s=chosen.budget_s,
        pause_s=chosen.pause_s,
        clock_ns=clock_ns,
    )


def run(config: CollectorConfig) -> int:
    """Serves until SIGTERM or SIGINT, then drains; 0. Raises CollectorError when it cannot start."""
    store = EmbeddedStore(config.storage)
    try:
        uvloop.run(_serve(config, store))
    finally:
        store.close()
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the collector; each overrides the configuration file."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file; every key is in docs/collector.md")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory (default: below your home)")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where to listen (default 127.0.0.1:7411; port 0 takes a free one)"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM form")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key in PEM form")
    parser.add_argument("--tls-client-ca", type=Path, metavar="FILE", help="serve only certificates it has signed")
    parser.add_argument(
        "--insecure", action="store_true", default=None, help="allow plain text on an address others can reach"
    )
    parser.add_argument("--retention-days", type=int, metavar="N", help="days kept besides today (default 14)")
    parser.add_argument(
        "--max-bytes", metavar="SIZE", help="all data together, such as 10GiB; the oldest day goes first"
    )


def main(args: argparse.Namespace | None = None) -> int:
    """Runs a collector as the options say; 0 after a drain, 1 with one sentence on stderr when it cannot."""
    if args is None:
        parser = argparse.ArgumentParser(prog="glassbottom collector", description="Stores what agents see.")
        add_arguments(parser)
        args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return run(load(args.config, _overrides(args)))
    except CollectorError as error:
        sys.stderr.write(f"glassbottom collector: {error}\n")
        return 1


async def _serve(config: CollectorConfig, store: EmbeddedStore) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    collector = await start(config, store)
    if config.listen.insecure and not config.listen.tls.enabled and not is_loopback(config.listen.host):
        _log.warning("listening on %s in plain text, as listen.insecure allows", collector.address)
    for problem in store.statistics().problems:
        _log.warning("%s", problem)
    sys.stderr.write(
        f"glassbottom collector {__version__} listening on {collector.address}, data in {config.storage.path}\n"
    )
    sys.stderr.flush()
    watch = asyncio.create_task(collector.watch_health())
    try:
        await asked_to_stop.wait()
    finally:
        _log.info("stopping: committing and acknowledging what has arrived")
        watch.cancel()
        await collector.stop()


def _listen(server: grpc.aio.Server, listen: ListenConfig) -> str:
    host = f"[{listen.host}]" if ":" in listen.host and not listen.host.startswith("[") else listen.host
    try:
        if listen.tls.certificate is not None and listen.tls.key is not None:
            pair = (listen.tls.key.read_bytes(), listen.tls.certificate.read_bytes())
            client_ca = listen.tls.client_ca.read_bytes() if listen.tls.client_ca is not None else None
            credentials = grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)
            port = server.add_secure_port(f"{host}:{listen.port}", credentials)
        else:
            port = server.add_insecure_port(f"{host}:{listen.port}")
    except OSError as error:
        raise ConfigError(f"A file of listen.tls cannot be read: {error}.") from None
    except (RuntimeError, ValueError):
        port = 0
    if port == 0:
        raise ConfigError(
            f"Nothing can listen on {host}:{listen.port}: another process may hold the port, the address may not be "
            "one of this machine, or the certificate is not valid. Choose another with --listen."
        )
    return f"{host}:{port}"


def _overrides(args: argparse.Namespace) -> dict[str, object]:
    given: dict[str, object] = {
        "storage.path": args.data,
        "listen.tls.certificate": args.tls_cert,
        "listen.tls.key": args.tls_key,
        "listen.tls.client_ca": args.tls_client_ca,
        "listen.insecure": args.insecure,
        "storage.retention_days": args.retention_days,
        "storage.bytes_max": args.max_bytes,
    }
    if args.listen is not None:
        host, separator, port = args.listen.rpartition(":")
        if not separator or not port.isdigit():
            raise ConfigError(f"--listen must be HOST:PORT, such as 127.0.0.1:7411, not {args.listen!r}.")
        given |= {"listen.host": host, "listen.port": int(port)}
    return {key: value for key, value in given.items() if value is not None}


def _serving(well: bool) -> health_pb2.HealthCheckResponse.ServingStatus:
    status = health_pb2.HealthCheckResponse
    return status.SERVING if well else status.NOT_SERVING


if __name__ == "__main__":
    raise SystemExit(main())
