"""A service whose time is known to the second, as a real collector has stored it.

The agent is a WireClient: a slow route, a coroutine, a profiled function, a deadlock of two tasks, a loop that
time.sleep held, and samples of two threads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from glassbottom.wire.v1 import ingest_pb2, operations_pb2

from tests.support import wire_messages as wire
from tests.support.collector_process import collector_process
from tests.support.wire_client import WireClient

SECOND_NS = 10**9
ROUTE = "GET /orders/{id}"


@dataclass(frozen=True)
class Busy:
    """Where its collector listens, and the range all of it lies in, nanoseconds since the Unix epoch."""

    address: str
    from_ns: int
    to_ns: int


@contextlib.contextmanager
def busy_service() -> Iterator[Busy]:
    """Runs a collector, tells it the story, and keeps the agent connected."""
    now_ns = time.time_ns() - 5 * SECOND_NS
    code = wire.Code()
    handler = ("get_order", "/srv/checkout/handlers.py", 31)
    sleep = code.stack(("Orders.fetch", "/srv/checkout/orders.py", 88), handler, label=ROUTE)
    idle = code.stack(("Worker.run", "/srv/checkout/worker.py", 12))
    reserve = code.frame("Stock.reserve", "/srv/checkout/stock.py", 57)
    charge = code.frame("Payment.charge", "/srv/checkout/payment.py", 22)
    fetch = code.frame("Orders.fetch", "/srv/checkout/orders.py", 80)
    render = code.frame("render", "/srv/checkout/views.py", 5)
    definitions = code.definitions()
    spans = [
        wire.operation(ROUTE, 1.5, 2.0, 2.5, span_kind="SERVER", self_s=5.5),
        wire.operation(
            "SELECT orders", *[0.004] * 20, span_kind="CLIENT", route=ROUTE, target="postgresql", self_s=0.08
        ),
    ]
    coroutine = wire.operation(
        "Orders.fetch",
        0.3,
        0.4,
        kind=operations_pb2.OPERATION_KIND_COROUTINE,
        frame=fetch,
        self_s=0.7,
        busy_s=0.6,
    )
    function = wire.operation(
        "render",
        0.01,
        kind=operations_pb2.OPERATION_KIND_FUNCTION,
        frame=render,
        self_s=0.01,
        cpu_user_s=0.009,
        cpu_count=1,
    )
    blocked = wire.observation(
        now_ns - 20 * SECOND_NS,
        "loop.blocked",
        "Orders.fetch",
        0.9,
        stack=sleep,
        attributes={"thread.name": "MainThread", "gil_held": "false", "late": "false", "ended": "true"},
    )
    slow = wire.observation(
        now_ns - 20 * SECOND_NS,
        "span.slow",
        ROUTE,
        2.5,
        attributes={
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "status": "ok",
            "self_s": "2.5",
            "user.tier": "gold",
        },
    )
    samples = [(sleep, "MainThread", "Orders.fetch", 10, 1.0, 0.25), (idle, "worker", "", 90, 9.0, 0.0)]
    bodies = [
        (ingest_pb2.STREAM_OPERATIONS, wire.operations_snapshot(
            now_ns - 30 * SECOND_NS, now_ns - 20 * SECOND_NS, [*spans, coroutine, function], definitions)),
        (ingest_pb2.STREAM_TASKS, wire.tasks_snapshot(
            now_ns - 10 * SECOND_NS,
            [wire.loop(1, [0.001] * 50 + [0.4], tasks=2)],
            [
                wire.group([reserve], 1, loop=0, awaits="Task", age_oldest_s=60.0, wait_longest_s=59.0),
                wire.group([charge], 1, loop=0, awaits="Task", age_oldest_s=60.0, wait_longest_s=59.0),
            ],
            [(0, 1, 1), (1, 0, 1)],
            definitions)),
        (ingest_pb2.STREAM_PROFILE, wire.profile_snapshot(
            now_ns - 30 * SECOND_NS, now_ns - 20 * SECOND_NS, samples, definitions)),
        (ingest_pb2.STREAM_OBSERVATIONS, wire.observations_snapshot(
            now_ns - 10 * SECOND_NS, [blocked, slow], definitions)),
    ]  # fmt: skip
    with (
        collector_process() as collector,
        WireClient(collector.address, started_at_ns=now_ns - 600 * SECOND_NS, pid=4711) as agent,
    ):
        metrics = agent.send_metrics(now_ns, [("process.memory.usage", 120 * 1024.0 * 1024.0)])
        sent = [(stream, agent.send_body(stream, body)) for stream, body in bodies]
        agent.heartbeat(statistics={})
        for stream, seq in [*sent, (wire.METRICS, metrics)]:
            agent.wait_ack(stream, seq)
        yield Busy(collector.address, now_ns - 60 * SECOND_NS, now_ns)
