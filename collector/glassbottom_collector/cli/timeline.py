"""Show how a service's memory moved.

One row per series with a small chart; -o json has every point. Gaps are moments about which nothing is known.

examples:
  glassbottom timeline --service checkout --from 6h
  glassbottom timeline --service checkout --from 2h --to 1h --sites 5 -o json
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from . import client, output
from .exits import Exit, UsageError
from .formats.table import Cell, Column, Place, Report
from .text import count, duration, moment, size
from .timespec import SECOND_NS, add_range_arguments, now_ns, range_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2

POINTS = 60
CHART_WIDTH = 24
BARS = "▁▂▃▄▅▆▇█"
NAMES = {"live_bytes": "live heap", "resident_bytes": "resident", "instances": "processes"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    add_range_arguments(parser, "beginning", "end")
    parser.add_argument("--points", metavar="N", type=int, default=POINTS, help=f"points in time ({POINTS})")
    parser.add_argument("--sites", metavar="N", type=int, default=5, help="also the N sites largest at the end (5)")
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from_ns, to_ns = range_ns(args.start, args.end, now_ns())
    if not 1 <= args.points <= 10_000:
        raise UsageError("--points must be between 1 and 10000.")
    if args.sites < 0:
        raise UsageError("--sites must not be negative.")
    from glassbottom.wire.v1.query_pb2 import Range, Selector, TimelineRequest

    from .formats import json

    with client.querying(args) as query:
        service = client.service_name(args, query)
        request = TimelineRequest(
            selector=Selector(service=service, instance_id=args.instance),
            range=Range(from_ns=from_ns, to_ns=to_ns),
            points=args.points,
            sites=args.sites,
        )
        response = query.Timeline(request, timeout=args.timeout)
    output.answer(
        args,
        lambda: _report(response, service, from_ns, to_ns),
        lambda: json.timeline(response, service, from_ns, to_ns),
    )
    return Exit.OK


def _report(response: query_pb2.TimelineResponse, service: str, from_ns: int, to_ns: int) -> Report:
    report = Report()
    report.line(f"{service} from {moment(from_ns)} to {moment(to_ns)}", "bold")
    step_s = (response.at_ns[1] - response.at_ns[0]) / SECOND_NS if len(response.at_ns) > 1 else 0.0
    report.line(f"{len(response.at_ns)} points{f', {duration(step_s)} each' if step_s else ''}")
    report.line()
    report.table(
        [
            Column("SERIES", flexible=True),
            Column("FIRST", right=True),
            Column("LAST", right=True),
            Column("MAX", right=True),
            Column("CHART"),
        ],
        [_row(series) for series in response.series],
    )
    return report


def _row(series: query_pb2.Series) -> list[Cell | str | Place]:
    known = [value for value in series.values if math.isfinite(value)]
    show: Callable[[float], str] = count if series.name == "instances" else size
    first, last, largest = (show(known[0]), show(known[-1]), show(max(known))) if known else ("?", "?", "?")
    name: Place | str = NAMES.get(series.name, series.name)
    if series.HasField("frame"):
        name = Place(series.frame.function, series.frame.file, series.frame.line)
    return [name, first, last, largest, chart(series.values)]


def chart(values: Sequence[float], width: int = CHART_WIDTH) -> str:
    """Values from 0 upwards as bars; several values share a bar by their largest, and a gap is a blank."""
    groups = max(1, min(width, len(values)))
    bounds = [round(at * len(values) / groups) for at in range(groups + 1)]
    tops = [
        max((value for value in values[start:end] if math.isfinite(value)), default=math.nan)
        for start, end in pairwise(bounds)
    ]
    highest = max((top for top in tops if math.isfinite(top)), default=0.0)
    return "".join(
        " "
        if math.isnan(top)
        else BARS[min(len(BARS) - 1, int(max(top, 0.0) / highest * len(BARS)))]
        if highest > 0
        else BARS[0]
        for top in tops
    )
