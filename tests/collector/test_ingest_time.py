"""What tells of time, from an agent's mouth to an answer: every stream through a real collector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.model.process import Span

from tests.support import wire_messages as wire
from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.wire_client import WireClient

pytestmark = pytest.mark.once  # real servers, files and curves; nothing in it differs between versions

S = 10**9
CODE = wire.Code()
FRAME = CODE.frame("Cart.add", "/srv/app/cart.py", 42)
STACK = CODE.stack(("Cart.add", "/srv/app/cart.py", 42), label="GET /cart/{id}")


def operations(at_ns: int) -> Any:
    rows = [
        wire.operation("GET /cart/{id}", 0.1, 0.2, span_kind="SERVER"),
        wire.operation("Cart.add", 0.01, kind=2, frame=FRAME),
    ]
    return wire.operations_snapshot(at_ns - 10 * S, at_ns, rows, CODE.definitions())


def tasks(at_ns: int) -> Any:
    return wire.tasks_snapshot(
        at_ns, [wire.loop(7, [0.001])], [wire.group([FRAME], 3), wire.group([])], [(0, 1, 3)], CODE.definitions()
    )


def profile(at_ns: int) -> Any:
    rows = [(STACK, "MainThread", "handler", 9, 1.0, 0.5)]
    return wire.profile_snapshot(at_ns - 10 * S, at_ns, rows, CODE.definitions())


def observations(at_ns: int) -> Any:
    rows = [wire.observation(at_ns - S, "loop.blocked", "Cart.add", 1.5, stack=STACK)]
    return wire.observations_snapshot(at_ns, rows, CODE.definitions())


BODIES: dict[int, Callable[[int], Any]] = {
    wire.OPERATIONS: operations,
    wire.TASKS: tasks,
    wire.PROFILE: profile,
    wire.OBSERVATIONS: observations,
}
EVERY = pytest.mark.parametrize("stream", BODIES, ids=["operations", "tasks", "profile", "observations"])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[CollectorThread]:
    with collector_thread(tmp_path / "data") as collector:
        yield collector


def lately() -> Span:
    return Span(time.time_ns() - 3600 * S, time.time_ns() + 3600 * S)


def test_everything_an_agent_tells_can_be_asked_for_once_it_is_acknowledged(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        for stream, make in BODIES.items():
            client.wait_ack(stream, client.send_body(stream, make(time.time_ns())))
        reader, instance = running.store.reader, client.instance_id
        (interval,) = reader.operations("checkout", lately())[instance]
        assert sorted((row.name, row.frame, row.duration.count) for row in interval.rows) == [
            ("Cart.add", FRAME, 1),
            ("GET /cart/{id}", 0, 2),
        ]
        (look,) = reader.tasks("checkout", lately())[instance]
        assert [(one.path, one.count) for one in look.groups] == [((FRAME,), 3), ((), 1)]
        assert look.edges == [(0, 1, 3)]
        threads = reader.thread_time("checkout", lately())
        assert (threads.stack.tolist(), threads.thread.tolist(), threads.task.tolist()) == (
            [STACK],
            ["MainThread"],
            ["handler"],
        )
        (seen,) = reader.observations("checkout", lately(), ["loop.blocked"])
        assert (seen.instance_id, seen.stack, seen.value) == (instance, STACK, 1.5)
        assert reader.stacks([STACK])[STACK].label == "GET /cart/{id}"
        assert client.heard.rejects == []


@EVERY
def test_a_batch_sent_again_after_a_lost_connection_is_stored_once(running: CollectorThread, stream: int) -> None:
    client = WireClient(running.address)
    with client:
        client.wait_ack(stream, client.send_body(stream, BODIES[stream](time.time_ns())))
    with client:
        assert client.welcome is not None
        assert dict(client.welcome.resume) == {stream: 1}
        client.seq[stream] = 0
        client.wait_ack(stream, client.send_body(stream, BODIES[stream](time.time_ns())))
    statistics = running.statistics()
    assert statistics["store_batches_total"] == 1
    assert statistics["ingest_batches_repeated_total"] == 1


@EVERY
def test_what_makes_no_sense_is_refused_for_good_and_the_next_is_taken(running: CollectorThread, stream: int) -> None:
    with WireClient(running.address) as client:
        client.send_body(stream, b"\xff\xff")
        reject = client.wait_reject()
        assert (reject.stream, reject.seq) == (stream, 1)
        assert reject.reason.startswith("The body is not a ")
        client.wait_ack(stream, client.send_body(stream, BODIES[stream](time.time_ns())))
    assert running.statistics()["ingest_batches_rejected_total"] == 1


def test_streams_count_apart_in_one_session(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        now_ns = time.time_ns()
        client.send_heap(now_ns, {"stack": [STACK], "live_bytes": [1.0]})
        client.send_metrics(now_ns, [("process.uptime", 1.0)])
        for stream, make in BODIES.items():
            for _ in range(2):
                client.send_body(stream, make(now_ns))
        for stream in BODIES:
            client.wait_ack(stream, 2)
        client.wait_ack(wire.HEAP, 1)
        client.wait_ack(wire.METRICS, 1)
    with client:
        assert client.welcome is not None
        assert dict(client.welcome.resume) == {wire.HEAP: 1, wire.METRICS: 1, **dict.fromkeys(BODIES, 2)}


def test_a_stream_of_a_newer_agent_is_refused_and_the_session_goes_on(running: CollectorThread) -> None:
    with WireClient(running.address) as client:
        client.seq[7] = 0
        client.send_body(7, b"")
        assert "Stream 7" in client.wait_reject().reason
        client.wait_ack(wire.TASKS, client.send_body(wire.TASKS, tasks(time.time_ns())))


def test_a_definition_that_came_with_another_stream_is_known(running: CollectorThread) -> None:
    """The second one lies, and is passed over because its id is known already."""
    with WireClient(running.address) as client:
        client.wait_ack(wire.TASKS, client.send_body(wire.TASKS, tasks(time.time_ns())))
        lie = observations(time.time_ns())
        lie.definitions.frames[0].function = "something_else"
        client.wait_ack(wire.OBSERVATIONS, client.send_body(wire.OBSERVATIONS, lie))
        assert running.store.reader.frames([FRAME])[FRAME].function == "Cart.add"


def test_an_agent_that_sends_more_rows_than_it_may_is_read_more_slowly(tmp_path: Path) -> None:
    """Rows of every stream count against the hundred that ten seconds allow here."""
    limits = {"rows_per_second_max": 10}
    with collector_thread(tmp_path / "data", ingest=limits) as running:
        now_ns = time.time_ns()
        just = wire.operations_snapshot(now_ns - S, now_ns, [wire.operation(f"f{place}", 0.1) for place in range(100)])
        above = wire.tasks_snapshot(now_ns, [wire.loop()], [wire.group([place]) for place in range(101)])
        for body, stream, delays in ((just, wire.OPERATIONS, 0), (above, wire.TASKS, 1)):
            with WireClient(running.address) as client:
                client.wait_ack(stream, client.send_body(stream, body))
            assert running.statistics()["ingest_rate_delays_total"] == delays


def test_a_large_batch_is_decoded_beside_the_event_loop_and_stored_whole(running: CollectorThread) -> None:
    now_ns = time.time_ns()
    many = [wire.operation(f"module.function{place}", *[0.001 * (1 + place % 7)] * 3) for place in range(5_000)]
    with WireClient(running.address) as client:
        body = wire.operations_snapshot(now_ns - S, now_ns, many)
        assert body.ByteSize() > 128 * 1024
        client.wait_ack(wire.OPERATIONS, client.send_body(wire.OPERATIONS, body))
        (total,) = running.store.reader.operation_totals("checkout", lately()).values()
        assert len(total.rows) == 5_000
        assert sum(row.duration.count for row in total.rows) == 15_000
