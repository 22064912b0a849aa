"""span.never_ended: spans that were started, are still referred to or were dropped, and have not ended."""

from __future__ import annotations

from collections.abc import Sequence

from ..leaks.wording import time_text
from ..model.finding import Finding, Severity
from ..model.leak import Evidence
from ..model.timing import Observation
from ..timing.places import place_of
from .window import Window, span_of
from .wording import at_text, many

KIND = "span.never_ended"
WARNING_COUNT = 10
"""One connection that stays open is a span that stays open; ten of a name look like an end that is forgotten."""


def find(window: Window) -> tuple[list[Finding], list[str]]:
    """One per span name; value: seconds since the oldest began."""
    groups: dict[str, list[Observation]] = {}
    for each in window.observations.get(KIND, ()):
        groups.setdefault(each.name, []).append(each)
    return [_finding(window, name, mine) for name, mine in groups.items()], []


def _finding(window: Window, name: str, rows: Sequence[Observation]) -> Finding:
    newest = {each.instance_id: each for each in rows}
    count = sum(each.count for each in newest.values())
    oldest = max(each.value for each in newest.values())
    # Where such spans start is known only once a name is suspicious: the newest that knows says it.
    told = next((each for each in reversed(rows) if each.frame or each.stack), rows[-1])
    path = window.places.path(told.stack)
    frame = place_of(path, window.places.frame(told.frame))
    more = count > sum({each.instance_id: each.count for each in reversed(rows)}.values())
    return Finding(
        kind=KIND,
        severity=Severity.WARNING if more or count >= WARNING_COUNT else Severity.NOTICE,
        sentence=(
            f"{many(count, 'span')} named {name!r} {'has' if count == 1 else 'have'} not ended, the oldest after "
            f"{time_text(oldest)}{'; they start' if frame else ''}{at_text(frame)}."
        ),
        frame=frame,
        path=path,
        count=count,
        value=oldest,
        seen=span_of(rows[0].at_ns, rows[-1].at_ns),
        instance_ids=tuple(sorted(newest)),
        evidence=(
            Evidence("open", True, f"Told {many(len(rows), 'time')}; {'more' if more else 'no more'} than at first."),
        ),
    )
