"""Dumps of a real process, on every version of Python: holders are named as its source names them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from glassbottom_collector.heapdump import HeapDump, diff, load

PROGRAM = '''
"""Keeps one kind of object in each of the usual places, dumps itself, keeps more and dumps itself again."""
import asyncio
import collections
import contextvars
import functools
import gc
import os
import sys
import threading
import weakref

from glassbottom import _native


def kind(name, **members):
    return type(name, (), {"__module__": __name__, **members})


InBoundMethod = kind("InBoundMethod", on_message=lambda self: None)
InLru, InClosure, InDefault, InClass, InTask = map(kind, "InLru InClosure InDefault InClass InTask".split())
InGenerator, InFrame, InThread, InCycle = map(kind, "InGenerator InFrame InThread InCycle".split())
InDeque, InFuture, InPartial = map(kind, "InDeque InFuture InPartial".split())
InContext, InError, InWeak, InKey, InSlot = map(kind, "InContext InError InWeak InKey InSlot".split())


class Slotted:
    __slots__ = ("value",)


class Registry:
    instances = []


HANDLERS = {"connect": []}
RECENT = collections.deque()
GENERATORS, CALLBACKS, ERRORS, SLOTS = [], [], [], []
BY_KEY = {}
REFERENCES = []
VARIABLE = contextvars.ContextVar("VARIABLE")
CONTEXTS = []


@functools.lru_cache(maxsize=None)
def looked_up(number):
    return InLru()


def counter():
    held = InClosure()
    return lambda: held


def with_default(seen=[]):
    seen.append(InDefault())


def rows():
    held = InGenerator()
    yield
    del held


async def waits(forever, held):
    await forever


def fails():
    held = InError()
    raise LookupError


def remember():
    HANDLERS["connect"].append(InBoundMethod().on_message)
    RECENT.append(InDeque())
    CALLBACKS.append(counter())
    CALLBACKS.append(functools.partial(print, InPartial()))
    with_default()
    looked_up(len(RECENT))
    Registry.instances.append(InClass())
    GENERATORS.append(rows())
    next(GENERATORS[-1])
    slotted = Slotted()
    slotted.value = InSlot()
    SLOTS.append(slotted)
    BY_KEY[InKey()] = 1
    context = contextvars.Context()
    context.run(VARIABLE.set, InContext())
    CONTEXTS.append(context)
    try:
        fails()
    except LookupError as error:
        ERRORS.append(error)


def forget():
    cycle = InCycle()
    cycle.itself = cycle


def refer():
    weak = InWeak()
    REFERENCES.append(weakref.ref(weak))
    return weak


def dump(path):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    pid, _ = _native.dump_start(fd, b'{"format": 1, "service": "shop"}', bytes_max=1 << 30, seconds_max=60.0)
    os.close(fd)
    assert _native.dump_wait(pid, 60.0) == 0


async def main(first, second):
    loop = asyncio.get_running_loop()
    gc.disable()
    forever = loop.create_future()
    tasks = {asyncio.create_task(waits(forever, InTask())) for _ in range(3)}
    forever.add_done_callback(functools.partial(print, InFuture()))
    await asyncio.sleep(0)
    running, ending = threading.Event(), threading.Event()

    def work():
        mine = InThread()
        running.set()
        ending.wait()
        return mine

    thread = threading.Thread(target=work)
    thread.start()
    running.wait()
    local = [InFrame()]
    weak = refer()
    for _ in range(20):
        remember()
        forget()
    dump(first)
    for _ in range(15):
        remember()
    dump(second)
    ending.set()
    thread.join()
    for task in tasks:
        task.cancel()
    return local, weak
'''


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> tuple[HeapDump, HeapDump]:
    """Before and after fifteen more of each."""
    folder: Path = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(PROGRAM)
    code = "import asyncio, shop; asyncio.run(shop.main('first.dump', 'second.dump'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load(folder / "first.dump"), load(folder / "second.dump")


def ways(dump: HeapDump, type_name: str) -> list[str]:
    return [str(path) for path in dump.paths(type_name=f"shop.{type_name}", limit=20)]


def test_each_holder_reads_as_the_source_has_it(dumps: tuple[HeapDump, HeapDump]) -> None:
    dump = dumps[0]
    expected = {
        "InBoundMethod": 'shop.HANDLERS dict[1] -> ["connect"] list[20] -> bound method -> InBoundMethod',
        "InDeque": "shop.RECENT deque[20] -> InDeque",
        "InClass": "shop.Registry.instances list[20] -> InClass",
        "InSlot": "shop.SLOTS list[20] -> Slotted -> .value InSlot",
        "InDefault": "shop.with_default function -> .__defaults__ tuple[1] -> list[20] -> InDefault",
        "InKey": "shop.BY_KEY dict[20] -> key InKey",
        "InLru": "shop.looked_up _lru_cache_wrapper -> dict[20] -> InLru",
        "InClosure": "shop.CALLBACKS list[40] -> function -> tuple[1] -> cell -> InClosure",
        "InPartial": "shop.CALLBACKS list[40] -> partial -> tuple[1] -> InPartial",
        "InGenerator": "shop.GENERATORS list[20] -> generator rows -> .held InGenerator",
    }
    found = {name: ways(dump, name) for name in expected}
    # An attribute of the interpreter's own objects has a name on some versions and none on others.
    for name, texts in found.items():
        found[name] = [text.replace("-> .__closure__ ", "-> ").replace("-> .args ", "-> ") for text in texts]
    assert found == {name: [text] for name, text in expected.items()}


def test_errors_contexts_tasks_and_futures_lead_to_what_they_hold(dumps: tuple[HeapDump, HeapDump]) -> None:
    dump = dumps[0]
    (error,) = ways(dump, "InError")
    assert error.startswith("shop.ERRORS list[20] -> LookupError -> .__traceback__ traceback")
    assert error.endswith("-> .held InError")
    (context,) = ways(dump, "InContext")
    assert context.startswith("shop.CONTEXTS list[20] -> Context")
    assert all(way.endswith("coroutine waits -> .held InTask") for way in ways(dump, "InTask"))
    assert all("Future -> " in way and "partial" in way for way in ways(dump, "InFuture"))


def test_locals_of_running_threads_are_roots(dumps: tuple[HeapDump, HeapDump]) -> None:
    (path,) = dumps[0].paths(type_name="shop.InThread")
    assert str(path) == "main.<locals>.work(): mine InThread"
    assert path.root.startswith("thread ")
    assert " in main.<locals>.work (" in path.root
    # This one runs as a task, and asyncio knows it as well: its own tables of tasks come first where they lead to it.
    (way,) = ways(dumps[0], "InFrame")
    assert way.endswith("local list[1] -> InFrame")


def test_weak_references_are_no_holders_and_cycles_are_garbage(dumps: tuple[HeapDump, HeapDump]) -> None:
    dump = dumps[0]
    (way,) = ways(dump, "InWeak")
    assert way.endswith("weak InWeak"), "the local of that name, and not REFERENCES"
    (path,) = dump.paths(type_name="shop.InCycle")
    assert (path.root, path.objects) == ("garbage", 20)


def test_a_whole_process_is_in_the_dump_and_little_of_it_has_no_holder(dumps: tuple[HeapDump, HeapDump]) -> None:
    heap = dumps[0].heap
    assert dumps[0].summary().complete
    assert heap.objects > 20_000
    assert heap.missing == 0
    assert heap.ways.merged == 0
    assert int(heap.retained[heap.garbage]) < 0.02 * heap.size


def test_growth_is_where_more_was_kept(dumps: tuple[HeapDump, HeapDump]) -> None:
    rows = {(row.path, row.type_name): row for row in diff(*dumps, limit=200)}
    row = rows["shop.GENERATORS list", "generator"]

    assert (row.objects_before, row.objects_after, row.length_before, row.length_after) == (20, 35, 20, 35)
    for path in ("shop.ERRORS list", "shop.CALLBACKS list", "shop.CONTEXTS list"):
        assert any(owner == path for owner, _ in rows), path
