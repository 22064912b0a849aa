"""One bidirectional gRPC call over HTTP/2, as a function from bytes to bytes: no socket, no thread, no clock.

The agent does not use grpcio. Its native core starts threads and takes locks that do not survive a fork: a child
forked at the wrong moment waits for such a lock while it holds the GIL, and the whole application hangs (measured; see
ARCHITECTURE.md). It also costs 20 MB. Here h2, which is pure Python and does no I/O, speaks HTTP/2; what gRPC adds to
it is five bytes before each message and a status in the trailers.

Source: grpc/doc/PROTOCOL-HTTP2.md; RFC 9113.
"""

from __future__ import annotations

import struct
from collections import deque
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

STREAM_ID = 1
RECEIVE_BYTES_MAX = 1 << 20
"""Of one message. A collector's answers are small."""
STATUS_NAMES = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]


class GrpcStream:
    """The client's side of one call. Not thread-safe.

    failure is None until the call has ended, then one sentence that begins with the name of its gRPC status.
    """

    def __init__(self, authority: str, path: str, *, secure: bool, user_agent: str) -> None:
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.initiate_connection()
        self._http.send_headers(
            STREAM_ID,
            [
                (":method", "POST"),
                (":scheme", "https" if secure else "http"),
                (":path", path),
                (":authority", authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", user_agent),
            ],
        )
        self._waiting = bytearray()
        self._received = bytearray()
        self._messages: deque[bytes] = deque()
        self.pings_answered = 0
        self.failure: str | None = None

    def send(self, message: bytes) -> None:
        """Queues a message; it leaves as fast as the peer's flow control allows."""
        self._waiting += struct.pack(">BI", 0, len(message)) + message

    def ping(self) -> None:
        """Asks the peer whether it is there; `pings_answered` rises when it says so."""
        if self.failure is None:
            self._http.ping(b"liveness")

    def cancel(self) -> None:
        """Ends the call at once; what it has to say to the peer is in the next take_output()."""
        if self.failure is None:
            self.failure = "CANCELLED: closed by the agent"
            self._http.reset_stream(STREAM_ID, ErrorCodes.CANCEL)
            self._http.close_connection()

    def take_output(self) -> bytes:
        """Bytes for the wire, now."""
        while self._waiting and self.failure is None:
            room = min(self._http.local_flow_control_window(STREAM_ID), self._http.max_outbound_frame_size)
            if room <= 0:
                break
            self._http.send_data(STREAM_ID, bytes(self._waiting[:room]))
            del self._waiting[:room]
        output: bytes = self._http.data_to_send()
        return output

    def take_messages(self) -> list[bytes]:
        """Whole messages received since the last call."""
        taken = list(self._messages)
        self._messages.clear()
        return taken

    def feed(self, data: bytes) -> None:
        """Bytes from the wire; never raises, whatever they are."""
        if self.failure is not None:
            return
        try:
            for event in self._http.receive_data(data):
                self._on(event)
        except (ProtocolError, ValueError) as error:
            self._fail(f"INTERNAL: the peer does not speak HTTP/2: {type(error).__name__}: {error}")

    def _on(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length or 0, STREAM_ID)
            self._received += event.data or b""
            self._cut()
        elif isinstance(event, (ResponseReceived, TrailersReceived)):
            self._on_headers({_text(name): _text(value) for name, value in event.headers or []})
        elif isinstance(event, PingAckReceived):
            self.pings_answered += 1
        elif isinstance(event, StreamReset):
            self._fail(f"UNAVAILABLE: the collector reset the stream ({_code(event.error_code)})")
        elif isinstance(event, ConnectionTerminated):
            self._fail(f"UNAVAILABLE: the collector ended the connection ({_code(event.error_code)})")
        elif isinstance(event, StreamEnded):
            self._fail("UNAVAILABLE: the collector closed the stream")

    def _on_headers(self, headers: dict[str, str]) -> None:
        status = headers.get("grpc-status")
        if status is not None:
            name = STATUS_NAMES[int(status)] if status.isdecimal() and int(status) < len(STATUS_NAMES) else "UNKNOWN"
            if name == "OK":
                self._fail("UNAVAILABLE: the collector closed the stream")
            else:
                self._fail(f"{name}: {unquote(headers.get('grpc-message', ''))}")
        elif headers.get(":status", "200") != "200":
            self._fail(f"UNAVAILABLE: HTTP status {headers[':status']} instead of gRPC; is that a collector?")

    def _cut(self) -> None:
        while len(self._received) >= 5:
            compressed, length = struct.unpack_from(">BI", self._received)
            if compressed or length > RECEIVE_BYTES_MAX:
                self._fail(f"RESOURCE_EXHAUSTED: a message of {length} bytes, or a compressed one, was not asked for")
                return
            if len(self._received) < 5 + length:
                return
            self._messages.append(bytes(self._received[5 : 5 + length]))
            del self._received[: 5 + length]

    def _fail(self, sentence: str) -> None:
        """The first reason counts: what follows is its consequence."""
        if self.failure is None:
            self.failure = sentence


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _code(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)
