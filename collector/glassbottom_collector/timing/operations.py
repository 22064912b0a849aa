"""What takes long, over processes and intervals: operations of one kind, name, span kind and place summed up.

Statuses, routes and targets are summed too; a route or target is told only when there was but one. Pure arithmetic on
what a Reader gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..model.process import Span
from ..model.timing import Histogram, Operation, OperationKind, Operations
from .histograms import above, merged, quantiles

LISTED = (OperationKind.SPAN, OperationKind.COROUTINE, OperationKind.FUNCTION)
"""Kinds that are told unless others are asked for: a step is a part of a coroutine."""


@dataclass(frozen=True)
class Key:
    """What one row stands for; frame is an id, 0 when unknown."""

    kind: OperationKind
    name: str
    span_kind: str
    frame: int


@dataclass(frozen=True)
class Thresholds:
    """A p95 above is flagged, seconds: of spans, and of coroutines, steps and functions."""

    span_s: float = 1.0
    async_s: float = 0.1

    def of(self, kind: OperationKind) -> float:
        """The one for a kind."""
        return self.span_s if kind is OperationKind.SPAN else self.async_s


@dataclass(frozen=True)
class Summary:
    """All operations of one key. Times in seconds; route and target are empty unless there was only one.

    is_entry: a span in no other route, by which requests enter. slow: how many took longer than the threshold.
    bare_yield_ratio, step_max_s: of coroutines and steps, from the rows of their steps; 0 when there are none.
    """

    key: Key
    route: str
    target: str
    is_entry: bool
    duration: Histogram
    errors: int
    cancelled: int
    p50_s: float
    p95_s: float
    p99_s: float
    self_s: float
    cpu_s: float
    cpu_count: int
    busy_s: float
    alloc_bytes: float
    slow: int
    flagged: bool
    bare_yield_ratio: float
    step_max_s: float

    @property
    def count(self) -> int:
        """How many ended."""
        return self.duration.count


def summaries(
    intervals: Iterable[Operations], thresholds: Thresholds, kinds: Sequence[OperationKind] = LISTED
) -> list[Summary]:
    """One per key, most total self time first. Intervals are of any processes, or sums of several."""
    rows: dict[Key, list[Operation]] = {}
    for interval in intervals:
        for row in interval.rows:
            rows.setdefault(Key(row.kind, row.name, row.span_kind, row.frame), []).append(row)
    steps = {(key.name, key.frame): mine for key, mine in rows.items() if key.kind is OperationKind.STEP}
    found = [
        _summary(key, mine, steps.get((key.name, key.frame), []), thresholds.of(key.kind))
        for key, mine in rows.items()
        if key.kind in kinds
    ]
    return sorted(found, key=lambda each: (-each.self_s, -each.duration.sum_s, each.key.name))


def covered_by(intervals: Iterable[Operations]) -> Span | None:
    """From the first moment to the last; None without data."""
    every = [interval for interval in intervals if interval.to_ns > interval.from_ns]
    return Span(min(each.from_ns for each in every), max(each.to_ns for each in every)) if every else None


def _summary(key: Key, rows: Sequence[Operation], steps: Sequence[Operation], threshold_s: float) -> Summary:
    duration = merged([row.duration for row in rows])
    p50_s, p95_s, p99_s = quantiles(duration, (0.5, 0.95, 0.99))
    stepped = steps if key.kind in (OperationKind.COROUTINE, OperationKind.STEP) else ()
    step_count = sum(row.duration.count for row in stepped)
    return Summary(
        key=key,
        route=_only({row.route for row in rows}),
        target=_only({row.target for row in rows}),
        is_entry=key.kind is OperationKind.SPAN and any(not row.route for row in rows),
        duration=duration,
        errors=sum(row.duration.count for row in rows if row.status == "error"),
        cancelled=sum(row.duration.count for row in rows if row.status in ("cancelled", "thrown")),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        self_s=sum(row.self_s or _busy_s(row) for row in rows),
        cpu_s=sum(row.cpu_user_s + row.cpu_system_s for row in rows),
        cpu_count=sum(row.cpu_count for row in rows),
        busy_s=sum(row.busy_s for row in rows),
        alloc_bytes=sum(row.alloc_bytes for row in rows),
        slow=above(duration, threshold_s),
        flagged=p95_s > threshold_s,
        bare_yield_ratio=sum(row.bare_yields for row in stepped) / step_count if step_count else 0.0,
        step_max_s=max((row.duration.max_s for row in stepped), default=0.0),
    )


def _busy_s(row: Operation) -> float:
    """Of a coroutine that tells no time of its own: what it ran. Waiting is not its work."""
    return row.busy_s if row.kind in (OperationKind.COROUTINE, OperationKind.STEP) else 0.0


def _only(values: set[str]) -> str:
    return next(iter(values)) if len(values) == 1 else ""
