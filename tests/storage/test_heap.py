"""What the heap was at a moment, and how it moved, from snapshots that only tell what changed."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.model.heap import HeapSeries
from glassbottom_collector.model.process import Span
from glassbottom_collector.storage.embedded import reader as embedded_reader

from tests.storage.conftest import Bench
from tests.support.store_agent import (
    MIDNIGHT,
    MINUTE,
    NOON,
    S,
    StoreAgent,
    live_bytes,
    type_bytes,
)

HOUR = Span(NOON, NOON + 60 * MINUTE)


def heap(bench: Bench, at_ns: int, **selector: str) -> list[dict[int, float]]:
    """{stack: live bytes} of each process."""
    return [live_bytes(state) for state in bench.reader.heap_at("checkout", at_ns, **selector)]


def column(series: HeapSeries, stack: int, name: str = "live_bytes") -> list[float]:
    """One stack's values."""
    return getattr(series, name)[:, series.stacks.tolist().index(stack)].tolist()


def test_a_stack_keeps_its_value_until_it_is_listed_again(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0, 2: 20.0}, complete=True)
    agent.heap(bench.writer, NOON + 10 * S, {2: 25.0, 3: 5.0})
    agent.heap(bench.writer, NOON + 20 * S, {1: 11.0})
    assert heap(bench, NOON + 5 * S) == [{1: 10.0, 2: 20.0}]
    assert heap(bench, NOON + 10 * S) == [{1: 10.0, 2: 25.0, 3: 5.0}]
    assert heap(bench, NOON + 60 * S) == [{1: 11.0, 2: 25.0, 3: 5.0}]


def test_the_header_is_that_of_the_latest_snapshot(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0}, complete=True)
    agent.heap(bench.writer, NOON + 10 * S, {2: 25.0})
    (state,) = bench.reader.heap_at("checkout", NOON + 15 * S)
    assert state.header.at_ns == NOON + 10 * S
    assert state.header.live_bytes == 25.0
    assert state.header.window_share == 0.5
    assert state.header.instance_id == agent.instance_id


def test_every_column_of_a_row_comes_back(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {2**64 - 1: 10.0}, complete=True, types={(2**64 - 1, 2**63): 4.0})
    (state,) = bench.reader.heap_at("checkout", NOON)
    assert {name: getattr(state.sites, name).tolist() for name in state.sites.__dataclass_fields__} == {
        "stack": [2**64 - 1],
        "live_bytes": [10.0],
        "live_bytes_variance": [20.0],
        "live_objects": [1.0],
        "live_objects_variance": [2.0],
        "alloc_bytes": [30.0],
        "alloc_objects": [40.0],
        "samples": [10],
        "birth_oldest_ms": [NOON // 1_000_000 - 5_000],
        "birth_mean_ms": [NOON // 1_000_000],
        "birth_minutes": [3],
    }
    assert type_bytes(state) == {(2**64 - 1, 2**63): 4.0}


def test_a_complete_snapshot_empties_what_it_does_not_list(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0, 2: 20.0}, complete=True)
    agent.heap(bench.writer, NOON + 10 * S, {2: 21.0}, complete=True)
    assert heap(bench, NOON + 10 * S) == [{2: 21.0}]


def test_types_are_those_listed_with_the_last_row_of_their_stack(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0, 2: 20.0}, complete=True, types={(1, 7): 10.0, (2, 7): 20.0})
    agent.heap(bench.writer, NOON + 10 * S, {2: 20.0}, types={(2, 8): 12.0, (2, 9): 8.0})
    (state,) = bench.reader.heap_at("checkout", NOON + 10 * S)
    assert type_bytes(state) == {(1, 7): 10.0, (2, 8): 12.0, (2, 9): 8.0}


def test_values_are_carried_across_midnight(bench: Bench) -> None:
    agent = StoreAgent()
    bench.clock.now_ns = MIDNIGHT
    agent.heap(bench.writer, MIDNIGHT - 20 * S, {1: 10.0, 2: 20.0}, complete=True, types={(1, 7): 10.0})
    agent.heap(bench.writer, MIDNIGHT - 10 * S, {2: 22.0})
    agent.heap(bench.writer, MIDNIGHT + 10 * S, {3: 30.0})
    assert heap(bench, MIDNIGHT + 15 * S) == [{1: 10.0, 2: 22.0, 3: 30.0}]
    (state,) = bench.reader.heap_at("checkout", MIDNIGHT + 15 * S)
    assert type_bytes(state) == {(1, 7): 10.0}
    (series,) = bench.reader.heap_series("checkout", Span(MIDNIGHT - 15 * S, MIDNIGHT + MINUTE))
    assert column(series, 1) == [10.0, 10.0]
    assert column(series, 2) == [22.0, 22.0]
    assert column(series, 3) == [0.0, 30.0]


def test_a_complete_snapshot_far_back_is_still_found(bench: Bench) -> None:
    """An agent that reads every five minutes sends a complete snapshot every hundred."""
    agent = StoreAgent()
    for place in range(20):
        agent.heap(bench.writer, NOON + place * 5 * MINUTE, {1: 10.0} if place == 0 else {2: 2.0}, complete=place == 0)
    assert heap(bench, NOON + 95 * MINUTE) == [{1: 10.0, 2: 2.0}]


def test_an_epoch_starts_from_nothing(bench: Bench) -> None:
    """Tables of another epoch are other tables: what they held says nothing about these."""
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0}, complete=True)
    agent.heap(bench.writer, NOON + 10 * S, {2: 20.0}, epoch=2)
    assert heap(bench, NOON + 10 * S) == [{2: 20.0}]
    first, second = bench.reader.heap_series("checkout", HOUR)
    assert (first.epoch, first.stacks.tolist()) == (1, [1])
    assert (second.epoch, second.stacks.tolist()) == (2, [2])


def test_a_process_that_fell_silent_is_no_longer_part_of_the_heap(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0}, complete=True)
    assert len(heap(bench, NOON + 10 * MINUTE)) == 1
    assert heap(bench, NOON + 10 * MINUTE + S) == []
    assert heap(bench, NOON - S) == []


def test_each_process_of_the_service_has_its_own_heap(bench: Bench) -> None:
    first, second, other = StoreAgent(), StoreAgent(), StoreAgent("billing")
    first.heap(bench.writer, NOON, {1: 10.0}, complete=True)
    second.heap(bench.writer, NOON, {1: 11.0}, complete=True)
    other.heap(bench.writer, NOON, {1: 12.0}, complete=True)
    assert sorted(one[1] for one in heap(bench, NOON)) == [10.0, 11.0]
    assert heap(bench, NOON, instance_id=second.instance_id) == [{1: 11.0}]
    assert [series.instance_id for series in bench.reader.heap_series("checkout", HOUR, second.instance_id)] == [
        second.instance_id
    ]


def test_a_series_carries_values_from_before_its_range(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON - 20 * S, {1: 10.0}, complete=True)
    agent.heap(bench.writer, NOON - 10 * S, {2: 20.0})
    agent.heap(bench.writer, NOON, {3: 30.0})
    agent.heap(bench.writer, NOON + 10 * S, {1: 12.0})
    (series,) = bench.reader.heap_series("checkout", HOUR)
    assert [header.at_ns for header in series.headers] == [NOON, NOON + 10 * S]
    assert series.live_bytes.shape == (2, 3)
    assert column(series, 1) == [10.0, 12.0]
    assert column(series, 2) == [20.0, 20.0]
    assert column(series, 3) == [30.0, 30.0]
    assert column(series, 1, "samples") == [10, 12]
    assert column(series, 1, "birth_mean_ms")[1] == (NOON + 10 * S) // 1_000_000


def test_what_was_allocated_stays_when_nothing_of_it_is_alive(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0, 2: 1.0}, complete=True, alloc={1: 100.0, 2: 5.0})
    agent.heap(bench.writer, NOON + 10 * S, {2: 1.0}, complete=True, alloc={2: 6.0})
    (series,) = bench.reader.heap_series("checkout", HOUR)
    assert column(series, 1) == [10.0, 0.0]
    assert column(series, 1, "alloc_bytes") == [100.0, 100.0]
    assert column(series, 1, "samples") == [10, 0]


def test_a_long_series_is_thinned_and_every_point_is_still_exact(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_reader, "SERIES_CELLS_MAX", 20)
    agent = StoreAgent()
    for place in range(30):
        agent.heap(bench.writer, NOON + place * 10 * S, {1: 100.0 + place, 2 + place % 3: 1.0}, complete=place % 7 == 0)
    (series,) = bench.reader.heap_series("checkout", HOUR)
    places = [(header.at_ns - NOON) // (10 * S) for header in series.headers]
    assert places[0] == 0
    assert places[-1] == 29
    assert len(places) == 5
    assert column(series, 1) == [100.0 + place for place in places]
    for row, place in enumerate(places):
        (state,) = bench.reader.heap_at("checkout", NOON + place * 10 * S)
        values = series.live_bytes[row].tolist()
        held = {stack: value for stack, value in zip(series.stacks.tolist(), values, strict=True) if value}
        assert held == live_bytes(state)


def test_an_empty_snapshot_is_a_point_of_the_series(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {}, complete=True)
    (series,) = bench.reader.heap_series("checkout", HOUR)
    assert series.live_bytes.shape == (1, 0)
    assert heap(bench, NOON) == [{}]
    assert np.array_equal(series.at_ns, [NOON])


def test_nothing_known_is_an_empty_answer(bench: Bench) -> None:
    assert heap(bench, NOON) == []
    assert list(bench.reader.heap_series("checkout", HOUR)) == []
    assert bench.reader.headers("checkout", HOUR) == []
