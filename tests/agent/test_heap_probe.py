"""What the heap probe makes of native readings: ids, definitions, changes, and never a row that misleads."""

from __future__ import annotations

import struct
import threading
import time
from types import CodeType

import pytest
from glassbottom._config import HeapConfig
from glassbottom._guard import Guard
from glassbottom.probes.heap import STREAM, HeapProbe
from glassbottom.probes.heap_symbols import frame_id, hash_of, line_at, presentable, stack_id, type_id
from glassbottom.testing import FakeClock
from glassbottom.transport.encode import without_codec
from glassbottom.transport.queue import BatchQueue
from glassbottom.wire.v1 import heap_pb2

from tests.support.native_fake import FakeCore, FakeSite


def code_of(source: str, file: str = "app.py", name: str = "f") -> CodeType:
    namespace: dict[str, object] = {}
    exec(compile(source, file, "exec"), namespace)
    function = namespace[name]
    return function.__code__  # type: ignore[attr-defined]


TWO_LINES = code_of("def f():\n    x = [1]\n    return x\n")


class Rig:
    """A probe over a fake core, and the readings it queued."""

    def __init__(self, **config: object) -> None:
        self.core = FakeCore()
        self.clock = FakeClock()
        self.queue = BatchQueue(10_000_000)
        self.guard = Guard()
        heap = HeapConfig(**{"window_share": 0.5, **config})  # type: ignore[arg-type]
        self.probe = HeapProbe(heap, self.queue, self.clock, self.guard, core=self.core)
        self.probe.start()

    def read(self) -> heap_pb2.HeapSnapshot:
        """One reading, as the collector would get it; acknowledged unless keep() is used."""
        batch = self.read_unacknowledged()
        self.queue.acknowledge(STREAM, self.queue._last_seq[STREAM], "store")
        return batch

    def read_unacknowledged(self) -> heap_pb2.HeapSnapshot:
        self.probe.read()
        batch = self.queue._held[-1]
        return heap_pb2.HeapSnapshot.FromString(without_codec(batch.content).body)


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.probe.stop(1.0)


def numbers(column: bytes, code: str = "d") -> list[float]:
    return [value for (value,) in struct.iter_unpack(f"<{code}", column)]


def offset_of_line(code: CodeType, wanted: int) -> int:
    return next(start for start, _, line in code.co_lines() if line == wanted)


def test_ids_are_the_hashes_the_schema_prescribes(rig: Rig):
    at = offset_of_line(TWO_LINES, 2)
    rig.core.sites[7] = FakeSite([(TWO_LINES, at)], live_bytes=100, live_objects=2, samples=1, types={"list": 100})
    reading = rig.read()
    (frame,) = reading.definitions.frames
    assert (frame.function, frame.file, frame.line) == ("f", "app.py", 2)
    assert frame.id == hash_of(b"frame\0f\0app.py\x002") == frame_id("f", "app.py", 2)
    (stack,) = reading.definitions.stacks
    assert stack.id == hash_of(b"stack\0" + struct.pack("<Q", frame.id)) == stack_id([frame.id])
    (found,) = reading.definitions.types
    assert found.id == hash_of(b"type\0list") == type_id("list")
    assert numbers(reading.sites.stack, "Q") == numbers(reading.types.stack, "Q") == [stack.id]
    assert numbers(reading.types.type, "Q") == [found.id]


def test_definitions_are_sent_once_and_not_again_when_acknowledged(rig: Rig):
    rig.core.sites[7] = FakeSite([(TWO_LINES, 0)], live_bytes=1, samples=1)
    assert len(rig.read().definitions.stacks) == 1
    rig.core.sites[7].live_bytes = 2
    assert not rig.read().definitions.stacks
    rig.queue.require_key(STREAM)
    assert not rig.read().definitions.stacks


def test_until_acknowledged_every_complete_reading_carries_them_again(rig: Rig):
    """Changes build on the complete reading before them, so those need not repeat what it told."""
    rig.core.sites[7] = FakeSite([(TWO_LINES, 0)], live_bytes=1, samples=1)
    assert len(rig.read_unacknowledged().definitions.stacks) == 1
    rig.core.sites[7].live_bytes = 2
    assert len(rig.read_unacknowledged().definitions.stacks) == 0
    rig.queue.require_key(STREAM)
    assert len(rig.read_unacknowledged().definitions.stacks) == 1


def test_a_new_store_is_told_everything(rig: Rig):
    rig.core.sites[7] = FakeSite([(TWO_LINES, 0)], live_bytes=1, samples=1, types={"list": 1})
    rig.read()
    rig.probe.welcomed("another", store_changed=True)
    reading = rig.read()
    assert reading.complete
    assert len(reading.definitions.stacks) == len(reading.definitions.frames) == len(reading.definitions.types) == 1


def test_between_complete_readings_only_what_changed_is_listed(rig: Rig):
    rig.core.sites[1] = FakeSite([(TWO_LINES, offset_of_line(TWO_LINES, 2))], live_bytes=10, samples=1)
    rig.core.sites[2] = FakeSite([(TWO_LINES, offset_of_line(TWO_LINES, 3))], live_bytes=20, samples=1)
    assert rig.read().complete
    rig.core.sites[2].live_bytes = 25
    reading = rig.read()
    assert not reading.complete
    assert numbers(reading.sites.live_bytes) == [25]


def test_a_site_whose_memory_was_freed_is_sent_as_zero(rig: Rig):
    """Left out, it would seem to hold for ever what it held last."""
    rig.core.sites[1] = FakeSite([(TWO_LINES, 0)], live_bytes=10, live_objects=1, alloc_bytes=10, samples=1)
    rig.read()
    rig.core.sites[1].live_bytes, rig.core.sites[1].samples = 0.0, 0
    reading = rig.read()
    assert numbers(reading.sites.live_bytes) == [0]
    assert numbers(reading.sites.alloc_bytes) == [10]
    rig.queue.require_key(STREAM)
    assert numbers(rig.read().sites.live_bytes) == []


def test_every_so_many_readings_one_is_complete():
    rig = Rig(complete_every=3)
    rig.core.sites[1] = FakeSite([(TWO_LINES, 0)], live_bytes=10, samples=1)
    assert [rig.read().complete for _ in range(7)] == [True, False, False, True, False, False, True]
    rig.probe.stop(1.0)


def test_a_dropped_reading_makes_the_next_one_complete(rig: Rig):
    rig.core.sites[1] = FakeSite([(TWO_LINES, 0)], live_bytes=10, samples=1)
    rig.read()
    rig.read_unacknowledged()
    rig.queue.reject(STREAM, 2, "malformed")
    assert rig.read().complete


def test_instructions_of_one_line_are_one_site(rig: Rig):
    """Collectors know lines, not instructions; two rows for one stack would hide each other."""
    code = code_of("def f():\n    return [1], [2]\n")
    start = offset_of_line(code, 2)
    rig.core.sites[1] = FakeSite(
        [(code, start)], live_bytes=10, live_objects=1, samples=1, birth_ms=1000, minutes=2, types={"list": 10}
    )
    rig.core.sites[2] = FakeSite(
        [(code, start + 2)], live_bytes=30, live_objects=3, samples=2, birth_ms=2000, minutes=1, types={"list": 30}
    )
    sites = rig.read().sites
    assert len(sites.stack) == 8
    assert (numbers(sites.live_bytes), numbers(sites.live_objects), numbers(sites.samples, "I")) == ([40], [4], [3])
    assert (numbers(sites.birth_oldest_ms, "q"), numbers(sites.birth_mean_ms, "q")) == ([1000], [1750])
    assert numbers(sites.birth_minutes, "I") == [2]
    rig.core.sites[1].live_bytes = 20
    reading = rig.read()
    assert numbers(reading.sites.live_bytes) == [50]
    assert numbers(reading.types.live_bytes) == [40]


def test_a_new_epoch_starts_from_a_complete_reading_with_new_nodes(rig: Rig):
    rig.core.sites[1] = FakeSite([(TWO_LINES, 0)], live_bytes=10, samples=1)
    rig.read()
    rig.core.epoch = 2
    rig.core.sites = {1: FakeSite([(code_of("def g(): pass", name="g"), 0)], live_bytes=5, samples=1)}
    reading = rig.read()
    assert reading.complete
    assert reading.epoch == 2
    assert [frame.function for frame in reading.definitions.frames] == ["g"]


def test_a_reading_that_fails_makes_the_next_one_complete_and_tells_who_waited(rig: Rig):
    rig.core.sites[1] = FakeSite([(TWO_LINES, 0)], live_bytes=10, samples=1)
    rig.read()
    told: list[str] = []
    rig.core.fails = True
    assert rig.probe.request(lambda: told.append("stored"), told.append) is None
    with pytest.raises(RuntimeError):
        rig.probe.read()
    assert told == ["the heap could not be read"]
    rig.core.fails = False
    assert rig.read().complete


def test_whoever_asked_for_a_snapshot_hears_when_it_is_stored(rig: Rig):
    rig.read()
    told: list[str] = []
    rig.probe.request(lambda: told.append("stored"), told.append)
    assert rig.read_unacknowledged().complete
    assert told == []
    rig.queue.acknowledge(STREAM, 2, "store")
    assert told == ["stored"]


def test_lines_are_found_by_byte_offset_also_before_the_first_instruction():
    assert [line_at(TWO_LINES, offset_of_line(TWO_LINES, line)) for line in (2, 3)] == [2, 3]
    assert line_at(TWO_LINES, -1) == 1
    assert line_at(TWO_LINES, 100_000) == 0


def test_names_outside_ascii_and_outside_unicode_arrive_and_long_ones_are_cut():
    assert presentable("größe.<locals>.λ") == "größe.<locals>.λ"
    assert presentable("bad\udcffname") == "bad?name"
    assert len(presentable("x" * 5000)) == 1024


def test_blocks_without_a_path_say_why(rig: Rig):
    rig.core.sites[1] = FakeSite([], live_bytes=1, samples=1, truncated=True)
    rig.core.sites[3] = FakeSite([], live_bytes=1, samples=1)
    reading = rig.read()
    functions = {frame.function for frame in reading.definitions.frames}
    assert functions == {"<more call paths than the agent keeps>", "<no Python code>"}
    assert sorted(stack.truncated for stack in reading.definitions.stacks) == [False, True]


def test_full_tables_are_cleaned_up_but_not_again_and_again(rig: Rig):
    """Each clean-up starts a new epoch, which cuts every series."""
    rig.core.counts["stacks"] = 60
    rig.probe.read()
    rig.probe.read()
    assert rig.core.released == 1
    rig.clock.advance(601)
    rig.probe.read()
    assert rig.core.released == 2


def test_a_process_that_cannot_be_sampled_says_why_and_nothing_else_happens():
    probe = HeapProbe(HeapConfig(), BatchQueue(100_000), FakeClock(), Guard(), refusal="This Python is too new.")
    probe.start()
    probe.read()
    assert (probe.state().state, probe.state().reason) == ("refused", "This Python is too new.")
    assert "too new" in (probe.request(lambda: None, lambda _reason: None) or "")
    assert not probe.statistics()
    probe.stop(0.1)


def test_the_sampler_runs_in_a_named_thread_that_ends_with_the_probe():
    rig = Rig()
    assert [thread for thread in threading.enumerate() if thread.name == "glassbottom-sampler"]
    rig.probe.stop(5.0)
    assert rig.probe._thread is not None
    assert not rig.probe._thread.is_alive()
    assert not rig.core.running


def test_five_thousand_rows_are_turned_into_stacks_in_twenty_milliseconds():
    """CPU time of the second reading, when names are resolved; the best of several, for a busy machine's sake."""
    rig = Rig(complete_every=1)
    codes = [code_of("\n" * line + "def f(): return [1]", file=f"{line}.py") for line in range(100)]
    for node in range(5000):
        path = [(codes[node % 100], 0), (codes[node // 100], 0)]
        rig.core.sites[node] = FakeSite(path, live_bytes=node, live_objects=1, samples=1)
    rig.read()
    snapshot = rig.core.snapshot()
    assert snapshot is not None
    rig.core.snapshot = lambda: snapshot  # type: ignore[method-assign]
    spent_s = []
    for _ in range(7):
        began_s = time.thread_time()
        rig.read()
        spent_s.append(time.thread_time() - began_s)
    rig.probe.stop(1.0)
    assert rig.core.resolved == 5000
    assert min(spent_s) < 0.020
