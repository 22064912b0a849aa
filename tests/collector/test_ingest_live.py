"""Who is connected, how its agent is, and asking it for a snapshot."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import grpc
import pytest
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, ingest_pb2
from glassbottom_collector.model.live import CommandAnswer, InstanceLive

from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.wire_client import WireClient
from tests.support.wire_messages import HEAP

pytestmark = pytest.mark.once  # real servers, files and curves; nothing in it differs between versions


@pytest.fixture
def running(tmp_path: Path) -> Iterator[CollectorThread]:
    with collector_thread(tmp_path / "data") as collector:
        yield collector


def until(running: CollectorThread, true_of: object, timeout_s: float = 10.0) -> list[InstanceLive]:
    """The instances, once that is true of them; there is no event for what the collector merely knows."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        instances = list(running.collector.registry.instances())
        if true_of(instances):  # type: ignore[operator]
            return instances
        assert time.monotonic() < deadline_s, instances
        time.sleep(0.005)


def ask(running: CollectorThread, *instance_ids: str, timeout_s: float = 5.0) -> Future[list[CommandAnswer]]:
    """A snapshot command, under way."""
    answer: Future[list[CommandAnswer]] = Future()

    def wait() -> None:
        try:
            answer.set_result(list(running.ask(running.collector.registry.take_snapshot(instance_ids, timeout_s))))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=wait, daemon=True).start()
    return answer


def test_a_connected_process_is_known_before_its_first_heartbeat(running: CollectorThread) -> None:
    with WireClient(running.address, attributes={"host.name": "box"}) as client:
        (live,) = running.collector.registry.instances()
        assert live.connected
        assert live.process.instance_id == client.instance_id
        assert live.process.attributes == {"host.name": "box"}
        assert live.agent_version == "0.0.test"
        assert live.sampler_state == "unknown"


def test_a_heartbeat_tells_how_the_agent_is_and_how_wrong_its_clock(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        client.heartbeat(time.time_ns() - 30 * 10**9, {"agent_cpu_ratio": 0.004}, "paused", "memray sits above")
        (live,) = until(running, lambda instances: instances[0].statistics)
        assert live.statistics == {"agent_cpu_ratio": 0.004}
        assert (live.sampler_state, live.sampler_reason) == ("paused", "memray sits above")
        assert live.clock_skew_s == pytest.approx(30.0, abs=1.0)


@pytest.mark.parametrize(
    "beat",
    [
        {"statistics": {"a": float("nan")}},
        {"statistics": {str(number): 1.0 for number in range(1100)}},
        {"statistics": {"n" * 300: 1.0}},
        {"sampler_reason": "x" * 2_000},
    ],
)
def test_a_heartbeat_that_makes_no_sense_is_counted_and_changes_nothing(
    running: CollectorThread, beat: dict[str, object]
) -> None:
    with WireClient(running.address) as client:
        client.heartbeat(statistics={"errors_total": 1.0})
        client.heartbeat(**beat)  # type: ignore[arg-type]
        client.wait_ack(HEAP, client.send_heap(time.time_ns(), {}))
        (live,) = running.collector.registry.instances()
        assert live.statistics == {"errors_total": 1.0}
        assert running.statistics()["ingest_heartbeats_malformed_total"] == 1


def test_a_lost_process_is_remembered_for_an_hour(tmp_path: Path) -> None:
    offset_ns = [0]
    with collector_thread(tmp_path / "data", clock_ns=lambda: time.time_ns() + offset_ns[0]) as running:
        with WireClient(running.address):
            pass
        (live,) = until(running, lambda instances: not instances[0].connected)
        assert live.process.service == "checkout"
        offset_ns[0] = 3_599 * 10**9
        assert len(running.collector.registry.instances()) == 1
        offset_ns[0] = 3_601 * 10**9
        assert running.collector.registry.instances() == []


def test_instances_come_by_service_and_start(running: CollectorThread) -> None:
    made = [("b", 1), ("a", 2), ("a", 1)]
    clients = [WireClient(running.address, service=name, started_at_ns=start) for name, start in made]
    for client in clients:
        client.connect()
    found = [(live.process.service, live.process.started_at_ns) for live in running.collector.registry.instances()]
    assert found == [("a", 1), ("a", 2), ("b", 1)]
    for client in clients:
        client.close()


def test_a_snapshot_on_command_is_answered_once_it_is_durable(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        answer = ask(running, client.instance_id)
        command = client.wait_command()
        assert command.kind == ingest_pb2.COMMAND_KIND_SNAPSHOT
        assert 0 < command.deadline_ns - time.time_ns() < 6 * 10**9
        client.answer(command.id)
        client.send_heap(time.time_ns(), {"stack": [1], "live_bytes": [8.0]}, complete=True)
        assert answer.result(10) == [CommandAnswer(client.instance_id, "done", "")]
        assert len(running.store.reader.heap_at("checkout", time.time_ns())) == 1


@pytest.mark.parametrize(("age_s", "complete"), [(0, False), (60, True)])
def test_neither_a_difference_nor_an_older_snapshot_is_what_was_asked_for(
    running: CollectorThread, age_s: int, complete: bool
) -> None:
    with WireClient(running.address) as client:
        answer = ask(running, client.instance_id, timeout_s=0.7)
        client.send_heap(time.time_ns() - age_s * 10**9, {}, complete=complete)
        client.answer(client.wait_command().id)
        assert answer.result(10)[0].reason == "The process did not send its snapshot within 0.7 s."


def test_the_order_of_answer_and_snapshot_does_not_matter(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        answer = ask(running, client.instance_id)
        command = client.wait_command()
        client.wait_ack(HEAP, client.send_heap(time.time_ns(), {}, complete=True))
        assert not answer.done()
        client.answer(command.id)
        assert answer.result(10)[0].outcome == "done"


def test_a_command_reckons_with_a_clock_that_is_wrong(running: CollectorThread) -> None:
    """An hour behind: the deadline is in the agent's time, and its new snapshot is not taken for an old one."""
    behind_ns = 3_600 * 10**9
    with WireClient(running.address) as client:
        client.heartbeat(time.time_ns() - behind_ns)
        until(running, lambda instances: instances[0].clock_skew_s > 1)
        answer = ask(running, client.instance_id)
        command = client.wait_command()
        assert abs(command.deadline_ns - (time.time_ns() - behind_ns)) < 10 * 10**9
        client.send_heap(time.time_ns() - behind_ns, {}, complete=True)
        client.answer(command.id)
        assert answer.result(10)[0].outcome == "done"


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [(ingest_pb2.COMMAND_OUTCOME_REFUSED, "refused"), (ingest_pb2.COMMAND_OUTCOME_FAILED, "failed")],
)
def test_what_the_agent_says_is_passed_on(running: CollectorThread, outcome: int, expected: str) -> None:
    with WireClient(running.address) as client:
        answer = ask(running, client.instance_id)
        client.answer(client.wait_command().id, outcome, "not now")
        assert answer.result(10) == [CommandAnswer(client.instance_id, expected, "not now")]


def test_an_agent_that_does_not_allow_it_is_not_even_asked(running: CollectorThread) -> None:
    client = WireClient(running.address)
    hello = client.hello()
    del hello.commands_allowed[:]
    client.connect(hello=hello)
    (answer,) = ask(running, client.instance_id).result(10)
    assert answer.outcome == "refused"
    assert client.heard.commands == []
    client.close()


def test_silence_ends_at_the_deadline_with_what_was_missing(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        answer = ask(running, client.instance_id, timeout_s=0.2)
        command = client.wait_command()
        assert answer.result(10)[0].reason == "The process did not send an answer within 0.2 s."
        client.answer(command.id)  # too late, and harmless
        second = ask(running, client.instance_id, timeout_s=0.5)
        client.answer(client.wait_command(2).id)
        assert second.result(10)[0].reason == "The process did not send its snapshot within 0.5 s."


def test_a_process_that_hangs_up_is_not_waited_for(running: CollectorThread) -> None:
    client = WireClient(running.address)
    client.connect()
    answer = ask(running, client.instance_id, "f" * 32, timeout_s=30.0)
    client.wait_command()
    client.close()
    gone, never = answer.result(10)
    assert (gone.outcome, gone.reason) == ("failed", "The process disconnected before it answered.")
    assert (never.outcome, never.reason) == ("failed", "The process is not connected.")


def control(running: CollectorThread, **request: str) -> control_pb2.TakeSnapshotResponse:
    with grpc.insecure_channel(running.address) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        return stub.TakeSnapshot(control_pb2.TakeSnapshotRequest(**request), timeout=10)


def test_control_asks_every_process_of_the_service(running: CollectorThread) -> None:
    clients = [WireClient(running.address), WireClient(running.address), WireClient(running.address, service="other")]

    def obey(client: WireClient) -> None:
        command = client.wait_command()
        client.send_heap(time.time_ns(), {}, complete=True)
        client.answer(command.id)

    for client in clients:
        client.connect()
    threads = [threading.Thread(target=obey, args=(client,)) for client in clients[:2]]
    for thread in threads:
        thread.start()
    outcomes = control(running, service="checkout").outcomes
    assert {outcome.instance_id for outcome in outcomes} == {clients[0].instance_id, clients[1].instance_id}
    assert {outcome.outcome for outcome in outcomes} == {ingest_pb2.COMMAND_OUTCOME_DONE}
    assert clients[2].heard.commands == []
    for thread in threads:
        thread.join(10)
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("request_fields", "code", "sentence"),
    [
        ({"service": ""}, grpc.StatusCode.INVALID_ARGUMENT, "name the service"),
        ({"service": "chekout"}, grpc.StatusCode.NOT_FOUND, "connected are checkout"),
        ({"service": "checkout", "instance_id": "zz"}, grpc.StatusCode.NOT_FOUND, "begins with zz"),
    ],
)
def test_control_says_what_there_is_when_nothing_fits(
    running: CollectorThread, request_fields: dict[str, str], code: grpc.StatusCode, sentence: str
) -> None:
    with WireClient(running.address), pytest.raises(grpc.RpcError) as caught:
        control(running, **request_fields)
    assert caught.value.code() is code  # type: ignore[attr-defined]
    assert sentence in caught.value.details()  # type: ignore[attr-defined]


def test_control_tells_a_service_that_left_from_one_that_never_was(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        client.wait_ack(HEAP, client.send_heap(time.time_ns(), {}))
    until(running, lambda instances: not instances[0].connected)
    with pytest.raises(grpc.RpcError) as left:
        control(running, service="checkout")
    with pytest.raises(grpc.RpcError) as never:
        control(running, service="nobody")
    assert "within the last hour" in left.value.details()  # type: ignore[attr-defined]
    assert "no agent is connected" in never.value.details()  # type: ignore[attr-defined]
