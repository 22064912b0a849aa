"""A leak report as a message, with what each accused site holds now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glassbottom.wire.v1 import query_pb2

from ..model.heap import HeapState
from ..model.leak import (
    Evidence,
    Forecast,
    LeakFinding,
    LeakKind,
    LeakReport,
    LineShare,
    PerOperation,
    RuleHit,
    Verdict,
    Whole,
)
from .heap_views import Names, frame_message, route_shares, type_shares

_VERDICTS = {
    Verdict.LEAK: query_pb2.VERDICT_LEAK,
    Verdict.GROWING: query_pb2.VERDICT_GROWING,
    Verdict.STABLE: query_pb2.VERDICT_STABLE,
    Verdict.UNCLEAR: query_pb2.VERDICT_UNCLEAR,
}
_KINDS = {
    LeakKind.REACHABLE: query_pb2.LEAK_KIND_REACHABLE,
    LeakKind.GARBAGE: query_pb2.LEAK_KIND_GARBAGE,
    LeakKind.NATIVE: query_pb2.LEAK_KIND_NATIVE,
    LeakKind.FRAGMENTATION: query_pb2.LEAK_KIND_FRAGMENTATION,
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
        forecast=None if report.forecast is None else _forecast(report.forecast),
        memory=[
            query_pb2.MemoryPart(
                name=part.name,
                first_bytes=part.first_bytes,
                last_bytes=part.last_bytes,
                bytes_per_second=part.bytes_per_second,
            )
            for part in report.memory
        ],
    )


def _forecast(forecast: Forecast) -> query_pb2.Forecast:
    return query_pb2.Forecast(
        limit=forecast.limit,
        limit_bytes=forecast.limit_bytes,
        room_bytes=forecast.room_bytes,
        bytes_per_second=forecast.bytes_rate.per_second,
        seconds_10=forecast.seconds_10,
        seconds_50=forecast.seconds_50,
        seconds_90=forecast.seconds_90,
        instance_ids=forecast.instance_ids,
        sentence=forecast.sentence,
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
        kind=_KINDS[finding.kind],
        per_operation=[_per_operation(each) for each in finding.per_operation],
        holder=finding.holder,
        first_seen_ns=finding.first_seen_ns,
        first_seen_version=finding.first_seen_version,
        whole=None if finding.whole is None else _whole(finding.whole),
    )


def _whole(whole: Whole) -> query_pb2.WholeGrowth:
    return query_pb2.WholeGrowth(
        name=whole.name,
        bytes_per_second=whole.bytes_rate.per_second,
        bytes_per_second_low=whole.bytes_rate.low,
        bytes_per_second_high=whole.bytes_rate.high,
        per_operation=None if whole.per_operation is None else _per_operation(whole.per_operation),
        share=whole.share,
        line_count=whole.line_count,
        lines=[_line(each) for each in whole.lines],
    )


def _line(line: LineShare) -> query_pb2.LineShare:
    near = line.application_frame
    return query_pb2.LineShare(
        frame=frame_message(line.frame),
        application_frame=None if near is None else frame_message(near),
        share=line.share,
    )


def _per_operation(each: PerOperation) -> query_pb2.PerOperation:
    return query_pb2.PerOperation(
        operation=each.operation,
        bytes=each.bytes,
        bytes_low=each.bytes_low,
        bytes_high=each.bytes_high,
        objects=each.objects,
        operations=each.operations,
        attributed=each.attributed,
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
