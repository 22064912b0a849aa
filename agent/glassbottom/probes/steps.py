"""Where the steps of coroutines are counted: in C, or, where that is refused, around asyncio's Handle._run.

The native counter sees every loop and every task. HandleSteps is for interpreters whose coroutine type another tool has
changed already: it costs a Python call per callback, sees asyncio's own loops only (uvloop runs its callbacks itself)
and takes no stacks of what blocks. Its answers have the shapes of the native ones.
"""

from __future__ import annotations

import asyncio.events
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, MethodType
from typing import TYPE_CHECKING, Any, Protocol

from .asyncio_objects import cancelled, coroutine_of, exception_of, is_done, is_task, waiter_of
from .durations import Durations

if TYPE_CHECKING:
    from .._native import BlockRow, StepRow

FUNCTIONS_MAX = 1000
COROUTINES_MAX = 10_000
LOOPS_KEPT = 256

Steps6 = tuple[int, int, int, int, int, int]


class Steps(Protocol):
    """The functions of glassbottom._native that begin with steps_, and blocks_take()."""

    def steps_start(self) -> None: ...

    def steps_stop(self) -> None: ...

    def steps_take(self) -> list[StepRow]: ...

    def steps_of(self, coroutine: object, /) -> Steps6 | None: ...

    def steps_reconcile(self, live: list[object], listed_ns: int = ..., /) -> int: ...

    def steps_loops(self) -> list[object]: ...

    def steps_statistics(self) -> dict[str, int]: ...

    def blocks_take(self) -> list[BlockRow]: ...


class _Function:
    __slots__ = ("bare_yields", "code", "ended", "longest_ns", "steps")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.bare_yields = self.longest_ns = 0
        self.steps = Durations()
        self.ended: dict[str, tuple[Durations, list[int]]] = {}


class _Coroutine:
    __slots__ = ("bare_yields", "busy_ns", "end_ns", "first_ns", "function", "reference", "start_ns", "steps")

    def __init__(self, coroutine: Any, function: _Function, now_ns: int) -> None:
        self.reference = weakref.ref(coroutine)
        self.function = function
        self.first_ns = now_ns
        self.start_ns = self.end_ns = self.steps = self.bare_yields = self.busy_ns = 0


_original: Callable[[asyncio.events.Handle], None] = asyncio.events.Handle._run
_sink: HandleSteps | None = None


def _run(handle: asyncio.events.Handle) -> None:
    """Instead of Handle._run, while a HandleSteps counts."""
    sink = _sink
    task = _task_stepped(getattr(handle, "_callback", None)) if sink is not None else None
    if sink is None or task is None or sink.pid != os.getpid():
        return _original(handle)
    start_ns = time.monotonic_ns()
    _original(handle)
    try:
        sink.stepped(task, handle, start_ns, time.monotonic_ns())
    except Exception:  # noqa: BLE001 - nothing of ours may reach the loop; it is counted
        sink.errors += 1


def _task_stepped(callback: object) -> Any:
    """The task this callback resumes, or None."""
    kind = type(callback)
    if kind is BuiltinFunctionType or kind is MethodType or kind.__name__ == "TaskStepMethWrapper":
        task = callback.__self__  # type: ignore[attr-defined]
        if is_task(task) and (kind.__name__ == "TaskStepMethWrapper" or _name(callback) in _STEPS):
            return task
    return None


_STEPS = ("task_wakeup", "__step", "__wakeup")


def _name(callback: Any) -> str:
    return str(callback.__name__)


class HandleSteps:
    """Steps, counted in Python. In the loops' threads, but for what the agent asks."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.errors = 0
        self._functions: dict[int, _Function] = {}
        self._coroutines: dict[int, _Coroutine] = {}
        self._loops: deque[weakref.ref[Any]] = deque(maxlen=LOOPS_KEPT)
        self._loops_seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._steps = self._dropped = self._functions_dropped = self._thrown = 0

    def steps_start(self) -> None:
        global _original, _sink
        if asyncio.events.Handle._run is not _run:
            _original = asyncio.events.Handle._run
            asyncio.events.Handle._run = _run  # type: ignore[method-assign, assignment]
        _sink = self

    def steps_stop(self) -> None:
        global _sink
        if _sink is self:
            _sink = None
            if asyncio.events.Handle._run is _run:  # else somebody has wrapped it since, and it passes through
                asyncio.events.Handle._run = _original  # type: ignore[method-assign, assignment]

    def stepped(self, task: Any, handle: Any, start_ns: int, end_ns: int) -> None:
        """One step of a task has ended."""
        self._steps += 1
        loop = handle._loop
        if loop not in self._loops_seen:
            self._loops_seen.add(loop)
            self._loops.append(weakref.ref(loop))
        coroutine = coroutine_of(task)
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        if type(code) is not CodeType:
            return
        known = self._known(coroutine, code, start_ns)
        if known is None:
            return
        busy_ns = end_ns - start_ns
        function = known.function
        function.steps.record(busy_ns)
        function.longest_ns = max(function.longest_ns, busy_ns)
        known.start_ns, known.end_ns = start_ns, end_ns
        known.steps += 1
        known.busy_ns += busy_ns
        if is_done(task):
            failed = exception_of(task) is not None
            self._end(known, "cancelled" if cancelled(task) else "error" if failed else "ok")
            self._coroutines.pop(id(coroutine), None)
        elif waiter_of(task) is None:
            known.bare_yields += 1
            function.bare_yields += 1

    # In the agent's thread.

    def steps_take(self) -> list[StepRow]:
        rows: list[StepRow] = []
        for function in list(self._functions.values()):
            steps = function.steps.take()
            ended = []
            for status, (lifetimes, busy) in list(function.ended.items()):
                taken = lifetimes.take()
                if taken.number:
                    busy_ns, busy[0] = busy[0], 0
                    ended.append((status, taken.number, taken.sum_ns, busy_ns, *taken[2:]))
            if steps.number or ended:
                bare_yields, function.bare_yields = function.bare_yields, 0
                longest_ns, function.longest_ns = function.longest_ns, 0
                rows.append((function.code, steps.number, bare_yields, steps.sum_ns, *steps[4:], longest_ns, ended))
        return rows

    def steps_of(self, coroutine: object, /) -> Steps6 | None:
        found = self._coroutines.get(id(coroutine))
        if found is None or found.reference() is not coroutine:
            return None
        return found.first_ns, found.start_ns, found.end_ns, found.steps, found.bare_yields, found.busy_ns

    def steps_reconcile(self, live: list[object], listed_ns: int = 1 << 63, /) -> int:
        alive = set(map(id, live))
        ended = 0
        for key, found in list(self._coroutines.items()):
            if key not in alive and found.start_ns < listed_ns and self._coroutines.pop(key, None) is not None:
                self._end(found, "thrown")
                ended += 1
        self._thrown += ended
        return ended

    def steps_loops(self) -> list[object]:
        loops = []
        while self._loops:
            loop = self._loops.popleft()()
            if loop is not None:
                loops.append(loop)
        return loops

    def steps_statistics(self) -> dict[str, int]:
        return {
            "state": 0,
            "steps": self._steps,
            "coroutines": len(self._coroutines),
            "coroutines_max": COROUTINES_MAX,
            "coroutines_dropped": self._dropped,
            "functions": len(self._functions),
            "functions_max": FUNCTIONS_MAX,
            "functions_dropped": self._functions_dropped,
            "thrown": self._thrown,
        }

    def blocks_take(self) -> list[BlockRow]:
        return []

    def _known(self, coroutine: Any, code: CodeType, now_ns: int) -> _Coroutine | None:
        found = self._coroutines.get(id(coroutine))
        if found is not None and found.reference() is coroutine:
            return found
        function = self._functions.get(id(code))
        if function is None:
            if len(self._functions) >= FUNCTIONS_MAX:
                self._functions_dropped += 1
                return None
            function = self._functions[id(code)] = _Function(code)
        if found is None and len(self._coroutines) >= COROUTINES_MAX:
            self._dropped += 1
            return None
        found = self._coroutines[id(coroutine)] = _Coroutine(coroutine, function, now_ns)
        return found

    def _end(self, known: _Coroutine, status: str) -> None:
        lifetimes, busy = known.function.ended.setdefault(status, (Durations(), [0]))
        lifetimes.record(known.end_ns - known.first_ns)
        busy[0] += known.busy_ns
