"""Growth outside Python, from processes that really grow so: their parts of memory, on a clock that runs faster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from glassbottom_collector.leaks.detector import find_leaks
from glassbottom_collector.model.heap import MetricPoint
from glassbottom_collector.model.leak import LeakFinding, LeakKind, LeakReport, Verdict
from glassbottom_collector.model.process import Process, Span
from glassbottom_collector.model.timing import Histogram, Operation, OperationKind, Operations

from tests.support.memory_reader import MemoryReader

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
START = 1_700_000_000_000_000_000
SECOND = 10**9
CHAPTER = 10 * SECOND
MIB = 1 << 20
A = "a" * 32
Chapters = Sequence[Sequence[tuple[str, float, Mapping[str, str]]]]


@lru_cache
def lived(story: str) -> Chapters:
    """What a process told that lived a story of tests/support/memory_story.py for ten minutes of ours."""
    command = [sys.executable, "-m", "tests.support.memory_story", story, "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def reader_of(
    chapters: Chapters, ended: Sequence[float] = (), without: str = "-", malloc_at: Container[int] = range(1000)
) -> MemoryReader:
    """malloc_at: chapters in which malloc was asked; an agent asks it seldom where that is dear."""
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 1, START, {"host.name": "h"}))
    for number, told in enumerate(chapters):
        at_ns = START + number * CHAPTER
        points = [
            MetricPoint(at_ns, name, value, tuple(sorted(attributes.items())))
            for name, value, attributes in told
            if not name.startswith(without) and (number in malloc_at or not name.startswith("glassbottom.malloc"))
        ]
        reader.add_metrics(A, points)
        if number < len(ended) and number:
            count = Histogram(4, 0, 0, np.array([int(ended[number])], dtype=np.uint64), 1.0, 0.1, 0.1)
            row = Operation(OperationKind.SPAN, "GET /csv", "SERVER", "ok", 0, "", "", count, 0, 0, 0, 0, 0, 0, 0)
            reader.add(A, Operations(at_ns - CHAPTER, at_ns, [row]))
    return reader


def report_of(reader: MemoryReader) -> LeakReport:
    return find_leaks(reader, "shop", Span(START, START + 60 * CHAPTER))


def only(report: LeakReport) -> LeakFinding:
    (finding,) = report.findings
    return finding


def sentence_of(finding: LeakFinding, name: str) -> str:
    return next(each.sentence for each in finding.evidence if each.name == name)


def test_a_library_that_loses_what_it_takes_from_malloc_is_a_native_leak_with_its_rate():
    finding = only(report_of(reader_of(lived("native"))))

    assert (finding.verdict, finding.kind) == (Verdict.LEAK, LeakKind.NATIVE)
    assert finding.bytes_rate.per_second == pytest.approx(20 * 4000 / 10, rel=0.1)
    assert all(each.supports_leak for each in finding.evidence)
    assert "outside Python" in sentence_of(finding, "native")
    assert "dump memray" in finding.would_change
    assert (finding.stacks, finding.frame.file) == ((), "")


def test_of_what_a_library_takes_and_does_not_touch_only_what_is_resident_is_told():
    finding = only(report_of(reader_of(lived("untouched"))))

    assert (finding.verdict, finding.kind) == (Verdict.LEAK, LeakKind.NATIVE)
    resident = [value for told in lived("untouched") for name, value, _ in told if name == "process.memory.usage"]
    assert finding.bytes_rate.per_second == pytest.approx((resident[-1] - resident[20]) / 390, rel=0.15)
    assert "is touched and so resident" in sentence_of(finding, "resident")


def test_which_operation_a_native_leak_grows_with_is_told_by_counts():
    finding = only(report_of(reader_of(lived("native"), ended=[20.0] * 60)))

    (operation,) = finding.per_operation
    assert operation.operation == "GET /csv"
    assert operation.bytes == pytest.approx(4000, rel=0.1)
    assert not operation.attributed


def test_a_mapping_that_no_allocator_counts_is_native_too():
    finding = only(report_of(reader_of(lived("mappings"))))

    assert (finding.verdict, finding.kind) == (Verdict.LEAK, LeakKind.NATIVE)
    assert finding.bytes_rate.per_second == pytest.approx(20 * (64 << 10) / 10, rel=0.1)
    assert "anonymous memory that no allocator counts" in sentence_of(finding, "trend")


@pytest.mark.parametrize("story", ["objects", "temporaries", "idle"])
def test_what_python_holds_and_what_comes_and_goes_is_no_native_leak(story):
    report = report_of(reader_of(lived(story)))

    assert [finding for finding in report.findings if finding.verdict is Verdict.LEAK] == []
    assert report.forecast is None


@pytest.mark.parametrize("malloc_at", [range(0, 1000, 7), range(10), range(1)], ids=["seldom", "no more", "once"])
def test_what_python_takes_from_malloc_between_two_answers_of_it_is_no_native_leak(malloc_at):
    report = report_of(reader_of(lived("objects"), malloc_at=malloc_at))

    assert [finding for finding in report.findings if finding.verdict is Verdict.LEAK] == []


def test_a_native_leak_is_found_where_malloc_is_asked_seldom():
    finding = only(report_of(reader_of(lived("native"), malloc_at=range(0, 1000, 2))))

    assert (finding.verdict, finding.kind) == (Verdict.LEAK, LeakKind.NATIVE)
    assert finding.bytes_rate.per_second == pytest.approx(20 * 4000 / 10, rel=0.1)


def test_free_memory_that_malloc_keeps_is_fragmentation_and_never_a_leak():
    report = report_of(reader_of(lived("holes")))

    finding = only(report)
    assert (finding.verdict, finding.kind) == (Verdict.GROWING, LeakKind.FRAGMENTATION)
    assert "dump trim" in finding.would_change
    assert any("free memory that the allocators keep" in note for note in report.notes)


def test_parts_of_memory_add_up_to_what_is_resident():
    report = report_of(reader_of(lived("objects")))
    resident = next(value for name, value, _ in lived("objects")[-1] if name == "process.memory.usage")

    assert sum(part.last_bytes for part in report.memory) == pytest.approx(resident, rel=0.1)
    python = report.memory[0]
    assert python.name == "python"
    assert python.last_bytes - python.first_bytes > 10 * MIB
    assert python.bytes_per_second == pytest.approx((python.last_bytes - python.first_bytes) / 440, rel=0.2)


def test_where_malloc_does_not_tell_growth_may_be_free_memory_and_is_unclear():
    finding = only(report_of(reader_of(lived("mappings"), without="glassbottom.malloc")))

    assert finding.verdict is Verdict.UNCLEAR
    assert "malloc does not tell" in sentence_of(finding, "parts")


def test_where_the_heap_is_not_sampled_growth_may_be_pythons_own():
    finding = only(report_of(reader_of(lived("native"), without="glassbottom.heap")))

    assert finding.verdict is Verdict.UNCLEAR
    assert "Python's own large blocks" in sentence_of(finding, "parts")


def test_memory_that_follows_the_load_up_is_not_accused():
    finding = only(report_of(reader_of(lived("native"), ended=[10.0 + each for each in range(60)])))

    assert finding.verdict is Verdict.UNCLEAR
    assert "memory followed it" in sentence_of(finding, "load")
    assert "while the load is level" in finding.would_change


def test_an_agent_that_tells_no_parts_changes_nothing():
    report = report_of(reader_of(lived("native"), without="glassbottom."))

    assert (report.findings, report.memory, report.forecast) == ((), (), None)
