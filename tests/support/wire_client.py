"""A small agent stand-in that speaks the ingest protocol over a real channel.

It says exactly what a test tells it to say, including nonsense; wire_messages.py has the words. It has no queue, no
reconnect and no sampler: those belong to the agent and are tested there.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
from glassbottom.wire.v1 import common_pb2, ingest_pb2, ingest_pb2_grpc

from tests.support.wire_messages import HEAP, METRICS, STREAMS, batch, heap_snapshot, metrics_snapshot


@dataclass
class Heard:
    """Everything the collector has said on this connection."""

    acked: dict[int, int] = field(default_factory=dict)
    rejects: list[ingest_pb2.Reject] = field(default_factory=list)
    throttles: list[ingest_pb2.Throttle] = field(default_factory=list)
    commands: list[ingest_pb2.Command] = field(default_factory=list)
    capture_acks: list[ingest_pb2.CaptureAck] = field(default_factory=list)
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
            commands_allowed=[ingest_pb2.COMMAND_KIND_SNAPSHOT, ingest_pb2.COMMAND_KIND_DUMP_HEAP],
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

    def made(self, capture_id: str, file_bytes: int = 0, **numbers: float) -> None:
        """Says that a capture is done, and how long its file is."""
        made = ingest_pb2.CaptureMade(file_bytes=file_bytes, numbers=numbers)
        done = ingest_pb2.COMMAND_OUTCOME_DONE
        result = ingest_pb2.CommandResult(id=capture_id, outcome=done, made=made)
        self.send(ingest_pb2.SessionRequest(command_result=result))

    def send_piece(self, capture_id: str, offset: int, data: bytes, crc32: int | None = None) -> None:
        """Sends a piece of a capture's file."""
        chunk = ingest_pb2.CaptureChunk(
            id=capture_id, offset=offset, data=data, crc32=zlib.crc32(data) if crc32 is None else crc32
        )
        self.send(ingest_pb2.SessionRequest(capture_chunk=chunk))

    def wait_capture_ack(
        self, capture_id: str, offset: int = 0, *, settled: bool = False, timeout_s: float = 10.0
    ) -> ingest_pb2.CaptureAck:
        """The first word on a capture, on this connection, that has at least that offset, or settles it."""

        def found() -> list[ingest_pb2.CaptureAck]:
            return [
                ack
                for ack in self.heard.capture_acks
                if ack.id == capture_id and ack.settled == settled and (settled or ack.offset >= offset)
            ]

        self._wait(lambda: bool(found()), timeout_s, "CaptureAck")
        return found()[0]

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
            case "capture_ack":
                heard.capture_acks.append(response.capture_ack)

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
