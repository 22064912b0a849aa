"""What a heap dump accuses, and what grew between two."""

from __future__ import annotations

from pathlib import Path

import pytest
from glassbottom_collector.heapdump import HeapDump, diff, load
from glassbottom_collector.model.heapdump import Growth

from tests.support.heap_dump_file import DumpFile

pytestmark = pytest.mark.once


@pytest.fixture
def opened(tmp_path: Path):
    """Writes a dump and loads it."""
    number = iter(range(100))

    def open_(dump: DumpFile) -> HeapDump:
        return load(dump.write(tmp_path / f"{next(number)}.dump"))

    return open_


def program(dump: DumpFile | None = None) -> DumpFile:
    """Twenty modules with classes and functions: what any process has, most of it reached on several ways."""
    dump = dump or DumpFile()
    classes = [dump.class_(f"lib{i}.Class", method=dump.add("function", dump.add("code", size=400))) for i in range(60)]
    for i in range(20):
        dump.module(f"lib{i}", **{f"C{j}": classes[(i * 3 + j) % 60] for j in range(6)}, text=dump.add("str", size=900))
    return dump


def session(dump: DumpFile, size: int = 2000) -> int:
    return dump.instance("app.ws.Session", buffer=dump.add("bytearray", size=size, length=size - 57))


# ---- suspects --------------------------------------------------------------------------------------------------------


def test_a_healthy_program_has_no_suspect(opened):
    assert opened(program()).suspects() == []


def test_a_list_that_keeps_everything_is_the_suspect_and_named_where_it_accumulates(opened):
    dump = program()
    held = dump.list([dump.add("method", __self__=session(dump)) for _ in range(300)])
    dump.module("app.ws", HANDLERS=dump.dict([(dump.add("app.Topic"), held)]))
    (suspect,) = opened(dump).suspects()

    assert suspect.point is not None
    assert (suspect.point.address, suspect.point.length) == (held, 300)
    assert str(suspect.path) == "app.ws.HANDLERS dict[1] -> list[300]"
    assert (suspect.type_name, suspect.objects) == ("list", 1)
    assert 0.8 < suspect.share < 1
    assert suspect.sentence.startswith("app.ws.HANDLERS dict[1] -> list[300] retains 6")
    assert suspect.sentence.endswith("% of the heap: 300 objects of method (app.ws.Session).")


def test_many_that_two_hold_are_one_suspect_with_the_holder_of_most(opened):
    """Neither list alone keeps a session alive, so no list retains them."""
    dump = program()
    sessions = [session(dump) for _ in range(300)]
    dump.module("app.ws", ALL=dump.list(sessions))
    dump.module("app.admin", WATCHED=dump.dict((dump.add("int", flags=0), each) for each in sessions))
    (suspect,) = opened(dump).suspects()

    assert (suspect.type_name, suspect.objects) == ("app.ws.Session", 300)
    assert str(suspect.path) in ("app.ws.ALL list[300]", "app.admin.WATCHED dict[300]")
    assert "300 objects of app.ws.Session retain" in suspect.sentence
    assert suspect.retained == 300 * (48 + 88 + 2000)


def test_what_a_running_function_holds_is_said_with_it(opened):
    dump = program()
    dump.frame("load", file="/srv/jobs.py", line=31, rows=dump.list([session(dump) for _ in range(200)]))
    (suspect,) = opened(dump).suspects()

    assert str(suspect.path) == "load(): rows list[200]"
    assert suspect.path is not None
    assert suspect.path.root == "thread 77 in load (/srv/jobs.py:31)"


def test_a_module_that_holds_much_in_many_places_is_said_with_the_largest(opened):
    dump = program()
    places = {f"PLACE_{i}": dump.add("bytes", size=40_000 + i, length=40_000, flags=0) for i in range(6)}
    dump.module("app.blobs", **places, **{f"small_{i}": dump.add("app.Small") for i in range(9)})
    dump.module("app.ws", OPEN=dump.list([dump.add("app.Row", size=9000) for _ in range(5)]))
    (suspect,) = opened(dump).suspects()

    assert str(suspect.path) == "app.blobs module"
    assert suspect.sentence.endswith("% of the heap: 6 objects of bytes and 9 others.")


def test_garbage_that_waits_for_a_collection_is_a_suspect_of_its_own(opened):
    dump = program()
    for _ in range(100):
        one = session(dump)
        dump.refer(one, dump.add("app.ws.Peer", __self__=one), "peer")
    (suspect,) = opened(dump).suspects()

    assert suspect.sentence.startswith("Garbage in reference cycles retains")
    assert suspect.sentence.endswith("until it is collected: 100 objects of app.ws.Session.")
    assert (suspect.type_name, suspect.objects, suspect.point, suspect.path) == ("app.ws.Session", 100, None, None)


def test_the_program_itself_is_never_a_suspect_however_little_else_there_is(opened):
    """Classes that two modules share are on top of the dominator tree, all together most of a small heap."""
    dump = DumpFile()
    classes = [dump.class_(f"lib.C{i}") for i in range(50)]
    for i in range(10):
        dump.module(f"lib{i}", **{f"C{j}": each for j, each in enumerate(classes)})
    heap = opened(dump)

    assert heap.types(1)[0].name in ("type", "module")
    assert heap.suspects() == []


def test_two_suspects_come_by_size(opened):
    dump = program()
    dump.module("app.cache", PAGES=dump.list([session(dump, 4000) for _ in range(200)]))
    dump.module("app.ws", OPEN=dump.list([session(dump, 2000) for _ in range(200)]))

    assert [str(each.path) for each in opened(dump).suspects()] == [
        "app.cache.PAGES list[200]",
        "app.ws.OPEN list[200]",
    ]


# ---- growth ----------------------------------------------------------------------------------------------------------


def kept(sessions: int, backwards: bool = False, pages: int = 50) -> DumpFile:
    """A service after so many sessions; backwards: the file lists modules in another order."""
    dump = program()

    def sockets() -> None:
        each = dump.list([dump.add("method", __self__=session(dump)) for _ in range(sessions)])
        dump.module("app.ws", HANDLERS=dump.dict([(dump.add("app.Topic"), each)]))

    def cache() -> None:
        dump.module("app.cache", PAGES=dump.list([session(dump, 500) for _ in range(pages)]))

    for make in (cache, sockets) if backwards else (sockets, cache):
        make()
    return dump


def by_type(rows: list[Growth]) -> dict[str, tuple[int, int, int, int]]:
    return {row.type_name: (row.objects_before, row.objects_after, row.size_before, row.size_after) for row in rows}


def test_growth_is_told_at_the_container_that_grew_by_type(opened):
    rows = diff(opened(kept(100)), opened(kept(160)))

    assert {row.path for row in rows} == {"app.ws.HANDLERS dict -> list"}
    assert by_type(rows) == {
        "bytearray": (100, 160, 200_000, 320_000),
        "app.ws.Session": (100, 160, 100 * 136, 160 * 136),
        "method": (100, 160, 6400, 160 * 64),
    }
    assert {(row.length_before, row.length_after) for row in rows} == {(100, 160)}
    assert [row.size_after - row.size_before for row in rows] == sorted(
        (row.size_after - row.size_before for row in rows), reverse=True
    )


def test_nothing_has_grown_in_the_same_process_a_moment_later(opened):
    assert diff(opened(kept(100)), opened(kept(100, backwards=True))) == []


def test_the_order_of_the_file_and_what_shrank_do_not_count_as_growth(opened):
    rows = diff(opened(kept(100, pages=90)), opened(kept(160, backwards=True, pages=20)))

    assert {row.path for row in rows} == {"app.ws.HANDLERS dict -> list"}


def test_a_cache_that_was_not_there_before_is_named_itself(opened):
    before, after = kept(100), kept(100)
    after.module("app.late", CACHE=after.dict((after.add("app.Key"), session(after)) for _ in range(80)))
    rows = diff(opened(before), opened(after))

    assert {row.path for row in rows} == {"app.late.CACHE dict"}
    assert by_type(rows)["bytearray"] == (0, 80, 0, 160_000)
    assert (rows[0].length_before, rows[0].length_after) == (None, 80)


def test_a_dictionary_whose_keys_are_names_grows_as_one(opened):
    def dump(entries: int) -> DumpFile:
        made = program()
        made.module("app", METRICS=made.dict(**{f"route_{i}": session(made) for i in range(entries)}))
        return made

    rows = diff(opened(dump(20)), opened(dump(60)))

    assert {row.path for row in rows} == {"app.METRICS dict"}
    assert by_type(rows)["app.ws.Session"][:2] == (20, 60)


def test_one_object_that_became_larger_is_named_itself(opened):
    def dump(size: int) -> DumpFile:
        made = program()
        made.module("app", LOG=made.add("bytearray", size=size, length=size - 57))
        return made

    (row,) = diff(opened(dump(10_000)), opened(dump(90_000)))

    assert (row.path, row.type_name, row.objects_before, row.objects_after) == ("app.LOG bytearray", "bytearray", 1, 1)
    assert (row.size_before, row.size_after, row.length_after) == (10_000, 90_000, 89_943)


def test_a_limit_keeps_what_grew_most(opened):
    rows = diff(opened(kept(100)), opened(kept(160)), limit=1)

    assert [row.type_name for row in rows] == ["bytearray"]
