"""gRPC: the only file that imports it, and it does so when the sender first connects.

A synchronous bidirectional call needs helpers: gRPC runs two threads of its own (one writes what our iterator yields,
one waits for the network) and we run one, "glassbottom-receiver", because the call can only be read by blocking. All
three end in close(), which is what makes a fork safe: see _fork.py. The experimental switches of gRPC for forking are
never set; they hang where other threads use gRPC.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .. import _threads
from .._config import TlsConfig
from .._errors import CollectorUnavailable
from ..wire.v1 import ingest_pb2
from .connection import Connection, Connector

SESSION_METHOD = "/glassbottom.wire.v1.IngestService/Session"
KEEPALIVE_MS = 30_000  # more often and servers answer ENHANCE_YOUR_CALM
KEEPALIVE_TIMEOUT_MS = 10_000
RECEIVED_MAX = 10_000
"""Responses held before the sender looks; a collector that sends more without being asked is not one."""


def connector(endpoint: str, tls: TlsConfig) -> Connector:
    """A Connector to that address."""

    def connect(on_event: Callable[[], None]) -> Connection:
        return _GrpcConnection(endpoint, tls, on_event)

    return connect


class _GrpcConnection:
    def __init__(self, endpoint: str, tls: TlsConfig, on_event: Callable[[], None]) -> None:
        try:
            import grpc
        except ImportError as error:
            raise CollectorUnavailable(f"gRPC cannot be imported: {error}. Install grpcio.") from error
        self._on_event = on_event
        self._received: deque[ingest_pb2.SessionResponse] = deque()
        self._failure: str | None = None
        self._requests = _Requests()
        self._threads: set[threading.Thread] = set()
        self._opener = threading.current_thread()
        self._receiver = threading.Thread(target=self._receive_all, name="glassbottom-receiver", daemon=True)
        try:
            self._channel = _open_channel(grpc, endpoint, tls)
            method = self._channel.stream_stream(
                SESSION_METHOD, request_serializer=None, response_deserializer=self._deserialize
            )
            # Typed loosely: the call is an iterator and a future at once, which no stub says.
            self._call: Any = method(iter(self._requests))
        except (OSError, ValueError, RuntimeError) as error:
            raise CollectorUnavailable(f"No connection to {endpoint} could be opened: {error}") from error
        self._call.add_done_callback(lambda _call: self._note_thread())
        self._receiver.start()

    def send(self, request: ingest_pb2.SessionRequest) -> None:
        self._requests.put(request.SerializeToString())

    def receive(self) -> Sequence[ingest_pb2.SessionResponse]:
        taken = []
        while self._received:
            taken.append(self._received.popleft())
        return taken

    def failure(self) -> str | None:
        return self._failure

    def close(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        self._requests.end()
        self._call.cancel()
        self._channel.close()
        threads = [self._receiver, *self._threads, *self._requests.threads]
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _receive_all(self) -> None:
        _threads.enter()
        import grpc

        try:
            for response in self._call:
                if len(self._received) >= RECEIVED_MAX:
                    self._failure = "The collector sent more than it was asked for."
                    break
                self._received.append(response)
                self._on_event()
            else:
                self._failure = "The collector closed the stream."
        except grpc.RpcError as error:
            self._failure = _sentence(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the stream is over and the sender must know
            self._failure = f"The stream broke: {type(error).__name__}: {error}"
        self._on_event()

    def _deserialize(self, data: bytes) -> ingest_pb2.SessionResponse:
        self._note_thread()
        return ingest_pb2.SessionResponse.FromString(data)

    def _note_thread(self) -> None:
        """Called in gRPC's own waiting thread: it is ours to account for, and to wait for in close()."""
        thread = threading.current_thread()
        if thread not in self._threads and thread not in (self._receiver, self._opener):
            _threads.enter()
            self._threads.add(thread)


class _Requests:
    """What gRPC's writing thread iterates over. SimpleQueue.put never blocks and may be interrupted by anything."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.threads: set[threading.Thread] = set()

    def put(self, request: bytes) -> None:
        self._queue.put(request)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        _threads.enter()
        self.threads.add(threading.current_thread())
        while (request := self._queue.get()) is not None:
            yield request


def _open_channel(grpc: Any, endpoint: str, tls: TlsConfig) -> Any:
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", 1 << 20),
        ("grpc.enable_retries", 0),
        # One connection for each attempt; the pause between attempts is the sender's business.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if endpoint.startswith(("unix:", "127.", "localhost:", "[::1]:")):
        options.append(("grpc.enable_http_proxy", 0))
    if not tls.in_use:
        return grpc.insecure_channel(endpoint, options=options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca_file.read_bytes() if tls.ca_file else None,
        private_key=tls.key_file.read_bytes() if tls.key_file else None,
        certificate_chain=tls.cert_file.read_bytes() if tls.cert_file else None,
    )
    return grpc.secure_channel(endpoint, credentials, options=options)


def _sentence(error: Any) -> str:
    details, code = "", None
    with contextlib.suppress(Exception):
        details, code = error.details() or "", error.code()
    return f"{code.name if code is not None else type(error).__name__}: {details}"
