"""Our span processor beside OpenTelemetry's SDK: what it counts, and that the application's own tracing goes on."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from glassbottom import _labels
from glassbottom.spans import otel
from opentelemetry import trace
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tests.support.spans import Watched, watched

SECOND_NS = 1_000_000_000
START_NS = 1_800_000_000 * SECOND_NS


def timed(
    tracer: trace.Tracer, name: str, from_s: float, to_s: float, parent: trace.Span | None = None, **more: object
) -> None:
    """A span that was recorded elsewhere, with times of its own."""
    context = trace.set_span_in_context(parent) if parent is not None else None
    span = tracer.start_span(name, context, start_time=START_NS + int(from_s * SECOND_NS), **more)
    span.end(START_NS + int(to_s * SECOND_NS))


def test_a_span_is_counted_by_name_kind_and_status(seen: Watched, tracer: trace.Tracer):
    timed(tracer, "GET /orders/{id}", 0, 0.5, kind=SpanKind.SERVER)
    timed(tracer, "GET /orders/{id}", 0, 1.5, kind=SpanKind.SERVER)
    failing = tracer.start_span("GET /orders/{id}", kind=SpanKind.SERVER)
    failing.set_status(Status(StatusCode.ERROR))
    failing.end()
    rows = seen.rows()
    fine, failed = (
        next(row for key, row in rows.items() if key.status == status and key.span_kind == "SERVER")
        for status in ("ok", "error")
    )
    assert len(rows) == 2
    assert fine[1:4] == (2, 2 * SECOND_NS, 2 * SECOND_NS)  # count, duration, self time
    assert fine[9:11] == (SECOND_NS // 2, SECOND_NS * 3 // 2)  # min, max
    assert failed[1] == 1


def test_self_time_is_what_no_child_covers_however_many_run_at_once(seen: Watched, tracer: trace.Tracer):
    parent = tracer.start_span("parent", start_time=START_NS)
    context = trace.set_span_in_context(parent)
    first = tracer.start_span("first", context, start_time=START_NS + 1 * SECOND_NS)
    second = tracer.start_span("second", context, start_time=START_NS + 2 * SECOND_NS)
    first.end(START_NS + 4 * SECOND_NS)
    second.end(START_NS + 6 * SECOND_NS)
    timed(tracer, "third", 7, 8, parent)
    parent.end(START_NS + 10 * SECOND_NS)
    assert seen.named()["parent"][3] == 4 * SECOND_NS


def test_a_child_that_outlives_its_parent_takes_the_rest_of_it(seen: Watched, tracer: trace.Tracer):
    parent = tracer.start_span("parent", start_time=START_NS)
    child = tracer.start_span("child", trace.set_span_in_context(parent), start_time=START_NS + 3 * SECOND_NS)
    parent.end(START_NS + 10 * SECOND_NS)
    child.end(START_NS + 20 * SECOND_NS)
    rows = seen.named()
    assert rows["parent"][3] == 3 * SECOND_NS
    assert rows["child"][2] == 17 * SECOND_NS


def test_a_clock_set_back_makes_no_negative_duration(seen: Watched, tracer: trace.Tracer):
    parent = tracer.start_span("parent", start_time=START_NS)
    timed(tracer, "child", 5, 1, parent)
    parent.end(START_NS - SECOND_NS)
    rows = seen.named()
    assert rows["parent"][2] == rows["child"][2] == 1  # the table's least


def test_children_carry_the_name_of_the_entry_span_as_it_is_in_the_end(seen: Watched, tracer: trace.Tracer):
    with tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as entry:
        with tracer.start_as_current_span("handler"):
            entry.update_name("GET /orders/{id}")
            tracer.start_span("query").end()
        late = tracer.start_span("late")
    late.end()
    routes = {key.name: key.route for key in seen.rows()}
    assert routes == {
        "GET /orders/{id}": "",
        "handler": "GET /orders/{id}",
        "query": "GET /orders/{id}",
        "late": "GET /orders/{id}",
    }


def test_a_server_span_within_a_span_is_an_entry_of_its_own(seen: Watched, tracer: trace.Tracer):
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("GET /a", kind=SpanKind.SERVER):
        tracer.start_span("query").end()
    routes = {key.name: key.route for key in seen.rows()}
    assert routes == {"outer": "", "GET /a": "", "query": "GET /a"}


def test_the_parent_in_another_process_is_not_looked_for_in_this_one(seen: Watched, tracer: trace.Tracer):
    client = tracer.start_span("call", start_time=START_NS)
    own = client.get_span_context()
    remote = NonRecordingSpan(SpanContext(own.trace_id, own.span_id, is_remote=True, trace_flags=TraceFlags(1)))
    timed(tracer, "GET /a", 0, 5, remote, kind=SpanKind.SERVER)
    client.end(START_NS + 5 * SECOND_NS)
    assert seen.named()["call"][3] == 5 * SECOND_NS


@pytest.mark.parametrize(
    ("attributes", "target"),
    [
        ({"server.address": "payments", "server.port": 443}, "payments:443"),
        ({"server.address": "payments"}, "payments"),
        ({"net.peer.name": "old", "net.peer.port": 80}, "old:80"),
        ({"db.system.name": "postgresql", "server.address": "db1"}, "postgresql"),
        ({"db.system": "redis"}, "redis"),
        ({"messaging.system": "kafka"}, "kafka"),
        ({"peer.service": "billing", "server.address": "10.0.0.7"}, "billing"),
        ({}, ""),
    ],
)
def test_a_client_span_tells_whom_it_calls(
    seen: Watched, tracer: trace.Tracer, attributes: dict[str, object], target: str
):
    tracer.start_span("call", kind=SpanKind.CLIENT, attributes=attributes).end()
    (key,) = seen.rows()
    assert key.target == target


def test_an_internal_span_calls_nobody(seen: Watched, tracer: trace.Tracer):
    tracer.start_span("call", attributes={"server.address": "payments"}).end()
    (key,) = seen.rows()
    assert key.target == ""


def test_targets_without_end_share_one_name(seen: Watched, tracer: trace.Tracer):
    for number in range(200):
        tracer.start_span("call", kind=SpanKind.CLIENT, attributes={"server.address": f"host{number}"}).end()
    rows = seen.rows()
    assert len(rows) == 101
    assert sum(row[1] for key, row in rows.items() if "more targets" in key.target) == 100


def test_names_without_end_share_one_name(seen: Watched, tracer: trace.Tracer):
    for number in range(1500):
        tracer.start_span(f"GET /orders/{number}").end()
    rows = seen.rows()
    assert len(rows) < 1024
    assert sum(row[1] for row in rows.values()) == 1500
    statistics = seen.probe.statistics()
    assert statistics["span_names"] <= statistics["span_names_max"]
    assert statistics["spans_total"] == 1500


def test_the_thread_s_cpu_time_is_known_where_it_works_on_nothing_else(seen: Watched, tracer: trace.Tracer):
    def busy() -> None:
        for _ in range(64):
            with tracer.start_as_current_span("in a thread"):
                sum(range(20_000))

    thread = threading.Thread(target=busy)
    thread.start()
    thread.join()
    row = seen.named()["in a thread"]
    assert 0 < row[6] <= row[1]  # for how many it is known
    assert 0 < row[4] + row[5] <= 2 * row[2]


def test_in_a_loop_no_cpu_time_is_claimed(seen: Watched, tracer: trace.Tracer):
    async def main() -> None:
        for _ in range(64):
            with tracer.start_as_current_span("in a loop"):
                await asyncio.sleep(0)

    asyncio.run(main())
    row = seen.named()["in a loop"]
    assert (row[1], row[6]) == (64, 0)


def test_a_span_that_ends_in_another_thread_is_counted_without_cpu_time(seen: Watched, tracer: trace.Tracer):
    spans = [contextvars.Context().run(tracer.start_span, "handed over") for _ in range(64)]

    def end() -> None:
        for span in spans:
            span.end()

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    row = seen.named()["handed over"]
    assert (row[1], row[6]) == (64, 0)


def test_the_context_is_labelled_while_an_entry_span_lasts(seen: Watched, tracer: trace.Tracer):
    assert _labels.current_name() == ""
    entry = tracer.start_as_current_span("GET /orders/{id}", kind=SpanKind.SERVER)
    with entry, tracer.start_as_current_span("query"):
        assert _labels.current_name() == "GET /orders/{id}"
    assert _labels.current_name() == ""
    with tracer.start_as_current_span("job"):
        assert _labels.current_name() == "job"
    assert _labels.current_name() == ""


def test_a_call_to_somebody_is_no_entry(seen: Watched, tracer: trace.Tracer):
    with tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT):
        assert _labels.current_name() == ""


def test_a_span_that_ends_in_another_context_leaves_that_one_alone(seen: Watched, tracer: trace.Tracer):
    def start() -> trace.Span:
        return tracer.start_span("GET /a", kind=SpanKind.SERVER)

    span = contextvars.copy_context().run(start)
    with tracer.start_as_current_span("job"):
        span.end()
        assert _labels.current_name() == "job"
    assert set(seen.named()) == {"GET /a", "job"}


def test_what_a_request_has_started_belongs_to_it_when_it_is_over(seen: Watched, tracer: trace.Tracer):
    async def later(gate: asyncio.Event) -> None:
        await gate.wait()
        tracer.start_span("cleanup", trace.set_span_in_context(trace.INVALID_SPAN)).end()  # no child of it

    async def main() -> None:
        gate = asyncio.Event()
        with tracer.start_as_current_span("POST /orders", kind=SpanKind.SERVER):
            task = asyncio.create_task(later(gate))
        gate.set()
        await task

    asyncio.run(main())
    assert {key.name: key.route for key in seen.rows()} == {"POST /orders": "", "cleanup": "POST /orders"}


def test_the_application_s_own_exporter_gets_everything(seen: Watched):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("tests").start_as_current_span("job") as span:
        span.set_attribute("order", 17)
    (exported,) = exporter.get_finished_spans()
    assert exported.name == "job"
    assert dict(exported.attributes or {}) == {"order": 17}
    assert "job" in seen.named()


def test_a_provider_that_calls_processors_in_threads_is_left_alone_and_said_so():
    with watched() as seen:
        provider = TracerProvider(active_span_processor=ConcurrentMultiSpanProcessor(1), shutdown_on_exit=False)
        provider.get_tracer("tests").start_span("job").end()
        assert seen.rows() == {}
        assert "ConcurrentMultiSpanProcessor" in seen.probe.state().reason
        assert seen.probe.statistics()["spans_left_alone"] == 1
        provider.shutdown()
        seen.probe.stop(1.0)


def test_an_sdk_whose_spans_are_different_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(otel, "FIELDS", (*otel.FIELDS, "_moment"))
    assert "_moment" in str(otel.unsupported())


def test_what_fails_within_us_is_counted_and_the_span_goes_on(seen: Watched, tracer: trace.Tracer):
    span = tracer.start_span("job")
    span._kind = "no kind"  # type: ignore[attr-defined]
    span.end()
    assert seen.guard.errors == 1
    assert span.is_recording() is False
    seen.guard.errors = 0


def test_what_keeps_failing_is_taken_out_of_the_way(tracer: trace.Tracer, seen: Watched):
    for _ in range(5):
        span = tracer.start_span("job")
        span._kind = "no kind"  # type: ignore[attr-defined]
        span.end()
    seen.probe.read()
    seen.rows()
    tracer.start_span("job").end()
    assert seen.rows() == {}
    assert seen.guard.errors == 5
    seen.guard.errors = 0
