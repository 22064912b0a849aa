"""The documents of `slow`, `tasks`, `blocked` and `findings`; see json.py for what holds for all."""

from __future__ import annotations

from collections.abc import Iterable

from glassbottom.wire.v1 import common_pb2, operations_pb2, query_pb2

from .. import awaits
from .json import Document, covered, evidence, frame, when

KINDS = {
    operations_pb2.OPERATION_KIND_SPAN: "span",
    operations_pb2.OPERATION_KIND_COROUTINE: "coroutine",
    operations_pb2.OPERATION_KIND_STEP: "step",
    operations_pb2.OPERATION_KIND_FUNCTION: "function",
}

SEVERITIES = {
    query_pb2.SEVERITY_NOTICE: "notice",
    query_pb2.SEVERITY_WARNING: "warning",
    query_pb2.SEVERITY_CRITICAL: "critical",
}


def slow(
    response: query_pb2.SlowResponse, service: str, from_ns: int, to_ns: int, span_ms: float, async_ms: float
) -> Document:
    """The document of `glassbottom slow`."""
    return {
        "schema": "glassbottom.slow/1",
        "service": service,
        "from": when(from_ns),
        "to": when(to_ns),
        "covered": covered(response),
        "thresholds": {"span_ms": span_ms, "async_ms": async_ms},
        "operations_total": response.operations_total,
        "operations": [_operation(each) for each in response.operations],
        "slow_spans": [
            {
                "at": when(span.at_ns),
                "name": span.name,
                "instance_id": span.instance_id,
                "duration_s": span.duration_s,
                "self_s": span.self_s,
                "trace_id": span.trace_id or None,
                "span_id": span.span_id or None,
                "status": span.status or "ok",
                "attributes": dict(sorted(span.attributes.items())),
            }
            for span in response.slow_spans
        ],
    }


def tasks(response: query_pb2.TasksResponse, service: str, at_ns: int) -> Document:
    """The document of `glassbottom tasks`."""
    return {
        "schema": "glassbottom.tasks/1",
        "service": service,
        "at": when(at_ns),
        "processes": [
            {
                "instance_id": process.instance_id,
                "at": when(process.at_ns),
                "tasks": process.tasks,
                "tasks_examined": process.tasks_examined,
                "loops": _loops(process.loops),
                "groups": [_group(group) for group in process.groups],
                "waits": [
                    {"waiter": each.waiter, "awaited": each.awaited, "count": each.count} for each in process.waits
                ],
                "cycles": [
                    {"groups": list(cycle.groups), "deadlock": cycle.deadlock} for cycle in awaits.cycles(process)
                ],
            }
            for process in response.processes
        ],
        "findings": _findings(response.findings),
    }


def blocked(response: query_pb2.BlockedResponse, service: str, from_ns: int, to_ns: int) -> Document:
    """The document of `glassbottom blocked`."""
    return {
        "schema": "glassbottom.blocked/1",
        "service": service,
        "from": when(from_ns),
        "to": when(to_ns),
        "covered": covered(response),
        "total_s": response.total_s,
        "loops": _loops(response.loops),
        "blocks": [
            {
                "coroutine": block.coroutine,
                "count": block.count,
                "total_s": block.total_s,
                "max_s": block.max_s,
                "last_at": when(block.last_ns),
                "gil_held": block.gil_held,
                "late": block.late,
                "thread": block.thread,
                "application_frame": _frame_or_none(block.application_frame),
                "path": [frame(each) for each in block.path],
                "instance_ids": list(block.instance_ids),
            }
            for block in response.blocks
        ],
    }


def findings(response: query_pb2.FindingsResponse, service: str, from_ns: int, to_ns: int) -> Document:
    """The document of `glassbottom findings`."""
    return {
        "schema": "glassbottom.findings/1",
        "service": service,
        "from": when(from_ns),
        "to": when(to_ns),
        "covered": covered(response),
        "findings": _findings(response.findings),
        "notes": list(response.notes),
    }


def _operation(each: query_pb2.OperationSummary) -> Document:
    is_span = each.kind == operations_pb2.OPERATION_KIND_SPAN
    is_coroutine = each.kind in {operations_pb2.OPERATION_KIND_COROUTINE, operations_pb2.OPERATION_KIND_STEP}
    return {
        "kind": KINDS.get(each.kind, "unknown"),
        "name": each.name,
        "span_kind": each.span_kind or None,
        "frame": _frame_or_none(each.frame),
        "route": each.route or None,
        "target": each.target or None,
        "count": each.count,
        "errors": each.errors,
        "cancelled": each.cancelled,
        "p50_s": each.p50_s,
        "p95_s": each.p95_s,
        "p99_s": each.p99_s,
        "max_s": each.max_s,
        "total_s": each.total_s,
        "self_s": each.self_s,
        "cpu_s": each.cpu_s if each.cpu_count else None,
        "cpu_count": each.cpu_count,
        "busy_s": each.busy_s if each.busy_s or is_coroutine else None,
        "alloc_bytes": each.alloc_bytes,
        "live_bytes": each.live_bytes if is_span else None,
        "slow": each.slow,
        "flagged": each.flagged,
        "bare_yield_ratio": each.bare_yield_ratio if is_coroutine else None,
        "step_max_s": each.step_max_s if is_coroutine else None,
    }


def _loops(loops: Iterable[query_pb2.LoopSummary]) -> list[Document]:
    return [
        {
            "thread": loop.thread,
            "implementation": loop.implementation,
            "lag_p50_s": loop.lag_p50_s,
            "lag_p99_s": loop.lag_p99_s,
            "lag_max_s": loop.lag_max_s,
            "ready": loop.ready if loop.ready >= 0 else None,
            "ready_max": loop.ready_max if loop.ready_max >= 0 else None,
            "tasks": loop.tasks,
        }
        for loop in loops
    ]


def _group(group: query_pb2.TaskGroupSummary) -> Document:
    return {
        "loop": group.loop,
        "state": group.state,
        "awaits": group.awaits or None,
        "count": group.count,
        "age_oldest_s": group.age_oldest_s,
        "age_mean_s": group.age_mean_s,
        "wait_longest_s": group.wait_longest_s,
        "steps": group.steps,
        "busy_s": group.busy_s,
        "task_name": group.task_name,
        "path": [frame(each) for each in group.path],
    }


def _findings(found: Iterable[query_pb2.Finding]) -> list[Document]:
    return [
        {
            "kind": finding.kind,
            "severity": SEVERITIES.get(finding.severity, "notice"),
            "sentence": finding.sentence,
            "frame": _frame_or_none(finding.frame),
            "path": [frame(each) for each in finding.path],
            "count": finding.count,
            "value": finding.value,
            "first_at": when(finding.first_ns),
            "last_at": when(finding.last_ns),
            "instance_ids": list(finding.instance_ids),
            "evidence": evidence(finding.evidence),
        }
        for finding in found
    ]


def _frame_or_none(place: common_pb2.Frame) -> Document | None:
    return frame(place) if place.file or place.function else None
