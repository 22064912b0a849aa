"""spans.c: nothing is lost or kept, whatever a span looks like, and wrong arguments are refused."""

from __future__ import annotations

import contextvars
import gc
import sys
from typing import Any

import pytest
from glassbottom import _native
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from tests.support.spans import Watched, watched


def one_of_each(tracer: Any, seen: Watched) -> None:
    """A request with children of every kind, one that fails, and one that spans.c cannot read."""
    with tracer.start_as_current_span("GET /a", kind=SpanKind.SERVER) as entry:
        attributes = {"server.address": "payments", "server.port": 443}
        tracer.start_span("call", kind=SpanKind.CLIENT, attributes=attributes).end()
        tracer.start_span("query", kind=SpanKind.CLIENT, attributes={"db.system.name": "postgresql"}).end()
        child = tracer.start_span("child")
        entry.update_name("GET /a/{id}")
    child.set_status(Status(StatusCode.ERROR))
    child.end()
    lost = tracer.start_span("lost", set_span_in_context(child))
    del lost
    strange = tracer.start_span("strange")
    strange._kind = None
    strange.end()
    slow = tracer.start_span("slow", start_time=1)
    slow.end(10_000_000_000)
    contextvars.copy_context().run(lambda: tracer.start_span("elsewhere", kind=SpanKind.SERVER)).end()


def test_spans_of_every_kind_leave_nothing_behind() -> None:
    with watched() as seen:
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")

        def batch() -> int:
            for _ in range(200):
                contextvars.copy_context().run(one_of_each, tracer, seen)
            seen.read()
            seen.told.clear()
            seen.recorder.take()
            gc.collect()
            return sys.getallocatedblocks()

        batch()
        before = batch()
        for _ in range(5):
            after = batch()
        # 1000 of each since: anything kept for each would be 1000 blocks at least.
        assert after - before < 500
        assert seen.guard.errors > 0
        seen.guard.errors = 0


def test_requests_of_our_own_leave_nothing_behind() -> None:
    label: contextvars.ContextVar[int] = contextvars.ContextVar("label", default=0)
    request: contextvars.ContextVar[Any] = contextvars.ContextVar("request", default=None)
    table = _native.OperationTable(1)
    slot = table.add()

    def batch() -> int:
        for number in range(1000):
            record = _native.SpanRecord()
            record.name = f"name {number}"
            record.begin(label, 1, request, True)
            assert request.get() is record
            record.count(table, slot, 100, 50)
            record.leave(label, request)
            assert (label.get(), request.get()) == (0, None)
        gc.collect()
        return sys.getallocatedblocks()

    batch()
    before = batch()
    for _ in range(5):
        after = batch()
    assert after - before < 500
    assert table.take()[0][1] == 7000


@pytest.mark.parametrize(
    "call",
    [
        lambda record: record.begin(1, 2, 3, False),
        lambda record: record.count("no table", 0, 0, 0),
        lambda record: record.count(None, 0),
        lambda record: record.leave(None, None),
        lambda record: _native.SpanListener(host=None),
        lambda record: _native.SpanName("no limit"),
    ],
)
def test_wrong_arguments_are_refused(call: Any) -> None:
    with pytest.raises(TypeError):
        call(_native.SpanRecord())


def test_a_cycle_of_records_is_collected() -> None:
    import weakref

    class Seen(_native.SpanRecord):
        """Can be referred to weakly."""

    first, second = Seen(), Seen()
    first.above, second.above = second, first
    gone = weakref.ref(first)
    del first, second
    gc.collect()
    assert gone() is None
