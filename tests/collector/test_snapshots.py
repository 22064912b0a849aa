"""Labelled snapshots, listed and compared over a real gRPC server: what a name means, and what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from glassbottom.wire.v1 import query_pb2, snapshots_pb2, snapshots_pb2_grpc
from glassbottom_collector.model.heap import HeapSnapshot, MetricPoint
from glassbottom_collector.model.process import Process

from tests.support.memory_reader import MemoryReader
from tests.support.query_server import listening
from tests.support.query_store import NOW, SHOP, START, A, B, at, by_place, failure, snapshot

pytestmark = pytest.mark.once  # arithmetic over stored numbers: nothing in it differs between versions

Client = snapshots_pb2_grpc.SnapshotServiceStub
Reference = snapshots_pb2.SnapshotReference


def named(instance: str, at_s: float, message: float, *labels: str, epoch: int = 1) -> HeapSnapshot:
    """A snapshot that holds so much at one line, and 5 MB at another."""
    allocated = {"message": message * 1.1, "cache": 5e6 + 1e4 * max(at_s, 0)}
    heap = snapshot(instance, at_s, {"message": message, "cache": 5e6}, epoch=epoch, allocated=allocated)
    return replace(heap, labels=labels)


def store() -> MemoryReader:
    """Process A with a name at 10, 30 and 50 s, B at 10 and 50 s; both go on to 90 s."""
    reader = MemoryReader()
    for instance in (A, B):
        reader.add_process(Process("shop", instance, 7, START, {}))
        reader.add_snapshot(named(instance, 10, 4e6, "before"))
        reader.add_snapshot(named(instance, 30, 6e6, *(["before"] if instance == A else [])))
        reader.add_snapshot(named(instance, 50, 24e6 if instance == A else 4e6, "after", "after 500 requests"))
        reader.add_snapshot(named(instance, 90, 30e6 if instance == A else 4e6))
    for at_s, size in ((11, 100e6), (49, 120e6)):
        reader.add_metrics(A, [MetricPoint(at(at_s), "process.memory.usage", size)])
    return reader


@pytest.fixture
def client() -> Iterator[Client]:
    with listening(store(), NOW) as channel:
        yield Client(channel)


def diff(client: Client, before: str = "", after: str = "", **more: object) -> snapshots_pb2.DiffSnapshotsResponse:
    request = snapshots_pb2.DiffSnapshotsRequest(
        selector=SHOP, before=Reference(label=before), after=Reference(label=after), **more
    )
    return client.DiffSnapshots(request)


# --- Lists ---


def test_a_list_has_every_name_with_its_growth_from_the_first_of_its_process(client: Client) -> None:
    answer = client.ListSnapshots(snapshots_pb2.ListSnapshotsRequest(selector=SHOP))

    of_a = [each for each in answer.snapshots if each.instance_id == A]
    assert [(each.label, each.at_ns, each.baseline) for each in of_a] == [
        ("before", at(10), True),
        ("before", at(30), False),
        ("after", at(50), False),
        ("after 500 requests", at(50), False),
    ]
    assert [each.growth_bytes for each in of_a] == pytest.approx([0, 2e6, 20e6, 20e6])
    assert of_a[0].growth_bytes_stderr == 0
    assert of_a[2].growth_bytes_stderr == pytest.approx(
        (of_a[0].live_bytes_stderr ** 2 + of_a[2].live_bytes_stderr ** 2) ** 0.5
    )


def test_resident_memory_is_that_between_the_nearest_readings_and_unknown_without_one(client: Client) -> None:
    answer = client.ListSnapshots(snapshots_pb2.ListSnapshotsRequest(selector=SHOP))

    told = {(each.instance_id, each.at_ns): each.memory for each in answer.snapshots}
    assert (told[A, at(10)].resident_bytes, told[A, at(10)].at_ns) == (100e6, at(11))
    assert told[A, at(30)].resident_bytes == pytest.approx(110e6), "between two readings"
    assert told[A, at(50)].resident_bytes == 120e6
    assert not told[B, at(50)].resident_bytes


def test_the_parts_of_resident_memory_add_up_where_the_agent_tells_them() -> None:
    reader = store()
    told = [
        ("glassbottom.memory.resident", 70e6, "anonymous"),
        ("glassbottom.memory.resident", 30e6, "files"),
        ("glassbottom.pymalloc.memory", 20e6, "used"),
        ("glassbottom.pymalloc.memory", 5e6, "free"),
        ("glassbottom.malloc.memory", 25e6, "used"),
        ("glassbottom.malloc.memory", 4e6, "free"),
        ("glassbottom.heap.large", 10e6, ""),
    ]
    reader.add_metrics(
        A, [MetricPoint(at(11), name, value, (("kind", kind),) if kind else ()) for name, value, kind in told]
    )
    with listening(reader, NOW) as channel:
        answer = Client(channel).ListSnapshots(snapshots_pb2.ListSnapshotsRequest(selector=SHOP))

    first = next(each for each in answer.snapshots if each.instance_id == A).memory
    parts = {part.name: part.bytes for part in first.parts}
    assert parts["python"] == pytest.approx(30e6)
    assert parts["C heap"] == pytest.approx(15e6)
    assert (parts["pymalloc free"], parts["malloc free"], parts["files"]) == (5e6, 4e6, 30e6)
    assert sum(parts.values()) == pytest.approx(100e6)


def test_of_a_long_list_the_newest_are_shown_and_the_others_counted(client: Client) -> None:
    answer = client.ListSnapshots(snapshots_pb2.ListSnapshotsRequest(selector=SHOP, limit=2))

    assert len(answer.snapshots) == 2
    assert answer.more == 5
    assert {each.at_ns for each in answer.snapshots} == {at(50)}
    assert not any(each.baseline for each in answer.snapshots), "the baseline is one of those not shown"


def test_a_service_without_names_has_an_empty_list_and_an_unknown_one_none() -> None:
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START, {}))
    reader.add_snapshot(named(A, 10, 4e6))
    with listening(reader, NOW) as channel:
        client = Client(channel)
        assert not client.ListSnapshots(snapshots_pb2.ListSnapshotsRequest(selector=SHOP)).snapshots
        nobody = query_pb2.Selector(service="nobody")
        code, sentence = failure(client.ListSnapshots, snapshots_pb2.ListSnapshotsRequest(selector=nobody))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "there are shop" in sentence
        code, sentence = failure(client.DiffSnapshots, snapshots_pb2.DiffSnapshotsRequest(selector=SHOP))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "no baseline" in sentence


# --- Comparisons ---


def test_a_name_is_the_newest_of_that_name_in_each_process(client: Client) -> None:
    answer = diff(client, "before", "after")

    (change,) = answer.changes
    assert change.site.frame.function == "Socket.on_message"
    assert change.delta_bytes == pytest.approx(24e6 - 6e6)  # A from 30 s, B from 10 s, which did not change
    assert answer.delta_bytes == pytest.approx(18e6)
    assert (answer.before.label, answer.after.label) == ("before", "after")
    assert answer.before.totals.instances == answer.after.totals.instances == 2
    assert not answer.notes


def test_an_older_one_of_a_name_is_reached_by_its_number_and_only_where_there_is_one(client: Client) -> None:
    answer = diff(client, "before~1", "after")

    assert answer.delta_bytes == pytest.approx(20e6)
    assert answer.before.totals.instances == answer.after.totals.instances == 1
    assert answer.notes == ["1 process is left out: only the later side has it."]
    request = snapshots_pb2.DiffSnapshotsRequest(selector=SHOP, before=Reference(label="before~7"))
    assert failure(client.DiffSnapshots, request)[1] == (
        "No process has more than 2 snapshots named before, so before~7 is none."
    )


def test_without_names_the_baseline_is_compared_with_now(client: Client) -> None:
    answer = diff(client)

    assert answer.delta_bytes == pytest.approx(30e6 - 4e6)
    assert (answer.before.label, answer.after.label) == ("before", "")
    assert answer.after.totals.at_ns == at(90)


def test_the_earlier_of_two_is_never_one_that_was_taken_later(client: Client) -> None:
    """The newest "before" of A is older than its second one, seen from the snapshot that the second one is."""
    request = snapshots_pb2.DiffSnapshotsRequest(
        selector=SHOP, before=Reference(label="before"), after=Reference(label="no name", at_ns=at(30))
    )
    answer = client.DiffSnapshots(request)
    assert answer.delta_bytes == pytest.approx(2e6 + 2e6)

    code, sentence = failure(
        client.DiffSnapshots,
        snapshots_pb2.DiffSnapshotsRequest(
            selector=SHOP, before=Reference(label="after"), after=Reference(label="before")
        ),
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "exchange" in sentence


def test_a_moment_stands_in_for_a_name_that_does_not_exist(client: Client) -> None:
    request = snapshots_pb2.DiffSnapshotsRequest(
        selector=SHOP, before=Reference(label="10m", at_ns=at(20)), after=Reference(label="after", at_ns=at(95))
    )
    answer = client.DiffSnapshots(request)

    assert answer.delta_bytes == pytest.approx(20e6), "the name that exists is not the moment it could mean"
    assert (answer.before.totals.at_ns, answer.after.totals.at_ns) == (at(10), at(50))


def test_an_unknown_name_is_answered_with_those_there_are(client: Client) -> None:
    request = snapshots_pb2.DiffSnapshotsRequest(selector=SHOP, before=Reference(label="befor"))
    code, sentence = failure(client.DiffSnapshots, request)
    assert code is grpc.StatusCode.NOT_FOUND
    assert sentence == (
        "No snapshot of the last seven days is named befor; there are after, after 500 requests, before."
    )


def test_one_process_may_be_compared_alone_and_by_type(client: Client) -> None:
    one = query_pb2.Selector(service="shop", instance_id=A[:3])
    request = snapshots_pb2.DiffSnapshotsRequest(
        selector=one, before=Reference(label="before"), after=Reference(label="after"), group_by=query_pb2.GROUP_BY_TYPE
    )
    answer = client.DiffSnapshots(request)
    assert {name: round(site.live_bytes) for name, site in by_place(c.site for c in answer.changes).items()} == {
        "bytes": round(29e6 * 2 / 3),
        "dict": round(29e6 / 3),
    }
    assert answer.before.memory.resident_bytes == pytest.approx(110e6)


def test_resident_memory_of_several_processes_is_told_only_when_all_tell_it(client: Client) -> None:
    assert not diff(client, "before", "after").after.memory.resident_bytes


def test_a_sample_that_is_part_of_both_does_not_count_as_error(client: Client) -> None:
    answer = diff(client, "before", "after")
    before, after = answer.before.totals.live_bytes_stderr, answer.after.totals.live_bytes_stderr
    assert 0 < answer.delta_bytes_stderr < (before**2 + after**2) ** 0.5


def test_processes_of_before_and_after_a_restart_are_compared_and_the_answer_says_so() -> None:
    reader = MemoryReader()
    for instance, at_s, label in ((A, 10, "old"), (B, 60, "new")):
        reader.add_process(Process("shop", instance, 7, START, {}))
        reader.add_snapshot(named(instance, at_s, 4e6 if instance == A else 9e6, label))
    with listening(reader, NOW) as channel:
        answer = diff(Client(channel), "old", "new")

    assert answer.delta_bytes == pytest.approx(5e6)
    assert [note.partition(":")[0] for note in answer.notes] == ["No process has both"]


def test_processes_that_have_a_name_only_from_an_earlier_occasion_are_left_out_and_counted() -> None:
    reader = MemoryReader()
    for instance, base_s in ((A, -2000), (B, 10)):
        reader.add_process(Process("shop", instance, 7, START - 3 * 10**12, {}))
        reader.add_snapshot(named(instance, base_s, 4e6, "before"))
        reader.add_snapshot(named(instance, base_s + 20, 5e6 if instance == A else 7e6, "after"))
    with listening(reader, NOW) as channel:
        answer = diff(Client(channel), "before", "after")

    assert answer.delta_bytes == pytest.approx(3e6)
    assert answer.notes[0].startswith("1 other process")
