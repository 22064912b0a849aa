"""Name the lines that leak, how fast, and how sure we are.

The worst first. A verdict is one of: leak (grows without bound, by every test), growing (grows, but warm-up, load or
a bound not yet reached could explain it), unclear (the data cannot tell; it says what is missing) and stable (with
--all). Beside it stands the kind: reachable (something refers to it), garbage (cycles that no collection has come to),
native (memory outside Python) or fragmentation (free memory that allocators keep). Rates have their 95 % confidence
interval. What stays of each operation, and when memory will be full, are told where they can be known. Exit code 3
when at least one verdict is "leak".

examples:
  glassbottom leaks --service checkout
  glassbottom leaks --service checkout --from 6h --to 1h
  glassbottom leaks --service checkout -o json; test $? -ne 3 || echo leaking
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output, ranking
from .diff import add_rule_hits
from .exits import CliError, Exit
from .formats.table import Cell, Column, Place, Report
from .places import place
from .text import count, duration, interval, moment, rate, size, size_with_error
from .timespec import SECOND_NS, add_range_arguments, now_ns, range_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from glassbottom.wire.v1 import query_pb2

# Statistics over hours of snapshots of many processes take their time.
TIMEOUT_S = 120
LIMIT = 20

# For so many of the worst the reasons are printed; JSON has them for all.
EXPLAINED = 3
OPERATIONS_SHOWN = 2
PARTS_SHOWN = 5
LINES_SHOWN = 5
# By the wire's number.
KINDS = {1: "reachable", 2: "garbage", 3: "native", 4: "fragmentation"}
STYLES = {"leak": "bold red", "growing": "yellow", "unclear": "cyan", "stable": "green"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    add_range_arguments(parser, "beginning of the evidence", "end of the evidence")
    parser.add_argument("--all", action="store_true", help="also sites judged stable")
    parser.add_argument("--limit", metavar="N", type=int, default=LIMIT, help=f"at most so many findings ({LIMIT})")
    output.add_arguments(parser)
    client.add_arguments(parser, TIMEOUT_S)


def run(args: argparse.Namespace) -> int:
    """Asks, shows progress, and writes."""
    from_ns, to_ns = range_ns(args.start, args.end, now_ns())
    from glassbottom.wire.v1.query_pb2 import LeaksRequest, Range, Selector

    from .formats import json

    with client.querying(args) as query:
        service = client.service_name(args, query)
        request = LeaksRequest(
            selector=Selector(service=service, instance_id=args.instance),
            range=Range(from_ns=from_ns, to_ns=to_ns),
            all=args.all,
            limit=args.limit,
        )
        report = _last(query.Leaks(request, timeout=args.timeout))
    verdicts = [json.VERDICTS.get(finding.verdict, "unclear") for finding in report.findings]
    output.answer(args, lambda: _report(report, verdicts, service), lambda: json.leaks(report, service, from_ns, to_ns))
    return Exit.FINDING if "leak" in verdicts else Exit.OK


def _last(messages: Iterable[query_pb2.LeaksResponse]) -> query_pb2.LeakReport:
    with output.Progress() as progress:
        for message in messages:
            if message.HasField("report"):
                return message.report
            progress.show(message.progress.stage, message.progress.done, message.progress.total)
    raise CliError("the collector ended its answer without a report; its own log says more.")


def _report(answer: query_pb2.LeakReport, verdicts: list[str], service: str) -> Report:
    report = Report()
    if answer.findings:
        report.table(
            [
                Column("VERDICT"),
                Column("KIND", beneath="VERDICT"),
                Column("GROWTH", right=True),
                Column("95 % INTERVAL", right=True, beneath="GROWTH"),
                Column("OBJECTS", right=True, beneath="GROWTH"),
                Column("LIVE", right=True),
                Column("WHERE", flexible=True),
                Column("HOLDS", beneath="WHERE"),
                Column("ROUTES", beneath="WHERE", label="for "),
                Column("ALLOCATES IN", beneath="WHERE"),
                Column("HELD BY", beneath="WHERE", label="held by "),
                Column("STAYS", beneath="WHERE", label="leaves "),
            ],
            [_row(finding, verdict) for finding, verdict in zip(answer.findings, verdicts, strict=True)],
        )
        report.line()
    report.line(_summary(answer, verdicts, service), "bold" if "leak" in verdicts else "")
    if answer.memory:
        report.line(f"resident: {', '.join(_part(part) for part in answer.memory[:PARTS_SHOWN])}", hanging=2)
    if answer.HasField("forecast"):
        report.line(f"forecast: {answer.forecast.sentence}", "bold", hanging=2)
    for finding, verdict in [pair for pair in zip(answer.findings, verdicts, strict=True) if pair[1] != "stable"][
        :EXPLAINED
    ]:
        _explain(report, finding, verdict)
    add_rule_hits(report, answer.rule_hits)
    for at, note in enumerate(answer.notes):
        if at == 0:
            report.line()
        report.line(f"note: {note}", hanging=6)
    return report


def _row(finding: query_pb2.LeakFinding, verdict: str) -> list[Cell | str | Place]:
    return [
        Cell(verdict, STYLES[verdict]),
        KINDS.get(finding.kind, "") if verdict != "stable" else "",
        rate(finding.bytes_per_second, signed=True),
        interval(finding.bytes_per_second_low, finding.bytes_per_second_high),
        f"{count(finding.objects_per_second, signed=True)} obj/s",
        size_with_error(finding.site.live_bytes, finding.site.live_bytes_stderr),
        where(finding),
        ranking.types(finding.site),
        ranking.routes(finding.site),
        place(finding.site.frame) if finding.HasField("application_frame") else "",
        finding.holder,
        ", ".join(f"{size(each.bytes)} per {each.operation}" for each in finding.per_operation[:OPERATIONS_SHOWN]),
    ]


def _summary(answer: query_pb2.LeakReport, verdicts: list[str], service: str) -> str:
    leaking = verdicts.count("leak")
    found = f"{leaking} leak{'' if leaking == 1 else 's'}" if leaking else "no leak"
    covered = (
        f" over {duration((answer.covered.to_ns - answer.covered.from_ns) / SECOND_NS)}"
        if answer.HasField("covered")
        else ""
    )
    return (
        f"{service}: {found} in {answer.sites_examined} sites, {answer.snapshots} snapshots{covered}; "
        f"the sampled heap moves by {rate(answer.total_bytes_per_second, signed=True)}"
    )


def _part(part: query_pb2.MemoryPart) -> str:
    moves = f" ({rate(part.bytes_per_second, signed=True)})" if abs(part.bytes_per_second) >= 1 else ""
    return f"{part.name} {size(part.last_bytes)}{moves}"


def _explain(report: Report, finding: query_pb2.LeakFinding, verdict: str) -> None:
    report.line()
    report.line(f"{verdict}: {where(finding).text()}", STYLES[verdict], hanging=2)
    if finding.HasField("application_frame"):
        report.line(f"  allocates in {place(finding.site.frame).text()}", hanging=4)
    processes = len(finding.instance_ids)
    report.line(
        f"  {rate(finding.bytes_per_second, signed=True)} "
        f"(95 %: {interval(finding.bytes_per_second_low, finding.bytes_per_second_high)}), p = {finding.p_value:.2g}, "
        f"in {processes} process{'' if processes == 1 else 'es'}"
        + (f", {KINDS[finding.kind]}" if finding.kind in KINDS else ""),
        hanging=4,
    )
    for operation in finding.per_operation:
        report.line(
            f"  each {operation.operation} leaves {size(operation.bytes)} "
            f"(95 %: {size(operation.bytes_low)} to {size(operation.bytes_high)}); "
            f"{operation.operations} ended meanwhile",
            hanging=4,
        )
    if finding.HasField("whole"):
        report.line(f"  {_whole(finding.whole)}", hanging=4)
    for each in finding.evidence:
        # + speaks for a leak, - against it.
        report.line(f"  {'+' if each.supports_leak else '-'} {each.name}: {each.sentence}", hanging=4)
    if finding.site.routes:
        report.line(f"  allocated for {ranking.routes(finding.site)}", hanging=4)
    if finding.first_seen_ns:
        version = f", in version {finding.first_seen_version}" if finding.first_seen_version else ""
        report.line(f"  first seen {moment(finding.first_seen_ns)}{version}", hanging=4)
    if finding.would_change:
        report.line(f"  would change: {finding.would_change}", hanging=4)


def _whole(whole: query_pb2.WholeGrowth) -> str:
    """Such as "POST /x keeps 7.7 KB per operation over 24 lines, of which this line 12 %"."""
    each = whole.per_operation
    keeps = (
        f"{size(each.bytes)} per operation (95 %: {size(each.bytes_low)} to {size(each.bytes_high)})"
        if whole.HasField("per_operation")
        else rate(whole.bytes_per_second)
    )
    lines = f"over {whole.line_count} line{'' if whole.line_count == 1 else 's'}"
    if whole.share < 1:
        return f"{whole.name} keeps {keeps} {lines}, of which this line {100 * whole.share:.0f} %"
    named = [
        f"{place(line.application_frame if line.HasField('application_frame') else line.frame).text()} "
        f"{100 * line.share:.0f} %"
        for line in whole.lines[:LINES_SHOWN]
    ]
    return f"{whole.name} keeps {keeps} {lines}: {', '.join(named)}"


def where(finding: query_pb2.LeakFinding) -> Place:
    """The line its reader can change: the application's own, also when a library allocates on its behalf."""
    return place(finding.application_frame if finding.HasField("application_frame") else finding.site.frame)
