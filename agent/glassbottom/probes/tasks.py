"""What event loops do: the steps of coroutines, how late loops are, what every task waits for, and what is wrong.

Four sources meet in each reading, all in the agent's thread: the counter of steps (steps.py), heartbeats in the loops
(loops.py), a look at all tasks (tasks_watch.py), and what Python itself complains of (tasks_hooks.py). What blocks a
loop while it does is watched by the threads of the profile probe; it is told here, because it is about steps.

Nothing is imported of asyncio until there is a loop.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any

from .._clock import Clock
from .._config import AsyncioConfig
from .._greenlets import library_replaced
from .._guard import Guard
from ..transport.queue import BatchQueue
from ..wire.v1 import ingest_pb2
from . import ProbeState, tasks_hooks
from .definitions import Definer
from .observations import Observation
from .operations import COROUTINE, STEP, Key, OperationsProbe, Sums
from .thread_names import thread_name

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from .._native import BlockRow, StepRow
    from .steps import Steps
    from .tasks_watch import Watch

STREAM = int(ingest_pb2.STREAM_TASKS)
NEVER_YIELDED_NS = 1_000_000_000
SPINNING_STEPS_MIN = 1000
SPINNING_STEP_NS_MAX = 1_000_000
"""A coroutine whose steps are longer on average works between its yields, and yields so as to be polite."""

Place = tuple[str, str, int]


class TasksProbe:
    """Loops and tasks, every interval_s."""

    name = "tasks"

    def __init__(
        self,
        config: AsyncioConfig,
        queue: BatchQueue,
        clock: Clock,
        guard: Guard,
        operations: OperationsProbe,
        observe: Callable[[Observation], None],
        steps: Steps | None = None,
    ) -> None:
        """steps: None counts natively, or in Python where that is refused."""
        self.interval_s = config.interval_s
        self._config = config
        self._queue = queue
        self._clock = clock
        self._guard = guard
        self._operations = operations
        self._observe = observe
        self._steps = steps
        self._native: Any = None
        self._definer = Definer()
        self._watch: Watch | None = None
        self._state = ProbeState("stopped", "The agent is stopped.")

    # Life

    def start(self) -> None:
        reason = library_replaced()
        if reason is not None:
            self._state = ProbeState("refused", reason)
            return
        try:
            from .. import _native
        except ImportError as error:
            self._state = ProbeState("refused", f"The native part of glassbottom cannot be imported: {error}.")
            return
        self._native = _native
        self._state = ProbeState("running")
        if self._steps is None:
            try:
                _native.steps_start()
                self._steps = _native
            except RuntimeError as error:
                from .steps import HandleSteps

                self._steps = HandleSteps()
                self._steps.steps_start()
                self._state = ProbeState("running", f"Only steps of asyncio's own loops are counted. {error}")
        else:
            self._steps.steps_start()
        tasks_hooks.install()
        if "asyncio" in sys.modules:
            # What the agent's thread needs is imported here, where the application waits: a fork in the middle of an
            # import would leave the child waiting for it.
            from . import tasks_watch  # noqa: F401

    def stop(self, timeout_s: float) -> None:  # noqa: ARG002 - as every probe's
        """Timers of heartbeats end by themselves within a quarter of a second; nothing is waited for."""
        if self._watch is not None:
            self._watch.loops.end()
        if self._steps is not None and self._state.state == "running":
            self._steps.steps_stop()
            tasks_hooks.remove()
            self._state = ProbeState("stopped", "The agent is stopped.")

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        self._definer.welcomed(store_id, store_changed)

    # Reading, in the agent's thread

    def read(self) -> None:
        steps = self._steps
        if steps is None or self._state.state != "running":
            return
        reason = library_replaced()
        if reason is not None:  # loaded after us
            self.stop(0.0)
            self._state = ProbeState("refused", reason)
            return
        at_ns = self._clock.time_ns()
        self._read_tasks(steps, at_ns)
        operations: dict[Key, Sums] = {}
        for row in steps.steps_take():
            for key, sums in _operations(row):
                known = operations.get(key)
                operations[key] = sums if known is None else merged(known, sums)
            self._lint_steps(row, at_ns)
        for key, sums in operations.items():
            self._operations.add(key, sums)
        for block in steps.blocks_take():
            self._observe(_blocked(block, self._native.label_name))
        for code, count in tasks_hooks.take_unawaited().items():
            self._observe(
                Observation(at_ns, "coroutine.never_awaited", code.co_qualname, count=count, place=_place(code))
            )
        for failure, count in tasks_hooks.take_failures().items():
            self._observe(
                Observation(
                    at_ns,
                    "task.exception_never_retrieved",
                    failure.path[-1][0].co_qualname if failure.path else failure.exception,
                    count=count,
                    path=failure.path,
                    attributes={"exception.type": failure.exception},
                )
            )

    def _read_tasks(self, steps: Steps, at_ns: int) -> None:
        met = steps.steps_loops()
        if self._watch is None:
            if not met:
                return
            from .tasks_watch import Watch

            config = self._config
            self._watch = Watch(self._native.await_chain, steps, config.scan_tasks_max, config.stuck_s, self._guard)
        watch = self._watch
        watch.loops.meet(met)
        snapshot, observations = watch.snapshot(self._definer, at_ns)
        if snapshot is not None:
            self._definer.put(self._queue, STREAM, snapshot, rows=len(snapshot.groups))
        for observation in observations:
            self._observe(observation)
        watch.reconcile()

    def _lint_steps(self, row: StepRow, at_ns: int) -> None:
        code, steps, bare_yields, busy_ns, _, _, step_ns_max, _ = row
        place = _place(code)
        if step_ns_max >= NEVER_YIELDED_NS:
            self._observe(
                Observation(at_ns, "task.never_yielded", code.co_qualname, value=step_ns_max / 1e9, place=place)
            )
        spins = steps >= SPINNING_STEPS_MIN and bare_yields * 2 > steps and busy_ns < steps * SPINNING_STEP_NS_MAX
        path = self._watch.spinning_path(code) if spins and self._watch is not None else []
        if path:
            self._observe(
                Observation(
                    at_ns,
                    "task.spinning",
                    code.co_qualname,
                    value=busy_ns / 1e9,
                    count=bare_yields,
                    path=path,
                    attributes={"steps": str(steps)},
                )
            )

    # How it is

    def known_loops(self) -> list[AbstractEventLoop]:
        """Loops that were met and are not gone. From any thread."""
        return self._watch.loops.known() if self._watch is not None else []

    def state(self) -> ProbeState:
        return self._state

    def statistics(self) -> Mapping[str, float]:
        if self._steps is None or self._state.state != "running":
            return {}
        native, watch = self._steps.steps_statistics(), self._watch
        numbers: dict[str, float] = {
            "async_steps_total": native["steps"],
            "async_coroutines": native["coroutines"],
            "async_coroutines_max": native["coroutines_max"],
            "async_coroutines_dropped_total": native["coroutines_dropped"],
            "async_functions": native["functions"],
            "async_functions_max": native["functions_max"],
            "async_functions_dropped_total": native["functions_dropped"],
            "async_loops_dropped_total": native.get("loops_dropped", 0),
        }
        if watch is not None:
            numbers["async_loops"] = len(watch.loops)
            numbers["async_loops_dropped_total"] += watch.loops.dropped
            numbers["async_heartbeats_total"] = watch.loops.beats()
            numbers["async_tasks"] = watch.tasks
            numbers["async_tasks_examined"] = watch.examined
            numbers["async_groups_dropped_total"] = watch.groups_dropped
            numbers["async_suspects_dropped_total"] = watch.suspects_dropped
            numbers["async_scan_seconds_total"] = watch.scan_s
        return numbers


def _operations(row: StepRow) -> Iterator[tuple[Key, Sums]]:
    """Steps, and lives by how they ended. Code objects of one place, made again and again, have the same key."""
    code, steps, bare_yields, busy_ns, offset, counts, step_ns_max, ended = row
    place = _place(code)
    if steps:
        # The shortest is not counted; it is in the first bucket.
        shortest_ns = max(1, min(step_ns_max, int(2.0 ** (offset / 16) * 1e9)))
        yield (
            Key(STEP, code.co_qualname, place=place),
            Sums(steps, busy_ns, shortest_ns, step_ns_max, offset, counts, busy_ns=busy_ns, bare_yields=bare_yields),
        )
    for status, count, lifetime_ns, busy, min_ns, max_ns, ended_offset, ended_counts in ended:
        yield (
            Key(COROUTINE, code.co_qualname, status=status, place=place),
            Sums(count, lifetime_ns, min_ns, max_ns, ended_offset, ended_counts, busy_ns=busy),
        )


def merged(one: Sums, other: Sums) -> Sums:
    """Both together."""
    offset = min(one.offset, other.offset)
    counts: list[int] = []
    for each in (one, other):
        first = each.offset - offset
        for i, number in enumerate(memoryview(each.counts).cast("I"), first):
            counts += [0] * (i + 1 - len(counts))
            counts[i] += number
    return Sums(
        one.count + other.count,
        one.duration_ns + other.duration_ns,
        min(one.min_ns, other.min_ns),
        max(one.max_ns, other.max_ns),
        offset,
        array("I", counts).tobytes(),
        busy_ns=one.busy_ns + other.busy_ns,
        bare_yields=one.bare_yields + other.bare_yields,
    )


def _place(code: CodeType) -> Place:
    return code.co_qualname, code.co_filename, code.co_firstlineno


def _blocked(block: BlockRow, label_name: Callable[[int], str]) -> Observation:
    at_ns, thread_id, code, duration_ns, stack, gil_held, late, ended, label = block
    return Observation(
        at_ns,
        "loop.blocked",
        code.co_qualname,
        value=duration_ns / 1e9,
        place=_place(code),
        path=stack,
        label=label_name(label) if label else "",
        attributes={
            "thread.name": thread_name(thread_id),
            "gil_held": _yes(gil_held),
            "late": _yes(late),
            "ended": _yes(ended),
        },
    )


def _yes(condition: bool) -> str:
    return "true" if condition else "false"
