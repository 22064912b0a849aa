"""Snapshots with a name are found by it again."""

from __future__ import annotations

from glassbottom_collector.model.process import Span

from tests.storage.conftest import Bench
from tests.support.store_agent import DAY, MIDNIGHT, MINUTE, NOON, S, StoreAgent

EVER = Span(NOON - DAY, NOON + 2 * DAY)


def names(bench: Bench, within: Span = EVER, instance_id: str | None = None) -> list[tuple[str, int]]:
    return [(each.label, each.header.at_ns) for each in bench.reader.labelled("checkout", within, instance_id)]


def test_a_name_is_stored_with_the_header_of_its_snapshot(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0}, complete=True, labels=("before",))
    agent.heap(bench.writer, NOON + 10 * S, {1: 11.0})
    bench.reopen()
    (found,) = bench.reader.labelled("checkout", EVER)
    assert found.label == "before"
    assert (found.header.instance_id, found.header.at_ns, found.header.complete) == (agent.instance_id, NOON, True)
    assert (found.header.live_bytes, found.header.live_bytes_variance) == (10.0, 7.0)


def test_one_snapshot_may_have_several_names_and_one_name_several_snapshots(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0}, complete=True, labels=("warm", "before"))
    agent.heap(bench.writer, NOON + MINUTE, {1: 11.0}, complete=True, labels=("before",))
    assert names(bench) == [("before", NOON), ("warm", NOON), ("before", NOON + MINUTE)]


def test_names_come_by_time_over_days_of_one_service_or_process_and_within_the_range(bench: Bench) -> None:
    first, second, other = StoreAgent(), StoreAgent(), StoreAgent("mail")
    for agent in (second, first, other):
        agent.heap(bench.writer, MIDNIGHT - S, {1: 10.0}, complete=True, labels=("late",))
    first.heap(bench.writer, MIDNIGHT + S, {1: 11.0}, complete=True, labels=("early",))
    assert names(bench) == [("late", MIDNIGHT - S), ("late", MIDNIGHT - S), ("early", MIDNIGHT + S)]
    assert names(bench, instance_id=second.instance_id) == [("late", MIDNIGHT - S)]
    assert names(bench, Span(MIDNIGHT, MIDNIGHT + 2 * S)) == [("early", MIDNIGHT + S)]
    assert names(bench, Span(MIDNIGHT - S, MIDNIGHT)) == [("late", MIDNIGHT - S)] * 2
