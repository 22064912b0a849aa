"""Spans, threads, descriptors, pauses and slow operations that are wrong; and all findings together."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.findings.finder import find
from glassbottom_collector.findings.gc import worst_stretch
from glassbottom_collector.model.code import Frame
from glassbottom_collector.model.finding import Severity
from glassbottom_collector.model.timing import OperationKind

from tests.support.count_curves import BENIGN, readings
from tests.support.memory_reader import MemoryReader
from tests.support.query_server import serving
from tests.support.told import (
    HANDLER,
    MAIN,
    WORKER,
    A,
    B,
    at,
    between,
    blocked,
    look,
    operation,
    operations,
    point,
    seen,
    service,
)
from tests.support.wrong import TIMES, WINDOW, findings, looks_of, noticed, steady_leak, the_finding

pytestmark = pytest.mark.once  # arithmetic over long series, and what they show does not depend on the version


COROUTINE, FUNCTION = OperationKind.COROUTINE, OperationKind.FUNCTION
POOL = Frame("_worker", "/usr/lib/python3.12/concurrent/futures/thread.py", 69)
FDS, THREADS = "glassbottom.fd.count", "glassbottom.thread.count"

# --- Spans ---


def test_spans_that_never_end_are_told_with_where_they_start():
    rows = [
        seen(100, "span.never_ended", "import", 40.0, 2),
        seen(200, "span.never_ended", "import", 140.0, 5, frame=HANDLER),
        seen(300, "span.never_ended", "import", 240.0, 9),
    ]
    finding = the_finding(service(look(0), noticed(*rows)))

    assert (finding.kind, finding.severity, finding.frame) == ("span.never_ended", Severity.WARNING, HANDLER)
    assert finding.sentence == (
        "9 spans named 'import' have not ended, the oldest after 4 min; they start at /srv/shop/orders.py:88."
    )
    assert (finding.count, finding.value) == (9, 240.0)


def test_a_single_span_that_stays_open_is_a_notice():
    finding = the_finding(service(look(0), noticed(seen(100, "span.never_ended", "stream", 400.0, 1))))

    assert finding.severity is Severity.NOTICE
    assert finding.frame is None


# --- Threads and descriptors ---


def counted(name: str, counts, **attributes):
    return [point(at_s, name, float(count), **attributes) for at_s, count in zip(TIMES, counts, strict=True)]


def with_metrics(*contents, metrics) -> MemoryReader:
    reader = service(*contents)
    reader.add_metrics(A, metrics)
    return reader


def test_threads_that_pile_up_are_told_by_their_target_with_its_place():
    counts = 3 + np.arange(60)
    metrics = [
        *counted(THREADS, counts, code_function_name="poll"),
        *counted(THREADS, np.full(60, 8), code_function_name="serve"),
        *counted("process.thread.count", counts + 9),
    ]
    finding = the_finding(
        with_metrics(noticed(seen(300, "thread.started", "poll", count=30, frame=WORKER)), metrics=metrics)
    )

    assert (finding.kind, finding.severity, finding.frame) == ("thread.leak", Severity.WARNING, WORKER)
    assert finding.sentence.startswith("62 threads that run `poll` are alive (/srv/shop/worker.py:12): from 3 to 62")
    assert finding.value == pytest.approx(0.1, rel=0.02)


def test_a_pool_of_a_library_may_fill():
    """Forty workers that came up one by one are anyio's pool; as many of the application's own are a leak."""
    counts = counted(THREADS, np.linspace(1, 40, 60).round(), code_function_name="_worker")

    def told(frame):
        place = noticed(seen(300, "thread.started", "_worker", count=30, frame=frame))
        return [each.kind for each in findings(with_metrics(place, metrics=counts))]

    assert told(POOL) == []
    assert told(WORKER) == ["thread.leak"]


def test_threads_without_a_known_target_are_found_in_their_sum():
    finding = the_finding(with_metrics(metrics=counted("process.thread.count", 8 + 2 * np.arange(60))))

    assert (finding.kind, finding.frame) == ("thread.leak", None)
    assert finding.sentence.startswith("126 threads are alive")


def test_descriptors_that_pile_up_are_told_by_type_with_where_most_are_opened():
    counts = 6 + np.arange(60) * 2
    path, other = (Frame("open", "/usr/lib/python3.12/pathlib.py", 9), HANDLER), (WORKER,)
    rows = [
        seen(100, "fd.opened", "", count=90, path=path, attributes={"fd.type": "file"}),
        seen(100, "fd.opened", "", count=20, path=other, attributes={"fd.type": "file"}),
        seen(100, "fd.opened", "", count=900, path=other, attributes={"fd.type": "socket"}),
    ]
    metrics = [
        *counted(FDS, counts, fd_type="file"),
        *counted(FDS, np.full(60, 12), fd_type="socket"),
        *counted("process.unix.file_descriptor.count", counts + 12),
    ]
    finding = the_finding(with_metrics(noticed(*rows, paths=[path, other]), metrics=metrics))

    assert (finding.kind, finding.severity, finding.frame) == ("fd.leak", Severity.WARNING, HANDLER)
    assert finding.sentence.startswith("124 files are open: from 6 to 124 in 9.83 min")
    assert finding.sentence.endswith("most are opened at /srv/shop/orders.py:88.")
    assert finding.path == path


def test_a_value_that_is_no_longer_told_is_none():
    """Sockets that were gone half-way are not carried on."""
    rising = counted(FDS, 5 + np.arange(60) * 3, fd_type="socket")[:30]
    others = counted(FDS, np.full(60, 10), fd_type="file")

    assert findings(with_metrics(metrics=[*rising, *others])) == ()


@pytest.mark.once
@pytest.mark.parametrize("kind", BENIGN)
def test_threads_and_descriptors_of_a_healthy_service_are_no_finding(kind):
    for seed in range(3):
        counts = readings(kind, 200 + seed, TIMES, ages=False).counts[:, 0]
        metrics = [*counted(FDS, counts, fd_type="socket"), *counted(THREADS, counts, code_function_name="poll")]
        place = noticed(seen(300, "thread.started", "poll", count=30, frame=WORKER))

        assert findings(with_metrics(place, metrics=metrics)) == ()


def test_descriptors_that_rise_with_the_load_are_no_finding():
    sockets = counted(FDS, (40 * (1 + TIMES / 200)).round(), fd_type="socket")

    def requests(per_interval):
        return [
            operations(float(n) * 10 - 10, float(n) * 10, operation("GET /", *[0.01] * int(count), span_kind="SERVER"))
            for n, count in enumerate(per_interval, 1)
        ]

    assert findings(with_metrics(*requests(20 * (1 + TIMES / 200)), metrics=sockets)) == ()
    assert [each.kind for each in findings(with_metrics(*requests(np.full(60, 20)), metrics=sockets))] == ["fd.leak"]


# --- Garbage collector ---


def pauses(share: float, **attributes):
    return counted("cpython.gc.pause_time", TIMES * share, cpython_gc_generation="2", **attributes)


def test_a_garbage_collector_that_takes_the_time_is_told_with_where_collections_begin():
    path = (HANDLER, MAIN)
    rows = [seen(100, "gc.pause", "2", 30.0, 10, path=path), seen(110, "gc.pause", "2", 3.0, 10, path=(WORKER,))]
    metrics = [*pauses(0.15), *counted("cpython.gc.pause_time", TIMES * 0.01, cpython_gc_generation="0")]
    finding = the_finding(with_metrics(noticed(*rows, paths=[path, (WORKER,)]), metrics=metrics))

    assert (finding.kind, finding.severity, finding.frame) == ("gc.thrash", Severity.WARNING, HANDLER)
    assert finding.sentence == (
        "The garbage collector took 16 % of the time (11.2 s of 70 s), most of it begun at /srv/shop/orders.py:88."
    )
    assert the_finding(with_metrics(metrics=pauses(0.3))).severity is Severity.CRITICAL


def test_a_collector_that_takes_its_usual_share_is_no_finding():
    assert findings(with_metrics(metrics=pauses(0.04))) == ()


def test_one_long_collection_is_no_habit_but_a_bad_minute_of_an_hour_is():
    times = np.arange(100.0)
    once = np.where(times >= 50, 0.6, 0.0)
    minute = np.clip(times - 60, 0, 20) * 0.3

    assert worst_stretch(times, once)[0] < 0.1
    assert worst_stretch(times, minute)[0] == pytest.approx(0.3)
    assert worst_stretch(times[:5], minute[:5]) is None


# --- Slow operations ---


def test_what_is_above_its_threshold_is_a_notice():
    reader = service(
        operations(
            0,
            10,
            operation("GET /orders", *[1.4] * 10, span_kind="SERVER", frame=HANDLER),
            operation("report", *[0.4] * 10, kind=FUNCTION, frame=WORKER),
            operation("crunch", *[0.4] * 10, kind=COROUTINE, busy_s=3.0),
        )
    )
    found = {each.kind: each for each in findings(reader)}

    assert set(found) == {"span.slow", "function.slow", "coroutine.slow"}
    assert {each.severity for each in found.values()} == {Severity.NOTICE}
    assert found["span.slow"].frame == HANDLER
    assert found["span.slow"].sentence.startswith("'GET /orders' took longer than 1 s 10 times of 10: p50 1.4 s")


def test_coroutines_that_wait_and_a_handful_of_slow_ones_are_no_finding():
    reader = service(
        operations(
            0,
            10,
            operation("serve", *[30.0] * 10, kind=COROUTINE, busy_s=0.2),
            operation("GET /orders", *[1.4] * 4, span_kind="SERVER"),
            operation("GET /quick", *[0.4] * 100, span_kind="SERVER"),
        )
    )

    assert findings(reader) == ()


# --- All together ---


def unwell() -> MemoryReader:
    rows = [
        blocked(100, "handle", 2.0, HANDLER),
        seen(10, "task.orphan", "Orders.fetch", path=(HANDLER,)),
        *(blocked(float(n), "worst", 1.0, WORKER) for n in range(200, 300)),
    ]
    return service(*looks_of(steady_leak()), noticed(*rows, paths=[(HANDLER,), (WORKER,)]))


def test_the_worst_is_first_and_what_is_left_out_is_said():
    with serving(unwell(), at(600)) as client:
        selector = query_pb2.Selector(service="shop")
        whole = client.Findings(query_pb2.FindingsRequest(selector=selector))
        cut = client.Findings(query_pb2.FindingsRequest(selector=selector, limit=1))

    assert [each.kind for each in whole.findings] == ["loop.blocked", "loop.blocked", "task.leak", "task.orphan"]
    assert [each.severity for each in whole.findings] == [
        query_pb2.SEVERITY_CRITICAL,
        query_pb2.SEVERITY_WARNING,
        query_pb2.SEVERITY_WARNING,
        query_pb2.SEVERITY_NOTICE,
    ]
    assert (whole.covered.from_ns, whole.covered.to_ns) == (at(0), at(590) + 1)
    assert list(cut.notes) == ["3 more findings are left out; raise the limit."]
    worst = whole.findings[0]
    assert (worst.frame.file, worst.first_ns, worst.last_ns) == (WORKER.file, at(200), at(299))
    assert worst.evidence[0].name == "share"


def test_one_process_can_be_asked_about():
    reader = service(*looks_of(steady_leak()), instances=(A, B))
    reader.add(B, look(10))

    assert [each.kind for each in find(reader, "shop", WINDOW, A).findings] == ["task.leak"]
    assert find(reader, "shop", WINDOW, B).findings == ()


def test_a_range_without_data_has_no_findings_and_says_so():
    report = find(service(look(10)), "shop", between(1000, 2000))

    assert (report.findings, report.covered) == ((), None)
    assert report.notes == ("Nothing was sent by shop in this range.",)
