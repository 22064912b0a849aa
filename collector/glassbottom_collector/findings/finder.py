"""Asks every subject about a service, and puts the worst first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..model.finding import Finding, FindingReport
from ..model.process import Span
from ..storage import Reader
from . import descriptors, gc, lints, loops, slow, spans, tasks, threads
from .window import Window

Subject = Callable[[Window], tuple[list[Finding], list[str]]]

TASKS: tuple[Subject, ...] = (tasks.find, lints.find)
ALL: tuple[Subject, ...] = (
    loops.find,
    tasks.find,
    lints.find_besides_blocks,
    spans.find,
    threads.find,
    descriptors.find,
    gc.find,
    slow.find,
)


def find(
    reader: Reader, service: str, within: Span, instance_id: str | None = None, subjects: Sequence[Subject] = ALL
) -> FindingReport:
    """Everything that looks wrong with a service in a range, worst first; empty, with a note, without data.

    Raises what the reader raises.
    """
    window = Window(reader, service, within, instance_id)
    if not window.processes:
        return FindingReport((), None, (f"Nothing was sent by {service} in this range.",))
    found: list[Finding] = []
    notes: list[str] = []
    for subject in subjects:
        findings, said = subject(window)
        found.extend(findings)
        notes.extend(said)
    found.sort(key=lambda each: (-each.severity, each.kind, -each.value))
    return FindingReport(tuple(found), window.covered, tuple(notes))
