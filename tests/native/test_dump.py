"""A heap dump says what the heap is: every object, its size, its references and what they are called."""

from __future__ import annotations

import array
import asyncio
import collections
import gc
import os
import subprocess
import sys
import threading
import types
from collections.abc import Coroutine, Iterator
from pathlib import Path

import numpy
import pytest
from glassbottom import _native

from tests.support import dump_reader
from tests.support.dump_reader import Dump, Object


def written(path: Path, **limits: float) -> int | None:
    """Dumps this process there; how it ended."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        pid, _ = _native.dump_start(
            fd,
            b'{"format": 1}',
            bytes_max=int(limits.get("bytes_max", 1 << 30)),
            seconds_max=limits.get("seconds_max", 60.0),
        )
    finally:
        os.close(fd)
    return _native.dump_wait(pid, 60.0)


class Attributes:
    def __init__(self) -> None:
        self.first = [1]
        self.second = {"k": 2}


class Slots:
    __slots__ = ("left", "right")

    def __init__(self) -> None:
        self.left = [1]
        self.right = [2]


class Registry(dict[str, list[int]]):
    pass


class Known:
    """One of each, alive during the dump."""

    def __init__(self) -> None:
        self.attributes = Attributes()
        self.with_dict = Attributes()
        self.dict = self.with_dict.__dict__
        self.slots = Slots()
        self.registry = Registry(alpha=[1], beta=[2])
        self.by_default = collections.defaultdict(list, {5: [1]})
        self.ordered = collections.OrderedDict(one=1, two=2)
        self.numbers = [object() for _ in range(9000)]
        self.pair = ("a pair", [1])
        self.untracked = ("text of an untracked tuple", 3.5)
        self.nested = [(("text deep inside", 1.25),)]
        self.ids = {10**6 + i: [i] for i in range(20)}
        self.secret = {"user " + str(i): i for i in range(20)}
        self.bound = self.method
        self.queue = collections.deque([[] for _ in range(200)])
        self.generator = self.generate()
        next(self.generator)
        self.ended = self.generate()
        list(self.ended)
        self.coroutine = self.wait()
        self.coroutine.__qualname__ = "of user 7"
        self.closure = self.close_over([1, 2])
        self.error = self.caught()
        self.matrix = numpy.zeros((1000, 100))
        self.view = self.matrix[3:5]
        self.of_objects = numpy.array([[1], {"a": 2}, None], dtype=object)
        self.buffers = (
            bytearray(5000),
            array.array("d", [1.0] * 300),
            bytes(7000),
            "\u03c0" * 900,
            10**400,
            {1, 2, 3, 4, 5, 6},
        )
        self.module = types.ModuleType("made_for_a_test")
        gc.collect()
        gc.collect()

    def method(self) -> None: ...

    @staticmethod
    def generate() -> Iterator[int]:
        held_by_generator = [1, 2, 3]
        yield len(held_by_generator)
        yield len(held_by_generator)

    @staticmethod
    def wait() -> Coroutine[object, object, None]:
        async def forever() -> None:
            await asyncio.sleep(0)

        waiting = forever()
        waiting.send(None)
        return waiting

    @staticmethod
    def close_over(value: list[int]) -> object:
        return lambda: value

    @staticmethod
    def caught() -> Exception:
        try:
            raise ValueError("text of an exception")
        except ValueError as error:
            return error


@pytest.fixture(scope="module")
def known() -> Known:
    return Known()


@pytest.fixture(scope="module")
def path(known: Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "heap"
    local_of_a_running_frame = [known]
    assert written(path) == 0
    assert local_of_a_running_frame
    return path


@pytest.fixture(scope="module")
def dump(path: Path) -> Dump:
    return dump_reader.read(path)


def of(dump: Dump, value: object) -> Object:
    return dump.objects[id(value)]


def test_it_ends_with_a_record_that_agrees_with_what_was_written(dump: Dump) -> None:
    assert dump.end is not None
    objects, edges, reason, elapsed_us, faults, lost = dump.end
    assert objects == len(dump.objects) + dump.repeated
    assert edges > objects
    assert (reason, faults, lost) == (0, 0, 0)
    assert elapsed_us > 0
    assert dump.info == {"format": 1}


def test_the_collectors_objects_are_all_there_with_what_they_refer_to(dump: Dump, known: Known) -> None:
    """As gc.get_referents() says, for everything that cannot have changed since: this module's and its classes'."""
    for value in (known.attributes, known.slots, known.registry, known.by_default, known.queue, known.closure):
        found = of(dump, value)
        assert found.flags & dump_reader.TRACKED
        assert not collections.Counter(map(id, gc.get_referents(value))) - collections.Counter(found.targets)


@pytest.mark.parametrize(
    "name",
    ["by_default", "ordered", "numbers", "pair", "untracked", "ids", "queue", "secret", "bound", "generator"],
)
def test_sizes_are_those_python_says(dump: Dump, known: Known, name: str) -> None:
    value = getattr(known, name) if name != "bound" else known.__dict__["bound"]
    assert of(dump, value).size == sys.getsizeof(value)


def test_attributes_kept_without_a_dict_count_for_their_object(dump: Dump, known: Known) -> None:
    assert of(dump, known.attributes).size >= sys.getsizeof(known.attributes) + 2 * 8


def test_attributes_slots_and_items_have_their_names(dump: Dump, known: Known) -> None:
    assert of(dump, known.attributes).named("first") == id(known.attributes.first)
    assert of(dump, known.attributes).named("second") == id(known.attributes.second)
    assert of(dump, known.slots).named("left") == id(known.slots.left)
    assert of(dump, known.registry).named("beta") == id(known.registry["beta"])
    assert of(dump, known.__dict__["bound"]).named("__self__") == id(known)
    assert of(dump, known.generator).named("held_by_generator") == id(
        known.generator.gi_frame.f_locals["held_by_generator"]
    )
    assert of(dump, known.error).named("__traceback__") == id(known.error.__traceback__)


def test_generators_and_coroutines_say_whose_they_are_and_not_what_they_were_called(dump: Dump, known: Known) -> None:
    assert of(dump, known.generator).called == "Known.generate"
    assert of(dump, known.ended).called == "Known.generate"
    assert of(dump, known.coroutine).called == "Known.wait.<locals>.forever"
    assert known.coroutine.__qualname__ == "of user 7"
    assert of(dump, known.by_default).called == ""


def test_an_attribute_has_its_name_once_whether_its_dict_exists_or_not(dump: Dump, known: Known) -> None:
    """From 3.13 on both are: the values stay in the object, and the dict shows them."""
    object_edges, dict_edges = of(dump, known.with_dict).edges, of(dump, known.dict).edges
    assert (id(known.with_dict.first), "first") in object_edges + dict_edges
    assert [target for target, _ in object_edges + dict_edges].count(id(known.with_dict.first)) == 1
    assert id(known.dict) in [target for target, _ in object_edges]


def test_a_function_names_its_cells_and_a_cell_what_is_in_it(dump: Dump, known: Known) -> None:
    closure = of(dump, known.closure).named("__closure__")
    (cell,) = dump.objects[closure].targets
    assert isinstance(known.closure, types.FunctionType)
    assert dump.objects[cell].named("cell_contents") == id(known.closure.__closure__[0].cell_contents)  # type: ignore[index]


def test_a_long_list_goes_on_in_further_records_in_order(dump: Dump, known: Known) -> None:
    found = of(dump, known.numbers)
    assert found.flags & dump_reader.ITEMS
    assert found.targets == [id(value) for value in known.numbers]
    assert found.length == 9000


def test_a_dict_whose_keys_are_no_names_has_keys_and_values_by_turns(dump: Dump, known: Known) -> None:
    found = of(dump, known.ids)
    assert found.flags & dump_reader.KEY_VALUE
    assert found.targets[1::2] == [id(value) for value in known.ids.values()]
    assert found.length == len(known.ids)


def test_what_the_collector_does_not_know_is_met_through_who_holds_it(dump: Dump, known: Known) -> None:
    assert not gc.is_tracked(known.untracked)
    found = of(dump, known.untracked)
    assert not found.flags & dump_reader.TRACKED
    assert found.targets == [id(value) for value in known.untracked]
    assert {of(dump, value).type.qualname for value in known.untracked} == {"str", "float"}
    assert of(dump, known.nested[0][0][1]).type.qualname == "float"


def test_a_module_says_which_it_is(dump: Dump, known: Known) -> None:
    assert dump.modules[id(known.module)] == "made_for_a_test"
    assert dump.modules[id(sys.modules[__name__])] == __name__


def test_types_have_the_name_under_which_they_were_made(dump: Dump, known: Known) -> None:
    found = of(dump, known.slots).type
    assert (found.module, found.qualname, found.address) == (__name__, "Slots", id(Slots))
    assert of(dump, known.numbers).type.module == "builtins"
    assert of(dump, known.queue).type.module == "collections"
    assert of(dump, Slots).named("__dict__")


def test_running_frames_are_there_with_their_line_and_locals(dump: Dump, known: Known) -> None:
    (frame,) = [frame for frame in dump.frames if frame.function == "path" and frame.file == __file__]
    assert frame.thread == threading.get_ident()
    assert Path(__file__).read_text().splitlines()[frame.line - 1].strip() == "assert written(path) == 0"
    (held,) = [target for target, name in frame.locals if name == "local_of_a_running_frame"]
    assert dump.objects[held].targets == [id(known)]


def test_what_the_interpreter_holds_is_a_root(dump: Dump) -> None:
    assert (1, id(sys.modules), "sys.modules") in dump.roots
    assert (2, id(int), "int") in dump.roots


def test_no_text_of_the_applications_is_in_the_file(path: Path, known: Known) -> None:
    """Names are; the content of strings is not, nor are numbers."""
    data = path.read_bytes()
    for text in (b"user 7", b"of user", b"a pair", b"text of an", b"text deep"):
        assert text not in data
    for text in (b"held_by_generator", b"local_of_a_running_frame"):
        assert text in data


def test_numpy_arrays_say_what_they_own_and_whose_memory_they_show(dump: Dump, known: Known) -> None:
    assert of(dump, known.matrix).size >= 800_000
    assert of(dump, known.view).size < 1000
    assert of(dump, known.view).named("base") == id(known.matrix)
    assert id(known.of_objects[0]) in of(dump, known.of_objects).targets


def test_buffers_count_for_their_owner(dump: Dump, known: Known) -> None:
    assert [of(dump, owner).size for owner in known.buffers] == [sys.getsizeof(owner) for owner in known.buffers]


WHOLE = """
import gc, os, sys
from glassbottom import _native
class Item:
    def __init__(self, i):
        self.mine = [i]
kept = [Item(i) for i in range(100)]
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)
gc.collect()
gc.disable()
pid, _ = _native.dump_start(fd, b"{}", bytes_max=1 << 30, seconds_max=60.0)
assert _native.dump_wait(pid, 60.0) == 0
os.write(1, " ".join(str(id(o)) for o in gc.get_objects()).encode())
"""


def test_a_whole_file_holds_together(tmp_path: Path) -> None:
    """Of a small program: every object of the collector's is there, every reference leads to an object of the file, and
    no object has more references in the file than are counted in it. So what is missing tells what C holds."""
    said = small_program(WHOLE, tmp_path / "heap")
    dump = dump_reader.read(tmp_path / "heap")
    expected = {int(text) for text in said.split()}
    # What the program made since: the list of objects, and what asking for it took.
    assert len(expected - dump.objects.keys()) < 20
    assert dump.end is not None
    assert dump.end[0] == len(dump.objects) + dump.repeated
    seen: collections.Counter[int] = collections.Counter()
    for found in dump.objects.values():
        seen.update(found.targets)
    assert dump.end[1] >= seen.total() > 0
    assert not seen.keys() - dump.objects.keys()
    over = [
        found.type.qualname
        for found in dump.objects.values()
        if not found.flags & dump_reader.IMMORTAL and found.refcount < seen[found.address]
    ]
    if sys.version_info < (3, 12):  # what is built in is held by static variables that count no reference
        over = [name for name in over if name not in ("type", "bool")]
    assert over == []


TWICE = """
import os, sys
from glassbottom import _native
class Row:
    def __init__(self):
        self.cells = [1]
rows = [Row() for _ in range(12)]
for name, more in (("before", 60), ("after", 0)):
    fd = os.open(f"{sys.argv[1]}/{name}", os.O_CREAT | os.O_WRONLY, 0o600)
    pid, _ = _native.dump_start(fd, b"{}", bytes_max=1 << 30, seconds_max=60.0)
    assert _native.dump_wait(pid, 60.0) == 0
    rows += [Row() for _ in range(more)]
os.write(1, " ".join(str(id(row)) for row in rows).encode())
"""


def test_an_object_is_as_large_in_every_dump_however_many_of_its_type_are_made_meanwhile(tmp_path: Path) -> None:
    """A type expects fewer attributes of every object than of the one before, and gives it less room."""
    rows = [int(row) for row in small_program(TWICE, tmp_path).split()]
    before, after = (dump_reader.read(tmp_path / name).objects for name in ("before", "after"))
    sizes = [after[row].size for row in rows]
    assert [before[row].size for row in rows[:12]] == sizes[:12]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes[40:])) == 1


def small_program(code: str, argument: Path) -> bytes:
    """What it says."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}", str(argument)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout
