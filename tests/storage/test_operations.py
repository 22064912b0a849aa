"""Operations: what was stored is what is told, interval by interval or summed up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from glassbottom_collector.model.timing import OperationKind
from glassbottom_collector.storage.embedded import reader_time

from tests.storage.conftest import Bench
from tests.support.store_agent import MIDNIGHT, NOON, OPERATIONS, S, StoreAgent, histogram, operation
from tests.support.store_time import EVER, FULL, HOUR, interval, plain


def test_every_column_of_an_operation_comes_back(bench: Bench) -> None:
    agent = StoreAgent()
    agent.append(bench.writer, OPERATIONS, interval(NOON, FULL, operation("other")))
    bench.reopen()
    assert {key: [plain(one) for one in some] for key, some in bench.reader.operations("checkout", HOUR).items()} == {
        agent.instance_id: [plain(interval(NOON, FULL, operation("other")))]
    }


def test_intervals_come_by_instance_and_time(bench: Bench) -> None:
    first, second = sorted((StoreAgent(), StoreAgent()), key=lambda agent: agent.instance_id)
    for agent, seconds in ((second, 20), (first, 30), (second, 10), (first, 3600)):
        agent.append(bench.writer, OPERATIONS, interval(NOON + seconds * S, operation("a", 0.1)))
    StoreAgent("billing").append(bench.writer, OPERATIONS, interval(NOON + S, operation("a", 0.1)))
    found = bench.reader.operations("checkout", HOUR)
    assert [(instance, [(one.to_ns - NOON) // S for one in some]) for instance, some in found.items()] == [
        (first.instance_id, [30]),
        (second.instance_id, [10, 20]),
    ]
    assert list(bench.reader.operations("checkout", HOUR, second.instance_id)) == [second.instance_id]
    assert bench.reader.operations("unknown", HOUR) == {}


def test_an_interval_in_which_nothing_ended_is_an_interval(bench: Bench) -> None:
    agent = StoreAgent()
    agent.append(bench.writer, OPERATIONS, interval(NOON))
    ((found,),) = bench.reader.operations("checkout", HOUR).values()
    assert (found.from_ns, found.to_ns, list(found.rows)) == (NOON - 10 * S, NOON, [])
    (total,) = bench.reader.operation_totals("checkout", HOUR).values()
    assert (total.from_ns, total.to_ns, list(total.rows)) == (NOON - 10 * S, NOON, [])


def test_totals_are_what_one_interval_would_have_held(bench: Bench) -> None:
    agent = StoreAgent()
    values = [[2**-10, 0.5], [0.0, 2**-9], [], [7.0]]
    for place, some in enumerate(values):
        row = operation("a", *some, span_kind="SERVER", self_s=1.5, cpu_count=2, alloc_bytes=10.0, bare_yields=1)
        agent.append(bench.writer, OPERATIONS, interval(NOON + place * 10 * S, row, operation("b", 0.25)))
    (total,) = bench.reader.operation_totals("checkout", HOUR).values()
    assert (total.from_ns, total.to_ns) == (NOON - 10 * S, NOON + 30 * S)
    a, b = sorted(total.rows, key=lambda row: row.name)
    expected = operation(
        "a",
        *(value for some in values for value in some),
        span_kind="SERVER",
        self_s=6.0,
        cpu_count=8,
        alloc_bytes=40.0,
        bare_yields=4,
    )
    assert plain(a) == plain(expected)
    assert (a.duration.min_s, a.duration.max_s, a.duration.count) == (0.0, 7.0, 5)
    assert b.duration.count == 4
    assert isinstance(a.cpu_count, int)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": OperationKind.FUNCTION},
        {"name": "b"},
        {"span_kind": "CLIENT"},
        {"status": "error"},
        {"frame": 7},
        {"route": "GET /"},
        {"target": "redis"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_totals_keep_apart_what_differs_in_anything_but_numbers(bench: Bench, changed: dict[str, object]) -> None:
    agent = StoreAgent()
    rows = operation("a", 0.1), replace(operation("a", 0.2), **changed)  # type: ignore[arg-type]
    for place in range(2):
        agent.append(bench.writer, OPERATIONS, interval(NOON + place * 10 * S, *rows))
    (total,) = bench.reader.operation_totals("checkout", HOUR).values()
    assert sorted(row.duration.sum_s for row in total.rows) == pytest.approx([0.2, 0.4])


def test_totals_span_days_and_scales(bench: Bench) -> None:
    agent = StoreAgent()
    bench.clock.now_ns = MIDNIGHT
    for to_ns, scale in ((MIDNIGHT - S, 4), (MIDNIGHT - S // 2, 2), (MIDNIGHT + 10 * S, 3)):
        row = replace(operation("a"), duration=histogram(0.125, 3.0, scale=scale))
        agent.append(bench.writer, OPERATIONS, interval(to_ns, row))
    (total,) = bench.reader.operation_totals("checkout", EVER).values()
    (row,) = total.rows
    assert plain(row.duration) == plain(histogram(*[0.125, 3.0] * 3, scale=2))
    assert (total.from_ns, total.to_ns) == (MIDNIGHT - 11 * S, MIDNIGHT + 10 * S)


def test_totals_are_the_same_in_small_portions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = [StoreAgent() for _ in range(3)]
    for place in range(6):
        for number, agent in enumerate(agents):
            rows = [operation(f"f{row}", 2**-10 * (number + 1), 2**-7 * (place + 1)) for row in range(5)]
            agent.append(bench.writer, OPERATIONS, interval(NOON + place * 10 * S, *rows))
    whole = bench.reader.operation_totals("checkout", HOUR)
    several = bench.reader.operations("checkout", HOUR)
    monkeypatch.setattr(reader_time, "_ROWS_AT_ONCE", 7)
    assert {key: plain(one) for key, one in bench.reader.operation_totals("checkout", HOUR).items()} == {
        key: plain(one) for key, one in whole.items()
    }
    assert {key: len(some) for key, some in bench.reader.operations("checkout", HOUR).items()} == {
        key: len(some) for key, some in several.items()
    }
    assert sum(row.duration.count for one in whole.values() for row in one.rows) == 3 * 6 * 5 * 2


def test_requests_of_every_interval_are_counted_without_the_rest(bench: Bench) -> None:
    first, second = sorted((StoreAgent(), StoreAgent()), key=lambda agent: agent.instance_id)
    request, inner = operation("GET /", 0.0, 0.5, 0.5), operation("query", 0.5, route="GET /")
    coroutine = operation("f", 0.5, kind=OperationKind.COROUTINE)
    first.append(bench.writer, OPERATIONS, interval(NOON + 10 * S, coroutine, inner))
    first.append(bench.writer, OPERATIONS, interval(NOON, request, replace(request, status="error"), inner))
    second.append(bench.writer, OPERATIONS, interval(NOON))
    found = bench.reader.ended("checkout", HOUR, OperationKind.SPAN)
    assert [(instance, one.count.tolist()) for instance, one in found.items()] == [
        (first.instance_id, [6, 0]),
        (second.instance_id, [0]),
    ]
    assert found[first.instance_id].to_ns.tolist() == [NOON, NOON + 10 * S]
    assert found[first.instance_id].from_ns.tolist() == [NOON - 10 * S, NOON]
    of_one = bench.reader.ended("checkout", HOUR, OperationKind.COROUTINE, first.instance_id)
    assert {instance: one.count.tolist() for instance, one in of_one.items()} == {first.instance_id: [0, 1]}
    assert bench.reader.ended("unknown", HOUR, OperationKind.SPAN) == {}
