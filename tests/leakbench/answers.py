"""The collector's answer to "what leaks?", as what is scored: the same over gRPC and from a kept store."""

from __future__ import annotations

from typing import Any

from glassbottom.wire.v1 import query_pb2

from tests.leakbench.case import CYCLIC, FRAGMENTATION, NATIVE, REACHABLE
from tests.leakbench.score import Found, Look, Place, Whole

ANSWERS_MAX = 60
ANSWERS_AT_LOOK_MAX = 20
"""Leaks come first, and only they are remembered of a look."""
VERDICTS = {
    query_pb2.VERDICT_LEAK: "leak",
    query_pb2.VERDICT_GROWING: "growing",
    query_pb2.VERDICT_STABLE: "stable",
    query_pb2.VERDICT_UNCLEAR: "unclear",
}
KINDS = {
    query_pb2.LEAK_KIND_REACHABLE: REACHABLE,
    query_pb2.LEAK_KIND_GARBAGE: CYCLIC,
    query_pb2.LEAK_KIND_NATIVE: NATIVE,
    query_pb2.LEAK_KIND_FRAGMENTATION: FRAGMENTATION,
}


def found_in(report: query_pb2.LeakReport) -> tuple[Found, ...]:
    """All findings, worst first."""
    return tuple(_found(each) for each in report.findings)


def look_of(report: query_pb2.LeakReport | None, at_s: float, to_ns: int) -> Look:
    """What is remembered of a look. report: None when there was nothing of the service yet."""
    findings = found_in(report) if report is not None else ()
    return Look.of_findings(at_s, to_ns, findings)


def _found(finding: query_pb2.LeakFinding) -> Found:
    site = finding.site
    return Found(
        verdict=VERDICTS[finding.verdict],
        place=_place(site.frame),
        near=_place(finding.application_frame) if finding.HasField("application_frame") else None,
        path=tuple(_place(frame) for frame in site.path[:12]),
        bytes_per_second=finding.bytes_per_second,
        kind=KINDS.get(finding.kind, ""),
        holder=finding.holder,
        routes=tuple(share.route for share in site.routes),
        bytes_per_operation={each.operation: each.bytes for each in finding.per_operation},
        against=tuple(each.name for each in finding.evidence if not each.supports_leak),
        whole=_whole(finding.whole) if finding.HasField("whole") else None,
    )


def _whole(whole: query_pb2.WholeGrowth) -> Whole:
    line = whole.lines[0] if whole.lines else None
    frames = (
        [] if line is None else [line.frame, *([line.application_frame] if line.HasField("application_frame") else [])]
    )
    return Whole(
        name=whole.name,
        bytes_per_second=whole.bytes_per_second,
        bytes_per_operation=whole.per_operation.bytes if whole.HasField("per_operation") else None,
        share=whole.share,
        largest=tuple(_place(frame) for frame in frames),
    )


def _place(frame: Any) -> Place:
    return Place(frame.file, frame.function, frame.line)
