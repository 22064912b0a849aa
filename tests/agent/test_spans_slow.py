"""Which spans are worth telling one by one: those over the limit, and those unusual for their name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from glassbottom.spans.ledger import EXEMPLARS_MAX, EXEMPLARS_PER_NAME_MAX
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.spans import Watched, watched

START_NS = 1_800_000_000_000_000_000


@pytest.fixture
def seen() -> Iterator[Watched]:
    with watched(slow_ms=1000.0) as found:
        yield found


def lasting(tracer: trace.Tracer, duration_ms: float, name: str = "GET /a", **more: object) -> None:
    tracer.start_span(name, start_time=START_NS, **more).end(START_NS + int(duration_ms * 1e6))


def test_a_span_over_the_limit_is_told_with_what_may_leave(seen: Watched, tracer: trace.Tracer):
    attributes = {"http.route": "/a", "http.request.method": "GET", "url.query": "token=secret", "order": 17}
    span = tracer.start_span("GET /a", start_time=START_NS, kind=SpanKind.SERVER, attributes=attributes)
    span.set_status(StatusCode.ERROR)
    span.end(START_NS + 1_500_000_000)
    (told,) = seen.read("span.slow")
    context = span.get_span_context()
    assert (told.name, told.value) == ("GET /a", 1.5)
    assert told.attributes == {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "status": "error",
        "self_s": "1.500000",
        "http.route": "/a",
        "http.request.method": "GET",
    }


def test_a_child_is_told_with_its_route(seen: Watched, tracer: trace.Tracer):
    with tracer.start_as_current_span("GET /a", kind=SpanKind.SERVER):
        lasting(tracer, 2000, "query")
    (told,) = seen.read("span.slow")
    assert (told.label, told.attributes["route"]) == ("GET /a", "GET /a")


def test_a_span_within_the_limit_is_not_told(seen: Watched, tracer: trace.Tracer):
    lasting(tracer, 999)
    assert seen.read("span.slow") == []


def test_the_slowest_of_a_name_are_told_and_the_rest_counted(seen: Watched, tracer: trace.Tracer):
    for duration_ms in (3000, 1200, 5000, 1100, 9000, 1300, 7000):
        lasting(tracer, duration_ms)
    told = seen.read("span.slow")
    assert sorted(one.value for one in told) == [3.0, 5.0, 7.0, 9.0]
    assert len(told) == EXEMPLARS_PER_NAME_MAX
    assert seen.probe.statistics()["exemplars_dropped_total"] == 3


def test_an_interval_tells_so_many_and_no_more(seen: Watched, tracer: trace.Tracer):
    for number in range(EXEMPLARS_MAX + 5):
        lasting(tracer, 2000 + number, f"GET /{number}")
    assert len(seen.read("span.slow")) == EXEMPLARS_MAX
    assert seen.probe.statistics()["exemplars_dropped_total"] == 5
    assert seen.read("span.slow") == []


def test_what_is_unusual_for_its_name_is_told_below_the_limit(seen: Watched, tracer: trace.Tracer):
    for _ in range(1000):
        lasting(tracer, 5)
    seen.read()
    lasting(tracer, 300)
    assert [one.value for one in seen.read("span.slow")] == [0.3]


def test_what_is_usual_for_its_name_is_not(seen: Watched, tracer: trace.Tracer):
    for _ in range(1000):
        lasting(tracer, 300)
    seen.read()
    lasting(tracer, 310)
    assert seen.read("span.slow") == []
    lasting(tracer, 700)
    assert [one.value for one in seen.read("span.slow")] == [0.7]


def test_what_is_quick_is_never_told_however_unusual(seen: Watched, tracer: trace.Tracer):
    for _ in range(1000):
        lasting(tracer, 1)
    seen.read()
    lasting(tracer, 99)
    assert seen.read("span.slow") == []


def test_a_few_spans_make_no_percentile(seen: Watched, tracer: trace.Tracer):
    for _ in range(50):
        lasting(tracer, 5)
    seen.read()
    lasting(tracer, 300)
    assert seen.read("span.slow") == []


def test_the_percentile_follows_the_present(seen: Watched, tracer: trace.Tracer):
    for _ in range(4000):
        lasting(tracer, 5)
    seen.read()
    for _ in range(20):
        for _ in range(1000):
            lasting(tracer, 300)
        seen.read()
    lasting(tracer, 310)
    assert seen.read("span.slow") == []
    assert seen.probe.statistics()["spans_total"] == 24_001
