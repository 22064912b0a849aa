"""What takes long as messages: rows of timing/operations.py, and single slow spans.

Quantiles come from the merged exponential histograms, interpolated geometrically inside a bucket and held between
the smallest and the largest value: method and source are given in timing/histograms.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from glassbottom.wire.v1 import operations_pb2, query_pb2

from ..errors import BadRequest
from ..model.timing import Observation, OperationKind
from ..timing.operations import LISTED, Summary, Thresholds
from ..timing.places import Places
from .heap_views import frame_message

SPAN_KIND = "span.slow"
_OWN = ("trace_id", "span_id", "status", "self_s")
"""Attributes of an observed span that have a field of their own."""


def kinds_of(request: query_pb2.SlowRequest) -> Sequence[OperationKind]:
    """The kinds asked for; spans, coroutines and functions when none are. Raises BadRequest."""
    known = {int(kind) for kind in OperationKind}
    for kind in request.kinds:
        if kind not in known:
            raise BadRequest(f"There is no kind of operation number {kind}; ask for spans, coroutines or functions.")
    return [OperationKind(kind) for kind in request.kinds] or LISTED


def thresholds_of(request: query_pb2.SlowRequest) -> Thresholds:
    """Those asked for, in seconds. Raises BadRequest."""
    usual = Thresholds()
    for name, value in (("span_ms", request.span_ms), ("async_ms", request.async_ms)):
        if not 0 <= value < float("inf"):
            raise BadRequest(f"A threshold {name} of {value:g} is none; give milliseconds above 0.")
    return Thresholds(request.span_ms / 1e3 or usual.span_s, request.async_ms / 1e3 or usual.async_s)


def operation(summary: Summary, places: Places, live_bytes: Mapping[str, float]) -> query_pb2.OperationSummary:
    """One row. live_bytes: by route, what was allocated under it and is alive."""
    frame = places.frame(summary.key.frame)
    return query_pb2.OperationSummary(
        kind=operations_pb2.OperationKind.ValueType(int(summary.key.kind)),
        name=summary.key.name,
        span_kind=summary.key.span_kind,
        frame=None if frame is None else frame_message(frame),
        route=summary.route,
        target=summary.target,
        count=summary.count,
        errors=summary.errors,
        cancelled=summary.cancelled,
        p50_s=summary.p50_s,
        p95_s=summary.p95_s,
        p99_s=summary.p99_s,
        max_s=summary.duration.max_s,
        total_s=summary.duration.sum_s,
        self_s=summary.self_s,
        cpu_s=summary.cpu_s,
        cpu_count=summary.cpu_count,
        busy_s=summary.busy_s,
        alloc_bytes=summary.alloc_bytes,
        live_bytes=live_bytes.get(summary.key.name, 0.0) if summary.is_entry else 0.0,
        slow=summary.slow,
        flagged=summary.flagged,
        bare_yield_ratio=summary.bare_yield_ratio,
        step_max_s=summary.step_max_s,
    )


def slow_spans(observations: Iterable[Observation], limit: int) -> list[query_pb2.SlowSpan]:
    """The slowest, slowest first."""
    slowest = sorted(observations, key=lambda each: (-each.value, -each.at_ns))[:limit]
    return [_slow_span(each) for each in slowest]


def _slow_span(seen: Observation) -> query_pb2.SlowSpan:
    own = seen.attributes
    return query_pb2.SlowSpan(
        at_ns=seen.at_ns,
        name=seen.name,
        instance_id=seen.instance_id,
        duration_s=seen.value,
        self_s=_seconds(own.get("self_s", "")),
        trace_id=own.get("trace_id", ""),
        span_id=own.get("span_id", ""),
        status=own.get("status", ""),
        attributes={name: value for name, value in own.items() if name not in _OWN},
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
