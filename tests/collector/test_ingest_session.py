"""The ingest protocol over real gRPC and a real store, as an agent meets it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from glassbottom.wire.v1 import common_pb2, ingest_pb2
from glassbottom_collector.model.process import Span

from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.wire_client import WireClient
from tests.support.wire_messages import HEAP, METRICS, Code, batch, heap_snapshot, metrics_snapshot

pytestmark = pytest.mark.once  # real servers, files and curves; nothing in it differs between versions


@pytest.fixture
def running(tmp_path: Path) -> Iterator[CollectorThread]:
    with collector_thread(tmp_path / "data") as collector:
        yield collector


def lately() -> Span:
    now_ns = time.time_ns()
    return Span(now_ns - 7200 * 10**9, now_ns + 7200 * 10**9)


def refusal(client: WireClient, request: ingest_pb2.SessionRequest) -> tuple[grpc.StatusCode, str]:
    """How the collector ends a stream that begins with this."""
    client.open()
    client.send(request)
    error = client.wait_end()
    client.close()
    assert error is not None
    return error.code(), error.details()


def test_a_snapshot_arrives_with_its_definitions_and_types(running: CollectorThread) -> None:
    code = Code()
    stack = code.stack(("Cart.add", "/srv/cart.py", 42), ("main", "/srv/app.py", 7))
    kind = code.type("dict")
    at_ns = time.time_ns()
    with WireClient(running.address, attributes={"host.name": "box"}) as client:
        assert client.welcome is not None
        assert client.welcome.store_id == running.store.writer.store_id
        assert dict(client.welcome.resume) == {}
        assert list(client.welcome.codecs) == [ingest_pb2.CODEC_ZSTD, ingest_pb2.CODEC_NONE]
        seq = client.send_heap(
            at_ns,
            {"stack": [stack], "live_bytes": [100.0], "samples": [3]},
            {"stack": [stack], "type": [kind], "live_bytes": [100.0]},
            code.definitions(),
        )
        client.wait_ack(HEAP, seq)
        reader = running.store.reader
        (state,) = reader.heap_at("checkout", at_ns)
        assert state.sites.stack.tolist() == [stack]
        assert state.sites.samples.tolist() == [3]
        assert state.types.type.tolist() == [kind]
        frames = reader.frames(reader.stacks([stack])[stack].frames)
        assert sorted(frame.function for frame in frames.values()) == ["Cart.add", "main"]
        assert reader.types([kind]) == {kind: "dict"}
        (seen,) = reader.processes("checkout", lately())
        assert seen.process.attributes == {"host.name": "box"}
        assert seen.agent_version == "0.0.test"


@pytest.mark.parametrize("codec", [ingest_pb2.CODEC_NONE, ingest_pb2.CODEC_ZSTD])
def test_readings_arrive_in_either_codec(running: CollectorThread, codec: int) -> None:
    with WireClient(running.address, codec=codec) as client:
        seq = client.send_metrics(time.time_ns(), [("process.memory.usage", 5.0, {"a": "b"})])
        client.wait_ack(METRICS, seq)
        found = running.store.reader.metrics("checkout", lately(), ["process.memory.usage"])
        ((point,),) = found.values()
        assert (point.value, point.attributes) == (5.0, (("a", "b"),))


def test_after_a_reconnect_welcome_tells_what_is_durable(running: CollectorThread) -> None:
    client = WireClient(running.address)
    client.connect()
    for _ in range(3):
        client.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [1.0]})
    client.wait_ack(HEAP, 3)
    client.close()
    welcome = client.connect()
    assert dict(welcome.resume) == {HEAP: 3}
    client.close()


def test_a_batch_sent_again_is_acknowledged_again_and_stored_once(running: CollectorThread) -> None:
    message = batch(HEAP, 1, heap_snapshot(time.time_ns(), {"stack": [1], "live_bytes": [1.0]}))
    client = WireClient(running.address)
    client.connect()
    client.send_batch(message)
    client.wait_ack(HEAP, 1)
    client.heard.acked.clear()
    client.send_batch(message)
    client.wait_ack(HEAP, 1)
    client.close()
    client.connect()
    client.send_batch(message)
    client.wait_ack(HEAP, 1)
    client.close()
    assert len(running.store.reader.headers("checkout", lately())) == 1
    assert running.statistics()["ingest_batches_repeated_total"] == 2


def test_a_gap_in_the_numbers_is_accepted_and_the_agents_losses_are_counted(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        for seq, dropped in ((1, 0), (5, 3), (6, 3)):
            body = metrics_snapshot(time.time_ns(), [("process.uptime", 1.0)])
            client.send_batch(batch(METRICS, seq, body, dropped=dropped))
        client.wait_ack(METRICS, 6)
    assert running.statistics()["ingest_agent_batches_dropped_total"] == 3


def test_rows_of_stacks_that_nobody_has_defined_are_kept(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        client.wait_ack(HEAP, client.send_heap(time.time_ns(), {"stack": [99], "live_bytes": [1.0]}))
    (state,) = running.store.reader.heap_at("checkout", time.time_ns())
    assert state.sites.stack.tolist() == [99]


def test_many_processes_that_define_the_same_code_define_it_once(running: CollectorThread) -> None:
    """Hundreds of workers start together. What is known to be durable is neither checked nor held again."""
    code = Code()
    stacks = [code.stack((f"f{line}", "app.py", line)) for line in range(100)]
    sites = {"stack": stacks, "live_bytes": np.ones(100)}
    for _ in range(3):
        with WireClient(running.address) as client:
            client.wait_ack(HEAP, client.send_heap(time.time_ns(), sites, definitions=code.definitions()))
    assert running.statistics()["ingest_definitions_known"] == 200
    assert len(running.store.reader.stacks(stacks)) == 100
    assert len(running.store.reader.heap_at("checkout", time.time_ns())) == 3


def test_a_rejected_batch_does_not_hold_up_the_next(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        client.send_batch(batch(HEAP, 1, b"no snapshot"))
        client.send_batch(batch(HEAP, 2, heap_snapshot(time.time_ns(), {"stack": [1], "live_bytes": [1.0]})))
        client.wait_ack(HEAP, 2)
        reject = client.wait_reject()
        assert (reject.stream, reject.seq) == (HEAP, 1)
        assert reject.reason == "The body is not a HeapSnapshot."
    assert running.statistics()["ingest_batches_rejected_total"] == 1
    assert running.statistics()["ingest_pending_bytes"] == 0


def test_an_unknown_stream_and_a_number_of_zero_are_rejected(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        body = metrics_snapshot(time.time_ns(), [])
        client.send_batch(batch(0, 1, body))
        client.send_batch(batch(METRICS, 0, body))
        client.wait_reject(2)
        client.wait_ack(METRICS, client.send_metrics(time.time_ns(), [("process.uptime", 1.0)]))


def test_a_snapshot_of_another_time_is_rejected_with_what_to_do(running: CollectorThread) -> None:
    now_ns = time.time_ns()
    with WireClient(running.address) as client:
        client.send_heap(now_ns + 2 * 3600 * 10**9, {})
        client.send_heap(now_ns - 3 * 86_400 * 10**9, {})
        client.send_heap(2**64 - 1, {})
        client.wait_reject(3)
        assert "7200 s ahead of the collector's clock: set the clock" in client.heard.rejects[0].reason
        assert "72 h behind the collector's clock" in client.heard.rejects[1].reason


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"protocol": 2}, "This collector speaks protocol 1, the agent 2"),
        ({"session_id": "short"}, "session_id must be 32"),
        ({"session_id": "A" * 32}, "lower-case"),
    ],
)
def test_a_hello_that_is_wrong_is_refused_with_a_sentence(
    running: CollectorThread, change: dict[str, object], sentence: str
) -> None:
    client = WireClient(running.address)
    hello = client.hello()
    for name, value in change.items():
        setattr(hello, name, value)
    code, details = refusal(client, ingest_pb2.SessionRequest(hello=hello))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in details
    assert running.statistics()["ingest_hellos_refused_total"] == 1


@pytest.mark.parametrize(
    ("process", "sentence"),
    [
        (common_pb2.Process(service="s", instance_id="nothex"), "instance_id must be 32"),
        (common_pb2.Process(instance_id="a" * 32), "service is empty"),
        (common_pb2.Process(service="s" * 256, instance_id="a" * 32), "at most 255"),
        (common_pb2.Process(service="a\0b", instance_id="a" * 32), "zero character"),
        (common_pb2.Process(service="s", instance_id="a" * 32, started_at_ns=2**63), "2262"),
        (
            common_pb2.Process(service="s", instance_id="a" * 32, attributes={str(i): "" for i in range(65)}),
            "65 attributes",
        ),
    ],
)
def test_a_process_that_cannot_be_one_is_refused(
    running: CollectorThread, process: common_pb2.Process, sentence: str
) -> None:
    client = WireClient(running.address)
    hello = client.hello()
    hello.process.CopyFrom(process)
    code, details = refusal(client, ingest_pb2.SessionRequest(hello=hello))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in details


def test_nothing_may_come_before_hello_and_hello_only_once(running: CollectorThread) -> None:
    body = metrics_snapshot(time.time_ns(), [])
    early = ingest_pb2.SessionRequest(batch=batch(METRICS, 1, body))
    assert refusal(WireClient(running.address), early) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "The first message must be Hello.",
    )
    client = WireClient(running.address)
    client.connect()
    client.send(ingest_pb2.SessionRequest(hello=client.hello()))
    error = client.wait_end()
    client.close()
    assert error is not None
    assert "Hello comes once" in error.details()


def test_an_empty_message_ends_the_stream_with_a_sentence(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        client.send(ingest_pb2.SessionRequest())
        error = client.wait_end()
        assert error is not None
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_when_the_agent_hangs_up_politely_everything_is_acknowledged_first(running: CollectorThread) -> None:
    client = WireClient(running.address)
    client.connect()
    for _ in range(10):
        client.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [1.0]})
    client.half_close()
    assert client.wait_end() is None
    assert client.heard.acked == {HEAP: 10}
    client.close()


def test_the_newest_connection_of_a_session_wins(running: CollectorThread) -> None:
    """An agent may know before the collector does that its old connection is dead."""
    session = uuid.uuid4().hex
    old = WireClient(running.address, session_id=session)
    old.connect()
    old.wait_ack(HEAP, old.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [1.0]}))
    new = WireClient(running.address, session_id=session, instance_id=old.instance_id)
    assert dict(new.connect().resume) == {HEAP: 1}
    error = old.wait_end()
    assert error is not None
    assert error.code() is grpc.StatusCode.ABORTED
    new.wait_ack(HEAP, new.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [1.0]}))
    (live,) = running.collector.registry.instances()
    assert live.connected
    old.close()
    new.close()


def test_more_agents_than_allowed_are_refused_and_told_why(tmp_path: Path) -> None:
    with (
        collector_thread(tmp_path / "data", ingest={"sessions_max": 1}) as running,
        WireClient(running.address) as first,
    ):
        second = WireClient(running.address)
        code, details = refusal(second, ingest_pb2.SessionRequest(hello=second.hello()))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "ingest.sessions_max" in details
        first.wait_ack(METRICS, first.send_metrics(time.time_ns(), [("process.uptime", 1.0)]))


def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    with (
        collector_thread(tmp_path / "data", ingest={"silence_s_max": 1}) as running,
        WireClient(running.address) as client,
    ):
        error = client.wait_end()
        assert error is not None
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert running.statistics()["ingest_sessions_silent_total"] == 1


def test_without_room_the_agent_is_told_to_wait_and_loses_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    client = WireClient("")
    with collector_thread(data, storage={"free_bytes_min": 2**60}) as running:
        client.address = running.address
        client.connect()
        client.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [1.0]})
        client.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [2.0]})
        throttle = client.wait_throttle()
        assert throttle.retry_after_ms >= 1_000
        assert "free_bytes_min" in throttle.reason
        error = client.wait_end()
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert client.heard.acked == {}
        client.close()
        # Connecting again is welcome, and the warning comes before anything is sent in vain.
        assert dict(client.connect().resume) == {}
        assert "free_bytes_min" in client.wait_throttle().reason
        client.close()
    with collector_thread(data) as running:
        client.address = running.address
        client.connect()
        for seq in (1, 2):
            client.send_batch(batch(HEAP, seq, heap_snapshot(time.time_ns(), {"stack": [1], "live_bytes": [1.0]})))
        client.wait_ack(HEAP, 2)
        client.close()
        assert len(running.store.reader.headers("checkout", lately())) == 2


def test_an_agent_over_its_row_rate_is_slowed_down_and_loses_nothing(tmp_path: Path) -> None:
    with (
        collector_thread(tmp_path / "data", ingest={"rows_per_second_max": 1_000}) as running,
        WireClient(running.address) as client,
    ):
        sites = {"stack": np.arange(5_200), "live_bytes": np.ones(5_200)}
        for _ in range(2):
            client.send_heap(time.time_ns(), sites)
        started_s = time.monotonic()
        client.wait_ack(HEAP, 2)
        assert time.monotonic() - started_s > 0.2  # 10 400 rows are 400 more than ten seconds' worth
        assert running.statistics()["ingest_rate_delays_total"] == 1


def test_agents_together_never_hold_more_than_the_budget(tmp_path: Path) -> None:
    """Four agents send far more than fits; it takes turns, and everything arrives."""
    limit = 2**20
    with collector_thread(
        tmp_path / "data", ingest={"pending_bytes_max": limit, "body_bytes_max": limit, "credit_bytes": 2**19}
    ) as running:
        clients = [WireClient(running.address) for _ in range(4)]
        sites = {"stack": np.arange(2_000), "live_bytes": np.random.default_rng(1).random(2_000)}
        for client in clients:
            client.connect()
            for _ in range(20):
                client.send_heap(time.time_ns(), sites)
        for client in clients:
            client.wait_ack(HEAP, 20)
            client.close()
        statistics = running.statistics()
        assert 0 < statistics["ingest_pending_bytes_high"] <= limit
        assert statistics["ingest_pending_bytes"] == 0
        assert statistics["store_rows_total"] == 4 * 20 * 2_000
