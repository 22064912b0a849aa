"""A transport that keeps everything, for tests: a collector that lives in the same process and always says yes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from ..wire.v1 import heap_pb2, ingest_pb2, metrics_pb2
from .connection import Connection
from .encode import Encoded, without_codec

CREDIT_BYTES = 4 * 1024 * 1024


class MemoryTransport:
    """Give `.connect` where a Connector is wanted; read what was sent from hello, batches, heaps(), metrics().

    available: set it to False and the next messages, and attempts to connect, fail as if the collector were away.
    Batches are acknowledged at once and kept as (stream, seq, body), files of captures by the id of their command;
    nothing is bounded: it is a test's.
    """

    def __init__(self, store_id: str = "memory") -> None:
        self.store_id = store_id
        self.available = True
        self.hellos: list[ingest_pb2.Hello] = []
        self.batches: list[tuple[int, int, bytes]] = []
        self.heartbeats: list[ingest_pb2.Heartbeat] = []
        self.results: list[ingest_pb2.CommandResult] = []
        self.files: dict[str, bytearray] = {}
        self._file_bytes: dict[str, int] = {}
        self._marks: dict[tuple[str, int], int] = {}
        self._open: list[_MemoryConnection] = []

    def connect(self, on_event: Callable[[], None]) -> Connection:
        connection = _MemoryConnection(self, on_event)
        self._open.append(connection)
        return connection

    def heaps(self) -> list[heap_pb2.HeapSnapshot]:
        """Every heap reading received, oldest first."""
        wanted = ingest_pb2.STREAM_HEAP
        return [heap_pb2.HeapSnapshot.FromString(body) for stream, _, body in self.batches if stream == wanted]

    def metrics(self) -> list[metrics_pb2.MetricsSnapshot]:
        """Every reading of process-wide numbers received, oldest first."""
        wanted = ingest_pb2.STREAM_METRICS
        return [metrics_pb2.MetricsSnapshot.FromString(body) for stream, _, body in self.batches if stream == wanted]

    def command(self, command: ingest_pb2.Command) -> None:
        """Sends a command down every open connection."""
        for connection in self._open:
            connection.respond(ingest_pb2.SessionResponse(command=command))

    def _accept(self, request: ingest_pb2.SessionRequest, session_id: str) -> list[ingest_pb2.SessionResponse]:
        kind = request.WhichOneof("message")
        if kind == "hello":
            self.hellos.append(request.hello)
            marks = {stream: seq for (session, stream), seq in self._marks.items() if session == session_id}
            welcome = ingest_pb2.Welcome(
                store_id=self.store_id,
                resume=marks,
                credit_bytes=CREDIT_BYTES,
                batch_bytes_max=CREDIT_BYTES,
                collector_version="memory",
                codecs=[ingest_pb2.CODEC_ZSTD, ingest_pb2.CODEC_NONE],
            )
            return [ingest_pb2.SessionResponse(welcome=welcome)]
        if kind == "batch":
            batch = request.batch
            if batch.seq > self._marks.get((session_id, batch.stream), 0):
                content = without_codec(Encoded(batch.codec, batch.body, batch.body_bytes, batch.body_crc32))
                self.batches.append((batch.stream, batch.seq, content.body))
                self._marks[session_id, batch.stream] = batch.seq
            return [ingest_pb2.SessionResponse(ack=ingest_pb2.Ack(stream=batch.stream, seq=batch.seq))]
        if kind == "heartbeat":
            self.heartbeats.append(request.heartbeat)
        elif kind == "command_result":
            self.results.append(request.command_result)
            return self._answer_result(request.command_result)
        elif kind == "capture_chunk":
            chunk = request.capture_chunk
            self.files[chunk.id][chunk.offset :] = chunk.data
            return [self._capture_ack(chunk.id)]
        return []

    def _answer_result(self, result: ingest_pb2.CommandResult) -> list[ingest_pb2.SessionResponse]:
        if result.outcome == ingest_pb2.COMMAND_OUTCOME_STARTED:
            return []
        self.files.setdefault(result.id, bytearray())
        self._file_bytes[result.id] = result.made.file_bytes
        return [self._capture_ack(result.id)]

    def _capture_ack(self, capture_id: str) -> ingest_pb2.SessionResponse:
        held = len(self.files[capture_id])
        settled = held == self._file_bytes[capture_id]
        return ingest_pb2.SessionResponse(
            capture_ack=ingest_pb2.CaptureAck(id=capture_id, offset=held, settled=settled)
        )


class _MemoryConnection:
    def __init__(self, transport: MemoryTransport, on_event: Callable[[], None]) -> None:
        self._transport = transport
        self._on_event = on_event
        self._responses: deque[ingest_pb2.SessionResponse] = deque()
        self._session_id = ""
        self._lost = not transport.available

    def send(self, request: ingest_pb2.SessionRequest) -> None:
        if self.failure() is not None:
            return
        if request.WhichOneof("message") == "hello":
            self._session_id = request.hello.session_id
        for response in self._transport._accept(request, self._session_id):
            self.respond(response)

    def respond(self, response: ingest_pb2.SessionResponse) -> None:
        self._responses.append(response)
        self._on_event()

    def receive(self) -> Sequence[ingest_pb2.SessionResponse]:
        taken = list(self._responses)
        self._responses.clear()
        return taken

    def failure(self) -> str | None:
        self._lost = self._lost or not self._transport.available
        return "The collector in memory is away." if self._lost else None

    def abandon(self) -> None:
        """There is nothing to let go of."""

    def close(self, timeout_s: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        self._lost = True
        if self in self._transport._open:
            self._transport._open.remove(self)
        return True
