"""Every question of query.proto, asked over a real gRPC server of a Reader that holds what agents sent."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from glassbottom.wire.v1 import query_pb2, query_pb2_grpc
from glassbottom_collector.model.code import Frame, Stack, stack_id, type_id
from glassbottom_collector.model.heap import (
    Definitions,
    HeapSeries,
    HeapSnapshot,
    MetricPoint,
    SiteColumns,
    SnapshotHeader,
    TypeColumns,
)
from glassbottom_collector.model.live import InstanceLive
from glassbottom_collector.model.process import Process, Span
from glassbottom_collector.storage import StoreStatistics

from tests.support.heap_curves import MB, Component, Curve, frames_of, series_of, stack_of
from tests.support.memory_reader import NO_DEFINITIONS, MemoryReader, snapshots_of
from tests.support.query_server import serving

SECOND = 10**9
START = 1_700_000_000 * SECOND
NOW = START + 100 * SECOND
A, B, OTHER = "aa1" + "0" * 29, "aa2" + "0" * 29, "bb3" + "0" * 29

HANDLER = Frame("Socket.on_message", "/srv/app/ws.py", 42)
CONNECT = Frame("Socket.on_connect", "/srv/app/ws.py", 20)
CACHE = Frame("Cache.put", "/srv/app/cache.py", 7)
MAIN = Frame("main", "/srv/app/main.py", 3)
PATHS = {
    "message": (HANDLER, MAIN),
    "message, from connect": (HANDLER, CONNECT, MAIN),
    "connect": (CONNECT, MAIN),
    "cache": (CACHE, MAIN),
}
STACKS = {
    name: Stack(stack_id(tuple(frame.id for frame in path)), tuple(frame.id for frame in path))
    for name, path in PATHS.items()
}
DEFINITIONS = Definitions(
    {frame.id: frame for path in PATHS.values() for frame in path},
    {stack.id: stack for stack in STACKS.values()},
    {type_id(name): name for name in ("bytes", "dict")},
)


def snapshot(
    instance_id: str,
    at_s: float,
    held: dict[str, float],
    *,
    epoch: int = 1,
    variance: float = 1e10,
    heap_variance: float | None = None,
    allocated: dict[str, float] | None = None,
) -> HeapSnapshot:
    """A complete snapshot; each path's objects are 1 000 bytes, two thirds of them bytes and the rest dicts."""
    names, live = list(held), np.array(list(held.values()))
    stacks = np.array([STACKS[name].id for name in names], dtype=np.uint64)
    count = len(names)
    header = SnapshotHeader(
        instance_id,
        epoch,
        START + int(at_s * SECOND),
        True,
        524_288.0,
        0.1,
        float(live.sum()),
        variance * count if heap_variance is None else heap_variance,
    )
    sites = SiteColumns(
        stack=stacks,
        live_bytes=live,
        live_bytes_variance=np.full(count, variance),
        live_objects=live / 1000,
        live_objects_variance=np.full(count, variance / 1e6),
        alloc_bytes=np.array([(allocated or held)[name] for name in names]),
        alloc_objects=live / 1000,
        samples=np.full(count, 5, dtype=np.uint32),
        birth_oldest_ms=np.full(count, START // 10**6, dtype=np.int64),
        birth_mean_ms=np.full(count, START // 10**6, dtype=np.int64),
        birth_minutes=np.ones(count, dtype=np.uint32),
    )
    types = TypeColumns(
        stack=np.repeat(stacks, 2),
        type=np.tile(np.array([type_id("bytes"), type_id("dict")], dtype=np.uint64), count),
        live_bytes=np.repeat(live, 2) * np.tile([2 / 3, 1 / 3], count),
        live_objects=np.repeat(live / 1000, 2) * np.tile([2 / 3, 1 / 3], count),
        samples=np.tile(np.array([3, 2], dtype=np.uint32), count),
    )
    return HeapSnapshot(header, sites, types, DEFINITIONS)


def store() -> MemoryReader:
    """Two processes of `shop`: one grows by 20 MB between 10 s and 90 s, the other holds still; and one of `mail`."""
    reader = MemoryReader()
    for service, instance in (("shop", A), ("shop", B), ("mail", OTHER)):
        reader.add_process(Process(service, instance, 7, START, {"host.name": "web1"}))
    for at_s, grown in ((10.0, 0.0), (50.0, 10e6), (90.0, 20e6)):
        reader.add_snapshot(
            snapshot(A, at_s, {"message": 5e6 + grown, "message, from connect": 2e6, "connect": 1e6, "cache": 3e6})
        )
        reader.add_snapshot(snapshot(B, at_s, {"message": 4e6, "cache": 6e6}))
        reader.add_metrics(A, [MetricPoint(START + int(at_s * SECOND), "process.memory.usage", 100e6 + grown)])
    reader.add_snapshot(snapshot(OTHER, 20.0, {"cache": 1e6}))
    return reader


Client = query_pb2_grpc.QueryServiceStub
SHOP = query_pb2.Selector(service="shop")


@pytest.fixture
def client() -> Iterator[Client]:
    with serving(store(), NOW) as stub:
        yield stub


def at(seconds: float) -> int:
    return START + int(seconds * SECOND)


def by_place(sites) -> dict[str, query_pb2.Site]:
    return {site.type or site.frame.function or site.frame.file: site for site in sites}


def failure(call, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(request)
        if not hasattr(answer, "DESCRIPTOR"):
            list(answer)
    return caught.value.code(), caught.value.details()


# --- Top ---


def test_top_by_line_sums_call_paths_and_processes_and_shows_the_path_that_holds_most(client):
    answer = client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=NOW))

    first = answer.sites[0]
    assert (first.frame.function, first.frame.file, first.frame.line) == ("Socket.on_message", "/srv/app/ws.py", 42)
    assert first.live_bytes == pytest.approx(31e6)
    assert first.live_objects == pytest.approx(31e3)
    assert first.samples == 15
    assert [frame.function for frame in first.path] == ["Socket.on_message", "main"]
    assert [(share.type, round(share.live_bytes)) for share in first.types] == [
        ("bytes", 20_666_667),
        ("dict", 10_333_333),
    ]
    assert [site.frame.function for site in answer.sites] == ["Socket.on_message", "Cache.put", "Socket.on_connect"]


def test_totals_are_those_of_the_whole_heap_whatever_is_listed(client):
    answer = client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=NOW, limit=1))

    assert len(answer.sites) == 1
    assert answer.totals.live_bytes == pytest.approx(31e6 + 10e6)
    assert answer.totals.live_bytes_stderr == pytest.approx((6 * 1e10) ** 0.5)
    assert answer.totals.resident_bytes == pytest.approx(120e6)
    assert (answer.totals.samples, answer.totals.instances, answer.totals.at_ns) == (30, 2, at(90))


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        (query_pb2.GROUP_BY_FUNCTION, {"Socket.on_message": 31e6, "Cache.put": 9e6, "Socket.on_connect": 1e6}),
        (query_pb2.GROUP_BY_FILE, {"/srv/app/ws.py": 32e6, "/srv/app/cache.py": 9e6}),
        (query_pb2.GROUP_BY_TYPE, {"bytes": 41e6 * 2 / 3, "dict": 41e6 / 3}),
    ],
)
def test_rows_stand_for_what_was_asked_for_and_lose_nothing(client, group_by, expected):
    answer = client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=NOW, group_by=group_by))

    assert {name: site.live_bytes for name, site in by_place(answer.sites).items()} == pytest.approx(expected)
    assert all(site.frame.line == 0 for site in answer.sites)


def test_what_no_type_covers_is_listed_as_unknown():
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START))
    whole = snapshot(A, 10.0, {"cache": 3e6})
    part = TypeColumns(*(getattr(whole.types, name)[:1] for name in TypeColumns.__dataclass_fields__))
    reader.add_snapshot(HeapSnapshot(whole.header, whole.sites, part, whole.definitions))
    with serving(reader, NOW) as client:
        answer = client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=NOW, group_by=query_pb2.GROUP_BY_TYPE))

    assert {name: round(site.live_bytes) for name, site in by_place(answer.sites).items()} == {
        "bytes": 2_000_000,
        "<unknown>": 1_000_000,
    }


def test_the_error_of_a_group_allows_for_shared_windows_but_never_exceeds_that_of_the_heap():
    """Two paths of one line: independent 1.41e5, caught by the same windows 2e5, and the heap as a whole 1.7e5."""
    errors = []
    for heap_variance in (2e10, 1.7e5**2, 9e10):
        reader = MemoryReader()
        reader.add_process(Process("shop", A, 7, START))
        held = {"message": 5e6, "message, from connect": 2e6}
        reader.add_snapshot(snapshot(A, 10.0, held, heap_variance=heap_variance))
        with serving(reader, NOW) as client:
            errors.append(client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=NOW)).sites[0].live_bytes_stderr)

    assert errors == pytest.approx([2e10**0.5, 1.7e5, 2e5])


def test_one_process_can_be_asked_for_by_the_beginning_of_its_id(client):
    answer = client.Top(query_pb2.TopRequest(selector=query_pb2.Selector(service="shop", instance_id="aa2"), at_ns=NOW))

    assert answer.totals.instances == 1
    assert answer.totals.live_bytes == pytest.approx(10e6)


def test_the_latest_snapshot_at_or_before_the_moment_counts(client):
    answer = client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=at(60)))

    assert answer.totals.at_ns == at(50)
    assert by_place(answer.sites)["Socket.on_message"].live_bytes == pytest.approx(21e6)


# --- Errors ---


@pytest.mark.parametrize("verb", ["Top", "Profile", "Diff", "Timeline", "Leaks", "Status"])
def test_an_unknown_service_is_not_found_and_the_message_lists_what_there_is(client, verb):
    nobody = query_pb2.Selector(service="shopp")
    request = {
        "Top": query_pb2.TopRequest(selector=nobody, at_ns=NOW),
        "Profile": query_pb2.ProfileRequest(selector=nobody, at_ns=NOW),
        "Diff": query_pb2.DiffRequest(selector=nobody, before_ns=at(10), after_ns=NOW),
        "Timeline": query_pb2.TimelineRequest(selector=nobody),
        "Leaks": query_pb2.LeaksRequest(selector=nobody),
        "Status": query_pb2.StatusRequest(service="shopp"),
    }[verb]

    assert failure(getattr(client, verb), request) == (
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
        ("Top", query_pb2.TopRequest(selector=SHOP, group_by=9), "group by line, function, file or type"),
        ("Timeline", query_pb2.TimelineRequest(selector=SHOP, range=query_pb2.Range(from_ns=9, to_ns=5)), "before"),
        ("Timeline", query_pb2.TimelineRequest(selector=SHOP, points=10**6), "at most 10000"),
        ("Diff", query_pb2.DiffRequest(selector=SHOP, after_ns=NOW), "The earlier moment is missing"),
        ("Diff", query_pb2.DiffRequest(selector=SHOP, before_ns=NOW, after_ns=at(50)), "exchange them"),
        ("Leaks", query_pb2.LeaksRequest(selector=SHOP, range=query_pb2.Range(from_ns=5, to_ns=5)), "before it begins"),
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


# --- Timeline, diff, profile ---


def test_a_timeline_has_one_value_per_step_and_a_process_that_fell_silent_leaves_the_sums():
    reader = store()
    for at_s in range(100, 400, 10):
        reader.add_snapshot(snapshot(A, float(at_s), {"message": 30e6}))
    with serving(reader, at(400)) as client:
        answer = client.Timeline(
            query_pb2.TimelineRequest(
                selector=SHOP, range=query_pb2.Range(from_ns=at(-50), to_ns=at(400)), points=9, sites=1
            )
        )
    series = {line.name: list(line.values) for line in answer.series}

    assert list(answer.at_ns) == [at(-50 + 50 * step) for step in range(9)]
    assert math.isnan(series["live_bytes"][0])
    assert series["live_bytes"][1:3] == pytest.approx([21e6, 41e6])
    assert series["live_bytes"][-1] == pytest.approx(30e6)
    assert series["instances"][1:3] == [2, 2]
    assert series["instances"][-1] == 1
    assert series["resident_bytes"][2] == pytest.approx(120e6)
    assert answer.series[3].frame.function == "Socket.on_message"
    assert series["Socket.on_message"][-1] == pytest.approx(30e6)
    assert all(len(line.values) == 9 for line in answer.series)


def test_a_diff_names_what_changed_most_and_says_whether_chance_explains_it(client):
    answer = client.Diff(query_pb2.DiffRequest(selector=SHOP, before_ns=at(10), after_ns=at(90)))

    (change,) = answer.changes
    assert change.site.frame.function == "Socket.on_message"
    assert change.delta_bytes == pytest.approx(20e6)
    assert change.delta_objects == pytest.approx(20e3)
    assert change.significant
    assert (answer.before.at_ns, answer.after.at_ns) == (at(10), at(90))
    assert answer.after.live_bytes - answer.before.live_bytes == pytest.approx(20e6)


def test_what_was_there_at_both_moments_does_not_blur_the_difference():
    """10 MB that stay and 2 MB more: the error is that of the 2 MB, unless the 10 MB may have been replaced."""
    errors = {}
    for name, allocated in (("stays", 12e6), ("replaced", 90e6)):
        reader = MemoryReader()
        reader.add_process(Process("shop", A, 7, START))
        reader.add_snapshot(snapshot(A, 10.0, {"cache": 10e6}, variance=10e12, allocated={"cache": 10e6}))
        reader.add_snapshot(snapshot(A, 90.0, {"cache": 12e6}, variance=12e12, allocated={"cache": allocated}))
        with serving(reader, NOW) as client:
            answer = client.Diff(query_pb2.DiffRequest(selector=SHOP, before_ns=at(10), after_ns=at(90)))
        errors[name] = answer.changes[0].delta_bytes_stderr
        assert not answer.changes[0].significant

    assert errors == pytest.approx({"stays": 2e12**0.5, "replaced": 22e12**0.5})


def test_a_site_that_is_gone_is_shown_as_it_was_and_other_epochs_share_nothing():
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START))
    reader.add_snapshot(snapshot(A, 10.0, {"cache": 10e6, "connect": 1e6}))
    reader.add_snapshot(snapshot(A, 90.0, {"connect": 1e6}, epoch=2))
    with serving(reader, NOW) as client:
        answer = client.Diff(query_pb2.DiffRequest(selector=SHOP, before_ns=at(10), after_ns=at(90)))

    (change,) = answer.changes
    assert change.site.frame.function == "Cache.put"
    assert change.site.live_bytes == pytest.approx(10e6)
    assert change.delta_bytes == pytest.approx(-10e6)


def test_the_rule_is_shown_beside_the_differences():
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START))
    for at_s, size in ((10.0, 1e6), (12.0, 9e6), (14.0, 17e6), (60.0, 17.1e6)):
        reader.add_snapshot(snapshot(A, at_s, {"cache": size}))
    with serving(reader, NOW) as client:
        answer = client.Diff(query_pb2.DiffRequest(selector=SHOP, before_ns=at(10), after_ns=at(90)))

    (hit,) = answer.rule_hits
    assert (hit.rule, hit.instance_id, hit.from_ns, hit.to_ns) == ("growth-over-1MiB-per-second", A, at(10), at(14))
    assert hit.bytes_per_second == pytest.approx(4e6)


def test_a_profile_adds_up_to_the_totals_and_comes_in_pieces_below_a_mebibyte():
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START))
    count = 12_000
    frames = [Frame(f"function_{number}", f"/srv/app/{'long_' * 20}{number}.py", number) for number in range(count)]
    stacks = [Stack(stack_id((frame.id, MAIN.id)), (frame.id, MAIN.id)) for frame in frames]
    curve_like = snapshot(A, 10.0, {"cache": 1000.0})
    columns = {name: np.resize(getattr(curve_like.sites, name), count) for name in SiteColumns.__dataclass_fields__} | {
        "stack": np.array([stack.id for stack in stacks], dtype=np.uint64)
    }
    known = Definitions({frame.id: frame for frame in [*frames, MAIN]}, {stack.id: stack for stack in stacks}, {})
    header = SnapshotHeader(A, 1, at(10), True, 524_288.0, 0.1, 1000.0 * count, 1e10)
    empty = TypeColumns(*(getattr(curve_like.types, name)[:0] for name in TypeColumns.__dataclass_fields__))
    reader.add_snapshot(HeapSnapshot(header, SiteColumns(**columns), empty, known))
    with serving(reader, NOW) as client:
        pieces = list(client.Profile(query_pb2.ProfileRequest(selector=SHOP, at_ns=NOW)))

    assert len(pieces) > 2
    assert max(piece.ByteSize() for piece in pieces) < 2**20
    assert sum(stack.live_bytes for piece in pieces for stack in piece.stacks) == pytest.approx(1000.0 * count)
    assert pieces[0].totals.live_bytes == pytest.approx(1000.0 * count)
    assert not any(piece.HasField("totals") for piece in pieces[1:])
    given: set[int] = set()
    for piece in pieces:
        new = {frame.id for frame in piece.frames}
        assert not new & given
        given |= new
        assert all(frame in given for stack in piece.stacks for frame in stack.frames)


def test_the_profile_of_a_difference_has_both_moments(client):
    pieces = list(client.Profile(query_pb2.ProfileRequest(selector=SHOP, at_ns=at(90), before_ns=at(10))))

    assert sum(stack.live_bytes for stack in pieces[0].stacks) == pytest.approx(41e6)
    assert sum(stack.before_live_bytes for stack in pieces[0].stacks) == pytest.approx(21e6)
    assert pieces[0].before.live_bytes == pytest.approx(21e6)
    assert pieces[0].interval_bytes == 524_288.0


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
    assert {"trend", "age", "noise", "warm-up", "step", "tail", "live", "size"} == {e.name for e in finding.evidence}
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
