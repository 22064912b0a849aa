"""Leaks of many lines: told together where no line is enough, and beside each line where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.api.heap_views import Names
from glassbottom_collector.api.leak_view import report_message
from glassbottom_collector.cli.formats import json
from glassbottom_collector.leaks import looks, trend, verdict
from glassbottom_collector.leaks.blocks import Blocks, edges_of, reduce, until
from glassbottom_collector.leaks.detector import find_leaks
from glassbottom_collector.leaks.judging import Judged, Screen
from glassbottom_collector.leaks.sites import Grouping
from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import Definitions
from glassbottom_collector.model.leak import LeakFinding, LeakReport, Verdict
from glassbottom_collector.model.process import Process, Span

from tests.support.heap_curves import MB, Component, Curve, series_of
from tests.support.memory_reader import MemoryReader, snapshots_of

pytestmark = pytest.mark.once  # arithmetic only; nothing in it differs between versions

START = 1_700_000_000_000_000_000
SECOND = 10**9
HOUR = np.arange(120) * 30.0
ROUTE = "POST /orders"
MAIN = Frame("main", "/srv/app/main.py", 7)
HANDLER = Frame("orders", "/srv/app/orders.py", 20)
BUILD = Frame("build", "/usr/lib/python3/site-packages/shop/build.py", 88)


def findings_of(rates: list[float], route: str = ROUTE) -> list[LeakFinding]:
    """Of a process whose lines, all below BUILD of a library, grow by these bytes per second."""
    curves = [Curve("line", (Component(rate * HOUR, age_s=0.0),), rate) for rate in rates]
    frames, stacks = {}, []
    for line in range(len(rates)):
        path = (Frame(f"part{line}", "/usr/lib/python3/site-packages/shop/parts.py", 10 + line), BUILD, HANDLER, MAIN)
        frames |= {frame.id: frame for frame in path}
        ids = tuple(frame.id for frame in path)
        stacks.append(Stack(stack_id(ids, route), ids, label=route))
    series = replace(series_of(curves, HOUR, seed=3), stacks=np.array([stack.id for stack in stacks], dtype=np.uint64))
    reader = MemoryReader()
    reader.add_process(Process("shop", series.instance_id, 1, START))
    for snapshot in snapshots_of(series, Definitions(frames, {stack.id: stack for stack in stacks}, {})):
        reader.add_snapshot(snapshot)
    return list(find_leaks(reader, "shop", Span(START, START + 3600 * SECOND), limit=50).findings)


def test_many_lines_that_are_too_little_each_are_one_leak_at_what_they_have_in_common():
    rate = 6 * MB / 3600
    findings = findings_of([rate] * 25)

    first = findings[0]
    assert [each.verdict for each in findings].count(Verdict.LEAK) == 1
    assert first.verdict is Verdict.LEAK
    assert (first.frame, first.application_frame) == (BUILD, HANDLER)
    assert first.bytes_rate.per_second == pytest.approx(25 * rate, rel=0.25)
    assert first.whole is not None
    assert (first.whole.name, first.whole.share) == (ROUTE, 1.0)
    assert first.whole.line_count > 15
    assert sum(line.share for line in first.whole.lines) < 1.0


def test_without_a_route_the_function_of_the_application_brings_them_together():
    first = findings_of([6 * MB / 3600] * 25, route="")[0]

    assert first.verdict is Verdict.LEAK
    assert first.frame == BUILD
    assert first.whole is not None
    assert first.whole.name in ("main", "orders")


def test_one_line_that_is_the_leak_is_not_told_a_second_time_as_a_group():
    findings = findings_of([100 * MB / 3600, 2 * MB / 3600, 2 * MB / 3600])
    leaks = [each for each in findings if each.verdict is Verdict.LEAK]

    assert [each.frame.function for each in leaks] == ["part0"]


def blocks_of(rate: float) -> Blocks:
    series = series_of([Curve("leak", (Component(rate * HOUR, age_s=0.0),))], HOUR, seed=5)
    edges = edges_of(series.at_ns)
    assert edges is not None
    return reduce(series, Grouping(np.arange(1), 1), edges)


def judged_after(ended: float, rate: float) -> Judged:
    """The verdict on a leak of which so many operations have been seen."""
    blocks = blocks_of(rate)
    raw = trend.mann_kendall(blocks.retained)[1]
    judgement = verdict.judge(blocks, np.array([0]), raw, raw, raw, 1)[0]
    assert judgement.verdict is Verdict.LEAK
    screens = [Screen.of(None, blocks)]
    return looks.confirmed([Judged(0, judgement, (), 0)], screens, lambda _: ended, lambda _: 60.0)[0]


def test_a_leak_of_few_samples_waits_for_operations_that_would_fill_a_cache():
    few, many = judged_after(200, 25 * MB / 3600), judged_after(900, 25 * MB / 3600)

    assert (few.judgement.verdict, many.judgement.verdict) == (Verdict.GROWING, Verdict.LEAK)
    assert [each.name for each in few.judgement.evidence if not each.supports_leak] == ["early"]


def test_a_leak_that_is_straight_beyond_doubt_does_not_wait():
    assert judged_after(200, 400 * MB / 3600).judgement.verdict is Verdict.LEAK


def test_the_blocks_of_a_while_ago_are_those_that_had_ended():
    blocks = blocks_of(100 * MB / 3600)
    earlier = until(blocks, 15)

    assert len(earlier.retained) == 15
    assert earlier.live_last[0] == blocks.floors[14, 0]
    assert earlier.weight_last[0] == pytest.approx(blocks.weight_last[0])


def test_what_the_whole_operation_keeps_reaches_json():
    finding = findings_of([6 * MB / 3600] * 25)[0]
    report = LeakReport((finding,), 25, 120, Span(START, START + SECOND), 0.0, (), ())
    message = report_message(report, (), Names({}, {}, {}), query_pb2.Totals())

    whole = json.leaks(message, "shop", START, START + SECOND)["findings"][0]["whole"]
    assert (whole["name"], whole["share"], whole["line_count"]) == (ROUTE, 1.0, message.findings[0].whole.line_count)
    assert whole["bytes_per_second"]["value"] == pytest.approx(25 * 6 * MB / 3600, rel=0.25)
    assert whole["lines"][0]["application_frame"]["file"] == HANDLER.file
