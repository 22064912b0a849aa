"""What takes long, asked over a real gRPC server: sums over processes and intervals, flags, memory by route."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom.wire.v1 import operations_pb2, query_pb2
from glassbottom_collector.model.timing import OperationKind

from tests.support import query_store
from tests.support.query_server import serving
from tests.support.told import HANDLER, WORKER, A, B, at, observations, operation, operations, seen, service

ROUTE = "GET /orders/{id}"
COROUTINE, STEP, FUNCTION = OperationKind.COROUTINE, OperationKind.STEP, OperationKind.FUNCTION
NOW = at(100)


def slow(reader, **more) -> query_pb2.SlowResponse:
    with serving(reader, NOW) as client:
        return client.Slow(query_pb2.SlowRequest(selector=query_pb2.Selector(service="shop"), **more))


def test_statuses_intervals_and_processes_of_one_operation_are_one_row():
    reader = service(
        operations(0, 10, operation(ROUTE, 0.2, 0.3, span_kind="SERVER", cpu_s=0.1, self_s=0.4)),
        operations(10, 20, operation(ROUTE, 0.4, span_kind="SERVER", status="error", alloc_bytes=5e6)),
        instances=(A, B),
    )
    reader.add(B, operations(0, 10, operation(ROUTE, 0.5, span_kind="SERVER", status="cancelled")))
    answer = slow(reader)

    (row,) = answer.operations
    assert (row.name, row.span_kind, row.kind) == (ROUTE, "SERVER", operations_pb2.OPERATION_KIND_SPAN)
    assert (row.count, row.errors, row.cancelled) == (4, 1, 1)
    assert row.total_s == pytest.approx(1.4)
    assert row.self_s == pytest.approx(1.3)
    assert (row.cpu_s, row.cpu_count) == (pytest.approx(0.1), 2)
    assert row.alloc_bytes == 5e6
    assert row.max_s == 0.5
    assert row.p50_s == pytest.approx(0.3, rel=0.05)
    assert (answer.covered.from_ns, answer.covered.to_ns) == (at(0), at(20))


def test_the_most_self_time_is_first_and_what_is_left_out_is_counted():
    rows = [operation(f"span {number}", 1.0, self_s=number / 10) for number in range(15)]
    answer = slow(service(operations(0, 10, *rows)), limit=3)

    assert [row.name for row in answer.operations] == ["span 14", "span 13", "span 12"]
    assert answer.operations_total == 15


def test_flags_are_those_of_the_specification_unless_others_are_asked_for():
    rows = [
        operation("span below", *[0.9] * 20),
        operation("span above", *[0.9] * 18, 1.2, 1.2),
        operation("coroutine", *[0.15] * 20, kind=COROUTINE, busy_s=0.1),
        operation("function", *[0.08] * 20, kind=FUNCTION),
    ]
    reader = service(operations(0, 10, *rows))

    def flagged(**more):
        return {row.name: (row.flagged, row.slow) for row in slow(reader, **more).operations}

    assert flagged() == {
        "span below": (False, 0),
        "span above": (True, 2),
        "coroutine": (True, 20),
        "function": (False, 0),
    }
    stricter = flagged(span_ms=500, async_ms=50)
    assert stricter["span below"] == (True, 20)
    assert stricter["function"] == (True, 20)


def test_a_coroutine_is_told_with_its_steps_and_ranked_by_what_it_ran():
    rows = [
        operation("serve", 3600.0, kind=COROUTINE, frame=WORKER, self_s=0.0, busy_s=0.5),
        operation("crunch", 5.0, 5.0, kind=COROUTINE, frame=HANDLER, self_s=0.0, busy_s=9.0, status="thrown"),
        operation("crunch", 0.3, *[0.1] * 9, kind=STEP, frame=HANDLER, bare_yields=4),
    ]
    answer = slow(service(operations(0, 10, *rows)))

    first, second = answer.operations
    assert (first.name, first.cancelled, first.self_s, first.busy_s) == ("crunch", 2, 9.0, 9.0)
    assert (first.frame.file, first.frame.line) == (HANDLER.file, HANDLER.line)
    assert (first.bare_yield_ratio, first.step_max_s) == (0.4, 0.3)
    assert (second.name, second.bare_yield_ratio, second.step_max_s) == ("serve", 0.0, 0.0)
    assert [
        row.kind
        for row in slow(service(operations(0, 10, *rows)), kinds=[operations_pb2.OPERATION_KIND_STEP]).operations
    ] == [operations_pb2.OPERATION_KIND_STEP]


def test_route_and_target_are_told_when_there_was_only_one():
    rows = [
        operation("SELECT", 0.1, span_kind="CLIENT", route=ROUTE, target="postgresql"),
        operation("SELECT", 0.1, span_kind="CLIENT", route="GET /users", target="postgresql"),
        operation("cache", 0.1, route=ROUTE),
    ]
    found = {row.name: (row.route, row.target) for row in slow(service(operations(0, 10, *rows))).operations}

    assert found == {"SELECT": ("", "postgresql"), "cache": (ROUTE, "")}


def test_same_names_at_other_places_or_of_other_kinds_stay_apart():
    rows = [
        operation("run", 1.0, kind=FUNCTION, frame=HANDLER),
        operation("run", 1.0, kind=FUNCTION, frame=WORKER),
        operation("run", 1.0, span_kind="SERVER"),
        operation("run", 1.0, span_kind="CLIENT"),
    ]

    assert slow(service(operations(0, 10, *rows))).operations_total == 4


def test_an_entry_span_has_the_memory_that_is_alive_of_its_route():
    reader = query_store.store()
    reader.add(
        query_store.A,
        operations(
            80, 90, operation(ROUTE, 0.1, span_kind="SERVER"), operation(ROUTE, 0.1, span_kind="CLIENT", route="other")
        ),
    )
    for instance in (query_store.A, query_store.B):
        reader.add_snapshot(query_store.snapshot(instance, 95.0, {"message": 5e6, "cache, in orders": 3e6}))
    rows = {row.span_kind: row for row in slow(reader).operations}

    assert rows["SERVER"].live_bytes == pytest.approx(6e6)
    assert rows["CLIENT"].live_bytes == 0.0


def test_single_slow_spans_come_with_their_attributes_slowest_first():
    own = {"trace_id": "ab" * 16, "span_id": "cd" * 8, "status": "error", "self_s": "0.5"}
    reader = service(
        observations(
            20,
            seen(10, "span.slow", ROUTE, 1.5, attributes=own | {"http.response.status_code": "500"}),
            seen(12, "span.slow", "SELECT", 2.5, attributes={"self_s": "nonsense"}),
            seen(13, "span.slow", "short", 1.1),
            seen(14, "loop.blocked", "no span", 9.0),
        )
    )
    answer = slow(reader, limit=2)

    assert [span.name for span in answer.slow_spans] == ["SELECT", ROUTE]
    last = answer.slow_spans[1]
    assert (last.at_ns, last.duration_s, last.self_s, last.status) == (at(10), 1.5, 0.5, "error")
    assert (last.trace_id, last.span_id, last.instance_id) == ("ab" * 16, "cd" * 8, A)
    assert dict(last.attributes) == {"http.response.status_code": "500"}
    assert answer.slow_spans[0].self_s == 0.0


def test_a_service_without_operations_has_an_empty_answer():
    answer = slow(service(observations(5, seen(5, "loop.blocked", "x", 1.0))))

    assert (list(answer.operations), answer.operations_total, answer.HasField("covered")) == ([], 0, False)


def test_intervals_outside_the_range_do_not_count():
    reader = service(*(operations(at_s, at_s + 10, operation("x", 0.1)) for at_s in range(0, 50, 10)))
    answer = slow(reader, range=query_pb2.Range(from_ns=at(15), to_ns=at(35)))

    assert answer.operations[0].count == 2


def test_quantiles_over_many_intervals_are_those_of_all_values():
    rng = np.random.default_rng(5)
    parts = [np.exp(rng.normal(-3, 1, 200)) for _ in range(10)]
    reader = service(*(operations(n, n + 1, operation("x", *part)) for n, part in enumerate(parts)))
    row = slow(reader).operations[0]
    exact = np.quantile(np.concatenate(parts), [0.5, 0.95, 0.99])

    assert [row.p50_s, row.p95_s, row.p99_s] == pytest.approx(exact, rel=0.06)
