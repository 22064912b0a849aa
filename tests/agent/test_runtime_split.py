"""Whose the resident memory is: the parts follow what the process does, and cost little."""

from __future__ import annotations

import gc
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from glassbottom import _native
from glassbottom.probes.runtime_split import (
    COST_RATIO,
    RETRY_S,
    SECONDS_MAX,
    Split,
    limits,
    load,
    pymalloc_parts,
    stacks_in,
)

pytestmark = pytest.mark.usefixtures("nothing_frozen")

MIB = 1 << 20

REPORT = """
3 arenas * 1048576 bytes/arena     =            3,145,728

# bytes in allocated blocks        =            2,267,216
# bytes in available blocks        =              303,232
"""

MAPS = """\
55d0c8a2b000-55d0c8a4c000 rw-p 00000000 00:00 0                          [heap]
7f0a50000000-7f0a50021000 rw-p 00000000 00:00 0
7f0a50021000-7f0a54000000 ---p 00000000 00:00 0
7f0a54000000-7f0a54021000 rw-p 00000000 00:00 0
7f0a5bfff000-7f0a5c000000 ---p 00000000 00:00 0
7f0a5c000000-7f0a5c800000 rw-p 00000000 00:00 0
7f0a5d000000-7f0a5d001000 ---p 00000000 08:01 77                         /usr/lib/libz.so
7f0a5d001000-7f0a5d002000 rw-p 00001000 08:01 77                         /usr/lib/libz.so
7ffc1a1e0000-7ffc1a201000 rw-p 00000000 00:00 0                          [stack]
not a line
"""


class Told:
    """A core whose answers are given, and which counts how often it was asked."""

    def __init__(self, report: str | None = REPORT, malloc: tuple[int, int, int] | None = (700, 300, 100)) -> None:
        self.report = report
        self.malloc = malloc
        self.asked = 0

    def memory_pymalloc(self) -> str | None:
        return self.report

    def memory_malloc(self) -> tuple[int, int, int] | None:
        self.asked += 1
        return self.malloc

    def memory_resident(self, ranges: Sequence[tuple[int, int]], /) -> int:
        return 4096 * len(ranges)

    def memory_large(self) -> tuple[float, float] | None:
        return None


def read(split: Split, now_s: float = 100.0) -> dict[str, float]:
    return {f"{name} {' '.join(attributes.values())}".strip(): value for name, value, attributes in split.read(now_s)}


def test_objects_go_into_pymalloc_and_leave_it_free() -> None:
    used = "glassbottom.pymalloc.memory used"
    gc.collect()  # or the lists below set off a collection of what earlier tests left
    before = read(Split(load()))[used]
    held = [[number] for number in range(200_000)]
    during = read(Split(load()))[used]
    del held
    gc.collect()
    after = read(Split(load()))[used]
    assert 10 * MIB < during - before < 40 * MIB
    assert after < before + 4 * MIB


def test_pymalloc_is_told_also_while_the_sampler_stands_on_it() -> None:
    _native.start(window_share=1.0)
    thread = threading.Thread(target=_native.run_windows, args=(30.0,))
    thread.start()
    try:
        assert all(pymalloc_parts(_native.memory_pymalloc() or "") for _ in range(50))
    finally:
        _native.interrupt()
        thread.join()
        _native.stop()


def test_what_a_library_takes_from_malloc_is_told_and_a_mapping_is_not() -> None:
    if _native.memory_malloc() is None:
        assert "glassbottom.malloc.memory used" not in read(Split(load()))
        return
    before = read(Split(load()))
    held, mapped = bytearray(8 * MIB), mmap.mmap(-1, 8 * MIB)
    mapped.write(b"x" * 8 * MIB)
    after = read(Split(load()))
    used = after["glassbottom.malloc.memory used"] - before["glassbottom.malloc.memory used"]
    assert 7 * MIB < used < 10 * MIB
    shared = after["glassbottom.memory.resident shared"] - before["glassbottom.memory.resident shared"]
    assert 7 * MIB < shared < 10 * MIB
    assert len(held) == len(mapped)


def test_large_blocks_of_python_are_told_apart_from_small_ones() -> None:
    _native.start(interval_bytes=4096.0, window_share=1.0)
    try:
        held = [bytearray(100_000) for _ in range(100)]
        _native.snapshot()
        large, variance = _native.memory_large() or (0.0, 0.0)
    finally:
        _native.stop()
    assert large == pytest.approx(100 * 100_000, rel=0.2)
    assert 0 <= variance < large**2
    assert len(held) == 100
    assert _native.memory_large() is None


def test_the_stacks_of_threads_are_found_by_their_guards() -> None:
    assert stacks_in(MAPS) == [(0x7F0A5C000000, 0x7F0A5C800000), (0x7FFC1A1E0000, 0x7FFC1A201000)]


def test_each_thread_has_a_stack_that_is_partly_resident() -> None:
    def stacks() -> list[tuple[int, int]]:
        return stacks_in(Path("/proc/self/maps").read_text())

    ending = threading.Event()
    threads = [threading.Thread(target=ending.wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    found = stacks()
    resident = _native.memory_resident(found)
    ending.set()
    for thread in threads:
        thread.join()
    assert len(found) >= 8  # perhaps more: the C library keeps stacks of threads that ended, and gives them to new ones
    assert 8 * 4096 <= resident <= sum(end - start for start, end in found)


def test_a_range_that_is_gone_counts_nothing() -> None:
    assert _native.memory_resident([(1 << 46, (1 << 46) + 4096)]) == 0
    with pytest.raises(TypeError):
        _native.memory_resident([1])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        _native.memory_resident(7)  # type: ignore[arg-type]


def test_a_report_of_another_form_is_no_report() -> None:
    assert pymalloc_parts(REPORT) == {"used": 2267216.0, "free": 878512.0}
    assert pymalloc_parts("mimalloc: 12 pages") is None
    told = read(Split(Told(report="")))
    assert not any(name.startswith("glassbottom.pymalloc") for name in told)


def test_without_a_core_and_without_proc_only_the_collector_and_limits_are_told(tmp_path: Path) -> None:
    told = {name for name, _, _ in Split(None, tmp_path).read(0.0)}
    assert told - {name for name, _, _ in limits()} == {"glassbottom.gc.enabled", "glassbottom.gc.frozen_objects"}


def test_a_source_that_takes_long_is_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    took = [0.01]
    clock = [0.0]

    def tick() -> float:
        clock[0] += took[0] / 2
        return clock[0]

    monkeypatch.setattr("glassbottom.probes.runtime_split.time.perf_counter", tick)
    core = Told()
    split = Split(core)
    for now_s in range(0, 101, 10):
        list(split.read(float(now_s)))
    assert core.asked == 1 + int(100 * COST_RATIO / (took[0] / 2))
    took[0] = 3 * SECONDS_MAX
    core = Told()
    split = Split(core)
    for now_s in range(0, int(RETRY_S), 10):
        list(split.read(float(now_s)))
    assert core.asked == 1
    assert split.seconds_max > SECONDS_MAX


def test_collections_that_are_switched_off_are_told() -> None:
    split = Split(None)
    gc.disable()
    try:
        assert read(split)["glassbottom.gc.enabled"] == 0.0
    finally:
        gc.enable()
    assert read(split)["glassbottom.gc.enabled"] == 1.0


def test_the_host_is_a_limit(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\n")
    told = {name: value for name, value, _ in limits(tmp_path / "meminfo")}
    assert told["system.memory.limit"] == 2 * MIB
    assert told["system.linux.memory.available"] == MIB
