"""Questions about a service as a whole, its leaks, and how questions fail, asked over a real gRPC server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.model.code import type_id
from glassbottom_collector.model.heap import (
    Definitions,
    HeapSeries,
    HeapSnapshot,
    TypeColumns,
)
from glassbottom_collector.model.live import InstanceLive
from glassbottom_collector.model.process import Process, Span
from glassbottom_collector.storage import StoreStatistics

from tests.support.heap_curves import MB, Component, Curve, frames_of, series_of, stack_of
from tests.support.memory_reader import NO_DEFINITIONS, MemoryReader, snapshots_of
from tests.support.query_server import serving
from tests.support.query_store import NOW, OTHER, SECOND, SHOP, START, A, B, Client, at, failure, store

TIME = query_pb2.PROFILE_KIND_TIME


@pytest.fixture
def client() -> Iterator[Client]:
    with serving(store(), NOW) as stub:
        yield stub


# --- Errors ---


@pytest.mark.parametrize(
    "verb", ["Top", "Profile", "Diff", "Timeline", "Leaks", "Status", "Slow", "Tasks", "Blocked", "Findings", "Time"]
)
def test_an_unknown_service_is_not_found_and_the_message_lists_what_there_is(client, verb):
    nobody = query_pb2.Selector(service="shopp")
    request = {
        "Top": query_pb2.TopRequest(selector=nobody, at_ns=NOW),
        "Profile": query_pb2.ProfileRequest(selector=nobody, at_ns=NOW),
        "Diff": query_pb2.DiffRequest(selector=nobody, before_ns=at(10), after_ns=NOW),
        "Timeline": query_pb2.TimelineRequest(selector=nobody),
        "Leaks": query_pb2.LeaksRequest(selector=nobody),
        "Status": query_pb2.StatusRequest(service="shopp"),
        "Slow": query_pb2.SlowRequest(selector=nobody),
        "Tasks": query_pb2.TasksRequest(selector=nobody),
        "Blocked": query_pb2.BlockedRequest(selector=nobody),
        "Findings": query_pb2.FindingsRequest(selector=nobody),
        "Time": query_pb2.ProfileRequest(selector=nobody, kind=query_pb2.PROFILE_KIND_TIME),
    }[verb]

    assert failure(getattr(client, "Profile" if verb == "Time" else verb), request) == (
        grpc.StatusCode.NOT_FOUND,
        "No service named shopp has sent data; there are mail, shop.",
    )


def test_an_unknown_instance_is_not_found_and_the_message_lists_what_there_is(client):
    selector = query_pb2.Selector(service="shop", instance_id="ff")
    code, message = failure(client.Top, query_pb2.TopRequest(selector=selector, at_ns=NOW))

    assert code == grpc.StatusCode.NOT_FOUND
    assert A in message
    assert B in message


def test_an_ambiguous_instance_is_refused_with_the_candidates(client):
    selector = query_pb2.Selector(service="shop", instance_id="aa")
    code, message = failure(client.Leaks, query_pb2.LeaksRequest(selector=selector))

    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "use more of it" in message
    assert A in message


@pytest.mark.parametrize(
    ("verb", "request_", "said"),
    [
        ("Top", query_pb2.TopRequest(at_ns=NOW), "No service is named; seen lately are mail, shop."),
        ("Top", query_pb2.TopRequest(selector=SHOP, limit=10**6), "use at most 10000"),
        ("Top", query_pb2.TopRequest(selector=SHOP, group_by=9), "group by line, function, file, type or route"),
        ("Timeline", query_pb2.TimelineRequest(selector=SHOP, range=query_pb2.Range(from_ns=9, to_ns=5)), "before"),
        ("Timeline", query_pb2.TimelineRequest(selector=SHOP, points=10**6), "at most 10000"),
        ("Diff", query_pb2.DiffRequest(selector=SHOP, after_ns=NOW), "The earlier moment is missing"),
        ("Diff", query_pb2.DiffRequest(selector=SHOP, before_ns=NOW, after_ns=at(50)), "exchange them"),
        ("Leaks", query_pb2.LeaksRequest(selector=SHOP, range=query_pb2.Range(from_ns=5, to_ns=5)), "before it begins"),
        ("Profile", query_pb2.ProfileRequest(selector=SHOP, thread="main"), "not told by thread"),
        ("Profile", query_pb2.ProfileRequest(selector=SHOP, kind=TIME, before_ns=5), "not compared"),
        ("Profile", query_pb2.ProfileRequest(selector=SHOP, kind=TIME, from_ns=at(9), at_ns=at(5)), "exchange them"),
        ("Slow", query_pb2.SlowRequest(selector=SHOP, kinds=[9]), "ask for spans, coroutines or functions"),
        ("Slow", query_pb2.SlowRequest(selector=SHOP, span_ms=-1), "give milliseconds above 0"),
        ("Findings", query_pb2.FindingsRequest(selector=SHOP, limit=10**6), "use at most 10000"),
    ],
)
def test_a_bad_question_is_refused_with_what_would_be_right(client, verb, request_, said):
    code, message = failure(getattr(client, verb), request_)

    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert said in message


def test_a_moment_without_data_says_where_the_data_is(client):
    code, message = failure(client.Top, query_pb2.TopRequest(selector=SHOP, at_ns=at(-3600)))

    assert code == grpc.StatusCode.NOT_FOUND
    assert "2023-11-14T22:13:30Z to 2023-11-14T22:14:50Z" in message


class Broken(MemoryReader):
    def services(self, within: Span):
        raise RuntimeError("secret detail")


def test_what_nobody_foresaw_is_one_sentence_and_keeps_its_details_in_the_log(caplog):
    with serving(Broken(), NOW) as client:
        code, message = failure(client.ListServices, query_pb2.ListServicesRequest())

    assert code == grpc.StatusCode.INTERNAL
    assert "secret" not in message
    assert "secret detail" in caplog.text


# --- Services and status ---


def live(instance_id: str, *, service: str = "shop", connected: bool = True) -> InstanceLive:
    return InstanceLive(
        Process(service, instance_id, 7, START), "0.1.0", connected, NOW - 1, "running", "", {"samples": 3.0}, 0.25
    )


def test_services_join_what_is_stored_with_what_is_connected_but_has_sent_nothing_yet():
    with serving(store(), NOW, [live(A), live(B, connected=False), live("c" * 32, service="new")]) as client:
        answer = client.ListServices(query_pb2.ListServicesRequest(range=query_pb2.Range(from_ns=START, to_ns=NOW)))
    services = {service.name: service for service in answer.services}

    assert list(services) == ["mail", "new", "shop"]
    assert (services["shop"].instances, services["shop"].instances_connected) == (2, 1)
    assert services["shop"].live_bytes == pytest.approx(31e6)
    assert services["shop"].resident_bytes == pytest.approx(120e6)
    assert (services["new"].instances, services["new"].instances_connected) == (1, 1)
    assert (services["mail"].instances_connected, services["mail"].last_seen_ns) == (0, at(20))


def test_status_shows_the_collector_and_every_process_connected_or_not():
    statistics = StoreStatistics({"rows_total": 5.0}, ("The day file 2023-11-13 cannot be read; it was set aside.",))
    with serving(store(), NOW, [live(A)], statistics) as client:
        answer = client.Status(query_pb2.StatusRequest())
        one = client.Status(query_pb2.StatusRequest(service="mail"))
    found = {instance.process.instance_id: instance for instance in answer.instances}

    assert dict(answer.collector.statistics) == {"rows_total": 5.0}
    assert list(answer.collector.problems) == ["The day file 2023-11-13 cannot be read; it was set aside."]
    assert set(found) == {A, B, OTHER}
    assert (found[A].connected, found[A].sampler_state, found[A].clock_skew_s) == (True, "running", 0.25)
    assert (found[B].connected, found[B].sampler_state, found[B].last_seen_ns) == (False, "unknown", at(90))
    assert dict(found[B].process.attributes) == {"host.name": "web1"}
    assert [instance.process.instance_id for instance in one.instances] == [OTHER]


# --- Leaks ---

TIMES = np.arange(50) * 2.0


def leaking() -> MemoryReader:
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START - 3600 * SECOND))
    curves = [
        Curve("leak", (Component(TIMES * 2 * MB, age_s=0.0),)),
        Curve("flat", (Component(np.full(50, 30 * MB)),)),
    ]
    series = series_of(curves, TIMES, seed=1, instance_id=A)
    known = Definitions(
        {frame.id: frame for index in range(2) for frame in frames_of(index)},
        {stack_of(index).id: stack_of(index) for index in range(2)},
        {type_id("bytes"): "bytes"},
    )
    for each in snapshots_of(series, known):
        held = TypeColumns(
            each.sites.stack,
            np.full(2, type_id("bytes"), dtype=np.uint64),
            each.sites.live_bytes,
            each.sites.live_objects,
            each.sites.samples,
        )
        reader.add_snapshot(HeapSnapshot(each.header, each.sites, held, each.definitions))
    return reader


def test_leaks_tell_their_progress_and_end_with_one_report():
    with serving(leaking(), NOW) as client:
        messages = list(client.Leaks(query_pb2.LeaksRequest(selector=SHOP)))

    assert [message.WhichOneof("message") for message in messages[:-1]] == ["progress"] * (len(messages) - 1)
    assert len(messages) > 3
    report = messages[-1].report
    (finding,) = report.findings
    assert finding.verdict == query_pb2.VERDICT_LEAK
    assert finding.site.frame.function == "Handler0.on_message"
    assert [frame.function for frame in finding.site.path] == ["Handler0.on_message", "main"]
    assert [share.type for share in finding.site.types] == ["bytes"]
    assert finding.bytes_per_second_low < 2 * MB < finding.bytes_per_second_high
    tests = {"trend", "age", "noise", "warm-up", "step", "tail", "live", "size", "confirmation", "looks", "early"}
    assert {each.name for each in finding.evidence} == tests
    assert all(each.supports_leak for each in finding.evidence)
    assert (report.sites_examined, report.snapshots) == (2, 50)
    assert report.totals.instances == 1


def test_all_lists_stable_sites_too():
    with serving(leaking(), NOW) as client:
        *_, last = client.Leaks(query_pb2.LeaksRequest(selector=SHOP, all=True))

    assert [finding.verdict for finding in last.report.findings] == [query_pb2.VERDICT_LEAK, query_pb2.VERDICT_STABLE]


def test_a_range_without_snapshots_says_where_the_data_is():
    with serving(leaking(), NOW) as client:
        code, message = failure(
            client.Leaks,
            query_pb2.LeaksRequest(selector=SHOP, range=query_pb2.Range(from_ns=at(-7200), to_ns=at(-3600))),
        )

    assert code == grpc.StatusCode.NOT_FOUND
    assert "its data reaches from" in message


class Slow(MemoryReader):
    """Yields series for ever, and notices when it is left."""

    def __init__(self, series: HeapSeries) -> None:
        super().__init__()
        self.series = series
        self.left = threading.Event()

    def heap_series(self, service: str, within: Span, instance_id: str | None = None) -> Iterator[HeapSeries]:
        try:
            while True:
                yield self.series
        finally:
            self.left.set()


def test_a_cancelled_analysis_stops():
    curves = [Curve("flat", (Component(np.full(50, 30 * MB)),))]
    series = series_of(curves, TIMES, seed=1, instance_id=A)
    reader = Slow(series)
    reader.add_process(Process("shop", A, 7, START))
    for each in snapshots_of(series, NO_DEFINITIONS):
        reader.add_snapshot(each)
    with serving(reader, NOW) as client:
        call = client.Leaks(query_pb2.LeaksRequest(selector=SHOP))
        next(call)
        call.cancel()

        assert reader.left.wait(20)
