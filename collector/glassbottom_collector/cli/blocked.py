"""Show what held event loops, with the call path at that moment.

Everything a loop runs must give way soon; what does not keeps every other task waiting. Rows are places, most time
first. "GIL held" means native code kept the interpreter to itself: not even other threads ran. Exit code 3 when
something held a loop.

examples:
  glassbottom blocked --service checkout
  glassbottom blocked --service checkout --from 6h --stacks
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output
from .exits import CliError, Exit
from .formats.table import Cell, Column, Place, Report
from .places import FRAMES_SHOWN, add_path, known, place
from .tasks import add_loops
from .text import count, elapsed, moment, plural
from .timespec import add_range_arguments, now_ns, range_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2

LIMIT = 20
GIL_HELD = "GIL held by native code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    add_range_arguments(parser, "beginning", "end")
    parser.add_argument("--limit", metavar="N", type=int, default=LIMIT, help=f"at most so many rows ({LIMIT})")
    parser.add_argument("--stacks", action="store_true", help=f"all frames, not only {FRAMES_SHOWN} of each")
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from_ns, to_ns = range_ns(args.start, args.end, now_ns())
    from glassbottom.wire.v1.query_pb2 import BlockedRequest, Range, Selector

    from .formats import json_time

    with client.querying(args) as query:
        service = client.service_name(args, query)
        request = BlockedRequest(
            selector=Selector(service=service, instance_id=args.instance),
            range=Range(from_ns=from_ns, to_ns=to_ns),
            limit=args.limit,
        )
        response = query.Blocked(request, timeout=args.timeout)
    if not response.blocks and not response.loops:
        raise CliError(
            f"no process of {service} ran an event loop in this range; `glassbottom status` shows which processes "
            "there are and why an agent watches less than all."
        )
    output.answer(
        args,
        lambda: _report(response, service, args.stacks),
        lambda: json_time.blocked(response, service, from_ns, to_ns),
    )
    return Exit.FINDING if response.blocks else Exit.OK


def _report(response: query_pb2.BlockedResponse, service: str, whole_paths: bool) -> Report:
    report = Report()
    covered = response.covered
    between = f", {moment(covered.from_ns)} to {moment(covered.to_ns)}" if response.HasField("covered") else ""
    if not response.blocks:
        report.line(f"{service}: nothing held an event loop{between}.")
    else:
        report.line(f"{service}: loops were held for {elapsed(response.total_s)} in all{between}", "bold", hanging=2)
        report.line()
        report.table(
            [
                Column("#", right=True),
                Column("COUNT", right=True),
                Column("TOTAL", right=True),
                Column("MAX", right=True),
                Column("LAST"),
                Column("WHERE", flexible=True),
                Column("COROUTINE", beneath="WHERE", label="in "),
                Column("GIL", beneath="WHERE"),
            ],
            [_row(number, block) for number, block in enumerate(response.blocks, start=1)],
        )
    for number, block in enumerate(response.blocks, start=1):
        report.line()
        _add_stack(report, number, block, whole_paths)
    report.line()
    add_loops(report, response.loops)
    return report


def _row(number: int, block: query_pb2.Block) -> list[Cell | str | Place]:
    return [
        str(number),
        count(block.count),
        Cell(elapsed(block.total_s), "red"),
        elapsed(block.max_s),
        moment(block.last_ns)[11:],
        where(block),
        block.coroutine,
        GIL_HELD if block.gil_held else "",
    ]


def where(block: query_pb2.Block) -> Place | str:
    """The application's own line, else the innermost one, else the coroutine."""
    if block.HasField("application_frame") and known(block.application_frame):
        return place(block.application_frame)
    return place(block.path[0]) if block.path else block.coroutine


def _add_stack(report: Report, number: int, block: query_pb2.Block, whole_paths: bool) -> None:
    in_processes = f" in {plural(len(block.instance_ids), 'process', 'processes')}" if block.instance_ids else ""
    report.line(
        f"#{number} {block.coroutine}: {plural(block.count, 'time')}{in_processes}, at most {elapsed(block.max_s)}, "
        f"thread {block.thread}, last {moment(block.last_ns)}",
        hanging=4,
    )
    if block.gil_held:
        report.line(f"    {GIL_HELD}: no other thread of the process ran either", "yellow", hanging=6)
    if block.late:
        report.line("    the path was taken right after native code let go of the GIL", "yellow", hanging=6)
    if block.path:
        add_path(report, block.path, None if whole_paths else FRAMES_SHOWN)
    else:
        report.line("    its call path could not be taken", "dim")
