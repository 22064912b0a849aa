"""Spans that never end are found, whether the application holds them or has lost them, and where they are started."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from glassbottom import _labels
from glassbottom.spans import open_spans
from glassbottom.testing import FakeClock
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from tests.support.spans import Watched, watched

NOW_NS = 1_800_000_000_000_000_000


class Present(FakeClock):
    """A clock that stands still at a time of day."""

    def time_ns(self) -> int:
        return NOW_NS


@pytest.fixture
def seen() -> Iterator[Watched]:
    with watched(Present(), open_s=300.0) as found:
        yield found


def open_for(tracer: trace.Tracer, age_s: float, name: str = "upload", **more: object) -> trace.Span:
    return tracer.start_span(name, start_time=NOW_NS - int(age_s * 1e9), **more)


def test_a_span_that_stays_open_is_told_with_its_count_and_the_age_of_the_oldest(seen: Watched, tracer: trace.Tracer):
    kept = [open_for(tracer, 400.0), open_for(tracer, 1000.0), open_for(tracer, 10.0)]
    (told,) = seen.read("span.never_ended")
    assert (told.name, told.count, told.value) == ("upload", 2, 1000.0)
    assert len(kept) == 3


def test_it_is_told_again_while_it_lasts_and_no_more_when_it_has_ended(seen: Watched, tracer: trace.Tracer):
    span = open_for(tracer, 400.0)
    assert seen.read("span.never_ended")
    assert seen.read("span.never_ended")
    span.end()
    assert seen.read("span.never_ended") == []


def test_the_place_is_found_at_the_next_start_of_such_a_span(seen: Watched, tracer: trace.Tracer):
    kept = [open_for(tracer, 400.0)]
    assert seen.read("span.never_ended")[0].place is None
    with trace.use_span(tracer.start_span("request"), end_on_exit=True):
        kept.append(open_for(tracer, 500.0))
    (told,) = seen.read("span.never_ended")
    assert told.place == (
        "open_for",
        __file__,
        open_for.__code__.co_firstlineno + 1,
    )
    assert len(kept) == 2


def test_ordinary_spans_are_not_looked_up(seen: Watched, tracer: trace.Tracer, monkeypatch: pytest.MonkeyPatch):
    kept = [open_for(tracer, 400.0)]
    seen.read()
    monkeypatch.setattr(open_spans, "_caller", lambda _frame: pytest.fail("looked up"))
    tracer.start_span("another").end()
    assert len(kept) == 1


def test_a_span_that_the_application_has_lost_is_told_once(seen: Watched, tracer: trace.Tracer):
    open_for(tracer, 5.0)
    gc.collect()
    (told,) = seen.read("span.never_ended")
    assert (told.name, told.count, told.value, told.attributes) == ("upload", 1, 5.0, {"lost": "1"})
    assert seen.read("span.never_ended") == []
    assert seen.probe.statistics()["spans_lost_total"] == 1
    assert seen.probe.statistics()["spans_open"] == 0


def test_nothing_of_ours_keeps_a_span_alive(seen: Watched, tracer: trace.Tracer):
    import weakref

    span = open_for(tracer, 0.0)
    child = tracer.start_span("child", trace.set_span_in_context(span))
    alive = weakref.ref(span)
    del span
    gc.collect()
    assert alive() is None
    child.end()


def test_a_parent_is_not_kept_waiting_by_a_lost_child(seen: Watched, tracer: trace.Tracer):
    parent = open_for(tracer, 10.0, "parent")
    tracer.start_span("lost", trace.set_span_in_context(parent), start_time=NOW_NS - 9_000_000_000)
    gc.collect()
    seen.read()
    parent.end(NOW_NS)
    assert seen.named()["parent"][3] == 10_000_000_000


def test_a_websocket_connection_may_stay(seen: Watched, tracer: trace.Tracer):
    span = open_for(tracer, 4000.0, "WS /feed", kind=SpanKind.SERVER, attributes={"url.scheme": "ws"})
    assert seen.read("span.never_ended") == []
    span.end()
    assert seen.read("span.slow") == []


def test_open_spans_without_end_are_bounded_and_the_latest_are_still_timed(seen: Watched, tracer: trace.Tracer):
    kept = [open_for(tracer, 0.0) for _ in range(open_spans.OPEN_MAX + 1)]
    tracer.start_span("another").end()
    statistics = seen.probe.statistics()
    assert statistics["spans_open"] <= statistics["spans_open_max"]
    assert statistics["spans_open_dropped_total"] == open_spans.OPEN_MAX // 10
    assert seen.named()["another"][1] == 1
    assert len(kept) == open_spans.OPEN_MAX + 1


def test_what_never_ended_is_not_what_its_thread_works_on_for_ever(seen: Watched, tracer: trace.Tracer):
    kept = open_for(tracer, 400.0)
    seen.read()
    with tracer.start_as_current_span("job"):
        assert _labels.current_name() == "job"
    assert {key.name: key.route for key in seen.rows()} == {"job": ""}
    kept.end()


def test_a_name_is_trusted_again_after_a_while_without(seen: Watched, tracer: trace.Tracer):
    span = open_for(tracer, 400.0)
    seen.read()
    span.end()
    assert seen.probe.open_spans.suspects
    for _ in range(open_spans.CALM_READINGS + 1):
        seen.read()
    assert not seen.probe.open_spans.suspects
