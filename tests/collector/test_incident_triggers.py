"""A leak, an SLO or a signal sets a capture off by itself, once and not again for as long as it lasts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from glassbottom_collector.incident.triggers import Conditions, Triggers, breaches
from glassbottom_collector.model.heap import Definitions
from glassbottom_collector.model.incident import LEAK, SIGNAL, SLO
from glassbottom_collector.model.process import Process

from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.heap_curves import Component, Curve, frames_of, series_of, stack_of
from tests.support.memory_reader import MemoryReader, snapshots_of
from tests.support.store_agent import OPERATIONS, S, StoreAgent, operation
from tests.support.store_time import interval

pytestmark = pytest.mark.once


@dataclass
class Instance:
    process: Process
    connected: bool


def connected() -> list[Instance]:
    """One service is, and one was."""
    return [
        Instance(Process("checkout", "a", 1, 0), connected=True),
        Instance(Process("gone", "b", 2, 0), connected=False),
    ]


HOUR = np.arange(0.0, 3600.0, 30.0)
MB = 1e6


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[CollectorThread]:
    """One that knows 200 slow requests, of which every tenth failed, of the last minute."""
    with collector_thread(tmp_path) as running:
        now_ns = time.time_ns()
        agent = StoreAgent("checkout", started_at_ns=now_ns - 300 * S)
        agent.open(running.store.writer)
        rows = [
            operation("GET /cart", *[0.5] * 180, span_kind="SERVER"),
            operation("GET /cart", *[0.5] * 20, span_kind="SERVER", status="error"),
        ]
        agent.append(running.store.writer, OPERATIONS, interval(now_ns - 10 * S, *rows))
        yield running


@pytest.mark.parametrize(
    ("conditions", "issues"),
    [
        (Conditions(), []),
        (Conditions(p95_ms=400), ["slow-checkout"]),
        (Conditions(p95_ms=600), []),
        (Conditions(error_ratio=0.05), ["errors-checkout"]),
        (Conditions(error_ratio=0.15), []),
        (Conditions(error_ratio=0.05, p95_ms=400), ["errors-checkout"]),
    ],
)
def test_requests_that_are_slower_or_fail_more_often_than_allowed_are_a_breach(
    collector: CollectorThread, conditions: Conditions, issues: list[str]
) -> None:
    found = breaches(collector.store.reader, "checkout", time.time_ns(), conditions)

    assert [breach.issue for breach in found] == issues
    assert {breach.trigger for breach in found} <= {SLO}


def test_a_handful_of_requests_is_no_breach(tmp_path: Path) -> None:
    with collector_thread(tmp_path) as running:
        now_ns = time.time_ns()
        agent = StoreAgent("checkout", started_at_ns=now_ns - 300 * S)
        agent.open(running.store.writer)
        agent.append(
            running.store.writer, OPERATIONS, interval(now_ns, operation("GET /", *[9.0] * 99, span_kind="SERVER"))
        )
        assert breaches(running.store.reader, "checkout", now_ns + S, Conditions(p95_ms=100)) == []


def leaking(rate_bytes_per_s: float) -> tuple[MemoryReader, int]:
    series = series_of([Curve("leak", (Component(rate_bytes_per_s * HOUR, age_s=0.0),))], HOUR, seed=5)
    frames, stack = frames_of(0), stack_of(0)
    reader = MemoryReader()
    reader.add_process(Process("shop", series.instance_id, 1, int(series.at_ns[0])))
    for snapshot in snapshots_of(series, Definitions({frame.id: frame for frame in frames}, {stack.id: stack}, {})):
        reader.add_snapshot(snapshot)
    return reader, int(series.at_ns[-1]) + 1


def test_a_leak_is_a_breach_only_where_it_is_asked_for() -> None:
    reader, now_ns = leaking(100 * MB / 3600)

    assert [one.trigger for one in breaches(reader, "shop", now_ns, Conditions(on_leak=True))] == [LEAK]
    assert breaches(reader, "shop", now_ns, Conditions()) == []


def test_a_signal_captures_at_once_and_the_next_ones_are_held_back_and_counted(collector: CollectorThread) -> None:
    incidents = collector.collector.incidents
    for _ in range(3):
        collector.collector.triggers.call("checkout", "0123456789abcdef", "SIGUSR2")

    collector.wait_for(lambda: collector.statistics()["incidents_held_back_total"] == 2)

    (row,) = incidents.store.list("checkout", 10)
    assert (row.trigger, row.issue, row.asked_by) == (SIGNAL, "signal-checkout", "SIGUSR2 at process 01234567")
    assert row.has_file


def test_a_breach_that_lasts_is_captured_once(collector: CollectorThread) -> None:
    incidents = collector.collector.incidents
    triggers = Triggers(incidents, collector.store.reader, connected, Conditions(p95_ms=400))  # type: ignore[arg-type]
    triggers.check()
    triggers.check()

    (row,) = incidents.store.list("", 10)
    assert (row.trigger, row.service, row.issue) == (SLO, "checkout", "slow-checkout")
    assert triggers.statistics()["incident_checks_total"] == 2
