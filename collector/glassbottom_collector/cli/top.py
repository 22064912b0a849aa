"""Show who holds memory now, or did at an earlier moment.

Rows are estimates from sampling, each with its standard error (±), with what they hold and which requests they served.
With -o pprof, folded, speedscope or html the answer is the whole heap as call paths instead of rows.

examples:
  glassbottom top --service checkout
  glassbottom top --service checkout --by type --at 2h
  glassbottom top --service checkout --by route
  glassbottom top --service checkout -o pprof --output heap.pb.gz && go tool pprof -top heap.pb.gz
  glassbottom top --service checkout -o html --output heap.html
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output, profile_files, ranking
from .exits import Exit
from .formats.table import Column, Report
from .text import count, duration, moment, share, size, size_with_error
from .timespec import SECOND_NS, moment_ns, now_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    parser.add_argument("--at", metavar="TIME", default="now", help="the heap as it was then (now)")
    ranking.add_arguments(parser)
    output.add_arguments(parser, (*output.TABLE_OR_JSON, *output.PROFILE_FORMATS))
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    at_ns = moment_ns(args.at, now_ns())
    whole_profile = ranking.profile_wanted(args)
    from glassbottom.wire.v1.query_pb2 import Selector, TopRequest

    from .formats import json

    with client.querying(args) as query:
        service = client.service_name(args, query)
        if whole_profile:
            profile_files.answer(args, query, service, at_ns)
            return Exit.OK
        request = TopRequest(
            selector=Selector(service=service, instance_id=args.instance),
            at_ns=at_ns,
            group_by=ranking.group_by(args),
            limit=args.limit,
        )
        response = query.Top(request, timeout=args.timeout)
    output.answer(
        args, lambda: _report(response, service, at_ns, args.by), lambda: json.top(response, service, at_ns, args.by)
    )
    return Exit.OK


def _report(response: query_pb2.TopResponse, service: str, at_ns: int, by: str) -> Report:
    totals = response.totals
    report = Report()
    report.line(f"{service} at {moment(at_ns)}", "bold")
    report.line(describe(totals, at_ns))
    if not response.sites:
        report.line("No live allocation was sampled by then.")
        return report
    report.line()
    report.table(
        [
            Column("LIVE", right=True),
            Column("SHARE", right=True),
            Column("OBJECTS", right=True),
            *ranking.place_columns(by),
        ],
        [
            [
                size_with_error(site.live_bytes, site.live_bytes_stderr),
                share(site.live_bytes, totals.live_bytes),
                count(site.live_objects),
                *ranking.place_cells(site, by),
            ]
            for site in response.sites
        ],
    )
    return report


def describe(totals: query_pb2.Totals, at_ns: int) -> str:
    """Sums of a heap as half a sentence."""
    processes = f"{totals.instances} process{'' if totals.instances == 1 else 'es'}"
    age = f", oldest snapshot {duration((at_ns - totals.at_ns) / SECOND_NS)} earlier" if totals.at_ns else ""
    resident = f", resident {size(totals.resident_bytes)}" if totals.resident_bytes else ""
    return (
        f"live {size_with_error(totals.live_bytes, totals.live_bytes_stderr)} in {count(totals.live_objects)} objects"
        f"{resident}, {processes}, {totals.samples} samples{age}"
    )
