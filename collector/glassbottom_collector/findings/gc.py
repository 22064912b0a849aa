"""gc.thrash: the garbage collector takes a large part of a process's time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..leaks.wording import percent_text, time_text
from ..model.code import Frame
from ..model.finding import Finding, Severity
from ..model.heap import F64, MetricPoint
from ..model.leak import Evidence
from ..timing.places import place_of
from .piling import settled
from .window import Window, span_of, too_short
from .wording import at_text

KIND = "gc.thrash"
PAUSED = "cpython.gc.pause_time"
PAUSE = "gc.pause"
SHARE = 0.10
CRITICAL_SHARE = 0.25
INTERVALS = 7
"""Together at least so many intervals: one full collection in a short one is no habit."""


def find(window: Window) -> tuple[list[Finding], list[str]]:
    """At most one per service, for the process where it is worst; value: seconds in pauses in that stretch."""
    worst: dict[str, tuple[float, float, int, int]] = {}
    most, lives = 0, 0
    for instance_id, points in window.reader.metrics(
        window.service, window.within, [PAUSED], window.instance_id
    ).items():
        if not points:
            continue
        at_ns, paused_s = _together(points)
        kept = settled(at_ns, window, instance_id)
        lives, most = lives + 1, max(most, len(kept))
        stretch = worst_stretch(at_ns[kept] / 1e9, paused_s[kept])
        if stretch is not None and stretch[0] > SHARE:
            share, first, last = stretch
            seconds = float(paused_s[kept[last]] - paused_s[kept[first]])
            worst[instance_id] = (share, seconds, int(at_ns[kept[first]]), int(at_ns[kept[last]]))
    notes = (
        [too_short("the garbage collector takes too much time", lives, most)] if lives and most < INTERVALS + 1 else []
    )
    return ([_finding(window, worst)] if worst else []), notes


def worst_stretch(times_s: F64, paused_s: F64) -> tuple[float, int, int] | None:
    """Largest share of time in pauses over INTERVALS successive intervals, with the first and last reading of it.

    times_s, paused_s: (T,), the latter cumulative. None when there are fewer readings.
    """
    if len(times_s) < INTERVALS + 1:
        return None
    spent, passed = paused_s[INTERVALS:] - paused_s[:-INTERVALS], times_s[INTERVALS:] - times_s[:-INTERVALS]
    share = np.divide(spent, passed, out=np.zeros(len(spent)), where=passed > 0)
    first = int(share.argmax())
    return float(share[first]), first, first + INTERVALS


def _together(points: Sequence[MetricPoint]) -> tuple[np.ndarray, F64]:
    """Times (T,) and cumulative seconds over all generations (T,)."""
    at_ns, row = np.unique(np.array([point.at_ns for point in points], dtype=np.int64), return_inverse=True)
    return at_ns, np.bincount(row, weights=np.array([point.value for point in points]), minlength=len(at_ns))


def _finding(window: Window, worst: dict[str, tuple[float, float, int, int]]) -> Finding:
    share, seconds, first_ns, last_ns = max(worst.values())
    path = _triggered(window, worst)
    frame = place_of(path)
    return Finding(
        kind=KIND,
        severity=Severity.CRITICAL if share >= CRITICAL_SHARE else Severity.WARNING,
        sentence=(
            f"The garbage collector took {percent_text(share)} of the time ({time_text(seconds)} of "
            f"{time_text((last_ns - first_ns) / 1e9)}){', most of it begun' if frame else ''}{at_text(frame)}."
        ),
        frame=frame,
        path=path,
        count=len(worst),
        value=seconds,
        seen=span_of(min(each[2] for each in worst.values()), max(each[3] for each in worst.values())),
        instance_ids=tuple(sorted(worst)),
        evidence=(Evidence("share", True, f"More than {percent_text(SHARE)} over {INTERVALS} intervals in a row."),),
    )


def _triggered(window: Window, worst: dict[str, tuple[float, float, int, int]]) -> tuple[Frame, ...]:
    """The call path in which most of the pauses began."""
    held: dict[int, float] = {}
    for each in window.observations.get(PAUSE, ()):
        if each.stack and each.instance_id in worst:
            held[each.stack] = held.get(each.stack, 0.0) + each.value
    return window.places.path(max(held, key=lambda stack: held[stack])) if held else ()
