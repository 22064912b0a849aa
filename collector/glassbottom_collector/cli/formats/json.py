"""Answers as JSON, in shapes that programs can rely on.

Each document names its shape in `schema`, such as "glassbottom.top/1", described by docs/schema/<verb>.schema.json.
Within a version fields are only added. Moments are RFC 3339 in UTC, numbers are unrounded, and what is not known is
null. The text is ASCII: names from elsewhere cannot reach a terminal as control characters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from glassbottom.wire.v1 import common_pb2, control_pb2, ingest_pb2, query_pb2

Document = dict[str, object]

# Answers that say which range they really rest on.
HasRange = query_pb2.LeakReport | query_pb2.SlowResponse | query_pb2.BlockedResponse | query_pb2.FindingsResponse

VERDICTS = {
    query_pb2.VERDICT_UNSPECIFIED: "unclear",
    query_pb2.VERDICT_LEAK: "leak",
    query_pb2.VERDICT_GROWING: "growing",
    query_pb2.VERDICT_STABLE: "stable",
    query_pb2.VERDICT_UNCLEAR: "unclear",
}

KINDS = {
    query_pb2.LEAK_KIND_REACHABLE: "reachable",
    query_pb2.LEAK_KIND_GARBAGE: "garbage",
    query_pb2.LEAK_KIND_NATIVE: "native",
    query_pb2.LEAK_KIND_FRAGMENTATION: "fragmentation",
}

OUTCOMES = {
    ingest_pb2.COMMAND_OUTCOME_UNSPECIFIED: "failed",
    ingest_pb2.COMMAND_OUTCOME_DONE: "done",
    ingest_pb2.COMMAND_OUTCOME_REFUSED: "refused",
    ingest_pb2.COMMAND_OUTCOME_FAILED: "failed",
}


def dumps(document: Mapping[str, object]) -> str:
    """The document as indented JSON; numbers that are not finite become null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def services(response: query_pb2.ListServicesResponse, from_ns: int, to_ns: int) -> Document:
    """The document of `glassbottom services`."""
    return {
        "schema": "glassbottom.services/1",
        "from": when(from_ns),
        "to": when(to_ns),
        "services": [
            {
                "name": service.name,
                "processes": service.instances,
                "processes_connected": service.instances_connected,
                "last_seen_at": when(service.last_seen_ns),
                "live_bytes": service.live_bytes,
                "resident_bytes": service.resident_bytes or None,
            }
            for service in response.services
        ],
    }


def status(response: query_pb2.StatusResponse) -> Document:
    """The document of `glassbottom status`."""
    return {
        "schema": "glassbottom.status/1",
        "collector": {
            "version": response.collector.version,
            "started_at": when(response.collector.started_at_ns),
            "problems": list(response.collector.problems),
            "statistics": dict(sorted(response.collector.statistics.items())),
        },
        "processes": [
            {
                "service": instance.process.service,
                "instance_id": instance.process.instance_id,
                "pid": instance.process.pid,
                "started_at": when(instance.process.started_at_ns),
                "attributes": dict(sorted(instance.process.attributes.items())),
                "connected": instance.connected,
                "last_seen_at": when(instance.last_seen_ns),
                "agent_version": instance.agent_version,
                "sampler_state": instance.sampler_state,
                "sampler_reason": instance.sampler_reason,
                "clock_skew_s": instance.clock_skew_s,
                "statistics": dict(sorted(instance.statistics.items())),
            }
            for instance in response.instances
        ],
    }


def top(response: query_pb2.TopResponse, service: str, at_ns: int, group_by: str) -> Document:
    """The document of `glassbottom top`."""
    return {
        "schema": "glassbottom.top/1",
        "service": service,
        "at": when(at_ns),
        "group_by": group_by,
        "totals": totals(response.totals),
        "sites": [_site(site, group_by) for site in response.sites],
    }


def timeline(response: query_pb2.TimelineResponse, service: str, from_ns: int, to_ns: int) -> Document:
    """The document of `glassbottom timeline`."""
    return {
        "schema": "glassbottom.timeline/1",
        "service": service,
        "from": when(from_ns),
        "to": when(to_ns),
        "at": [when(at_ns) for at_ns in response.at_ns],
        "series": [
            {
                "name": series.name,
                "frame": frame(series.frame) if series.HasField("frame") else None,
                "values": list(series.values),
            }
            for series in response.series
        ],
    }


def diff(response: query_pb2.DiffResponse, service: str, before_ns: int, after_ns: int, group_by: str) -> Document:
    """The document of `glassbottom diff`."""
    return {
        "schema": "glassbottom.diff/1",
        "service": service,
        "before_at": when(before_ns),
        "after_at": when(after_ns),
        "group_by": group_by,
        "before": totals(response.before),
        "after": totals(response.after),
        "changes": changes(response.changes, group_by),
        "rule_hits": _rule_hits(response.rule_hits),
    }


def changes(found: Iterable[query_pb2.SiteChange], group_by: str) -> list[Document]:
    """What changed, row by row."""
    return [
        {
            "site": _site(change.site, group_by),
            "delta_bytes": change.delta_bytes,
            "delta_bytes_stderr": change.delta_bytes_stderr,
            "delta_objects": change.delta_objects,
            "significant": change.significant,
        }
        for change in found
    ]


def leaks(report: query_pb2.LeakReport, service: str, from_ns: int, to_ns: int) -> Document:
    """The document of `glassbottom leaks`."""
    return {
        "schema": "glassbottom.leaks/1",
        "service": service,
        "from": when(from_ns),
        "to": when(to_ns),
        "covered": covered(report),
        "sites_examined": report.sites_examined,
        "snapshots": report.snapshots,
        "totals": totals(report.totals),
        "total_bytes_per_second": report.total_bytes_per_second,
        "findings": [_finding(finding) for finding in report.findings],
        "rule_hits": _rule_hits(report.rule_hits),
        "notes": list(report.notes),
        "forecast": _forecast(report.forecast) if report.HasField("forecast") else None,
        "memory": [
            {
                "name": part.name,
                "first_bytes": part.first_bytes,
                "last_bytes": part.last_bytes,
                "bytes_per_second": part.bytes_per_second,
            }
            for part in report.memory
        ],
    }


def _forecast(forecast: query_pb2.Forecast) -> Document:
    return {
        "limit": forecast.limit,
        "limit_bytes": forecast.limit_bytes or None,
        "room_bytes": forecast.room_bytes,
        "bytes_per_second": forecast.bytes_per_second,
        "seconds_10": forecast.seconds_10,
        "seconds_50": forecast.seconds_50,
        "seconds_90": forecast.seconds_90,
        "instance_ids": list(forecast.instance_ids),
        "sentence": forecast.sentence,
    }


def snapshot(response: control_pb2.TakeSnapshotResponse, service: str) -> Document:
    """The document of `glassbottom snapshot`."""
    return {
        "schema": "glassbottom.snapshot/1",
        "service": service,
        "outcomes": [
            {"instance_id": each.instance_id, "outcome": OUTCOMES.get(each.outcome, "failed"), "reason": each.reason}
            for each in response.outcomes
        ],
    }


def when(ns: int) -> str | None:
    """A moment as RFC 3339 in UTC with nanoseconds; None for 0, which means never or unknown."""
    if not ns:
        return None
    seconds, fraction = divmod(ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def totals(sums: query_pb2.Totals) -> Document:
    """Sums over a heap."""
    return {
        "live_bytes": sums.live_bytes,
        "live_bytes_stderr": sums.live_bytes_stderr,
        "live_objects": sums.live_objects,
        "resident_bytes": sums.resident_bytes or None,
        "samples": sums.samples,
        "processes": sums.instances,
        "oldest_snapshot_at": when(sums.at_ns),
    }


def _site(site: query_pb2.Site, group_by: str) -> Document:
    return {
        "frame": None if group_by in {"type", "route"} else frame(site.frame),
        "type": site.type if group_by == "type" else None,
        "route": (site.type or None) if group_by == "route" else None,
        "live_bytes": site.live_bytes,
        "live_bytes_stderr": site.live_bytes_stderr,
        "live_objects": site.live_objects,
        "live_objects_stderr": site.live_objects_stderr,
        "alloc_bytes": site.alloc_bytes,
        "samples": site.samples,
        "types": [
            {"type": share.type, "live_bytes": share.live_bytes, "live_objects": share.live_objects}
            for share in site.types
        ],
        "routes": [
            {"route": share.route, "live_bytes": share.live_bytes, "live_objects": share.live_objects}
            for share in site.routes
        ],
        "path": [frame(each) for each in site.path],
    }


def frame(place: common_pb2.Frame) -> Document:
    """A place in code."""
    return {"function": place.function, "file": place.file, "line": place.line}


def evidence(found: Iterable[query_pb2.Evidence]) -> list[Document]:
    """Tests and guards with their outcomes."""
    return [{"name": each.name, "supports_leak": each.supports_leak, "sentence": each.sentence} for each in found]


def covered(answer: HasRange) -> Document | None:
    """The range an answer really rests on, or None."""
    if not answer.HasField("covered"):
        return None
    return {"from": when(answer.covered.from_ns), "to": when(answer.covered.to_ns)}


def _finding(finding: query_pb2.LeakFinding) -> Document:
    return {
        "verdict": VERDICTS.get(finding.verdict, "unclear"),
        "site": _site(finding.site, "line"),
        "bytes_per_second": {
            "value": finding.bytes_per_second,
            "low": finding.bytes_per_second_low,
            "high": finding.bytes_per_second_high,
        },
        "objects_per_second": {
            "value": finding.objects_per_second,
            "low": finding.objects_per_second_low,
            "high": finding.objects_per_second_high,
        },
        "p_value": finding.p_value,
        "evidence": evidence(finding.evidence),
        "would_change": finding.would_change,
        "instance_ids": list(finding.instance_ids),
        "application_frame": frame(finding.application_frame) if finding.HasField("application_frame") else None,
        "kind": KINDS.get(finding.kind),
        "per_operation": [_per_operation(each) for each in finding.per_operation],
        "whole": _whole(finding.whole) if finding.HasField("whole") else None,
        "holder": finding.holder or None,
        "first_seen_at": when(finding.first_seen_ns),
        "first_seen_version": finding.first_seen_version or None,
    }


def _per_operation(each: query_pb2.PerOperation) -> Document:
    return {
        "operation": each.operation,
        "bytes": {"value": each.bytes, "low": each.bytes_low, "high": each.bytes_high},
        "objects": each.objects,
        "operations": each.operations,
        "attributed": each.attributed,
    }


def _whole(whole: query_pb2.WholeGrowth) -> Document:
    return {
        "name": whole.name,
        "bytes_per_second": {
            "value": whole.bytes_per_second,
            "low": whole.bytes_per_second_low,
            "high": whole.bytes_per_second_high,
        },
        "per_operation": _per_operation(whole.per_operation) if whole.HasField("per_operation") else None,
        "share": whole.share,
        "line_count": whole.line_count,
        "lines": [
            {
                "frame": frame(each.frame),
                "application_frame": frame(each.application_frame) if each.HasField("application_frame") else None,
                "share": each.share,
            }
            for each in whole.lines
        ],
    }


def _rule_hits(hits: Iterable[query_pb2.RuleHit]) -> list[Document]:
    return [
        {
            "rule": hit.rule,
            "sentence": hit.sentence,
            "instance_id": hit.instance_id,
            "from": when(hit.from_ns),
            "to": when(hit.to_ns),
            "bytes_per_second": hit.bytes_per_second,
        }
        for hit in hits
    ]


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value
