"""What each panel of the live view says: answers in few words, for as many cells as the panel has.

The same reports as the verbs write, so names from elsewhere pass through `safe` in the same place. What a colour says,
a sign or a word says too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from glassbottom.wire.v1 import query_pb2

from .. import blocked, findings, leaks, slow
from ..formats.json import VERDICTS
from ..formats.table import Cell, Column, Report
from ..places import place
from ..text import count, duration, elapsed, plural, rate, size
from ..timeline import NAMES, chart
from . import feed


@dataclass(frozen=True)
class Kind:
    """A panel: name, title, question, and how the answer reads in so many cells. every_s_min: not asked sooner."""

    name: str
    title: str
    question: feed.Question[Any]
    report: Callable[[Any, int], Report]
    every_s_min: float = 0.0


def memory(answer: query_pb2.TimelineResponse, width: int) -> Report:
    """Live heap and resident memory, with their last ten minutes."""
    report = Report()
    shown = [series for series in answer.series if series.name in NAMES]
    names = [NAMES[series.name] for series in shown]
    values = []
    for series in shown:
        known = [value for value in series.values if math.isfinite(value)]
        show = count if series.name == "instances" else size
        values.append(show(known[-1]) if known else "?")
    left, right = max(map(len, names), default=0), max(map(len, values), default=0)
    for series, name, value in zip(shown, names, values, strict=True):
        bars = chart(series.values, max(8, width - left - right - 3))
        report.line(f"{name.ljust(left)} {value.rjust(right)}  {bars}".rstrip())
    return report


def loops(answer: query_pb2.BlockedResponse, width: int) -> Report:  # noqa: ARG001 - tables fit themselves
    """Lag of each loop, then what held them."""
    report = Report()
    if not answer.loops and not answer.blocks:
        report.line("No event loop runs here.")
        return report
    report.table(
        [
            Column("LAG P50", right=True),
            Column("P99", right=True),
            Column("MAX", right=True),
            Column("LOOP", flexible=True),
        ],
        [
            [elapsed(each.lag_p50_s), elapsed(each.lag_p99_s), elapsed(each.lag_max_s), each.thread]
            for each in answer.loops
        ],
    )
    report.line()
    if not answer.blocks:
        report.line("Nothing held a loop.", "green")
        return report
    report.table(
        [
            Column("HELD", right=True),
            Column("MAX", right=True),
            Column("BY", flexible=True),
            Column("GIL", beneath="BY"),
        ],
        [
            [
                Cell(elapsed(each.total_s), "red"),
                elapsed(each.max_s),
                blocked.where(each),
                blocked.GIL_HELD if each.gil_held else "",
            ]
            for each in answer.blocks
        ],
    )
    return report


def tasks(answer: query_pb2.TasksResponse, width: int) -> Report:  # noqa: ARG001
    """Groups of tasks over all processes, most tasks first."""
    report = Report()
    if not answer.processes:
        report.line("No event loop runs here.")
        return report
    total = sum(process.tasks for process in answer.processes)
    wrong = f", {plural(len(answer.findings), 'finding')}" if answer.findings else ""
    report.line(
        f"{plural(total, 'task')} in {plural(len(answer.processes), 'process', 'processes')}{wrong}",
        "yellow" if wrong else "",
    )
    groups = sorted((group for process in answer.processes for group in process.groups), key=lambda each: -each.count)
    report.table(
        [Column("COUNT", right=True), Column("STATE"), Column("WAITS", right=True), Column("WHERE", flexible=True)],
        [
            [
                count(each.count),
                each.state,
                duration(each.wait_longest_s) if each.state == "waiting" else "",
                place(each.path[0]) if each.path else each.task_name,
            ]
            for each in groups
        ],
    )
    return report


def slow_routes(answer: query_pb2.SlowResponse, width: int) -> Report:  # noqa: ARG001
    """Spans by their own time; `!` is above the threshold."""
    report = Report()
    if not answer.operations:
        report.line("No span ended in the last ten minutes.")
        return report
    report.table(
        [
            Column(" "),
            Column("P95", right=True),
            Column("COUNT", right=True),
            Column("ERRORS", right=True),
            Column("SPAN", flexible=True),
        ],
        [
            [
                Cell("!", "bold red") if each.flagged else "",
                Cell(elapsed(each.p95_s), "red" if each.flagged else ""),
                count(each.count),
                count(each.errors) if each.errors else "",
                slow.where(each),
            ]
            for each in answer.operations
        ],
    )
    return report


def leaking_lines(answer: query_pb2.LeakReport, width: int) -> Report:  # noqa: ARG001
    """Verdicts, worst first."""
    report = Report()
    report.line(f"the sampled heap moves by {rate(answer.total_bytes_per_second, signed=True)}")
    if not answer.findings:
        report.line(f"No leak in {plural(answer.sites_examined, 'site')}.", "green")
        return report
    rows: list[list[Any]] = []
    for each in answer.findings:
        verdict = VERDICTS.get(each.verdict, "unclear")
        rows.append([Cell(verdict, leaks.STYLES[verdict]), rate(each.bytes_per_second, signed=True), leaks.where(each)])
    report.table([Column("VERDICT"), Column("GROWTH", right=True), Column("WHERE", flexible=True)], rows)
    return report


def wrong(answer: query_pb2.FindingsResponse, width: int) -> Report:  # noqa: ARG001
    """Findings, one paragraph each."""
    report = Report()
    if not answer.findings:
        report.line("Nothing found.", "green")
    for each in answer.findings:
        word = findings.severity(each)
        report.line(f"{word}: {each.sentence}", findings.STYLES[word], hanging=2)
        if each.frame.file:
            report.line(f"  {place(each.frame).text()}", hanging=4)
    return report


KINDS = (
    Kind("memory", "memory, last 10 min", feed.memory, memory),
    Kind("loops", "event loops, last 10 min", feed.loops, loops),
    Kind("tasks", "tasks now", feed.tasks, tasks),
    Kind("slow", "slow routes, last 10 min", feed.slow, slow_routes),
    # Statistics over an hour of snapshots; they do not change from one second to the next.
    Kind("leaks", "leaks, last hour", feed.leaks, leaking_lines, 15.0),
    Kind("findings", "findings, last hour", feed.findings, wrong),
)
