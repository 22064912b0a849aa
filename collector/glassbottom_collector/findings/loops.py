"""loop.blocked: a step held an event loop, and everything else that loop runs had to wait."""

from __future__ import annotations

from collections.abc import Sequence

from ..leaks.wording import percent_text, time_text
from ..model.finding import Finding, Severity
from ..model.leak import Evidence
from ..timing.blocks import KIND, Block, blocks_by_place, counted
from .window import Window, share_text, span_of
from .wording import at_text, many

# A machine that is short of CPU delays a step now and then, whoever's it is: a single block of half a second, or
# several that add up to something, is more than that.
ONE_S = 0.5
SEVERAL, SEVERAL_SHARE = 3, 0.001
CRITICAL_SHARE, WARNING_SHARE, WARNING_S = 0.1, 0.01, 1.0


def find(window: Window) -> tuple[list[Finding], list[str]]:
    """One per function of the application and coroutine; value: seconds blocked."""
    blocks = blocks_by_place(counted(window.observations.get(KIND, ())), window.places)
    return [
        _finding(each, window.seconds(each.instance_ids))
        for each in blocks
        if worth_telling(each, window.seconds(each.instance_ids))
    ], []


def worth_telling(block: Block, seconds: float) -> bool:
    """Whether it is more than a machine short of CPU explains."""
    return block.max_s >= ONE_S or (block.count >= SEVERAL and block.total_s >= SEVERAL_SHARE * seconds)


def _finding(block: Block, seconds: float) -> Finding:
    frame = block.application_frame or block.frame or (block.path[0] if block.path else None)
    share = block.total_s / seconds if seconds > 0 else 1.0
    severity = Severity.NOTICE
    if share >= WARNING_SHARE or block.max_s >= WARNING_S:
        severity = Severity.CRITICAL if share >= CRITICAL_SHARE else Severity.WARNING
    gil = ", native code holding the GIL" if block.gil_held else ""
    return Finding(
        kind=KIND,
        severity=severity,
        sentence=(
            f"`{block.coroutine}` held its event loop {many(block.count, 'time')}, {time_text(block.total_s)} in all "
            f"and {time_text(block.max_s)} at most{gil}{at_text(frame)}."
        ),
        frame=frame,
        path=block.path,
        count=block.count,
        value=block.total_s,
        seen=span_of(block.first_ns, block.last_ns),
        instance_ids=block.instance_ids,
        evidence=tuple(_evidence(block, seconds)),
    )


def _evidence(block: Block, seconds: float) -> Sequence[Evidence]:
    found = [
        Evidence(
            "share",
            block.total_s >= SEVERAL_SHARE * seconds,
            f"Blocked {share_text(block.total_s, seconds)}; {percent_text(CRITICAL_SHARE)} and more are critical.",
        )
    ]
    if block.gil_held:
        found.append(Evidence("gil", True, "Native code held the GIL meanwhile: no other thread ran either."))
    if block.late:
        found.append(Evidence("late", True, "The call path was taken right after native code let go of the GIL."))
    if not block.path:
        found.append(Evidence("path", False, "No call path could be taken while it lasted."))
    return found
