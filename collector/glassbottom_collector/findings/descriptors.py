"""fd.leak: file descriptors of one type that are opened and never closed."""

from __future__ import annotations

from ..model.code import Frame
from ..model.finding import Finding, Severity
from ..timing.places import place_of
from .growth import growth_text
from .piling import Pile, of_metrics, piles
from .window import Window, span_of
from .wording import amount_text, at_text

KIND = "fd.leak"
COUNT, ATTRIBUTE, TOTAL = "glassbottom.fd.count", "fd.type", "process.unix.file_descriptor.count"
OPENED = "fd.opened"
LEAST = 20.0
LEAST_SOCKETS = 50.0
"""Connections of a pool, and clients that keep theirs open, come up one by one."""
_WORDS = {"socket": "sockets", "file": "files", "pipe": "pipes", "eventfd": "eventfds"}


def find(window: Window) -> tuple[list[Finding], list[str]]:
    """One per type of descriptor; value: descriptors per second."""
    tables = of_metrics(window, COUNT, ATTRIBUTE, TOTAL)
    keys = {key for table in tables.values() for key in table.keys}
    found, notes = piles(
        tables, {key: LEAST_SOCKETS if key in ("socket", "") else LEAST for key in keys}, "descriptors"
    )
    named = [pile for pile in found if pile.key]
    return [_finding(window, pile) for pile in named or found], notes


def _finding(window: Window, pile: Pile[str]) -> Finding:
    growth = pile.growth
    path = _opened(window, pile)
    frame = place_of(path)
    what = _WORDS.get(pile.key, "descriptors")
    return Finding(
        kind=KIND,
        severity=Severity.WARNING,
        sentence=(
            f"{amount_text(growth.last)} {what} are open: {growth_text(growth)}"
            f"{'; most are opened' if frame else ''}{at_text(frame)}."
        ),
        frame=frame,
        path=path,
        count=round(growth.last),
        value=growth.rate.per_second,
        seen=span_of(pile.first_ns, pile.last_ns),
        instance_ids=pile.instance_ids,
        evidence=growth.evidence,
    )


def _opened(window: Window, pile: Pile[str]) -> tuple[Frame, ...]:
    """The call path by which most descriptors of the type were opened while they grew."""
    held: dict[int, int] = {}
    for each in window.observations.get(OPENED, ()):
        fits = not pile.key or each.attributes.get("fd.type", pile.key) == pile.key
        if fits and each.stack and each.instance_id in pile.instance_ids:
            held[each.stack] = held.get(each.stack, 0) + each.count
    return window.places.path(max(held, key=lambda stack: held[stack])) if held else ()
