"""thread.leak: threads of one target that are started and never end."""

from __future__ import annotations

from ..model.code import Frame
from ..model.finding import Finding, Severity
from ..model.places import is_application
from .growth import growth_text
from .piling import Pile, of_metrics, piles
from .window import Window, span_of
from .wording import amount_text

KIND = "thread.leak"
COUNT, ATTRIBUTE, TOTAL = "glassbottom.thread.count", "code.function.name", "process.thread.count"
STARTED = "thread.started"
LEAST = 10.0
"""Fewer may be a handful of workers that come up one by one."""
LEAST_POOLED = 64.0
"""A pool of a library fills as it is used: to 32 (concurrent.futures, asyncio.to_thread), to 40 (anyio)."""


def find(window: Window) -> tuple[list[Finding], list[str]]:
    """One per target function; value: threads per second."""
    tables = of_metrics(window, COUNT, ATTRIBUTE, TOTAL)
    targets = _targets(window)
    least = {key: _least(targets.get(key)) for table in tables.values() for key in table.keys}
    found, notes = piles(tables, least, "threads")
    named = [pile for pile in found if pile.key]
    # The sum of all threads speaks only when no target does.
    return [_finding(pile, targets.get(pile.key)) for pile in named or found], notes


def _targets(window: Window) -> dict[str, Frame]:
    """Where the target functions are defined, as far as it was told."""
    return {
        each.name: frame
        for each in window.observations.get(STARTED, ())
        if (frame := window.places.frame(each.frame)) is not None
    }


def _least(place: Frame | None) -> float:
    return LEAST if place is not None and is_application(place) else LEAST_POOLED


def _finding(pile: Pile[str], frame: Frame | None) -> Finding:
    growth = pile.growth
    whose = f"that run `{pile.key}` " if pile.key else ""
    where = f" ({frame.file}:{frame.line})" if frame is not None else ""
    return Finding(
        kind=KIND,
        severity=Severity.WARNING,
        sentence=f"{amount_text(growth.last)} threads {whose}are alive{where}: {growth_text(growth)}.",
        frame=frame,
        path=(),
        count=round(growth.last),
        value=growth.rate.per_second,
        seen=span_of(pile.first_ns, pile.last_ns),
        instance_ids=pile.instance_ids,
        evidence=growth.evidence,
    )
