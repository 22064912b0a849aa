"""Show everything that looks wrong with a service, in one list.

The worst first: blocked loops, stuck and leaking tasks, growing threads and descriptors, spans that never end, pauses
of the garbage collector. Each says what, where, and what that rests on. Memory leaks have a verb of their own:
`leaks`. Exit code 3 when something is found.

examples:
  glassbottom findings --service checkout
  glassbottom findings --service checkout --from 6h -o json
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from . import client, output
from .exits import Exit
from .formats.table import Report
from .places import add_path, known, place
from .text import moment, plural
from .timespec import add_range_arguments, now_ns, range_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2

LIMIT = 50
STYLES = {"critical": "bold red", "warning": "yellow", "notice": "cyan"}
PLURALS = {"critical": "critical", "warning": "warnings", "notice": "notices"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    add_range_arguments(parser, "beginning of the evidence", "end of the evidence")
    parser.add_argument("--limit", metavar="N", type=int, default=LIMIT, help=f"at most so many ({LIMIT})")
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from_ns, to_ns = range_ns(args.start, args.end, now_ns())
    from glassbottom.wire.v1.query_pb2 import FindingsRequest, Range, Selector

    from .formats import json_time

    with client.querying(args) as query:
        service = client.service_name(args, query)
        request = FindingsRequest(
            selector=Selector(service=service, instance_id=args.instance),
            range=Range(from_ns=from_ns, to_ns=to_ns),
            limit=args.limit,
        )
        response = query.Findings(request, timeout=args.timeout)
    output.answer(
        args, lambda: _report(response, service), lambda: json_time.findings(response, service, from_ns, to_ns)
    )
    return Exit.FINDING if response.findings else Exit.OK


def _report(response: query_pb2.FindingsResponse, service: str) -> Report:
    report = Report()
    report.line(_summary(response, service), "bold")
    for finding in response.findings:
        report.line()
        add(report, finding)
    for at, note in enumerate(response.notes):
        if at == 0:
            report.line()
        report.line(f"note: {note}", hanging=6)
    return report


def _summary(response: query_pb2.FindingsResponse, service: str) -> str:
    covered = response.covered
    between = f", {moment(covered.from_ns)} to {moment(covered.to_ns)}" if response.HasField("covered") else ""
    if not response.findings:
        return f"{service}: Nothing found{between}."
    numbers = Counter(severity(finding) for finding in response.findings)
    parts = [f"{numbers[word]} {word if numbers[word] == 1 else PLURALS[word]}" for word in STYLES if numbers[word]]
    return f"{service}: {plural(len(response.findings), 'finding')} ({', '.join(parts)}){between}"


def add(report: Report, finding: query_pb2.Finding) -> None:
    """Adds one finding: what, where, when, and what it rests on."""
    word = severity(finding)
    report.line(f"{word}: {finding.sentence}", STYLES[word], hanging=2)
    rest = list(finding.path)
    if known(finding.frame):
        report.line(f"  {place(finding.frame).text()}", hanging=4)
        if rest and rest[0] == finding.frame:
            del rest[0]
    add_path(report, rest)
    report.line(f"  {_circumstances(finding)}", "dim", hanging=4)
    for each in finding.evidence:
        # + speaks for the finding, - against it.
        report.line(f"  {'+' if each.supports_leak else '-'} {each.name}: {each.sentence}", hanging=4)


def severity(finding: query_pb2.Finding) -> str:
    """ "critical", "warning" or "notice"."""
    from .formats.json_time import SEVERITIES

    return SEVERITIES.get(finding.severity, "notice")


def _circumstances(finding: query_pb2.Finding) -> str:
    parts = [finding.kind]
    if finding.count > 1:
        parts.append(f"{finding.count} times")
    if finding.last_ns:
        parts.append(f"last {moment(finding.last_ns)}")
    if finding.instance_ids:
        parts.append(f"in {plural(len(finding.instance_ids), 'process', 'processes')}")
    return ", ".join(parts)
