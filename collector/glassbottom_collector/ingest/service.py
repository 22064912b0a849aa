"""gRPC servicer of Ingest: take a batch in, check it, give it to the store, acknowledge it once it is durable.

Nothing is acknowledged before the store says so, and nothing is read that there is no room for. When the store cannot
take a batch, the agent is told how long to wait and the stream ends: it then connects again, learns from Welcome
what is durable, and sends the rest once more. That is the one way back after any failure, so it is always exercised.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping

import grpc
from glassbottom.wire.v1 import ingest_pb2, ingest_pb2_grpc

from .. import __version__
from ..config import IngestConfig
from ..errors import BadRequest, StorageError, StorageFull
from ..model.heap import HeapSnapshot
from ..storage import BYTES_PER_BATCH, BatchKey, Content, Writer, bytes_held, definitions_in, rows_in
from .captures import CaptureRelay
from .checks import Malformed
from .decode import body_of, heap_of, metrics_of, process_of, statistics_of
from .decode_time import observations_of, operations_of, profile_of, tasks_of
from .limits import ByteBudget, IngestCounters, KnownIds, RowRate
from .sessions import Connection, Registry

HELLO_WAIT_S = 10.0
RETRY_AFTER_FULL_MS = 5_000
RETRY_AFTER_ERROR_MS = 1_000
INLINE_BYTES_MAX = 128 * 1024
REASON_CHARACTERS_MAX = 100
"""Larger bodies are decoded in a thread, so that one agent's first snapshot does not hold up the others."""

_KNOWN_STREAMS = frozenset(
    (
        ingest_pb2.STREAM_HEAP,
        ingest_pb2.STREAM_METRICS,
        ingest_pb2.STREAM_OPERATIONS,
        ingest_pb2.STREAM_TASKS,
        ingest_pb2.STREAM_PROFILE,
        ingest_pb2.STREAM_OBSERVATIONS,
    )
)

_log = logging.getLogger(__name__)


class Ingest(ingest_pb2_grpc.IngestServiceServicer):
    """full: why the store takes nothing now, in one sentence; empty when it does."""

    def __init__(
        self,
        writer: Writer,
        registry: Registry,
        limits: IngestConfig,
        counters: IngestCounters,
        captures: CaptureRelay,
        full: Callable[[], str] = str,
        call: Callable[[str, str, str], None] = lambda _service, _instance_id, _reason: None,
        clock_ns: Callable[[], int] = time.time_ns,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._registry = registry
        self._limits = limits
        self._counters = counters
        self._captures = captures
        self._call = call
        self._full = full
        self._clock_ns = clock_ns
        self._clock_s = clock_s
        self._budget = ByteBudget(limits.pending_bytes_max)
        self._known = KnownIds()
        self._draining = False
        self._empty = asyncio.Event()

    def statistics(self) -> Mapping[str, float]:
        """Counters and gauges, all named `ingest_…`."""
        values = dict(self._counters) | {
            "sessions": len(self._registry),
            "sessions_max": self._limits.sessions_max,
            "pending_bytes": self._budget.bytes_held,
            "pending_bytes_high": self._budget.bytes_high,
            "pending_bytes_max": self._budget.bytes_max,
            "waiting": self._budget.waiting(),
            "definitions_known": len(self._known),
        }
        return {f"ingest_{name}": float(value) for name, value in values.items()}

    async def drain(self, timeout_s: float) -> None:
        """Takes nothing more in; returns once what was taken is acknowledged and every stream has ended."""
        self._draining = True
        for connection in self._registry.connections():
            connection.end(grpc.StatusCode.UNAVAILABLE, "The collector is stopping; connect again.")
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._registry):
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            _log.warning("%d sessions did not end within %g s", len(self._registry), timeout_s)

    async def Session(  # type: ignore[override]  # noqa: N802 - named in the schema; no generator
        self,
        request_iterator: AsyncIterator[ingest_pb2.SessionRequest],
        context: grpc.aio.ServicerContext[ingest_pb2.SessionRequest, ingest_pb2.SessionResponse],
    ) -> None:
        """Held open for the life of the agent."""
        del request_iterator  # context.read() is the same, and can be given a time limit
        connection = await self._admit(context)
        try:
            await self._converse(connection, context)
        finally:
            if connection.reading is not None:
                connection.reading.cancel()
            connection.end(grpc.StatusCode.CANCELLED, "The stream is gone.")
            self._registry.leave(connection)
            self._empty.set()
        assert connection.ended is not None
        if connection.ended[0] is not grpc.StatusCode.OK:
            await context.abort(*connection.ended)

    async def _admit(
        self, context: grpc.aio.ServicerContext[ingest_pb2.SessionRequest, ingest_pb2.SessionResponse]
    ) -> Connection:
        try:
            async with asyncio.timeout(HELLO_WAIT_S):
                request = await context.read()
        except TimeoutError:
            request = None
        if not isinstance(request, ingest_pb2.SessionRequest) or request.WhichOneof("message") != "hello":
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "The first message must be Hello.")
        assert isinstance(request, ingest_pb2.SessionRequest)
        hello = request.hello
        try:
            process = process_of(hello)
        except Malformed as error:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if self._draining:
            await self._refuse(context, grpc.StatusCode.UNAVAILABLE, "The collector is stopping; connect again.")
        if len(self._registry) >= self._limits.sessions_max:
            await self._refuse(
                context,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._limits.sessions_max} agents are connected, which is ingest.sessions_max; raise it.",
            )
        rate = RowRate(self._limits.rows_per_second_max, self._clock_s)
        connection = Connection(hello, process, self._clock_ns(), rate)
        self._registry.enter(connection)
        try:
            resume = await self._writer.open_session(hello.session_id, process, hello.agent_version)
        except StorageError as error:
            self._registry.leave(connection)
            await self._refuse(context, grpc.StatusCode.UNAVAILABLE, str(error))
        except BaseException:
            self._registry.leave(connection)
            raise
        connection.received = dict(resume)
        connection.durable = dict(resume)
        self._counters["sessions_opened_total"] += 1
        welcome = ingest_pb2.Welcome(
            store_id=self._writer.store_id,
            resume=resume,
            credit_bytes=self._limits.credit_bytes,
            batch_bytes_max=self._limits.batch_bytes_max,
            collector_version=__version__,
            codecs=[ingest_pb2.CODEC_ZSTD, ingest_pb2.CODEC_NONE],
        )
        connection.send(ingest_pb2.SessionResponse(welcome=welcome))
        if full := self._full():
            connection.send(_throttle(RETRY_AFTER_FULL_MS, full))
        return connection

    async def _refuse(
        self,
        context: grpc.aio.ServicerContext[ingest_pb2.SessionRequest, ingest_pb2.SessionResponse],
        code: grpc.StatusCode,
        reason: str,
    ) -> None:
        self._counters["hellos_refused_total"] += 1
        await context.abort(code, reason)

    async def _converse(
        self,
        connection: Connection,
        context: grpc.aio.ServicerContext[ingest_pb2.SessionRequest, ingest_pb2.SessionResponse],
    ) -> None:
        """Sends what there is to say until the stream is to end and the store has answered for every batch."""
        if connection.ended is None:
            connection.reading = asyncio.create_task(self._read_all(connection, context))
        while True:
            responses = connection.take_responses()
            for response in responses:
                await context.write(response)
            if responses:
                continue  # more may have come up meanwhile
            if connection.ended is not None and connection.in_flight == 0:
                return
            await connection.changed()

    async def _read_all(
        self,
        connection: Connection,
        context: grpc.aio.ServicerContext[ingest_pb2.SessionRequest, ingest_pb2.SessionResponse],
    ) -> None:
        try:
            while connection.ended is None:
                async with asyncio.timeout(self._limits.silence_s_max):
                    request = await context.read()
                if not isinstance(request, ingest_pb2.SessionRequest):
                    connection.end(grpc.StatusCode.OK, "")
                    return
                await self._hear(connection, request)
        except TimeoutError:
            self._counters["sessions_silent_total"] += 1
            silence = f"Nothing was heard for {self._limits.silence_s_max} s; connect again."
            connection.end(grpc.StatusCode.DEADLINE_EXCEEDED, silence)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - the agent gets a sentence, the log the trace
            _log.exception("a session of %s met an error", connection.process.service)
            connection.end(grpc.StatusCode.INTERNAL, "The collector met an error of its own; its log has the details.")

    async def _hear(self, connection: Connection, request: ingest_pb2.SessionRequest) -> None:
        self._registry.heard(connection)
        match request.WhichOneof("message"):
            case "batch":
                await self._take(connection, request.batch)
            case "heartbeat":
                try:
                    self._registry.beat(connection, request.heartbeat, statistics_of(request.heartbeat))
                except Malformed:
                    self._counters["heartbeats_malformed_total"] += 1
            case "command_result":
                command = connection.commands.get(request.command_result.id)
                if command is None:
                    await self._captures.result(connection, request.command_result)
                elif not command.result.done():
                    command.result.set_result(request.command_result)
            case "capture_chunk":
                await self._captures.chunk(connection, request.capture_chunk)
            case "incident_call":
                process = connection.live.process
                self._counters["incident_calls_total"] += 1
                self._call(process.service, process.instance_id, request.incident_call.reason[:REASON_CHARACTERS_MAX])
            case "hello":
                connection.end(grpc.StatusCode.INVALID_ARGUMENT, "Hello comes once, as the first message.")
            case _:
                connection.end(grpc.StatusCode.INVALID_ARGUMENT, "A message is empty, or newer than this collector.")

    async def _take(self, connection: Connection, batch: ingest_pb2.Batch) -> None:
        stream, seq = batch.stream, batch.seq
        self._counters["batches_received_total"] += 1
        self._counters["bytes_received_total"] += len(batch.body)
        if stream not in _KNOWN_STREAMS or seq == 0:
            self._counters["batches_rejected_total"] += 1
            connection.reject(stream, seq, f"Stream {stream} with sequence number {seq} is not known here.")
            return
        if seq <= connection.received.get(stream, 0):
            # Durable: acknowledge again. Still with the store: its acknowledgement will come.
            self._counters["batches_repeated_total"] += 1
            if seq <= connection.durable.get(stream, 0):
                connection.ack(stream, connection.durable[stream])
            return
        self._counters["agent_batches_dropped_total"] += max(0, batch.dropped - connection.dropped.get(stream, 0))
        connection.dropped[stream] = max(batch.dropped, connection.dropped.get(stream, 0))
        while not connection.has_room(self._limits.credit_bytes):
            await connection.changed()
        # Rows take as much decoded as packed; only new definitions take more.
        size = BYTES_PER_BATCH + min(max(batch.body_bytes, len(batch.body)), self._limits.body_bytes_max)
        await self._budget.take(size)
        try:
            content = await self._decode(batch, connection.process.instance_id)
            self._budget.exchange(size, held := bytes_held(content))
            size = held
            delay_s = connection.rate.delay_s(rows_in(content))
            if delay_s:
                self._counters["rate_delays_total"] += 1
                await asyncio.sleep(delay_s)
        except Malformed as error:
            self._budget.give(size)
            connection.received[stream] = seq
            self._counters["batches_rejected_total"] += 1
            connection.reject(stream, seq, str(error))
            return
        except BaseException:
            self._budget.give(size)
            raise
        # Nothing is awaited from here on, and end() cancels us where we wait: a connection that has been replaced gives
        # the store nothing more.
        connection.received[stream] = seq
        connection.launched(size)
        key = BatchKey(connection.session_id, stream, seq)
        future = asyncio.ensure_future(self._writer.append(key, connection.process, content))
        future.add_done_callback(lambda done: self._stored(connection, key, size, content, done))

    async def _decode(self, batch: ingest_pb2.Batch, instance_id: str) -> Content:
        now_ns = self._clock_ns()

        def decode() -> Content:
            body = body_of(batch, self._limits)
            match batch.stream:
                case ingest_pb2.STREAM_HEAP:
                    return heap_of(body, instance_id, self._limits, now_ns, self._known)
                case ingest_pb2.STREAM_OPERATIONS:
                    return operations_of(body, self._limits, now_ns, self._known)
                case ingest_pb2.STREAM_TASKS:
                    return tasks_of(body, self._limits, now_ns, self._known)
                case ingest_pb2.STREAM_PROFILE:
                    return profile_of(body, self._limits, now_ns, self._known)
                case ingest_pb2.STREAM_OBSERVATIONS:
                    return observations_of(body, self._limits, now_ns, self._known)
                case _:
                    return metrics_of(body, self._limits, now_ns)

        return decode() if batch.body_bytes <= INLINE_BYTES_MAX else await asyncio.to_thread(decode)

    def _stored(
        self,
        connection: Connection,
        key: BatchKey,
        size: int,
        content: Content,
        done: asyncio.Future[None],
    ) -> None:
        self._budget.give(size)
        match None if done.cancelled() else done.exception():
            case None:
                self._counters["batches_acked_total"] += 1
                connection.ack(key.stream, key.seq)
                defined = definitions_in(content)
                if defined is not None:
                    for ids in (defined.frames, defined.stacks, defined.types):
                        self._known.add(ids)
                if isinstance(content, HeapSnapshot) and content.header.complete:
                    connection.snapshot_stored(content.header.at_ns)
            case BadRequest() as error:
                self._counters["batches_rejected_total"] += 1
                connection.reject(key.stream, key.seq, str(error))
            case error:
                self._counters["batches_throttled_total"] += 1
                full = isinstance(error, StorageFull)
                if connection.ended is None:
                    connection.send(_throttle(RETRY_AFTER_FULL_MS if full else RETRY_AFTER_ERROR_MS, str(error)))
                connection.end(grpc.StatusCode.UNAVAILABLE, str(error))
        connection.landed(size)


def _throttle(retry_after_ms: int, reason: str) -> ingest_pb2.SessionResponse:
    return ingest_pb2.SessionResponse(throttle=ingest_pb2.Throttle(retry_after_ms=retry_after_ms, reason=reason))
