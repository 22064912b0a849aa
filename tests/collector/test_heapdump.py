"""What a heap dump answers: paths as people read them, totals, suspects."""

from __future__ import annotations

from pathlib import Path

import pytest
from glassbottom_collector.errors import HeapDumpError
from glassbottom_collector.heapdump import HeapDump, load

from tests.support.heap_dump_file import IMMORTAL, IN_GC, WEAK, DumpFile

pytestmark = pytest.mark.once


@pytest.fixture
def opened(tmp_path: Path):
    """Writes a dump and loads it."""

    def open_(dump: DumpFile, **how: bool) -> HeapDump:
        return load(dump.write(tmp_path / "heap.dump", **how))

    return open_


def service(sessions: int = 18_204, dump: DumpFile | None = None) -> DumpFile:
    """Handlers that keep a bound method of every session."""
    dump = dump or DumpFile()
    held = [
        dump.add("method", __self__=dump.instance("app.ws.Session", buffer=dump.add("bytearray", size=100, length=43)))
        for _ in range(sessions)
    ]
    cls = dump.class_("app.ws.Session", limits=dump.list([dump.add("int", flags=0)]))
    dump.module("app.ws", HANDLERS=dump.dict([(dump.add("app.Topic"), dump.list(held))]), Session=cls)
    return dump


def only(texts: list[str]) -> str:
    (text,) = texts
    return text


def ways(dump: HeapDump, type_name: str) -> list[str]:
    return [str(path) for path in dump.paths(type_name=type_name)]


def test_a_path_reads_from_the_name_to_the_object(opened):
    dump = opened(service())
    (path,) = dump.paths(type_name="app.ws.Session")

    assert str(path) == "app.ws.HANDLERS dict[1] -> list[18 204] -> bound method -> Session"
    assert path.root == "module app.ws"
    assert path.objects == 18_204
    assert path.retained == 18_204 * (48 + 64 + 24 + 100)
    assert [step.type_name for step in path.steps] == ["dict", "list", "method", "app.ws.Session"]
    assert path.steps[1].length == 18_204
    assert dump.holders("Session") == [path]


def test_a_coroutine_is_called_by_its_function_and_told_apart_from_others(opened):
    dump = DumpFile()
    tasks = [
        dump.call(dump.add("coroutine", held=dump.add("app.Row")), function)
        for function in ("Session.run", "main.<locals>.pump", "Session.run")
    ]
    dump.module("app", TASKS=dump.list(tasks), MAIN=dump.call(dump.add("coroutine"), "main"))
    heap = opened(dump)

    assert {(str(path), path.objects) for path in heap.paths(type_name="app.Row")} == {
        ("app.TASKS list[3] -> coroutine Session.run -> .held Row", 2),
        ("app.TASKS list[3] -> coroutine main.<locals>.pump -> .held Row", 1),
    }
    assert "app.MAIN coroutine main" in {str(path) for path in heap.paths(type_name="coroutine")}
    assert [(total.name, total.objects) for total in heap.types() if total.name == "coroutine"] == [("coroutine", 4)]


def test_attributes_of_classes_locals_of_frames_and_keys_are_said(opened):
    dump = service(2)
    key = dump.add("app.Key")
    dump.frame("serve", pending=dump.dict([(key, dump.add("app.Job"))]))
    dump.frame("serve", line=9, named=dump.dict(worker=dump.add("app.Worker")))
    dump.root(1, dump.dict(first=dump.add("app.Hook")), "gc.callbacks")
    dump.add("ext.Reader", references=1)
    heap = opened(dump)

    assert ways(heap, "int") == ["app.ws.Session.limits list[1] -> int"]
    assert ways(heap, "app.ws.Session") == ["app.ws.HANDLERS dict[1] -> list[2] -> bound method -> Session"]
    assert ways(heap, "bytearray") == [
        "app.ws.HANDLERS dict[1] -> list[2] -> bound method -> Session -> .buffer bytearray[43]"
    ]
    assert ways(heap, "app.Key") == ["serve(): pending dict[1] -> key Key"]
    assert ways(heap, "app.Worker") == ['serve(): named dict[1] -> ["worker"] Worker']
    assert ways(heap, "app.Hook") == ['gc.callbacks dict[1] -> ["first"] Hook']
    assert ways(heap, "ext.Reader") == ["held by C code: Reader"]
    assert ways(heap, "type") == ["app.ws.Session class"]
    assert ways(heap, "module") == ["app.ws module"]
    assert heap.paths(type_name="app.Key")[0].root == "thread 77 in serve (/srv/app.py:3)"


def test_different_ways_are_told_apart_and_counted_most_first(opened):
    dump = DumpFile()
    many, few = dump.list([dump.add("app.Row") for _ in range(5)]), dump.list([dump.add("app.Row") for _ in range(2)])
    dump.module("app", CACHE=many, QUEUE=few)
    found = opened(dump).paths(type_name="app.Row")

    assert [(str(path), path.objects) for path in found] == [
        ("app.CACHE list[5] -> Row", 5),
        ("app.QUEUE list[2] -> Row", 2),
    ]


def test_one_object_is_reached_on_the_shortest_way_first_then_through_others_that_hold_it(opened):
    dump = DumpFile()
    row = dump.add("app.Row")
    outer = dump.list([dump.list([row])], type_name="tuple")
    dump.module("app", DEEP=outer, NEAR=dump.instance("app.Table", first=row))

    assert [str(path) for path in opened(dump).paths(address=row)] == [
        "app.NEAR Table -> .first Row",
        "app.DEEP tuple[1] -> list[1] -> Row",
    ]


def test_the_application_names_what_a_library_holds_as_well(opened):
    dump = DumpFile()
    shared = dump.list([dump.add("app.Row")])
    for name in ("asyncio.events", "shop.cart", "logging"):
        dump.module(name, KEPT=shared)

    assert ways(opened(dump), "app.Row") == ["shop.cart.KEPT list[1] -> Row"]


def chain(links: int = 5001) -> DumpFile:
    """Links that each hold the next."""
    dump = DumpFile()
    link = dump.instance("app.Link")
    for _ in range(links - 1):
        link = dump.instance("app.Link", next=link)
    dump.module("app", FIRST=link)
    return dump


def test_a_chain_of_links_is_one_step_however_long(opened):
    dump = chain()
    most, one = opened(dump).paths(type_name="app.Link")

    assert (str(most), most.objects) == ("app.FIRST Link -> .next Link", 5000)
    assert (str(one), one.objects, one.retained) == ("app.FIRST Link", 1, opened(dump).summary().size - 56 - 88)


def test_a_class_without_objects_is_part_of_the_name_as_well(opened):
    dump = DumpFile()
    dump.module("app", Base=dump.instance("type", size=900, registry=dump.list([dump.add("app.Plugin")])))
    dump.module("app.more", ALL=dump.list([dump.instance("type", size=900, kinds=dump.list([dump.add("app.Kind")]))]))

    assert ways(opened(dump), "app.Plugin") == ["app.Base.registry list[1] -> Plugin"]
    assert ways(opened(dump), "app.Kind") == ["app.more.ALL list[1] -> class -> .kinds list[1] -> Kind"]


def test_what_belongs_to_an_object_counts_as_its_own(opened):
    dump = DumpFile()
    shared = dump.dict(name=dump.add("str", size=60, flags=0))
    own = dump.instance("app.Own", value=dump.add("app.Big", size=5000))
    dump.module("app", OWN=own, SHARED=dump.add("app.Shared", size=48, __dict__=shared), PEEK=dump.list([shared]))
    heap = opened(dump)

    (found,) = heap.largest(type_name="app.Own")
    assert (found.size, found.retained) == (48 + 88, 48 + 88 + 5000)
    assert [child.type_name for child in heap.children(own)] == ["app.Big"]
    (found,) = heap.largest(type_name="app.Shared")
    assert (found.size, found.retained) == (48, 48), "its dictionary is held by another as well"
    assert {total.name for total in heap.types()} == {
        "module",
        "list",
        "dict",
        "str",
        "app.Own",
        "app.Shared",
        "app.Big",
    }


def test_a_dictionary_with_attributes_of_its_own_is_shown(opened):
    """An object may have a dictionary of a class of one's own, and that again a dictionary."""
    dump = DumpFile()
    attributes = dump.add("app.Attributes", __dict__=dump.dict(note=dump.add("app.Note")), row=dump.add("app.Row"))
    dump.module("app", OWN=dump.add("app.Own", __dict__=attributes))
    heap = opened(dump)

    assert ways(heap, "app.Row") == ["app.OWN Own -> Attributes -> .row Row"]
    assert ways(heap, "app.Note") == ["app.OWN Own -> Attributes -> .note Note"]


def test_the_entry_of_that_name_in_a_dictionary_is_an_entry(opened):
    """Every class has one in its dictionary; and somebody may put a dictionary under that name."""
    dump = DumpFile()
    cls = dump.class_("app.Plugin", __dict__=dump.add("getset_descriptor"), registry=dump.list([dump.add("app.Row")]))
    dump.module("app", Plugin=cls, TABLE=dump.dict(__dict__=dump.dict(row=dump.add("app.Other"))))
    heap = opened(dump)

    assert ways(heap, "app.Row") == ["app.Plugin.registry list[1] -> Row"]
    assert ways(heap, "app.Other") == ['app.TABLE dict[1] -> dict[1] -> ["row"] Other']


def test_a_module_holds_what_its_functions_refer_to_by_its_names(opened):
    """A function of it that another module has got does not take away what it retains."""
    dump = DumpFile()
    handler = dump.add("function")
    module = dump.module("app.ws", handler=handler, CACHE=dump.list([dump.add("app.Row", size=9000)]))
    names = next(address for address, one in dump.objects.items() if (handler, "handler") in one.edges)
    dump.refer(handler, names, "__globals__")
    dump.module("app.main", on_message=handler)
    (found,) = (each for each in opened(dump).largest(type_name="module") if each.address == module)

    assert found.retained > 9000


def test_weak_references_hold_nothing(opened):
    dump = DumpFile()
    row = dump.add("app.Row", references=1)
    dump.module("app", REF=dump.add("weakref", row, flags=IN_GC | WEAK))

    assert ways(opened(dump), "app.Row") == ["held by C code: Row"]


def test_what_is_immortal_is_kept_by_nobody(opened):
    dump = DumpFile()
    shared = dump.add("str", flags=IMMORTAL, size=500)
    dump.module("app", ROW=dump.list([shared]))

    assert opened(dump).largest(type_name="list")[0].retained == 64


def test_types_and_modules_retain_what_hangs_below_several_of_them_once(opened):
    dump = DumpFile()
    inner = dump.instance("app.Node", size=10, payload=dump.add("bytes", size=1000, flags=0))
    outer = dump.instance("app.Node", size=10, child=inner)
    dump.module("app", TOP=outer)
    heap = opened(dump)
    totals = {total.name: total for total in heap.types()}

    assert (totals["app.Node"].objects, totals["app.Node"].size) == (2, 2 * (10 + 88))
    assert totals["app.Node"].retained == 1000 + 2 * (10 + 88)
    assert {total.name: total.retained for total in heap.modules()}["app"] == totals["app.Node"].retained
    assert [total.name for total in heap.types(limit=2)] == ["module", "app.Node"]


def test_objects_come_by_what_they_retain_and_the_limit_cuts_the_smallest(opened):
    dump = DumpFile()
    dump.module("app", **{f"row{size}": dump.add("app.Row", size=size) for size in (300, 100, 200)})
    heap = opened(dump)

    assert [each.size for each in heap.largest(limit=2, type_name="app.Row")] == [300, 200]
    assert heap.largest(limit=1)[0].type_name == "module"
    assert [each.type_name for each in opened(chain()).largest(limit=3)] == ["module", "app.Link", "app.Link"]
    assert heap.largest(type_name="app.Nothing") == []


def test_what_the_dump_does_not_have_is_said(opened):
    heap = opened(service(1))

    assert heap.holders("app.Nothing") == []
    with pytest.raises(HeapDumpError, match=r"no object of type app\.Nothing"):
        heap.paths(type_name="app.Nothing")
    for question in (heap.children, lambda address: heap.paths(address=address)):
        for address in (0x10, -1, 2**70):
            with pytest.raises(HeapDumpError, match="no object at"):
                question(address)


def test_a_summary_is_of_the_whole_file(opened):
    summary = opened(service(3)).summary()

    assert (summary.service, summary.instance_id, summary.at_ns) == ("checkout", "i-1", 5)
    assert (summary.python_version, summary.complete, summary.reason) == ("3.12.4", True, "")
    assert summary.objects == 3 * 4 + 9
    assert summary.size == sum(one.size for one in service(3).objects.values())
