"""Looks at every task of every loop, within a budget, and groups those that wait at the same place.

In the agent's thread, while the loops run: a task may go on, end or vanish between two lines. So only a few tasks are
held at a time and not for long, and nothing of the application's is compared, called or printed. The last owner of a
task destroys it, and its coroutine's `finally` runs where that happens: should that be us, it is handed to its loop.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import _threads
from . import awaits
from .asyncio_objects import (
    Kept,
    is_done_future,
    name_of,
    read,
    task_references,
    waiting_for,
)
from .steps import Steps6

BUDGET_S = 0.025
"""CPU time of one look; what was seen until then is scaled up."""
BREATH_EVERY = 50
GROUPS_MAX = 1000
SUSPECTS_MAX = 500
STRANGERS_MAX = 8
LOCK_SUSPECT_S = 1.0
"""Whoever waits for a lock longer than this: who holds it is looked up."""
NAME_CHARACTERS_MAX = 255

CREATED, SUSPENDED, RUNNING, FINISHED = range(4)
Reference = Callable[[], Any]
Chain = Callable[..., tuple[bytes, list[awaits.Place], object, int]]


class Group:
    """Tasks of one loop that wait at the same place."""

    __slots__ = (
        "age_oldest_ns",
        "age_sum_ns",
        "awaits",
        "bare_yields",
        "busy_ns",
        "count",
        "foreign",
        "loop",
        "name",
        "path",
        "state",
        "steps",
        "wait_longest_ns",
    )

    def __init__(self, loop: int, path: list[awaits.Place], state: str, awaited: str, name: str, foreign: str) -> None:
        self.loop, self.path, self.state, self.awaits, self.name = loop, path, state, awaited, name
        self.foreign = foreign
        """Qualified name of a coroutine that is not Python's own, whose place is not known."""
        self.count = self.steps = self.busy_ns = self.bare_yields = 0
        self.age_oldest_ns = self.age_sum_ns = self.wait_longest_ns = 0


@dataclass(frozen=True)
class Suspect:
    """A task that has waited for long."""

    task: Reference
    group: Group
    wait_s: float


@dataclass
class Look:
    """What one look saw. scale: how many tasks one that was examined stands for. strangers: loops of tasks that are not
    among those looked at."""

    groups: list[Group] = field(default_factory=list)
    edges: dict[tuple[int, int], int] = field(default_factory=dict)
    tasks_by_loop: dict[int, int] = field(default_factory=dict)
    suspects: list[Suspect] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    tasks: int = 0
    examined: int = 0
    scale: float = 1.0
    groups_dropped: int = 0
    suspects_dropped: int = 0
    strangers: dict[int, Any] = field(default_factory=dict)
    group_of_task: dict[int, int] = field(default_factory=dict)


class Scanner:
    """Remembers from look to look only how long tasks wait that nobody has counted steps of."""

    def __init__(
        self, chain: Chain, tasks_max: int, stuck_s: float, rng: random.Random, budget_s: float = BUDGET_S
    ) -> None:
        self._chain = chain
        self._tasks_max = tasks_max
        self._stuck_s = stuck_s
        self._rng = rng
        self._budget_s = budget_s
        self._sights: dict[int, tuple[Reference, int, int, int]] = {}
        self._seen: dict[int, tuple[Reference, int, int, int]] = {}

    def look(self, loops: dict[int, int], steps_of: Callable[[object], Steps6 | None], running: Iterable[Any]) -> Look:
        """loops: from id() of a loop that runs to its index; running: those loops."""
        look = Look(tasks_by_loop=dict.fromkeys(loops.values(), 0))
        references = task_references(running)
        stride = -(-len(references) // self._tasks_max) or 1
        picked = references[self._rng.randrange(stride) :: stride] if stride > 1 else references
        building = _Building(look, loops, steps_of, self)
        looked_at = 0
        kept = Kept()
        for reference in breathing(picked, self._budget_s):
            looked_at += 1
            task = kept.take(reference)
            if task is not None:
                building.add(task, reference)
            if looked_at % BREATH_EVERY == 0:
                task = None
                kept.let_go()
        task = None
        kept.let_go()
        look.scale = max(1.0, len(references) / looked_at) if looked_at else 1.0
        look.tasks = round(look.examined * look.scale)
        look.references = picked[:looked_at]
        building.connect()
        # What was not come by this time, for lack of budget, is still waiting for all we know.
        self._sights = self._seen if look.scale == 1.0 else (self._sights | self._seen)
        if len(self._sights) > 4 * self._tasks_max:
            self._sights = self._seen
        self._seen = {}
        return look

    def sight(self, task: Any, reference: Reference, waiter: Any, now_ns: int) -> tuple[int, int]:
        """(first seen, waiting for this future since) of a task whose steps are not known."""
        known = self._sights.get(id(task))
        first_ns = since_ns = now_ns
        if known is not None and known[0]() is task:
            first_ns = known[1]
            if known[2] == id(waiter):
                since_ns = known[3]
        self._seen[id(task)] = (reference, first_ns, id(waiter), since_ns)
        return first_ns, since_ns


class _Building:
    def __init__(
        self, look: Look, loops: dict[int, int], steps_of: Callable[[object], Steps6 | None], scanner: Scanner
    ) -> None:
        self._look, self._loops, self._steps_of, self._scanner = look, loops, steps_of, scanner
        self._chain = scanner._chain
        self._stuck_ns = int(scanner._stuck_s * 1e9)
        self._suspect_ns = int(min(LOCK_SUSPECT_S, scanner._stuck_s) * 1e9)
        self._index: dict[tuple[int, bytes | str, str, type], int] = {}
        self._waiting: dict[int, list[int]] = {}
        self._by_task: list[tuple[int, int]] = []
        self._by_future: list[tuple[int, int]] = []
        # Keeps the code objects of each group alive, as long as keys stand for them.
        self._places: list[list[awaits.Place]] = []

    def add(self, task: Any, reference: Reference) -> None:
        look = self._look
        its_loop, done, coroutine, waiter = read(task)
        loop = self._loops.get(id(its_loop))
        if loop is None:
            if not done and len(look.strangers) < STRANGERS_MAX:
                look.strangers[id(its_loop)] = its_loop
            return
        if done:
            return
        now_ns = time.monotonic_ns()
        key, places, _, chain_state = self._chain(coroutine)
        # The usual case first; state_of() knows the others.
        state = "waiting" if chain_state == SUSPENDED and waiter is not None else ""
        if state == "" or is_done_future(waiter):
            state = state_of(chain_state, waiter, foreign=not places)
            if state == "":
                return
        look.examined += 1
        look.tasks_by_loop[loop] += 1
        whole = (loop, key, state, type(waiter)) if places else (loop, foreign_name(coroutine), state, type(waiter))
        at = self._index.get(whole)
        if at is None:
            if len(look.groups) >= GROUPS_MAX:
                look.groups_dropped += 1
                return
            at = self._index[whole] = self._new_group(loop, places, state, waiter, task, coroutine)
        group = look.groups[at]
        look.group_of_task[id(task)] = at
        known = self._steps_of(coroutine)
        if known is not None:
            first_ns, _, since_ns, steps, bare_yields, busy_ns = known
            group.steps += steps
            group.busy_ns += busy_ns
            group.bare_yields += bare_yields
            if since_ns == 0:
                since_ns = first_ns
        else:
            first_ns, since_ns = self._scanner.sight(task, reference, waiter, now_ns)
        age_ns = now_ns - first_ns
        group.count += 1
        group.age_sum_ns += age_ns
        if age_ns > group.age_oldest_ns:
            group.age_oldest_ns = age_ns
        if state == "waiting":
            self._waiting.setdefault(id(waiter), []).append(at)
            wait_ns = now_ns - since_ns
            if wait_ns > group.wait_longest_ns:
                group.wait_longest_ns = wait_ns
            if wait_ns >= self._suspect_ns and (group.awaits == awaits.LOCK or wait_ns >= self._stuck_ns):
                if len(look.suspects) >= SUSPECTS_MAX:
                    look.suspects_dropped += 1
                else:
                    look.suspects.append(Suspect(reference, group, wait_ns / 1e9))
        if task._callbacks is not None:
            tasks, futures = waiting_for(task)
            self._by_task += [(id(waiting), at) for waiting in tasks]
            self._by_future += [(id(future), at) for future in futures]

    def connect(self) -> None:
        """Edges from those who wait to those they wait for."""
        look = self._look
        for waiting, at in self._by_task:
            waiter = look.group_of_task.get(waiting)
            if waiter is not None:
                look.edges[waiter, at] = look.edges.get((waiter, at), 0) + 1
        for future, at in self._by_future:
            for waiter in self._waiting.get(future, ()):
                look.edges[waiter, at] = look.edges.get((waiter, at), 0) + 1

    def _new_group(
        self, loop: int, places: list[awaits.Place], state: str, waiter: Any, task: Any, coroutine: Any
    ) -> int:
        path, awaited = places, ""
        if state == "waiting" or state == "ready":
            path, awaited = awaits.own(places), awaits.name(places, waiter)
        foreign = "" if places else foreign_name(coroutine)
        self._look.groups.append(Group(loop, path, state, awaited, name_of(task)[:NAME_CHARACTERS_MAX], foreign))
        self._places.append(places)
        return len(self._look.groups) - 1


def state_of(chain_state: int, waiter: Any, *, foreign: bool) -> str:
    """What a task does; "" for one that is just ending."""
    if chain_state == FINISHED and not foreign:
        return ""
    if chain_state == CREATED:
        return "created"
    if chain_state == RUNNING:
        return "running"
    if waiter is None or is_done_future(waiter):
        return "ready"
    return "waiting"


def foreign_name(coroutine: Any) -> str:
    """Of a coroutine compiled by Cython: those have a name, and reading it runs no code of the application."""
    kind = type(coroutine)
    if kind.__module__.startswith("_cython"):
        with contextlib.suppress(AttributeError):
            return str(coroutine.__qualname__)
    return f"{kind.__module__}.{kind.__qualname__}"


def breathing(references: list[Reference], budget_s: float) -> Iterator[Reference]:
    """All of them, with the GIL offered now and then, until so much CPU time of this thread is used."""
    end_s = time.thread_time() + budget_s
    for i, reference in enumerate(references):
        if i % BREATH_EVERY == BREATH_EVERY - 1:
            _threads.sleep(0)
            if time.thread_time() > end_s:
                return
        yield reference
