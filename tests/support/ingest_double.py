"""A collector that does what the test says: a real gRPC server behind a scripted servicer.

Left alone it welcomes, acknowledges everything and remembers it. A test changes `welcome`, sets `on_batch`, or takes
a session and sends what it likes. Nothing sleeps: wait_for() returns when its condition has become true.
"""

from __future__ import annotations

import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import zstandard
from glassbottom.wire.v1 import (
    heap_pb2,
    ingest_pb2,
    ingest_pb2_grpc,
    metrics_pb2,
    observations_pb2,
    operations_pb2,
    profile_pb2,
    tasks_pb2,
)

Response = ingest_pb2.SessionResponse
OnBatch = Callable[["Session", ingest_pb2.Batch], None]


class Session:
    """One connection of one agent, as the collector sees it."""

    def __init__(self, hello: ingest_pb2.Hello) -> None:
        self.hello = hello
        self.batches: list[ingest_pb2.Batch] = []
        self.heartbeats: list[ingest_pb2.Heartbeat] = []
        self.results: list[ingest_pb2.CommandResult] = []
        self.calls: list[ingest_pb2.IncidentCall] = []
        self.is_open = True
        self._outgoing: queue.SimpleQueue[Response | None] = queue.SimpleQueue()

    def send(self, response: Response) -> None:
        self._outgoing.put(response)

    def ack(self, batch: ingest_pb2.Batch) -> None:
        self.send(Response(ack=ingest_pb2.Ack(stream=batch.stream, seq=batch.seq)))

    def close(self) -> None:
        """Ends the stream from the collector's side."""
        self._outgoing.put(None)


def body_of(batch: ingest_pb2.Batch) -> bytes:
    """The checked, unpacked body."""
    body = batch.body
    if batch.codec == ingest_pb2.CODEC_ZSTD:
        body = zstandard.ZstdDecompressor().decompress(body)
    assert len(body) == batch.body_bytes
    assert zlib.crc32(body) == batch.body_crc32
    return body


class IngestDouble(ingest_pb2_grpc.IngestServiceServicer):
    """`with IngestDouble() as double:` listens on a free port of 127.0.0.1 until the block ends."""

    def __init__(self, port: int = 0, workers: int = 64) -> None:
        self._changed = threading.Condition()
        self._port = port
        self._workers = workers
        self.sessions: list[Session] = []
        self.marks: dict[tuple[str, int], int] = {}
        self.on_batch: OnBatch | None = None
        self.welcome = ingest_pb2.Welcome(
            store_id="store-1",
            credit_bytes=4 << 20,
            batch_bytes_max=4 << 20,
            collector_version="double",
            codecs=[ingest_pb2.CODEC_ZSTD, ingest_pb2.CODEC_NONE],
        )

    def __enter__(self) -> IngestDouble:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(self._workers), options=[("grpc.so_reuseport", 0)])
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        assert self._port
        self._server.start()

    def stop(self) -> None:
        """Goes away at once, as a killed collector does. start() brings it back on the same port."""
        for session in self.sessions:
            session.close()
        self._server.stop(None).wait()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._port}"

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Returns when condition() holds, asked whenever something arrived; AssertionError after timeout_s."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                assert left > 0, f"still not true after {timeout_s:g} s; sessions: {self.describe()}"
                self._changed.wait(min(left, 0.25))

    def describe(self) -> str:
        return ", ".join(
            f"[pid {s.hello.process.pid} open={s.is_open} batches={len(s.batches)} heartbeats={len(s.heartbeats)}]"
            for s in self.sessions
        )

    # What arrived, over all sessions

    def batches(self, stream: int = ingest_pb2.STREAM_HEAP) -> list[ingest_pb2.Batch]:
        return [batch for session in list(self.sessions) for batch in list(session.batches) if batch.stream == stream]

    def heaps(self) -> list[heap_pb2.HeapSnapshot]:
        return [heap_pb2.HeapSnapshot.FromString(body_of(batch)) for batch in self.batches()]

    def metrics(self) -> list[metrics_pb2.MetricsSnapshot]:
        found = self.batches(ingest_pb2.STREAM_METRICS)
        return [metrics_pb2.MetricsSnapshot.FromString(body_of(batch)) for batch in found]

    def operations(self) -> list[operations_pb2.OperationsSnapshot]:
        found = self.batches(ingest_pb2.STREAM_OPERATIONS)
        return [operations_pb2.OperationsSnapshot.FromString(body_of(batch)) for batch in found]

    def tasks(self) -> list[tasks_pb2.TasksSnapshot]:
        return [tasks_pb2.TasksSnapshot.FromString(body_of(one)) for one in self.batches(ingest_pb2.STREAM_TASKS)]

    def profiles(self) -> list[profile_pb2.ProfileSnapshot]:
        return [profile_pb2.ProfileSnapshot.FromString(body_of(one)) for one in self.batches(ingest_pb2.STREAM_PROFILE)]

    def observations(self) -> list[observations_pb2.ObservationsSnapshot]:
        found = self.batches(ingest_pb2.STREAM_OBSERVATIONS)
        return [observations_pb2.ObservationsSnapshot.FromString(body_of(batch)) for batch in found]

    def heartbeats(self) -> list[ingest_pb2.Heartbeat]:
        return [heartbeat for session in list(self.sessions) for heartbeat in list(session.heartbeats)]

    def calls(self) -> list[ingest_pb2.IncidentCall]:
        return [call for session in list(self.sessions) for call in list(session.calls)]

    def instance_ids(self) -> set[str]:
        return {session.hello.process.instance_id for session in list(self.sessions)}

    def pids(self) -> set[int]:
        return {session.hello.process.pid for session in list(self.sessions)}

    # The service

    def Session(
        self, request_iterator: Iterator[ingest_pb2.SessionRequest], context: grpc.ServicerContext
    ) -> Iterator[Response]:
        session = Session(next(request_iterator).hello)
        with self._changed:
            self.sessions.append(session)
            welcome = ingest_pb2.Welcome.FromString(self.welcome.SerializeToString())
            for (session_id, stream), seq in self.marks.items():
                if session_id == session.hello.session_id:
                    welcome.resume[stream] = max(seq, welcome.resume[stream])
            self._changed.notify_all()
        session.send(Response(welcome=welcome))
        context.add_callback(lambda: self._ended(session))
        threading.Thread(target=self._read, args=(session, request_iterator), daemon=True).start()
        while (response := session._outgoing.get()) is not None:
            yield response
        self._ended(session)

    def _ended(self, session: Session) -> None:
        session.close()
        with self._changed:
            session.is_open = False
            self._changed.notify_all()

    def _read(self, session: Session, requests: Iterator[ingest_pb2.SessionRequest]) -> None:
        try:
            for request in requests:
                with self._changed:
                    self._take(session, request)
                    self._changed.notify_all()
        except grpc.RpcError:
            pass
        except Exception as error:
            if type(error) is not Exception:  # what grpc raises from a request iterator whose call has ended
                raise
        session.close()

    def _take(self, session: Session, request: ingest_pb2.SessionRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "batch":
            batch = request.batch
            session.batches.append(batch)
            if self.on_batch is not None:
                self.on_batch(session, batch)
                return
            key = (session.hello.session_id, batch.stream)
            self.marks[key] = max(batch.seq, self.marks.get(key, 0))
            session.ack(batch)
        elif kind == "heartbeat":
            session.heartbeats.append(request.heartbeat)
        elif kind == "command_result":
            session.results.append(request.command_result)
        elif kind == "incident_call":
            session.calls.append(request.incident_call)
