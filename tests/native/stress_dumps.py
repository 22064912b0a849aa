"""Hits the heap dump from both ends for a while: `make soak` runs it under ASAN and UBSAN.

python tests/native/stress_dumps.py --seconds 60 --seed 7

The writer: threads allocate, tie cycles, leave coroutines suspended and free in C, while this process is dumped again
and again, at random limits of bytes and time; what is written is read at once. The reader: random heaps as files,
whole, cut short, and with bytes changed, cut out, doubled and exchanged for another file's; and arrays that do not fit
together, given to each function of the graph. An answer or an error of ours is fine. Last line: one JSON object with
what was done. Any report of a sanitizer ends the process; that of a copy, which has no descriptor left to write it to,
is in the files that log_path of ASAN_OPTIONS names, and the copy's end is told here.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from glassbottom import _native
from glassbottom_collector import _graph
from glassbottom_collector.errors import HeapDumpError
from glassbottom_collector.heapdump import HeapDump, diff
from glassbottom_collector.heapdump.heap import Heap

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support.heap_dump_file import DumpFile, record, varint

NONE = 2**32 - 1
TYPES = ("dict", "list", "app.Row", "app.ws.Session", "module", "type", "coroutine", "method", "str")
NAMES = ("first", "second", "__dict__", "__self__", "held", "x" * 100)
TAGS = "IOTSNMFREZ?"


# ---- the reader -----------------------------------------------------------------------------------------------------


def random_heap(dice: random.Random) -> bytes:
    """A file in order: a mesh of objects of every form, reached from roots of every kind."""
    dump = DumpFile()
    made = [dump.add("app.Row")]
    for _ in range(dice.choice((0, 3, 40, 400))):
        targets = dice.choices(made, k=dice.choice((0, 1, 2, 9)))
        what = dice.randrange(7)
        if what == 0:
            made.append(dump.list(targets))
        elif what == 1:
            made.append(dump.dict(list(zip(targets, reversed(targets), strict=True))))
        elif what == 2:
            made.append(dump.instance(dice.choice(TYPES), **dict(zip(NAMES, targets, strict=False))))
        elif what == 3:
            made.append(dump.call(dump.add("coroutine", **dict(zip(NAMES, targets, strict=False))), "main.<locals>.f"))
        elif what == 4:
            flags, references = dice.randrange(128), dice.choice((None, 0, 7, 2**40))
            made.append(dump.add(dice.choice(TYPES), *targets, flags=flags & ~20, references=references))
        elif what == 5:
            made.append(dump.class_(dice.choice(TYPES), held=dice.choice(made)))
        else:
            made.append(dump.module(f"app.m{dice.randrange(9)}", held=dice.choice(made)))
    for _ in range(dice.randrange(30)):
        dump.refer(dice.choice(made), dice.choice(made))
    if dice.random() < 0.1:
        made.append(dump.list(dice.choices(made, k=9000)))
    for _ in range(dice.randrange(4)):
        dump.frame("serve", thread=dice.randrange(3), held=dice.choice(made))
        dump.root(dice.randrange(6), dice.choice(made), "a root")
    return dump.bytes(end=dice.random() < 0.9, reason=dice.choice((0, 0, 0, 1, 9)))


def damaged(content: bytes, other: bytes, dice: random.Random) -> bytes:
    """The same file after an accident, or by somebody who means harm."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 5, 40))):
        at = dice.randrange(8, len(data)) if len(data) > 8 else 8
        what = dice.randrange(8)
        if what < 3 and at < len(data):
            data[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1 << dice.randrange(8)))
        elif what == 3:
            del data[at : at + dice.choice((1, 2, 30))]
        elif what == 4:
            data[at:at] = data[at : at + dice.choice((1, 9, 200))]
        elif what == 5:
            numbers = (dice.choice((0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, dice.randrange(300))) for _ in range(7))
            data[at:at] = record(dice.choice(TAGS), b"".join(map(varint, numbers)))
        elif what == 6:
            from_ = dice.randrange(len(other))
            data[at:at] = other[from_ : from_ + dice.randrange(400)]
        elif dice.random() < 0.3:
            del data[at:]
    return bytes(data)


def opened(content: bytes) -> HeapDump:
    """From memory that ends where the file does, so that one byte too far is seen."""
    exact = (ctypes.c_char * max(len(content), 1)).from_buffer_copy(content or b"\0")
    try:
        parsed = _graph.parse(memoryview(exact).cast("B"))
    except ValueError as error:
        raise HeapDumpError(str(error)) from error
    return HeapDump(Heap(parsed))


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


def read_files(dice: random.Random, done: dict[str, int]) -> None:
    content, other = random_heap(dice), random_heap(dice)
    ask_everything(opened(content))
    for _ in range(20):
        try:
            ask_everything(opened(damaged(content, other, dice)))
            done["files_read"] += 1
        except HeapDumpError:
            done["files_refused"] += 1


def array(dice: random.Random, length: int, below: int, kind: type = np.uint32) -> bytes:
    """Numbers that mostly fit."""
    odd = (0, below, NONE, 2**31)
    values = [dice.choice(odd) if dice.random() < 0.01 else dice.randrange(max(below, 1)) for _ in range(length)]
    return np.array(values, dtype=np.uint64).astype(kind).tobytes()


def give_arrays(dice: random.Random, done: dict[str, int]) -> None:
    nodes = dice.randrange(1, 60)
    edges = dice.randrange(200)
    offsets = np.sort(np.frombuffer(array(dice, nodes + 1, edges + 1), np.uint32))
    offsets[0] = dice.choice((0, 0, 0, 1))
    rows, targets = offsets.tobytes(), array(dice, edges, nodes)
    short = dice.choice((0, 0, 0, 4, 8))
    values = array(dice, nodes, 2**40, np.uint64)
    node = dice.choice((0, nodes - 1, nodes, NONE))
    hashes = array(dice, dice.choice((3, 12, 30)), 2**60, np.uint64)
    calls: tuple[Callable[[], object], ...] = (
        lambda: _graph.dominators(rows, targets[short:], dice.randrange(nodes), node),
        lambda: _graph.sum_up(array(dice, nodes, nodes), array(dice, nodes, nodes), values[short:]),
        lambda: _graph.children(array(dice, nodes, nodes)[short:]),
        lambda: _graph.retained_by_group(rows, targets, node, array(dice, nodes, 9), dice.randrange(12), values),
        lambda: _graph.owner_paths(
            rows,
            targets[short:],
            array(dice, edges, 5),
            array(dice, nodes, 9, np.uint8),
            array(dice, nodes, nodes),
            array(dice, nodes, 4),
            hashes,
            hashes,
            dice.choice((0, 1, 3, 100)),
        ),
        lambda: _graph.parse(array(dice, 50, 255, np.uint8)),
    )
    for call in calls:
        try:
            call()
            done["arrays_taken"] += 1
        except ValueError:
            done["arrays_refused"] += 1


# ---- the writer -----------------------------------------------------------------------------------------------------


class Row:
    def __init__(self, number: int) -> None:
        self.number, self.me = number, self
        if number % 5 == 0:
            setattr(self, f"more_{number % 40}", [number])


class Slotted:
    __slots__ = ("left", "right")


async def waits(held: object) -> None:
    await Forever()
    del held


class Forever:
    def __await__(self):  # type: ignore[no-untyped-def]
        yield


def churn(stop: threading.Event, seed: int) -> None:
    """Makes and drops one of everything, and works in C without the GIL in between."""
    dice = random.Random(seed)
    kept: list[object] = []
    while not stop.is_set():
        for number in range(200):
            what = dice.randrange(9)
            if what == 0:
                kept.append(Row(number))
            elif what == 1:
                kept.append({dice.randrange(99): str(number) for _ in range(dice.randrange(40))})
            elif what == 2:
                coroutine = waits(kept[-1] if kept else None)
                coroutine.send(None)
                kept.append(coroutine)
            elif what == 3:
                one = Slotted()
                one.left = one
                kept.append(one)
            elif what == 4:
                kept.append(np.array([number, None, "x"] * dice.randrange(9), dtype=object))
            elif what == 5:
                kept.append((bytearray(dice.randrange(3000)), frozenset(range(dice.randrange(60)))))
            elif what == 6:
                kept.append(type(f"Made{dice.randrange(20)}", (Row,), {"__slots__": ("a",) if number % 2 else ()}))
            elif what == 7:
                zlib.compress(bytes(dice.randrange(20_000)), 1)
            elif kept:
                kept[dice.randrange(len(kept))] = None
        if len(kept) > 1500:
            del kept[: dice.randrange(1500)]


def dump_once(dice: random.Random, directory: Path, done: dict[str, int]) -> None:
    path = directory / "heap"
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
    try:
        limits = (dice.choice((1 << 30, 1 << 30, 300_000)), dice.choice((300.0, 300.0, 0.05)))
        try:
            pid, _ = _native.dump_start(fd, b'{"format": 1}', bytes_max=limits[0], seconds_max=limits[1])
        except BlockingIOError:
            done["collections_met"] += 1
            return
        if dice.random() < 0.1:
            _native.dump_kill(pid)
        code = None
        while code is None:
            code = _native.dump_wait(pid, 30.0)
        progress = _native.dump_progress()
        if code not in (0, 1, 2, -9) or progress["faults"]:
            raise SystemExit(f"a copy ended with {code}, {progress}; its report is where log_path says")
        done[f"dumps_{'killed' if code < 0 else 'complete' if code == 0 else 'cut'}"] += 1
    finally:
        os.close(fd)
    dump = opened(path.read_bytes())
    if code == 0 and not dump.summary().complete:
        raise SystemExit("a dump that ended well cannot be read to its end")
    if code == 0:
        ask_everything(dump)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    done = dict.fromkeys(("files_read", "files_refused", "arrays_taken", "arrays_refused"), 0)
    done |= dict.fromkeys(("dumps_complete", "dumps_cut", "dumps_killed", "collections_met"), 0)
    end = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as directory:
        # First without threads, where every seed does the same again.
        while time.monotonic() < end - arguments.seconds / 2:
            read_files(dice, done)
            give_arrays(dice, done)
        stop = threading.Event()
        threads = [threading.Thread(target=churn, args=(stop, number)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            while time.monotonic() < end or not done["dumps_complete"]:
                dump_once(dice, Path(directory), done)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    print(json.dumps({"ok": True, "seed": arguments.seed, **done}))


main()
