"""The socket under the session, and the one thread that reads and writes it: "glassbottom-channel".

Pure Python from here to the kernel, so a fork is harmless: see grpc_stream.py. The thread does everything that can wait
(names, connecting, TLS, sending, receiving); the sender only hands messages over and takes them.

What the thread needs is imported here, with the agent and in the application's own thread: a child forked while another
thread imports a module waits for that module's lock for ever, should it need it too.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - getaddrinfo() would import it when first called
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence

from .. import _threads
from .._config import TlsConfig
from .._errors import CollectorUnavailable
from ..wire.v1 import ingest_pb2
from .connection import Connection, Connector
from .grpc_stream import GrpcStream

USER_AGENT = "glassbottom-python"
SESSION_METHOD = "/glassbottom.wire.v1.IngestService/Session"
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 30.0  # more often and servers answer ENHANCE_YOUR_CALM
KEEPALIVE_TIMEOUT_S = 10.0
READ_BYTES = 1 << 16
RECEIVED_MAX = 10_000
"""Responses held before the sender looks; a collector that sends more without being asked is not one."""


def connector(endpoint: str, tls: TlsConfig) -> Connector:
    """A Connector to that address: HOST:PORT, [IPV6]:PORT or unix:PATH."""

    def connect(on_event: Callable[[], None]) -> Connection:
        return _SocketConnection(endpoint, tls, on_event)

    return connect


class _SocketConnection:
    def __init__(self, endpoint: str, tls: TlsConfig, on_event: Callable[[], None]) -> None:
        self._endpoint, self._tls, self._on_event = endpoint, tls, on_event
        self._context = _tls_context(tls) if tls.in_use else None
        self._stream = GrpcStream(
            _host(endpoint) if endpoint.startswith("unix:") else endpoint,
            SESSION_METHOD,
            secure=tls.in_use,
            user_agent=USER_AGENT,
        )
        self._outgoing: deque[bytes] = deque()
        self._received: deque[ingest_pb2.SessionResponse] = deque()
        self._failure: str | None = None
        self._closing = False
        self._socket: socket.socket | None = None
        # A byte through the pair ends the thread's wait.
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._thread = _threads.Thread(self._run, "glassbottom-channel")
        try:
            self._thread.start()
        except RuntimeError as error:  # the interpreter is on its way out, or the system has no thread left
            self.abandon()
            raise CollectorUnavailable(f"There is no thread for the connection: {error}.") from error

    def send(self, request: ingest_pb2.SessionRequest) -> None:
        self._outgoing.append(request.SerializeToString())
        self._wake()

    def receive(self) -> Sequence[ingest_pb2.SessionResponse]:
        taken = []
        while self._received:
            taken.append(self._received.popleft())
        return taken

    def failure(self) -> str | None:
        return self._failure

    def close(self, timeout_s: float) -> bool:
        self._closing = True
        self._wake()
        return self._thread.wait(timeout_s)

    def abandon(self) -> None:
        # close() of a TLS socket sends nothing; the last words of TLS would be said by unwrap().
        for each in (self._socket, self._wake_in, self._wake_out):
            if each is not None:
                each.close()

    def _wake(self) -> None:
        # Full means that it will wake anyway; closed, that the thread has ended.
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    # In the thread

    def _run(self) -> None:
        _threads.enter()
        try:
            self._socket = self._connect()
            self._talk(self._socket)
        except (OSError, ValueError) as error:
            self._failure = f"UNAVAILABLE: {self._endpoint}: {_reason(error)}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the stream is over and the sender must know
            self._failure = f"INTERNAL: {type(error).__name__}: {error}"
        finally:
            self.abandon()
        self._failure = self._failure or self._stream.failure or "CANCELLED: closed by the agent"
        self._on_event()

    def _connect(self) -> socket.socket:
        if self._endpoint.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX)
            addresses: list[tuple[socket.socket, object]] = [(sock, self._endpoint.removeprefix("unix:"))]
        else:
            host, _, port = self._endpoint.rpartition(":")
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            addresses = [
                (socket.socket(family, kind, protocol), address) for family, kind, protocol, _, address in found
            ]
        error: OSError = OSError("the name has no address")
        for at, (sock, address) in enumerate(addresses):
            try:
                connected = self._open(sock, address)
            except OSError as failed:
                sock.close()
                error = failed
                continue
            for other, _ in addresses[at + 1 :]:
                other.close()
            return connected
        raise error

    def _open(self, sock: socket.socket, address: object) -> socket.socket:
        sock.setblocking(False)
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        code = sock.connect_ex(address)  # type: ignore[arg-type]
        if code != 0:
            self._wait(sock, deadline_s, writable=True)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code != 0:
                raise OSError(code, os.strerror(code))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            return sock
        secured = self._context.wrap_socket(
            sock, server_hostname=self._tls.server_name or _host(self._endpoint), do_handshake_on_connect=False
        )
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(secured, deadline_s, writable=False)
            except ssl.SSLWantWriteError:
                self._wait(secured, deadline_s, writable=True)
            else:
                return secured

    def _wait(self, sock: socket.socket, deadline_s: float, *, writable: bool) -> None:
        """Until the socket is ready. OSError when that takes too long, or the connection is being closed."""
        while not self._closing:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise OSError(f"no answer within {CONNECT_TIMEOUT_S:g} s")
            ready, ready_to_write, _ = _threads.select(
                [self._wake_out] if writable else [sock, self._wake_out], [sock] if writable else [], [], left_s
            )
            if self._wake_out in ready:
                self._drain()
            if ready_to_write or sock in ready:
                return
        raise OSError("closed by the agent")

    def _talk(self, sock: socket.socket) -> None:
        stream, out = self._stream, bytearray()
        heard_s = time.monotonic()
        pinged = False
        while stream.failure is None:
            if self._closing:
                stream.cancel()
            while self._outgoing:
                stream.send(self._outgoing.popleft())
            out += stream.take_output()
            if out:
                self._write(sock, out)
            if self._closing:
                return
            if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                wait_s = heard_s + (KEEPALIVE_S + KEEPALIVE_TIMEOUT_S if pinged else KEEPALIVE_S) - time.monotonic()
                ready, _, _ = _threads.select([sock, self._wake_out], [sock] if out else [], [], max(0.0, wait_s))
                if self._wake_out in ready:
                    self._drain()
            received = self._read(sock)
            if received:
                heard_s, pinged = time.monotonic(), False
                stream.feed(received)
                self._deliver()
            elif received is not None:
                raise OSError("the collector closed the connection")
            elif time.monotonic() - heard_s >= KEEPALIVE_S + KEEPALIVE_TIMEOUT_S:
                raise OSError("the collector does not answer any more")
            elif not pinged and time.monotonic() - heard_s >= KEEPALIVE_S:
                stream.ping()
                pinged = True
        self._deliver()

    def _write(self, sock: socket.socket, out: bytearray) -> None:
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = sock.send(out)
            del out[:sent]

    def _read(self, sock: socket.socket) -> bytes | None:
        """What has arrived; nothing at the end of the connection, None when there is nothing yet."""
        try:
            return sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_out.recv(1024):
                pass

    def _deliver(self) -> None:
        for message in self._stream.take_messages():
            if len(self._received) >= RECEIVED_MAX:
                raise ValueError("the collector sent more than it was asked for")
            self._received.append(ingest_pb2.SessionResponse.FromString(message))
        if self._received:
            self._on_event()


def _host(endpoint: str) -> str:
    return "localhost" if endpoint.startswith("unix:") else endpoint.rpartition(":")[0].strip("[]")


def _tls_context(tls: TlsConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise CollectorUnavailable(f"TLS cannot be set up: {error}") from error
    # From 3.13 on the default refuses authorities that lack extensions which many private ones do lack.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


def _reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
