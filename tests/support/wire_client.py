"""A small agent stand-in that speaks the ingest protocol over a real channel.

It says exactly what a test tells it to say, including nonsense. It has no queue, no reconnect and no sampler:
those belong to the agent and are tested there.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import zstandard
from glassbottom.wire.v1 import (
    common_pb2,
    heap_pb2,
    ingest_pb2,
    ingest_pb2_grpc,
    metrics_pb2,
    observations_pb2,
    operations_pb2,
    profile_pb2,
    tasks_pb2,
)
from glassbottom_collector.model import code

HEAP = ingest_pb2.STREAM_HEAP
METRICS = ingest_pb2.STREAM_METRICS
OPERATIONS = ingest_pb2.STREAM_OPERATIONS
TASKS = ingest_pb2.STREAM_TASKS
PROFILE = ingest_pb2.STREAM_PROFILE
OBSERVATIONS = ingest_pb2.STREAM_OBSERVATIONS
STREAMS = (HEAP, METRICS, OPERATIONS, TASKS, PROFILE, OBSERVATIONS)

SITE_COLUMNS = {
    "stack": "<u8",
    "live_bytes": "<f8",
    "live_bytes_variance": "<f8",
    "live_objects": "<f8",
    "live_objects_variance": "<f8",
    "alloc_bytes": "<f8",
    "alloc_objects": "<f8",
    "samples": "<u4",
    "birth_oldest_ms": "<i8",
    "birth_mean_ms": "<i8",
    "birth_minutes": "<u4",
}
TYPE_COLUMNS = {"stack": "<u8", "type": "<u8", "live_bytes": "<f8", "live_objects": "<f8", "samples": "<u4"}
SAMPLE_COLUMNS = {"stack": "<u8", "thread": "<u4", "task": "<u4", "samples": "<u4", "wall_s": "<f8", "cpu_s": "<f8"}


class Code:
    """Code and types that a test invents, with their content hashes.

    frame(), stack() and type() remember what they define; definitions() gives everything remembered so far.
    """

    def __init__(self) -> None:
        self._frames: dict[int, code.Frame] = {}
        self._stacks: dict[int, tuple[tuple[int, ...], str]] = {}
        self._types: dict[int, str] = {}

    def frame(self, function: str, file: str, line: int) -> int:
        """Defines a place; its id."""
        frame = code.Frame(function, file, line)
        self._frames[frame.id] = frame
        return frame.id

    def stack(self, *frames: tuple[str, str, int], label: str = "") -> int:
        """Defines a call path of (function, file, line), innermost first, under a route; its id."""
        path = tuple(self.frame(*frame) for frame in frames)
        identity = code.stack_id(path, label)
        self._stacks[identity] = path, label
        return identity

    def type(self, name: str) -> int:
        """Defines a type; its id."""
        identity = code.type_id(name)
        self._types[identity] = name
        return identity

    def definitions(self) -> common_pb2.Definitions:
        """All of it, as a batch carries it."""
        return common_pb2.Definitions(
            frames=[
                common_pb2.Frame(id=identity, function=frame.function, file=frame.file, line=frame.line)
                for identity, frame in self._frames.items()
            ],
            stacks=[
                common_pb2.Stack(id=identity, frames=path, label=label)
                for identity, (path, label) in self._stacks.items()
            ],
            types=[common_pb2.Type(id=identity, name=name) for identity, name in self._types.items()],
        )


def columns(layout: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, bytes]:
    """Little-endian bytes of each column of a layout; columns not given are zeros."""
    rows = max((len(np.atleast_1d(values)) for values in given.values()), default=0)
    return {
        name: np.ascontiguousarray(given.get(name, np.zeros(rows)), dtype=kind).tobytes()
        for name, kind in layout.items()
    }


def heap_snapshot(
    at_ns: int,
    sites: Mapping[str, Any],
    types: Mapping[str, Any] | None = None,
    definitions: common_pb2.Definitions | None = None,
    *,
    epoch: int = 1,
    complete: bool = True,
    interval_bytes: float = 524288.0,
    window_share: float = 1.0,
    live_bytes: float | None = None,
    live_bytes_variance: float = 0.0,
) -> heap_pb2.HeapSnapshot:
    """A snapshot from columns: {"stack": [...], "live_bytes": [...]}; what is missing is zero.

    live_bytes: of the whole heap; by default the sum of the column.
    """
    if live_bytes is None:
        live_bytes = float(np.sum(sites.get("live_bytes", 0.0)))
    return heap_pb2.HeapSnapshot(
        at_ns=at_ns,
        epoch=epoch,
        complete=complete,
        interval_bytes=interval_bytes,
        window_share=window_share,
        live_bytes=live_bytes,
        live_bytes_variance=live_bytes_variance,
        sites=heap_pb2.HeapSites(**columns(SITE_COLUMNS, sites)),
        types=heap_pb2.HeapTypes(**columns(TYPE_COLUMNS, types or {})),
        definitions=definitions,
    )


def metrics_snapshot(
    at_ns: int, readings: Iterable[tuple[str, float] | tuple[str, float, Mapping[str, str]]]
) -> metrics_pb2.MetricsSnapshot:
    """Readings (name, value) or (name, value, attributes) of one moment."""
    snapshot = metrics_pb2.MetricsSnapshot(at_ns=at_ns)
    for name, value, *attributes in readings:
        snapshot.metrics.add(name=name, value=value, attributes=dict(attributes[0]) if attributes else {})
    return snapshot


def histogram(*values_s: float, scale: int = 4) -> operations_pb2.Histogram:
    """The histogram of some durations."""
    positive = np.array([value for value in values_s if value > 0])
    # Bucket i holds (base^i, base^(i+1)], so an exact power belongs to the one below it.
    buckets = np.ceil(np.log2(positive) * 2.0**scale).astype(np.int64) - 1
    low = int(buckets.min()) if len(buckets) else 0
    return operations_pb2.Histogram(
        scale=scale,
        zero_count=len(values_s) - len(positive),
        offset=low,
        counts=np.bincount(buckets - low).tolist() if len(buckets) else [],
        sum_s=float(sum(values_s)),
        min_s=float(min(values_s, default=0.0)),
        max_s=float(max(values_s, default=0.0)),
    )


def operation(
    name: str, *values_s: float, kind: int = operations_pb2.OPERATION_KIND_SPAN, status: str = "ok", **fields: Any
) -> operations_pb2.Operation:
    """What took so long; fields as in operations.proto."""
    return operations_pb2.Operation(
        kind=operations_pb2.OperationKind.ValueType(kind),
        name=name,
        status=status,
        duration=histogram(*values_s),
        **fields,
    )


def operations_snapshot(
    from_ns: int,
    to_ns: int,
    operations: Iterable[operations_pb2.Operation],
    definitions: common_pb2.Definitions | None = None,
) -> operations_pb2.OperationsSnapshot:
    """What ended in an interval; rows by operation()."""
    return operations_pb2.OperationsSnapshot(
        from_ns=from_ns, to_ns=to_ns, operations=operations, definitions=definitions
    )


def loop(identity: int = 1, lags_s: Sequence[float] = (), **fields: Any) -> tasks_pb2.Loop:
    """An event loop with the lags of its timers; fields as in tasks.proto."""
    given = {"thread": "MainThread", "implementation": "uvloop.Loop", "ready": -1, "ready_max": -1, **fields}
    return tasks_pb2.Loop(id=identity, lag=histogram(*lags_s), **given)


def group(path: Sequence[int], count: int = 1, **fields: Any) -> tasks_pb2.TaskGroup:
    """Tasks that wait at the same place; fields as in tasks.proto."""
    return tasks_pb2.TaskGroup(path=path, count=count, **{"state": "waiting", "awaits": "Future", **fields})


def tasks_snapshot(
    at_ns: int,
    loops: Iterable[tasks_pb2.Loop],
    groups: Sequence[tasks_pb2.TaskGroup],
    edges: Iterable[tuple[int, int, int]] = (),
    definitions: common_pb2.Definitions | None = None,
    **fields: Any,
) -> tasks_pb2.TasksSnapshot:
    """One look at tasks, all of them examined; edges are (waiter, awaited, count)."""
    count = sum(one.count for one in groups)
    return tasks_pb2.TasksSnapshot(
        at_ns=at_ns,
        loops=loops,
        groups=groups,
        edges=[tasks_pb2.TaskEdge(waiter=waiter, awaited=awaited, count=pairs) for waiter, awaited, pairs in edges],
        definitions=definitions,
        **{"tasks": count, "tasks_examined": count, **fields},
    )


def profile_snapshot(
    from_ns: int,
    to_ns: int,
    rows: Sequence[tuple[int, str, str, int, float, float]],
    definitions: common_pb2.Definitions | None = None,
    **fields: Any,
) -> profile_pb2.ProfileSnapshot:
    """Samples of threads from rows of (stack, thread, task, samples, wall seconds, CPU seconds)."""
    names = list(dict.fromkeys(name for row in rows for name in row[1:3]))
    place = {name: index for index, name in enumerate(names)}
    given = {
        "stack": [row[0] for row in rows],
        "thread": [place[row[1]] for row in rows],
        "task": [place[row[2]] for row in rows],
        "samples": [row[3] for row in rows],
        "wall_s": [row[4] for row in rows],
        "cpu_s": [row[5] for row in rows],
    }
    return profile_pb2.ProfileSnapshot(
        from_ns=from_ns,
        to_ns=to_ns,
        names=names,
        definitions=definitions,
        **columns(SAMPLE_COLUMNS, given),
        **{"ticks": sum(row[3] for row in rows), **fields},
    )


def observation(at_ns: int, kind: str, name: str, value: float = 0.0, **fields: Any) -> observations_pb2.Observation:
    """One thing noticed; fields as in observations.proto."""
    return observations_pb2.Observation(at_ns=at_ns, kind=kind, name=name, value=value, **{"count": 1, **fields})


def observations_snapshot(
    at_ns: int,
    observations: Iterable[observations_pb2.Observation],
    definitions: common_pb2.Definitions | None = None,
    dropped: int = 0,
) -> observations_pb2.ObservationsSnapshot:
    """What was noticed until at_ns; rows by observation()."""
    return observations_pb2.ObservationsSnapshot(
        at_ns=at_ns, observations=observations, definitions=definitions, dropped=dropped
    )


def batch(
    stream: int, seq: int, body: Any, *, codec: int = ingest_pb2.CODEC_ZSTD, rows: int = 1, dropped: int = 0
) -> ingest_pb2.Batch:
    """A well-formed batch around a message, or around bytes that are taken as they are."""
    raw = body if isinstance(body, bytes) else body.SerializeToString()
    packed = zstandard.ZstdCompressor(level=1).compress(raw) if codec == ingest_pb2.CODEC_ZSTD else raw
    return ingest_pb2.Batch(
        stream=stream,
        seq=seq,
        codec=codec,
        body_bytes=len(raw),
        body_crc32=zlib.crc32(raw),
        body=packed,
        rows=rows,
        dropped=dropped,
    )


@dataclass
class Heard:
    """Everything the collector has said on this connection."""

    acked: dict[int, int] = field(default_factory=dict)
    rejects: list[ingest_pb2.Reject] = field(default_factory=list)
    throttles: list[ingest_pb2.Throttle] = field(default_factory=list)
    commands: list[ingest_pb2.Command] = field(default_factory=list)
    ended: grpc.RpcError | bool | None = None


class WireClient:
    """One session. Use as a context manager, or call connect() and close().

    After close() the same object may connect() again: the session id and sequence numbers go on.
    Waiting methods raise TimeoutError, and ConnectionError when the stream ended first.
    """

    def __init__(
        self,
        address: str,
        *,
        service: str = "checkout",
        instance_id: str | None = None,
        session_id: str | None = None,
        pid: int = 4242,
        started_at_ns: int | None = None,
        attributes: Mapping[str, str] | None = None,
        agent_version: str = "0.0.test",
        codec: int = ingest_pb2.CODEC_ZSTD,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self.service = service
        self.instance_id = instance_id or uuid.uuid4().hex
        self.session_id = session_id or uuid.uuid4().hex
        self.process = common_pb2.Process(
            service=service,
            instance_id=self.instance_id,
            pid=pid,
            started_at_ns=time.time_ns() if started_at_ns is None else started_at_ns,
            attributes=dict(attributes or {}),
        )
        self.agent_version = agent_version
        self.codec = codec
        self.credentials = credentials
        self.welcome: ingest_pb2.Welcome | None = None
        self.heard = Heard()
        self.seq: dict[int, int] = dict.fromkeys(STREAMS, 0)
        self._changed = threading.Condition()
        self._outgoing: queue.SimpleQueue[ingest_pb2.SessionRequest | None] = queue.SimpleQueue()
        self._channel: grpc.Channel | None = None
        self._call: Any = None
        self._listener: threading.Thread | None = None

    def __enter__(self) -> WireClient:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def hello(self) -> ingest_pb2.Hello:
        """What connect() says first."""
        return ingest_pb2.Hello(
            protocol=1,
            session_id=self.session_id,
            process=self.process,
            agent_version=self.agent_version,
            codecs=[ingest_pb2.CODEC_NONE, ingest_pb2.CODEC_ZSTD],
            commands_allowed=[ingest_pb2.COMMAND_KIND_SNAPSHOT],
        )

    def connect(self, timeout_s: float = 10.0, hello: ingest_pb2.Hello | None = None) -> ingest_pb2.Welcome:
        """Opens the channel, says Hello, waits for Welcome. seq continues above Welcome.resume."""
        self.open(timeout_s)
        self.send(ingest_pb2.SessionRequest(hello=hello or self.hello()))
        self._wait(lambda: self.welcome is not None, timeout_s, "Welcome")
        assert self.welcome is not None
        for stream, seq in self.welcome.resume.items():
            self.seq[stream] = max(self.seq.get(stream, 0), seq)
        return self.welcome

    def open(self, timeout_s: float = 10.0) -> None:
        """Opens the channel and the stream, and says nothing."""
        self.heard = Heard()
        self.welcome = None
        self._outgoing = queue.SimpleQueue()
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
        ]
        self._channel = (
            grpc.insecure_channel(self.address, options)
            if self.credentials is None
            else grpc.secure_channel(self.address, self.credentials, options)
        )
        try:
            grpc.channel_ready_future(self._channel).result(timeout_s)
        except grpc.FutureTimeoutError:
            self._channel.close()
            raise TimeoutError(f"no collector at {self.address} within {timeout_s} s") from None
        stub = ingest_pb2_grpc.IngestServiceStub(self._channel)
        self._call = stub.Session(_until_none(self._outgoing))
        self._listener = threading.Thread(
            target=self._listen, args=(self._call, self.heard), name="wire-client", daemon=True
        )
        self._listener.start()

    def send(self, request: ingest_pb2.SessionRequest) -> None:
        """Says anything at all."""
        self._outgoing.put(request)

    def send_batch(self, message: ingest_pb2.Batch) -> None:
        """Sends a batch as it is."""
        self.send(ingest_pb2.SessionRequest(batch=message))

    def send_heap(
        self,
        at_ns: int,
        sites: Mapping[str, Any],
        types: Mapping[str, Any] | None = None,
        definitions: common_pb2.Definitions | None = None,
        **header: Any,
    ) -> int:
        """Sends a heap snapshot (arguments as heap_snapshot()) under the next seq, which it returns."""
        body = heap_snapshot(at_ns, sites, types, definitions, **header)
        self.seq[HEAP] += 1
        rows = (len(body.sites.stack) + len(body.types.stack)) // 8
        self.send_batch(batch(HEAP, self.seq[HEAP], body, codec=self.codec, rows=rows))
        return self.seq[HEAP]

    def send_metrics(
        self, at_ns: int, readings: Sequence[tuple[str, float] | tuple[str, float, Mapping[str, str]]]
    ) -> int:
        """Sends readings under the next seq, which it returns."""
        self.seq[METRICS] += 1
        body = metrics_snapshot(at_ns, readings)
        self.send_batch(batch(METRICS, self.seq[METRICS], body, codec=self.codec, rows=len(body.metrics)))
        return self.seq[METRICS]

    def send_body(self, stream: int, body: Any, rows: int = 1) -> int:
        """Sends a message, as operations_snapshot() and its like make them, under the next seq, which it returns."""
        self.seq[stream] += 1
        self.send_batch(batch(stream, self.seq[stream], body, codec=self.codec, rows=rows))
        return self.seq[stream]

    def heartbeat(
        self,
        at_ns: int | None = None,
        statistics: Mapping[str, float] | None = None,
        sampler_state: str = "running",
        sampler_reason: str = "",
    ) -> None:
        """Sends a heartbeat."""
        beat = ingest_pb2.Heartbeat(
            at_ns=time.time_ns() if at_ns is None else at_ns,
            statistics=dict(statistics or {}),
            sampler_state=sampler_state,
            sampler_reason=sampler_reason,
        )
        self.send(ingest_pb2.SessionRequest(heartbeat=beat))

    def answer(self, command_id: str, outcome: int = ingest_pb2.COMMAND_OUTCOME_DONE, reason: str = "") -> None:
        """Answers a command."""
        result = ingest_pb2.CommandResult(id=command_id, outcome=outcome, reason=reason)
        self.send(ingest_pb2.SessionRequest(command_result=result))

    def wait_ack(self, stream: int, seq: int, timeout_s: float = 10.0) -> None:
        """Returns once the batch is durable."""
        self._wait(lambda: self.heard.acked.get(stream, 0) >= seq, timeout_s, f"ack of {seq} in stream {stream}")

    def wait_reject(self, count: int = 1, timeout_s: float = 10.0) -> ingest_pb2.Reject:
        """The count-th rejection of this connection."""
        self._wait(lambda: len(self.heard.rejects) >= count, timeout_s, "Reject")
        return self.heard.rejects[count - 1]

    def wait_throttle(self, timeout_s: float = 10.0) -> ingest_pb2.Throttle:
        """The first throttle of this connection."""
        self._wait(lambda: bool(self.heard.throttles), timeout_s, "Throttle")
        return self.heard.throttles[0]

    def wait_command(self, count: int = 1, timeout_s: float = 10.0) -> ingest_pb2.Command:
        """The count-th command of this connection."""
        self._wait(lambda: len(self.heard.commands) >= count, timeout_s, "Command")
        return self.heard.commands[count - 1]

    def wait_end(self, timeout_s: float = 10.0) -> grpc.RpcError | None:
        """The error that ended the stream; None when it ended well."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.heard.ended is not None, timeout_s):
                raise TimeoutError(f"the stream did not end within {timeout_s} s")
        return None if isinstance(self.heard.ended, bool) else self.heard.ended

    def half_close(self) -> None:
        """Says that nothing more will come, and goes on listening."""
        self._outgoing.put(None)

    def close(self) -> None:
        """Hangs up, as a killed process would."""
        self._outgoing.put(None)
        if self._call is not None:
            self._call.cancel()
        if self._channel is not None:
            self._channel.close()
        if self._listener is not None:
            self._listener.join(10)

    def _listen(self, call: Any, heard: Heard) -> None:
        ended: grpc.RpcError | bool = True
        try:
            for response in call:
                with self._changed:
                    self._hear(response, heard)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            ended = error
        with self._changed:
            heard.ended = ended
            self._changed.notify_all()

    def _hear(self, response: ingest_pb2.SessionResponse, heard: Heard) -> None:
        match response.WhichOneof("message"):
            case "welcome":
                self.welcome = response.welcome
            case "ack":
                heard.acked[response.ack.stream] = max(response.ack.seq, heard.acked.get(response.ack.stream, 0))
            case "reject":
                heard.rejects.append(response.reject)
            case "throttle":
                heard.throttles.append(response.throttle)
            case "command":
                heard.commands.append(response.command)

    def _wait(self, done: Any, timeout_s: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: done() or self.heard.ended is not None, timeout_s):
                raise TimeoutError(f"no {what} within {timeout_s} s")
            if not done():
                raise ConnectionError(f"the stream ended before {what}: {self.heard.ended}")


def _until_none(
    outgoing: queue.SimpleQueue[ingest_pb2.SessionRequest | None],
) -> Iterator[ingest_pb2.SessionRequest]:
    while (request := outgoing.get()) is not None:
        yield request
