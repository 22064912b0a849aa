"""What each word of `glassbottom heap` asks, and how its answer reads as a table, as JSON and as a graph."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from glassbottom.wire.v1 import heapdump_pb2

from . import output
from .exits import Exit
from .formats import json_heap
from .formats.table import Cell, Column, Report
from .text import count, elapsed, moment, share, size

if TYPE_CHECKING:
    from glassbottom.wire.v1.heapdump_pb2_grpc import HeapDumpServiceStub

    from .heap_files import Files

    Questions = HeapDumpServiceStub | Files


def suspects(args: argparse.Namespace, questions: Questions, service: str) -> int:
    """What holds a suspiciously large part of the heap."""
    request = heapdump_pb2.LeakSuspectsRequest(dump=_dump(args, service))
    response = _waiting(questions.LeakSuspects, request, args)

    def report() -> Report:
        found = _headed(response.dump)
        for number, each in enumerate(response.suspects, 1):
            _apart(found, number)
            found.line(f"{number}. {each.sentence}", "bold red", hanging=3)
            if each.HasField("point"):
                found.line(f"   in {each.point.text}, object {each.point.address:#x}", hanging=4)
            if each.HasField("path") and each.path.text not in each.sentence:
                found.line(f"   held by {each.path.text}", hanging=4)
        if not response.suspects:
            found.line("No object, and no type, retains a suspiciously large part of the heap.")
        return found

    output.answer(args, report, lambda: json_heap.suspects(response))
    return Exit.FINDING if response.suspects else Exit.OK


def largest(args: argparse.Namespace, questions: Questions, service: str) -> int:
    """The objects that retain most."""
    request = heapdump_pb2.LargestObjectsRequest(dump=_dump(args, service), type=args.type or "", limit=args.limit)
    response = _waiting(questions.LargestObjects, request, args)

    def report() -> Report:
        found = _headed(response.dump)
        rows = [_object_row(each, response.dump, each.text) for each in response.objects]
        _add_table(found, _OBJECT, rows, "No object.")
        return found

    output.answer(args, report, lambda: json_heap.largest(response))
    return Exit.OK


def types(args: argparse.Namespace, questions: Questions, service: str) -> int:
    """All objects by type or by module."""
    by_module = args.what == "modules"
    grouping = heapdump_pb2.TYPE_GROUPING_MODULE if by_module else heapdump_pb2.TYPE_GROUPING_TYPE
    request = heapdump_pb2.TypeTotalsRequest(dump=_dump(args, service), group_by=grouping, limit=args.limit)
    response = _waiting(questions.TypeTotals, request, args)

    def report() -> Report:
        found = _headed(response.dump)
        columns = [
            Column("RETAINED", right=True),
            Column("SHARE", right=True),
            Column("SIZE", right=True),
            Column("OBJECTS", right=True),
            Column("MODULE" if by_module else "TYPE", flexible=True),
        ]
        rows: list[Row] = [
            [
                size(each.retained),
                share(each.retained, response.dump.size),
                size(each.size),
                count(each.objects),
                each.name,
            ]
            for each in response.totals
        ]
        _add_table(found, columns, rows, "No object.")
        return found

    output.answer(args, report, lambda: json_heap.types(response, by_module))
    return Exit.OK


def paths(args: argparse.Namespace, questions: Questions, service: str) -> int:
    """Who holds something."""
    request = heapdump_pb2.HolderPathsRequest(
        dump=_dump(args, service), type=args.type or "", address=args.address, limit=args.limit
    )
    response = _waiting(questions.HolderPaths, request, args)
    wanted = args.type or f"{args.address:#x}"

    def report() -> Report:
        found = _headed(response.dump)
        if not response.paths:
            found.line(f"No path leads to {wanted}: it is held by native code only, or waits for a collection.")
        for number, path in enumerate(response.paths, 1):
            _apart(found, number)
            found.line(f"{number}. {count(path.objects)} of {wanted}, {size(path.retained)}", "bold", hanging=3)
            found.line(f"   {path.root}", hanging=4)
            # A module or class that became part of the next step's name has none of its own.
            for step in (step for step in path.steps if step.text):
                found.line(f"   -> {step.text}  {step.address:#x}, retains {size(step.retained)}", hanging=6)
        return found

    output.answer(args, report, lambda: json_heap.paths(response, args.type, args.address))
    return Exit.OK


def retained(args: argparse.Namespace, questions: Questions, service: str) -> int:
    """What would be freed with an object."""
    request = heapdump_pb2.RetainedObjectsRequest(
        dump=_dump(args, service), address=args.address, depth=args.depth, limit=args.limit
    )
    response = _waiting(questions.RetainedObjects, request, args)
    if args.format not in output.TABLE_OR_JSON:
        from . import heap_graph, profile_files

        profile_files.write(args, heap_graph.profile(response))
        return Exit.OK

    def report() -> Report:
        found = _headed(response.dump)
        rows = _tree_rows(response)
        _add_table(found, _OBJECT, rows, "Nothing.")
        return found

    output.answer(args, report, lambda: json_heap.retained(response))
    return Exit.OK


def diff(args: argparse.Namespace, questions: Questions, service: str) -> int:  # noqa: ARG001 - as the others
    """What grew between two dumps."""
    before, after = (heapdump_pb2.DumpSelector(capture_id=name) for name in args.dumps)
    request = heapdump_pb2.CompareDumpsRequest(before=before, after=after, limit=args.limit)
    response = _waiting(questions.CompareDumps, request, args)

    def report() -> Report:
        found = Report()
        found.line(f"before: {_about(response.before)}", hanging=8)
        found.line(f"after:  {_about(response.after)}", hanging=8)
        for note in response.notes:
            found.line(f"note: {note}", "yellow", hanging=6)
        found.line()
        columns = [
            Column("CHANGE", right=True),
            Column("OBJECTS", right=True),
            Column("NOW", right=True),
            Column("LENGTH", right=True),
            Column("HELD BY", flexible=True),
            Column("TYPE", beneath="HELD BY"),
        ]
        _add_table(found, columns, [_growth_row(each) for each in response.growth], "Nothing changed.")
        return found

    output.answer(args, report, lambda: json_heap.diff(response))
    return Exit.OK


ANSWERS: dict[str, Callable[[argparse.Namespace, Questions, str], int]] = {
    "suspects": suspects,
    "largest": largest,
    "types": types,
    "modules": types,
    "paths": paths,
    "retained": retained,
    "diff": diff,
}

Row = Sequence[Cell | str]
_OBJECT = (
    Column("RETAINED", right=True),
    Column("SHARE", right=True),
    Column("SIZE", right=True),
    Column("ADDRESS"),
    Column("OBJECT", flexible=True),
    Column("TYPE", beneath="OBJECT"),
)


def _dump(args: argparse.Namespace, service: str) -> heapdump_pb2.DumpSelector:
    if args.dumps:
        return heapdump_pb2.DumpSelector(capture_id=args.dumps[0])
    return heapdump_pb2.DumpSelector(service=service, instance_id=args.instance)


def _waiting(call: Callable[..., Any], request: object, args: argparse.Namespace) -> Any:
    with output.Progress() as progress:
        progress.show("reading the dump")
        return call(request, timeout=args.timeout)


def _headed(dump: heapdump_pb2.DumpSummary) -> Report:
    report = Report()
    report.line(_about(dump), "bold")
    if not dump.complete:
        report.line(f"The dump was cut short: {dump.reason}", "yellow")
    report.line()
    return report


def _about(dump: heapdump_pb2.DumpSummary) -> str:
    """A dump in one line."""
    who = f"{dump.service} {dump.instance_id[:8]}".strip()
    paused = f", the process stood still for {elapsed(dump.pause_ns / 1e9)}" if dump.pause_ns else ""
    return (
        f"{who or dump.capture_id} at {moment(dump.at_ns)}: {size(dump.size)} in {count(dump.objects)} objects, "
        f"Python {dump.python_version}{paused}"
    )


def _apart(report: Report, number: int) -> None:
    """Between numbered answers; above the first there is a line already."""
    if number > 1:
        report.line()


def _tree_rows(response: heapdump_pb2.RetainedObjectsResponse) -> list[Row]:
    """A row for each object, indented by how deep it is, and one for what a limit left out below it."""
    rows: list[Row] = []
    base = min((each.depth for each in response.objects), default=0)
    # The objects whose children are being read, and how much of what they retain no row stands for yet.
    way: list[tuple[heapdump_pb2.DumpObject, int]] = []

    def close(depth: int) -> None:
        while way and way[-1][0].depth >= depth:
            each, left = way.pop()
            if each.children_left:
                text = f"{'  ' * (each.depth - base + 1)}and {count(each.children_left)} more"
                rows.append([size(left), share(left, response.dump.size), "", "", Cell(text, "dim"), ""])

    for each in response.objects:
        close(each.depth)
        if way:
            parent, left = way[-1]
            way[-1] = parent, left - each.retained
        rows.append(_object_row(each, response.dump, f"{'  ' * (each.depth - base)}{each.text}"))
        way.append((each, each.retained - each.size))
    close(0)
    return rows


def _object_row(each: heapdump_pb2.DumpObject, dump: heapdump_pb2.DumpSummary, text: str) -> Row:
    return [
        size(each.retained),
        share(each.retained, dump.size),
        size(each.size),
        f"{each.address:#x}" if each.address else "",
        text,
        # "dict[18 204]" says what it is; "Session" does not say of which module.
        "" if "." not in each.type and each.type in text else each.type,
    ]


def _growth_row(each: heapdump_pb2.OwnerGrowth) -> Row:
    change = each.size_after - each.size_before
    return [
        Cell(size(change, signed=True), "red" if change > 0 else "green" if change < 0 else ""),
        count(each.objects_after - each.objects_before, signed=True),
        size(each.size_after),
        _length(each),
        each.path,
        each.type,
    ]


def _length(each: heapdump_pb2.OwnerGrowth) -> str:
    if not each.HasField("length_after"):
        return ""
    before = count(each.length_before) if each.HasField("length_before") else "?"
    return f"{before} → {count(each.length_after)}"


def _add_table(report: Report, columns: Iterable[Column], rows: Sequence[Row], empty: str) -> None:
    if rows:
        report.table(list(columns), rows)
    else:
        report.line(empty)
