"""span.slow, coroutine.slow, function.slow: what takes longer than its threshold, by the 95th percentile.

The table of slow operations flags by duration alone. A finding asks more: a coroutine that waits is doing what
coroutines are for, so only one that holds the loop for the threshold counts; and a p95 of a handful is chance.
"""

from __future__ import annotations

from ..leaks.wording import time_text
from ..model.finding import Finding, Severity
from ..model.leak import Evidence
from ..model.timing import OperationKind
from ..timing.operations import Key, Summary, Thresholds, covered_by, summaries
from ..timing.places import look_up
from .window import Window, span_of
from .wording import many

KINDS = {
    OperationKind.SPAN: "span.slow",
    OperationKind.COROUTINE: "coroutine.slow",
    OperationKind.FUNCTION: "function.slow",
}
COUNT_MIN = 5
SHOWN_MAX = 10
"""The table of slow operations has the rest."""


def find(window: Window, thresholds: Thresholds = Thresholds()) -> tuple[list[Finding], list[str]]:  # noqa: B008
    """The most costly ones; value: p95, seconds."""
    totals = window.reader.operation_totals(window.service, window.within, window.instance_id)
    slow = [each for each in summaries(totals.values(), thresholds) if worth_telling(each, thresholds)][:SHOWN_MAX]
    covered = covered_by(totals.values())
    if not slow or covered is None:
        return [], []
    places = look_up(window.reader, frames=(each.key.frame for each in slow))
    instances: dict[Key, set[str]] = {}
    for instance_id, total in totals.items():
        for row in total.rows:
            instances.setdefault(Key(row.kind, row.name, row.span_kind, row.frame), set()).add(instance_id)
    found = []
    for each in slow:
        key = each.key
        limit = thresholds.of(key.kind)
        found.append(
            Finding(
                kind=KINDS[key.kind],
                severity=Severity.NOTICE,
                sentence=(
                    f"{key.name!r} took longer than {time_text(limit)} {many(each.slow, 'time')} of {each.count}: "
                    f"p50 {time_text(each.p50_s)}, p95 {time_text(each.p95_s)}, {time_text(each.duration.max_s)} at "
                    "most."
                ),
                frame=places.frame(key.frame),
                path=(),
                count=each.slow,
                value=each.p95_s,
                seen=span_of(covered.from_ns, covered.to_ns - 1),
                instance_ids=tuple(sorted(instances[key])),
                evidence=(Evidence("p95", True, f"p95 {time_text(each.p95_s)} of {each.count}; see `slow`."),),
            )
        )
    return found, []


def worth_telling(summary: Summary, thresholds: Thresholds) -> bool:
    """See the top of this file."""
    if not summary.flagged or summary.count < COUNT_MIN:
        return False
    if summary.key.kind is not OperationKind.COROUTINE:
        return True
    return summary.busy_s / summary.count > thresholds.of(summary.key.kind)
