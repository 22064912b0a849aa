"""A leak report as a message, with what each accused site holds now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glassbottom.wire.v1 import query_pb2

from ..model.heap import HeapState
from ..model.leak import Evidence, LeakFinding, LeakReport, RuleHit, Verdict
from .heap_views import Names, frame_message, route_shares, type_shares

_VERDICTS = {
    Verdict.LEAK: query_pb2.VERDICT_LEAK,
    Verdict.GROWING: query_pb2.VERDICT_GROWING,
    Verdict.STABLE: query_pb2.VERDICT_STABLE,
    Verdict.UNCLEAR: query_pb2.VERDICT_UNCLEAR,
}


def report_message(
    report: LeakReport, states: Sequence[HeapState], names: Names, totals: query_pb2.Totals
) -> query_pb2.LeakReport:
    """states: the heaps at the end of the window; they say which types a site holds, and under which routes
    that was allocated."""
    covered = report.covered
    return query_pb2.LeakReport(
        findings=[_finding(finding, states, names) for finding in report.findings],
        sites_examined=report.sites_examined,
        snapshots=report.snapshots,
        covered=None if covered is None else query_pb2.Range(from_ns=covered.from_ns, to_ns=covered.to_ns),
        totals=totals,
        total_bytes_per_second=report.total_bytes_rate,
        rule_hits=rule_hits(report.rule_hits),
        notes=report.notes,
    )


def rule_hits(hits: Iterable[RuleHit]) -> list[query_pb2.RuleHit]:
    """Named rules that fired."""
    return [
        query_pb2.RuleHit(
            rule=hit.rule,
            sentence=hit.sentence,
            instance_id=hit.instance_id,
            from_ns=hit.within.from_ns,
            to_ns=hit.within.to_ns,
            bytes_per_second=hit.bytes_per_second,
        )
        for hit in hits
    ]


def _finding(finding: LeakFinding, states: Sequence[HeapState], names: Names) -> query_pb2.LeakFinding:
    rate, objects = finding.bytes_rate, finding.objects_rate
    return query_pb2.LeakFinding(
        verdict=_VERDICTS[finding.verdict],
        site=_site(finding, states, names),
        bytes_per_second=rate.per_second,
        bytes_per_second_low=rate.low,
        bytes_per_second_high=rate.high,
        objects_per_second=objects.per_second,
        objects_per_second_low=objects.low,
        objects_per_second_high=objects.high,
        p_value=finding.p_value,
        evidence=[evidence_message(each) for each in finding.evidence],
        would_change=finding.would_change,
        instance_ids=finding.instance_ids,
        application_frame=None if finding.application_frame is None else frame_message(finding.application_frame),
    )


def evidence_message(evidence: Evidence) -> query_pb2.Evidence:
    """One test or guard."""
    return query_pb2.Evidence(name=evidence.name, supports_leak=evidence.supports_leak, sentence=evidence.sentence)


def _site(finding: LeakFinding, states: Sequence[HeapState], names: Names) -> query_pb2.Site:
    path = names.path(finding.stacks[0]) if finding.stacks else [finding.frame]
    return query_pb2.Site(
        frame=frame_message(finding.frame),
        live_bytes=finding.live_bytes,
        live_bytes_stderr=finding.live_bytes_stderr,
        live_objects=finding.live_objects,
        samples=finding.samples,
        types=type_shares(states, set(finding.stacks), names),
        path=[frame_message(frame) for frame in path],
        routes=route_shares(states, set(finding.stacks), names),
    )
