"""The collector as a process: how it starts, why it refuses to, and how it ends."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from pathlib import Path

import grpc
import pytest
from glassbottom_collector import __version__, server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.bench import kill9
from tests.support.collector_process import CollectorProcess, collector_process
from tests.support.collector_thread import collector_thread
from tests.support.wire_client import WireClient
from tests.support.wire_messages import HEAP

pytestmark = pytest.mark.once  # real servers, files and curves; nothing in it differs between versions

TLS = Path(__file__).parents[1] / "support" / "tls"


def attempt(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a collector that gives up says; in this process, since it never gets as far as to serve."""
    parser = argparse.ArgumentParser()
    server.add_arguments(parser)
    assert server.main(parser.parse_args(arguments)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_it_says_once_where_it_listens_and_ends_well_on_sigterm(tmp_path: Path) -> None:
    running = CollectorProcess(tmp_path)
    assert running.stop() == 0
    ready = [line for line in running.lines if "listening on" in line]
    assert ready == [f"glassbottom collector {__version__} listening on {running.address}, data in {tmp_path}"]
    assert not running.address.endswith(":0")


def test_it_ends_well_on_ctrl_c_too(tmp_path: Path) -> None:
    running = CollectorProcess(tmp_path)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0
    running.stop()


def test_on_sigterm_what_has_arrived_is_committed_and_acknowledged(tmp_path: Path) -> None:
    """Group commit is set to wait, so that at the moment of the signal nothing is durable yet."""
    path = tmp_path / "collector.yaml"
    path.write_text("storage: {commit: {wait_ms_max: 60000}}")
    data = tmp_path / "data"
    client = WireClient("")
    with collector_process(data, arguments=["--config", str(path)]) as running:
        client.address = running.address
        client.connect()
        for _ in range(20):
            client.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [1.0]})
        client.heartbeat()
        # The collector answers a second connection only after it has read what came before on the same loop.
        with WireClient(running.address) as other:
            assert other.welcome is not None
        assert running.stop() == 0
        error = client.wait_end()
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "connect again" in error.details()
        acknowledged = client.heard.acked[HEAP]
        client.close()
    with collector_process(data) as running:
        client.address = running.address
        assert client.connect().resume[HEAP] == acknowledged
        client.close()


def test_two_collectors_do_not_share_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collector_process(tmp_path) as running:
        said = attempt(capsys, "--data", str(tmp_path), "--listen", "127.0.0.1:0")
    assert f"in use by another collector (pid {running.pid})" in said


def test_two_collectors_do_not_share_a_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        said = attempt(capsys, "--data", str(tmp_path), "--listen", f"127.0.0.1:{port}")
    assert f"Nothing can listen on 127.0.0.1:{port}" in said


def test_after_a_crash_the_directory_is_free(tmp_path: Path) -> None:
    running = CollectorProcess(tmp_path)
    running.kill()
    assert CollectorProcess(tmp_path).stop() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "0.0.0.0:0"], "listen.insecure"),
        (["--listen", "nonsense"], "--listen must be HOST:PORT"),
        (["--config", "/nowhere/collector.yaml"], "cannot be read"),
        (["--max-bytes", "lots"], "storage.bytes_max must be a size"),
        (["--tls-cert", "/nowhere/cert.pem"], "both certificate and key"),
        (["--tls-cert", "/nowhere/cert.pem", "--tls-key", "/nowhere/key.pem"], "cannot be read"),
        (["--data", "/proc/nowhere"], "cannot be used"),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert sentence in attempt(capsys, "--data", str(tmp_path), *arguments)


def test_with_a_certificate_it_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    arguments = ["--tls-cert", str(TLS / "server.pem"), "--tls-key", str(TLS / "server.key")]
    with collector_process(tmp_path, arguments=arguments) as running:
        address = running.address.replace("127.0.0.1", "localhost")
        credentials = grpc.ssl_channel_credentials((TLS / "ca.pem").read_bytes())
        with WireClient(address, credentials=credentials) as client:
            client.wait_ack(HEAP, client.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [1.0]}))
        with pytest.raises((TimeoutError, ConnectionError)):
            WireClient(running.address).connect(timeout_s=1.0)


def test_with_a_client_authority_it_serves_only_whom_that_has_signed(tmp_path: Path) -> None:
    arguments = ["--tls-cert", str(TLS / "server.pem"), "--tls-key", str(TLS / "server.key")]
    with collector_process(tmp_path, arguments=[*arguments, "--tls-client-ca", str(TLS / "ca.pem")]) as running:
        address = running.address.replace("127.0.0.1", "localhost")
        authority = (TLS / "ca.pem").read_bytes()
        known = (TLS / "client.key").read_bytes(), (TLS / "client.pem").read_bytes()
        with WireClient(address, credentials=grpc.ssl_channel_credentials(authority, *known)) as client:
            client.wait_ack(HEAP, client.send_heap(time.time_ns(), {}))
        with pytest.raises((TimeoutError, ConnectionError)):
            WireClient(address, credentials=grpc.ssl_channel_credentials(authority)).connect(timeout_s=1.0)


def health(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status


def test_health_says_that_ingest_is_out_while_there_is_no_room(tmp_path: Path) -> None:
    serving, out = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with collector_thread(tmp_path, storage={"free_bytes_min": 2**60}) as running:
        assert health(running.address, "") == serving
        assert health(running.address, "glassbottom.wire.v1.IngestService") == serving
        with WireClient(running.address) as client:
            client.send_heap(time.time_ns(), {})
            client.wait_throttle()
        running.ask(running.collector.tell_health())
        assert health(running.address, "glassbottom.wire.v1.IngestService") == out
        assert health(running.address, "glassbottom.wire.v1.QueryService") == serving


def test_a_message_above_the_limit_is_refused_by_grpc_itself(tmp_path: Path) -> None:
    with collector_thread(tmp_path) as running, WireClient(running.address) as client:
        sites = {"stack": range(250_000)}
        client.codec = 1
        client.send_heap(time.time_ns(), sites)
        error = client.wait_end()
        assert error is not None
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_killed_under_load_it_keeps_what_it_has_acknowledged_and_stores_nothing_twice() -> None:
    """Three rounds of the benchmark that plays twenty."""
    result = kill9.run(rounds=3, clients=3, seed=os.getpid(), up_s=(0.2, 0.8))
    assert {name: result[name] for name in ("lost", "duplicates", "torn", "set_aside")} == {
        "lost": 0,
        "duplicates": 0,
        "torn": 0,
        "set_aside": 0,
    }
    assert result["acked_batches"] > 50  # type: ignore[operator]
    assert result["connections"] > 3  # type: ignore[operator]
