"""List services, their processes and what they hold.

Shows every service whose agent sent data in the range, and how many of its processes are connected now.

examples:
  glassbottom services
  glassbottom services --from 7d -o json
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output
from .exits import Exit
from .formats.table import Column, Report
from .text import count, duration, size
from .timespec import SECOND_NS, add_range_arguments, now_ns, range_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    add_range_arguments(parser, "seen since then", "seen before then", "1d")
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from_ns, to_ns = range_ns(args.start, args.end, now_ns())
    from glassbottom.wire.v1.query_pb2 import ListServicesRequest, Range

    from .formats import json

    with client.querying(args) as query:
        request = ListServicesRequest(range=Range(from_ns=from_ns, to_ns=to_ns))
        response = query.ListServices(request, timeout=args.timeout)
    output.answer(args, lambda: _report(response, to_ns), lambda: json.services(response, from_ns, to_ns))
    return Exit.OK


def _report(response: query_pb2.ListServicesResponse, to_ns: int) -> Report:
    report = Report()
    if not response.services:
        report.line("No service sent data in this range.")
        return report
    report.table(
        [
            Column("SERVICE", flexible=True),
            Column("PROCESSES", right=True),
            Column("CONNECTED", right=True),
            Column("LIVE HEAP", right=True),
            Column("RESIDENT", right=True),
            Column("LAST SEEN", right=True),
        ],
        [
            [
                service.name,
                count(service.instances),
                count(service.instances_connected),
                size(service.live_bytes),
                size(service.resident_bytes) if service.resident_bytes else "?",
                _ago(to_ns - service.last_seen_ns),
            ]
            for service in response.services
        ],
    )
    return report


def _ago(ns: int) -> str:
    return "now" if ns < SECOND_NS else f"{duration(ns / SECOND_NS)} ago"
