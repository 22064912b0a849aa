"""A line that is accused for what another one keeps is told as growing, with the reason; else it stays a leak."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.leaks.innocent import judged
from glassbottom_collector.model.code import Frame, type_id
from glassbottom_collector.model.heap import Definitions, HeapSnapshot, SiteColumns, SnapshotHeader, TypeColumns
from glassbottom_collector.model.leak import Evidence, LeakFinding, PerOperation, Rate, Verdict
from glassbottom_collector.model.process import Process

from tests.support.memory_reader import MemoryReader

pytestmark = pytest.mark.once  # arithmetic only; nothing in it differs between versions

AT = 1_700_000_000_000_000_000
A = "a" * 32
OWN = Frame("AsgiMiddleware.__call__", "/srv/lib/python3.12/site-packages/glassbottom/spans/asgi.py", 34)


def reader_of(types: dict[int, str]) -> MemoryReader:
    """A heap in which each call path holds one object of a type."""
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 1, AT))
    stacks = np.array(list(types), dtype=np.uint64)
    ones, times = np.ones(len(types)), np.ones(len(types), dtype=np.int64)
    few = np.ones(len(types), dtype=np.uint32)
    kinds = np.array([type_id(name) for name in types.values()], dtype=np.uint64)
    header = SnapshotHeader(A, 1, AT, True, 1e5, 1.0, 1.0, 1.0)
    sites = SiteColumns(stacks, ones, ones, ones, ones, ones, ones, few, times, times, few)
    known = Definitions({}, {}, {type_id(name): name for name in types.values()})
    reader.add_snapshot(HeapSnapshot(header, sites, TypeColumns(stacks, kinds, ones, ones, few), known))
    return reader


def leak(stack: int, rate: float, route: str, *, objects: float = 1.0, frame: Frame | None = None) -> LeakFinding:
    price = PerOperation(route, rate / 50, 0.0, rate, objects, 1000, attributed=True)
    return LeakFinding(
        Verdict.LEAK, frame or Frame("keep", "/srv/app/views.py", stack), (stack,), Rate(rate, rate / 2, rate * 2),
        Rate(1.0, 0.5, 2.0), 1.0, 0.0, 1.0, 99, 0.01, (Evidence("trend", True, "It rises."),), "", (A,), None,
        per_operation=(price,),
    )  # fmt: skip


def verdicts(findings: list[LeakFinding], types: dict[int, str]) -> list[str]:
    return [each.verdict.value for each in judged(findings, reader_of(types), "shop", AT)]


def test_dicts_of_another_operation_may_have_been_freed_there_and_kept_by_the_faster_leak():
    guilty, accused = leak(1, 9000.0, "POST /"), leak(2, 500.0, "GET /")
    _, told = judged([guilty, accused], reader_of({1: "app.Order", 2: "dict"}), "shop", AT)

    assert told.verdict is Verdict.GROWING
    assert told.evidence[-1].name == "free lists"
    assert "views.py:1" in told.evidence[-1].sentence
    assert "views.py:1" in told.would_change


@pytest.mark.parametrize(
    ("types", "route", "objects"),
    [
        ({1: "app.Order", 2: "app.Basket"}, "GET /", 1.0),  # a class of the application is in no free list
        ({1: "app.Order", 2: "dict"}, "POST /", 1.0),  # the same operation: which line it is cannot be told
        ({1: "app.Order", 2: "dict"}, "GET /", 40.0),  # more than the other could have taken
        ({1: "app.Order", 2: "<buffer>"}, "GET /", 1.0),  # nothing is known of its types
    ],
)
def test_where_it_is_unclear_both_stay_leaks(types, route, objects):
    assert verdicts([leak(1, 9000.0, "POST /"), leak(2, 500.0, route, objects=objects)], types) == ["leak", "leak"]


def test_the_agents_own_record_is_no_leak_beside_one_of_the_application_even_if_it_grows_faster():
    findings = [leak(3, 20_000.0, "POST /", frame=OWN), leak(1, 9000.0, "POST /")]

    assert verdicts(findings, {1: "app.Order", 3: "tuple"}) == ["growing", "leak"]


def test_alone_the_agents_own_leak_is_one():
    assert verdicts([leak(3, 20_000.0, "POST /", frame=OWN)], {3: "tuple"}) == ["leak"]
