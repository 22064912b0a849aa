"""Findings as messages."""

from __future__ import annotations

from glassbottom.wire.v1 import query_pb2

from ..model.finding import Finding, Severity
from .heap_views import PATH_MAX, frame_message
from .leak_view import evidence_message

_SEVERITIES = {
    Severity.NOTICE: query_pb2.SEVERITY_NOTICE,
    Severity.WARNING: query_pb2.SEVERITY_WARNING,
    Severity.CRITICAL: query_pb2.SEVERITY_CRITICAL,
}


def finding_message(finding: Finding) -> query_pb2.Finding:
    """One thing that is wrong."""
    return query_pb2.Finding(
        kind=finding.kind,
        severity=_SEVERITIES[finding.severity],
        sentence=finding.sentence,
        frame=None if finding.frame is None else frame_message(finding.frame),
        path=[frame_message(frame) for frame in finding.path[:PATH_MAX]],
        count=finding.count,
        value=finding.value,
        first_ns=finding.seen.from_ns,
        last_ns=finding.seen.to_ns - 1,
        instance_ids=finding.instance_ids,
        evidence=[evidence_message(each) for each in finding.evidence],
    )
