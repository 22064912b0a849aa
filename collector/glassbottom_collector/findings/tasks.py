"""task.leak: tasks that are created, wait at one place, and never end.

Two views of the same tasks are judged: by coroutine and place, and by coroutine alone. Tasks that change places while
they pile up are visible only in the second, which is told when the first says nothing of that coroutine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..leaks.wording import percent_text
from ..model.code import Frame
from ..model.finding import Finding, Severity
from ..model.leak import Evidence
from ..model.timing import TaskGroup, Tasks
from ..timing.places import Places, look_up, place_of
from .growth import Readings, growth_text
from .piling import Pile, Table, piles, settled
from .window import Window, span_of
from .wording import amount_text, at_text

KIND = "task.leak"
LEAST = 20.0
"""Fewer are the workers and background jobs of any service."""
IDLE_SHARE = 0.5
"""Tasks of which the longest wait is this part of the highest age have hardly run since: nobody wakes them."""


@dataclass(frozen=True)
class TaskKey:
    """What may pile up: tasks of a coroutine (qualified name and file), at one place or, when None, at any."""

    coroutine: str
    file: str
    place: Frame | None


def find(window: Window) -> tuple[list[Finding], list[str]]:
    """One per coroutine and place; value: tasks per second."""
    looks = window.reader.tasks(window.service, window.within, window.instance_id)
    places = look_up(
        window.reader,
        frames={frame for mine in looks.values() for look in mine for group in look.groups for frame in group.path},
    )
    tables = {instance: _table(window, instance, mine, places) for instance, mine in looks.items() if mine}
    least = {key: LEAST for table in tables.values() for key in table.keys}
    found, notes = piles(tables, least, "tasks")
    placed = {(pile.key.coroutine, pile.key.file) for pile in found if pile.key.place is not None}
    told = [pile for pile in found if pile.key.place is not None or (pile.key.coroutine, pile.key.file) not in placed]
    return [_finding(pile, looks, places) for pile in told], notes


def key_of(group: TaskGroup, places: Places) -> TaskKey:
    """Coroutine and place of a group of tasks."""
    path = places.along(group.path)
    outermost = path[-1] if path else Frame(group.task_name, "", 0)
    return TaskKey(outermost.function, outermost.file, place_of(path) or outermost)


def _table(window: Window, instance_id: str, looks: Sequence[Tasks], places: Places) -> Table[TaskKey]:
    at_ns = np.array([look.at_ns for look in looks], dtype=np.int64)
    kept = settled(at_ns, window, instance_id)
    columns: dict[TaskKey, int] = {}
    known: dict[tuple[tuple[int, ...], str], list[int]] = {}
    cells: list[tuple[int, int, float, float, float]] = []
    for row, index in enumerate(kept.tolist()):
        for group in looks[index].groups:
            name = (group.path, "" if group.path else group.task_name)
            if name not in known:
                key = key_of(group, places)
                anywhere = TaskKey(key.coroutine, key.file, None)
                known[name] = [columns.setdefault(each, len(columns)) for each in (key, anywhere)]
            for column in known[name]:
                cells.append((row, column, group.count, group.count * group.age_mean_s, group.age_oldest_s))
    shape = (len(kept), len(columns))
    counts, mass, oldest = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for row, column, count, age_mass, age_oldest in cells:
        counts[row, column] += count
        mass[row, column] += age_mass
        oldest[row, column] = max(oldest[row, column], age_oldest)
    at_ns = at_ns[kept]
    readings = Readings(at_ns / 1e9, counts, mass, oldest, partial(window.load, instance_id, at_ns))
    return Table(at_ns, tuple(columns), readings)


def _finding(pile: Pile[TaskKey], looks: Mapping[str, Sequence[Tasks]], places: Places) -> Finding:
    key, growth = pile.key, pile.growth
    groups = [
        group
        for instance in pile.instance_ids
        for group in looks[instance][-1].groups
        if (mine := key_of(group, places)) == key
        or (key.place is None and (mine.coroutine, mine.file) == (key.coroutine, key.file))
    ]
    largest = max(groups, key=lambda group: group.count, default=None)
    path = () if largest is None else places.along(largest.path)
    frame = key.place or place_of(path)
    idle = max((group.wait_longest_s / group.age_oldest_s for group in groups if group.age_oldest_s > 0), default=0.0)
    awaited = f" for {largest.awaits}" if largest is not None and largest.awaits else ""
    return Finding(
        kind=KIND,
        severity=Severity.WARNING if idle >= IDLE_SHARE else Severity.NOTICE,
        sentence=(
            f"{amount_text(growth.last)} tasks of `{key.coroutine}` wait{awaited}{at_text(frame)} and ever more do: "
            f"{growth_text(growth)}."
        ),
        frame=frame,
        path=path,
        count=round(growth.last),
        value=growth.rate.per_second,
        seen=span_of(pile.first_ns, pile.last_ns),
        instance_ids=pile.instance_ids,
        evidence=(
            *growth.evidence,
            Evidence(
                "idle",
                idle >= IDLE_SHARE,
                f"The longest wait is {percent_text(min(idle, 1.0))} of the highest age: "
                f"{'nobody wakes them' if idle >= IDLE_SHARE else 'they still run now and then'}.",
            ),
        ),
    )
