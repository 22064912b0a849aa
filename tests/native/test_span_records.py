"""spans.c, requests.c: nothing is lost or kept, whatever a span looks like, and wrong arguments are refused."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import itertools
import sys
from collections.abc import Callable
from typing import Any

import glassbottom
import pytest
from glassbottom import _labels, _native
from glassbottom.spans.http import current_request, now
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from tests.support.sampling import sampler, within
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


def kept_of(batch: Callable[[], None]) -> int:
    """Blocks of memory that five more batches leave behind, once two of them have allocated what stays for good.

    Five times what the most frugal one leaves: what is kept of each span is kept by every batch, while caches of the
    libraries, and other threads of this process, take theirs now and then.
    """

    def blocks() -> int:
        batch()
        gc.collect()
        return sys.getallocatedblocks()

    blocks()
    counts = [blocks() for _ in range(6)]
    return 5 * min(after - before for before, after in itertools.pairwise(counts))


def test_spans_of_every_kind_leave_nothing_behind() -> None:
    with watched() as seen:
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")

        def batch() -> None:
            for _ in range(200):
                contextvars.copy_context().run(one_of_each, tracer, seen)
            seen.read()
            seen.told.clear()
            seen.recorder.take()

        # 1000 of each: anything kept for each would be 1000 blocks at least.
        assert kept_of(batch) < 500
        assert seen.guard.errors > 0
        seen.guard.errors = 0


async def nowhere(message: object) -> None:
    pass


def test_requests_of_our_own_leave_nothing_behind() -> None:
    with watched() as seen:
        desk = seen.probe.ledger.desk
        assert desk is not None

        def batch() -> None:
            for number in range(1000):
                door = desk.open({"type": "http", "method": "GET", "number": number}, nowhere)
                assert door is not None
                assert now() is door.request
                desk.mounted("/shop")
                desk.known(f"/orders/{number % 7}")
                door({"type": "http.response.start", "status": 500}).close()
                door({"type": "http.response.body"}).close()
                door.end(ValueError())
                door.close()
                assert (_labels.label.get(), current_request.get()) == (0, None)
            seen.recorder.take()

        assert kept_of(batch) < 500
        assert desk.requests == 7000


def test_a_context_that_outlives_a_request_holds_nothing_of_the_server_s() -> None:
    import weakref

    class Server:
        """What stands behind a scope."""

        async def send(self, message: object) -> None:
            pass

    with watched() as seen:
        desk = seen.probe.ledger.desk
        assert desk is not None
        server = Server()
        gone = weakref.ref(server)
        door = desk.open({"type": "http", "method": "GET", "server": server}, server.send)
        assert door is not None
        kept = contextvars.copy_context()
        door.close()
        del door, server
        gc.collect()
        assert gone() is None
        assert kept[current_request].record is None


def test_a_context_that_outlives_its_request_costs_no_more_than_a_ticket_and_accuses_nobody() -> None:
    """As of a task that is kept when it is done. The application keeps the context, and `send` as well."""
    requests, kept = 2000, []

    async def app(scope: object, receive: object, send: object) -> None:
        kept.append((contextvars.copy_context(), send))

    def serve() -> None:
        served = glassbottom.AsgiMiddleware(app)  # type: ignore[arg-type]
        for _ in range(requests):
            with contextlib.suppress(StopIteration):
                served({"type": "http", "method": "GET"}, None, nowhere).__await__().send(None)  # type: ignore[arg-type]

    with watched(), sampler(share=1.0, interval_bytes=4096.0):
        serve()
        gc.collect()
        rows = within(_native.snapshot(), "serve")
    tickets = [context[current_request] for context, _ in kept]
    assert len({id(ticket) for ticket in tickets}) == requests
    assert all(ticket.record is None and sys.getsizeof(ticket) < 32 for ticket in tickets)
    assert not any(isinstance(each, _native.Request) for each in gc.get_objects())
    ours = [row for row in rows if row.functions[0] == "AsgiMiddleware.__call__"]
    assert sum(row.live_bytes for row in ours) < 32 * requests
    assert sum(row.live_bytes for row in rows) > 100 * requests  # the application's own, which is seen


@pytest.mark.parametrize(
    "call",
    [
        lambda: _native.SpanListener(host=None),
        lambda: _native.RequestDesk(host=None),
        lambda: _native.SpanName("no limit"),
        lambda: _native.Request(),
        lambda: _native.Door(),
    ],
)
def test_wrong_arguments_are_refused(call: Any) -> None:
    with pytest.raises(TypeError):
        call()


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
