"""Show what grew between two moments.

Changes that sampling noise explains are dim; those beyond three standard errors are marked with *. Exit code 3 only
with --fail-on-growth, when a marked change is growth of more than SIZE.

With -o pprof, folded, speedscope or html the answer is the difference of whole heaps as call paths.

examples:
  glassbottom diff --service checkout --from 1h
  glassbottom diff --service checkout --from 30m --to 5m --by function -o json
  glassbottom diff --service checkout --from 1h --fail-on-growth 10MiB
  glassbottom diff --service checkout --from 1h -o html --output growth.html
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from . import client, output, profile_files, ranking
from .exits import Exit, UsageError
from .formats.table import Cell, Column, Place, Report
from .text import count, moment, size, size_with_error
from .timespec import add_range_arguments, now_ns, range_ns
from .top import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from glassbottom.wire.v1 import query_pb2

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    add_range_arguments(parser, "before", "after", "10m")
    parser.add_argument(
        "--fail-on-growth",
        metavar="SIZE",
        nargs="?",
        const="0",
        help="exit with 3 when a row grew significantly and by more than SIZE (0), such as 10MiB",
    )
    ranking.add_arguments(parser)
    output.add_arguments(parser, (*output.TABLE_OR_JSON, *output.PROFILE_FORMATS))
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    before_ns, after_ns = range_ns(args.start, args.end, now_ns())
    whole_profile = ranking.profile_wanted(args)
    allowed = None if args.fail_on_growth is None else _bytes(args.fail_on_growth)
    if whole_profile and allowed is not None:
        raise UsageError(f"--fail-on-growth judges rows, which -o {args.format} has not; use -o table or json.")
    from glassbottom.wire.v1.query_pb2 import DiffRequest, Selector

    from .formats import json

    with client.querying(args) as query:
        service = client.service_name(args, query)
        if whole_profile:
            profile_files.answer(args, query, service, after_ns, before_ns)
            return Exit.OK
        request = DiffRequest(
            selector=Selector(service=service, instance_id=args.instance),
            before_ns=before_ns,
            after_ns=after_ns,
            group_by=ranking.group_by(args),
            limit=args.limit,
        )
        response = query.Diff(request, timeout=args.timeout)
    output.answer(
        args,
        lambda: _report(response, service, before_ns, after_ns, args.by),
        lambda: json.diff(response, service, before_ns, after_ns, args.by),
    )
    grew = allowed is not None and any(c.significant and c.delta_bytes > allowed for c in response.changes)
    return Exit.FINDING if grew else Exit.OK


def _report(response: query_pb2.DiffResponse, service: str, before_ns: int, after_ns: int, by: str) -> Report:
    report = Report()
    report.line(f"{service} from {moment(before_ns)} to {moment(after_ns)}", "bold")
    report.line(f"before: {describe(response.before, before_ns)}", hanging=8)
    report.line(f"after:  {describe(response.after, after_ns)}", hanging=8)
    report.line()
    add_changes(report, response.changes, by)
    add_rule_hits(report, response.rule_hits)
    return report


def add_changes(report: Report, changes: Sequence[query_pb2.SiteChange], by: str) -> None:
    """Adds the table of what changed."""
    if not changes:
        report.line("Nothing changed.")
        return
    report.table(
        [
            Column("CHANGE", right=True),
            Column(" "),
            Column("OBJECTS", right=True),
            Column("LIVE", right=True),
            *ranking.place_columns(by),
        ],
        [_row(change, by) for change in changes],
    )


def _row(change: query_pb2.SiteChange, by: str) -> list[Cell | str | Place]:
    style = "dim" if not change.significant else "red" if change.delta_bytes > 0 else "green"
    return [
        Cell(size_with_error(change.delta_bytes, change.delta_bytes_stderr, signed=True), style),
        "*" if change.significant else "",
        count(change.delta_objects, signed=True),
        size(change.site.live_bytes),
        *ranking.place_cells(change.site, by),
    ]


def add_rule_hits(report: Report, hits: Iterable[query_pb2.RuleHit]) -> None:
    """Adds the named rules that fired, if any."""
    for at, hit in enumerate(hits):
        if at == 0:
            report.line()
        report.line(f"rule {hit.rule}: {hit.sentence}", "yellow", hanging=2)


def _bytes(text: str) -> float:
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"--fail-on-growth {text} is not a size; use bytes, or a unit as in 512KiB or 10MiB.")
    return float(float(match[1]) * 1024 ** _POWER[match[2].upper()])
