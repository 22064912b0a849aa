"""The real channel: TLS in both directions, and failures as one sentence."""

from __future__ import annotations

import threading
from concurrent import futures
from pathlib import Path

import grpc
from glassbottom._config import TlsConfig
from glassbottom.transport.channel import connector
from glassbottom.transport.connection import Connection
from glassbottom.wire.v1 import ingest_pb2, ingest_pb2_grpc

from tests.support.ingest_double import IngestDouble

TLS = Path(__file__).resolve().parents[1] / "support" / "tls"
HELLO = ingest_pb2.SessionRequest(hello=ingest_pb2.Hello(protocol=1, session_id="0" * 32))


class TlsDouble:
    """The double behind a port that wants certificates."""

    def __init__(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(IngestDouble(), self._server)
        credentials = grpc.ssl_server_credentials(
            [((TLS / "server.key").read_bytes(), (TLS / "server.pem").read_bytes())],
            root_certificates=(TLS / "ca.pem").read_bytes(),
            require_client_auth=True,
        )
        self.endpoint = f"localhost:{self._server.add_secure_port('localhost:0', credentials)}"

    def __enter__(self) -> TlsDouble:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


def outcome(endpoint: str, tls: TlsConfig) -> ingest_pb2.SessionResponse | str:
    """The first response, or why there is none."""
    happened = threading.Event()
    connection: Connection = connector(endpoint, tls)(happened.set)
    try:
        connection.send(HELLO)
        assert happened.wait(20)
        responses = connection.receive()
        return responses[0] if responses else connection.failure() or ""
    finally:
        assert connection.close(10.0)


def test_a_collector_that_wants_a_certificate_is_shown_one():
    tls = TlsConfig(ca_file=TLS / "ca.pem", cert_file=TLS / "client.pem", key_file=TLS / "client.key")
    with TlsDouble() as double:
        response = outcome(double.endpoint, tls)
    assert isinstance(response, ingest_pb2.SessionResponse)
    assert response.welcome.store_id == "store-1"


def test_a_collector_with_an_unknown_certificate_is_not_talked_to():
    tls = TlsConfig(ca_file=TLS / "stranger.pem", cert_file=TLS / "client.pem", key_file=TLS / "client.key")
    with TlsDouble() as double:
        assert str(outcome(double.endpoint, tls)).startswith("UNAVAILABLE")


def test_a_port_where_nobody_listens_is_a_sentence():
    assert "UNAVAILABLE" in str(outcome("127.0.0.1:1", TlsConfig()))


def test_closing_ends_every_thread_at_once(double: IngestDouble):
    before = set(threading.enumerate())
    happened = threading.Event()
    connection = connector(double.endpoint, TlsConfig())(happened.set)
    connection.send(HELLO)
    assert happened.wait(20)
    assert connection.close(10.0)
    ours = [thread for thread in set(threading.enumerate()) - before if "receiver" in thread.name]
    assert ours == []
