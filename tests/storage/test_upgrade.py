"""Stores of version 1 (glassbottom 0.1.0, heap and metrics only) are read and written on."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from glassbottom_collector.errors import StorageError
from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import Definitions, MetricPoint
from glassbottom_collector.model.process import Span
from glassbottom_collector.model.timing import Observation, Observations, Operations

from tests.storage.conftest import Bench
from tests.support.store_agent import (
    DAY,
    HEAP,
    METRICS,
    NOON,
    OBSERVATIONS,
    OPERATIONS,
    S,
    StoreAgent,
    definitions,
    live_bytes,
    operation,
)

FIXTURES = Path(__file__).parent / "fixtures"
EVER = Span(NOON - 3 * DAY, NOON + 3 * DAY)
STORE_ID = "5" * 32
SESSION = "6" * 32
INSTANCE = "7" * 32
FRAME = Frame("Cart.add", "/srv/app/cart.py", 42)
STACK = stack_id((FRAME.id,))
DAYS = ("2024-10-03", "2024-10-04")


def make_old(path: Path, *, leave_in_log: bool = False) -> None:
    """Files as 0.1.0 wrote them: two days of one process, a heap snapshot and a reading on each."""
    path.mkdir()
    with duckdb.connect(str(path / "meta.duckdb")) as engine:
        engine.execute((FIXTURES / "meta_1.sql").read_text())
        engine.execute("INSERT INTO store VALUES (?, 1, ?)", [STORE_ID, NOON])
        engine.execute("INSERT INTO frame VALUES (?, ?, ?, ?)", [FRAME.id, FRAME.function, FRAME.file, FRAME.line])
        engine.execute("INSERT INTO stack VALUES (?, ?, true)", [STACK, FRAME.id.to_bytes(8, "little")])
    for place, day in enumerate(DAYS, 1):
        at_ns = NOON - (2 - place) * DAY
        engine = duckdb.connect(str(path / f"day={day}.duckdb"))
        engine.execute((FIXTURES / "day_1.sql").read_text())
        engine.execute("INSERT INTO schema VALUES (1)")
        engine.execute("INSERT INTO process VALUES (?, 'checkout', 42, ?, '{}', '0.1.0')", [INSTANCE, NOON - DAY])
        for batch, stream in ((1, HEAP), (2, METRICS)):
            row = [batch, SESSION, stream, place, INSTANCE, at_ns]
            engine.execute("INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?)", row)
        row = [INSTANCE, at_ns]
        engine.execute("INSERT INTO heap_snapshot VALUES (1, ?, ?, 1, true, 524288, 0.5, 10, 7, 1, 0)", row)
        engine.execute("INSERT INTO heap_site VALUES (1, ?, 10, 20, 1, 2, 30, 3, 4, 5, 6, 7)", [STACK])
        engine.execute("INSERT INTO metric VALUES (2, 'process.memory.usage', '{}', 100)")
        if leave_in_log:
            engine.execute("PRAGMA disable_checkpoint_on_shutdown")
        engine.close()


def versions(path: Path) -> list[int]:
    """Of the meta file and of each day; the store must be closed."""
    found = []
    for name, column, table in (
        ("meta", "schema_version", "store"),
        *((f"day={day}", "version", "schema") for day in DAYS),
    ):
        with duckdb.connect(str(path / f"{name}.duckdb"), read_only=True) as engine:
            found += [row[0] for row in engine.execute(f"SELECT {column} FROM {table}").fetchall()]
    return found


@pytest.mark.parametrize("leave_in_log", [False, True], ids=["closed", "killed"])
def test_what_an_older_version_stored_is_read_as_it_was(bench: Bench, leave_in_log: bool) -> None:
    make_old(bench.path, leave_in_log=leave_in_log)
    reader = bench.reader
    assert bench.writer.store_id == STORE_ID
    assert [header.at_ns for header in reader.headers("checkout", EVER)] == [NOON - DAY, NOON]
    (state,) = reader.heap_at("checkout", NOON)
    assert live_bytes(state) == {STACK: 10.0}
    assert reader.stacks([STACK]) == {STACK: Stack(STACK, (FRAME.id,), True, "")}
    assert reader.frames([FRAME.id]) == {FRAME.id: FRAME}
    assert reader.metrics("checkout", EVER, ["process.memory.usage"])[INSTANCE][0] == MetricPoint(
        NOON - DAY, "process.memory.usage", 100.0
    )
    assert bench.store.statistics().problems == ()


def test_what_it_did_not_know_is_empty(bench: Bench) -> None:
    make_old(bench.path)
    reader = bench.reader
    assert reader.operations("checkout", EVER) == {}
    assert reader.operation_totals("checkout", EVER) == {}
    assert reader.tasks("checkout", EVER) == {}
    assert len(reader.thread_time("checkout", EVER)) == 0
    assert reader.observations("checkout", EVER, []) == []


def test_an_old_file_takes_everything_new(bench: Bench) -> None:
    make_old(bench.path)
    agent = StoreAgent(instance_id=INSTANCE)
    agent.session_id = SESSION
    assert agent.open(bench.writer) == {HEAP: 2, METRICS: 2}
    label = "GET /cart/{id}"
    labelled = Stack(stack_id((FRAME.id,), label), (FRAME.id,), False, label)
    agent.heap(bench.writer, NOON + S, {STACK: 11.0}, seq=3, defined=definitions([FRAME]))
    agent.append(bench.writer, OPERATIONS, Operations(NOON, NOON + S, [operation("a", 0.5)]))
    seen = Observation(NOON, "loop.blocked", "f", 0, labelled.id, 1.0, 1)
    defined = Definitions({}, {labelled.id: labelled}, {})
    agent.append(bench.writer, OBSERVATIONS, Observations(NOON + S, [seen], 0, defined))
    bench.reopen()
    assert agent.open(bench.writer) == {HEAP: 3, METRICS: 2, OPERATIONS: 1, OBSERVATIONS: 1}
    assert len(bench.reader.headers("checkout", EVER)) == 3
    assert len(bench.reader.operation_totals("checkout", EVER)) == 1
    assert len(bench.reader.observations("checkout", EVER, [])) == 1
    # A stack that is there already stays as it was.
    assert bench.reader.stacks([STACK, labelled.id]) == {
        STACK: Stack(STACK, (FRAME.id,), True, ""),
        labelled.id: labelled,
    }


def test_a_file_is_brought_up_to_date_once_and_says_so(bench: Bench) -> None:
    make_old(bench.path)
    assert len(bench.reader.headers("checkout", Span(NOON, NOON + S))) == 1
    bench.close()
    # The day before was not asked for, and is left as it is until it is.
    assert versions(bench.path) == [3, 1, 3]
    assert len(bench.reader.headers("checkout", EVER)) == 2
    bench.close()
    assert versions(bench.path) == [3, 3, 3]
    bench.reopen()
    assert len(bench.reader.headers("checkout", EVER)) == 2


def test_a_day_that_is_new_when_the_collector_dies_is_made_again(bench: Bench) -> None:
    """Tables without a version are what a crash between two statements left in version 1."""
    bench.path.mkdir()
    with duckdb.connect(str(bench.path / "day=2024-10-04.duckdb")) as engine:
        engine.execute((FIXTURES / "day_1.sql").read_text())
    with duckdb.connect(str(bench.path / "meta.duckdb")) as engine:
        engine.execute((FIXTURES / "meta_1.sql").read_text())
    StoreAgent().append(bench.writer, OPERATIONS, Operations(NOON, NOON + S, [operation("a", 0.5)]))
    bench.reopen()
    assert len(bench.reader.operation_totals("checkout", EVER)) == 1
    assert bench.store.statistics().problems == ()


def test_a_day_of_a_newer_version_is_left_alone_and_the_others_are_read(bench: Bench) -> None:
    make_old(bench.path)
    with duckdb.connect(str(bench.path / f"day={DAYS[0]}.duckdb")) as engine:
        engine.execute("UPDATE schema SET version = 99")
    assert len(bench.reader.headers("checkout", Span(NOON, NOON + S))) == 1
    with pytest.raises(StorageError, match="newer glassbottom"):
        bench.reader.headers("checkout", EVER)
    bench.close()
    assert versions(bench.path) == [3, 99, 3]
