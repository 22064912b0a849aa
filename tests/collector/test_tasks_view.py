"""What tasks wait for, asked over a real gRPC server."""

from __future__ import annotations

import pytest
from glassbottom.wire.v1 import query_pb2

from tests.support.query_server import serving
from tests.support.told import ACQUIRE, HANDLER, MAIN, WORKER, A, B, at, group, histogram, look, loop, seen, service
from tests.support.told import observations as told

NOW = at(100)


def tasks(reader, at_s: float = 100, **more) -> query_pb2.TasksResponse:
    with serving(reader, NOW) as client:
        return client.Tasks(query_pb2.TasksRequest(selector=query_pb2.Selector(service="shop"), at_ns=at(at_s), **more))


def test_the_latest_look_at_or_before_the_moment_is_shown_most_tasks_first():
    reader = service(
        look(80, group(ACQUIRE, HANDLER, count=3)),
        look(90, group(WORKER, count=2), group(ACQUIRE, HANDLER, count=40, awaits="asyncio.Lock", oldest_s=9.0)),
        look(99.9, group(WORKER, count=1)),
    )
    (process,) = tasks(reader, 95).processes

    assert (process.instance_id, process.at_ns, process.tasks, process.tasks_examined) == (A, at(90), 42, 42)
    first, second = process.groups
    assert [(frame.function, frame.line) for frame in first.path] == [("Lock.acquire", 113), ("Orders.fetch", 88)]
    assert (first.count, first.awaits, first.state, first.age_oldest_s) == (40, "asyncio.Lock", "waiting", 9.0)
    assert second.count == 2


def test_who_waits_for_whom_follows_the_groups_that_are_shown():
    groups = [group(WORKER, count=1), group(HANDLER, count=9), group(MAIN, count=5)]
    reader = service(look(90, *groups, edges=((1, 2, 7), (2, 0, 1))))
    (whole,), (cut,) = tasks(reader).processes, tasks(reader, limit=2).processes

    def edges(process):
        names = [each.path[0].function for each in process.groups]
        return [(names[edge.waiter], names[edge.awaited], edge.count) for edge in process.waits]

    assert edges(whole) == [("Orders.fetch", "main", 7), ("main", "Worker.run", 1)]
    assert edges(cut) == [("Orders.fetch", "main", 7)]


def test_lag_is_that_of_the_ten_minutes_before_per_loop():
    def loops(first: float, second: float):
        return [
            loop(7, "MainThread", histogram(*[first] * 50), ready=1),
            loop(8, "worker-loop", histogram(*[second] * 50), ready=9 if second > 0.1 else 2),
        ]

    reader = service(
        look(-700, loops=loops(9.0, 9.0)),
        look(80, loops=loops(0.001, 0.2)),
        look(90, loops=loops(0.001, 0.02)),
        look(95, loops=loops(0.4, 0.02)[:1]),
    )
    (process,) = tasks(reader, 91).processes
    first, second = process.loops

    assert (first.thread, first.implementation, first.lag_max_s) == ("MainThread", "uvloop.Loop", 0.001)
    assert (second.lag_p50_s, second.lag_p99_s) == pytest.approx((0.02, 0.2), rel=0.05)
    assert (second.ready, second.ready_max) == (2, 9)
    (later,) = tasks(reader, 96).processes
    assert [each.thread for each in later.loops] == ["MainThread"]
    assert later.loops[0].lag_max_s == 0.4


def test_processes_are_told_apart_and_one_can_be_asked_for():
    reader = service(look(90, group(WORKER)), instances=(A, B))
    reader.add(B, look(92, group(HANDLER)))
    with serving(reader, NOW) as client:
        one = client.Tasks(query_pb2.TasksRequest(selector=query_pb2.Selector(service="shop", instance_id="aa2")))

    assert [process.instance_id for process in tasks(reader).processes] == [A, B]
    assert [process.instance_id for process in one.processes] == [B]


def test_what_is_wrong_with_tasks_stands_beside_them_and_nothing_else():
    reader = service(
        look(90, group(WORKER)),
        told(-790, seen(-800, "task.stuck", "Worker.run", 70.0, path=(WORKER,)), paths=[(WORKER,)]),
        told(
            90,
            seen(85, "task.stuck", "Orders.fetch", 70.0, path=(ACQUIRE, HANDLER)),
            seen(86, "gc.pause", "2", 5.0),
            paths=[(ACQUIRE, HANDLER)],
        ),
    )
    (finding,) = tasks(reader).findings

    assert (finding.kind, finding.severity) == ("task.stuck", query_pb2.SEVERITY_WARNING)
    assert (finding.frame.file, finding.frame.line) == (HANDLER.file, HANDLER.line)
    assert [frame.function for frame in finding.path] == ["Lock.acquire", "Orders.fetch"]


def test_a_service_without_event_loops_has_an_empty_answer():
    assert len(tasks(service(told(90, seen(85, "gc.pause", "2", 0.1)))).processes) == 0
