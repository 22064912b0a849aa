"""Event loops and their tasks, as one TasksSnapshot; and the observations a look at them gives rise to.

Imported only once there is a loop, for it imports asyncio, which an application without loops need not carry.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from types import CodeType

from .. import _threads
from .._guard import Guard
from ..wire.v1 import tasks_pb2
from .asyncio_objects import Kept, coroutine_of, task_references
from .definitions import Definer
from .loops import Loops, ready_callbacks
from .observations import Observation
from .operations import histogram
from .steps import Steps
from .tasks_lints import Fault, Lints
from .tasks_scan import BREATH_EVERY, Chain, Group, Look, Scanner

RECONCILED_AT_ONCE = 500
RECONCILED_MAX = 50_000
"""Of more tasks than that no list is made: the table of coroutines is smaller, and overflows by itself."""
FAULTS_MAX = 50
SPINNING_STEPS_MIN = 1000
"""Of one task."""


class Watch:
    """In the agent's thread."""

    def __init__(self, chain: Chain, steps: Steps, tasks_max: int, stuck_s: float, guard: Guard) -> None:
        self.loops = Loops(guard)
        self.tasks = self.examined = self.groups_dropped = self.suspects_dropped = 0
        self.scan_s = 0.0
        self._steps = steps
        self._scanner = Scanner(chain, tasks_max, stuck_s, random.Random())  # noqa: S311 - which tasks to look at
        self._lints = Lints(chain, stuck_s)
        self._look = Look()

    def snapshot(self, definer: Definer, at_ns: int) -> tuple[tasks_pb2.TasksSnapshot | None, list[Observation]]:
        """What there is now; None when no loop runs. The definitions are left to the definer."""
        began_s = time.thread_time()
        running = list(self.loops.running())
        if not running:
            self._look = Look()
            self.tasks = self.examined = 0
            return None, []
        look = self._look = self._scanner.look(
            {id(loop): i for i, (loop, _) in enumerate(running)}, self._steps.steps_of, [loop for loop, _ in running]
        )
        self.loops.meet([loop for loop in look.strangers.values() if loop.is_running()])
        look.strangers.clear()
        faults = self._lints.judge(look, time.monotonic_ns())
        self.tasks, self.examined = look.tasks, look.examined
        self.groups_dropped += look.groups_dropped
        self.suspects_dropped += look.suspects_dropped
        snapshot = tasks_pb2.TasksSnapshot(at_ns=at_ns, tasks=look.tasks, tasks_examined=look.examined)
        for i, (loop, beat) in enumerate(running):
            lag = beat.lag.take()
            ready = ready_callbacks(loop)
            ready_max, beat.ready_max = max(beat.ready_max, ready), -1
            snapshot.loops.add(
                id=beat.number,
                thread=beat.thread(),
                implementation=beat.implementation,
                lag=histogram(*lag[1:]),
                ready=ready,
                ready_max=ready_max,
                tasks=round(look.tasks_by_loop.get(i, 0) * look.scale),
            )
        add_groups(snapshot, look, definer)
        observations = told(faults, at_ns)
        self.scan_s += time.thread_time() - began_s
        return snapshot, observations

    def reconcile(self) -> int:
        """Tells the counter of steps which coroutines there still are; of those that are gone nobody told it how."""
        listed_ns = time.monotonic_ns()
        references = task_references(self.loops.open())
        if len(references) > RECONCILED_MAX:
            return 0
        kept = Kept()
        try:
            live: list[object] = []
            for i in range(0, len(references), RECONCILED_AT_ONCE):
                _threads.sleep(0)
                live += map(coroutine_of, kept.take_all(references[i : i + RECONCILED_AT_ONCE]))
            return self._steps.steps_reconcile(live, listed_ns)
        finally:
            live = []
            kept.let_go()

    def spinning_path(self, code: CodeType) -> list[tuple[CodeType, int]]:
        """Where a task of this coroutine function spins, as last looked at; [] when there is none."""
        for group in self._look.groups:
            if (
                group.path
                and group.path[-1][0] is code
                and group.steps >= SPINNING_STEPS_MIN * group.count
                and group.bare_yields * 2 > group.steps
            ):
                return group.path
        return []


def add_groups(snapshot: tasks_pb2.TasksSnapshot, look: Look, definer: Definer) -> None:
    """Adds groups and edges. Groups that differ only in instructions of one line become one."""
    rows: dict[tuple[int, tuple[int, ...], str, str], int] = {}
    row_of_group: list[int] = []
    sums: list[list[Group]] = []
    for i, group in enumerate(look.groups):
        if i % BREATH_EVERY == BREATH_EVERY - 1:
            _threads.sleep(0)
        path = tuple(definer.code(code, offset) for code, offset in group.path)
        if not path:
            path = (definer.frame(group.foreign, "", 0),)
        row = rows.setdefault((group.loop, path, group.state, group.awaits), len(rows))
        row_of_group.append(row)
        if row == len(sums):
            sums.append([])
        sums[row].append(group)
    for (loop, path, state, awaited), row in rows.items():
        groups = sums[row]
        count = sum(group.count for group in groups)
        snapshot.groups.add(
            loop=loop,
            path=path,
            state=state,
            awaits=awaited,
            count=scaled(count, look.scale),
            age_oldest_s=max(group.age_oldest_ns for group in groups) / 1e9,
            age_mean_s=sum(group.age_sum_ns for group in groups) / 1e9 / max(1, count),
            wait_longest_s=max(group.wait_longest_ns for group in groups) / 1e9,
            steps=scaled(sum(group.steps for group in groups), look.scale),
            busy_s=sum(group.busy_ns for group in groups) / 1e9 * look.scale,
            bare_yields=scaled(sum(group.bare_yields for group in groups), look.scale),
            task_name=groups[0].name,
        )
    edges: dict[tuple[int, int], int] = {}
    for (waiter, awaited_group), pairs in look.edges.items():
        edge = row_of_group[waiter], row_of_group[awaited_group]
        edges[edge] = edges.get(edge, 0) + pairs
    for (waiter, awaited_group), pairs in edges.items():
        snapshot.edges.add(waiter=waiter, awaited=awaited_group, count=scaled(pairs, look.scale))


def scaled(count: int, scale: float) -> int:
    return round(count * scale)


def told(faults: Iterable[Fault], at_ns: int) -> list[Observation]:
    """One observation per kind, place and reason, for all tasks alike."""
    alike: dict[tuple[str, int, str], list[Fault]] = {}
    for fault in faults:
        alike.setdefault((fault.kind, id(fault.suspect.group), fault.why), []).append(fault)
    observations = []
    for (kind, _, why), same in list(alike.items())[:FAULTS_MAX]:
        group = same[0].suspect.group
        if not group.path:
            continue
        attributes = {"awaits": group.awaits, "reason": why, "task.name": group.name}
        if any(fault.suspected for fault in same):
            attributes["suspected"] = "true"
        observations.append(
            Observation(
                at_ns,
                f"task.{kind}",
                group.path[-1][0].co_qualname,
                value=max(fault.suspect.wait_s for fault in same),
                count=len(same),
                path=group.path,
                attributes=attributes,
            )
        )
    return observations
