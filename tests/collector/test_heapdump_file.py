"""Files of heap dumps: what the format allows, what was cut short, and what is damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from glassbottom_collector.errors import HeapDumpError
from glassbottom_collector.heapdump import HeapDump, diff, load

from tests.support.heap_dump_file import DumpFile, record, text, varint, zigzag

pytestmark = pytest.mark.once


def handlers(sessions: int = 40) -> DumpFile:
    dump = DumpFile()
    held = [
        dump.add("method", __self__=dump.instance("app.ws.Session", name=dump.add("str", flags=0)))
        for _ in range(sessions)
    ]
    dump.module(
        "app.ws", HANDLERS=dump.dict([(dump.add("app.Topic"), dump.list(held))]), Session=dump.class_("app.ws.Session")
    )
    dump.frame("serve", handlers=dump.list())
    dump.root(1, dump.dict(), "sys.modules")
    one, other = dump.add("app.Cycle"), dump.add("app.Cycle")
    dump.refer(one, other, "other")
    dump.refer(other, one)
    return dump


def opened(path: Path, content: bytes) -> HeapDump:
    path.write_bytes(content)
    return load(path)


def ask_everything(dump: HeapDump) -> None:
    dump.summary()
    dump.types()
    dump.modules()
    dump.suspects()
    diff(dump, dump)
    for each in dump.largest(5):
        dump.children(each.address)
        dump.paths(address=each.address)
        dump.paths(type_name=each.type_name)


def test_more_references_than_a_record_holds_go_on_in_the_next(tmp_path):
    dump = DumpFile()
    dump.module("app", ROWS=dump.list([dump.add("app.Row") for _ in range(10_000)]))
    dump.module("shop", PAIRS=dump.dict([(dump.add("app.Key"), dump.add("app.Value")) for _ in range(5_000)]))
    heap = opened(tmp_path / "d", dump.bytes())

    assert [(str(path), path.objects) for path in heap.paths(type_name="app.Row")] == [
        ("app.ROWS list[10 000] -> Row", 10_000)
    ]
    assert [str(path) for path in heap.paths(type_name="app.Key")] == ["shop.PAIRS dict[5 000] -> key Key"]
    assert [str(path) for path in heap.paths(type_name="app.Value")] == ["shop.PAIRS dict[5 000] -> Value"]


def test_an_object_written_again_counts_once_and_as_it_was_first(tmp_path):
    dump = DumpFile()
    row = dump.add("app.Row", size=100)
    dump.module("app", ROWS=dump.list([row, row]))
    content = dump.bytes()
    last = max(dump.objects)
    again = record("O", zigzag(row - last) + varint(0) + varint(1) + varint(77_777) + varint(1) + varint(1) + zigzag(0))
    more = record("E", varint(1) + zigzag(0))
    end = content.rindex(b"M")
    heap = opened(tmp_path / "d", content[:end] + again + more + content[end:])

    (found,) = heap.largest(type_name="app.Row")
    assert (found.size, heap.summary().objects, heap.summary().references) == (100, 4, 4)


def test_a_reference_to_what_is_not_in_the_file_is_left_out(tmp_path):
    dump = DumpFile()
    dump.module("app", ROWS=dump.list([0x10, dump.add("app.Row"), 0x20]))
    heap = opened(tmp_path / "d", dump.bytes())

    assert heap.heap.missing == 2
    assert [str(path) for path in heap.paths(type_name="app.Row")] == ["app.ROWS list[3] -> Row"]


def test_records_of_a_later_time_are_passed_over(tmp_path):
    content = handlers(3).bytes()
    later = record("q", b"anything at all")
    heap = opened(tmp_path / "d", content[:8] + later + content[8:])

    assert heap.summary().complete


def test_one_text_with_several_numbers_is_one_name(tmp_path):
    """The writer forgets names and numbers them anew; paths do not notice."""
    names = b"".join(record("S", text(name)) for name in ("__dict__", "ROWS", "__dict__", "ROWS"))
    type_ = b"".join(
        record("T", varint(1) + varint(16) + varint(0) + varint(0) + text(module) + text(name))
        for module, name in (("builtins", "module"), ("builtins", "dict"), ("app", "Row"))
    )
    objects, before = b"", 0
    for base, own, label in ((0x1000, 1, 2), (0x2000, 3, 4)):
        for address, rest in (
            (base, varint(0) + varint(17) + varint(50) + varint(1) + varint(1) + zigzag(16) + varint(own)),
            (base + 16, varint(1) + varint(17) + varint(60) + varint(1) + varint(1) + zigzag(16) + varint(label)),
            (base + 32, varint(2) + varint(1) + varint(70) + varint(1) + varint(0)),
        ):
            objects += record("O", zigzag(address - before) + rest)
            before = address
    modules = record("M", varint(0x1000) + text("app")) + record("M", varint(0x2000) + text("shop"))
    heap = opened(tmp_path / "d", b"GBHEAP1\n" + names + type_ + objects + modules)

    assert {str(path) for path in heap.paths(type_name="app.Row")} == {"app.ROWS Row", "shop.ROWS Row"}


@pytest.mark.parametrize(
    ("reason", "said"),
    [(1, "it reached its limit of bytes"), (2, "it reached its limit of time"), (9, "it ended early, for reason 9")],
)
def test_a_dump_that_ended_early_says_why(tmp_path, reason, said):
    summary = opened(tmp_path / "d", handlers(3).bytes(reason=reason)).summary()

    assert (summary.complete, summary.reason) == (False, said)


def test_a_file_cut_short_anywhere_is_read_up_to_there(tmp_path):
    content = handlers(5).bytes()
    objects = []
    for length in range(8, len(content), 3):
        dump = opened(tmp_path / "d", content[:length])
        summary = dump.summary()
        assert (summary.complete, summary.reason) == (False, "the file was cut short")
        objects.append(summary.objects)
    ask_everything(dump)

    assert objects == sorted(objects)
    assert objects[-1] == opened(tmp_path / "d", content).summary().objects


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"GBHEA", "it does not begin with GBHEAP1"),
        (b"\x1f\x8b not ours", "it does not begin with GBHEAP1"),
        (b"GBHEAP1\n" + record("O", zigzag(8) + varint(3) + varint(0) * 4), "an object of type 3, which was not told"),
        (b"GBHEAP1\n" + record("O", b"\x02"), "an object that does not fit into its record at byte 11"),
        (b"GBHEAP1\n" + record("T", b"\xff" * 11), "a type that does not fit into its record"),
        (b"GBHEAP1\n" + record("S", varint(9) + b"abc"), "a name that does not fit into its record"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_with_the_place(tmp_path, content, said):
    with pytest.raises(HeapDumpError, match=said):
        opened(tmp_path / "d", content)


def test_a_later_format_and_a_file_that_is_not_there_are_said(tmp_path):
    with pytest.raises(HeapDumpError, match=r"format 2, .* Install a later glassbottom"):
        opened(tmp_path / "d", DumpFile(format=2).bytes())
    with pytest.raises(HeapDumpError, match="cannot be read: No such file"):
        load(tmp_path / "nothing")


def test_a_dump_of_nothing_answers(tmp_path):
    for content in (b"GBHEAP1\n", DumpFile().bytes(), b"GBHEAP1\n" + record("I", b"[1")):
        dump = opened(tmp_path / "d", content)
        ask_everything(dump)
        assert (dump.suspects(), dump.types(), dump.largest()) == ([], [], [])


def test_damage_is_refused_or_survived(tmp_path):
    """Bytes changed, cut out or doubled at random: an error of ours or an answer, and never anything else."""
    whole = handlers().bytes()
    refused = 0
    for seed in range(250):
        dice = random.Random(seed)
        content = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3, 20])):
            at = dice.randrange(8, len(content))
            if dice.random() < 0.7:
                content[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
            elif dice.random() < 0.5:
                del content[at : at + dice.randrange(1, 30)]
            else:
                content[at:at] = content[at : at + dice.randrange(1, 30)]
        try:
            ask_everything(opened(tmp_path / "d", bytes(content)))
        except HeapDumpError:
            refused += 1
    assert 20 < refused < 230
