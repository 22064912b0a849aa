"""Show what takes long: spans, asynchronous operations and functions.

The worst first, by the time that is an operation's own: not spent in the operations it started. A `!` flags what is
above its threshold by the 95th percentile. MEMORY is what was allocated meanwhile and, for the spans that requests
enter by, what of it is alive now. Below stand single slow spans with their attributes. Exit code 3 when a row is
flagged.

examples:
  glassbottom slow --service checkout
  glassbottom slow --service checkout --kind span --from 15m --span-ms 300
  glassbottom slow --service checkout -o json; test $? -ne 3 || echo slow
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output
from .exits import Exit, UsageError
from .formats.table import Cell, Column, Place, Report
from .text import count, elapsed, moment, plural, size
from .timespec import add_range_arguments, now_ns, range_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2

LIMIT = 10
SPAN_MS = 1000.0
ASYNC_MS = 100.0
KINDS = ("span", "coroutine", "function")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    add_range_arguments(parser, "ended since then", "ended before then")
    parser.add_argument(
        "--kind", choices=KINDS, action="append", metavar="KIND", help=f"only {', '.join(KINDS)}; may be repeated (all)"
    )
    parser.add_argument("--limit", metavar="N", type=int, default=LIMIT, help=f"at most so many rows ({LIMIT})")
    parser.add_argument(
        "--span-ms", metavar="MS", type=float, default=SPAN_MS, help=f"flags spans with a p95 above it ({SPAN_MS:g})"
    )
    parser.add_argument(
        "--async-ms",
        metavar="MS",
        type=float,
        default=ASYNC_MS,
        help=f"flags coroutines and functions with a p95 above it ({ASYNC_MS:g})",
    )
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from_ns, to_ns = range_ns(args.start, args.end, now_ns())
    for option, threshold in (("--span-ms", args.span_ms), ("--async-ms", args.async_ms)):
        if not 0 < threshold < float("inf"):
            raise UsageError(f"{option} must be more than 0 milliseconds.")
    from glassbottom.wire.v1.operations_pb2 import OperationKind
    from glassbottom.wire.v1.query_pb2 import Range, Selector, SlowRequest

    from .formats import json_time

    with client.querying(args) as query:
        service = client.service_name(args, query)
        request = SlowRequest(
            selector=Selector(service=service, instance_id=args.instance),
            range=Range(from_ns=from_ns, to_ns=to_ns),
            kinds=[OperationKind.Value(f"OPERATION_KIND_{kind.upper()}") for kind in dict.fromkeys(args.kind or ())],
            limit=args.limit,
            span_ms=args.span_ms,
            async_ms=args.async_ms,
        )
        response = query.Slow(request, timeout=args.timeout)
    output.answer(
        args,
        lambda: _report(response, service, args),
        lambda: json_time.slow(response, service, from_ns, to_ns, args.span_ms, args.async_ms),
    )
    return Exit.FINDING if any(operation.flagged for operation in response.operations) else Exit.OK


def _report(response: query_pb2.SlowResponse, service: str, args: argparse.Namespace) -> Report:
    report = Report()
    if not response.operations:
        report.line(f"{service}: no span, coroutine or profiled function ended in this range.")
        return report
    report.table(
        [
            Column("KIND"),
            Column(" "),
            Column("COUNT", right=True),
            Column("ERRORS", right=True, beneath="COUNT", label="failed "),
            Column("P95", right=True),
            Column("P50", right=True, beneath="P95", label="p50 "),
            Column("P99", right=True, beneath="P95", label="p99 "),
            Column("SELF", right=True),
            Column("CPU", right=True, beneath="SELF", label="cpu "),
            Column("WHERE", flexible=True),
            Column("MEMORY", beneath="WHERE"),
            Column("CONTEXT", beneath="WHERE"),
        ],
        [_row(operation) for operation in response.operations],
    )
    report.line()
    flagged = sum(operation.flagged for operation in response.operations)
    report.line(_summary(response, service, args, flagged), "bold" if flagged else "", hanging=2)
    if response.slow_spans:
        report.line()
        report.table(
            [
                Column("WHEN"),
                Column("TOOK", right=True),
                Column("SELF", right=True, beneath="TOOK", label="self "),
                Column("SLOW SPAN", flexible=True),
                Column("ATTRIBUTES", beneath="SLOW SPAN"),
                Column("TRACE", beneath="SLOW SPAN", label="trace "),
            ],
            [_span_row(span) for span in response.slow_spans],
        )
    return report


def _row(operation: query_pb2.OperationSummary) -> list[Cell | str | Place]:
    from .formats.json_time import KINDS as WORDS

    flag = operation.flagged
    return [
        WORDS.get(operation.kind, "?"),
        Cell("!", "bold red") if flag else "",
        count(operation.count),
        count(operation.errors) if operation.errors else "",
        Cell(elapsed(operation.p95_s), "red" if flag else ""),
        elapsed(operation.p50_s),
        elapsed(operation.p99_s),
        elapsed(operation.self_s),
        cpu(operation),
        where(operation),
        _memory(operation),
        _context(operation),
    ]


def where(operation: query_pb2.OperationSummary) -> Place | str:
    """The operation's name, and where it is defined if that is known."""
    frame = operation.frame
    return Place(operation.name, frame.file, frame.line) if frame.file else operation.name


def cpu(operation: query_pb2.OperationSummary) -> str:
    """CPU time: what is known of it, empty when nothing is."""
    if not operation.cpu_count:
        return ""
    return f"{'' if operation.cpu_count >= operation.count else '≥ '}{elapsed(operation.cpu_s)}"


def _memory(operation: query_pb2.OperationSummary) -> str:
    parts = []
    if operation.alloc_bytes:
        parts.append(f"{size(operation.alloc_bytes)} allocated")
    if operation.live_bytes:
        parts.append(f"{size(operation.live_bytes)} of it alive")
    return ", ".join(parts)


def _context(operation: query_pb2.OperationSummary) -> str:
    parts = [operation.span_kind] if operation.span_kind else []
    if operation.target:
        parts.append(f"to {operation.target}")
    if operation.route:
        parts.append(f"in {operation.route}")
    if operation.busy_s:
        parts.append(f"ran {elapsed(operation.busy_s)} of {elapsed(operation.total_s)}")
    return " ".join(parts)


def _summary(response: query_pb2.SlowResponse, service: str, args: argparse.Namespace, flagged: int) -> str:
    covered = response.covered
    between = f", {moment(covered.from_ns)} to {moment(covered.to_ns)}" if response.HasField("covered") else ""
    return (
        f"{service}: {flagged} of {len(response.operations)} shown above the threshold, of "
        f"{plural(response.operations_total, 'operation')} in all{between} "
        f"(p95 over {args.span_ms:g} ms for spans, {args.async_ms:g} ms for the rest)"
    )


def _span_row(span: query_pb2.SlowSpan) -> list[Cell | str | Place]:
    attributes = " ".join(f"{key}={value}" for key, value in sorted(span.attributes.items()))
    return [
        moment(span.at_ns),
        elapsed(span.duration_s),
        elapsed(span.self_s),
        Cell(span.name, "red" if span.status == "error" else ""),
        f"error {attributes}".rstrip() if span.status == "error" else attributes,
        span.trace_id,
    ]
