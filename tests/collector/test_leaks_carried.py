"""An array's data lies outside Python: the site that leaks arrays and the growth there are one leak."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.leaks.carried import joined
from glassbottom_collector.leaks.native import NATIVE_FRAME
from glassbottom_collector.model.code import Frame, type_id
from glassbottom_collector.model.heap import Definitions, HeapSnapshot, SiteColumns, SnapshotHeader, TypeColumns
from glassbottom_collector.model.leak import Evidence, LeakFinding, LeakKind, PerOperation, Rate, Verdict
from glassbottom_collector.model.process import Process

from tests.support.memory_reader import MemoryReader

pytestmark = pytest.mark.once

AT = 1_700_000_000_000_000_000
A, B = "a" * 32, "b" * 32


def reader_of(types: dict[int, str]) -> MemoryReader:
    """A heap in which each call path holds one object of a type."""
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 1, AT))
    count = len(types)
    stacks = np.array(list(types), dtype=np.uint64)
    ones, times = np.ones(count), np.ones(count, dtype=np.int64)
    few = np.ones(count, dtype=np.uint32)
    kinds = np.array([type_id(name) for name in types.values()], dtype=np.uint64)
    header = SnapshotHeader(A, 1, AT, True, 1e5, 1.0, float(count), 1.0)
    sites = SiteColumns(stacks, ones, ones, ones, ones, ones, ones, few, times, times, few)
    known = Definitions({}, {}, {type_id(name): name for name in types.values()})
    reader.add_snapshot(HeapSnapshot(header, sites, TypeColumns(stacks, kinds, ones, ones, few), known))
    return reader


def finding(frame: Frame, kind: LeakKind, rate: float, *stacks: int, instance: str = A) -> LeakFinding:
    price = PerOperation("POST /", rate / 2, 0.9 * rate / 2, 1.1 * rate / 2, 1.0, 100, attributed=True)
    return LeakFinding(
        Verdict.LEAK, frame, stacks, Rate(rate, 0.9 * rate, 1.1 * rate), Rate(2.0, 1.9, 2.1), 1.0, 0.0, 1.0, 9, 0.01,
        (Evidence("trend", True, "It rises."),), "", (instance,), None, kind, (price,),
    )  # fmt: skip


def site(line: int, *stacks: int, instance: str = A) -> LeakFinding:
    return finding(Frame("keep", "/srv/app.py", line), LeakKind.REACHABLE, 200.0, *stacks, instance=instance)


NATIVE = finding(NATIVE_FRAME, LeakKind.NATIVE, 1_000_000.0)


def test_the_site_that_leaks_arrays_has_their_data_and_what_grows_outside_is_no_leak_of_its_own():
    arrays, other, outside = joined(
        [site(1, 11), site(2, 12), NATIVE], reader_of({11: "numpy.ndarray", 12: "dict"}), "shop", AT
    )

    assert arrays.bytes_rate.per_second == 1_000_200.0
    assert arrays.bytes_rate.low == pytest.approx(900_200, rel=1e-3)
    assert arrays.per_operation[0].bytes == pytest.approx(500_100)
    assert "488 KiB for each object" in arrays.evidence[-1].sentence
    assert other == site(2, 12)
    assert outside.verdict is Verdict.GROWING
    assert "/srv/app.py:1" in outside.evidence[-1].sentence
    assert "if it goes on" in outside.would_change


@pytest.mark.parametrize(
    ("findings", "types"),
    [
        ([site(1, 11), NATIVE], {11: "dict"}),
        ([site(1, 11), site(2, 12), NATIVE], {11: "numpy.ndarray", 12: "torch.Tensor"}),  # which of them it is?
        ([site(1, 11, instance=B), NATIVE], {11: "numpy.ndarray"}),  # not where it grows
        ([site(1, 11)], {11: "numpy.ndarray"}),
        ([NATIVE], {11: "numpy.ndarray"}),
    ],
)
def test_otherwise_each_stands_by_itself(findings, types):
    assert joined(findings, reader_of(types), "shop", AT) == findings
