"""What is looked at when an incident of a service is captured: the part of the composition that knows every source.

Databases and their libraries are imported when a configuration names one, so a collector without any stays small.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .archive.rows import RowsCollector, TakenOut
from .captures import CaptureStore
from .config import CollectorConfig, DatabaseConfig
from .errors import CollectorError, ConfigError
from .incident import from_agents, from_store
from .incident.assemble import Subject
from .incident.bundle import Redactor as Harmless
from .incident.capture import Check
from .incident.database_spans import database_spans
from .incident.history import History, Probe, Reading
from .incident.metrics import MetricsCollector
from .incident.parts import CollectingError, Collector, Planned, Sink
from .model.capture import ORDERED, CaptureOrders, CaptureRow
from .model.live import InstanceLive, LiveInstances
from .model.process import Span
from .storage import Reader

if TYPE_CHECKING:
    from .database.postgres import Node

KEY_BYTES_MIN = 32
STATE_BYTES_MAX = 16 << 20
LEASE_S = 60.0
LIVE_WAIT_S = 5.0
CONNECT_S = 5.0


def read_key(path: Path | None) -> bytes | None:
    """The key of masks and tokens; None when each archive is to have one of its own. Raises ConfigError."""
    if path is None:
        return None
    try:
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"incidents.key_file {path} cannot be read: {error.strerror}.") from None
    if len(key) < KEY_BYTES_MIN:
        raise ConfigError(f"incidents.key_file {path} holds {len(key)} bytes; it needs {KEY_BYTES_MIN} or more.")
    return key


def history_of(databases: Sequence[DatabaseConfig], clock_ns: Callable[[], int]) -> History:
    """Asks those that are to be asked every minute; start() begins it. Raises ConfigError."""
    return History({one.name: _probe_of(one) for one in databases if one.probe}, clock_ns=clock_ns)


def _probe_of(database: DatabaseConfig) -> Probe:
    from .database.readings import readings_of

    probe = readings_of(database)
    if probe is None:
        raise ConfigError(f"databases.probe of {database.name}: a {database.kind} tells no readings.")
    return probe


def known_secrets(config: CollectorConfig) -> Sequence[str]:
    """The collector's own passwords, which go wherever they stand. What cannot be read now is told by the capture."""
    found: list[str] = []
    for database in config.databases:
        if database.password_file is not None:
            with suppress(OSError, IndexError, UnicodeDecodeError):
                found.append(database.password_file.read_text().splitlines()[0])
    return found


def new_key() -> bytes:
    """A key for one archive, forgotten with it."""
    return secrets.token_bytes(KEY_BYTES_MIN)


class LiveElsewhere:
    """What is connected, asked from another thread than the event loop's, whose registry it is."""

    def __init__(self, live: LiveInstances, loop: asyncio.AbstractEventLoop) -> None:
        self._live = live
        self._loop = loop

    def instances(self) -> Sequence[InstanceLive]:
        """Nothing when the event loop is too busy, or gone."""
        asked = self._now()
        try:
            future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError:  # it is closed
            asked.close()
            return ()
        try:
            return future.result(LIVE_WAIT_S)
        except TimeoutError:
            future.cancel()
            return ()

    async def _now(self) -> Sequence[InstanceLive]:
        return list(self._live.instances())


class StateOrders:
    """Orders the state of a process from another thread than the event loop's, and waits for its file."""

    def __init__(
        self,
        orders: CaptureOrders,
        store: CaptureStore,
        loop: asyncio.AbstractEventLoop,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._orders = orders
        self._store = store
        self._loop = loop
        self._clock_ns = clock_ns

    def __call__(self, service: str, instance_id: str, deadline_s: float) -> bytes:
        """The file. deadline_s: of time.monotonic(). Raises CollectingError."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise CollectingError("There was no time left to ask the process.")
        future = asyncio.run_coroutine_threadsafe(self._order(service, instance_id, left_s), self._loop)
        try:
            row = future.result(left_s)
        except TimeoutError:
            future.cancel()
            raise CollectingError(f"The process {instance_id[:8]} did not answer within {left_s:.0f} s.") from None
        except CollectorError as error:
            raise CollectingError(str(error)) from None
        if not row.has_file:
            raise CollectingError(f"The process {instance_id[:8]} did not tell its state: {row.reason or row.state}")
        try:
            return self._store.path_of(row.id).read_bytes()
        except OSError as error:
            raise CollectingError(f"What process {instance_id[:8]} sent cannot be read: {error.strerror}.") from None

    async def _order(self, service: str, instance_id: str, left_s: float) -> CaptureRow:
        now_ns = self._clock_ns()
        row = await self._orders.order(
            CaptureRow(
                id=uuid.uuid4().hex,
                kind="state",
                service=service,
                instance_id=instance_id,
                state=ORDERED,
                asked_at_ns=now_ns,
                asked_by="the capture of an incident",
                lease_until_ns=now_ns + round(LEASE_S * 1e9),
                seconds=min(left_s, 10.0),
                bytes_max=STATE_BYTES_MAX,
            )
        )
        last = row
        async for last in self._orders.watch(row.id):
            if last.ended:
                break
        return last


@dataclass
class Impossible:
    """Stands for a source that cannot be asked, and says why."""

    name: str
    sentence: str
    budget_s: float = 1.0

    def plan(self) -> Sequence[Planned]:
        raise CollectingError(self.sentence)

    def collect(self, sink: Sink, deadline_s: float) -> None:  # noqa: ARG002 - it does nothing
        raise CollectingError(self.sentence)


@dataclass
class InLane:
    """A collector that waits for others: nobody asks a node in two ways at a time."""

    collector: Collector
    lane: str

    @property
    def name(self) -> str:
        return self.collector.name

    @property
    def budget_s(self) -> float:
        return self.collector.budget_s

    def plan(self) -> Sequence[Planned]:
        return self.collector.plan()

    def collect(self, sink: Sink, deadline_s: float) -> None:
        self.collector.collect(sink, deadline_s)


class ServiceSources:
    """Implements incident.capture.Sources over everything that is configured."""

    def __init__(
        self,
        config: CollectorConfig,
        reader: Reader,
        live: LiveElsewhere,
        order_state: Callable[[str, str, float], bytes],
        take_out: Callable[[str, Span], TakenOut],
        key: bytes | None,
        history: History,
    ) -> None:
        self._config = config
        self._reader = reader
        self._live = live
        self._order_state = order_state
        self._take_out = take_out
        self._key = key
        self._history = history

    @contextmanager
    def collecting(self, subject: Subject, *, activity: bool, redactor: Harmless) -> Iterator[Sequence[Collector]]:
        """In the order in which they should begin."""
        within = Span(subject.from_ns, subject.to_ns)
        with ExitStack() as stack:
            databases: list[Collector] = []
            for database in self._databases(subject.service):
                databases += self._of_database(database, subject, activity, redactor, stack)
            yield [
                *databases,
                *from_agents.collectors(
                    subject.service,
                    self._live.instances,
                    lambda instance_id, deadline_s: self._order_state(subject.service, instance_id, deadline_s),
                    log_files=[Path(path) for path in self._config.incidents.log_files],
                    new_since_ns=subject.from_ns,
                ),
                MetricsCollector(self._reader, subject.service, within, lambda: self._readings(subject.service)),
                *from_store.collectors(self._reader, self._live.instances, subject.service, within),
                RowsCollector(subject.service, within, self._take_out),
            ]

    def _of_database(
        self, database: DatabaseConfig, subject: Subject, activity: bool, redactor: Harmless, stack: ExitStack
    ) -> Sequence[Collector]:
        from .database import every

        within = Span(subject.from_ns, subject.to_ns)

        def spans(place: str) -> list[dict[str, Any]]:
            return database_spans(self._reader, subject.service, within, database.kind, redactor.sql, place)

        try:
            found, close = every.collectors(
                database,
                subject.issue,
                redactor.sql,
                activity=activity,
                within=within,
                spans=spans,
                sample=self._sampler_of(database),
            )
        except CollectingError as error:
            return [Impossible(f"{database.kind}.{database.name}", str(error))]
        stack.callback(close)
        return found

    def _sampler_of(self, database: DatabaseConfig) -> Callable[[Node], Collector] | None:
        """Makes what takes rows over the connection of the other questions: a capture has one to each node."""
        chosen = database.sample
        if not chosen.rows_per_table:
            return None

        def sampler(node: Node) -> Collector:
            from .sample import SampleCollector, SampleSettings

            @contextmanager
            def connection() -> Iterator[Any]:
                with node.use("the sample of rows", time.monotonic() + CONNECT_S) as session:
                    yield session.connection

            settings = SampleSettings(
                rows_per_table=chosen.rows_per_table,
                allow=chosen.allow,
                mask=chosen.mask,
                leave_out=chosen.leave_out,
                references=chosen.references,
            )
            key = self._key or new_key()
            return InLane(SampleCollector(database.name, connection, settings, key, node=node.label), node.lane)

        return sampler

    def examine(self, service: str) -> Sequence[Check]:
        """Databases, each in turn."""
        from .database import every

        found: list[Check] = []
        for database in self._databases(service):
            found += [
                Check(f"{database.kind} {database.name}", one.name, one.state, one.sentence)
                for one in every.examine(database)
            ]
        return found

    def _readings(self, service: str) -> dict[str, Sequence[Reading]]:
        """What the databases of a service told in the last hour."""
        return {one.name: self._history.readings(one.name) for one in self._databases(service) if one.probe}

    def _databases(self, service: str) -> Sequence[DatabaseConfig]:
        return [one for one in self._config.databases if not (one.service and service) or one.service == service]
