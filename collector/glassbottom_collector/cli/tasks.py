"""Show what asyncio tasks wait for, and what is wrong with them.

Per process: its event loops with their lag (how late callbacks ran, over the ten minutes before), its tasks grouped by
the line they wait at, who awaits whom, and findings such as stuck, spinning or leaking tasks. Exit code 3 when there
is a finding or a deadlock.

examples:
  glassbottom tasks --service checkout
  glassbottom tasks --service checkout --at 10m --limit 200
  glassbottom tasks --service checkout -o json | jq '.processes[].groups[] | select(.wait_longest_s > 60)'
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import awaits, client, findings, output
from .exits import CliError, Exit
from .formats.table import Cell, Column, Place, Report
from .places import place
from .text import count, duration, elapsed, moment, plural
from .timespec import moment_ns, now_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2

LIMIT = 50
STATE_STYLES = {"running": "green", "ready": "cyan", "created": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    parser.add_argument("--at", metavar="TIME", default="now", help="the tasks as they were then (now)")
    parser.add_argument(
        "--limit", metavar="N", type=int, default=LIMIT, help=f"at most so many groups per process ({LIMIT})"
    )
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    at_ns = moment_ns(args.at, now_ns())
    from glassbottom.wire.v1.query_pb2 import Selector, TasksRequest

    from .formats import json_time

    with client.querying(args) as query:
        service = client.service_name(args, query)
        request = TasksRequest(
            selector=Selector(service=service, instance_id=args.instance), at_ns=at_ns, limit=args.limit
        )
        response = query.Tasks(request, timeout=args.timeout)
    if not response.processes and not response.findings:
        raise CliError(
            f"no process of {service} ran an event loop by then; `glassbottom status` shows which processes there are "
            "and why an agent watches less than all."
        )
    output.answer(args, lambda: _report(response, service, at_ns), lambda: json_time.tasks(response, service, at_ns))
    deadlock = any(cycle.deadlock for process in response.processes for cycle in awaits.cycles(process))
    return Exit.FINDING if response.findings or deadlock else Exit.OK


def _report(response: query_pb2.TasksResponse, service: str, at_ns: int) -> Report:
    report = Report()
    report.line(f"{service} at {moment(at_ns)}", "bold")
    for process in response.processes:
        report.line()
        _add_process(report, process)
    if response.findings:
        report.line()
        report.line(f"{plural(len(response.findings), 'finding')} in the ten minutes before", "bold")
        for finding in response.findings:
            report.line()
            findings.add(report, finding)
    return report


def _add_process(report: Report, process: query_pb2.ProcessTasks) -> None:
    looked_at = f", {count(process.tasks_examined)} looked at" if process.tasks_examined < process.tasks else ""
    report.line(
        f"process {process.instance_id[:8]}: {plural(process.tasks, 'task')}{looked_at}, {moment(process.at_ns)}"
    )
    add_loops(report, process.loops)
    if not process.groups:
        return
    report.line()
    report.table(
        [
            Column("COUNT", right=True),
            Column("STATE"),
            Column("AGE", right=True),
            Column("WAITS", right=True),
            Column("WHERE", flexible=True),
            Column("AWAITS", beneath="WHERE", label="awaits "),
            Column("TASK", beneath="WHERE", label="in "),
        ],
        [_row(group) for group in process.groups],
    )
    branches = awaits.tree(process)
    if branches:
        report.line()
        report.line("who awaits whom")
        for branch in branches:
            _add_branch(report, branch, process.groups[branch.group])


def add_loops(report: Report, loops: Iterable[query_pb2.LoopSummary]) -> None:
    """Adds event loops with their lag."""
    report.table(
        [
            Column("LOOP", flexible=True),
            Column("LAG P50", right=True),
            Column("P99", right=True),
            Column("MAX", right=True),
            Column("READY", right=True),
            Column("TASKS", right=True),
            Column("CLASS", beneath="LOOP"),
        ],
        [
            [
                loop.thread,
                elapsed(loop.lag_p50_s),
                elapsed(loop.lag_p99_s),
                elapsed(loop.lag_max_s),
                count(loop.ready) if loop.ready >= 0 else "?",
                count(loop.tasks),
                loop.implementation,
            ]
            for loop in loops
        ],
    )


def _row(group: query_pb2.TaskGroupSummary) -> list[Cell | str | Place]:
    return [
        count(group.count),
        Cell(group.state, STATE_STYLES.get(group.state, "")),
        duration(group.age_oldest_s),
        duration(group.wait_longest_s) if group.state == "waiting" else "",
        place(group.path[0]) if group.path else group.task_name,
        group.awaits,
        coroutine(group) if len(group.path) > 1 else "",
    ]


def coroutine(group: query_pb2.TaskGroupSummary) -> str:
    """What the tasks of a group run: `Shop.serve (/srv/app/shop.py:12)`."""
    if not group.path:
        return group.task_name
    outermost = group.path[-1]
    return f"{outermost.function} ({outermost.file}:{outermost.line})"


def _add_branch(report: Report, branch: awaits.Branch, group: query_pb2.TaskGroupSummary) -> None:
    indent = 2 + 2 * branch.depth
    where = f" at {group.path[0].file}:{group.path[0].line}" if len(group.path) > 1 else ""
    marks = {
        "": "",
        "above": ", see above",
        "cycle": ", awaits in a circle",
        "deadlock": ", DEADLOCK: these tasks await each other",
    }
    often = f", awaited by {count(branch.pairs)}" if branch.pairs > group.count else ""
    text = f"{count(group.count)} × {coroutine(group)}{where}{often}{marks[branch.mark]}"
    report.line(f"{' ' * indent}{text}", "bold red" if branch.mark == "deadlock" else "", hanging=indent + 2)
