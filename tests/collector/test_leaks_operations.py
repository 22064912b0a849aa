"""What stays of each operation: by the route noted at birth, and by regression on how many ended."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.leaks.detector import find_leaks
from glassbottom_collector.leaks.regression import fit, nnls
from glassbottom_collector.model.code import Stack, stack_id
from glassbottom_collector.model.heap import Definitions
from glassbottom_collector.model.leak import LeakFinding, Verdict
from glassbottom_collector.model.process import Process, Span
from glassbottom_collector.model.timing import EMPTY, Histogram, Operation, OperationKind, Operations
from scipy.optimize import nnls as scipy_nnls

from tests.support.heap_curves import MB, Array, Component, Curve, frames_of, series_of
from tests.support.memory_reader import MemoryReader, snapshots_of

pytestmark = pytest.mark.once

START = 1_700_000_000_000_000_000
SECOND = 10**9
A = "a" * 32
TIMES = np.arange(120) * 10.0
ORDERS, USERS = "POST /orders", "GET /users/{id}"


def ended(count: int) -> Histogram:
    return Histogram(4, 0, 0, np.array([count], dtype=np.uint64), 0.1 * count, 0.1, 0.1)


def operation(kind: OperationKind, name: str, count: int, route: str = "") -> Operation:
    return Operation(kind, name, "SERVER", "ok", 0, route, "", ended(count), 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0)


def reader_of(
    growth: dict[str, Array], per_interval: dict[str, Array], kind: OperationKind = OperationKind.SPAN
) -> MemoryReader:
    """One line that holds growth[route] (T,) bytes for each route; and intervals in which so many operations ended."""
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START - 7200 * SECOND))
    curves = [
        Curve("leak", (Component(level, age_s=0.0),), unit_bytes=4096.0, probability=0.1) for level in growth.values()
    ]
    series = series_of(curves, TIMES, seed=3, instance_id=A)
    ids = tuple(frame.id for frame in frames_of(0))
    stacks = [Stack(stack_id(ids, route), ids, label=route) for route in growth]
    object.__setattr__(series, "stacks", np.array([stack.id for stack in stacks], dtype=np.uint64))
    known = Definitions({frame.id: frame for frame in frames_of(0)}, {stack.id: stack for stack in stacks}, {})
    for snapshot in snapshots_of(series, known):
        reader.add_snapshot(snapshot)
    for index in range(1, len(TIMES)):
        rows = [operation(kind, name, int(counts[index])) for name, counts in per_interval.items() if counts[index]]
        rows.append(operation(OperationKind.STEP, "step", 1000))
        rows.append(operation(OperationKind.SPAN, "SELECT", 5, route=ORDERS))
        at = START + int(TIMES[index] * SECOND)
        reader.add(A, Operations(at - 10 * SECOND, at, rows))
    return reader


def finding_of(reader: MemoryReader) -> LeakFinding:
    (finding,) = find_leaks(reader, "shop", Span(START, START + 1200 * SECOND)).findings
    return finding


def sentence_of(finding: LeakFinding) -> str:
    return next((each.sentence for each in finding.evidence if each.name == "operations"), "")


def test_growth_is_divided_by_the_operations_of_the_route_it_was_allocated_for():
    steady = np.full(len(TIMES), 20.0)
    finding = finding_of(
        reader_of({ORDERS: TIMES * 2 * 50_000, USERS: TIMES * 5 * 4_000}, {ORDERS: steady, USERS: 2.5 * steady})
    )

    assert finding.verdict is Verdict.LEAK
    orders, users = finding.per_operation
    assert (orders.operation, users.operation) == (ORDERS, USERS)
    assert orders.bytes == pytest.approx(50_000, rel=0.1)
    assert users.bytes == pytest.approx(4_000, rel=0.2)
    assert orders.bytes_low <= 50_000 <= orders.bytes_high
    assert orders.attributed
    assert users.attributed
    assert orders.operations == pytest.approx(2 * 850, rel=0.05)  # behind the warm-up
    assert "was allocated for POST /orders" in sentence_of(finding)
    assert "counts alone could not tell" in sentence_of(finding)


def test_a_route_that_carries_none_of_the_growth_is_not_told():
    steady = np.full(len(TIMES), 20.0)
    finding = finding_of(
        reader_of({ORDERS: TIMES * 2 * 50_000, USERS: np.full(len(TIMES), 20 * MB)}, {ORDERS: steady, USERS: steady})
    )

    assert [each.operation for each in finding.per_operation] == [ORDERS]


def waves(seed: int) -> tuple[Array, Array]:
    """Two kinds of load that come and go, each at its own times."""
    rng = np.random.default_rng(seed)
    first = rng.poisson(20 * (1 + 0.8 * np.sin(TIMES / 130)))
    return first.astype(float), rng.poisson(60 * (1 + 0.8 * np.cos(TIMES / 210))).astype(float)


def test_without_routes_the_counts_tell_which_operation_leaves_something():
    guilty, innocent = waves(1)
    finding = finding_of(reader_of({"": np.cumsum(guilty) * 40_000}, {ORDERS: guilty, USERS: innocent}))

    (only,) = finding.per_operation
    assert only.operation == ORDERS
    assert not only.attributed
    assert only.bytes == pytest.approx(40_000, rel=0.25)
    assert only.bytes_low <= 40_000 <= only.bytes_high
    assert "By regression" in sentence_of(finding)


def test_counts_agree_with_routes_where_load_tells_them_apart():
    guilty, innocent = waves(2)
    finding = finding_of(reader_of({ORDERS: np.cumsum(guilty) * 40_000}, {ORDERS: guilty, USERS: innocent}))

    assert finding.per_operation[0].bytes == pytest.approx(40_000, rel=0.1)
    assert "agrees" in sentence_of(finding)


def test_operations_that_go_on_alike_are_not_told_apart():
    steady = np.full(len(TIMES), 20.0)
    finding = finding_of(reader_of({"": TIMES * 100_000}, {ORDERS: steady, USERS: steady}))

    assert finding.per_operation == ()
    assert "cannot be told" in sentence_of(finding)


def test_where_there_are_no_requests_coroutines_stand_for_them():
    steady = np.full(len(TIMES), 20.0)
    reader = reader_of({"": TIMES * 100_000}, {"consume": steady}, kind=OperationKind.COROUTINE)
    # Spans inside a request are none.
    (only,) = finding_of(reader).per_operation
    assert (only.operation, round(only.bytes / 1000)) == ("consume", pytest.approx(50, rel=0.1))


def test_without_any_operation_nothing_is_said_about_them():
    finding = finding_of(reader_of({"": TIMES * 100_000}, {}))

    assert finding.per_operation == ()
    assert sentence_of(finding) == ""


def test_coefficients_are_those_of_scipy():
    rng = np.random.default_rng(1)
    for _ in range(100):
        rows, columns = int(rng.integers(6, 25)), int(rng.integers(1, 8))
        basis, target = rng.normal(size=(rows, columns)), rng.normal(size=rows)
        assert nnls(basis, target) == pytest.approx(scipy_nnls(basis, target)[0], abs=1e-8)
    assert nnls(np.zeros((5, 0)), np.ones(5)).shape == (0,)


def test_the_interval_of_the_regression_covers_the_truth_among_correlated_operations():
    rng = np.random.default_rng(7)
    covered, blamed = 0, 0
    for _ in range(30):
        load = 1 + 0.5 * np.sin(np.arange(18) / 6 + rng.uniform(0, 6))
        ended = np.stack([np.cumsum(np.maximum(rng.normal(load * each, 0.3 * each), 0)) for each in (20, 100, 300)], 1)
        found = fit(2 * MB * ended[:, 0] + rng.normal(0, 15 * MB, 18), ended)
        covered += int(found.low[0] <= 2 * MB <= found.high[0])
        blamed += int(any(found.needed[1:]))
    assert covered >= 25
    assert blamed <= 2


def test_a_count_that_never_moves_has_no_share():
    level = np.arange(18.0)
    found = fit(level, np.stack([np.arange(18.0), np.zeros(18)], axis=1))
    assert found.value[0] == pytest.approx(1.0)
    assert found.value[1] == 0.0
    assert found.needed == (True, False)
    assert EMPTY.count == 0
