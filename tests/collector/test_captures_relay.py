"""Captures between an operator, a real collector and an agent that says what the test tells it to say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, ingest_pb2
from glassbottom_collector.captures.store import PIECE_BYTES_MAX
from glassbottom_collector.errors import NotFound
from glassbottom_collector.ingest import captures as relay_module
from glassbottom_collector.model.capture import FAILED, REFUSED, RUNNING, STORED, UPLOADING, CaptureRow

from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.wire_client import WireClient

pytestmark = pytest.mark.once

HEAP = ingest_pb2.COMMAND_KIND_DUMP_HEAP


class Operator:
    """Orders captures; `records` of an order grow in a thread until it has ended."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self.control = control_pb2_grpc.ControlServiceStub(self._channel)
        self.records: list[control_pb2.CaptureRecord] = []
        self.error: grpc.RpcError | None = None
        self._changed = threading.Condition()
        self._call: Any = None
        self._thread: threading.Thread | None = None

    def order(self, **request: Any) -> None:
        wanted = control_pb2.CaptureRequest(**{"service": "checkout", "kind": HEAP, "asked_by": "me", **request})
        self._call = self.control.Capture(wanted, timeout=60)
        self._thread = threading.Thread(target=self._listen, args=(self._call,), daemon=True)
        self._thread.start()

    def _listen(self, call: Any) -> None:
        try:
            for response in call:
                with self._changed:
                    self.records.append(response.record)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def wait(self, state: int, timeout_s: float = 20.0) -> control_pb2.CaptureRecord:
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: self.error is not None or (bool(self.records) and self.records[-1].state == state), timeout_s
            )
            assert arrived, self.records
            assert self.records, self.error
            assert self.records[-1].state == state, (self.records, self.error)
            return self.records[-1]

    def wait_error(self, timeout_s: float = 20.0) -> grpc.RpcError:
        with self._changed:
            assert self._changed.wait_for(lambda: self.error is not None, timeout_s)
        assert self.error is not None
        return self.error

    def hang_up(self) -> None:
        self._call.cancel()

    def close(self) -> None:
        self._channel.close()
        if self._thread is not None:
            self._thread.join(10)


@contextlib.contextmanager
def operating(address: str) -> Iterator[Operator]:
    operator = Operator(address)
    try:
        yield operator
    finally:
        operator.close()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[CollectorThread]:
    with collector_thread(tmp_path / "data") as running:
        yield running


@pytest.fixture
def agent(collector: CollectorThread) -> Iterator[WireClient]:
    with WireClient(collector.address) as client:
        yield client


@pytest.fixture
def operator(collector: CollectorThread) -> Iterator[Operator]:
    with operating(collector.address) as operator:
        yield operator


def row(collector: CollectorThread) -> CaptureRow:
    (found,) = collector.collector.captures.list()
    return found


def started(agent: WireClient, operator: Operator, **request: Any) -> str:
    """Ordered and begun; its id."""
    operator.order(**request)
    capture_id = agent.wait_command().id
    agent.answer(capture_id, ingest_pb2.COMMAND_OUTCOME_STARTED)
    operator.wait(control_pb2.CAPTURE_STATE_RUNNING)
    return capture_id


def test_the_agent_hears_the_whole_order_by_its_own_clock(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    agent.heartbeat(at_ns=time.time_ns() - 3_600_000_000_000)
    skewed = collector.collector.registry.instances
    collector.wait_for(lambda: abs(skewed()[0].clock_skew_s - 3600) < 60)
    operator.order(seconds=7.0, bytes_max=5000, lease_seconds=60.0, options={"native": "1"})
    command = agent.wait_command()
    assert (command.kind, command.capture.seconds, command.capture.bytes_max) == (HEAP, 7.0, 5000)
    assert dict(command.capture.options) == {"native": "1"}
    assert (row(collector).lease_until_ns - command.capture.lease_until_ns) / 1e9 == pytest.approx(3600, abs=60)
    assert command.deadline_ns < command.capture.lease_until_ns


def test_a_file_is_acknowledged_piece_by_piece_and_then_readable(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    first, second = b"a" * PIECE_BYTES_MAX, b"b" * 1000
    capture_id = started(agent, operator)
    agent.made(capture_id, len(first) + len(second), pause_ms=1.5)
    operator.wait(control_pb2.CAPTURE_STATE_UPLOADING)
    with pytest.raises(NotFound, match="not complete yet; it is uploading"):
        collector.collector.captures.path_of(capture_id)
    agent.send_piece(capture_id, 0, first)
    agent.wait_capture_ack(capture_id, len(first))
    assert row(collector).stored_bytes == len(first)
    agent.send_piece(capture_id, len(first), second)
    assert agent.wait_capture_ack(capture_id, settled=True).offset == len(first) + len(second)

    record = operator.wait(control_pb2.CAPTURE_STATE_STORED)
    assert dict(record.numbers) == {"pause_ms": 1.5}
    assert record.asked_by.startswith("me from ")
    assert record.ended_at_ns >= record.asked_at_ns
    pieces = list(operator.control.ReadCapture(control_pb2.ReadCaptureRequest(id=capture_id[:6])))
    assert b"".join(piece.data for piece in pieces) == first + second
    assert pieces[0].record.id == capture_id
    rest = operator.control.ReadCapture(control_pb2.ReadCaptureRequest(id=capture_id, offset=len(first)))
    assert b"".join(piece.data for piece in rest) == second


def test_after_a_reconnect_the_file_goes_on_where_it_was(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    first, second = b"a" * 1000, b"b" * 1000
    capture_id = started(agent, operator)
    agent.made(capture_id, 2000)
    agent.send_piece(capture_id, 0, first)
    agent.wait_capture_ack(capture_id, 1000)
    agent.close()
    agent.connect()
    agent.made(capture_id, 2000)
    assert agent.wait_capture_ack(capture_id).offset == 1000
    agent.send_piece(capture_id, 1000, second)
    agent.wait_capture_ack(capture_id, settled=True)
    assert collector.collector.captures.path_of(capture_id).read_bytes() == first + second


def test_a_piece_that_comes_twice_is_stored_once(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    capture_id = started(agent, operator)
    agent.made(capture_id, 2000)
    for _ in range(2):
        agent.send_piece(capture_id, 0, b"a" * 1000)
    agent.send_piece(capture_id, 1000, b"b" * 1000)
    agent.wait_capture_ack(capture_id, settled=True)
    assert collector.collector.captures.path_of(capture_id).read_bytes() == b"a" * 1000 + b"b" * 1000


def test_a_restarted_collector_goes_on_and_asks_for_what_may_not_have_reached_the_disk(tmp_path: Path) -> None:
    content = bytes(range(250)) * 4000
    pieces = [content[at : at + PIECE_BYTES_MAX] for at in range(0, len(content), PIECE_BYTES_MAX)]
    with collector_thread(tmp_path) as before, WireClient(before.address) as agent:
        with operating(before.address) as operator:
            capture_id = started(agent, operator, detached=True)
            agent.made(capture_id, len(content))
            for number in range(2):
                agent.send_piece(capture_id, number * PIECE_BYTES_MAX, pieces[number])
            agent.wait_capture_ack(capture_id, 2 * PIECE_BYTES_MAX)
        session_id, instance_id = agent.session_id, agent.instance_id
    with (
        collector_thread(tmp_path) as after,
        WireClient(after.address, session_id=session_id, instance_id=instance_id) as agent,
    ):
        assert row(after).state == UPLOADING
        agent.made(capture_id, len(content))
        assert agent.wait_capture_ack(capture_id).offset == PIECE_BYTES_MAX
        for number in range(1, len(pieces)):
            agent.send_piece(capture_id, number * PIECE_BYTES_MAX, pieces[number])
        agent.wait_capture_ack(capture_id, settled=True)
        assert after.collector.captures.path_of(capture_id).read_bytes() == content


def test_a_collector_that_stops_does_not_call_a_capture_off(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        before = collector_thread(tmp_path)
        address = before.__enter__().address
        agent = stack.enter_context(WireClient(address))
        operator = stack.enter_context(operating(address))
        capture_id = started(agent, operator)
        before.__exit__(None, None, None)
        assert "goes on when it is back" in str(operator.wait_error())
    with collector_thread(tmp_path) as after:
        assert (row(after).state, row(after).id) == (RUNNING, capture_id)


def test_hanging_up_calls_it_off_and_detaching_does_not(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    capture_id = started(agent, operator)
    operator.hang_up()
    assert agent.wait_capture_ack(capture_id, settled=True).reason == "It was called off: whoever asked hung up."
    assert row(collector).state == FAILED

    with operating(collector.address) as other:
        other.order(detached=True)
        second = agent.wait_command(2).id
        agent.answer(second, ingest_pb2.COMMAND_OUTCOME_STARTED)
        other.wait(control_pb2.CAPTURE_STATE_RUNNING)
        other.hang_up()
        other.wait_error()
    agent.made(second)
    agent.wait_capture_ack(second, settled=True)
    assert collector.collector.captures.get(second).state == STORED


def test_somebody_else_can_call_it_off_and_is_named(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    capture_id = started(agent, operator)
    operator.control.CancelCapture(control_pb2.CancelCaptureRequest(id=capture_id[:8], asked_by="boss"))
    assert operator.wait(control_pb2.CAPTURE_STATE_FAILED).reason.startswith("It was called off by boss from ")
    agent.wait_capture_ack(capture_id, settled=True)
    with pytest.raises(grpc.RpcError, match="has ended already: it is failed"):
        operator.control.CancelCapture(control_pb2.CancelCaptureRequest(id=capture_id))


def test_when_the_lease_ends_before_everything_is_stored_both_sides_let_go(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    capture_id = started(agent, operator, lease_seconds=0.3)
    assert operator.wait(control_pb2.CAPTURE_STATE_FAILED).reason == "Its lease ended before everything was stored."
    agent.wait_capture_ack(capture_id, settled=True)
    agent.made(capture_id, 1000)
    agent.wait_capture_ack(capture_id, settled=True)
    assert row(collector).state == FAILED, "an end is final"


def test_an_agent_that_says_nothing_is_not_waited_for_until_the_lease_ends(
    agent: WireClient, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "ANSWER_S", 0.2)
    operator.order()
    assert operator.wait(control_pb2.CAPTURE_STATE_FAILED).reason == "The agent did not answer within 0.2 s."


REFUSALS: Mapping[str, tuple[dict[str, Any], str]] = {
    "nobody": ({"service": "nobody"}, "No process of nobody is connected; connected are checkout."),
    "instance": ({"instance_id": "zz"}, "No connected process of checkout has an instance id that begins with zz"),
    "kind": ({"kind": ingest_pb2.COMMAND_KIND_DUMP_MEMRAY}, 'does not allow "dump_memray"; add it to GLASSBOTTOM_COMM'),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_is_refused_and_recorded_and_the_agent_not_asked(
    name: str, agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    request, reason = REFUSALS[name]
    operator.order(**request)
    assert reason in operator.wait(control_pb2.CAPTURE_STATE_REFUSED).reason
    assert row(collector).state == REFUSED
    assert row(collector).asked_by.startswith("me from ")
    assert agent.heard.commands == []


def test_of_several_processes_one_must_be_chosen(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    with WireClient(collector.address, instance_id="f" * 32, pid=7):
        operator.order()
        reason = operator.wait(control_pb2.CAPTURE_STATE_REFUSED).reason
        assert "2 processes of checkout are connected; choose one with --instance" in reason
        assert "ffffffff (pid 7)" in reason


def test_a_second_capture_of_a_process_is_refused_before_it_gets_there(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    capture_id = started(agent, operator)
    with operating(collector.address) as other:
        other.order()
        reason = other.wait(control_pb2.CAPTURE_STATE_REFUSED).reason
    assert reason.startswith(f"Capture {capture_id[:8]} (dump_heap) is under way in that process")
    assert len(agent.heard.commands) == 1


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (ingest_pb2.COMMAND_OUTCOME_REFUSED, control_pb2.CAPTURE_STATE_REFUSED),
        (ingest_pb2.COMMAND_OUTCOME_FAILED, control_pb2.CAPTURE_STATE_FAILED),
    ],
)
def test_the_agents_own_reason_reaches_whoever_asked(
    outcome: int, state: int, agent: WireClient, operator: Operator
) -> None:
    operator.order()
    capture_id = agent.wait_command().id
    agent.answer(capture_id, outcome, "A debugger is active; end it first.")
    assert operator.wait(state).reason == "A debugger is active; end it first."
    agent.wait_capture_ack(capture_id, settled=True)


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        ((0, b"x" * 10, 1), "arrived damaged"),
        ((5, b"x" * 10, None), "left out a piece"),
        ((0, b"x" * 1001, None), "does not fit"),
        ((0, b"", None), "does not fit"),
    ],
)
def test_a_piece_that_is_not_right_ends_the_capture(
    piece: tuple[int, bytes, int | None],
    reason: str,
    agent: WireClient,
    collector: CollectorThread,
    operator: Operator,
) -> None:
    capture_id = started(agent, operator)
    agent.made(capture_id, 1000)
    agent.send_piece(capture_id, *piece)
    assert reason in operator.wait(control_pb2.CAPTURE_STATE_FAILED).reason
    agent.wait_capture_ack(capture_id, settled=True)
    assert collector.statistics()["ingest_capture_pieces_refused_total"] == 1
    assert [path.name for path in collector.collector.captures.directory.iterdir()] == ["audit.jsonl"]


def test_a_file_larger_than_was_allowed_is_not_taken(agent: WireClient, operator: Operator) -> None:
    capture_id = started(agent, operator, bytes_max=10)
    agent.made(capture_id, 11)
    assert operator.wait(control_pb2.CAPTURE_STATE_FAILED).reason == "The file has 11 bytes, and 10 were allowed."


def test_another_process_cannot_speak_for_a_capture(
    agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    capture_id = started(agent, operator)
    with WireClient(collector.address, service="other") as stranger:
        stranger.made(capture_id, 3)
        stranger.send_piece(capture_id, 0, b"bad")
        assert stranger.wait_capture_ack(capture_id, settled=True).reason == "This collector does not know of it."
    assert row(collector).state == RUNNING


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"kind": ingest_pb2.COMMAND_KIND_SNAPSHOT}, "is no capture"),
        ({"kind": 999}, "is no capture"),
        ({"service": ""}, "name the service"),
        ({"seconds": float("inf")}, "must be a number of seconds"),
        ({"options": {"x" * 300: "y"}}, "At most 16 options"),
    ],
)
def test_what_makes_no_sense_is_an_error_and_not_recorded(
    request_: dict[str, Any], reason: str, agent: WireClient, collector: CollectorThread, operator: Operator
) -> None:
    wanted = control_pb2.CaptureRequest(**{"service": "checkout", "kind": HEAP, **request_})
    with pytest.raises(grpc.RpcError, match=reason):
        list(operator.control.Capture(wanted, timeout=20))
    assert collector.collector.captures.list() == []
