"""What an agent noticed about single tasks and coroutines, one finding per kind, name and place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..leaks.wording import time_text
from ..model.finding import Finding, Severity
from ..model.leak import Evidence
from ..model.timing import Observation
from ..timing.blocks import KIND as BLOCKED
from ..timing.places import place_of
from .loops import ONE_S
from .window import Window, span_of
from .wording import many


@dataclass(frozen=True)
class Lint:
    """sentence: takes name, tasks, times, age, reason and it ("it" or "them"). adds_up: counts of several observations
    are of different things; otherwise each says again how many there are."""

    severity: Severity
    sentence: str
    why: str
    adds_up: bool = True


LINTS = {
    "task.stuck": Lint(
        Severity.WARNING,
        "`{name}`: {tasks} stuck for {age}, {reason}",
        "Nobody seems able to complete what is awaited.",
        adds_up=False,
    ),
    "task.spinning": Lint(
        Severity.WARNING,
        "`{name}` spins: it asks to be run again at once, over and over",
        "More than half of at least a thousand steps in one interval were bare yields.",
        adds_up=False,
    ),
    "task.never_yielded": Lint(
        Severity.WARNING,
        "`{name}` ran {age} in one step, without giving way",
        "One step took a second or more.",
    ),
    "task.orphan": Lint(
        Severity.NOTICE,
        "Nothing but the event loop refers to {tasks} of `{name}`: garbage collection may end {it} half-way",
        "No object refers to the task but the loop's weak set and what it waits for.",
        adds_up=False,
    ),
    "coroutine.never_awaited": Lint(
        Severity.WARNING,
        "`{name}` was called and never awaited, {times}",
        "A coroutine object was destroyed before its first step: its body never ran.",
    ),
    "task.exception_never_retrieved": Lint(
        Severity.WARNING,
        "{tasks} of `{name}` failed and nobody asked for the result, so the exception was lost",
        "The task was destroyed with an exception that nobody retrieved.",
    ),
}


def find_besides_blocks(window: Window) -> tuple[list[Finding], list[str]]:
    """As `find`, without the long steps of coroutines that loop.blocked tells of: it is the same event, with a path."""
    told = {each.name for each in window.observations.get(BLOCKED, ()) if each.value >= ONE_S}
    found = [
        finding
        for kind, lint in LINTS.items()
        for finding in _of_kind(window, kind, lint, told if kind == "task.never_yielded" else ())
    ]
    return found, []


def find(window: Window) -> tuple[list[Finding], list[str]]:
    """One per kind, name and place; value: the largest told."""
    return [finding for kind, lint in LINTS.items() for finding in _of_kind(window, kind, lint)], []


def _of_kind(window: Window, kind: str, lint: Lint, without: Collection[str] = ()) -> list[Finding]:
    groups: dict[tuple[str, object], list[Observation]] = {}
    for each in window.observations.get(kind, ()):
        if each.name not in without:
            place = place_of(window.places.path(each.stack), window.places.frame(each.frame))
            groups.setdefault((each.name, place), []).append(each)
    return [_finding(window, kind, lint, mine) for mine in groups.values()]


def _finding(window: Window, kind: str, lint: Lint, rows: Sequence[Observation]) -> Finding:
    last = rows[-1]
    path = window.places.path(last.stack)
    frame = place_of(path, window.places.frame(last.frame))
    count = sum(each.count for each in rows) if lint.adds_up else max(each.count for each in rows)
    value = max(each.value for each in rows)
    kinds = sorted({each.attributes["exception.type"] for each in rows if "exception.type" in each.attributes})
    sentence = lint.sentence.format(
        name=last.name,
        tasks=many(count, "task"),
        times=many(count, "time"),
        age=time_text(value),
        reason=last.attributes.get("reason") or "nothing else refers to what is awaited",
        it="it" if count == 1 else "them",
    )
    where = f" ({frame.file}:{frame.line})" if frame is not None else ""
    evidence = [Evidence("noticed", True, f"{lint.why} Told {many(len(rows), 'time')}.")]
    if reasons := sorted({each.attributes["reason"] for each in rows if "reason" in each.attributes}):
        suspected = any(each.attributes.get("suspected") == "true" for each in rows)
        doubt = " (suspected: it may yet be meant so)" if suspected else ""
        evidence.append(Evidence("reason", not suspected, f"{'; '.join(reasons[:4])}{doubt}."))
    if kinds:
        evidence.append(Evidence("exception", True, f"Exceptions: {', '.join(kinds[:8])}."))
    return Finding(
        kind=kind,
        severity=lint.severity,
        sentence=f"{sentence}{where}.",
        frame=frame,
        path=path,
        count=count,
        value=value,
        seen=span_of(rows[0].at_ns, last.at_ns),
        instance_ids=tuple(sorted({each.instance_id for each in rows})),
        evidence=tuple(evidence),
    )
