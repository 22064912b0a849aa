"""Whatever is sent how often, across whatever: stored once, and never forgotten after it was acknowledged."""

from __future__ import annotations

import duckdb
import pytest
from glassbottom_collector.errors import StorageError, StorageFull
from glassbottom_collector.model.heap import MetricPoint
from glassbottom_collector.model.process import Span
from glassbottom_collector.storage import BatchKey

from tests.storage.conftest import Bench
from tests.support.store_agent import DAY, HEAP, METRICS, MIDNIGHT, MINUTE, NOON, S, StoreAgent, snapshot, wait

WEEK = Span(NOON - 3 * DAY, NOON + 4 * DAY)


def stored(bench: Bench, service: str = "checkout") -> list[int]:
    """Times of the snapshots that are there, in seconds after noon."""
    return sorted((header.at_ns - NOON) // S for header in bench.reader.headers(service, WEEK))


def test_what_has_been_acknowledged_can_be_read_at_once(bench: Bench) -> None:
    agent = StoreAgent()
    agent.open(bench.writer)
    agent.heap(bench.writer, NOON, {1: 10.0})
    assert stored(bench) == [0]


def test_a_session_that_was_never_opened_is_stored_all_the_same(bench: Bench) -> None:
    StoreAgent().heap(bench.writer, NOON, {1: 10.0})
    assert stored(bench) == [0]


def test_a_new_session_has_no_marks(bench: Bench) -> None:
    assert StoreAgent().open(bench.writer) == {}


def test_marks_are_the_highest_of_each_stream_and_survive_a_restart(bench: Bench) -> None:
    agent = StoreAgent()
    agent.open(bench.writer)
    for minute in range(3):
        agent.heap(bench.writer, NOON + minute * MINUTE, {1: 1.0})
    agent.metrics(bench.writer, [MetricPoint(NOON, "process.uptime", 1.0)])
    assert agent.open(bench.writer) == {HEAP: 3, METRICS: 1}
    bench.reopen()
    assert agent.open(bench.writer) == {HEAP: 3, METRICS: 1}


def test_a_batch_sent_again_is_stored_once(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0})
    agent.heap(bench.writer, NOON, {1: 10.0}, seq=1)
    bench.reopen()
    agent.heap(bench.writer, NOON, {1: 10.0}, seq=1)
    assert stored(bench) == [0]


def test_a_batch_sent_twice_within_one_commit_is_stored_once(bench: Bench) -> None:
    agent = StoreAgent()
    key = BatchKey(agent.session_id, HEAP, 1)
    content = snapshot(agent.instance_id, NOON, {1: 1.0})
    answers = wait(lambda: [bench.writer.append(key, agent.process, content) for _ in range(5)])
    assert answers == [None] * 5
    assert stored(bench) == [0]


def test_streams_and_sessions_count_apart(bench: Bench) -> None:
    first, second = StoreAgent(), StoreAgent()
    first.heap(bench.writer, NOON, {1: 1.0}, seq=5)
    second.heap(bench.writer, NOON + S, {1: 1.0}, seq=1)
    first.metrics(bench.writer, [MetricPoint(NOON, "process.uptime", 1.0)], seq=1)
    assert stored(bench) == [0, 1]
    assert first.open(bench.writer) == {HEAP: 5, METRICS: 1}


def test_a_gap_means_that_the_agent_dropped_something(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 1.0}, seq=1)
    agent.heap(bench.writer, NOON + S, {1: 1.0}, seq=7)
    assert stored(bench) == [0, 1]
    assert agent.open(bench.writer) == {HEAP: 7}


def test_a_session_that_crosses_midnight_keeps_its_mark(bench: Bench) -> None:
    """The mark lies in the file of the day of the batch; both files have to be asked."""
    agent = StoreAgent()
    for seq, at_ns in enumerate((MIDNIGHT - 2 * S, MIDNIGHT - S, MIDNIGHT, MIDNIGHT + S), 1):
        agent.heap(bench.writer, at_ns, {1: 1.0}, seq=seq)
    bench.clock.now_ns = MIDNIGHT + 2 * S
    bench.reopen()
    assert agent.open(bench.writer) == {HEAP: 4}
    for seq, at_ns in enumerate((MIDNIGHT - 2 * S, MIDNIGHT - S, MIDNIGHT, MIDNIGHT + S), 1):
        agent.heap(bench.writer, at_ns, {1: 1.0}, seq=seq)
    assert len(stored(bench)) == 4


def test_the_mark_is_found_when_the_last_batch_was_of_the_day_before(bench: Bench) -> None:
    """A clock that steps back over midnight leaves the highest mark in the older file."""
    agent = StoreAgent()
    for seq, at_ns in enumerate((MIDNIGHT - S, MIDNIGHT + S, MIDNIGHT - S // 2), 1):
        agent.heap(bench.writer, at_ns, {1: 1.0}, seq=seq)
    bench.clock.now_ns = MIDNIGHT + 3 * S
    bench.reopen()
    assert agent.open(bench.writer) == {HEAP: 3}


def test_a_batch_of_long_ago_meets_the_mark_in_the_file_of_its_own_day(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 1.0})
    bench.clock.now_ns = NOON + 10 * DAY
    bench.reopen()
    agent.heap(bench.writer, NOON, {1: 1.0}, seq=1)
    assert stored(bench) == [0]


def test_one_commit_may_span_days_and_loses_nothing(bench: Bench) -> None:
    agents = [StoreAgent() for _ in range(3)]
    times = [MIDNIGHT - S, MIDNIGHT + S, MIDNIGHT - S // 2, MIDNIGHT + 2 * S]

    def append() -> list[object]:
        return [
            bench.writer.append(
                BatchKey(agent.session_id, HEAP, seq), agent.process, snapshot(agent.instance_id, at_ns, {1: 1.0})
            )
            for seq, at_ns in enumerate(times, 1)
            for agent in agents
        ]

    bench.clock.now_ns = MIDNIGHT
    assert wait(append) == [None] * 12
    assert len(stored(bench)) == 12
    bench.reopen()
    assert [agent.open(bench.writer) for agent in agents] == [{HEAP: 4}] * 3


def test_a_batch_is_never_stored_past_an_earlier_one_that_failed(bench: Bench) -> None:
    """Of one group over two days the second cannot be written: what follows in the same lane must fail with it, since
    its mark would otherwise cover what is missing."""
    agent = StoreAgent()
    agent.open(bench.writer)
    blocker = bench.path / "day=2024-10-05.duckdb"
    with duckdb.connect(str(blocker)) as engine:
        engine.execute("CREATE TABLE schema (version INTEGER); INSERT INTO schema VALUES (99)")

    def append() -> list[object]:
        return [
            bench.writer.append(
                BatchKey(agent.session_id, HEAP, seq), agent.process, snapshot(agent.instance_id, at_ns, {1: 1.0})
            )
            for seq, at_ns in enumerate((NOON, MIDNIGHT + S, NOON + S), 1)
        ]

    first, second, third = wait(append)  # type: ignore[misc]
    assert first is None
    assert isinstance(second, StorageError)
    assert isinstance(third, StorageError)
    with pytest.raises(StorageError, match="connect and send it again"):
        agent.heap(bench.writer, NOON + 2 * S, {1: 1.0}, seq=4)
    blocker.unlink()
    assert agent.open(bench.writer) == {HEAP: 1}
    for seq, at_ns in ((2, MIDNIGHT + S), (3, NOON + S), (4, NOON + 2 * S)):
        agent.heap(bench.writer, at_ns, {1: 1.0}, seq=seq)
    assert len(stored(bench)) == 4
    assert agent.open(bench.writer) == {HEAP: 4}


def test_without_room_nothing_is_taken_and_nothing_is_lost(bench: Bench) -> None:
    agent = StoreAgent()
    agent.open(bench.writer)
    agent.heap(bench.writer, NOON, {1: 1.0})
    bench.reopen(free_bytes_min=2**60)
    assert agent.open(bench.writer) == {HEAP: 1}
    with pytest.raises(StorageFull, match="free_bytes_min"):
        agent.heap(bench.writer, NOON + S, {1: 1.0}, seq=2)
    assert "free_bytes_min" in bench.store.full()
    assert any("free_bytes_min" in problem for problem in bench.store.statistics().problems)
    assert stored(bench) == [0]
    bench.reopen(free_bytes_min=0)
    assert agent.open(bench.writer) == {HEAP: 1}
    agent.heap(bench.writer, NOON + S, {1: 1.0}, seq=2)
    assert stored(bench) == [0, 1]
    assert bench.store.full() == ""


def test_a_full_queue_refuses_at_once_and_in_order(bench: Bench) -> None:
    """The batch that did not fit, and those after it, wait for the session to be opened again."""
    bench.reopen(queue_bytes_max=2**20)
    agent = StoreAgent()
    live = dict.fromkeys(range(4000), 1.0)  # about 350 kB

    def append() -> list[object]:
        return [
            bench.writer.append(
                BatchKey(agent.session_id, HEAP, seq), agent.process, snapshot(agent.instance_id, NOON + seq, live)
            )
            for seq in range(1, 11)
        ]

    answers: list[object] = wait(append)  # type: ignore[assignment]
    refused = [isinstance(answer, StorageError) for answer in answers]
    assert refused[0] is False
    assert refused[-1] is True
    assert refused == sorted(refused)
    assert bench.store.statistics().values["store_batches_refused_total"] == sum(refused)
    taken = refused.count(False)
    assert agent.open(bench.writer) == {HEAP: taken}


def test_a_closed_store_refuses(bench: Bench) -> None:
    writer = bench.writer
    bench.close()
    with pytest.raises(StorageError, match="closing"):
        StoreAgent().heap(writer, NOON, {1: 1.0})
