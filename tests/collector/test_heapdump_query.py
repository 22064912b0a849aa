"""Questions about heap dumps, from the request to the answer: real dumps in a real store of captures."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from glassbottom.wire.v1 import heapdump_pb2, heapdump_pb2_grpc
from glassbottom_collector.api import heapdump_cache
from glassbottom_collector.api.heapdump import HeapDumps
from glassbottom_collector.api.heapdump_cache import StoredDumps
from glassbottom_collector.api.heapdump_query import HeapDumpAnswers
from glassbottom_collector.captures import CaptureStore
from glassbottom_collector.errors import BadRequest, HeapDumpError, NotFound
from glassbottom_collector.heapdump import HeapDump, load

from tests.support.async_server import serving
from tests.support.heap_dump_file import DumpFile
from tests.support.store_agent import TestClock
from tests.support.stored_dumps import SECOND, captures, chat, put

pytestmark = pytest.mark.once

NOW = 1_700_000_000 * SECOND
A, B = "aa1" + "0" * 29, "bb2" + "0" * 29
Selector = heapdump_pb2.DumpSelector


class Loads:
    """load(), and which files it was asked for."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def __call__(self, path: Path) -> HeapDump:
        self.files.append(path.name[:4])
        return load(path)


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: TestClock) -> CaptureStore:
    """Two dumps of one process, one of another, one of another service, and a capture that is no dump."""
    store = captures(tmp_path / "captures", clock)
    put(store, "c1", chat(100, at_ns=NOW - 600 * SECOND, instance_id=A), at_ns=NOW - 600 * SECOND, instance_id=A)
    put(store, "c2", chat(400, at_ns=NOW - 60 * SECOND, instance_id=A), at_ns=NOW - 60 * SECOND, instance_id=A)
    put(store, "d1", chat(10, at_ns=NOW - 90 * SECOND, instance_id=B), at_ns=NOW - 90 * SECOND, instance_id=B)
    put(store, "e1", chat(1, at_ns=NOW, instance_id=B), at_ns=NOW, instance_id=B, service="mail")
    put(store, "f1", b"Thread 7", at_ns=NOW, instance_id=A, kind="dump_stacks")
    return store


@pytest.fixture
def answers(store: CaptureStore) -> HeapDumpAnswers:
    return HeapDumpAnswers(StoredDumps(store))


def test_a_dump_is_named_by_a_prefix_of_its_id_or_is_the_newest_of_a_service(answers: HeapDumpAnswers) -> None:
    def named(**selector: str) -> str:
        return answers.describe(heapdump_pb2.DescribeDumpRequest(dump=Selector(**selector))).dump.capture_id[:2]

    assert named(capture_id="d1") == "d1"
    assert named(service="shop") == "c2", "the newest, and no capture that is none"
    assert named(service="shop", instance_id="bb2") == "d1"


@pytest.mark.parametrize(
    ("selector", "kind", "says"),
    [
        ({}, BadRequest, "No dump is named"),
        ({"capture_id": "c"}, BadRequest, "2 captures have an id that begins with c"),
        ({"capture_id": "99"}, NotFound, "There is no capture 99"),
        ({"capture_id": "f1"}, BadRequest, "is no heap dump but a dump_stacks"),
        ({"service": "search"}, NotFound, "take one with `glassbottom dump heap --service search`"),
        ({"service": "shop", "instance_id": "99"}, NotFound, "There is no heap dump of shop by process 99"),
    ],
)
def test_a_dump_that_is_not_there_is_told_with_what_to_do(
    selector: dict[str, str], kind: type[Exception], says: str, answers: HeapDumpAnswers
) -> None:
    with pytest.raises(kind, match=says):
        answers.describe(heapdump_pb2.DescribeDumpRequest(dump=Selector(**selector)))


def test_every_question_is_answered_with_the_dump_it_is_about(answers: HeapDumpAnswers) -> None:
    dump = Selector(capture_id="c2")

    summary = answers.describe(heapdump_pb2.DescribeDumpRequest(dump=dump)).dump
    assert (summary.service, summary.instance_id, summary.at_ns) == ("shop", A, NOW - 60 * SECOND)
    assert (summary.pause_ns, summary.complete) == (2_000_000, True)

    largest = answers.largest(heapdump_pb2.LargestObjectsRequest(dump=dump, limit=3))
    assert largest.dump == summary
    assert [each.retained for each in largest.objects] == sorted((o.retained for o in largest.objects), reverse=True)
    sessions = answers.largest(heapdump_pb2.LargestObjectsRequest(dump=dump, type="app.ws.Session", limit=3)).objects
    assert [each.type for each in sessions] == ["app.ws.Session"] * 3
    assert not sessions[0].HasField("length")

    types = answers.types(heapdump_pb2.TypeTotalsRequest(dump=dump))
    assert {each.name: each.objects for each in types.totals}["app.ws.Session"] == 450
    modules = answers.types(
        heapdump_pb2.TypeTotalsRequest(dump=dump, group_by=heapdump_pb2.TYPE_GROUPING_MODULE)
    ).totals
    assert {"app.ws", "builtins"} == {each.name for each in modules}

    suspects = answers.suspects(heapdump_pb2.LeakSuspectsRequest(dump=dump))
    assert "app.ws.HANDLERS" in suspects.suspects[0].sentence
    assert suspects.suspects[0].path.text.startswith("app.ws.HANDLERS list[400]")


def test_whose_a_dump_is_and_how_long_it_took_is_told_by_the_record(
    store: CaptureStore, answers: HeapDumpAnswers
) -> None:
    """The copy of a process that writes a dump knows neither its service's name nor how long the original waited."""
    content = DumpFile(service="", instance_id="").bytes()
    put(store, "ab", content, at_ns=NOW, instance_id=A, numbers={"pause_ms": 3.25})

    summary = answers.describe(heapdump_pb2.DescribeDumpRequest(dump=Selector(capture_id="ab"))).dump

    assert (summary.service, summary.instance_id, summary.pause_ns) == ("shop", A, 3_250_000)


def test_who_holds_a_type_and_who_holds_an_object(answers: HeapDumpAnswers) -> None:
    dump = Selector(capture_id="c2")

    found = answers.paths(heapdump_pb2.HolderPathsRequest(dump=dump, type="app.ws.Session"))
    assert [(path.objects, path.text.split(" ->")[0]) for path in found.paths] == [
        (400, "app.ws.HANDLERS list[400]"),
        (50, "app.pool.POOL list[50]"),
    ]

    one = found.paths[1].steps[-1]
    assert one.type == "app.ws.Session"
    (path,) = answers.paths(heapdump_pb2.HolderPathsRequest(dump=dump, address=one.address)).paths
    assert path.steps[-1].address == one.address
    assert path.text.startswith("app.pool.POOL")

    for wrong in ({}, {"type": "app.ws.Session", "address": one.address}):
        with pytest.raises(BadRequest, match="name one of the two"):
            answers.paths(heapdump_pb2.HolderPathsRequest(dump=dump, **wrong))
    with pytest.raises(HeapDumpError, match=r"no object of type app\.Sessio"):
        answers.paths(heapdump_pb2.HolderPathsRequest(dump=dump, type="app.Sessio"))


def test_the_tree_below_an_object_adds_up_and_says_what_it_leaves_out(answers: HeapDumpAnswers) -> None:
    dump = Selector(capture_id="c2")
    (path, _) = answers.paths(heapdump_pb2.HolderPathsRequest(dump=dump, type="app.ws.Session")).paths
    handlers = path.steps[-2]

    rows = answers.retained(
        heapdump_pb2.RetainedObjectsRequest(dump=dump, address=handlers.address, depth=2, limit=3)
    ).objects

    assert [(row.depth, row.type) for row in rows] == [
        (0, "list"),
        *[(1, "app.ws.Session"), (2, "bytes")] * 3,
    ]
    assert rows[0].children_left == 397
    whole = answers.retained(
        heapdump_pb2.RetainedObjectsRequest(dump=dump, address=handlers.address, depth=1, limit=1000)
    ).objects
    assert whole[0].retained == whole[0].size + sum(row.retained for row in whole[1:])


def test_the_whole_heap_begins_with_what_nothing_else_dominates(answers: HeapDumpAnswers) -> None:
    dump = Selector(capture_id="c2")

    response = answers.retained(heapdump_pb2.RetainedObjectsRequest(dump=dump))

    whole, *rows = response.objects
    assert (whole.text, whole.address, whole.retained) == ("the whole heap", 0, response.dump.size)
    assert {row.depth for row in rows} == {1}
    assert sum(row.retained for row in rows) == response.dump.size
    assert rows[0].text == "app.ws module"
    (whole, _) = answers.retained(heapdump_pb2.RetainedObjectsRequest(dump=dump, limit=1)).objects
    assert whole.children_left == len(rows) - 1


def test_what_grew_between_two_dumps_of_one_process(answers: HeapDumpAnswers) -> None:
    before, after = Selector(capture_id="c1"), Selector(capture_id="c2")

    response = answers.compare(heapdump_pb2.CompareDumpsRequest(before=before, after=after))

    row = next(each for each in response.growth if each.type == "app.ws.Session")
    assert "app.ws.HANDLERS" in row.path
    assert row.objects_after - row.objects_before == 300
    assert not response.notes


def test_a_comparison_says_what_makes_it_doubtful(answers: HeapDumpAnswers, store: CaptureStore) -> None:
    put(store, "c3", chat(5, at_ns=NOW, instance_id=A, end=False), at_ns=NOW, instance_id=A)

    def notes(before: str, after: str) -> str:
        request = heapdump_pb2.CompareDumpsRequest(before=Selector(capture_id=before), after=Selector(capture_id=after))
        return " ".join(answers.compare(request).notes)

    assert "of different processes" in notes("c1", "d1")
    assert "The second dump is the earlier one; exchange them" in notes("c2", "c1")
    assert "The second dump was cut short (the file was cut short)" in notes("c1", "c3")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (heapdump_pb2.LargestObjectsRequest(limit=1001), "use at most 1000"),
        (heapdump_pb2.RetainedObjectsRequest(depth=11), "ask for at most 10"),
    ],
)
def test_a_question_beyond_all_bounds_is_refused(request_: object, says: str, answers: HeapDumpAnswers) -> None:
    request_.dump.capture_id = "c1"  # type: ignore[attr-defined]
    ask = answers.largest if isinstance(request_, heapdump_pb2.LargestObjectsRequest) else answers.retained
    with pytest.raises(BadRequest, match=says):
        ask(request_)  # type: ignore[operator]


def test_a_dump_is_loaded_once_for_several_questions_and_let_go_when_others_need_the_room(store: CaptureStore) -> None:
    loads = Loads()
    dumps = StoredDumps(store, loads)
    for prefix in ("c1", "c1", "c2", "d1", "c1"):
        dumps.find(Selector(capture_id=prefix))
    assert loads.files == ["c100", "c200", "d100"]

    dumps.find(Selector(capture_id="e1"))
    assert dumps.statistics()["heap_dumps_loaded"] == heapdump_cache.DUMPS_MAX

    dumps.find(Selector(capture_id="c1"))
    assert loads.files == ["c100", "c200", "d100", "e100"], "it was asked about last"
    dumps.find(Selector(capture_id="c2"))
    assert loads.files[-1] == "c200", "it was asked about longest ago"


def test_a_dump_that_alone_is_too_large_stays_until_another_is_asked_about(
    store: CaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heapdump_cache, "OBJECTS_MAX", 10)
    loads = Loads()
    dumps = StoredDumps(store, loads)

    for prefix in ("c1", "c1", "c2", "c2", "c1"):
        dumps.find(Selector(capture_id=prefix))

    assert loads.files == ["c100", "c200", "c100"]
    assert dumps.statistics()["heap_dumps_loads_total"] == 3


def test_a_dump_nobody_asks_about_is_let_go(store: CaptureStore) -> None:
    now_s = 0.0
    loads = Loads()
    dumps = StoredDumps(store, loads, lambda: now_s)
    dumps.find(Selector(capture_id="c1"))

    now_s = heapdump_cache.IDLE_S - 1
    dumps.let_idle_go()
    assert dumps.statistics()["heap_dumps_loaded"] == 1
    now_s = heapdump_cache.IDLE_S + 1
    dumps.let_idle_go()
    assert dumps.statistics()["heap_dumps_loaded"] == 0


def test_a_dump_that_was_deleted_is_not_answered_from_memory(store: CaptureStore, clock: TestClock) -> None:
    dumps = StoredDumps(store)
    dumps.find(Selector(capture_id="c1"))
    clock.now_ns += 15 * 86_400 * SECOND
    store.retire()

    with pytest.raises(NotFound, match="was deleted"):
        dumps.find(Selector(capture_id="c1"))


def test_a_file_that_is_no_dump_is_a_sentence(store: CaptureStore) -> None:
    put(store, "ab", b"not a dump at all", at_ns=NOW, instance_id=A)

    with pytest.raises(HeapDumpError, match="is not a heap dump"):
        StoredDumps(store).find(Selector(capture_id="ab"))


def test_the_service_answers_over_grpc_and_an_error_is_a_status_with_its_sentence(store: CaptureStore) -> None:
    servicer = HeapDumps(StoredDumps(store))
    with serving(lambda server: heapdump_pb2_grpc.add_HeapDumpServiceServicer_to_server(servicer, server)) as channel:
        stub = heapdump_pb2_grpc.HeapDumpServiceStub(channel)
        dump = Selector(capture_id="c2")
        assert stub.DescribeDump(heapdump_pb2.DescribeDumpRequest(dump=dump)).dump.capture_id.startswith("c2")
        assert stub.LargestObjects(heapdump_pb2.LargestObjectsRequest(dump=dump)).objects
        assert stub.TypeTotals(heapdump_pb2.TypeTotalsRequest(dump=dump)).totals
        assert stub.HolderPaths(heapdump_pb2.HolderPathsRequest(dump=dump, type="Session")).paths
        assert stub.RetainedObjects(heapdump_pb2.RetainedObjectsRequest(dump=dump)).objects
        assert stub.LeakSuspects(heapdump_pb2.LeakSuspectsRequest(dump=dump)).suspects
        both = heapdump_pb2.CompareDumpsRequest(before=Selector(capture_id="c1"), after=dump)
        assert stub.CompareDumps(both).growth
        with pytest.raises(grpc.RpcError) as caught:
            stub.HolderPaths(heapdump_pb2.HolderPathsRequest(dump=dump, type="nothing.Such"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "no object of type nothing.Such" in caught.value.details()
