"""Questions about memory at moments and between them, asked over a real gRPC server."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import (
    Definitions,
    HeapSnapshot,
    SiteColumns,
    SnapshotHeader,
    TypeColumns,
)
from glassbottom_collector.model.process import Process

from tests.support.memory_reader import MemoryReader
from tests.support.query_server import serving
from tests.support.query_store import MAIN, NOW, SHOP, START, A, Client, at, by_place, snapshot, store


@pytest.fixture
def client() -> Iterator[Client]:
    with serving(store(), NOW) as stub:
        yield stub


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
