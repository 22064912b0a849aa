"""Read the heap now, give the moment a name, compare such moments.

`glassbottom snapshot` and `snapshot take` return when all processes have answered and what they sent is stored, or the
timeout has passed. Exit code 4 when a process refuses, 1 when one fails. With --label the moment can be named again.

`snapshot list` shows the moments that have a name: those taken here, and those of `glassbottom.snapshot("NAME")` in the
application.

`snapshot diff BEFORE AFTER` shows what changed in the processes that have both. Each is a name (the newest of that
name; NAME~1 is the one before it) or a time. Without AFTER it is now; without BEFORE, too, it is the baseline: the
first moment of each process that has a name. Changes beyond three standard errors are marked with *.

examples:
  glassbottom snapshot --service checkout && glassbottom top --service checkout
  glassbottom snapshot take --service checkout --label before
  glassbottom snapshot list --service checkout
  glassbottom snapshot diff before --service checkout
  glassbottom snapshot diff before after --service checkout --by type
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output, ranking
from .exits import CliError, Exit, UsageError
from .formats.table import Cell, Column, Report
from .text import moment, plural, size, size_with_error
from .timespec import moment_ns, now_ns, range_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import control_pb2, snapshots_pb2

STYLES = {"done": "green", "refused": "yellow", "failed": "red"}
LISTED = 50

# Which options mean something with which word.
_OPTIONS = {"take": ("label",), "list": ("start", "end", "limit"), "diff": ("by", "limit")}
_SPELLED = {"start": "--from", "end": "--to"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="take (when left out), list, or diff [BEFORE [AFTER]]")
    client.add_service_arguments(parser)
    parser.add_argument("--label", metavar="NAME", help="take: a name for this moment")
    parser.add_argument("--from", dest="start", metavar="TIME", help="list: the oldest to show (7d)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="list: until when (now)")
    parser.add_argument(
        "--by",
        choices=ranking.GROUPINGS,
        metavar="WHAT",
        help=f"diff: a row is a {', '.join(ranking.GROUPINGS)} (line)",
    )
    parser.add_argument(
        "--limit", metavar="N", type=int, help=f"list and diff: at most so many rows ({LISTED}, {ranking.LIMIT})"
    )
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Takes, lists or compares."""
    word, *references = args.words or ["take"]
    if word not in _OPTIONS:
        raise UsageError(f"snapshot {word} is not known; use snapshot take, list, or diff [BEFORE [AFTER]].")
    if len(references) > (2 if word == "diff" else 0):
        raise UsageError(f"snapshot {word} does not take {references[-1]!r}; see glassbottom snapshot --help.")
    for option in sorted({each for some in _OPTIONS.values() for each in some} - set(_OPTIONS[word])):
        if getattr(args, option) is not None:
            raise UsageError(f"{_SPELLED.get(option, f'--{option}')} means nothing with snapshot {word}; leave it out.")
    if word == "take":
        return _take(args)
    return _list(args) if word == "list" else _diff(args, references)


def _take(args: argparse.Namespace) -> int:
    from glassbottom.wire.v1.control_pb2 import TakeSnapshotRequest

    from .formats import json

    if args.label is not None and not args.label.strip():
        raise UsageError("--label is empty; give the snapshot a name, or leave --label out.")
    with client.controlling(args) as (query, control):
        service = client.service_name(args, query)
        request = TakeSnapshotRequest(service=service, instance_id=args.instance, label=args.label or "")
        response = control.TakeSnapshot(request, timeout=args.timeout)
    if not response.outcomes:
        raise CliError(f"no process of {service} is connected now; `glassbottom status` shows what is.")
    output.answer(args, lambda: _outcomes(response), lambda: json.snapshot(response, service))
    outcomes = {json.OUTCOMES.get(each.outcome, "failed") for each in response.outcomes}
    return Exit.ERROR if "failed" in outcomes else Exit.REFUSED if "refused" in outcomes else Exit.OK


def _list(args: argparse.Namespace) -> int:
    from glassbottom.wire.v1.query_pb2 import Range, Selector
    from glassbottom.wire.v1.snapshots_pb2 import ListSnapshotsRequest

    from .formats import json_snapshots

    from_ns, to_ns = range_ns(args.start or "7d", args.end or "now", now_ns())
    with client.comparing(args) as (query, snapshots):
        service = client.service_name(args, query)
        response = snapshots.ListSnapshots(
            ListSnapshotsRequest(
                selector=Selector(service=service, instance_id=args.instance),
                range=Range(from_ns=from_ns, to_ns=to_ns + 1),
                limit=LISTED if args.limit is None else args.limit,
            ),
            timeout=args.timeout,
        )
    output.answer(args, lambda: _listed(response, service), lambda: json_snapshots.snapshot_list(response, service))
    return Exit.OK


def _diff(args: argparse.Namespace, references: list[str]) -> int:
    from glassbottom.wire.v1.query_pb2 import Selector
    from glassbottom.wire.v1.snapshots_pb2 import DiffSnapshotsRequest

    from .formats import json_snapshots

    at_ns = now_ns()
    before, after = ([_reference(each, at_ns) for each in references] + [None, None])[:2]
    args.by = args.by or ranking.GROUPINGS[0]
    with client.comparing(args) as (query, snapshots):
        service = client.service_name(args, query)
        response = snapshots.DiffSnapshots(
            DiffSnapshotsRequest(
                selector=Selector(service=service, instance_id=args.instance),
                before=before,
                after=after,
                group_by=ranking.group_by(args),
                limit=ranking.LIMIT if args.limit is None else args.limit,
            ),
            timeout=args.timeout,
        )
    output.answer(
        args,
        lambda: _compared(response, service, args.by),
        lambda: json_snapshots.snapshot_diff(response, service, args.by),
    )
    return Exit.OK


def _reference(text: str, at_ns: int) -> snapshots_pb2.SnapshotReference:
    """A name, and the time it also reads as, for the case that no snapshot has that name."""
    from glassbottom.wire.v1.snapshots_pb2 import SnapshotReference

    try:
        at_ns = moment_ns(text, at_ns)
    except UsageError:
        at_ns = 0
    return SnapshotReference(label=text, at_ns=at_ns)


def _outcomes(response: control_pb2.TakeSnapshotResponse) -> Report:
    from .formats.json import OUTCOMES

    report = Report()
    rows: list[list[Cell | str]] = []
    for each in response.outcomes:
        outcome = OUTCOMES.get(each.outcome, "failed")
        rows.append([each.instance_id[:8], Cell(outcome, STYLES[outcome]), each.reason])
    report.table([Column("PROCESS"), Column("OUTCOME"), Column("REASON", flexible=True)], rows)
    return report


def _listed(response: snapshots_pb2.ListSnapshotsResponse, service: str) -> Report:
    report = Report()
    if not response.snapshots:
        report.line(
            f"No snapshot of {service} has a name; take one with `glassbottom snapshot take --label NAME`, "
            'or glassbottom.snapshot("NAME") in the application.'
        )
        return report
    report.table(
        [
            Column("PROCESS"),
            Column("LIVE", right=True),
            Column("GROWTH", right=True),
            Column("RESIDENT", right=True),
            Column("LABEL", flexible=True),
            Column("TAKEN", beneath="LABEL"),
        ],
        [
            [
                each.instance_id[:8],
                size_with_error(each.live_bytes, each.live_bytes_stderr),
                "baseline"
                if each.baseline
                else size_with_error(each.growth_bytes, each.growth_bytes_stderr, signed=True),
                size(each.memory.resident_bytes) if each.memory.resident_bytes else "?",
                each.label,
                moment(each.at_ns),
            ]
            for each in response.snapshots
        ],
    )
    if response.more:
        report.line()
        report.line(f"{plural(response.more, 'older one')} not shown; --limit shows more.", "dim")
    return report


def _compared(response: snapshots_pb2.DiffSnapshotsResponse, service: str, by: str) -> Report:
    from .diff import add_changes

    report = Report()
    before, after = response.before, response.after
    report.line(f"{service} from {_named(before)} to {_named(after)}", "bold")
    report.line(f"before: {_sums(before)}", hanging=8)
    report.line(f"after:  {_sums(after)}", hanging=8)
    error = response.delta_bytes_stderr
    report.line(f"change: {size_with_error(response.delta_bytes, error, signed=True)} of live memory", hanging=8)
    for note in response.notes:
        report.line(f"note: {note}", "yellow", hanging=6)
    report.line()
    add_changes(report, response.changes, by)
    _add_memory(report, before.memory, after.memory)
    return report


def _sums(side: snapshots_pb2.SnapshotSide) -> str:
    from glassbottom.wire.v1.query_pb2 import Totals

    from .top import describe

    sums = Totals()
    sums.CopyFrom(side.totals)
    sums.at_ns = 0  # when it was is said beside the name
    return describe(sums, 0)


def _named(side: snapshots_pb2.SnapshotSide) -> str:
    at = moment(side.totals.at_ns)
    return f"{side.label} ({at})" if side.label else at


def _add_memory(report: Report, before: snapshots_pb2.MemorySplit, after: snapshots_pb2.MemorySplit) -> None:
    if not before.resident_bytes or not after.resident_bytes:
        return
    report.line()
    was = {part.name: part.bytes for part in before.parts}
    now = {part.name: part.bytes for part in after.parts}
    rows = [
        [size(now[name] - was[name], signed=True), size(was[name]), size(now[name]), name]
        for name in sorted((name for name in now if name in was), key=lambda name: -abs(now[name] - was[name]))
    ]
    grown = after.resident_bytes - before.resident_bytes
    rows.append(
        [size(grown, signed=True), size(before.resident_bytes), size(after.resident_bytes), "all resident memory"]
    )
    report.table(
        [
            Column("CHANGE", right=True),
            Column("BEFORE", right=True),
            Column("AFTER", right=True),
            Column("RESIDENT MEMORY", flexible=True),
        ],
        rows,
    )
